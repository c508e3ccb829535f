//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// manifest is a Vault with a small etcd, for tests that are not about the etcd.
func manifest(v vaulttest.Vault, spec string) string {
	return fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: Vault
metadata: {name: %s, namespace: %s}
spec: %s`, v.Name, v.Namespace, spec)
}

// What is about no storage in particular is tested with etcd, and where E2E_STORAGE is "raft" with integrated
// storage: anyStorage is the field, and several the fewest nodes of which one can be lost.
var anyStorage, several = func() (string, int) {
	if os.Getenv("E2E_STORAGE") == "raft" {
		return `storage: {raft: {whenDeleted: Delete}}`, 3
	}
	return smallEtcd, 2
}()

// smallEtcd is a storage of one member, which takes less of a small machine.
const smallEtcd = `storage: {etcd: {nodes: 1, whenDeleted: Delete}}`

func setSpec(t *testing.T, v vaulttest.Vault, spec string) {
	t.Helper()
	shell.Run(t, v.Kubectl("patch vault %s --type=merge -p '{\"spec\": %s}'", v.Name, spec))
}

// running tells which containers run for a Vault and since when.
func running(t *testing.T, v vaulttest.Vault) string {
	t.Helper()
	return shell.Run(t, v.Kubectl(`get pods -l app.kubernetes.io/instance=%s -o go-template='`+
		`{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.uid}} `+
		`{{range .status.containerStatuses}}{{.containerID}}{{end}}{{"\n"}}{{end}}{{end}}'`, v.Name))
}

// awaitRunning waits until no more pods are there than there were, and asserts
// that they are the same.
func awaitRunning(t *testing.T, v vaulttest.Vault, before string) {
	t.Helper()
	shell.Eventually(t, "the same pods run as before", time.Minute, func() error {
		if now := running(t, v); now != before {
			return fmt.Errorf("before:\n%s\nnow:\n%s", before, now)
		}
		return nil
	})
}

// awaitNothingLeft waits until all that was made for a Vault is gone but its
// volumes.
func awaitNothingLeft(t *testing.T, v vaulttest.Vault, volumes int) {
	t.Helper()
	shell.Eventually(t, "nothing is left", 2*time.Minute, func() error {
		out, err := shell.Try(v.Kubectl(`get vaults,deployments,replicasets,statefulsets,pods,services,secrets,` +
			`serviceaccounts,poddisruptionbudgets,networkpolicies -o name | grep -v serviceaccount/default || true`))
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
	shell.Eventually(t, fmt.Sprintf("%d volumes are left", volumes), time.Minute, func() error {
		out, err := shell.Try(v.Kubectl("get pvc -o name"))
		if err == nil && len(strings.Fields(out)) != volumes {
			err = errors.New(out)
		}
		return err
	})
}
