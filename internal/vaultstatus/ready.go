package vaultstatus

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/references"
)

// requirement is the status that a condition has to have for a Vault to be ready.
type requirement struct {
	condition string
	status    metav1.ConditionStatus
	// stalls are the reasons with which nothing goes on before somebody acts; nil are all.
	stalls []string
}

// required are in the order in which one explains the next: what is refused comes before
// what does not run because of it.
var required = slices.Concat(forChecks(func(check references.Check) requirement {
	return requirement{check.Condition, metav1.ConditionTrue, check.Stalls}
}), []requirement{
	{v1alpha1.TLSReadyCondition, metav1.ConditionTrue, []string{
		v1alpha1.ReasonSecretNotFound, v1alpha1.ReasonSecretInvalid, v1alpha1.ReasonAuthorityLost,
		v1alpha1.ReasonCertificateExpired,
	}},
	{v1alpha1.StorageReadyCondition, metav1.ConditionTrue, []string{
		v1alpha1.ReasonVolumesMismatch, v1alpha1.ReasonVolumesLost, v1alpha1.ReasonNoSpace, v1alpha1.ReasonMembersDisagree,
	}},
	{v1alpha1.ReleaseFailedCondition, metav1.ConditionFalse, nil},
	// It is also true while something is waited for, and is tried again.
	{v1alpha1.IrreconcilableCondition, metav1.ConditionFalse, []string{}},
	{v1alpha1.AvailableCondition, metav1.ConditionTrue, []string{}},
	// It is there when spec.initialization is.
	{v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, []string{
		v1alpha1.ReasonPGPKeysNotFound, v1alpha1.ReasonPGPKeysInvalid, v1alpha1.ReasonSecretExists,
		v1alpha1.ReasonSecretRefused, v1alpha1.ReasonRevocationRefused, v1alpha1.ReasonInitializationRefused,
		v1alpha1.ReasonKeysLost, v1alpha1.ReasonDataLost,
	}},
	{v1alpha1.UnsealedCondition, metav1.ConditionTrue, []string{}},
	{v1alpha1.UpdatedCondition, metav1.ConditionTrue, []string{v1alpha1.ReasonDowngradeRefused}},
	// It is there where nodes with integrated storage were taken away.
	{v1alpha1.ResizedCondition, metav1.ConditionTrue, []string{v1alpha1.ReasonRemovalRefused}},
})

// ready sums the other conditions up, and says whether somebody has to act before
// anything goes on. What they have to act on comes first.
func ready(all []metav1.Condition) (sum metav1.Condition, stalled bool) {
	var first, stalling *metav1.Condition
	for _, r := range required {
		c := meta.FindStatusCondition(all, r.condition)
		if c == nil || c.Status == r.status {
			continue
		}
		if first == nil {
			first = c
		}
		if stalling == nil && c.Status != metav1.ConditionUnknown &&
			(r.stalls == nil || slices.Contains(r.stalls, c.Reason)) {
			stalling = c
		}
	}
	switch {
	case stalling != nil:
		return isFalse(stalling.Reason, "%s: %s", stalling.Type, stalling.Message), true
	case first == nil:
		text := "All nodes are unsealed and up to date"
		if available := meta.FindStatusCondition(all, v1alpha1.AvailableCondition); available != nil {
			text = available.Message + "; all nodes are unsealed and up to date"
		}
		return isTrue(v1alpha1.ReasonReady, "%s", text), false
	case first.Status == metav1.ConditionUnknown:
		return isUnknown(first.Reason, "%s: %s", first.Type, first.Message), false
	default:
		return isFalse(first.Reason, "%s: %s", first.Type, first.Message), false
	}
}
