//go:build e2e

package e2e

import (
	"strings"
	"sync"
	"testing"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// drains drains the nodes of the cluster, one after the other, as an upgrade of
// the nodes does, while an administrator unseals what comes up new. "make test" has time
// for one, which the active pod is on. Other Vaults have to be whole: the disruption budget of one whose
// nodes are sealed blocks a drain.
func drains(t *testing.T, f *fixture, others ...*fixture) {
	var vault v1alpha1.Vault
	if err := vaulttest.Get(f.Namespace, f.Name, &vault); err != nil {
		t.Fatal(err)
	}
	bound := handover
	if vault.HasRaft() {
		bound = raftHandover
	}
	nodes := []string{f.nodeOf(t, f.active(t))}
	if everything() {
		nodes = strings.Fields(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'"))
	}
	for _, node := range nodes {
		t.Run(node, func(t *testing.T) {
			for _, other := range others {
				other.restore(t)
			}
			if !vault.HasRaft() { // whose volumes are where they are
				f.spread(t)
			}
			r := f.underLoad(t, func(string) {
				uncordon := sync.OnceFunc(func() { shell.Run(t, "kubectl uncordon "+node) })
				defer uncordon()
				drain(t, node)
				if vault.HasRaft() {
					uncordon() // the pod waits for this node, which its volume is on
				}
				f.restore(t)
				requireOperatorApart(t)
			})
			// The active node may have been on it.
			requireOutage(t, r, bound)
			f.awaitMembers(t)
		})
	}

	if vault.HasRaft() {
		return // a node that is sealed is one that is lost: no other may be drained away
	}
	t.Run("a sealed node blocks no drain", func(t *testing.T) {
		onlyInAll(t, "the test of the chart has the disruption budget")
		f.spread(t)
		active := f.AwaitHA(t, 2).VaultStatus.Active
		shell.Run(t, f.Kubectl("delete pod %s", f.AwaitHA(t, 2).VaultStatus.Standby[0]))
		sealed := f.AwaitSealed(t, 1).VaultStatus.Sealed[0]
		// First the node of the sealed pod, then that of the standby.
		standby := f.AwaitHA(t, 1).VaultStatus.Standby[0]
		for _, pod := range []string{sealed, standby} {
			node := f.nodeOf(t, pod)
			if node == f.nodeOf(t, active) {
				t.Fatalf("%s is on %s, where the active pod is", pod, node)
			}
			drain(t, node)
			shell.Run(t, "kubectl uncordon "+node)
			f.awaitMembers(t)
		}
		if got := f.AwaitHA(t, 0).VaultStatus.Active; got != active {
			t.Errorf("%s is active, and %s was before its node was drained", got, active)
		}
		// The last unsealed node stays until an administrator has unsealed another.
		node := f.nodeOf(t, active)
		out, err := shell.Try("kubectl drain --ignore-daemonsets --delete-emptydir-data --timeout=15s " + node)
		if err == nil || !strings.Contains(out, "disruption budget") {
			t.Errorf("the last unsealed node was drained away: %s", out)
		}
		f.restore(t)
		drain(t, node)
		shell.Run(t, "kubectl uncordon "+node)
		f.restore(t)
	})
}
