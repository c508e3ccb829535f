package vaultstatus

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/references"
)

// conditionFunc computes the condition of a type from the facts and the status so far,
// and from nothing else.
type conditionFunc struct {
	conditionType string
	compute       func(*facts, *v1alpha1.VaultStatus) metav1.Condition
}

var conditionFuncs = slices.Concat([]conditionFunc{
	{v1alpha1.AvailableCondition, available},
	{v1alpha1.InitializedCondition, vaultInitialized},
	{v1alpha1.UnsealedCondition, unsealed},
	{v1alpha1.UpdatedCondition, updated},
	{v1alpha1.TLSReadyCondition, tlsReady},
}, forChecks(checked), []conditionFunc{
	{v1alpha1.StorageReadyCondition, func(f *facts, _ *v1alpha1.VaultStatus) metav1.Condition { return f.storage.ready }},
})

// forChecks makes something for each check of what users bring.
func forChecks[T any](of func(references.Check) T) []T {
	var result []T
	for _, check := range references.Checks {
		result = append(result, of(check))
	}
	return result
}

// conditions returns this controller's conditions, with the transition times of
// those that did not change.
func conditions(f *facts, status *v1alpha1.VaultStatus) []metav1.Condition {
	var result []metav1.Condition
	add := func(conditionType string, condition metav1.Condition) {
		condition.Type = conditionType
		if old := meta.FindStatusCondition(f.previous.Conditions, conditionType); old != nil {
			result = append(result, *old)
		}
		condition.Message = message.Cut(condition.Message)
		condition.ObservedGeneration = f.vault.Generation
		condition.LastTransitionTime = metav1.Time{Time: f.now}.Rfc3339Copy()
		meta.SetStatusCondition(&result, condition)
	}
	for _, c := range conditionFuncs {
		add(c.conditionType, c.compute(f, status))
	}
	if f.vault.Spec.SealMigration != nil {
		add(v1alpha1.SealMigratedCondition, sealMigrated(f, status))
	}
	all := slices.Concat(result, f.vault.Status.Conditions) // the Helm reconciler's are among these
	ready, stalled := ready(counting(f, all))
	add(v1alpha1.ReadyCondition, ready)
	if stalled {
		add(v1alpha1.StalledCondition, isTrue(ready.Reason, "%s", ready.Message))
	}
	return result
}

// counting are the conditions that Ready sums up, of all. That the seal of a Vault without
// spec.seal is not known is no reason against it: the nodes that do not tell it do not tell
// their state either.
func counting(f *facts, all []metav1.Condition) []metav1.Condition {
	return slices.DeleteFunc(all, func(c metav1.Condition) bool {
		return f.vault.Spec.Seal == nil && c.Type == v1alpha1.SealReadyCondition && c.Status == metav1.ConditionUnknown
	})
}

func isTrue(reason, format string, args ...any) metav1.Condition {
	return metav1.Condition{Status: metav1.ConditionTrue, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func isFalse(reason, format string, args ...any) metav1.Condition {
	return metav1.Condition{Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func isUnknown(reason, format string, args ...any) metav1.Condition {
	return metav1.Condition{Status: metav1.ConditionUnknown, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func available(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	nodes := &status.VaultStatus
	switch {
	case len(nodes.ActiveClaims) == 0 && nodes.Active == "" && servedButUnreachable(f):
		return unreachable(f, nodes)
	case nodes.Active != "":
		if problem := notInService(f, nodes.Active); problem != "" {
			return isFalse(v1alpha1.ReasonNotInService, "Pod %s is active, but %s", nodes.Active, problem)
		}
		return isTrue(v1alpha1.ReasonActive, "Pod %s is active and serves requests at https://%s:%d%s%s%s",
			nodes.Active, f.vault.ServerName(), v1alpha1.ClientPort, spareHint(f.vault, status.NodeStatuses), notFollowed(nodes),
			storageHint(f))
	case awaitsInit(status):
		return isFalse(v1alpha1.ReasonAwaitingInit, "%s", initHint(f, status))
	case allSealed(status):
		reason, hint := unsealHint(f, status)
		return isFalse(reason, "%s%s", hint, storageHint(f))
	case status.Initialized:
		return unavailable(f, nodes)
	case len(nodes.Unreachable) > 0:
		return unreachable(f, nodes)
	default:
		return isFalse(v1alpha1.ReasonNodesStarting, "No Vault node runs yet%s", waitingHint(f))
	}
}

// notFollowed tells of nodes that say that they are active beside the one that is.
func notFollowed(nodes *v1alpha1.NodesStatus) string {
	others := slices.DeleteFunc(slices.Clone(nodes.ActiveClaims), func(name string) bool { return name == nodes.Active })
	if len(others) == 0 {
		return ""
	}
	return fmt.Sprintf(". Others say that they are active too, but most nodes do not follow them, and no client is led "+
		"to them: %s. If they go on, delete the pods", join(others))
}

// awaitsInit says that nodes wait for "vault operator init".
func awaitsInit(status *v1alpha1.VaultStatus) bool {
	return !status.Initialized && len(status.VaultStatus.Sealed) > 0
}

// allSealed says that Vault is initialized, and that no node is known to be unsealed.
func allSealed(status *v1alpha1.VaultStatus) bool {
	nodes := &status.VaultStatus
	return status.Initialized && nodes.Active == "" && len(nodes.Standby) == 0 && len(nodes.Sealed) > 0
}

// unavailable says why no node of an initialized Vault is known to be active.
func unavailable(f *facts, nodes *v1alpha1.NodesStatus) metav1.Condition {
	switch {
	case len(nodes.ActiveClaims) > 0:
		return isFalse(v1alpha1.ReasonMultipleActiveNodes,
			"More than one node says that it is active, and no majority of the nodes follows one of them, so the Service "+
				"points at none: %s%s",
			join(nodes.ActiveClaims), storageHint(f))
	case len(nodes.Unreachable) > 0 && len(nodes.Standby) == 0:
		return unreachable(f, nodes)
	case len(nodes.Standby) == 0:
		return isFalse(v1alpha1.ReasonNoActiveNode, "No node is active, and none is unsealed%s%s",
			waitingHint(f), storageHint(f))
	default:
		return isFalse(v1alpha1.ReasonNoActiveNode, "No node is active; unsealed nodes: %s%s",
			join(nodes.Standby), storageHint(f))
	}
}

// unreachable is the condition of a Vault whose nodes do not tell their state.
func unreachable(f *facts, nodes *v1alpha1.NodesStatus) metav1.Condition {
	if pod, err := unverified(f); pod != "" {
		return isUnknown(v1alpha1.ReasonNodesUnverified, "Pod %s cannot be verified: %s%s", pod, err, storageHint(f))
	}
	return isUnknown(v1alpha1.ReasonNodesUnreachable, "No answer from %s%s", join(nodes.Unreachable), storageHint(f))
}

// unverified returns the first pod whose node serves with a certificate that
// cannot be verified, and why.
func unverified(f *facts) (pod, reason string) {
	for i := range f.pods {
		if nodeState(f, &f.pods[i]) == v1alpha1.NodeUnverified && !pods.Terminating(&f.pods[i]) {
			return f.pods[i].Name, reasonOf(f.observations[f.pods[i].UID].Err)
		}
	}
	return "", ""
}

// reasonOf is the text of an error without the time of the probe, which would make
// each probe a change of the status.
func reasonOf(err error) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		return fmt.Sprintf("its certificate is valid from %s to %s",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return fmt.Sprint(err)
}

// servedButUnreachable says that a pod is in the Service whose node does not answer
// this replica. Another one may reach it, and clients too.
func servedButUnreachable(f *facts) bool {
	for i := range f.pods {
		state := nodeState(f, &f.pods[i])
		if pods.InService(&f.pods[i]) && (state == v1alpha1.NodeUnreachable || state == v1alpha1.NodeUnverified) {
			return true
		}
	}
	return false
}

// notInService says why the Service does not reach the pod of the active node; it
// is empty when it does.
func notInService(f *facts, name string) string {
	for i := range f.pods {
		pod := &f.pods[i]
		switch {
		case pod.Name != name:
		case pods.Terminating(pod):
			return "it is being deleted, and no other node has taken over yet"
		case !pods.Labelled(pod):
			return fmt.Sprintf("it does not have the label %s=%s that the Service selects%s",
				v1alpha1.ActiveLabel, v1alpha1.ActiveLabelValue, f.labelProblem)
		case !pods.Ready(pod):
			return "it is not ready, see its condition Ready"
		}
	}
	return ""
}

// foundHint is for a Vault that nobody has initialized since it was created.
func foundHint(f *facts, status *v1alpha1.VaultStatus) string {
	const found = "The storage holds the data of a Vault that was initialized before: "
	if autoUnseals(f, status) {
		return found + "it unseals itself if its key is the one of that Vault"
	}
	return found + "it is unsealed with the keys of that one"
}

// dataFound says that all nodes are sealed, and that none was ever seen uninitialized or
// unsealed: the data was there before, on volumes that were kept or restored.
func dataFound(f *facts, status *v1alpha1.VaultStatus) bool {
	if !allSealed(status) || len(status.PodStatuses[v1alpha1.NodeUninitialized]) > 0 {
		return false
	}
	if f.previous.Initialized {
		return initializedReason(&f.previous) == v1alpha1.ReasonDataFound
	}
	return initializedReason(&f.previous) != v1alpha1.ReasonAwaitingInit
}

// initializedReason is the reason of the condition VaultInitialized, or nothing.
func initializedReason(status *v1alpha1.VaultStatus) string {
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.InitializedCondition); c != nil {
		return c.Reason
	}
	return ""
}

func vaultInitialized(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	switch {
	case dataFound(f, status):
		return isTrue(v1alpha1.ReasonDataFound, "%s", foundHint(f, status))
	case status.Initialized:
		return isTrue(v1alpha1.ReasonInitialized, "Vault is initialized")
	case awaitsInit(status):
		return isFalse(v1alpha1.ReasonAwaitingInit, "%s", initHint(f, status))
	default:
		return isUnknown(v1alpha1.ReasonNotObserved, "No Vault node has answered yet")
	}
}

func unsealed(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	nodes := &status.VaultStatus
	switch {
	case awaitsInit(status):
		return isFalse(v1alpha1.ReasonAwaitingInit, "%s", initHint(f, status))
	case len(nodes.Sealed) > 0:
		reason, hint := unsealHint(f, status)
		return isFalse(reason, "%s", hint)
	case len(nodes.Unreachable) > 0:
		return isUnknown(v1alpha1.ReasonNodesUnreachable, "No answer from %s", join(nodes.Unreachable))
	case status.ReadyNodes < f.vault.WantedNodes():
		return isUnknown(v1alpha1.ReasonNodesStarting, "%d of %d nodes are unsealed, the others do not run yet%s",
			status.ReadyNodes, f.vault.WantedNodes(), waitingHint(f))
	default:
		return isTrue(v1alpha1.ReasonUnsealed, "All %d nodes are unsealed", status.ReadyNodes)
	}
}

// unusable is the condition of a type while its input cannot be used, or nil.
func unusable(f *facts, conditionType string) *metav1.Condition {
	var condition metav1.Condition
	err := f.inputs[conditionType]
	switch wrong := problem.In(err); {
	case wrong != nil:
		condition = refused(wrong)
	case err != nil:
		condition = isUnknown(v1alpha1.ReasonNotObserved, "%v", err)
	default:
		return nil
	}
	return &condition
}

func refused(wrong *problem.Error) metav1.Condition {
	return isFalse(wrong.Reason, "%s", wrong.Message)
}

// checked computes the condition of a check.
func checked(check references.Check) conditionFunc {
	return conditionFunc{check.Condition, func(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
		if condition := unusable(f, check.Condition); condition != nil {
			return *condition
		}
		if check.Condition == v1alpha1.SealReadyCondition {
			return sealReady(f, status) // the nodes have to tell more
		}
		reason, text := check.Accepted(&f.vault.Spec)
		return isTrue(reason, "%s", text)
	}}
}

func tlsReady(f *facts, _ *v1alpha1.VaultStatus) metav1.Condition {
	old := meta.FindStatusCondition(f.previous.Conditions, v1alpha1.TLSReadyCondition)
	pending := old == nil || old.Reason == v1alpha1.ReasonSecretsPending
	// One that was there and is gone may need an administrator: the operator makes no
	// second CA beside certificates of the first.
	if wrong := problem.In(f.inputs[v1alpha1.TLSReadyCondition]); wrong != nil && wrong.Generated && pending {
		return isUnknown(v1alpha1.ReasonSecretsPending, "The operator is making the certificates")
	}
	if condition := unusable(f, v1alpha1.TLSReadyCondition); condition != nil {
		return *condition
	}
	return tlsValid(f)
}

func initHint(f *facts, status *v1alpha1.VaultStatus) string {
	if f.vault.Spec.Initialization != nil {
		return "Vault is not initialized: the operator does that, see the condition " +
			v1alpha1.InitializationSucceededCondition
	}
	command := "vault operator init"
	if autoUnseals(f, status) {
		command = "vault operator init -recovery-shares=5 -recovery-threshold=3"
	}
	sealed := status.VaultStatus.Sealed
	if f.storage.ownVolumes {
		// A second one that is initialized would be another Vault.
		return fmt.Sprintf("Vault is not initialized: run '%s' on %s-0 and on no other: they join it", command, f.vault.Name)
	}
	return fmt.Sprintf("Vault is not initialized: run '%s' on one of %s", command, join(sealed))
}

// unsealHint is the reason and the message for nodes that are sealed. Recovery keys cannot
// do what the key service does, so whoever has them is not sent to the nodes with them.
func unsealHint(f *facts, status *v1alpha1.VaultStatus) (reason, hint string) {
	if reason, hint := administratorsUnseal(f, status, status.VaultStatus.Sealed); reason != "" {
		return reason, "Sealed, " + hint
	}
	names := join(status.VaultStatus.Sealed)
	if f.vault.Spec.Unseal != nil {
		return v1alpha1.ReasonAwaitingUnseal, "Sealed until the operator has unsealed them, see the condition " +
			v1alpha1.UnsealKeysValidCondition + ": " + names
	}
	if !autoUnseals(f, status) {
		hint = "Sealed, run 'vault operator unseal' on each: " + names
		if joining := status.PodStatuses[v1alpha1.NodeUninitialized]; f.storage.ownVolumes && len(joining) > 0 {
			hint += "; possible when another node is unsealed that they join: " + join(joining)
		}
		return v1alpha1.ReasonAwaitingUnseal, hint
	}
	hint = "Sealed until Vault has unsealed them by the key service: " + names
	if failing, _ := sealedByKeyService(f); len(failing) > 0 {
		return v1alpha1.ReasonAwaitingAutoUnseal, hint + ". It fails, see the condition " + v1alpha1.SealReadyCondition +
			". When it works again and one stays sealed, since somebody has sealed it, delete its pod"
	}
	return v1alpha1.ReasonAwaitingAutoUnseal, hint + ". One that somebody has sealed stays so: delete its pod"
}

// waitingHint says why containers do not run, as the kubelet tells it, why a pod has no
// volume, as events do, or why there are no pods, as the API server does.
func waitingHint(f *facts) string {
	var hints []string
	for i := range f.pods {
		if why := f.unmade[f.pods[i].UID]; why != "" {
			hints = append(hints, f.pods[i].Name+" "+why)
		}
		for _, container := range f.pods[i].Status.ContainerStatuses {
			if waiting := container.State.Waiting; waiting != nil && waiting.Reason != "" {
				hints = append(hints, f.pods[i].Name+" "+waiting.Reason)
			}
		}
	}
	if f.workload != nil {
		if why := f.workload.Failure(); why != nil {
			hints = append(hints, "a pod cannot be created: "+why.Message)
		}
	}
	if len(hints) == 0 {
		return ""
	}
	return ": " + strings.Join(hints, ", ")
}

func join(names []string) string { return message.Names(names) }
