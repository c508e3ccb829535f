// Package vaultstatus is the controller that writes what an administrator sees of a
// Vault: the status of its nodes, the conditions and the events.
package vaultstatus

import (
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// facts is all that a status is computed from.
type facts struct {
	vault *v1alpha1.Vault
	// previous is the status that was written last.
	previous v1alpha1.VaultStatus
	// pods of the Vault, by name.
	pods         []corev1.Pod
	observations map[types.UID]probe.Observation
	// labelProblem is why the active label could not be set or removed, or empty.
	labelProblem string
	// starting are the pods that need not answer yet.
	starting map[types.UID]bool
	// workload is what runs the nodes, or nil.
	workload *workload.Workload
	storageFacts
	// storage is what is told of it; compute sets it.
	storage storageView
	// unmade is why no volume is made for a pod that waits for one, by its UID.
	unmade map[types.UID]string
	// certificates is what is known of the certificates.
	certificates certificates
	// inputs are why certificates and what the user brings cannot be used, or could not
	// be read, by the type of the condition that tells of it.
	inputs map[string]error
	// token is what is known of the token of spec.seal, and tokenLooked says that it was
	// looked up.
	token       seal.Token
	tokenLooked bool
	now         time.Time
}

// complete says that every pod that runs was probed. Before that, for a moment
// after the operator has started, a status would report what is not known.
func (f *facts) complete() bool {
	for i := range f.pods {
		pod := &f.pods[i]
		if pods.Running(pod) && !pods.Terminating(pod) && f.observations[pod.UID].State == probe.Unknown {
			return false
		}
	}
	return true
}

// unread is why inputs could not be read; nil when they could be, whatever was in them.
// No event tells when the API server works again.
func (f *facts) unread() error {
	var unread []error
	for _, conditionType := range slices.Sorted(maps.Keys(f.inputs)) {
		if err := f.inputs[conditionType]; err != nil && problem.In(err) == nil {
			unread = append(unread, err)
		}
	}
	return errors.Join(unread...)
}

// compute returns the status that the facts add up to.
func compute(f *facts) v1alpha1.VaultStatus {
	states := nodeStatuses(f)
	f.storage = viewStorage(f, states)
	status := v1alpha1.VaultStatus{
		ObservedGeneration: f.vault.Generation,
		ServiceName:        f.vault.Name,
		ClientPort:         v1alpha1.ClientPort,
		Selector:           labels.SelectorFromSet(f.vault.PodLabels()).String(),
		NodeStatuses:       states,
		Initialized:        initialized(f),
		Version:            version(f),
		DataVersion:        dataVersion(f),
	}
	updated, _ := byTemplate(f)
	status.UpdatedNodes = namesOf(updated)
	status.VaultStatus = nodesStatus(status.NodeStatuses, served(f))
	status.PodStatuses = podStatuses(status.NodeStatuses)
	nodes := &status.VaultStatus
	for i := range f.pods {
		if !pods.Ended(&f.pods[i]) {
			status.Nodes++
		}
	}
	status.StandbyNodes = int32(len(nodes.Standby))
	status.SealedNodes = int32(len(nodes.Sealed))
	status.ReadyNodes = status.StandbyNodes + int32(len(nodes.ActiveClaims))
	if nodes.Active != "" && len(nodes.ActiveClaims) == 0 {
		status.ReadyNodes++
	}
	status.Seal = sealStatus(f, status.Initialized)
	status.Storage = f.storage.status
	status.Conditions = conditions(f, &status)
	status.Phase = phase(&status)
	return status
}

// nodeStatuses says what is known of each node. A pod that is being deleted is
// listed only as long as it is still the active one, since nobody should unseal
// it or count on it: its claim does not stand against that of a pod that stays.
func nodeStatuses(f *facts) []v1alpha1.NodeStatus {
	var nodes []v1alpha1.NodeStatus
	succeeded := slices.ContainsFunc(f.pods, func(pod corev1.Pod) bool {
		return !pods.Terminating(&pod) && nodeState(f, &pod) == v1alpha1.NodeActive
	})
	for i := range f.pods {
		pod := &f.pods[i]
		state := nodeState(f, pod)
		if pods.Ended(pod) || pods.Terminating(pod) && (state != v1alpha1.NodeActive || succeeded) {
			continue
		}
		node := v1alpha1.NodeStatus{Name: pod.Name, State: state}
		if pods.Running(pod) {
			node.Version = f.observations[pod.UID].Version
			node.Certificate = certificateStatus(f.observations[pod.UID].Certificate)
		}
		nodes = append(nodes, node)
	}
	return nodes
}

func nodeState(f *facts, pod *corev1.Pod) v1alpha1.NodeState {
	observation := f.observations[pod.UID]
	switch {
	case !pods.Running(pod):
		return v1alpha1.NodeStarting
	case observation.State == probe.Active:
		return v1alpha1.NodeActive
	case observation.State == probe.Standby:
		return v1alpha1.NodeStandby
	case observation.State == probe.Sealed:
		return v1alpha1.NodeSealed
	case observation.State == probe.Uninitialized:
		return v1alpha1.NodeUninitialized
	case observation.State == probe.Unverified:
		return v1alpha1.NodeUnverified
	case observation.State == probe.Unreachable && (observation.Lost() || !f.starting[pod.UID]):
		return v1alpha1.NodeUnreachable
	default:
		return v1alpha1.NodeStarting
	}
}

func podStatuses(list []v1alpha1.NodeStatus) map[v1alpha1.NodeState][]string {
	byState := map[v1alpha1.NodeState][]string{}
	for _, node := range list {
		byState[node.State] = append(byState[node.State], node.Name)
	}
	return byState
}

// served is the name of the only pod that the Service leads to, or empty.
func served(f *facts) (name string) {
	for i := range f.pods {
		pod := &f.pods[i]
		if !pods.Labelled(pod) || pods.Terminating(pod) {
			continue
		}
		if name != "" || f.labelProblem != "" {
			return ""
		}
		name = pod.Name
	}
	return name
}

// nodesStatus sorts the nodes by their state. Of several that say that they are active, the one
// that is served is: it is when most nodes follow it.
func nodesStatus(list []v1alpha1.NodeStatus, served string) v1alpha1.NodesStatus {
	var nodes v1alpha1.NodesStatus
	var active []string
	for _, node := range list {
		switch node.State {
		case v1alpha1.NodeActive:
			active = append(active, node.Name)
		case v1alpha1.NodeStandby:
			nodes.Standby = append(nodes.Standby, node.Name)
		case v1alpha1.NodeSealed, v1alpha1.NodeUninitialized:
			nodes.Sealed = append(nodes.Sealed, node.Name)
		case v1alpha1.NodeUnreachable, v1alpha1.NodeUnverified:
			nodes.Unreachable = append(nodes.Unreachable, node.Name)
		}
	}
	switch {
	case len(active) == 1:
		nodes.Active = active[0]
	case slices.Contains(active, served):
		nodes.Active, nodes.ActiveClaims = served, active
	default:
		nodes.ActiveClaims = active
	}
	return nodes
}

// initialized is what the nodes say; while none answers it is what was known. One that has
// lost the volume of its own knows nothing of the data that others have. A pod that ends may
// be one of a Vault of the same name that was deleted.
func initialized(f *facts) bool {
	var uninitialized int32
	for i := range f.pods {
		o := f.observations[f.pods[i].UID]
		switch {
		case pods.Terminating(&f.pods[i]):
		case o.State == probe.Uninitialized:
			uninitialized++
		case o.State.Responded():
			return true
		}
	}
	needed := int32(1)
	if f.storage.ownVolumes {
		needed = f.vault.RunningNodes()
	}
	return f.previous.Initialized && uninitialized < needed
}

func version(f *facts) string {
	result := ""
	for i := range f.pods {
		v := f.observations[f.pods[i].UID].Version
		if v == "" || v == result || pods.Terminating(&f.pods[i]) {
			continue
		}
		if result != "" {
			return ""
		}
		result = v
	}
	return result
}

// dataVersion is the highest version that a node has been active with, those
// included that were written down before. With allowDowngrade the user
// vouches for the data, so then it is what the active node says. A pod that ends may be one
// of a Vault of the same name that was deleted.
func dataVersion(f *facts) string {
	active := ""
	for i := range f.pods {
		o := f.observations[f.pods[i].UID]
		if o.State == probe.Active && !pods.Terminating(&f.pods[i]) && vaultversion.Lower(active, o.Version) {
			active = o.Version
		}
	}
	if active != "" && (f.vault.Spec.AllowDowngrade || vaultversion.Lower(f.previous.DataVersion, active)) {
		return active
	}
	return f.previous.DataVersion
}

// phase is a word for administrators that sums the nodes up. Nothing is decided by it.
func phase(status *v1alpha1.VaultStatus) v1alpha1.Phase {
	switch {
	case status.VaultStatus.Active != "":
		return v1alpha1.PhaseRunning
	case allSealed(status):
		return v1alpha1.PhaseSealed
	case status.Initialized:
		return v1alpha1.PhaseUnavailable
	case awaitsInit(status):
		return v1alpha1.PhaseUninitialized
	default:
		return v1alpha1.PhaseCreating
	}
}
