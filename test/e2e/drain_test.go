//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// drains drains every node of the cluster, one after the other, as an upgrade of
// the nodes does, while an administrator unseals what comes up new.
func drains(t *testing.T, f *fixture) {
	for _, node := range strings.Fields(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'")) {
		t.Run(node, func(t *testing.T) {
			f.spread(t)
			r := f.hammered(t, func(string) {
				defer shell.Run(t, "kubectl uncordon "+node)
				drain(t, node)
				f.restore(t)
				requireOperatorApart(t)
			})
			// The active node may have been on it.
			requireOutage(t, r, handover)
			f.awaitStorage(t)
		})
	}

	t.Run("a sealed node blocks no drain", func(t *testing.T) {
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
			f.awaitStorage(t)
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

// spread puts each pod on a node of its own. A drain leaves two of them on one, and
// Kubernetes does not move what runs.
func (f *fixture) spread(t *testing.T) {
	t.Helper()
	shell.Eventually(t, "each pod is on a node of its own", 3*time.Minute, func() error {
		f.restore(t)
		active := f.AwaitHA(t, 2).VaultStatus.Active
		taken := map[string]string{f.nodeOf(t, active): active}
		for _, pod := range f.AwaitHA(t, 2).VaultStatus.Standby {
			node := f.nodeOf(t, pod)
			if other := taken[node]; other != "" {
				shell.Run(t, f.Kubectl("delete pod %s", pod))
				return fmt.Errorf("%s and %s are on %s", pod, other, node)
			}
			taken[node] = pod
		}
		return nil
	})
}

// requireOperatorApart fails the test when the replicas of the operator are on one
// node, and would be lost with it.
func requireOperatorApart(t *testing.T) {
	t.Helper()
	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout status --timeout=60s deployment/vault-operator-controller-manager")
	nodes := strings.Fields(shell.Run(t, "kubectl -n "+operatorNamespace+` get pods -l app.kubernetes.io/component=controller-manager --field-selector=status.phase=Running -o jsonpath='{.items[*].spec.nodeName}'`))
	slices.Sort(nodes)
	if len(slices.Compact(nodes)) < 2 {
		t.Errorf("the replicas of the operator are on %s alone", nodes)
	}
}

// drain evicts what is on a node.
func drain(t *testing.T, node string) {
	t.Helper()
	// What comes after must not miss it when this fails.
	t.Cleanup(func() { shell.Run(t, "kubectl uncordon "+node) })
	begin := time.Now()
	shell.Run(t, "kubectl drain --ignore-daemonsets --delete-emptydir-data --timeout=120s "+node)
	t.Logf("%s is drained after %s", node, time.Since(begin).Round(time.Second))
}

// awaitStorage waits until all members of the etcd are back.
func (f *fixture) awaitStorage(t *testing.T) {
	t.Helper()
	f.Await(t, "has its storage", func(s v1alpha1.VaultStatus) bool {
		c := meta.FindStatusCondition(s.Conditions, v1alpha1.StorageReadyCondition)
		return c != nil && c.Reason == v1alpha1.ReasonQuorum
	})
}
