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
	was, is := &before.VaultStatus, &after.VaultStatus
	events = append(events, initializationEvents(before, after)...)
	if is.Active != "" && is.Active != was.Active {
		add(corev1.EventTypeNormal, eventBecameActive, "Pod %s became active", is.Active)
	}
	if len(is.ActiveClaims) > 0 && len(was.ActiveClaims) == 0 {
		add(corev1.EventTypeWarning, v1alpha1.ReasonMultipleActiveNodes, "Pods %s all say that they are active",
			join(is.ActiveClaims))
	}
	if is.Active == "" && was.Active != "" && len(is.ActiveClaims) == 0 {
		add(corev1.EventTypeWarning, eventNoActiveNode, "Pod %s is not active any more, and no other is yet", was.Active)
	}
	for _, pod := range added(was.Standby, is.Standby) {
		add(corev1.EventTypeNormal, eventBecameStandby, "Pod %s became standby", pod)
	}
	for _, pod := range added(was.Sealed, is.Sealed) {
		kind := corev1.EventTypeNormal
		if pod == was.Active || slices.Contains(was.Standby, pod) {
			kind = corev1.EventTypeWarning // a new node is always sealed at first, this one was not
		}
		add(kind, eventSealed, "Pod %s is sealed", pod)
	}
	for _, pod := range added(was.Unreachable, is.Unreachable) {
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
	was := meta.FindStatusCondition(before.Conditions, v1alpha1.ReadyCondition)
	is := meta.FindStatusCondition(after.Conditions, v1alpha1.ReadyCondition)
	if is == nil || was != nil && was.Message == is.Message ||
		!strings.HasPrefix(is.Message, v1alpha1.ReleaseFailedCondition+": ") {
		return nil
	}
	return []event{{corev1.EventTypeWarning, is.Reason, is.Message}}
}

// rolloutEvents tells of a rollout what somebody has to act on, and its end. A
// Vault that comes up for the first time is no rollout.
func rolloutEvents(before, after *v1alpha1.VaultStatus) []event {
	was := meta.FindStatusCondition(before.Conditions, v1alpha1.UpdatedCondition)
	is := meta.FindStatusCondition(after.Conditions, v1alpha1.UpdatedCondition)
	if is == nil || was != nil && was.Reason == is.Reason && was.Message == is.Message {
		return nil
	}
	switch is.Reason {
	case v1alpha1.ReasonNodeFailing, v1alpha1.ReasonRolloutStalled, v1alpha1.ReasonDowngradeRefused,
		v1alpha1.ReasonExpansionRefused:
		return []event{{corev1.EventTypeWarning, is.Reason, is.Message}}
	case v1alpha1.ReasonAwaitingUnseal, v1alpha1.ReasonAwaitingSealMigration:
		return []event{{corev1.EventTypeNormal, is.Reason, is.Message}}
	case v1alpha1.ReasonUpdated:
		if before.Initialized && was != nil {
			return []event{{corev1.EventTypeNormal, is.Reason, is.Message}}
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
		was, is := meta.FindStatusCondition(before, conditionType), meta.FindStatusCondition(after, conditionType)
		if is == nil {
			continue
		}
		if was == nil {
			was = &metav1.Condition{}
		}
		if kind := conditionEvent(was, is); kind != "" {
			events = append(events, event{kind, is.Reason, is.Message})
		}
	}
	return events
}

// conditionEvent is the type of the event that tells of what a condition has
// become; it is empty when there is nothing to tell.
func conditionEvent(was, is *metav1.Condition) string {
	wasBroken := was.Status == metav1.ConditionFalse
	switch {
	// It is False for as long as it takes. What is refused the condition SealReady tells.
	case is.Type == v1alpha1.SealMigratedCondition:
		if is.Reason != v1alpha1.ReasonSealChangeRefused && (was.Status != is.Status || was.Message != is.Message) {
			return corev1.EventTypeNormal
		}
	// The message tells of each member that comes back.
	case is.Type == v1alpha1.StorageReadyCondition && was.Reason == is.Reason:
	// A message that changes tells of another mistake, or of the next one.
	case wasBroken && was.Message == is.Message:
	case is.Status == metav1.ConditionFalse:
		return corev1.EventTypeWarning
	case wasBroken && is.Status == metav1.ConditionTrue && !ends[is.Reason]:
		return corev1.EventTypeNormal
	default:
		return marginEvent(was, is)
	}
	return ""
}

// ends are the reasons of what works, and will not for ever.
var ends = map[string]bool{
	v1alpha1.ReasonCertificateExpiring: true, v1alpha1.ReasonTokenExpiring: true, v1alpha1.ReasonTokenNotRenewable: true,
}

// marginEvent is the type of the event about what works, but not for long or with
// less to spare.
func marginEvent(was, is *metav1.Condition) string {
	switch {
	case ends[is.Reason] && (was.Reason != is.Reason || was.Message != is.Message):
		return corev1.EventTypeWarning
	case was.Reason == v1alpha1.ReasonCertificateExpiring && is.Reason == v1alpha1.ReasonSecretsValid,
		is.Reason == v1alpha1.ReasonKeyServiceWorks && ends[was.Reason]:
		return corev1.EventTypeNormal
	case was.Reason == v1alpha1.ReasonQuorum && is.Reason == v1alpha1.ReasonMembersNotReady:
		return corev1.EventTypeWarning
	case was.Reason == v1alpha1.ReasonMembersNotReady && is.Reason == v1alpha1.ReasonQuorum:
		return corev1.EventTypeNormal
	}
	return ""
}

// added returns the names that are in after and not in before.
func added(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(name string) bool { return slices.Contains(before, name) })
}
