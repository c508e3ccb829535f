package backupproof

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupjob"
)

func schedule(name string) *v1alpha1.VaultBackupSchedule {
	return &v1alpha1.VaultBackupSchedule{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "s"}}
}

// fill sets all that can be set of a value, and so what fields will be added to.
func fill(v reflect.Value, depth int) {
	if depth > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		if quantity, ok := v.Addr().Interface().(*resource.Quantity); ok {
			*quantity = resource.MustParse("3Gi")
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i), depth+1)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth+1)
		fill(value, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("set")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(7)
	}
}

// What is taken of a Vault whose spec is set in full, and nothing else.
func TestNewVault(t *testing.T) {
	const common = `
nodes: 1
version: set
baseImage: set
imageDigest: set
imagePullSecrets: [{name: set}]
unseal: {keysSecretName: set}
pod:
  env: [{name: VAULT_LICENSE, value: key}]
  serviceAccountAnnotations: {set: set}
  volumes: [{name: room, emptyDir: {}}]
  volumeMounts:
  - {name: room, mountPath: /vault/audit}
  - {name: room, mountPath: /var/log/vault}
service: {}
`
	for storage, want := range map[string]string{
		"raft": `
storage: {raft: {volumeSize: 3Gi, storageClassName: set, whenDeleted: Delete}}
`,
		"etcd": `
storage:
  etcd:
    nodes: 1
    version: set
    baseImage: set
    imageDigest: set
    volumeSize: 3Gi
    storageClassName: set
    whenDeleted: Delete
    pod: {}
`,
	} {
		origin := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
		fill(reflect.ValueOf(&origin.Spec).Elem(), 0)
		origin.Spec.Storage.External = nil
		if storage == "etcd" {
			origin.Spec.Storage.Raft = nil
		}
		origin.Spec.Pod.Env = append(origin.Spec.Pod.Env, corev1.EnvVar{Name: "VAULT_LICENSE", Value: "key"})
		origin.Spec.Pod.VolumeMounts = append(origin.Spec.Pod.VolumeMounts,
			v1alpha1.PodVolumeMount{Name: "set", MountPath: "/var/log/vault"},
			v1alpha1.PodVolumeMount{Name: "of-a-config-map", MountPath: "/etc/more"})
		origin.Spec.Pod.Volumes = append(origin.Spec.Pod.Volumes,
			v1alpha1.PodVolume{Name: "of-a-config-map", ConfigMap: &corev1.ConfigMapVolumeSource{}})
		got := newVault(schedule("nightly"), origin, "machine-1")
		// These say where the pods may run, and are compared as they are.
		where := func(vault *v1alpha1.Vault) []any {
			pod := vault.Spec.Pod
			parts := []any{pod.Resources, pod.NodeSelector, pod.Tolerations}
			if etcd := vault.Spec.Storage.Etcd; storage == "etcd" {
				parts = append(parts, etcd.Resources, etcd.Pod.NodeSelector, etcd.Pod.Tolerations, etcd.Pod.Affinity.NodeAffinity)
			}
			return parts
		}
		if !reflect.DeepEqual(where(got), where(origin)) {
			t.Errorf("%s: pods run at %+v, want %+v", storage, where(got), where(origin))
		}
		if got := got.Spec.Pod.Affinity; !reflect.DeepEqual(got, backupjob.OnMachine("machine-1")) {
			t.Errorf("%s: affinity %+v", storage, got)
		}
		if !reflect.DeepEqual(got.Spec.Seal, origin.Spec.Seal) {
			t.Errorf("%s: the seal is %+v", storage, got.Spec.Seal)
		}
		got.Spec.Seal = nil
		pod := got.Spec.Pod
		got.Spec.Pod = v1alpha1.PodPolicy{
			Env: pod.Env, Volumes: pod.Volumes, VolumeMounts: pod.VolumeMounts,
			ServiceAccountAnnotations: pod.ServiceAccountAnnotations,
		}
		if etcd := got.Spec.Storage.Etcd; etcd != nil {
			etcd.Resources, etcd.Pod = corev1.ResourceRequirements{}, &v1alpha1.EtcdPodPolicy{}
		}
		var wanted v1alpha1.VaultSpec
		if err := yaml.UnmarshalStrict([]byte(common+want), &wanted); err != nil {
			t.Fatal(err)
		}
		a, b := asYAML(t, got.Spec), asYAML(t, wanted)
		if a != b {
			t.Errorf("%s: the spec is\n%s\nwant\n%s", storage, a, b)
		}
		if !schedule("nightly").IsOf(got) || !got.OfProof() || got.Name != "nightly-proof" {
			t.Errorf("%s: %+v", storage, got.ObjectMeta)
		}
		ofMachines := &corev1.Affinity{NodeAffinity: origin.Spec.Pod.Affinity.NodeAffinity}
		if without := newVault(schedule("nightly"), origin, ""); unseals(without) ||
			!reflect.DeepEqual(without.Spec.Pod.Affinity, ofMachines) {
			t.Errorf("%s: not isolated it is %+v", storage, without.Spec)
		}
	}
}

func asYAML(t *testing.T, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestProofNames(t *testing.T) {
	valid := regexp.MustCompile("^[a-z]([-a-z0-9]*[a-z0-9])?$")
	names := map[string]bool{}
	for _, name := range []string{
		"nightly", "7-days", strings.Repeat("a", 34), strings.Repeat("a", 35), strings.Repeat("a", 40),
		strings.Repeat("7", 40),
		strings.Repeat("a", 24) + "-" + strings.Repeat("b", 15),
	} {
		got := schedule(name).ProofName()
		if len(got) > 40 || !valid.MatchString(got) || names[got] {
			t.Errorf("%s: %q", name, got)
		}
		names[got] = true
	}
}

func TestPolicySelects(t *testing.T) {
	policy := newPolicy(schedule("nightly"), &v1alpha1.Vault{})
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil {
		t.Fatal(err)
	}
	for component, want := range map[string]bool{"server": true, "etcd": true, "proof": true, "backup": false} {
		pod := labels.Set{
			v1alpha1.NameLabel: "vault", v1alpha1.InstanceLabel: "nightly-proof", v1alpha1.ComponentLabel: component,
		}
		if selector.Matches(pod) != want {
			t.Errorf("%s: selected %t", component, !want)
		}
		pod[v1alpha1.InstanceLabel] = "example"
		if selector.Matches(pod) {
			t.Errorf("%s of another Vault is selected", component)
		}
	}
}

// A Vault that a key service unseals reaches that as well, and no other does.
func TestPolicyAllows(t *testing.T) {
	s, origin := schedule("nightly"), &v1alpha1.Vault{}
	var proof v1alpha1.BackupProofPolicy
	if err := yaml.UnmarshalStrict([]byte(`
schedule: "0 5 * * 0"
keyService:
- {cidr: 10.1.2.3/32, port: 443}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: security}}
  podSelector: {matchLabels: {app.kubernetes.io/instance: root}}
  port: 8200
`), &proof); err != nil {
		t.Fatal(err)
	}
	s.Spec.Proof = &proof
	without := newPolicy(s, origin).Spec.Egress
	if len(without) != 2 {
		t.Errorf("without a key service it allows %s", asYAML(t, without))
	}
	origin.Spec.Seal = &v1alpha1.SealPolicy{}
	const want = `- ports:
  - port: 443
    protocol: TCP
  to:
  - ipBlock:
      cidr: 10.1.2.3/32
- ports:
  - port: 8200
    protocol: TCP
  to:
  - namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: security
    podSelector:
      matchLabels:
        app.kubernetes.io/instance: root
`
	if got := asYAML(t, newPolicy(s, origin).Spec.Egress[len(without):]); got != want {
		t.Errorf("with a key service it allows\n%s\nas well", got)
	}
}

func TestCheckKeyService(t *testing.T) {
	for peer, want := range map[string]string{
		`{cidr: "2001:db8::/64", port: 443}`:              "",
		`{cidr: 10.1.2.3/24, port: 443}`:                  "that is 10.1.2.0/24",
		`{cidr: "::ffff:10.1.2.0/120", port: 443}`:        "as a range of IPv4",
		`{cidr: "64:ff9b::/96", port: 443}`:               "no wider than /112",
		`{cidr: "64:ff9b::/64", port: 443}`:               "no wider than /112",
		`{cidr: "64:ff9b::a01:203/128", port: 443}`:       "",
		`{cidr: 10.1.2.300/32, port: 443}`:                "ParseAddr",
		`{podSelector: {matchLabels: {a: b}}, port: 443}`: "",
		`{podSelector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: Sometimes}]}, port: 443}`: `"Sometimes"`,
		`{podSelector: {matchLabels: {a: b}}, namespaceSelector: {matchLabels: {a: "b c"}}, port: 443}`:      "b c",
	} {
		peers := make([]v1alpha1.KeyServicePeer, 1)
		if err := yaml.UnmarshalStrict([]byte(peer), &peers[0]); err != nil {
			t.Fatal(err)
		}
		err := checkKeyService(peers)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", peer, err, want)
		}
	}
}

func TestLetsOut(t *testing.T) {
	out := []networkingv1.NetworkPolicyEgressRule{{}}
	for name, tt := range map[string]struct {
		selector string
		egress   []networkingv1.NetworkPolicyEgressRule
		want     bool
	}{
		"all pods":                  {`{}`, out, true},
		"all pods, nothing allowed": {`{}`, nil, false},
		"nodes of all Vaults":       {`{matchLabels: {app.kubernetes.io/component: server}}`, out, true},
		"etcd":                      {`{matchLabels: {app.kubernetes.io/component: etcd}}`, out, true},
		"another Vault":             {`{matchLabels: {app.kubernetes.io/instance: example}}`, out, false},
		"another application":       {`{matchLabels: {app.kubernetes.io/name: nginx}}`, out, false},
		"a label that is not known": {`{matchLabels: {app.kubernetes.io/name: vault, tier: data}}`, out, true},
		"all but backups": {`{matchExpressions: [{key: app.kubernetes.io/component, operator: NotIn, values: [backup]}]}`,
			out, true},
		"backups":             {`{matchLabels: {app.kubernetes.io/component: backup}}`, out, false},
		"what is no selector": {`{matchExpressions: [{key: a, operator: Sometimes}]}`, out, true},
	} {
		var policy networkingv1.NetworkPolicy
		if err := yaml.Unmarshal([]byte(tt.selector), &policy.Spec.PodSelector); err != nil {
			t.Fatal(err)
		}
		policy.Spec.Egress = tt.egress
		if got := letsOut(&policy, "nightly-proof"); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
