package vaultstatus

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/references"
)

// Reasons of the events about nodes. Events about conditions have the reason of
// the condition.
const (
	eventInitialized   = "Initialized"
	eventBecameActive  = "BecameActive"
	eventBecameStandby = "BecameStandby"
	eventNoActiveNode  = "NoActiveNode"
	eventSealed        = "Sealed"
	eventUnreachable   = "Unreachable"
)

// event is one line of what happened to a Vault.
type event struct {
	kind, reason, message string
}

// transitions tells what happened between two statuses.
func transitions(before, after *v1alpha1.VaultStatus) []event {
	var events []event
	add := func(kind, reason, format string, args ...any) {
		events = append(events, event{kind, reason, fmt.Sprintf(format, args...)})
	}
	old, current := &before.VaultStatus, &after.VaultStatus
	events = append(events, initializationEvents(before, after)...)
	if current.Active != "" && current.Active != old.Active {
		add(corev1.EventTypeNormal, eventBecameActive, "Pod %s became active", current.Active)
	}
	if len(current.ActiveClaims) > 0 && len(old.ActiveClaims) == 0 {
		add(corev1.EventTypeWarning, v1alpha1.ReasonMultipleActiveNodes, "Pods %s all say that they are active",
			join(current.ActiveClaims))
	}
	if current.Active == "" && old.Active != "" && len(current.ActiveClaims) == 0 {
		add(corev1.EventTypeWarning, eventNoActiveNode, "Pod %s is not active any more, and no other is yet", old.Active)
	}
	for _, pod := range added(old.Standby, current.Standby) {
		add(corev1.EventTypeNormal, eventBecameStandby, "Pod %s became standby", pod)
	}
	for _, pod := range added(old.Sealed, current.Sealed) {
		kind := corev1.EventTypeNormal
		if pod == old.Active || slices.Contains(old.Standby, pod) {
			kind = corev1.EventTypeWarning // a new node is always sealed at first, this one was not
		}
		add(kind, eventSealed, "Pod %s is sealed", pod)
	}
	for _, pod := range added(old.Unreachable, current.Unreachable) {
		add(corev1.EventTypeWarning, eventUnreachable, "Pod %s does not answer", pod)
	}
	events = append(events, releaseEvents(before, after)...)
	events = append(events, rolloutEvents(before, after)...)
	return append(events, conditionEvents(before.Conditions, after.Conditions)...)
}

// initializationEvents tells that Vault was initialized, or that it was before.
func initializationEvents(before, after *v1alpha1.VaultStatus) []event {
	c := meta.FindStatusCondition(after.Conditions, v1alpha1.InitializedCondition)
	switch {
	case !after.Initialized || before.Initialized:
	case c != nil && c.Reason == v1alpha1.ReasonDataFound:
		return []event{{corev1.EventTypeNormal, c.Reason, c.Message}}
	case initializedReason(before) == v1alpha1.ReasonAwaitingInit:
		return []event{{corev1.EventTypeNormal, eventInitialized, "Vault was initialized"}}
	}
	return nil
}

// releaseEvents tells that the spec cannot be deployed, which the Helm reconciler says
// in its condition alone.
func releaseEvents(before, after *v1alpha1.VaultStatus) []event {
	old := meta.FindStatusCondition(before.Conditions, v1alpha1.ReadyCondition)
	current := meta.FindStatusCondition(after.Conditions, v1alpha1.ReadyCondition)
	if current == nil || old != nil && old.Message == current.Message ||
		!strings.HasPrefix(current.Message, v1alpha1.ReleaseFailedCondition+": ") {
		return nil
	}
	return []event{{corev1.EventTypeWarning, current.Reason, current.Message}}
}

// rolloutEvents tells of a rollout what somebody has to act on, and its end. A
// Vault that comes up for the first time is no rollout.
func rolloutEvents(before, after *v1alpha1.VaultStatus) []event {
	old := meta.FindStatusCondition(before.Conditions, v1alpha1.UpdatedCondition)
	current := meta.FindStatusCondition(after.Conditions, v1alpha1.UpdatedCondition)
	if current == nil || old != nil && old.Reason == current.Reason && old.Message == current.Message {
		return nil
	}
	switch current.Reason {
	case v1alpha1.ReasonNodeFailing, v1alpha1.ReasonRolloutStalled, v1alpha1.ReasonDowngradeRefused,
		v1alpha1.ReasonExpansionRefused:
		return []event{{corev1.EventTypeWarning, current.Reason, current.Message}}
	case v1alpha1.ReasonAwaitingUnseal, v1alpha1.ReasonAwaitingSealMigration:
		return []event{{corev1.EventTypeNormal, current.Reason, current.Message}}
	case v1alpha1.ReasonUpdated:
		if before.Initialized && old != nil {
			return []event{{corev1.EventTypeNormal, current.Reason, current.Message}}
		}
	}
	return nil
}

// eventConditions are the conditions whose changes are events; those of the
// nodes' states have events of their own.
var eventConditions = slices.Concat(
	[]string{v1alpha1.TLSReadyCondition},
	forChecks(func(check references.Check) string { return check.Condition }),
	[]string{v1alpha1.StorageReadyCondition, v1alpha1.SealMigratedCondition},
)

func conditionEvents(before, after []metav1.Condition) []event {
	var events []event
	for _, conditionType := range eventConditions {
		old, current := meta.FindStatusCondition(before, conditionType), meta.FindStatusCondition(after, conditionType)
		if current == nil {
			continue
		}
		if old == nil {
			old = &metav1.Condition{}
		}
		if kind := conditionEvent(old, current); kind != "" {
			events = append(events, event{kind, current.Reason, current.Message})
		}
	}
	return events
}

// conditionEvent is the type of the event that tells of what a condition has
// become; it is empty when there is nothing to tell.
func conditionEvent(before, after *metav1.Condition) string {
	wasBroken := before.Status == metav1.ConditionFalse
	switch {
	// It is False for as long as it takes. What is refused the condition SealReady tells.
	case after.Type == v1alpha1.SealMigratedCondition:
		if after.Reason != v1alpha1.ReasonSealChangeRefused &&
			(before.Status != after.Status || before.Message != after.Message) {
			return corev1.EventTypeNormal
		}
	// The message tells of each member that comes back.
	case after.Type == v1alpha1.StorageReadyCondition && before.Reason == after.Reason:
	// A message that changes tells of another mistake, or of the next one.
	case wasBroken && before.Message == after.Message:
	case after.Status == metav1.ConditionFalse:
		return corev1.EventTypeWarning
	case wasBroken && after.Status == metav1.ConditionTrue && !ends[after.Reason]:
		return corev1.EventTypeNormal
	default:
		return marginEvent(before, after)
	}
	return ""
}

// ends are the reasons of what works, and will not for ever.
var ends = map[string]bool{
	v1alpha1.ReasonCertificateExpiring: true, v1alpha1.ReasonTokenExpiring: true, v1alpha1.ReasonTokenNotRenewable: true,
}

// marginEvent is the type of the event about what works, but not for long or with
// less to spare.
func marginEvent(before, after *metav1.Condition) string {
	switch {
	case ends[after.Reason] && (before.Reason != after.Reason || before.Message != after.Message):
		return corev1.EventTypeWarning
	case before.Reason == v1alpha1.ReasonCertificateExpiring && after.Reason == v1alpha1.ReasonSecretsValid,
		after.Reason == v1alpha1.ReasonKeyServiceWorks && ends[before.Reason]:
		return corev1.EventTypeNormal
	case before.Reason == v1alpha1.ReasonQuorum && after.Reason == v1alpha1.ReasonMembersNotReady:
		return corev1.EventTypeWarning
	case before.Reason == v1alpha1.ReasonMembersNotReady && after.Reason == v1alpha1.ReasonQuorum:
		return corev1.EventTypeNormal
	}
	return ""
}

// added returns the names that are in after and not in before.
func added(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(name string) bool { return slices.Contains(before, name) })
}
