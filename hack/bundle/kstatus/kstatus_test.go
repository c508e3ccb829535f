// Package kstatus checks what tools that know kstatus, such as Flux and Helm, make of a Vault. It is no part of
// the operator's module, which needs nothing of kstatus.
package kstatus

import (
	"encoding/json"
	"os"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

const root = "../../../"

// TestVault feeds kstatus with what the operator writes, which the test TestWhatKstatusReads of internal/vaultstatus
// keeps up to date.
func TestVault(t *testing.T) {
	text, err := os.ReadFile(root + "internal/vaultstatus/testdata/kstatus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name    string
		Kstatus string
		Vault   json.RawMessage
	}
	if err := yaml.UnmarshalStrict(text, &cases); err != nil {
		t.Fatal(err)
	}
	schema, seen := schemaOf(t), map[status.Status]bool{}
	for _, tt := range cases {
		seen[compare(t, schema, tt.Name, tt.Vault, tt.Kstatus)] = true
	}
	for _, want := range []status.Status{
		status.CurrentStatus, status.InProgressStatus, status.FailedStatus, status.TerminatingStatus,
	} {
		if !seen[want] {
			t.Errorf("no Vault is %s", want)
		}
	}
}

// TestVaultThatNobodyHasSeen is about the time before the operator has written what Ready is, which may be
// long: when it does not run, or does not serve the namespace.
func TestVaultThatNobodyHasSeen(t *testing.T) {
	schema := schemaOf(t)
	for name, written := range map[string]string{
		"nothing is written yet": "",
		"only the Helm reconciler has written": `, "status": {"conditions": [{"type": "Initialized", "status": "True", ` +
			`"reason": "Initialized", "message": "", "lastTransitionTime": "2025-11-24T12:00:00Z"}]}`,
	} {
		compare(t, schema, name, []byte(`{"apiVersion": "vault.security.coreos.com/v1alpha1", "kind": "Vault", `+
			`"metadata": {"namespace": "default", "name": "example", "generation": 1}`+written+`}`), "InProgress")
	}
}

// compare says what kstatus makes of a Vault that the API server has read, which has to be as wanted.
func compare(
	t *testing.T, schema *structuralschema.Structural, name string, vault []byte, want string,
) status.Status {
	t.Helper()
	var object unstructured.Unstructured
	if err := object.UnmarshalJSON(vault); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defaulting.Default(object.Object, schema)
	result, err := status.Compute(&object)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if result.Status.String() != want {
		t.Errorf("%s: kstatus calls the Vault %s (%s), want %s", name, result.Status, result.Message, want)
	}
	return result.Status
}

// schemaOf is the schema by which the API server sets defaults of a Vault that it reads.
func schemaOf(t *testing.T) *structuralschema.Structural {
	t.Helper()
	text, err := os.ReadFile(root + "config/crd/bases/vault.security.coreos.com_vaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	var internal apiextensions.JSONSchemaProps
	err = apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		crd.Spec.Versions[0].Schema.OpenAPIV3Schema, &internal, nil)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := structuralschema.NewStructural(&internal)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
