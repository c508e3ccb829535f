package plugin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	vaultapi "github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// raftNode is what is known of a node with integrated storage.
type raftNode struct {
	// name is that of its pod.
	name string
	// claim and pod are nil when there is none.
	claim *corev1.PersistentVolumeClaim
	pod   *corev1.Pod
	// seal is what the node says, or nil when it does not answer; leader is what it says when
	// it is unsealed.
	seal   *SealStatus
	leader *vaultapi.LeaderResponse
}

func (n *raftNode) claimName() string { return "data-" + n.name }

// contents is what a node has on its volume.
type contents int

const (
	// nothing: the node has no volume, or can never be of the cluster again.
	nothing contents = iota
	// down: it does not run. Its volume may have the data, if it starts.
	down
	// unknown: it may run, and does not answer.
	unknown
	// empty: it has an empty volume.
	empty
	// joining: it has an empty volume, and has asked nodes to be let in that may not lead now.
	joining
	// data: it has a Vault's.
	data
)

// contents tells what a node has. One that has asked to join says that it is initialized, and
// has nothing yet: so one that is sealed has data only on a volume that it was ready with,
// where the operator has written down which these are.
func (n *raftNode) contents(vault *v1alpha1.Vault) contents {
	switch {
	case n.seal == nil && n.pod != nil && running(n.pod, v1alpha1.VaultContainer):
		return unknown
	case n.seal == nil && n.claim != nil && n.claim.DeletionTimestamp == nil:
		return down
	case n.seal == nil:
		return nothing
	case !n.seal.Initialized:
		return empty
	case n.seal.RemovedFromCluster != nil && *n.seal.RemovedFromCluster,
		n.claim == nil || n.claim.DeletionTimestamp != nil:
		return nothing
	case n.seal.Sealed && !n.wasReady(vault):
		return joining
	}
	return data
}

// keepsVolume says that a node only does not run, and that its volume is there with the data that it had.
func (n *raftNode) keepsVolume(vault *v1alpha1.Vault) bool {
	return n.contents(vault) == down && n.claim.Status.Phase != corev1.ClaimLost && n.wasReady(vault)
}

// wasReady says that the node was ready with the volume that it has; it may have been where the operator has not
// written down which these are.
func (n *raftNode) wasReady(vault *v1alpha1.Vault) bool {
	volumes := vault.StorageVolumes()
	return len(volumes) == 0 ||
		slices.Contains(volumes, v1alpha1.StorageVolume{Claim: n.claim.Name, UID: n.claim.UID})
}

// whyDown is why a node does not run, as Kubernetes tells.
func (n *raftNode) whyDown() string {
	if n.pod == nil {
		return "it has no pod"
	}
	for _, c := range n.pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	for _, c := range slices.Concat(n.pod.Status.InitContainerStatuses, n.pod.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			return strings.TrimSpace(w.Reason + " " + w.Message)
		}
	}
	return "its pod is " + string(n.pod.Status.Phase)
}

// index is how far the data of a node goes, as it says; 0 when it does not tell.
func (n *raftNode) index() uint64 {
	if n.leader == nil {
		return 0
	}
	return n.leader.RaftAppliedIndex
}

// newest says how new the data of a node is.
func (n *raftNode) newest() string {
	if index := n.index(); index > 0 {
		return fmt.Sprintf("has data up to index %d", index)
	}
	return "has data, and is sealed, so that it does not tell how new that is"
}

// recoveryPlan is how a Vault is recovered from one node.
type recoveryPlan struct {
	Vault    string `json:"vault"`
	Survivor string `json:"survivor"`
	// AppliedIndex is how far its data goes, where it tells.
	AppliedIndex uint64 `json:"appliedIndex,omitempty"`
	// Replaced are the nodes whose volume claims are deleted.
	Replaced []string `json:"replaced"`
	// GivenUp are those of them whose volume is there: they only do not run.
	GivenUp []string `json:"givenUp,omitempty"`
	// SetAside are those whose data is kept aside, on their volumes.
	SetAside []string `json:"setAside"`

	survivor *raftNode
	// restarted have to ask once more to be let in, and empty do by themselves.
	replaced, setAside, restarted, empty []*raftNode
}

// planRecovery decides how a Vault is recovered, from what is known of all its nodes and from
// nothing else. It refuses where the Vault works, or may without it.
func planRecovery(vault *v1alpha1.Vault, nodes []raftNode, survivor string) (*recoveryPlan, error) {
	plan := &recoveryPlan{Vault: vault.Name, Replaced: []string{}, SetAside: []string{}}
	var withData []*raftNode
	for i := range nodes {
		n := &nodes[i]
		if n.leader != nil && n.leader.IsSelf {
			return nil, exit(exitRefused, "%s is active, so there is nothing to recover: unseal the others, if they "+
				"are sealed: kubectl vault unseal %s -n %s", n.name, vault.Name, vault.Namespace)
		}
		switch n.contents(vault) {
		case unknown:
			return nil, exit(exitRefused, "%[1]s does not answer, and may still run: it could go on as the old Vault "+
				"beside the recovered one. Wait until it answers. If its Kubernetes node is gone for good, or it hangs, delete "+
				"it and run this again: kubectl delete pod %[1]s -n %[2]s --force", n.name, vault.Namespace)
		case nothing, down:
			plan.replaced = append(plan.replaced, n)
			plan.Replaced = append(plan.Replaced, n.name)
			if n.keepsVolume(vault) {
				plan.GivenUp = append(plan.GivenUp, n.name)
			}
		case empty:
			plan.empty = append(plan.empty, n)
		case joining:
			plan.restarted = append(plan.restarted, n)
		case data:
			withData = append(withData, n)
		}
	}
	members := cmp.Or(len(vault.StorageVolumes()), len(nodes))
	if majority := members/2 + 1; len(withData) >= majority {
		return nil, exit(exitRefused, "%d of %d nodes have their data, which is enough: unseal them, and nothing is lost: "+
			"kubectl vault unseal %s -n %s", len(withData), members, vault.Name, vault.Namespace)
	}
	var err error
	if plan.survivor, err = chooseSurvivor(vault, withData, survivor); err != nil {
		return nil, err
	}
	plan.Survivor, plan.AppliedIndex = plan.survivor.name, plan.survivor.index()
	for _, n := range withData {
		if n != plan.survivor {
			plan.setAside = append(plan.setAside, n)
			plan.SetAside = append(plan.SetAside, n.name)
		}
	}
	return plan, nil
}

// chooseSurvivor is the node that was named, or the only one, or the one with the newest data
// when all tell how new that is.
func chooseSurvivor(vault *v1alpha1.Vault, nodes []*raftNode, named string) (*raftNode, error) {
	var names, silent []string
	for _, n := range nodes {
		if n.name == named {
			return n, nil
		}
		names = append(names, n.name)
		if n.index() == 0 {
			silent = append(silent, n.name)
		}
	}
	switch {
	case len(nodes) == 0:
		return nil, exit(exitRefused, "no node of Vault %s that answers has data. Bring a volume back, or make a "+
			"new Vault and restore a snapshot into it", vault.Name)
	case named != "":
		return nil, exit(exitRefused, "%s does not answer or has no data; these have: %s",
			line(named), strings.Join(names, ", "))
	case len(nodes) == 1:
		return nodes[0], nil
	case len(silent) > 0:
		return nil, exit(exitRefused, "%s have data, and a node that is sealed does not tell how new that is: %s. "+
			"Unseal them, or name the one to keep by --survivor", strings.Join(names, ", "), strings.Join(silent, ", "))
	}
	return slices.MaxFunc(nodes, func(a, b *raftNode) int {
		return cmp.Or(cmp.Compare(a.index(), b.index()),
			cmp.Compare(a.leader.RaftCommittedIndex, b.leader.RaftCommittedIndex))
	}), nil
}
