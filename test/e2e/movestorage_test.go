//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestMoveStorage follows docs/moving-storage.md from etcd to integrated storage and back, and
// measures for how long Vault does not serve.
func TestMoveStorage(t *testing.T) {
	requireLocalCluster(t)
	onlyInAll(t, "")
	t.Parallel()
	page := docs.Commands(t, "../../docs/moving-storage.md")
	toRaft, toEtcd := page["From etcd to integrated storage"], page["From integrated storage to etcd"]
	if len(toRaft) != 4 || len(toEtcd) != 3 {
		t.Fatalf("docs/moving-storage.md has %d and %d blocks of commands", len(toRaft), len(toEtcd))
	}
	v := &moving{Vault: vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}, dir: t.TempDir()}
	const etcd, raft = `{nodes: 2, storage: {etcd: {nodes: 1}}}`, `{nodes: 3, storage: {raft: {volumeSize: 1Gi}}}`
	for file, spec := range map[string]string{"etcd.yaml": etcd, "raft.yaml": raft} {
		if err := os.WriteFile(filepath.Join(v.dir, file), []byte(manifest(v.Vault, spec)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shell.Apply(t, manifest(v.Vault, etcd))
	v.keys = v.InitAndUnseal(t, 2)
	v.Do(t, v.AwaitHA(t, 1).VaultStatus.Active, v.keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")

	t.Run("to integrated storage", func(t *testing.T) {
		v.run(t, toRaft[0])
		v.Await(t, "has one node", func(s v1alpha1.VaultStatus) bool {
			return s.VaultStatus.Active != "" && len(s.VaultStatus.Standby) == 0 && s.Nodes == 1
		})
		start := time.Now()
		v.Do(t, v.AwaitHA(t, 0).VaultStatus.Active, v.keys.RootToken, toRaft[1])
		v.AwaitSealed(t, 1)
		v.run(t, toRaft[2])
		v.run(t, toRaft[3])
		v.serves(t, start, "example-0", 3)
	})
	t.Run("and back to etcd", func(t *testing.T) {
		shell.Run(t, v.Kubectl("delete pvc data-example-etcd-0"))
		awaitPeersVote(t, v.Vault, v.keys.RootToken)
		start, last := time.Now(), ""
		for range 2 { // with one of three nodes left none is active
			last = v.Await(t, "has another active node", func(s v1alpha1.VaultStatus) bool {
				return s.VaultStatus.Active != "" && s.VaultStatus.Active != last
			}).VaultStatus.Active
			v.Do(t, last, v.keys.RootToken, toEtcd[0])
		}
		v.run(t, "pod="+last+"\n"+toEtcd[1])
		v.run(t, toEtcd[2])
		v.serves(t, start, "", 2)
	})
}

// moving is a Vault that is moved from one storage to another.
type moving struct {
	vaulttest.Vault
	keys vaulttest.Keys
	dir  string
}

// run runs a block of the page in a directory with the manifests.
func (v *moving) run(t *testing.T, block string) {
	t.Helper()
	shell.Run(t, "set -e\ncd "+v.dir+"\nnamespace="+v.Namespace+"\n"+block)
}

// serves unseals the nodes, the one that has the data first, reads the secret, and tells for how
// long that was not possible.
func (v *moving) serves(t *testing.T, since time.Time, first string, nodes int) {
	t.Helper()
	v.Await(t, "is unsealed", func(s v1alpha1.VaultStatus) bool {
		for _, pod := range s.VaultStatus.Sealed {
			if first == "" || pod == first || s.VaultStatus.Active != "" {
				if err := v.TryUnseal(pod, v.keys); err != nil {
					t.Log(err)
				}
			}
		}
		return s.VaultStatus.Active != ""
	})
	active := v.Await(t, "serves", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != ""
	}).VaultStatus.Active
	if value := v.Do(t, active, v.keys.RootToken, "vault read -field=value secret/foo"); value != "bar" {
		t.Errorf("the secret is %q", value)
	}
	t.Logf("Vault did not serve for %s", time.Since(since).Round(time.Second))
	v.Await(t, "is whole", func(s v1alpha1.VaultStatus) bool {
		v.TryUnsealAll(t, s.VaultStatus.Sealed, v.keys)
		return s.VaultStatus.Active != "" && len(s.VaultStatus.Standby) == nodes-1
	})
}
