package routing

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// Node is what is known of one Vault pod.
type Node struct {
	UID types.UID
	// Labelled says that the pod has the active label.
	Labelled bool
	// Starting says that the pod's container was started moments ago.
	Starting bool
	// Leaving says that the pod is being deleted. Kubernetes has taken it out of
	// the ready endpoints of its Services, whatever its labels are.
	Leaving bool
	// State is what the node last said; Unknown when it was not asked yet.
	State probe.State
	// Connected says that an Unreachable node could be connected to.
	Connected bool
}

// Decision is what has to be done to the labels: first all of Demote, and only
// when that has succeeded, Promote.
type Decision struct {
	// Demote are the pods that lose the label.
	Demote []types.UID
	// Promote is the pod that gets the label; empty for none.
	Promote types.UID
	// ExpectChange says that nodes should be asked in a burst, because the
	// active node is not known.
	ExpectChange bool
}

// Decide computes the labels from what is known of all pods of one Vault, and
// from nothing else, so that every replica of the operator comes to the same.
//
// There are never two active pods in the Service: the only pod that is promoted
// is the only one that says it is active, and all others are demoted first. Two
// that say so contradict each other, since the storage's lock has one holder:
// both are demoted until one of them changes its mind.
//
// A pod that is being deleted is not in the way: it is not among the ready
// endpoints any more, and gets no request while there are others. So its claim
// counts only while no other pod makes one, and it keeps its label until it is
// gone. Taking it away would make kube-proxy work twice, and by default it does
// so once a second at most: the promotion would wait for that second.
// https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions
//
// Nothing is done on missing facts: a labelled pod that was not asked yet keeps
// the label, and so does one that does not answer while no other pod answers
// either, because then it may be the operator that is cut off, or the storage is
// away from all of them, and no other node is known that could serve instead. It is
// neither when another pod can be connected to and this one cannot.
func Decide(nodes []Node) Decision {
	facts := gather(nodes)
	d := Decision{
		ExpectChange: facts.undecided || facts.starting || (facts.unsealed > 0 && facts.claimants != 1),
	}
	for _, node := range nodes {
		rightful := facts.rightful(node)
		switch {
		case rightful && node.Labelled:
		case rightful:
			// A labelled pod that was not asked yet is neither demoted nor joined.
			if !facts.undecided {
				d.Promote = node.UID
			}
		case !node.Labelled, node.Leaving, node.State == probe.Unknown, node.State == probe.Unverified:
		case node.State == probe.Unreachable && facts.answered == 0 && (node.Connected || facts.connected == 0):
		default:
			d.Demote = append(d.Demote, node.UID)
		}
	}
	return d
}

// facts are counts over all pods of a Vault.
type facts struct {
	// claimants are the pods that say they are active and stay.
	claimants int
	// leavers are the pods that say they are active and are being deleted.
	leavers            int
	answered, unsealed int
	// connected are the pods that do not answer and can be connected to.
	connected int
	// undecided says that a labelled pod was not asked yet.
	undecided bool
	// starting says that a young pod has not answered yet.
	starting bool
}

// rightful says that the node is the only one to be believed active.
func (f facts) rightful(node Node) bool {
	switch {
	case node.State != probe.Active:
		return false
	case node.Leaving:
		return f.claimants == 0 && f.leavers == 1
	}
	return f.claimants == 1
}

func gather(nodes []Node) facts {
	var f facts
	for _, node := range nodes {
		switch {
		case node.State == probe.Active && node.Leaving:
			f.leavers++
		case node.State == probe.Active:
			f.claimants++
		}
		if node.State == probe.Active || node.State == probe.Standby {
			f.unsealed++
		}
		if node.State.Answered() {
			f.answered++
		} else if node.Starting {
			f.starting = true
		}
		if node.Connected {
			f.connected++
		}
		if node.Labelled && !node.Leaving && node.State == probe.Unknown {
			f.undecided = true
		}
	}
	return f
}
