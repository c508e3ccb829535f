package rollout

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

// membership is what is known of the nodes of a Vault as members of its cluster, and of how
// many there should be.
type membership struct {
	nodes []node
	// wanted is how many nodes the spec wants, running how many may run, and replicas how many
	// the StatefulSet has been told to run.
	wanted, running, replicas int
	// founded says that Vault is initialized, as far as is known.
	founded bool
	// known says that the active node has told its peers, and refused that the operator may not
	// read them. away are those of them that have the address of a node beyond those that may run
	// and has no pod, and voters is how many vote.
	known, refused bool
	away           []vaultclient.Peer
	voters         int
	// led says that the peers were told by the node that leads them. Not all need be known as nodes.
	led bool
	// counted are the ordinals of the peers that are away.
	counted []int
	// told says that the status has how many nodes may run.
	told bool
	// removed are the ordinals of claims that are marked to be deleted, and stuck are why some of them stay: somebody
	// has refused it, or they are being deleted.
	removed []int
	stuck   map[int]string
}

// step is what can be done to the members of a cluster.
type step string

// One step is done at a time.
const (
	// deleteClaim deletes the claim of a node that the cluster has got rid of.
	deleteClaim step = "delete a claim"
	// run lets as many nodes run as Running says.
	run step = "run nodes"
	// stepDown has a node give up its place, since it is removed next.
	stepDown step = "step down"
	// removePeer takes a peer out of the cluster.
	removePeer step = "remove a peer"
	// replaceVolume deletes the claim and the pod of a node, so that it joins anew.
	replaceVolume step = "replace a volume"
)

// change is what to do next to the members.
type change struct {
	// Do is empty for nothing.
	Do step
	// Ordinal is that of the node, and Pod its pod; empty if there is none.
	Ordinal int
	Pod     types.UID
	// Peer is the ID of the peer to remove.
	Peer string
	// Running is how many nodes may run then.
	Running int
	// Why says what is waited for, or why it is done.
	Why string
	// Refused says that nothing goes on before the operator is authorized, or somebody removes
	// the node.
	Refused bool
}

// decideMembers chooses what to do next about the members of the cluster, of what is known of
// all pods and peers of one Vault, and of nothing else.
//
// A node beyond those that are wanted goes in these steps, each of which can be told from the
// cluster, so that another process goes on where one has ended: its peer is removed; the
// active node tells that it is none any more; its claim is marked, and fewer nodes may run;
// the StatefulSet ends its pod; its claim is deleted. The highest number goes first, since
// the StatefulSet begins there. An active one steps down before. Without the peers the node
// itself may tell that it was removed.
//
// One that the cluster has lost, though it should have it, gets an empty volume and joins anew:
// it says that it was removed, or is unsealed and no peer, or its volume is gone.
//
// Nothing of that is done while a pod is missing or ends, or without a majority of the others
// that is unsealed, has caught up and votes, one of them active. A fact that is missing counts
// against it.
func decideMembers(m membership) change {
	if i := slices.IndexFunc(m.removed, m.unused); i >= 0 {
		return change{Do: deleteClaim, Ordinal: m.removed[i], Why: "the cluster has got rid of its node"}
	}
	growing := m.grow()
	if growing.Do != "" {
		return growing
	}
	if c := m.heal(); c.Do != "" {
		return c
	}
	if m.wanted < m.running {
		return m.shrink()
	}
	if c := m.clean(); c.Do != "" {
		return c
	}
	return growing
}

// unused says that no pod has the claim of that ordinal, or can get it, and that its node is no
// peer any more, where that can be known.
func (m *membership) unused(ordinal int) bool {
	return m.told && ordinal >= max(m.running, m.replicas) && m.at(ordinal) == nil && m.stuck[ordinal] == "" &&
		(m.known || m.refused || !m.founded) && !slices.Contains(m.counted, ordinal)
}

func (m *membership) at(ordinal int) *node {
	for i := range m.nodes {
		if m.nodes[i].Ordinal == ordinal {
			return &m.nodes[i]
		}
	}
	return nil
}

// grow lets all nodes run, if more are wanted. A volume that a node left which was removed must not come back.
func (m *membership) grow() change {
	if left := m.leftOver(); left != "" {
		return change{Why: left}
	}
	if m.wanted <= m.running {
		return change{}
	}
	return change{Do: run, Running: m.wanted, Why: "more nodes are wanted"}
}

// leftOver says which volume of a node that was removed is still there, and why, or nothing.
func (m *membership) leftOver() string {
	for _, ordinal := range m.removed {
		if ordinal < m.running {
			continue
		}
		text := fmt.Sprintf("the volume of node %d, which was removed, is deleted first", ordinal)
		if why := m.stuck[ordinal]; why != "" {
			text += ": " + why
		}
		return text
	}
	return ""
}

// unsettled is why nothing can be done now, or nothing.
func (m *membership) unsettled() string {
	if m.replicas != m.running || len(m.nodes) != m.running {
		return fmt.Sprintf("%d pods are there and %d nodes may run", len(m.nodes), m.running)
	}
	for ordinal := range m.running {
		if m.at(ordinal) == nil {
			return fmt.Sprintf("there is no pod of node %d", ordinal)
		}
	}
	for _, n := range m.nodes {
		if n.Terminating {
			return n.Name + " is being deleted"
		}
	}
	return ""
}

// lacks is what the cluster would lack without the node, if so many of the others have to be
// reliable, or nothing.
func (m *membership) lacks(without node, needed int) string {
	var active []node
	for _, n := range m.nodes {
		if n.State == probe.Active {
			active = append(active, n)
		}
	}
	reliable := len(others(m.nodes, without))
	switch {
	case len(active) != 1:
		return fmt.Sprintf("%d nodes say that they are active", len(active))
	case reliable < needed:
		return fmt.Sprintf("without %s %d nodes would be unsealed, have caught up and vote, and %d are needed",
			without.Name, reliable, needed)
	}
	return ""
}

// shrink takes away the node of the highest number.
func (m *membership) shrink() change {
	if why := m.unsettled(); why != "" {
		return change{Why: why}
	}
	n := *m.at(m.running - 1)
	gone := change{Do: run, Ordinal: n.Ordinal, Running: m.running - 1}
	switch {
	case !m.founded && m.allEmpty():
		gone.Why = "Vault is not initialized"
		return gone
	case m.refused && !n.Removed:
		return change{Refused: true, Ordinal: n.Ordinal, Why: "the operator may not remove " + n.Name + " from the cluster"}
	case !m.refused && !m.known:
		return change{Why: "the active node has not told its peers"}
	case n.joins():
		// It joins, or the peers are those that an old leader knows.
		return change{Why: n.Name + " is unsealed, and is not known to be a peer"}
	}
	if why := m.lacks(n, m.majority()); why != "" {
		return change{Why: why}
	}
	if n.Peer == "" || m.refused {
		gone.Why = "it is no peer of the cluster, or says that it was removed from it"
		return gone
	}
	if n.State == probe.Active || n.Leader {
		return change{Do: stepDown, Ordinal: n.Ordinal, Pod: n.UID, Why: "it is removed next"}
	}
	return change{Do: removePeer, Ordinal: n.Ordinal, Pod: n.UID, Peer: n.Peer, Why: "fewer nodes are wanted"}
}

// joins says that the node is unsealed and not known as a peer, which may be because it joins now.
func (n node) joins() bool {
	return n.Peer == "" && !n.Removed && (n.State == probe.Active || n.State == probe.Standby && !n.Ghost)
}

// majority of what is left when one is gone.
func (m *membership) majority() int { return (max(m.running, m.voters)-1)/2 + 1 }

// allEmpty says that no node can have data.
func (m *membership) allEmpty() bool {
	return !slices.ContainsFunc(m.nodes, func(n node) bool { return n.State != probe.Uninitialized })
}

// heal replaces the volume of a node that the cluster has lost, unless it is to go anyway.
func (m *membership) heal() change {
	if m.unsettled() != "" {
		return change{}
	}
	for _, n := range m.nodes {
		// Where the operator may not remove peers administrators do, several one after the other.
		goes := n.Ordinal >= m.wanted && (n.Ordinal == m.running-1 || m.refused && n.Removed)
		why := n.lost()
		if why == "" || !n.Old || goes || n.State == probe.Active || n.Leader {
			continue
		}
		if m.lacks(n, max(m.running, m.voters)/2+1) == "" {
			return change{Do: replaceVolume, Ordinal: n.Ordinal, Pod: n.UID, Why: why}
		}
	}
	return change{}
}

// lost is why the node is of no use before it has another volume, or nothing.
func (n node) lost() string {
	switch {
	case n.VolumeLost:
		return "its volume is lost"
	case n.Removed:
		return "it says that it was removed from the cluster"
	case n.Ghost:
		return "it is unsealed and not a peer of the cluster"
	default:
		return ""
	}
}

// clean removes a peer that has no node any more.
func (m *membership) clean() change {
	if !m.known || len(m.away) == 0 || m.unsettled() != "" || m.lacks(node{}, max(m.voters-1, m.running)/2+1) != "" {
		return change{}
	}
	peer := m.away[0]
	if peer.Leader {
		return change{}
	}
	return change{Do: removePeer, Ordinal: -1, Peer: peer.ID, Why: "it has no node any more"}
}
