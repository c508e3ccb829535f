//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// integratedStorage runs a Vault with integrated storage through what it goes through in its life:
// nodes are lost, all are replaced, and a version that cannot start costs one of them.
func integratedStorage(t *testing.T, f *fixture) {
	t.Run("a standby node is lost", func(t *testing.T) { f.loseRaftStandby(t) })
	t.Run("the active node is lost", func(t *testing.T) { f.loseRaftActive(t) })
	t.Run("an upgrade", func(t *testing.T) { f.upgrade(t) })
	t.Run("a change of the configuration", func(t *testing.T) { f.changeRaft(t) })
	t.Run("a version that cannot start", func(t *testing.T) { f.badRaftVersion(t) })
}

// loseRaftStandby deletes the pod of a standby node, which comes back with its data.
func (f *fixture) loseRaftStandby(t *testing.T) {
	r := f.underLoad(t, func(string) {
		standby := f.AwaitHA(t, 2).VaultStatus.Standby[0]
		shell.Run(t, f.Kubectl("delete pod %s", standby))
		awaitCondition(t, f.Vault, time.Minute, v1alpha1.StorageReadyCondition, metav1.ConditionTrue,
			v1alpha1.ReasonMembersNotReady, "2 of 3 nodes are unsealed")
	}, longTimeout)
	requireNoFailure(t, r)
	f.awaitRaft(t)
}

// awaitRaft waits until all nodes are unsealed and vote.
func (f *fixture) awaitRaft(t *testing.T) {
	t.Helper()
	awaitReported(t, f.Vault, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	awaitPeersVote(t, f.Vault, f.keys.RootToken)
}

// awaitPeersVote waits until all three nodes vote. One that has just joined does not yet, and could not elect another
// leader. Without a login of the operator only Vault tells.
func awaitPeersVote(t *testing.T, v vaulttest.Vault, token string) {
	t.Helper()
	v.AwaitHA(t, 2)
	// Vault waits ten seconds before it lets a node vote, and then does so when it looks the next time.
	shell.Eventually(t, "all nodes vote", 2*time.Minute, func() error {
		peers := v.Do(t, v.AwaitHA(t, 2).VaultStatus.Active, token, "vault operator raft list-peers")
		if voters := strings.Count(peers, " true"); voters != 3 {
			return fmt.Errorf("%d do", voters)
		}
		return nil
	})
}

// awaitVotes waits until another node could become active, with whichever storage the test has.
func awaitVotes(t *testing.T, v vaulttest.Vault, token string) {
	t.Helper()
	if anyStorage != smallEtcd {
		awaitPeersVote(t, v, token)
	}
}

// raftHandover is how long it may take until another node serves when the pod of the active one is deleted. It hands
// over before it ends; where it does not, another is elected in a few seconds.
const raftHandover = 10 * time.Second

func (f *fixture) loseRaftActive(t *testing.T) {
	r := f.underLoad(t, func(active string) {
		shell.Run(t, f.Kubectl("delete pod %s --wait=false", active))
		f.awaitOther(t, active)
	})
	requireOutage(t, r, raftHandover)
	f.awaitRaft(t)
}

// changeRaft replaces all nodes, with one failover.
func (f *fixture) changeRaft(t *testing.T) {
	onlyInAll(t, "an upgrade replaces the nodes in the same way")
	active := f.active(t)
	setSpec(t, f.Vault, `{"storage": {"raft": {"performanceMultiplier": 3}}}`)
	awaitCondition(t, f.Vault, 2*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionFalse,
		v1alpha1.ReasonAwaitingUnseal)
	changes, last := 0, active
	f.Await(t, "has replaced its nodes", func(s v1alpha1.VaultStatus) bool {
		if s.VaultStatus.Active != "" && s.VaultStatus.Active != last {
			changes, last = changes+1, s.VaultStatus.Active
		}
		f.TryUnsealAll(t, s.VaultStatus.Sealed, f.keys)
		return len(s.UpdatedNodes) == 3 && s.ReadyNodes == 3 && s.VaultStatus.Active != ""
	})
	if changes != 1 {
		t.Errorf("%d failovers in one rollout", changes)
	}
	awaitReported(t, f.Vault, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated, "")
	f.awaitRaft(t)
}

// badRaftVersion goes to a version that does not exist, which costs one standby node, and
// back.
func (f *fixture) badRaftVersion(t *testing.T) {
	onlyInAll(t, "TestUpgrade does so with etcd")
	active := f.AwaitHA(t, 2).VaultStatus.Active
	r := f.underLoad(t, func(string) {
		setSpec(t, f.Vault, `{"version": "1.99.0"}`)
		awaitCondition(t, f.Vault, 3*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionFalse,
			v1alpha1.ReasonNodeFailing)
		time.Sleep(20 * time.Second) // it must stay at one
		status, err := f.Status()
		if err != nil || status.ReadyNodes != 2 || status.VaultStatus.Active != active {
			t.Errorf("error %v, %d nodes are ready, active is %q, want 2 and %q", err, status.ReadyNodes,
				status.VaultStatus.Active, active)
		}
		setSpec(t, f.Vault, `{"version": "1.21.1"}`)
	}, longTimeout)
	requireNoFailure(t, r)
	awaitReported(t, f.Vault, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated, "")
	f.awaitRaft(t)
}
