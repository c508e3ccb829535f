package docs

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// vault_full.yaml says that it sets every field. Those of Kubernetes' own types are not
// looked at.
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

func requireFields(t *testing.T, path string, schema apiextensionsv1.JSONSchemaProps, value map[string]any) {
	t.Helper()
	ours := map[string]bool{
		"spec": true, "spec.pod": true, "spec.service": true, "spec.tls": true, "spec.tls.static": true, "spec.storage": true,
		"spec.storage.etcd": true, "spec.storage.etcd.pod": true, "spec.listener": true, "spec.kubernetesAuth": true,
	}
	if !ours[path] {
		return
	}
	for name, property := range schema.Properties {
		field, set := value[name]
		if !set {
			t.Errorf("%s.%s is not set", path, name)
		}
		if nested, ok := field.(map[string]any); ok {
			requireFields(t, path+"."+name, property, nested)
		}
	}
}
