package vaultstatus

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestReady(t *testing.T) {
	const (
		yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
		available        = v1alpha1.AvailableCondition
	)
	condition := func(conditionType string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: conditionType, Status: status, Reason: reason, Message: "why"}
	}
	fine := []metav1.Condition{
		condition(available, yes, "Active"), condition(v1alpha1.UnsealedCondition, yes, "Unsealed"),
		condition(v1alpha1.UpdatedCondition, yes, "Updated"), condition(v1alpha1.TLSReadyCondition, yes, "SecretsValid"),
		condition(v1alpha1.ConfigValidCondition, yes, "ConfigAccepted"),
		condition(v1alpha1.StorageReadyCondition, yes, "Quorum"),
		condition(v1alpha1.IrreconcilableCondition, no, "Reconciled"),
		condition(v1alpha1.ReleaseFailedCondition, no, "Released"),
	}
	for _, tt := range []struct {
		name  string
		other []metav1.Condition
		want  string
		why   string
		stuck bool
	}{
		{name: "all is well", want: "True Ready"},
		{
			"a sealed node", []metav1.Condition{condition(v1alpha1.UnsealedCondition, no, "AwaitingUnseal")},
			"False AwaitingUnseal", "Unsealed: why", false,
		},
		{
			"no answer", []metav1.Condition{condition(available, unknown, "NodesUnreachable")}, "Unknown NodesUnreachable",
			"Available: why", false,
		},
		{
			"a rollout", []metav1.Condition{condition(v1alpha1.UpdatedCondition, no, "RollingOut")}, "False RollingOut",
			"Updated: why", false,
		},
		{
			"a refused downgrade", []metav1.Condition{condition(v1alpha1.UpdatedCondition, no, "DowngradeRefused")},
			"False DowngradeRefused", "Updated: why", true,
		},
		{
			"a wrong configuration", []metav1.Condition{condition(v1alpha1.ConfigValidCondition, no, "ConfigInvalid")},
			"False ConfigInvalid", "ConfigValid: why", true,
		},
		{
			"keys that are lost", []metav1.Condition{
				condition(available, no, "Sealed"), condition(v1alpha1.InitializationSucceededCondition, no, "KeysLost"),
			},
			"False KeysLost", "InitializationSucceeded: why", true,
		},
		{
			"a root token that is valid",
			[]metav1.Condition{condition(v1alpha1.InitializationSucceededCondition, no, "RootTokenNotRevoked")},
			"False RootTokenNotRevoked", "InitializationSucceeded: why", false,
		},
		{
			"certificates that come", []metav1.Condition{condition(v1alpha1.TLSReadyCondition, unknown, "SecretsPending")},
			"Unknown SecretsPending", "TLSReady: why", false,
		},
		{
			"certificates that are missing",
			[]metav1.Condition{condition(v1alpha1.TLSReadyCondition, no, "SecretNotFound")}, "False SecretNotFound",
			"TLSReady: why", true,
		},
		{
			"a certificate that is taken up",
			[]metav1.Condition{condition(v1alpha1.TLSReadyCondition, no, "CertificatePending")},
			"False CertificatePending", "TLSReady: why", false,
		},
		{
			"no quorum",
			[]metav1.Condition{
				condition(v1alpha1.StorageReadyCondition, no, "NoQuorum"), condition(available, no, "NoActiveNode"),
			},
			"False NoQuorum", "StorageReady: why", false,
		},
		{
			"volumes of another size",
			[]metav1.Condition{condition(v1alpha1.StorageReadyCondition, no, "VolumesMismatch")}, "False VolumesMismatch",
			"StorageReady: why", true,
		},
		{
			"a release that is refused",
			[]metav1.Condition{
				condition(v1alpha1.ReleaseFailedCondition, yes, "InstallError"),
				condition(v1alpha1.IrreconcilableCondition, yes, "ReconcileError"),
			},
			"False InstallError", "ReleaseFailed: why", true,
		},
		{
			"nothing runs, for the release is refused",
			[]metav1.Condition{
				condition(v1alpha1.StorageReadyCondition, unknown, "NodesStarting"),
				condition(v1alpha1.ReleaseFailedCondition, yes, "InstallError"),
			},
			"False InstallError", "ReleaseFailed: why", true,
		},
		{
			"something is waited for",
			[]metav1.Condition{condition(v1alpha1.IrreconcilableCondition, yes, "ErrorGettingValues")},
			"False ErrorGettingValues", "Irreconcilable: why", false,
		},
	} {
		all := slices.Concat(tt.other, fine)
		got, stuck := ready(all)
		if text := string(got.Status) + " " + got.Reason; text != tt.want || tt.why != "" && got.Message != tt.why {
			t.Errorf("%s: Ready is %s: %s, want %s: %s", tt.name, text, got.Message, tt.want, tt.why)
		}
		if stuck != tt.stuck {
			t.Errorf("%s: stalled is %v", tt.name, stuck)
		}
	}
}
