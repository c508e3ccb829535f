package routing

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// vaultNode is what is known of one Vault pod.
type vaultNode struct {
	UID types.UID
	// Labelled says that the pod has the active label.
	Labelled bool
	// Starting says that the pod's container was started moments ago.
	Starting bool
	// Terminating says that the pod is being deleted. Kubernetes has taken it out of
	// the ready endpoints of its Services, whatever its labels are.
	Terminating bool
	// Ended says that Kubernetes reports no running Vault container in the pod.
	Ended bool
	// State is what the node last said; Unknown when it was not probed yet.
	State probe.State
	// Standby says that an Unreachable node was standby when it last answered.
	Standby bool
	// Silent says that an Unreachable node gave no answer at all, not even a wrong one.
	Silent bool
	// Connected says that an Unreachable node could be connected to.
	Connected bool
	// Refused says that no process listens at the address of an Unreachable node.
	Refused bool
	// Vouched says that another replica has put the label back on an Unreachable
	// node after this one had taken it away: it can reach the node.
	Vouched bool
}

// decision is what has to be done to the labels: first all of Demote, and only
// when that has succeeded, Promote.
type decision struct {
	// Demote are the pods that lose the label, whoever is promoted.
	Demote []types.UID
	// Promote is the pod that gets the label; empty for none. When its node proves
	// to be active all other pods that stay lose the label before.
	Promote types.UID
	// ExpectChange says that nodes should be probed in a burst, because the
	// active node is not known.
	ExpectChange bool
}

// decide computes the labels from what is known of all pods of one Vault, and
// from nothing else. The arguments for it are in the documentation of the package.
//
// A pod is promoted when it is the only one that says it is active, and no
// labelled pod was not probed yet. A labelled pod that stays loses the label
//
//   - when it says that it is not active, or when others say so too: the
//     storage's lock has one holder, so two claims contradict each other;
//   - when another one with the label is the only one that says it is active;
//   - when its container has ended;
//   - when it is silent, silence can be trusted (silenceCounts), no other replica
//     vouches for it, and another node could take over.
//
// A pod that is being deleted is not in the way: it is not among the ready
// endpoints any more, and gets no request while there are others. So its claim
// counts only while no other pod makes one, and it keeps its label until it is
// gone. Taking it away would make kube-proxy work twice, and by default it does
// so once a second at most: the promotion would wait for that second.
// https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions
func decide(nodes []vaultNode, silenceCounts bool) decision {
	t := count(nodes)
	d := decision{
		ExpectChange: t.undecided || t.starting || (t.unsealed > 0 && t.claims != 1),
	}
	for _, node := range nodes {
		switch {
		case t.legitimate(node):
			// A labelled pod that was not probed yet is neither demoted nor joined.
			if !node.Labelled && !t.undecided {
				d.Promote = node.UID
			}
		case node.Labelled && !node.Terminating && t.mustLeave(node, nodes, silenceCounts):
			d.Demote = append(d.Demote, node.UID)
		}
	}
	return d
}

// tally counts over all pods of a Vault.
type tally struct {
	// claims are the pods that say they are active and stay.
	claims int
	// terminatingClaims are the pods that say they are active and are being deleted.
	terminatingClaims   int
	responded, unsealed int
	// undecided says that a labelled pod was not probed yet.
	undecided bool
	// starting says that a young pod has not answered yet.
	starting bool
	// served says that the only node to be believed active has the label.
	served bool
}

// legitimate says that the node is the only one to be believed active.
func (t tally) legitimate(node vaultNode) bool {
	switch {
	case node.State != probe.Active:
		return false
	case node.Terminating:
		return t.claims == 0 && t.terminatingClaims == 1
	}
	return t.claims == 1
}

// mustLeave says that a labelled pod that stays, and is not the legitimate one,
// loses the label even when nobody gets it instead.
func (t tally) mustLeave(node vaultNode, nodes []vaultNode, silenceCounts bool) bool {
	switch {
	case node.State == probe.Unknown:
		return false
	case node.State.Responded(), node.Ended, t.served:
		return true
	case node.State == probe.Unverified, node.Vouched:
		return false
	case node.Refused:
		// A client is refused either way, so that nothing is won in a hurry. And a
		// firewall refuses in the name of a node that is well.
		return replaceable(node, nodes)
	default:
		return node.Silent && silenceCounts && replaceable(node, nodes)
	}
}

// replaceable says that another node could take over from a silent one. One that
// is sealed cannot.
func replaceable(node vaultNode, nodes []vaultNode) bool {
	for _, other := range nodes {
		switch {
		case other.UID == node.UID, other.Terminating:
		case other.State == probe.Standby, other.State == probe.Active:
			return true
		// While the storage is unavailable all nodes are silent and none could take over.
		// But one that cannot even be connected to has lost its Kubernetes node, and the
		// others wait for the storage, which is about to elect a leader.
		case other.Standby && other.Connected && !node.Connected:
			return true
		}
	}
	return false
}

func count(nodes []vaultNode) tally {
	var t tally
	for _, node := range nodes {
		switch {
		case node.claims():
			t.claims++
		case node.State == probe.Active:
			t.terminatingClaims++
		}
		if node.State == probe.Active || node.State == probe.Standby {
			t.unsealed++
		}
		if node.State.Responded() {
			t.responded++
		} else if node.Starting {
			t.starting = true
		}
		if node.Labelled && !node.Terminating && node.State == probe.Unknown {
			t.undecided = true
		}
	}
	for _, node := range nodes {
		t.served = t.served || node.Labelled && t.legitimate(node)
	}
	return t
}
