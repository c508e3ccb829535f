// Command values-schema writes the schema of the chart's values from the schema
// of the Vault resource, so that there is one source for both: the Go types.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const (
	crdFile    = "config/crd/bases/vault.security.coreos.com_vaults.yaml"
	schemaFile = "helm-charts/vault/values.schema.json"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "values-schema:", err)
		os.Exit(1)
	}
}

func run() error {
	content, err := os.ReadFile(crdFile)
	if err != nil {
		return err
	}
	schema, err := Generate(content)
	if err != nil {
		return err
	}
	return os.WriteFile(schemaFile, schema, 0o644)
}

// Generate returns the schema of the values, in JSON, for the CRD in YAML.
func Generate(crdYAML []byte) ([]byte, error) {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(crdYAML, &crd); err != nil {
		return nil, err
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	if err := json.Unmarshal(encoded, &values); err != nil {
		return nil, err
	}
	clean(values)
	properties := values["properties"].(map[string]any)
	// What the operator acts on, and what it puts in place; see internal/helm.
	delete(properties, "configMapName")
	delete(properties, "configSecretName")
	delete(properties, "allowDowngrade")
	delete(properties, "initialization")
	delete(properties, "unseal")
	delete(properties, "operatorLogin")
	properties["config"] = map[string]any{"type": "string", "description": "config is more Vault configuration, in HCL."}
	properties["configSecret"] = map[string]any{
		"type": "object", "description": "configSecret is a Secret with more Vault configuration, and its keys.",
		"additionalProperties": false,
		"properties": map[string]any{
			"name": map[string]any{"type": "string"},
			"keys": map[string]any{"type": "array", "items": map[string]any{"type": "string"}},
		},
	}
	properties["tlsKeys"] = map[string]any{
		"type": "object", "description": "tlsKeys are the keys of the Secrets of tls.static.", "additionalProperties": false,
		"properties": map[string]any{
			"cert": map[string]any{"type": "string"}, "key": map[string]any{"type": "string"},
			"ca": map[string]any{"type": "string"},
		},
	}
	// Whether nodes that do not agree on the active one have to end first the operator knows.
	storage := properties["storage"].(map[string]any)["properties"].(map[string]any)
	external := storage["external"].(map[string]any)
	external["properties"].(map[string]any)["recreate"] = map[string]any{
		"type": "boolean", "description": "recreate says that all nodes have to end before another one starts.",
	}
	external["required"] = []string{"type"}
	properties["sealKey"] = map[string]any{"type": "string", "description": "sealKey names the key of the seal."}
	properties["sealCAKey"] = map[string]any{"type": "string", "description": "sealCAKey is the key of the Secret of " +
		"seal.transit.caSecretName."}
	properties["minReadySeconds"] = map[string]any{
		"type": "integer", "minimum": 0,
		"description": "minReadySeconds is for how long an updated node has to be ready before an old one is deleted.",
	}
	properties["runningNodes"] = map[string]any{
		"type": "integer", "minimum": 0, "maximum": 99,
		"description": "runningNodes is how many nodes with storage.raft may run, if it is not \"nodes\".",
	}
	// Which seal it is the operator has checked.
	migration := properties["sealMigration"].(map[string]any)["properties"].(map[string]any)
	oldSeal := migration["from"].(map[string]any)
	delete(properties, "sealMigration")
	delete(oldSeal["properties"].(map[string]any), "shamir")
	properties["oldSeal"] = oldSeal
	properties["oldSealCAKey"] = map[string]any{"type": "string", "description": "oldSealCAKey is the key of the Secret " +
		"of oldSeal.transit.caSecretName."}
	properties["ownerUID"] = map[string]any{"type": "string", "description": "ownerUID is the UID of the Vault resource."}
	properties["generation"] = map[string]any{
		"type": "string", "description": "generation of the Vault resource that the values are of.",
	}
	properties["operated"] = map[string]any{
		"type": "boolean", "description": "operated says that the Vault Operator runs this release.",
	}
	properties["operatorNamespace"] = map[string]any{
		"type": "string", "description": "operatorNamespace is where the Vault Operator runs.",
	}
	properties["isolated"] = map[string]any{
		"type": "boolean", "description": "isolated says that none but the operator and its Jobs may reach the nodes.",
	}
	properties["openshift"] = map[string]any{
		"type": "boolean", "description": "openshift says whether the cluster is OpenShift.",
	}
	properties["ipv6"] = map[string]any{
		"type": "boolean", "description": "ipv6 says that pods have addresses of IPv6 first.",
	}
	properties["noSurge"] = map[string]any{
		"type": "boolean", "description": "noSurge says that pods that run may leave no room for one more.",
	}
	properties["ipv6Services"] = map[string]any{
		"type": "boolean", "description": "ipv6Services says that Services have addresses of IPv6 first.",
	}
	properties["images"] = map[string]any{
		"type": "object", "description": "images are used in place of baseImage and version.", "additionalProperties": false,
		"properties": map[string]any{"vault": map[string]any{"type": "string"}, "etcd": map[string]any{"type": "string"}},
	}
	properties["global"] = map[string]any{"type": "object", "description": "global is Helm's own."}
	values["$schema"] = "http://json-schema.org/draft-07/schema#"
	delete(values, "default")
	result, err := json.MarshalIndent(values, "", "  ")
	return append(result, '\n'), err
}

// clean turns a structural schema into a plain one that refuses unknown keys.
func clean(schema map[string]any) {
	for key, value := range schema {
		if strings.HasPrefix(key, "x-kubernetes-") {
			delete(schema, key)
		}
		// What a format means is Kubernetes' own.
		if key == "format" {
			delete(schema, key)
		}
		if child, ok := value.(map[string]any); ok && (key == "items" || key == "additionalProperties") {
			clean(child)
		}
	}
	properties, ok := schema["properties"].(map[string]any)
	if !ok {
		return
	}
	for _, property := range properties {
		clean(property.(map[string]any))
	}
	if schema["additionalProperties"] == nil {
		schema["additionalProperties"] = false
	}
}
