package vaultconfig

import (
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

func newVault() *v1alpha1.Vault {
	return &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid"}}
}

func newClient(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func get[T client.Object](t *testing.T, c client.Client, name string, object T) T {
	t.Helper()
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: name}, object); err != nil {
		t.Fatal(err)
	}
	return object
}

func TestLoad(t *testing.T) {
	const ui, lease, owned = "ui = true\n", "max_lease_ttl = \"10h\"\n", "listener \"tcp\" {}\n"
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "map"}, Data: map[string]string{"vault.hcl": ui},
	}
	secret := func(data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "secret"}, Data: data}
	}
	good := secret(map[string][]byte{"vault.hcl": []byte(lease)})
	for name, tt := range map[string]struct {
		configMap, secret v1alpha1.ObjectName
		objects           []client.Object
		want              Config
		reason, mentions  string
	}{
		"nothing":     {want: Config{}},
		"a ConfigMap": {configMap: "map", objects: []client.Object{configMap}, want: Config{"configmap.hcl": []byte(ui)}},
		"a Secret":    {secret: "secret", objects: []client.Object{good}, want: Config{"secret.hcl": []byte(lease)}},
		"both": {
			configMap: "map", secret: "secret", objects: []client.Object{configMap, good},
			want: Config{"configmap.hcl": []byte(ui), "secret.hcl": []byte(lease)},
		},
		"no such ConfigMap": {
			configMap: "map", reason: v1alpha1.ReasonConfigMapNotFound,
			mentions: `spec.configMapName: ConfigMap "map" does not exist`,
		},
		"no such Secret": {
			configMap: "map", secret: "secret", objects: []client.Object{configMap},
			reason: v1alpha1.ReasonConfigSecretNotFound, mentions: `spec.configSecretName: Secret "secret" does not exist`,
		},
		"a Secret without the key": {
			secret: "secret", objects: []client.Object{secret(nil)}, reason: v1alpha1.ReasonConfigInvalid,
			mentions: `Secret "secret" has no key "vault.hcl"`,
		},
		"a Secret that sets what the operator owns": {
			secret: "secret", objects: []client.Object{secret(map[string][]byte{"vault.hcl": []byte(owned)})},
			reason: v1alpha1.ReasonConfigInvalid, mentions: `Secret "secret", key "vault.hcl": sets listener`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault()
			vault.Spec.ConfigMapName, vault.Spec.ConfigSecretName = tt.configMap, tt.secret
			config, err := Load(t.Context(), newClient(t, tt.objects...), vault)
			if tt.reason == "" {
				if err != nil || !reflect.DeepEqual(config, tt.want) {
					t.Errorf("Load() = %s, %v; want %s", config, err, tt.want)
				}
				return
			}
			var bad *problem.Error
			if !errors.As(err, &bad) || bad.Reason != tt.reason || !strings.Contains(bad.Message, tt.mentions) {
				t.Errorf("Load() = %v, want reason %s and %q", err, tt.reason, tt.mentions)
			}
		})
	}
}

func TestEnsureSecret(t *testing.T) {
	vault, c := newVault(), newClient(t)
	ensure := func(cache client.Reader, config Config) Secret {
		t.Helper()
		result, err := EnsureSecret(t.Context(), c, cache, c, vault, config)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if result := ensure(c, Config{}); result.Name != "" || len(result.Keys) > 0 {
		t.Errorf("nothing became %+v", result)
	}
	config := Config{"configmap.hcl": []byte("ui = true"), "secret.hcl": []byte("x = 1")}
	first := ensure(c, config)
	if !regexp.MustCompile(`^example-vault-config-[0-9a-f]{10}$`).MatchString(first.Name) ||
		!reflect.DeepEqual(first.Keys, []string{"configmap.hcl", "secret.hcl"}) {
		t.Errorf("the Secret is %+v", first)
	}
	made := get(t, c, first.Name, &corev1.Secret{})
	if !*made.Immutable || !metav1.IsControlledBy(made, vault) || !reflect.DeepEqual(made.Labels, vault.ConfigLabels()) ||
		!reflect.DeepEqual(Config(made.Data), config) {
		t.Errorf("the Secret is %+v", made)
	}
	// The cache may not have it yet.
	for _, cache := range []client.Reader{c, newClient(t)} {
		if again := ensure(cache, config); !reflect.DeepEqual(again, first) {
			t.Errorf("the same became %+v, was %+v", again, first)
		}
	}
	if other := ensure(c, Config{"configmap.hcl": []byte("ui = false")}); other.Name == first.Name {
		t.Error("another configuration has the same name")
	}
	again := newVault()
	again.UID = "another-uid"
	if name, err := secretName(again, config); err != nil || name == first.Name {
		t.Errorf("the name of another Vault's is %s, %v", name, err)
	}

	// A backup tool has restored it.
	made.OwnerReferences = nil
	if err := c.Update(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	ensure(c, config)
	if restored := get(t, c, first.Name, &corev1.Secret{}); !metav1.IsControlledBy(restored, vault) {
		t.Error("a restored Secret is not adopted")
	}
	// Somebody has put another in its place.
	made = get(t, c, first.Name, &corev1.Secret{})
	if err := c.Delete(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	made = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: first.Name},
		Data:       map[string][]byte{"a": []byte("MARKER")},
	}
	if err := c.Create(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureSecret(t.Context(), c, c, c, vault, config); err == nil || strings.Contains(err.Error(), "MARKER") {
		t.Errorf("EnsureSecret() = %v", err)
	}
}

func TestKeepConfigMap(t *testing.T) {
	for name, tt := range map[string]struct {
		owner types.UID
		kept  bool
	}{"the operator's": {"vault-uid", true}, "another Vault's": {"x", false}, "a user's": {"", false}} {
		t.Run(name, func(t *testing.T) {
			configMap := &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-config", UID: "map"},
			}
			if tt.owner != "" {
				configMap.OwnerReferences = []metav1.OwnerReference{
					{APIVersion: "v1", Kind: "Owner", Name: "o", UID: tt.owner, Controller: new(true)},
				}
			}
			c := newClient(t, configMap)
			for range 2 {
				if err := KeepConfigMap(t.Context(), c, c, c, newVault()); err != nil {
					t.Fatal(err)
				}
			}
			annotations := get(t, c, "example-config", &corev1.ConfigMap{}).Annotations
			if kept := annotations["helm.sh/resource-policy"] == "keep"; kept != tt.kept {
				t.Errorf("annotations %v, want it kept: %t", annotations, tt.kept)
			}
		})
	}
	c := newClient(t)
	if err := KeepConfigMap(t.Context(), c, c, c, newVault()); err != nil {
		t.Error(err)
	}
}
