// Package chart tests what the chart renders, without a cluster.
package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

const (
	chartDir = "../../helm-charts/vault"
	crdFile  = "../../config/crd/bases/vault.security.coreos.com_vaults.yaml"
)

// rendered are the objects of a release, decoded strictly: a field that
// Kubernetes does not know is an error.
type rendered struct {
	vault                appsv1.Deployment
	etcd                 appsv1.StatefulSet
	service, etcdService corev1.Service
	config, seal         corev1.Secret
	budgets              []policyv1.PodDisruptionBudget
	secrets              []corev1.Secret
	account              corev1.ServiceAccount
}

type release struct {
	values    string
	name      string
	openshift bool
	// kubernetes is the version of the API server; by default a recent one.
	kubernetes string
	// unchecked renders what the schema of the values refuses.
	unchecked bool
	// existing are the Secrets and StatefulSets that are there already.
	existing []runtime.Object
}

// lookup is what templates look up.
type lookup struct{ dynamic.Interface }

func (l lookup) GetClientFor(_, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	if kind == "StatefulSet" {
		return l.Resource(appsv1.SchemeGroupVersion.WithResource("statefulsets")), true, nil
	}
	return l.Resource(corev1.SchemeGroupVersion.WithResource("secrets")), true, nil
}

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r release) manifests(t *testing.T) (map[string]string, error) {
	t.Helper()
	values := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(r.values), &values); err != nil {
		t.Fatal(err)
	}
	if r.name == "" {
		r.name = "example"
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	if r.kubernetes != "" {
		capabilities.KubeVersion = chartutil.KubeVersion{Version: r.kubernetes}
	}
	if r.openshift {
		capabilities.APIVersions = append(capabilities.APIVersions, "security.openshift.io/v1")
	}
	c := loadChart(t)
	options := chartutil.ReleaseOptions{Name: r.name, Namespace: "default", IsInstall: true}
	all, err := chartutil.ToRenderValuesWithSchemaValidation(c, values, options, capabilities, r.unchecked)
	if err != nil {
		return nil, err
	}
	existing := dynamicfake.NewSimpleDynamicClient(clientgoscheme.Scheme, r.existing...)
	return engine.RenderWithClientProvider(c, all, lookup{existing})
}

func (r release) render(t *testing.T) rendered {
	t.Helper()
	files, err := r.manifests(t)
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(clientgoscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var out rendered
	for name, content := range files {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		for document := range strings.SplitSeq(content, "\n---\n") {
			// What has no kind is the empty space around a document.
			if !strings.Contains(document, "kind:") {
				continue
			}
			object, _, err := decoder.Decode([]byte(document), nil, nil)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, document)
			}
			out.add(object)
		}
	}
	return out
}

func (r *rendered) add(object runtime.Object) {
	switch o := object.(type) {
	case *corev1.ServiceAccount:
		if o.Labels[v1alpha1.ComponentLabel] == v1alpha1.ServerComponent {
			r.account = *o
		}
	case *appsv1.Deployment:
		r.vault = *o
	case *appsv1.StatefulSet:
		r.etcd = *o
	case *corev1.Secret:
		switch _, isSeal := o.Data["seal.hcl"]; {
		case o.Labels[v1alpha1.ConfigLabel] == "":
			r.secrets = append(r.secrets, *o)
		case isSeal:
			r.seal = *o
		default:
			r.config = *o
		}
	case *policyv1.PodDisruptionBudget:
		r.budgets = append(r.budgets, *o)
	case *corev1.Service:
		switch {
		case o.Spec.ClusterIP == corev1.ClusterIPNone:
		case o.Labels[v1alpha1.ComponentLabel] == v1alpha1.EtcdComponent:
			r.etcdService = *o
		default:
			r.service = *o
		}
	}
}

func TestLint(t *testing.T) {
	result := lint.All(chartDir, map[string]any{}, "default", true)
	for _, message := range result.Messages {
		if message.Severity > support.InfoSev {
			t.Errorf("%v", message)
		}
	}
}

// TestDefaultsAreTheResources checks that values.yaml says what the API server
// fills in, and what the operator takes for the defaults of etcd.
func TestDefaultsAreTheResources(t *testing.T) {
	content, err := os.ReadFile(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(content, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	want := defaults(t, &spec).(map[string]any)
	want["config"], want["generation"], want["operated"], want["imagePullSecrets"] = "", "", false, []any{}
	want["images"], want["ownerUID"], want["ipv6"], want["ipv6Services"] = map[string]any{}, "", false, false
	want["operatorNamespace"], want["isolated"] = "", false
	want["sealKey"], want["sealCAKey"], want["minReadySeconds"] = "", "ca.crt", 0
	want["runningNodes"] = 0
	want["configSecret"] = map[string]any{"name": "", "keys": []any{}}
	want["tlsKeys"] = map[string]any{"cert": v1alpha1.ServerCertKey, "key": v1alpha1.ServerKeyKey,
		"ca": v1alpha1.ClientCAKey}
	// Helm would mix these with what is set, so the template has them.
	delete(want["pod"].(map[string]any), "resources")
	want["storage"] = map[string]any{"etcd": map[string]any{
		"nodes": (&v1alpha1.Vault{}).WantedMembers(), "version": v1alpha1.DefaultEtcdVersion,
		"baseImage": v1alpha1.DefaultEtcdBaseImage, "volumeSize": v1alpha1.DefaultEtcdVolumeSize,
		"lockTimeoutSeconds": 13, "whenDeleted": v1alpha1.RetainData,
	}}
	got := loadChart(t).Values
	if !reflect.DeepEqual(roundTrip(t, got), roundTrip(t, want)) {
		t.Errorf("values.yaml has\n%v\nand the resource's defaults are\n%v", got, want)
	}
}

// Whose pods may reach etcd beside its own and Vault's is said by the operator.
func TestOperatorReachesEtcd(t *testing.T) {
	for values, want := range map[string]bool{`operated: true`: false, `operatorNamespace: operators`: true} {
		files, err := release{values: values}.manifests(t)
		if err != nil {
			t.Fatal(err)
		}
		policy := files["vault/templates/etcd/networkpolicy.yaml"]
		if strings.Contains(policy, `kubernetes.io/metadata.name: "operators"`) != want ||
			strings.Contains(policy, "app.kubernetes.io/name: vault-operator\n") != want {
			t.Errorf("%s: %s", values, policy)
		}
	}
}

// Nobody reaches a copy of a Vault that has the tokens of that one.
func TestIsolated(t *testing.T) {
	for values, want := range map[string]bool{`{}`: true, `{isolated: true, operatorNamespace: operators}`: false} {
		files, err := release{values: values}.manifests(t)
		if err != nil {
			t.Fatal(err)
		}
		policy := files["vault/templates/server/networkpolicy.yaml"]
		if open := strings.Contains(policy, "  - ports:\n    - port: 8200\n"); open != want ||
			strings.Contains(policy, `kubernetes.io/metadata.name: "operators"`) == want ||
			strings.Contains(policy, "app.kubernetes.io/component: backup\n") == want {
			t.Errorf("%s: %s", values, policy)
		}
	}
}

// A rollout pauses before it deletes a pod only where the operator can use that, and no pod is
// another for it.
func TestMinReadySeconds(t *testing.T) {
	without, with := release{}.render(t).vault, release{values: "minReadySeconds: 5"}.render(t).vault
	if without.Spec.MinReadySeconds != 0 || with.Spec.MinReadySeconds != 5 {
		t.Errorf("minReadySeconds is %d, and %d when it is set", without.Spec.MinReadySeconds, with.Spec.MinReadySeconds)
	}
	if !reflect.DeepEqual(without.Spec.Template, with.Spec.Template) {
		t.Error("the pods are others")
	}
}

// defaults is what the API server makes of an empty value.
func defaults(t *testing.T, schema *apiextensionsv1.JSONSchemaProps) any {
	t.Helper()
	var value any
	if schema.Default != nil {
		if err := json.Unmarshal(schema.Default.Raw, &value); err != nil {
			t.Fatal(err)
		}
	}
	object, ok := value.(map[string]any)
	if !ok {
		return value
	}
	for name, property := range schema.Properties {
		if given, ok := object[name].(map[string]any); ok && len(given) == 0 {
			property.Default = &apiextensionsv1.JSON{Raw: []byte("{}")}
			delete(object, name)
		}
		if _, given := object[name]; !given {
			if d := defaults(t, &property); d != nil {
				object[name] = d
			}
		}
	}
	return object
}

func roundTrip(t *testing.T, value any) any {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.NewDecoder(bytes.NewReader(encoded)).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Where each pod keeps the others off its Kubernetes node there may be no room for one more.
func TestRolloutNeedsNoRoomWhereThereMayBeNone(t *testing.T) {
	const term = `[{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/name: vault}}}]`
	for values, surge := range map[string]int{
		`{operated: true, pod: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: ` + term +
			`}}}}`: 0,
		`{operated: true, pod: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: ` + term +
			`}}}}`: 1,
		`{operated: true, pod: {affinity: {podAntiAffinity: {}}}}`: 1,
		`{operated: true, noSurge: true}`:                          0,
	} {
		rolling := release{values: values}.render(t).vault.Spec.Strategy.RollingUpdate
		if rolling.MaxSurge.IntValue() != surge || rolling.MaxUnavailable.IntValue() != 1-surge {
			t.Errorf("%s: %v", values, rolling)
		}
	}
}

// What is set of the resources is all that a container has; what is not set is the default
// of the resource.
func TestResources(t *testing.T) {
	for values, want := range map[string][2]string{
		``: {`{"requests":{"cpu":"100m","memory":"256Mi"}}`, `{"requests":{"cpu":"100m","memory":"128Mi"}}`},
		`{pod: {resources: {limits: {cpu: 50m}}}, storage: {etcd: {resources: {limits: {memory: 1Gi}}}}}`: {
			`{"limits":{"cpu":"50m"}}`, `{"limits":{"memory":"1Gi"}}`},
		`{pod: {resources: {}}, storage: {etcd: {resources: {}}}}`: {`{}`, `{}`},
	} {
		out := release{values: values}.render(t)
		for i, container := range []corev1.Container{out.vault.Spec.Template.Spec.Containers[0],
			out.etcd.Spec.Template.Spec.Containers[0]} {
			got, err := json.Marshal(container.Resources)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want[i] {
				t.Errorf("%s: container %s has %s, want %s", values, container.Name, got, want[i])
			}
		}
	}
}

// An address of IPv6 is in brackets wherever a port follows.
func TestIPv6(t *testing.T) {
	for values, want := range map[string][]string{
		`{operated: true}`: {"https://0.0.0.0:2379", "https://0.0.0.0:2380", "http://0.0.0.0:2381",
			"https://$(POD_IP):8201"},
		`{operated: true, ipv6: true}`: {"https://[::]:2379", "https://[::]:2380", "http://[::]:2381",
			"https://[$(POD_IP)]:8201"},
		`{operated: true, ipv6Services: true}`: {"https://[::]:2379", "https://[::]:2380", "http://[::]:2381",
			"https://$(POD_IP):8201"},
	} {
		out := release{values: values}.render(t)
		text := strings.Join(out.etcd.Spec.Template.Spec.Containers[0].Command, "\n")
		for _, env := range out.vault.Spec.Template.Spec.Containers[0].Env {
			text += "\n" + env.Value
		}
		for _, address := range want {
			if !strings.Contains(text, address) {
				t.Errorf("%s: no %s in\n%s", values, address, text)
			}
		}
	}
}

func TestEdgeValues(t *testing.T) {
	for name, r := range map[string]release{
		"defaults, plain":    {},
		"defaults, operated": {values: `operated: true`},
		"one node":           {values: `{operated: true, nodes: 1, storage: {etcd: {nodes: 1}}}`},
		"many nodes":         {values: `{operated: true, nodes: 99, storage: {etcd: {nodes: 7}}}`},
		"long name":          {values: `operated: true`, name: strings.Repeat("a", 40)},
		"OpenShift":          {values: `operated: true`, openshift: true},
		"own certificates":   {values: `{operated: true, tls: {static: {serverSecret: s, clientSecret: c}}}`},
		"plain, own certs":   {values: `{tls: {static: {serverSecret: s, clientSecret: c}}}`},
		"registry with a port": {
			values: `{operated: true, baseImage: "localhost:5000/vault", imagePullSecrets: [{name: a}]}`},
		"pod policy": {values: `{operated: true, pod: {priorityClassName: p, nodeSelector: {a: "true"}, labels: {b: "1"},
			annotations: {c: "{\"x\": 1}"}, tolerations: [{key: k, operator: Exists}],
			topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}],
			affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {
				nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}},
			resources: {limits: {cpu: 1}}}}`},
		"volumes": {
			values: `{operated: true, storage: {etcd: {volumeSize: 10Gi, storageClassName: fast, whenDeleted: Delete}}}`},
		"audit volume": {values: `{operated: true, audit: {volumeSize: 20Gi, storageClassName: fast}}`},
		"nasty config": {values: "operated: true\nconfig: |\n  a = \"{{ x }}\\\"'\"\n  b = <<EOF\n   : - # %\n  EOF\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out := r.render(t)
			requireRestricted(t, &out.vault.Spec.Template.Spec, r.openshift)
			requireRestricted(t, &out.etcd.Spec.Template.Spec, r.openshift)
			rolling := out.vault.Spec.Strategy.RollingUpdate
			if rolling.MaxUnavailable.IntValue() != 0 || rolling.MaxSurge.IntValue() != 1 {
				t.Errorf("a rollout takes nodes away before new ones are unsealed: %v", rolling)
			}
			if len(out.budgets) != 2 {
				t.Errorf("%d disruption budgets, want one for Vault and one for etcd", len(out.budgets))
			}
			operated := strings.Contains(r.values, "operated: true")
			if _, selects := out.service.Spec.Selector[v1alpha1.ActiveLabel]; selects != operated {
				t.Errorf("the Service selects %v", out.service.Spec.Selector)
			}
			if out.service.Spec.PublishNotReadyAddresses {
				t.Error("the Service sends clients to nodes that are not ready (hashicorp/vault-helm#817)")
			}
			if operated && len(out.secrets) > 0 {
				t.Error("with an operator the chart makes no certificates")
			}
			first, _ := r.manifests(t)
			if again, _ := r.manifests(t); operated && !reflect.DeepEqual(first, again) {
				t.Error("two renders differ, so the release would be upgraded for ever")
			}
			if !operated && len(out.secrets) == 0 {
				t.Error("without an operator only the chart can make certificates")
			}
		})
	}
}

// A name that YAML would take for a number or a truth value is a name.
func TestNamesAreNames(t *testing.T) {
	for _, name := range []string{"2024", "1e3", "true", "on", "no", "null", "y"} {
		const common = `operated: true, operatorNamespace: "NAME", ownerUID: "1", kubernetesAuth: {enabled: true},
			configSecret: {name: "NAME", keys: ["on"]}, tlsKeys: {cert: "on", key: "off", ca: "no"},
			seal: {transit: {address: "https://root:8200", keyName: "NAME", credentialsSecretName: "NAME",
				caSecretName: "NAME"}},
			tls: {static: {serverSecret: "NAME", clientSecret: "NAME"}}`
		for _, more := range []string{
			`storage: {etcd: {tls: {static: {serverSecret: "NAME", clientSecret: "NAME"}}}}`, `storage: {raft: {}}, nodes: 3`,
			`storage: {external: {type: postgresql, configSecretName: "NAME", highAvailability: true}}`,
		} {
			values := strings.ReplaceAll("{"+common+", "+more+"}", "NAME", name)
			out := release{name: name, values: values, unchecked: true}.render(t)
			if out.service.Name != name || out.account.Name != name {
				t.Errorf("%s: Service %q, ServiceAccount %q", name, out.service.Name, out.account.Name)
			}
		}
	}
}

// When one of the Secrets with certificates is gone nothing takes the place of the other one, whose CA is
// what runs verifies by.
func TestHalfOfTheCertificatesIsLeft(t *testing.T) {
	for secret, says := range map[string]string{
		"example-default-vault-server-tls": `"example-default-vault-client-tls" is gone`,
		"example-etcd-client-tls":          `"example-etcd-server-tls" and`,
	} {
		existing := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": secret, "namespace": "default"},
			"data": map[string]any{},
		}}
		_, err := release{existing: []runtime.Object{existing}}.manifests(t)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("with %s alone: %v", secret, err)
		}
	}
}

// Without an operator nobody else refuses what the API server refuses of a Vault.
func TestWhatIsRefusedWithoutAnOperator(t *testing.T) {
	set := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet",
		"metadata": map[string]any{"name": "example-etcd", "namespace": "default"},
		"spec":     map[string]any{"replicas": int64(1)},
	}}
	const external = `nodes: 2, storage: {external: {type: s3, configSecretName: x`
	for name, tt := range map[string]struct {
		release release
		says    string
	}{
		"two nodes without a lock":  {release{values: `{` + external + `}}}`}, "nodes: must be 1"},
		"two nodes with a lock":     {release{values: `{` + external + `, highAvailability: true}}}`}, ""},
		"a long name":               {release{name: strings.Repeat("x", 41)}, "at most 40 characters"},
		"the longest name":          {release{name: strings.Repeat("x", 40)}, ""},
		"a name that is no label":   {release{name: "my.vault"}, "lower case letters"},
		"other members of etcd":     {release{existing: []runtime.Object{set}}, "storage.etcd.nodes: must stay 1"},
		"as many members of etcd":   {release{values: `{storage: {etcd: {nodes: 1}}}`, existing: []runtime.Object{set}}, ""},
		"an operator that looks":    {release{values: `{operated: true}`, existing: []runtime.Object{set}}, ""},
		"an operator that has read": {release{values: `{operated: true, ` + external + `}}}`}, ""},
	} {
		_, err := tt.release.manifests(t)
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// OpenShift or not is what the operator says, whatever a discovery finds; without an
// operator it is what the cluster says.
func TestOpenShift(t *testing.T) {
	for values, tt := range map[string]struct{ discovered, want bool }{
		`{}`:                                 {discovered: true, want: true},
		`{operated: true, openshift: true}`:  {want: true},
		`{operated: true, openshift: false}`: {discovered: true},
	} {
		out := release{values: values, openshift: tt.discovered}.render(t)
		for _, pod := range []*corev1.PodSpec{&out.vault.Spec.Template.Spec, &out.etcd.Spec.Template.Spec} {
			requireRestricted(t, pod, tt.want)
		}
	}
}

// The storage goes where Vault goes, unless it has a place of its own.
func TestEtcdPlacement(t *testing.T) {
	const vault = `pod: {nodeSelector: {pool: v}, tolerations: [{key: vault, operator: Exists}], priorityClassName: high,
		affinity: {nodeAffinity: {}},
		topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}]}`
	plain := release{values: `operated: true`}.render(t).etcd
	apart := plain.Spec.Template.Spec.Affinity

	followed := release{values: `{operated: true, ` + vault + `}`}.render(t).etcd
	pod := followed.Spec.Template.Spec
	if pod.NodeSelector["pool"] != "v" || len(pod.Tolerations) != 1 || pod.PriorityClassName != "high" {
		t.Errorf("etcd does not follow Vault: %+v", pod)
	}
	if !reflect.DeepEqual(pod.Affinity, apart) || pod.TopologySpreadConstraints != nil {
		t.Errorf("what is about Vault's own pods is taken over: %+v", pod)
	}
	if followed.Annotations[v1alpha1.FollowsVaultAnnotation] != "true" ||
		followed.Annotations[v1alpha1.VersionAnnotation] != "3.6.16" {
		t.Errorf("annotations %v", followed.Annotations)
	}

	own := release{values: `{operated: true, ` + vault +
		`, storage: {etcd: {pod: {tolerations: [{key: etcd, operator: Exists}], priorityClassName: low}}}}`}.render(t).etcd
	pod = own.Spec.Template.Spec
	if pod.NodeSelector != nil || len(pod.Tolerations) != 1 || pod.Tolerations[0].Key != "etcd" ||
		pod.PriorityClassName != "low" {
		t.Errorf("etcd's own placement: %+v", pod)
	}

	empty := release{values: `{operated: true, ` + vault + `, storage: {etcd: {pod: {}}}}`}.render(t).etcd
	if !reflect.DeepEqual(empty.Spec.Template, plain.Spec.Template) {
		t.Error("an empty placement is not that of an etcd without any")
	}
	if _, follows := empty.Annotations[v1alpha1.FollowsVaultAnnotation]; follows {
		t.Error("an etcd with a placement of its own is said to follow Vault")
	}
}

// TestGenerationReplacesNoPods checks that a spec which changes nothing but its
// generation leaves the pods alone.
func TestGenerationReplacesNoPods(t *testing.T) {
	seventh := release{values: `{operated: true, generation: "7"}`}.render(t).vault
	eighth := release{values: `{operated: true, generation: "8"}`}.render(t).vault
	if got := seventh.Annotations[v1alpha1.GenerationAnnotation]; got != "7" {
		t.Errorf("the generation is %q", got)
	}
	if !reflect.DeepEqual(seventh.Spec, eighth.Spec) {
		t.Error("another generation makes another Deployment")
	}
}

// requireRestricted checks the rules of the restricted Pod Security Standard.
func requireRestricted(t *testing.T, pod *corev1.PodSpec, openshift bool) {
	t.Helper()
	security := pod.SecurityContext
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod gets a token of the API server")
	}
	if !*security.RunAsNonRoot || security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod security context %+v", security)
	}
	if (security.RunAsUser == nil) != openshift {
		t.Errorf("user %v, on OpenShift: %v", security.RunAsUser, openshift)
	}
	for _, container := range pod.Containers {
		c := container.SecurityContext
		if *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem ||
			!reflect.DeepEqual(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("security context of %s: %+v", container.Name, c)
		}
	}
}

// A drain must be able to take the only node, and not the last unsealed of many.
func TestDrainsTakeWhatIsNotNeeded(t *testing.T) {
	for nodes, keeps := range map[int]bool{1: false, 2: true, 99: true} {
		for _, budget := range (release{values: fmt.Sprintf("{operated: true, nodes: %d}", nodes)}).render(t).budgets {
			isVault := budget.Labels[v1alpha1.ComponentLabel] == v1alpha1.ServerComponent
			if (budget.Spec.MinAvailable != nil) != (isVault && keeps) {
				t.Errorf("%d nodes: %s has %+v", nodes, budget.Name, budget.Spec)
			}
		}
	}
}

// An API server that does not know a way to distribute traffic refuses it.
func TestTrafficDistribution(t *testing.T) {
	for version, want := range map[string]*string{"v1.33.4": nil,
		"v1.34.0":       new(corev1.ServiceTrafficDistributionPreferSameNode),
		"v1.35.1-gke.1": new(corev1.ServiceTrafficDistributionPreferSameNode)} {
		got := release{values: "operated: true", kubernetes: version}.render(t).etcdService.Spec.TrafficDistribution
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", version, got, want)
		}
	}
}

func TestConfigReachesVaultUnchanged(t *testing.T) {
	const config = "a = \"{{ x }}\\\"'\"\nb = <<EOF\n : - # %\nEOF\n"
	encoded, err := json.Marshal(map[string]any{"operated": true, "config": config})
	if err != nil {
		t.Fatal(err)
	}
	out := release{values: string(encoded)}.render(t)
	if got := string(out.config.Data["user.hcl"]); got != config {
		t.Errorf("user.hcl is %q", got)
	}
	if args := out.vault.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "-config=/vault/config/user.hcl") {
		t.Errorf("the arguments are %q", args)
	}
}

func TestListener(t *testing.T) {
	config := func(values string) string {
		return string(release{values: values}.render(t).config.Data["operator.hcl"])
	}
	plain := config(`operated: true`)
	for _, tt := range []struct{ listener, want string }{
		{`{}`, ""},
		{`{unauthenticatedMetricsAccess: false, xForwardedForAuthorizedAddrs: []}`, ""},
		{`{unauthenticatedMetricsAccess: true}`, "  telemetry {\n    unauthenticated_metrics_access = true\n  }\n"},
		{`{xForwardedForAuthorizedAddrs: [10.0.0.1, "fd00::/8"]}`,
			"  x_forwarded_for_authorized_addrs   = \"10.0.0.1,fd00::/8\"\n" +
				"  # Requests of the operator and the kubelet do not come by a proxy.\n" +
				"  x_forwarded_for_reject_not_present = false\n"},
	} {
		const last = "  tls_min_version = \"tls12\"\n"
		got := config(`{operated: true, listener: ` + tt.listener + `}`)
		if got != strings.Replace(plain, last, last+tt.want, 1) {
			t.Errorf("%s: the configuration is\n%s", tt.listener, got)
		}
	}
}

// configVolume returns the names of the Secrets that are mounted at /vault/config.
func configVolume(t *testing.T, vault *appsv1.Deployment) []string {
	t.Helper()
	var names []string
	for _, volume := range vault.Spec.Template.Spec.Volumes {
		if volume.Name == "config" {
			for _, source := range volume.Projected.Sources {
				names = append(names, source.Secret.Name)
			}
		}
	}
	return names
}

// A pod keeps the configuration that it was made with.
func TestConfigurationIsImmutable(t *testing.T) {
	seen := map[string]string{}
	for _, values := range []string{
		`{}`, `{config: "ui = true"}`, `{operated: true, ownerUID: a}`, `{operated: true, ownerUID: b}`,
		`{operated: true, ownerUID: a, storage: {etcd: {lockTimeoutSeconds: 20}}}`,
	} {
		out := release{values: values}.render(t)
		config := out.config
		if config.Immutable == nil || !*config.Immutable {
			t.Errorf("%s: %s can be changed", values, config.Name)
		}
		if other, taken := seen[config.Name]; taken {
			t.Errorf("%s and %s share %s", values, other, config.Name)
		}
		seen[config.Name] = values
		if !regexp.MustCompile(`^example-vault-config-[0-9a-f]{10}$`).MatchString(config.Name) {
			t.Errorf("%s: a user might choose the name %s", values, config.Name)
		}
		if mounted := configVolume(t, &out.vault); !slices.Equal(mounted, []string{config.Name}) {
			t.Errorf("%s: %q are mounted, want %s", values, mounted, config.Name)
		}
		if named := out.vault.Annotations[v1alpha1.ConfigSecretsAnnotation]; named != config.Name {
			t.Errorf("%s: the Deployment names %q", values, named)
		}
		// Helm would delete what older pods have mounted. Without an operator nothing
		// else would ever delete it.
		owned := strings.Contains(values, "ownerUID")
		if kept := config.Annotations["helm.sh/resource-policy"] == "keep"; kept != owned ||
			len(config.OwnerReferences) > 0 != owned {
			t.Errorf("%s: annotations %v, owners %v", values, config.Annotations, config.OwnerReferences)
		}
		if config.Labels["helm.sh/chart"] != "" {
			t.Errorf("%s: the labels %v change with the chart", values, config.Labels)
		}
	}
	owner := release{values: `{operated: true, ownerUID: a}`}.render(t).config.OwnerReferences[0]
	if owner.APIVersion != v1alpha1.GroupVersion.String() || owner.Kind != "Vault" || owner.Name != "example" ||
		owner.UID != "a" || !*owner.Controller {
		t.Errorf("the owner is %+v", owner)
	}
}

func TestUsersSecretIsMounted(t *testing.T) {
	const values = `{operated: true, ownerUID: a, configSecret: {name: users, keys: [configmap.hcl, secret.hcl]}}`
	out := release{values: values}.render(t)
	want := []string{out.config.Name, "users"}
	if mounted := configVolume(t, &out.vault); !slices.Equal(mounted, want) {
		t.Errorf("%q are mounted, want %q", mounted, want)
	}
	if named := out.vault.Annotations[v1alpha1.ConfigSecretsAnnotation]; named != strings.Join(want, ",") {
		t.Errorf("the Deployment names %q, want %q", named, want)
	}
	args := out.vault.Spec.Template.Spec.Containers[0].Args
	if tail := args[len(args)-3:]; !slices.Equal(tail, []string{
		"-config=/vault/config/operator.hcl", "-config=/vault/config/configmap.hcl", "-config=/vault/config/secret.hcl",
	}) {
		t.Errorf("the arguments are %q", args)
	}
}

// Whichever keys the Secrets have, Vault finds their content under the same names.
func TestKeysOfCertificates(t *testing.T) {
	mounts := func(values string) map[string]string {
		files := map[string]string{}
		for _, volume := range (release{values: values}).render(t).vault.Spec.Template.Spec.Volumes {
			if volume.Name == "tls" || volume.Name == "tls-ca" {
				for _, item := range volume.Secret.Items {
					files[item.Path] = volume.Secret.SecretName + "/" + item.Key
				}
			}
		}
		return files
	}
	const static = `tls: {static: {serverSecret: s, clientSecret: c}}`
	for values, want := range map[string]map[string]string{
		`{operated: true, ` + static + `}`: {"server.crt": "s/server.crt", "server.key": "s/server.key",
			"vault-client-ca.crt": "c/vault-client-ca.crt"},
		`{operated: true, tlsKeys: {cert: tls.crt, key: tls.key, ca: ca.crt}, ` + static + `}`: {
			"server.crt": "s/tls.crt", "server.key": "s/tls.key", "vault-client-ca.crt": "c/ca.crt",
		},
	} {
		if got := mounts(values); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: mounted %v, want %v", values, got, want)
		}
	}
}

// The operator keeps the active pod by the cost of deleting it.
func TestDeletionCostIsTheOperators(t *testing.T) {
	for values, want := range map[string]map[string]string{
		`{operated: true, pod: {annotations: {"controller.kubernetes.io/pod-deletion-cost": "500"}}}`:       nil,
		`{operated: true, pod: {annotations: {"controller.kubernetes.io/pod-deletion-cost": "500", a: b}}}`: {"a": "b"},
	} {
		if got := (release{values: values}).render(t).vault.Spec.Template.Annotations; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: annotations %v, want %v", values, got, want)
		}
	}
}

// What users add to the pods is in front: where names are the same, Kubernetes takes what
// comes later, and an index in an error of the API server is that of the Vault's list.
func TestUsersEnvironmentAndVolumes(t *testing.T) {
	plain := release{values: `operated: true`}.render(t).vault.Spec.Template.Spec
	out := release{values: `
operated: true
pod:
  serviceAccountAnnotations: {iam.example.com/role: seal}
  env:
  - {name: HTTPS_PROXY, value: "http://proxy:3128"}
  - {name: VAULT_LICENSE, valueFrom: {secretKeyRef: {name: licence, key: text}}}
  envFrom: [{secretRef: {name: cloud}}]
  volumes: [{name: plugins, configMap: {name: plugins}}]
  volumeMounts: [{name: plugins, mountPath: /vault/plugins, readOnly: true}]
`}.render(t)
	pod, container := out.vault.Spec.Template.Spec, out.vault.Spec.Template.Spec.Containers[0]
	if env := container.Env; env[0].Value != "http://proxy:3128" || env[1].ValueFrom.SecretKeyRef.Name != "licence" ||
		!reflect.DeepEqual(env[2:], plain.Containers[0].Env) {
		t.Errorf("the environment is %+v", env)
	}
	if from := container.EnvFrom; len(from) != 1 || from[0].SecretRef.Name != "cloud" {
		t.Errorf("the environment is from %+v", from)
	}
	if script := container.Command[2]; !strings.Contains(script, "unset ETCD_ADDR ") ||
		strings.Contains(plain.Containers[0].Command[2], "ETCD_") {
		t.Errorf("variables that Vault takes instead of its configuration: %s", script)
	}
	if mounts := container.VolumeMounts; mounts[0].MountPath != "/vault/plugins" ||
		!reflect.DeepEqual(mounts[1:], plain.Containers[0].VolumeMounts) {
		t.Errorf("the mounts are %+v", mounts)
	}
	if volumes := pod.Volumes; volumes[0].ConfigMap.Name != "plugins" || !reflect.DeepEqual(volumes[1:], plain.Volumes) {
		t.Errorf("the volumes are %+v", volumes)
	}
	if annotations := out.account.Annotations; !reflect.DeepEqual(annotations,
		map[string]string{"iam.example.com/role": "seal"}) {
		t.Errorf("the ServiceAccount has the annotations %v", annotations)
	}
}

// A Vault pod has no token unless the spec wants one.
func TestTokenOfTheServiceAccount(t *testing.T) {
	for values, want := range map[string]bool{
		`operated: true`:                                     false,
		`{operated: true, kubernetesAuth: {}}`:               false,
		`{operated: true, kubernetesAuth: {enabled: false}}`: false,
		`{operated: true, kubernetesAuth: {enabled: true}}`:  true,
	} {
		out := release{values: values}.render(t)
		if mounted := out.vault.Spec.Template.Spec.AutomountServiceAccountToken; mounted == nil || *mounted != want {
			t.Errorf("%s: the token is mounted: %v, want %v", values, mounted, want)
		}
		if mounted := out.etcd.Spec.Template.Spec.AutomountServiceAccountToken; mounted == nil || *mounted {
			t.Errorf("%s: the token of etcd is mounted: %v", values, mounted)
		}
	}
}

// The images that the operator was installed with take the place of the defaults.
func TestRelatedImages(t *testing.T) {
	for values, want := range map[string][2]string{
		`operated: true`: {"hashicorp/vault:1.21.0", "gcr.io/etcd-development/etcd:v3.6.16"},
		`{operated: true, images: {vault: "m/v@sha256:1", etcd: "m/e@sha256:2"}}`: {"m/v@sha256:1", "m/e@sha256:2"},
		`{operated: true, imageDigest: "sha256:1", storage: {etcd: {imageDigest: "sha256:2"}}}`: {
			"hashicorp/vault:1.21.0@sha256:1", "gcr.io/etcd-development/etcd:v3.6.16@sha256:2",
		},
	} {
		out := release{values: values}.render(t)
		got := [2]string{out.vault.Spec.Template.Spec.Containers[0].Image, out.etcd.Spec.Template.Spec.Containers[0].Image}
		if got != want {
			t.Errorf("%s: images %v, want %v", values, got, want)
		}
		if version := out.vault.Annotations[v1alpha1.VersionAnnotation]; version != "1.21.0" {
			t.Errorf("%s: version %q", values, version)
		}
	}
}

func TestPodsAreReplacedOnlyForAReason(t *testing.T) {
	template := func(values string) string {
		encoded, err := json.Marshal(release{values: values}.render(t).vault.Spec.Template)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	base := template(`operated: true`)
	for values, replaced := range map[string]bool{
		`{operated: true, nodes: 5}`:                                          false,
		`{operated: true, storage: {etcd: {whenDeleted: Delete}}}`:            false,
		`{operated: true, version: 1.21.1}`:                                   true,
		`{operated: true, config: "ui = true"}`:                               true,
		`{operated: true, configSecret: {name: s, keys: [secret.hcl]}}`:       true,
		`{operated: true, storage: {etcd: {lockTimeoutSeconds: 20}}}`:         true,
		`{operated: true, audit: {volumeSize: 1Gi}}`:                          true,
		`{operated: true, pod: {annotations: {a: b}}}`:                        true,
		`{operated: true, tls: {static: {serverSecret: s, clientSecret: c}}}`: true,
	} {
		if got := template(values) != base; got != replaced {
			t.Errorf("%s: pods replaced %v, want %v", values, got, replaced)
		}
	}
	etcd := func(values string) any { return release{values: values}.render(t).etcd.Spec.Template }
	if !reflect.DeepEqual(etcd(`operated: true`),
		etcd(`{operated: true, version: 1.21.1, config: "ui = true", nodes: 3}`)) {
		t.Error("a change of Vault restarts etcd")
	}
}

// The database stops to grow before the volume is full.
func TestEtcdQuota(t *testing.T) {
	const mi = 1 << 20
	for size, want := range map[string]int{
		"512Mi": 128 * mi, "1Gi": 384 * mi, "2Gi": 896 * mi, "0.5Gi": 128 * mi, "1073741824": 384 * mi,
		"2G": (2e9 - 256*mi) / 2, "1e9": (1e9 - 256*mi) / 2, "1500000000000m": (15e8 - 256*mi) / 2,
		"16640Mi": 8192 * mi, "100Gi": 8192 * mi, "1Ei": 8192 * mi,
	} {
		container := release{values: `{operated: true, storage: {etcd: {volumeSize: "` + size +
			`"}}}`}.render(t).etcd.Spec.Template.Spec.Containers[0]
		if flag := fmt.Sprintf("--quota-backend-bytes=%d", want); !slices.Contains(container.Command, flag) {
			t.Errorf("a volume of %s: no %s in %q", size, flag, container.Command)
		}
	}
	if _, err := (release{values: `storage: {etcd: {volumeSize: 511Mi}}`}).manifests(t); err == nil {
		t.Error("a volume that cannot hold etcd's log is accepted")
	}
}

func TestUnknownValuesAreRefused(t *testing.T) {
	for _, values := range []string{`node: 3`, `storage: {etcd: {size: 3}}`, `nodes: -1`, `configMapName: c`,
		`pod: {label: {}}`} {
		if _, err := (release{values: values}).manifests(t); err == nil {
			t.Errorf("accepted: %s", values)
		}
	}
}

// shells are those that the pod's command may run in: this machine's, and that of
// HashiCorp's image.
func shells() [][]string {
	all := [][]string{{"/bin/sh"}}
	if busybox, err := exec.LookPath("busybox"); err == nil {
		all = append(all, []string{busybox, "sh"})
	}
	return all
}

// command is the pod's command in a shell, with something else than Vault, and with
// another directory in place of /vault/tls.
func command(t *testing.T, shell []string, tls, script string) *exec.Cmd {
	t.Helper()
	return commandOf(t, shell, "operated: true", strings.NewReplacer("/vault/tls", tls), script)
}

// commandOf is the pod's command of a release, with something else than Vault, and some of
// its text replaced.
func commandOf(t *testing.T, shell []string, values string, replacer *strings.Replacer, script string) *exec.Cmd {
	t.Helper()
	container := release{values: values}.render(t).vault.Spec.Template.Spec.Containers[0]
	text := replacer.Replace(container.Command[2])
	args := slices.Concat(shell[1:], []string{"-c", text, container.Command[3], "/bin/sh", "-c", script})
	cmd := exec.Command(shell[0], args...)
	cmd.Env = append(os.Environ(), "VAULT_ADDR=x", "VAULT_CACERT=x", "VAULT_TLS_SERVER_NAME=x", "VAULT_API_ADDR=kept")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, if all is well
	return cmd
}

// awaitFile waits until the file has the text.
func awaitFile(t *testing.T, path, text string) {
	t.Helper()
	poll.Eventually(t, fmt.Sprintf("%s holds %q", path, text), 20*time.Second, 50*time.Millisecond, func() error {
		content, err := os.ReadFile(path)
		if err == nil && string(content) != text {
			err = fmt.Errorf("it holds %q", content)
		}
		return err
	})
}

// fakeVault says in a file what it is told, and ends with code 3 on SIGTERM.
const fakeVault = `trap 'printf "hup " >> %[1]s' HUP; trap 'exit 3' TERM; ` +
	`printf "$VAULT_ADDR$VAULT_CACERT$VAULT_TLS_SERVER_NAME$VAULT_API_ADDR " > %[1]s; while true; do sleep 0.1; done`

// TestVaultEndsAsItIsTold runs the pod's command with something else than Vault.
func TestVaultEndsAsItIsTold(t *testing.T) {
	for _, shell := range shells() {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			begin := time.Now()
			crash := command(t, shell, t.TempDir(), "exit 7")
			_ = crash.Wait() // its code says how it ended
			if code, took := crash.ProcessState.ExitCode(), time.Since(begin); code != 7 || took > 2*time.Second {
				t.Errorf("after a crash the container ends with %d after %s, want 7 at once", code, took)
			}

			said := filepath.Join(t.TempDir(), "said")
			stopped := command(t, shell, t.TempDir(), fmt.Sprintf(fakeVault, said))
			awaitFile(t, said, "kept ")
			begin = time.Now()
			if err := stopped.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = stopped.Wait()
			if code, took := stopped.ProcessState.ExitCode(), time.Since(begin); code != 3 || took < 2*time.Second {
				t.Errorf("after SIGTERM the container ends with %d after %s, want 3 after two seconds", code, took)
			}
		})
	}
}

// TestVaultReadsItsCertificateAgain does what the kubelet does to a mounted Secret.
func TestVaultReadsItsCertificateAgain(t *testing.T) {
	for _, shell := range shells() {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			tls, said := t.TempDir(), filepath.Join(t.TempDir(), "said")
			mount := func(version string) {
				t.Helper()
				if err := os.Symlink(version, filepath.Join(tls, "..data_tmp")); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(filepath.Join(tls, "..data_tmp"), filepath.Join(tls, "..data")); err != nil {
					t.Fatal(err)
				}
			}
			mount("..1")
			shell := command(t, shell, tls, fmt.Sprintf(fakeVault, said))
			awaitFile(t, said, "kept ")
			if err := shell.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			awaitFile(t, said, "kept hup ")
			mount("..2")
			awaitFile(t, said, "kept hup hup ")
			time.Sleep(6 * time.Second)
			awaitFile(t, said, "kept hup hup ") // nothing has changed since

			if err := shell.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = shell.Wait()
			if code := shell.ProcessState.ExitCode(); code != 3 {
				t.Errorf("after SIGHUP and SIGTERM the container ends with %d, want 3", code)
			}
		})
	}
}
