//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestForm fills in the form that consoles draw of the bundle, in a browser, and
// creates the Vault that comes out of it.
func TestForm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	output, raft := filepath.Join(dir, "vault.json"), filepath.Join(dir, "raft.json")
	t.Log(shell.Run(t, "../form/run.sh", "FORM_OUTPUT="+output, "FORM_RAFT_OUTPUT="+raft))
	// What the API server does not refuse is a Vault like any other with integrated storage.
	shell.Run(t, "kubectl create --dry-run=server -f "+raft)
	text, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   map[string]string `json:"metadata"`
		Spec       json.RawMessage   `json:"spec"`
	}
	if err := json.Unmarshal(text, &made); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: made.Metadata["name"]}
	made.Metadata["namespace"] = v.Namespace
	newUserCA(t, v).issue(t, 90*24*time.Hour)
	manifest, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	shell.Apply(t, string(manifest))
	v.InitAndUnseal(t, 3)
	size := shell.Run(t, v.Kubectl("get pvc -o jsonpath='{.items[0].spec.resources.requests.storage}'"))
	if size != "4Gi" {
		t.Errorf("the volumes are of %s", size)
	}
}
