package helm

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/releases"
	"github.com/vault-operator/vault-operator/internal/workload"
)

func newTranslator(t *testing.T, deployed string) *translator {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme)
	if deployed != "" {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "example", Annotations: map[string]string{v1alpha1.VersionAnnotation: deployed},
		}}
		builder = builder.WithObjects(deployment)
	}
	api := builder.Build()
	return &translator{
		namespace: "operators", client: api, cache: api, apiReader: api, records: &releases.Store{}, clock: clock.RealClock{},
		inputs: &references.Inputs{Cache: api, APIReader: api},
	}
}

func TestCheckVersion(t *testing.T) {
	const now, before = 7, 6
	tests := []struct {
		name     string
		version  string
		allowed  bool
		data     string
		observed int64
		deployed string
		// refused is for good, waits is until the status is newer.
		refused, waits bool
	}{
		{name: "a new Vault", version: "1.21.0"},
		{name: "an upgrade", version: "1.21.1", data: "1.21.0", observed: before, deployed: "1.21.0"},
		{name: "nothing new", version: "1.21.0", data: "1.21.0", observed: now, deployed: "1.21.0"},
		{name: "a downgrade", version: "1.21.0", data: "1.21.1", observed: now, deployed: "1.21.1", refused: true},
		{
			name: "a downgrade by an older status", version: "1.21.0", data: "1.21.1", observed: before,
			deployed: "1.21.1", refused: true,
		},
		{
			name: "a downgrade that is allowed", version: "1.21.0", allowed: true, data: "1.21.1", observed: before,
			deployed: "1.21.1",
		},
		{name: "back from an upgrade", version: "1.21.0", data: "1.21.0", observed: now, deployed: "1.21.1"},
		{
			name: "back, by an older status", version: "1.21.0", data: "1.21.0", observed: before, deployed: "1.21.1",
			waits: true,
		},
		{name: "back, before anything was active", version: "1.21.0", observed: before, deployed: "1.99.0", waits: true},
		{name: "another change, by an older status", version: "1.21.0", data: "1.21.0", observed: before, deployed: "1.21.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vault := &v1alpha1.Vault{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", Generation: now},
				Spec:       v1alpha1.VaultSpec{Version: tt.version, AllowDowngrade: tt.allowed},
				Status:     v1alpha1.VaultStatus{DataVersion: tt.data, ObservedGeneration: tt.observed},
			}
			err := newTranslator(t, tt.deployed).checkVersion(t.Context(), vault)
			if (problem.In(err) != nil) != tt.refused {
				t.Errorf("refused: %v", err)
			}
			if waits := err != nil && strings.Contains(err.Error(), "waiting until the status"); waits != tt.waits ||
				(err != nil) != (tt.refused || tt.waits) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestTranslate(t *testing.T) {
	vault := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{
			"namespace": "default", "name": "example", "uid": "vault-uid", "generation": int64(12345678),
		},
		"spec": map[string]any{"version": "1.21.0", "allowDowngrade": true,
			"initialization": map[string]any{"rootToken": "PGP"}, "unseal": map[string]any{"keysSecretName": "keys"},
			"operatorLogin": map[string]any{"enabled": true}},
	}}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	values, err := newTranslator(t, "").Translate(t.Context(), vault)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"version": "1.21.0", "generation": "12345678", "operated": true, "operatorNamespace": "operators",
		"openshift": false, "ipv6": false, "ipv6Services": false,
		"minReadySeconds": int64(5),
		"storage":         map[string]any{"etcd": map[string]any{"version": v1alpha1.DefaultEtcdVersion}},
		"images":          map[string]any{}, "ownerUID": "vault-uid",
		"tlsKeys": map[string]any{"cert": "server.crt", "key": "server.key", "ca": "vault-client-ca.crt"},
	}
	for key, value := range want {
		if !reflect.DeepEqual(values[key], value) {
			t.Errorf("%s is %v, want %v", key, values[key], value)
		}
	}
	if len(values) != len(want) {
		t.Errorf("values %v", values)
	}
	if _, kept := vault.Object["spec"].(map[string]any)["allowDowngrade"]; !kept {
		t.Error("the spec itself was changed")
	}
}

// Nothing is deployed that no client could verify.
func TestTranslateRefusesExpiredCertificates(t *testing.T) {
	vault := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": "default", "name": "example", "uid": "vault-uid"},
		"spec":     map[string]any{"version": "1.21.0"},
	}}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	translator := newTranslator(t, "")
	if _, err := translator.Translate(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	translator.clock = testclock.NewFakePassiveClock(time.Now().AddDate(11, 0, 0))
	_, err := translator.Translate(t.Context(), vault)
	if wrong := problem.In(err); wrong == nil || wrong.Reason != v1alpha1.ReasonCertificateExpired {
		t.Errorf("error %v", err)
	}
}

// What a user configures is in no value, and so in none of Helm's records.
func TestTranslateNamesTheConfigurationOnly(t *testing.T) {
	vault := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": "default", "name": "example", "uid": "vault-uid"},
		"spec":     map[string]any{"configMapName": "mine", "configSecretName": "secret"},
	}}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	translator := newTranslator(t, "")
	for _, object := range []client.Object{
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mine"},
			Data:       map[string]string{"vault.hcl": `ui = "MARKER"`},
		},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "secret"},
			Data:       map[string][]byte{"vault.hcl": []byte(`x = "MARKER"`)},
		},
	} {
		if err := translator.client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	values, err := translator.Translate(t.Context(), vault)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(encoded), "MARKER") {
		t.Errorf("the values hold the configuration: %s", encoded)
	}
	config := values["configSecret"].(map[string]any)
	if keys := config["keys"]; !reflect.DeepEqual(keys, []any{"configmap.hcl", "secret.hcl"}) {
		t.Errorf("keys %v", keys)
	}
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: "default", Name: config["name"].(string)}
	if err := translator.client.Get(t.Context(), key, &secret); err != nil {
		t.Error(err)
	}
	for _, field := range []string{"configMapName", "configSecretName", "config"} {
		if value, found := values[field]; found {
			t.Errorf("%s is %v", field, value)
		}
	}
}

// The values of a seal have no content of a Secret, and tell the chart where the CA is.
func TestTranslateSeal(t *testing.T) {
	ca, err := certs.NewCA("root", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	seal := map[string]any{"transit": map[string]any{
		"address": "https://root:8200", "keyName": "example", "credentialsSecretName": "token", "caSecretName": "ca",
	}}
	vault := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": "default", "name": "example", "uid": "vault-uid"},
		"spec":     map[string]any{"seal": seal},
	}}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	translator := newTranslator(t, "")
	if _, err := translator.Translate(t.Context(), vault); err == nil || !strings.Contains(err.Error(),
		`Secret "token" does not exist`) {
		t.Errorf("without its Secret: %v", err)
	}
	for name, data := range map[string]map[string][]byte{"token": {"token": []byte("hvs.MARKER")},
		"ca": {"vault-client-ca.crt": ca.Cert}} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
		if err := translator.client.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	values, err := translator.Translate(t.Context(), vault)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(values["seal"], seal) || values["sealKey"] != "transit:transit/keys/example" ||
		values["sealCAKey"] != "vault-client-ca.crt" {
		t.Errorf("the values are %v", values)
	}
	encoded, err := json.Marshal(values)
	if err != nil || strings.Contains(string(encoded), "MARKER") || strings.Contains(string(encoded), "CERTIFICATE") {
		t.Errorf("the values hold what is in the Secrets: %s, %v", encoded, err)
	}

	// The data of an initialized Vault is bound to its seal.
	vault.Object["status"] = map[string]any{"initialized": true, "seal": map[string]any{"type": "shamir"}}
	if _, err := translator.Translate(t.Context(), vault); err == nil || !strings.Contains(err.Error(),
		"moved to another seal") {
		t.Errorf("from Shamir to transit: %v", err)
	}
}

// Nodes of an external storage without a lock have all ended before one with a lock is made,
// however often the Vault is reconciled meanwhile.
func TestNodesWithoutLockEndFirst(t *testing.T) {
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
	deployment := func(sharable string, strategy appsv1.DeploymentStrategyType) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "example", UID: "deployment", Annotations: map[string]string{
					v1alpha1.SharableStorageAnnotation: sharable, workload.RevisionAnnotation: "2",
				}},
			Spec: appsv1.DeploymentSpec{Strategy: appsv1.DeploymentStrategy{Type: strategy}},
		}
	}
	isController := true
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "example-new", Labels: map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: "new"},
		Annotations:     map[string]string{workload.RevisionAnnotation: "2"},
		OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", UID: "deployment", Controller: &isController}},
	}}
	maps.Copy(set.Labels, vault.PodLabels())
	pod := func(revision string, phase corev1.PodPhase) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "example-" + revision, Labels: map[string]string{
				appsv1.DefaultDeploymentUniqueLabelKey: revision,
			}}, Status: corev1.PodStatus{Phase: phase}}
		maps.Copy(pod.Labels, vault.PodLabels())
		return pod
	}
	unacted := deployment("true", appsv1.RecreateDeploymentStrategyType)
	unacted.Generation = 2
	for name, tt := range map[string]struct {
		objects []client.Object
		want    bool
	}{
		"nothing runs": {},
		"those that run have none": {[]client.Object{
			deployment("false", appsv1.RecreateDeploymentStrategyType), set, pod("new", corev1.PodRunning)}, true},
		"one that has none runs still": {[]client.Object{
			deployment("true", appsv1.RecreateDeploymentStrategyType), set, pod("old", corev1.PodRunning)}, true},
		"the change is not acted on": {[]client.Object{unacted, set, pod("new", corev1.PodRunning)}, true},
		"all that had none have ended": {[]client.Object{
			deployment("true", appsv1.RecreateDeploymentStrategyType), set, pod("new", corev1.PodRunning),
			pod("old", corev1.PodFailed)}, false},
		"all had one before": {[]client.Object{
			deployment("true", appsv1.RollingUpdateDeploymentStrategyType), set, pod("old", corev1.PodRunning)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tt.objects...).Build()
			if got, err := runsWithoutLock(t.Context(), c, vault); err != nil || got != tt.want {
				t.Errorf("%v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestRelatedImages(t *testing.T) {
	t.Setenv("RELATED_IMAGE_VAULT_1_21_0", "mirror.example.com/vault@sha256:1210")
	t.Setenv("RELATED_IMAGE_ETCD_3_6_16", "mirror.example.com/etcd@sha256:3616")
	spec := func(image, version, etcdImage, etcdVersion string) v1alpha1.VaultSpec {
		return v1alpha1.VaultSpec{BaseImage: image, Version: version, Storage: v1alpha1.StorageSpec{
			Etcd: &v1alpha1.EtcdStorage{BaseImage: etcdImage, Version: etcdVersion},
		}}
	}
	for name, tt := range map[string]struct {
		spec v1alpha1.VaultSpec
		want map[string]any
	}{
		"the defaults": {
			spec(v1alpha1.DefaultBaseImage, "1.21.0", v1alpha1.DefaultEtcdBaseImage, "3.6.16"),
			map[string]any{"vault": "mirror.example.com/vault@sha256:1210", "etcd": "mirror.example.com/etcd@sha256:3616"},
		},
		"the default image of a version": {
			spec(v1alpha1.DefaultBaseImage, "1.21.1", "", "3.6.16"),
			map[string]any{"etcd": "mirror.example.com/etcd@sha256:3616"},
		},
		"other versions": {
			spec(v1alpha1.DefaultBaseImage, "1.21.1", v1alpha1.DefaultEtcdBaseImage, "3.6.17"), map[string]any{},
		},
		"other images": {spec("example.com/vault", "1.21.0", "example.com/etcd", "3.6.16"), map[string]any{}},
	} {
		if got := relatedImages(&v1alpha1.Vault{Spec: tt.spec}); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestProxiesAreAddresses(t *testing.T) {
	for text, good := range map[string]bool{
		"10.0.0.1": true, "10.0.0.0/8": true, "fd00::/8": true, "::1": true,
		"10.0.0.0/99": false, "300.0.0.0/8": false, "1.2.3": false, "abc": false, "dead:80": false, "fd00::/200": false,
		"": false,
	} {
		vault := &v1alpha1.Vault{
			Spec: v1alpha1.VaultSpec{
				Listener: &v1alpha1.ListenerPolicy{XForwardedForAuthorizedAddrs: []string{"10.0.0.1", text}},
			},
		}
		err := checkProxies(vault)
		if good && err != nil {
			t.Errorf("%q is refused: %v", text, err)
		}
		if !good && (err == nil || !strings.Contains(err.Error(), "spec.listener.xForwardedForAuthorizedAddrs[1]")) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

// Pods keep others away for as long as they run, whatever the spec says by then.
func TestNoSurgeBesidePodsThatKeepOthersAway(t *testing.T) {
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
	onRaft := vault.DeepCopy()
	onRaft.Spec.Storage.Raft = &v1alpha1.RaftStorage{}
	terms := []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname}}
	required := &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
	preferred := &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
		{Weight: 1, PodAffinityTerm: terms[0]},
	}}
	for name, tt := range map[string]struct {
		vault *v1alpha1.Vault
		pods  []*corev1.Affinity
		want  map[string]any
	}{
		"no pods":            {vault, nil, map[string]any{}},
		"pods anywhere":      {vault, []*corev1.Affinity{nil, {}, {PodAntiAffinity: preferred}}, map[string]any{}},
		"one is of before":   {vault, []*corev1.Affinity{nil, {PodAntiAffinity: required}}, map[string]any{"noSurge": true}},
		"integrated storage": {onRaft, []*corev1.Affinity{{PodAntiAffinity: required}}, map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			translator, values := newTranslator(t, ""), map[string]any{}
			for i, affinity := range tt.pods {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
					Namespace: "default", Name: strconv.Itoa(i), Labels: tt.vault.PodLabels(),
				}, Spec: corev1.PodSpec{Affinity: affinity}}
				if err := translator.client.Create(t.Context(), pod); err != nil {
					t.Fatal(err)
				}
			}
			// One that was evicted keeps nobody away.
			evicted := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "evicted", Labels: tt.vault.PodLabels(),
			}, Spec: corev1.PodSpec{Affinity: &corev1.Affinity{PodAntiAffinity: required}},
				Status: corev1.PodStatus{Phase: corev1.PodFailed}}
			if err := translator.client.Create(t.Context(), evicted); err != nil {
				t.Fatal(err)
			}
			err := setNoSurge(t.Context(), translator.client, tt.vault, values)
			if err != nil || !reflect.DeepEqual(values, tt.want) {
				t.Errorf("values %v, error %v", values, err)
			}
		})
	}
}
