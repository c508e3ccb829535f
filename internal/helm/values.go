package helm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/operator-framework/helm-operator-plugins/pkg/values"
	"helm.sh/helm/v3/pkg/chartutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/releases"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
	"github.com/vault-operator/vault-operator/internal/vaultconfig"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// identityMapper maps the translated values to themselves.
var identityMapper = values.MapperFunc(func(v chartutil.Values) chartutil.Values { return v })

// translator turns the spec of a Vault into the values of the chart.
//
// It is also the gate before everything that runs: while the version, the user's
// configuration or certificates cannot be used, or the names of the Vault are taken,
// it fails, the release is not changed, and the running Vault is not touched. The
// reconciler is called again when the spec or one of the objects that it names has
// changed.
type translator struct {
	client client.Client
	// cache has the metadata of Secrets as well, which the client does not look up
	// in it.
	cache client.Reader
	// apiReader reads from the API server.
	apiReader client.Reader
	// inputs reads and checks what users bring, and certificates.
	inputs *references.Inputs
	// openshift says that the cluster is OpenShift, where security context
	// constraints choose users and groups. It is found out once: a discovery that
	// fails now and then would replace all pods.
	openshift bool
	// ipv6 says that pods have addresses of IPv6 first, and ipv6Services that Services have.
	ipv6, ipv6Services bool

	clock clock.PassiveClock
	// records tells of a foreign release.
	records *releases.Store
	// namespace is the operator's own.
	namespace string
}

// stepDownTime is how long a rollout pauses when an updated node is ready, so that the operator
// can have the active node step down before it is deleted. Vault itself keeps a node that has
// stepped down from becoming active again for 10 seconds, so that an old one, which is deleted
// within these, does not take over from an updated one.
// https://developer.hashicorp.com/vault/docs/upgrade#ha-installations
const stepDownTime = 5 * time.Second

// Translate returns the values: the spec without the fields that only this gate uses,
// the name of the Secret with the user's configuration, and what the chart has to know
// beside the spec.
func (t *translator) Translate(ctx context.Context, obj *unstructured.Unstructured) (chartutil.Values, error) {
	var vault v1alpha1.Vault
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &vault); err != nil {
		return nil, err
	}
	if err := t.check(ctx, &vault); err != nil {
		return nil, err
	}
	sealCAKey, oldSealCAKey, err := seal.CAKeys(ctx, t.apiReader, &vault)
	if err != nil {
		return nil, err
	}
	config, err := vaultconfig.Load(ctx, t.apiReader, &vault)
	if err != nil {
		return nil, err
	}
	// Certificates come first, so that no pod has to wait for a Secret to mount.
	clients := certs.Clients{Client: t.client, Cache: t.cache, APIReader: t.apiReader, Clock: t.clock}
	made, err := certs.Ensure(ctx, clients, &vault)
	if err != nil {
		return nil, err
	}
	material, err := t.inputs.Certificates(ctx, &vault, made...)
	if err != nil {
		return nil, err
	}
	if _, err := material.Check(t.clock.Now()); err != nil {
		return nil, err
	}
	configSecret, err := vaultconfig.EnsureSecret(ctx, t.client, t.cache, t.apiReader, &vault, config)
	if err != nil {
		return nil, err
	}
	if err := vaultconfig.KeepConfigMap(ctx, t.client, t.cache, t.apiReader, &vault); err != nil {
		return nil, err
	}
	spec, _, err := unstructured.NestedMap(obj.Object, "spec")
	if err != nil {
		return nil, err
	}
	delete(spec, "configMapName")
	delete(spec, "configSecretName")
	delete(spec, "allowDowngrade")
	delete(spec, "initialization")
	delete(spec, "unseal")
	delete(spec, "operatorLogin")
	if vault.HasOperatorLogin() {
		spec["minReadySeconds"] = int64(stepDownTime / time.Second)
	}
	if configSecret.Name != "" {
		spec["configSecret"] = map[string]any{"name": configSecret.Name, "keys": toAny(configSecret.Keys)}
	}
	spec["tlsKeys"] = map[string]any{"cert": material.Keys.Cert, "key": material.Keys.Key, "ca": material.Keys.CA}
	if err := setSeals(spec, &vault, sealCAKey, oldSealCAKey); err != nil {
		return nil, err
	}
	if err := t.setStorage(ctx, spec, &vault, config); err != nil {
		return nil, err
	}
	spec["images"] = relatedImages(&vault)
	spec["ownerUID"] = string(vault.UID)
	spec["generation"] = strconv.FormatInt(vault.Generation, 10)
	spec["operated"] = true
	spec["operatorNamespace"] = t.namespace
	setIsolation(spec, &vault)
	spec["openshift"] = t.openshift
	spec["ipv6"], spec["ipv6Services"] = t.ipv6, t.ipv6Services
	return spec, errors.Join(setNoSurge(ctx, t.client, &vault, spec), storage.SetPlacement(ctx, t.client, &vault, spec))
}

// setIsolation closes a Vault that proves a backup to all but the operator and its Jobs.
func setIsolation(spec map[string]any, vault *v1alpha1.Vault) {
	if vault.OfProof() {
		spec["isolated"] = true
	}
}

// setStorage sets what the chart has to know of the storage beside the spec, and the version of
// etcd in both.
func (t *translator) setStorage(
	ctx context.Context, spec map[string]any, vault *v1alpha1.Vault, config vaultconfig.Config,
) error {
	if vault.HasExternal() {
		return t.setExternal(ctx, spec, vault, config)
	}
	if vault.HasEtcd() {
		etcd := vault.EtcdSpec()
		var err error
		if etcd.Version, err = storage.EtcdVersion(ctx, t.client, vault); err != nil {
			return err
		}
		vault.Spec.Storage.Etcd = &etcd
		return unstructured.SetNestedField(spec, etcd.Version, "storage", "etcd", "version")
	}
	running, err := storage.RunningNodes(ctx, t.client, vault)
	if err == nil && running != vault.WantedNodes() {
		spec["runningNodes"] = int64(running)
	}
	return err
}

// setSeals sets the values of the seal, and of the one that the data is moved from.
func setSeals(spec map[string]any, vault *v1alpha1.Vault, caKey, oldCAKey string) error {
	if vault.Spec.Seal != nil {
		spec["sealKey"], spec["sealCAKey"] = vault.Spec.Seal.Key(), caKey
	}
	// That the data was bound to Shamir's keys is nothing to configure, and pods need not be
	// replaced when the migration is over.
	delete(spec, "sealMigration")
	old := vault.OldSeal()
	if old == nil {
		return nil
	}
	policy, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	spec["oldSeal"], spec["oldSealCAKey"] = policy, oldCAKey
	return err
}

// setExternal sets the values of an external storage: whether nodes agree on the active one by
// a lock, and whether those that run do not, which must have ended before others start.
func (t *translator) setExternal(
	ctx context.Context, spec map[string]any, vault *v1alpha1.Vault, config vaultconfig.Config,
) error {
	unlocked, err := runsWithoutLock(ctx, t.client, vault)
	if err != nil {
		return err
	}
	external := map[string]any{
		"type": vault.Spec.Storage.External.Type, "highAvailability": config.Sharable(vault),
	}
	if unlocked {
		external["recreate"] = true
	}
	spec["storage"] = map[string]any{"external": external}
	return nil
}

// runsWithoutLock says that nodes may run that do not agree on the active one by a lock: those
// of a Deployment whose storage has none, and of one that is rolled out now and whose storage had none.
func runsWithoutLock(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (bool, error) {
	living, err := workload.GetWithRevision(ctx, reader, vault)
	if err != nil || living == nil {
		return false, err
	}
	if living.GetAnnotations()[v1alpha1.SharableStorageAnnotation] != "true" {
		return true, nil
	}
	if !living.Recreates() {
		return false, nil
	}
	nodes, err := pods.List(ctx, reader, vault)
	return slices.ContainsFunc(nodes, func(pod corev1.Pod) bool {
		return !pods.Ended(&pod) && !living.Updated(&pod)
	}), err
}

// setNoSurge says that no updated pod may fit beside those that run. These keep others away as long as they run,
// also when the spec does not require that any more.
// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity
func setNoSurge(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, spec map[string]any) error {
	if vault.HasRaft() { // never has one more
		return nil
	}
	nodes, err := pods.List(ctx, reader, vault)
	if slices.ContainsFunc(nodes, func(pod corev1.Pod) bool {
		affinity := pod.Spec.Affinity
		return !pods.Ended(&pod) && affinity != nil && affinity.PodAntiAffinity != nil &&
			len(affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0
	}) {
		spec["noSurge"] = true
	}
	return err
}

// check refuses what would harm what runs, and what cannot be deployed. Certificates are
// checked when those that are missing are made.
func (t *translator) check(ctx context.Context, vault *v1alpha1.Vault) error {
	if err := t.checkName(vault); err != nil {
		return err
	}
	if err := t.checkVersion(ctx, vault); err != nil {
		return err
	}
	if err := checkProxies(vault); err != nil {
		return err
	}
	if err := storage.Check(ctx, t.client, vault); err != nil {
		return err
	}
	if err := t.inputs.Gate(ctx, vault); err != nil {
		return err
	}
	return seal.CheckChange(ctx, t.client, vault)
}

func toAny(list []string) []any {
	result := make([]any, 0, len(list))
	for _, item := range list {
		result = append(result, item)
	}
	return result
}

// relatedImages are the images to use in place of the default ones. Where the default
// registries cannot be reached, whoever installs the operator sets them in its
// environment, by version. OLM calls them related images.
// https://sdk.operatorframework.io/docs/olm-integration/generation/#digest-pinning-and-image-references
func relatedImages(vault *v1alpha1.Vault) map[string]any {
	images := map[string]any{}
	add := func(name, image, defaultImage, version string, digest v1alpha1.ImageDigest) {
		variable := "RELATED_IMAGE_" + strings.ToUpper(name) + "_" + strings.NewReplacer(".", "_", "-", "_").Replace(version)
		if related := os.Getenv(variable); related != "" && image == defaultImage && digest == "" {
			images[name] = related
		}
	}
	add("vault", vault.Spec.BaseImage, v1alpha1.DefaultBaseImage, vault.Spec.Version, vault.Spec.ImageDigest)
	if etcd := vault.Spec.Storage.Etcd; etcd != nil {
		image := cmp.Or(etcd.BaseImage, v1alpha1.DefaultEtcdBaseImage)
		add("etcd", image, v1alpha1.DefaultEtcdBaseImage, etcd.Version, etcd.ImageDigest)
	}
	return images
}

// checkName refuses a Vault whose objects would have the names of what is not
// its own. The rest is for Helm to refuse, object by object.
func (t *translator) checkName(vault *v1alpha1.Vault) error {
	if vault.Namespace == metav1.NamespaceDefault && vault.Name == "kubernetes" {
		return errors.New(`the Service "kubernetes" of the namespace "default" is the API server's: ` +
			"give the Vault another name")
	}
	return t.records.Check(vault.UID)
}

// checkProxies refuses what is no address and no CIDR. Vault would take 10.0.0.0/99 for the
// path of a socket, and refuse every request that comes by a proxy.
func checkProxies(vault *v1alpha1.Vault) error {
	if vault.Spec.Listener == nil {
		return nil
	}
	for i, text := range vault.Spec.Listener.XForwardedForAuthorizedAddrs {
		_, err := netip.ParseAddr(text)
		if strings.Contains(text, "/") {
			_, err = netip.ParsePrefix(text)
		}
		if err != nil {
			return fmt.Errorf("spec.listener.xForwardedForAuthorizedAddrs[%d] is neither an IP address "+
				"nor a CIDR such as 10.0.0.0/8: %q", i, text)
		}
	}
	return nil
}

// checkVersion refuses a version that may not be able to read Vault's data. On the
// way back from an upgrade it also waits for a status that is newer than the
// spec: an older one does not tell whether a node of the upgrade became active.
func (t *translator) checkVersion(ctx context.Context, vault *v1alpha1.Vault) error {
	if err := vaultversion.Check(&vault.Spec, vault.Status.DataVersion); err != nil {
		return err
	}
	if vault.Spec.AllowDowngrade || vault.Status.ObservedGeneration == vault.Generation {
		return nil
	}
	living, err := workload.Get(ctx, t.client, vault)
	if err != nil || living == nil {
		return err
	}
	if deployed := living.Version(); vaultversion.Lower(vault.Spec.Version, deployed) {
		return fmt.Errorf("spec.version %s is lower than the deployed %s: "+
			"waiting until the status tells whether a node has been active with that", vault.Spec.Version, deployed)
	}
	return nil
}
