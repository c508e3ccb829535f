package v1alpha1

import (
	"fmt"
	"strconv"
	"strings"
)

// ResizedCondition is there once another number of nodes of a Vault with storage.raft was wanted.
// It is False while nodes beyond spec.nodes are taken out of the cluster, or cannot be (the
// message says what is waited for, or what to do), and True when spec.nodes run.
const ResizedCondition = "Resized"

// Reasons of ResizedCondition.
const (
	// ReasonResized: the nodes of spec.nodes run, and no others.
	ReasonResized = "Resized"
	// ReasonResizing: a node is taken out of the cluster, or waits for others to be reliable.
	ReasonResizing = "Resizing"
	// ReasonRemovalRefused: the operator may not take a node out of the cluster, because it is
	// not authorized in this Vault; the message says what to do instead.
	ReasonRemovalRefused = "RemovalRefused"
)

// RemovedNodeAnnotation is on the volume claim of a node with storage.raft that is of no use to
// the cluster any more: the operator deletes it, and nothing else ever uses it.
const RemovedNodeAnnotation = "vault.security.coreos.com/removed-node"

// RaftStatus is what is known of the integrated storage of a Vault.
type RaftStatus struct {
	// nodes is how many nodes may run now. It follows spec.nodes: at once when that is raised,
	// and one by one when it is lowered, each when the cluster has got rid of the node.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Nodes that may run",order=46,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Nodes int32 `json:"nodes,omitempty"`

	// voters are the pods whose nodes vote, as the active node has told the operator. They are
	// known where the operator is authorized in the Vault (spec.operatorLogin). A node that is
	// sealed is among them, and does not vote before it is unsealed. A voter that is no node of this
	// Vault is there by its address: the majority counts it.
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Voters",order=47,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Voters []string `json:"voters,omitempty"`
}

// RunningNodes is how many nodes may run now: spec.nodes, but for nodes with integrated storage
// that the cluster has to get rid of first.
func (v *Vault) RunningNodes() int32 {
	if !v.HasRaft() || v.Status.Raft == nil || v.Status.Raft.Nodes < 1 {
		return v.WantedNodes()
	}
	return v.Status.Raft.Nodes
}

// NodeName is the name of the pod of a node with integrated storage.
func (v *Vault) NodeName(ordinal int) string { return v.Name + "-" + strconv.Itoa(ordinal) }

// NodeAddress is where a node with integrated storage is reached by the others.
func (v *Vault) NodeAddress(ordinal int) string {
	return fmt.Sprintf("%s.%s-nodes.%s.svc:8201", v.NodeName(ordinal), v.Name, v.Namespace)
}

// NodeAt is the ordinal of the node with integrated storage at an address.
func (v *Vault) NodeAt(address string) (ordinal int, found bool) {
	first, _, _ := strings.Cut(address, ".")
	ordinal, err := strconv.Atoi(strings.TrimPrefix(first, v.Name+"-"))
	return ordinal, err == nil && ordinal >= 0 && v.NodeAddress(ordinal) == address
}
