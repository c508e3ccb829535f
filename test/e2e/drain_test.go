//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// drains drains the nodes of the cluster, one after the other, as an upgrade of
// the nodes does, while an administrator unseals what comes up new. "make test" has time
// for one, which the active pod is on.
func drains(t *testing.T, f *fixture) {
	nodes := []string{f.nodeOf(t, f.active(t))}
	if everything() {
		nodes = strings.Fields(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'"))
	}
	for _, node := range nodes {
		t.Run(node, func(t *testing.T) {
			f.spread(t)
			r := f.underLoad(t, func(string) {
				defer shell.Run(t, "kubectl uncordon "+node)
				drain(t, node)
				f.restore(t)
				requireOperatorApart(t)
			})
			// The active node may have been on it.
			requireOutage(t, r, handover)
			f.awaitMembers(t)
		})
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
