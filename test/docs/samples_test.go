package docs

import (
	"reflect"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// unions are the fields of which exactly one part can be set. The other parts are shown
// elsewhere: see TestEverySealIsShown and TestStorageSamplesSetEveryField.
var unions = map[string]bool{"spec.seal": true, "spec.storage": true}

// apart are the fields that cannot be set together with another one of the sample. They are
// shown elsewhere: see TestInitializationIsShown and docs/seal-migration.md.
var apart = map[string]bool{"spec.unseal": true, "spec.sealMigration": true}

// vault_full.yaml says that it sets every field that goes together with the others. Those of
// Kubernetes' own types are not looked at.
func TestFullSampleSetsEveryField(t *testing.T) {
	var crd apiextensionsv1.CustomResourceDefinition
	var sample struct{ Spec map[string]any }
	for file, into := range map[string]any{
		"config/crd/bases/vault.security.coreos.com_vaults.yaml": &crd,
		"config/samples/vault_full.yaml":                         &sample,
	} {
		if err := yaml.Unmarshal([]byte(read(t, file)), into); err != nil {
			t.Fatal(err)
		}
	}
	requireFields(t, "spec", crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"], sample.Spec)
}

func TestStorageSamplesSetEveryField(t *testing.T) {
	for _, kind := range []string{"raft", "external"} {
		t.Run(kind, func(t *testing.T) { requireSampleOf(t, kind) })
	}
}

func requireSampleOf(t *testing.T, kind string) {
	t.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	var sample struct {
		Spec struct{ Storage map[string]map[string]any }
	}
	for file, into := range map[string]any{
		"config/crd/bases/vault.security.coreos.com_vaults.yaml": &crd,
		"config/samples/vault_" + kind + ".yaml":                 &sample,
	} {
		if err := yaml.Unmarshal([]byte(read(t, file)), into); err != nil {
			t.Fatal(err)
		}
	}
	storage := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["storage"]
	requireFields(t, "spec.storage."+kind, storage.Properties[kind], sample.Spec.Storage[kind])
}

func requireFields(t *testing.T, path string, schema apiextensionsv1.JSONSchemaProps, value map[string]any) {
	t.Helper()
	ours := map[string]bool{
		"spec": true, "spec.pod": true, "spec.service": true, "spec.tls": true, "spec.tls.static": true, "spec.storage": true,
		"spec.storage.etcd": true, "spec.storage.etcd.pod": true, "spec.storage.raft": true,
		"spec.storage.external": true, "spec.listener": true,
		"spec.kubernetesAuth": true, "spec.audit": true, "spec.seal": true, "spec.seal.transit": true,
		"spec.initialization": true, "spec.operatorLogin": true,
	}
	if !ours[path] {
		return
	}
	if unions[path] && len(value) != 1 {
		t.Errorf("%s has %d parts, want one", path, len(value))
	}
	for name, property := range schema.Properties {
		field, set := value[name]
		if !set && !unions[path] && !apart[path+"."+name] {
			t.Errorf("%s.%s is not set", path, name)
		}
		if nested, ok := field.(map[string]any); ok {
			requireFields(t, path+"."+name, property, nested)
		}
	}
}

// Each key service has an example in docs/auto-unseal.md that could be applied, and sets what
// is required.
func TestEverySealIsShown(t *testing.T) {
	shown := map[string]bool{}
	for _, block := range strings.Split(read(t, "docs/auto-unseal.md"), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		var vault v1alpha1.Vault
		if err := yaml.UnmarshalStrict([]byte(text), &vault); err != nil {
			t.Errorf("%v in\n%s", err, text)
			continue
		}
		if vault.Spec.Seal != nil {
			shown[vault.Spec.Seal.Type()] = true
		}
	}
	for i := range reflect.TypeFor[v1alpha1.SealPolicy]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[v1alpha1.SealPolicy]().Field(i).Tag.Get("json"), ",")
		if !shown[name] {
			t.Errorf("docs/auto-unseal.md has no example of %s", name)
		}
	}
}

// The examples of docs/initialization.md can be applied, and show both ways.
func TestInitializationIsShown(t *testing.T) {
	encrypted, plain, unsealed := false, false, false
	for _, block := range strings.Split(read(t, "docs/initialization.md"), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		var vault v1alpha1.Vault
		if err := yaml.UnmarshalStrict([]byte(text), &vault); err != nil {
			t.Errorf("%v in\n%s", err, text)
			continue
		}
		policy := vault.Spec.Initialization
		encrypted = encrypted || policy != nil && policy.PGPKeysConfigMapName != "" && policy.RootTokenPGPKey != ""
		plain = plain || policy != nil && policy.AllowPlaintext
		unsealed = unsealed || vault.Spec.Unseal != nil && string(vault.Spec.Unseal.KeysSecretName) == vault.KeysSecretName()
	}
	if !encrypted || !plain || !unsealed {
		t.Errorf("docs/initialization.md shows PGP %v, no PGP %v, unsealing %v", encrypted, plain, unsealed)
	}
}
