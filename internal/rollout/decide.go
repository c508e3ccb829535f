package rollout

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// node is what is known of one Vault pod.
type node struct {
	Name string
	UID  types.UID
	// Ordinal is its number in the StatefulSet.
	Ordinal int
	// Updated says that the pod is of the newest template.
	Updated bool
	// NewSeal says that the newest template has another seal, or other credentials for it, than the pod.
	NewSeal bool
	// Terminating says that the pod is being deleted.
	Terminating bool
	// Down says that no Vault runs in the pod, as Kubernetes reports it.
	Down bool
	// State is what the node said; Unknown when it was not probed yet.
	State probe.State
	// Removed says that the node is not of the cluster any more.
	Removed bool
	// CaughtUp says that the node has applied what the leader had committed when that was
	// looked at.
	CaughtUp bool
	// Settled says that the node was first seen unsealed with its volume so long ago that it
	// votes.
	Settled bool
	// Ready says that Services send requests to the pod.
	Ready bool

	// Peer is its ID as a member of the cluster, and Leader says that it leads that; both are
	// told by the active node, if that is known.
	Peer   string
	Leader bool
	// Ghost says that the node was unsealed for long and is no peer.
	Ghost bool
	// VolumeLost says that Kubernetes has lost its volume, and Old that it has its claim for long.
	VolumeLost, Old bool
}

// decision is what to do next.
type decision struct {
	// Delete is the pod to delete; empty for none.
	Delete types.UID
	// Without are the nodes that the cluster relies on when it is gone.
	Without []types.UID
	// Done says that all pods are of the newest template.
	Done bool
	// Why says what is waited for, when there is something to do and it is not done yet.
	Why string
}

// decide chooses the pod to delete next, so that one of the newest template takes its
// place, of what is known of all pods of one Vault, and of nothing else.
//
// Nodes that do not vote now go first, then standby nodes, the one of the highest number
// first, and the active one last. One at a time:
//
//   - every pod is there, and none is being deleted;
//   - those of the newest template are unsealed, of the cluster, have caught up and vote. So a
//     template that does not work stops at the first pod. That one is deleted when the
//     template is set back, or fixed;
//   - without the pod a majority of the nodes is unsealed, has caught up and votes, and one
//     of them or the pod itself is active. A pod that does not vote can go without that;
//   - those others are ready, so that clients can go there;
//   - of a Vault with one node that one can go at any time: it cannot be replaced
//     otherwise.
//
// A fact that is missing counts against it: a node that does not tell its state may be one
// that votes, and is not one that others can rely on.
// The majority is that of the nodes, or of the voters, if the cluster counts more of them.
func decide(nodes []node, wanted, voters int) decision {
	var old []node
	for _, n := range nodes {
		if !n.Updated {
			old = append(old, n)
		}
	}
	if len(old) == 0 {
		return decision{Done: true}
	}
	if len(nodes) != wanted {
		return decision{Why: fmt.Sprintf("%d of %d pods are there", len(nodes), wanted)}
	}
	for _, n := range nodes {
		switch {
		case n.Terminating:
			return decision{Why: n.Name + " is being deleted"}
		case n.Updated && !n.reliable():
			return decision{Why: "the updated node " + n.Name + " is not unsealed, has not caught up, or has just joined"}
		}
	}
	slices.SortFunc(old, func(a, b node) int {
		return cmp.Or(cmp.Compare(a.turn(), b.turn()), cmp.Compare(b.Ordinal, a.Ordinal))
	})
	next := old[0]
	if !next.votes() || wanted == 1 {
		return decision{Delete: next.UID}
	}
	if why := missing(nodes, next, max(wanted, voters)); why != "" {
		return decision{Why: why}
	}
	if other := notReady(nodes, next); other != "" {
		return decision{Why: other + " is not ready"}
	}
	return decision{Delete: next.UID, Without: others(nodes, next)}
}

// notReady is one of the nodes that the cluster relies on without that one, and that no
// Service sends requests to, or nothing.
func notReady(nodes []node, without node) string {
	for _, n := range nodes {
		if !n.Ready && n.reliable() && n.UID != without.UID {
			return n.Name
		}
	}
	return ""
}

// missing is what the cluster would lack without the node, or nothing.
func missing(nodes []node, without node, voters int) string {
	active := 0
	for _, n := range nodes {
		if n.State == probe.Active {
			active++
		}
	}
	switch reliable, majority := len(others(nodes, without)), voters/2+1; {
	case active != 1:
		return fmt.Sprintf("%d nodes say that they are active", active)
	case reliable < majority:
		return fmt.Sprintf("without %s %d nodes would be unsealed, have caught up and vote, and %d are needed",
			without.Name, reliable, majority)
	}
	return ""
}

// others are the nodes that can be relied on without that one.
func others(nodes []node, without node) []types.UID {
	var uids []types.UID
	for _, n := range nodes {
		if n.UID != without.UID && n.reliable() {
			uids = append(uids, n.UID)
		}
	}
	return uids
}

// unsealed says that the node says so.
func (n node) unsealed() bool { return n.State == probe.Active || n.State == probe.Standby }

// reliable says that the others can do with this node.
func (n node) reliable() bool {
	return n.unsealed() && !n.Removed && !n.Down && !n.Terminating &&
		(n.State == probe.Active || n.CaughtUp && n.Settled)
}

// votes says that the node may be one that votes: it is not known to be sealed or down. What
// Kubernetes tells may be older than what the node says.
func (n node) votes() bool {
	return n.unsealed() || !n.Down && n.State != probe.Sealed && n.State != probe.Uninitialized
}

// turn is when the node is replaced, compared with others.
func (n node) turn() int {
	switch {
	case !n.votes():
		return 0
	case n.State == probe.Active:
		return 2
	default:
		return 1
	}
}
