package vaultstatus

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// raftNodes are the nodes of a Vault with integrated storage, by what they are for it. A
// node that is sealed does not vote.
// https://developer.hashicorp.com/vault/docs/concepts/integrated-storage
type raftNodes struct {
	wanted, majority int
	unsealed         int
	// active is the only one that says that it is; empty when none does, or several.
	active string
	// removed are those that say that they are not of the cluster any more.
	removed []string
	// others do not vote now, each with the reason if there is one. failing says that one of
	// them does not start by itself.
	others  []string
	failing bool
	// initialized says that one says so.
	initialized bool
}

// raft is the view of integrated storage.
func (in *storageInputs) raft() storageView {
	state, nodes := in.state(), in.raftNodes()
	view := storageView{
		ready: in.raftReady(state, nodes), works: !nodes.initialized || nodes.unsealed >= nodes.majority,
		refusal: state.Refusal(), deployed: true, changes: len(nodes.others) > 0, ownVolumes: true,
	}
	volumes := state.Volumes()
	if state.Recovered(nodes.active) {
		volumes = state.RecoveredVolumes()
	}
	if len(volumes) > 0 {
		view.status = &v1alpha1.StorageStatus{Volumes: volumes, VolumeSize: state.VolumeSize()}
	}
	return view
}

func (in *storageInputs) raftNodes() *raftNodes {
	wanted := int(in.vault.RunningNodes())
	n := &raftNodes{wanted: wanted, majority: storage.Quorum(wanted)}
	states := n.count(in.states)
	if in.set == nil {
		return n
	}
	for _, member := range in.state().Missing(in.now, func(uid types.UID) []string { return in.causes[uid] }) {
		state := states[member.Name]
		switch {
		case state == v1alpha1.NodeActive || state == v1alpha1.NodeStandby:
			continue // and the kubelet has not noticed yet
		case in.removed[member.Name]:
			n.removed = append(n.removed, member.Name)
			continue
		case state == v1alpha1.NodeSealed || state == v1alpha1.NodeUninitialized:
			member.Why = "sealed"
		case state == v1alpha1.NodeUnreachable || state == v1alpha1.NodeUnverified:
			member.Why = "it does not answer"
		default:
			n.failing = n.failing || member.Failing
		}
		if member.Why != "" {
			member.Name = fmt.Sprintf("%s (%s)", member.Name, member.Why)
		}
		n.others = append(n.others, member.Name)
	}
	return n
}

// count counts the nodes that are unsealed, finds the active one, and returns the states by name.
func (n *raftNodes) count(nodes []v1alpha1.NodeStatus) map[string]v1alpha1.NodeState {
	states := map[string]v1alpha1.NodeState{}
	var active []string
	for _, node := range nodes {
		states[node.Name] = node.State
		switch node.State {
		case v1alpha1.NodeActive, v1alpha1.NodeStandby:
			n.unsealed++
			n.initialized = true
			if node.State == v1alpha1.NodeActive {
				active = append(active, node.Name)
			}
		case v1alpha1.NodeSealed:
			n.initialized = true
		}
	}
	if len(active) == 1 {
		n.active = active[0]
	}
	return states
}

func (in *storageInputs) raftReady(state *storage.State, n *raftNodes) metav1.Condition {
	switch wrong := problem.In(state.Refusal()); {
	case in.set == nil && wrong != nil:
		return refused(wrong)
	case in.set == nil:
		return isUnknown(v1alpha1.ReasonNotObserved, "The StatefulSet %q does not exist yet", in.vault.Name)
	case state.MostLost() && !state.Recovered(n.active):
		return in.raftVolumesLost(state, n.active)
	}
	const count = "%d of %d nodes are unsealed"
	switch away := slices.Concat(n.others, n.removed); {
	case len(n.removed) > 0 && n.unsealed >= n.majority:
		return isTrue(v1alpha1.ReasonMembersNotReady, count+", which is a majority; removed from the cluster, and of use "+
			"again with empty volumes: %s%s", n.unsealed, n.wanted, join(n.removed), sharedHint(in.nodes)+growingHint(state))
	case n.unsealed >= n.wanted:
		return isTrue(v1alpha1.ReasonQuorum, count+"%s%s", n.unsealed, n.wanted, in.votersHint(),
			sharedHint(in.nodes)+growingHint(state))
	case n.unsealed >= n.majority:
		return isTrue(v1alpha1.ReasonMembersNotReady, count+", which is a majority; not: %s%s%s",
			n.unsealed, n.wanted, join(away), in.votersHint(), sharedHint(in.nodes)+growingHint(state))
	case in.firstStart() && n.failing:
		return isFalse(v1alpha1.ReasonMembersFailing, count+", %d are needed; not: %s",
			n.unsealed, n.wanted, n.majority, join(away))
	case !n.initialized && in.firstStart():
		// There is no data before Vault is initialized.
		return isUnknown(v1alpha1.ReasonNodesStarting, count+", %d are needed, and Vault is not initialized; not: %s",
			n.unsealed, n.wanted, n.majority, join(away))
	default:
		return isFalse(v1alpha1.ReasonNoQuorum, count+", and %d are needed: one that is sealed does not vote; not: %s",
			n.unsealed, n.wanted, n.majority, join(away))
	}
}

// raftVolumesLost is the condition when most nodes have lost their volumes, and active is the only active one, or none.
func (in *storageInputs) raftVolumesLost(state *storage.State, active string) metav1.Condition {
	const gone = "The volumes of most nodes are gone, being deleted or new: %s. "
	if state.Survives(active) {
		// They had not voted yet, or the active node will notice within seconds.
		return isFalse(v1alpha1.ReasonVolumesLost, gone+"%s is active and has the data: unseal the others, which join it",
			join(state.Lost()), active)
	}
	return isFalse(v1alpha1.ReasonVolumesLost, gone+"The other nodes cannot elect a leader without them: bring the "+
		"volumes back. If they are lost for good: kubectl vault recover-raft %s", join(state.Lost()), in.vault.Name)
}

// votersHint says which nodes vote and how many of them may be lost, where the operator is
// authorized to know.
func (in *storageInputs) votersHint() string {
	if in.vault.Status.Raft == nil || len(in.vault.Status.Raft.Voters) == 0 {
		return ""
	}
	return fmt.Sprintf("; voters: %s, of which %d more may be lost", join(in.vault.Status.Raft.Voters),
		spare(in.vault, in.states))
}

// spare is how many more nodes with integrated storage may be lost. Where it is not known who votes
// it is taken that all do that are unsealed.
func spare(vault *v1alpha1.Vault, states []v1alpha1.NodeStatus) int {
	members, up := int(vault.RunningNodes()), 0
	votes := func(string) bool { return true }
	if raft := vault.Status.Raft; raft != nil && len(raft.Voters) > 0 {
		members = len(raft.Voters)
		votes = func(name string) bool { return slices.Contains(raft.Voters, name) }
	}
	for _, state := range states {
		if (state.State == v1alpha1.NodeActive || state.State == v1alpha1.NodeStandby) && votes(state.Name) {
			up++
		}
	}
	return max(up-storage.Quorum(members), 0)
}

// spareHint says how many more nodes with integrated storage may be lost before none is active.
func spareHint(vault *v1alpha1.Vault, states []v1alpha1.NodeStatus) string {
	if !vault.HasRaft() {
		return ""
	}
	return fmt.Sprintf("; %d more nodes may be lost", spare(vault, states))
}
