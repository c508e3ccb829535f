package vaultstatus

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func nodes(active string, standby, sealed, unreachable []string) v1alpha1.VaultStatus {
	return v1alpha1.VaultStatus{Initialized: true, VaultStatus: v1alpha1.NodesStatus{
		Active: active, Standby: standby, Sealed: sealed, Unreachable: unreachable,
	}}
}

func with(conditionType string, status metav1.ConditionStatus, reason, message string) v1alpha1.VaultStatus {
	return v1alpha1.VaultStatus{
		Conditions: []metav1.Condition{{Type: conditionType, Status: status, Reason: reason, Message: message}},
	}
}

func TestTransitions(t *testing.T) {
	uninitialized := nodes("", nil, []string{"a", "b"}, nil)
	uninitialized.Initialized = false
	awaitedInit(&uninitialized)
	initialized := v1alpha1.VaultStatus{Initialized: true}
	of := func(status v1alpha1.VaultStatus, conditionType string, value metav1.ConditionStatus, reason,
		message string) v1alpha1.VaultStatus {
		status.Conditions = with(conditionType, value, reason, message).Conditions
		return status
	}
	const updated = v1alpha1.UpdatedCondition
	const config, tls, storage = v1alpha1.ConfigValidCondition, v1alpha1.TLSReadyCondition, v1alpha1.StorageReadyCondition
	normal := func(reason, message string) event { return event{corev1.EventTypeNormal, reason, message} }
	warning := func(reason, message string) event { return event{corev1.EventTypeWarning, reason, message} }

	tests := []struct {
		name          string
		before, after v1alpha1.VaultStatus
		want          []event
	}{
		{name: "nothing"},
		{
			name:  "the first nodes answer: they are sealed by nature",
			after: uninitialized,
			want:  []event{normal("Sealed", "Pod a is sealed"), normal("Sealed", "Pod b is sealed")},
		},
		{
			name: "somebody ran vault operator init", before: uninitialized, after: nodes("", nil, []string{"a", "b"}, nil),
			want: []event{normal("Initialized", "Vault was initialized")},
		},
		{
			name: "the first node is unsealed", before: nodes("", nil, []string{"a", "b"}, nil),
			after: nodes("a", nil, []string{"b"}, nil),
			want:  []event{normal("BecameActive", "Pod a became active")},
		},
		{
			name: "the second node is unsealed", before: nodes("a", nil, []string{"b"}, nil),
			after: nodes("a", []string{"b"}, nil, nil),
			want:  []event{normal("BecameStandby", "Pod b became standby")},
		},
		{
			name: "nothing new at rest", before: nodes("a", []string{"b"}, []string{"c"}, []string{"d"}),
			after: nodes("a", []string{"b"}, []string{"c"}, []string{"d"}),
		},
		{
			name: "a failover", before: nodes("a", []string{"b"}, nil, nil), after: nodes("b", nil, nil, nil),
			want: []event{normal("BecameActive", "Pod b became active")},
		},
		{
			name: "no node is active", before: nodes("a", []string{"b"}, nil, nil), after: nodes("", []string{"b"}, nil, nil),
			want: []event{warning("NoActiveNode", "Pod a is not active any more, and no other is yet")},
		},
		{
			name: "the active node was sealed again", before: nodes("a", []string{"b"}, nil, nil),
			after: nodes("", []string{"b"}, []string{"a"}, nil),
			want: []event{
				warning("NoActiveNode", "Pod a is not active any more, and no other is yet"),
				warning("Sealed", "Pod a is sealed"),
			},
		},
		{
			name: "a standby was sealed again", before: nodes("a", []string{"b"}, nil, nil),
			after: nodes("a", nil, []string{"b"}, nil),
			want:  []event{warning("Sealed", "Pod b is sealed")},
		},
		{
			name: "a replacement is sealed", before: nodes("a", []string{"b"}, nil, nil),
			after: nodes("b", nil, []string{"c"}, nil),
			want:  []event{normal("BecameActive", "Pod b became active"), normal("Sealed", "Pod c is sealed")},
		},
		{
			name: "a standby does not answer", before: nodes("a", []string{"b"}, nil, nil),
			after: nodes("a", nil, nil, []string{"b"}),
			want:  []event{warning("Unreachable", "Pod b does not answer")},
		},
		{
			name: "it answers again", before: nodes("a", nil, nil, []string{"b"}), after: nodes("a", []string{"b"}, nil, nil),
			want: []event{normal("BecameStandby", "Pod b became standby")},
		},
		{
			name: "a scaled down standby is gone", before: nodes("a", []string{"b", "c"}, nil, nil),
			after: nodes("a", []string{"b"}, nil, nil),
		},

		{name: "a valid configuration is no news", after: with(config, metav1.ConditionTrue, "ConfigAccepted", "m")},
		{
			name: "a ConfigMap is missing from the start", after: with(config, metav1.ConditionFalse, "ConfigMapNotFound", "m"),
			want: []event{warning("ConfigMapNotFound", "m")},
		},
		{
			name: "a ConfigMap breaks", before: with(config, metav1.ConditionTrue, "ConfigAccepted", "m"),
			after: with(config, metav1.ConditionFalse, "ConfigInvalid", "n"),
			want:  []event{warning("ConfigInvalid", "n")},
		},
		{
			name: "it is still broken", before: with(config, metav1.ConditionFalse, "ConfigInvalid", "n"),
			after: with(config, metav1.ConditionFalse, "ConfigInvalid", "n"),
		},
		{
			name: "it is broken in another way", before: with(config, metav1.ConditionFalse, "ConfigInvalid", "n"),
			after: with(config, metav1.ConditionFalse, "ConfigInvalid", "o"),
			want:  []event{warning("ConfigInvalid", "o")},
		},
		{
			name: "it was fixed", before: with(config, metav1.ConditionFalse, "ConfigInvalid", "n"),
			after: with(config, metav1.ConditionTrue, "ConfigAccepted", "m"),
			want:  []event{normal("ConfigAccepted", "m")},
		},
		{
			name: "not known is not broken", before: with(tls, metav1.ConditionTrue, "SecretsValid", "m"),
			after: with(tls, metav1.ConditionUnknown, "NotObserved", "n"),
		},
		{
			name: "a Secret breaks", before: with(tls, metav1.ConditionTrue, "SecretsValid", "m"),
			after: with(tls, metav1.ConditionFalse, "SecretInvalid", "n"),
			want:  []event{warning("SecretInvalid", "n")},
		},
		{
			name: "the storage loses its quorum", before: with(storage, metav1.ConditionTrue, "Quorum", "m"),
			after: with(storage, metav1.ConditionFalse, "NoQuorum", "n"),
			want:  []event{warning("NoQuorum", "n")},
		},
		{
			name: "the storage starts", before: with(storage, metav1.ConditionUnknown, "NotObserved", "m"),
			after: with(storage, metav1.ConditionTrue, "MembersNotReady", "n"),
		},
		{
			name: "a member is lost", before: with(storage, metav1.ConditionTrue, "Quorum", "m"),
			after: with(storage, metav1.ConditionTrue, "MembersNotReady", "n"),
			want:  []event{warning("MembersNotReady", "n")},
		},
		{
			name: "it ends in another way", before: with(storage, metav1.ConditionTrue, "MembersNotReady", "m"),
			after: with(storage, metav1.ConditionTrue, "MembersNotReady", "n"),
		},
		{
			name: "it is back", before: with(storage, metav1.ConditionTrue, "MembersNotReady", "m"),
			after: with(storage, metav1.ConditionTrue, "Quorum", "n"),
			want:  []event{normal("Quorum", "n")},
		},
		{
			name: "a quorum is back", before: with(storage, metav1.ConditionFalse, "NoQuorum", "m"),
			after: with(storage, metav1.ConditionTrue, "MembersNotReady", "n"),
			want:  []event{normal("MembersNotReady", "n")},
		},
		{
			name: "a rollout waits for somebody", before: with(updated, metav1.ConditionFalse, "RollingOut", "m"),
			after: with(updated, metav1.ConditionFalse, "AwaitingUnseal", "n"),
			want:  []event{normal("AwaitingUnseal", "n")},
		},
		{
			name: "it waits for the next node", before: with(updated, metav1.ConditionFalse, "AwaitingUnseal", "m"),
			after: with(updated, metav1.ConditionFalse, "AwaitingUnseal", "n"),
			want:  []event{normal("AwaitingUnseal", "n")},
		},
		{
			name: "an updated node cannot start", before: with(updated, metav1.ConditionFalse, "RollingOut", "m"),
			after: with(updated, metav1.ConditionFalse, "NodeFailing", "n"),
			want:  []event{warning("NodeFailing", "n")},
		},
		{
			name: "a downgrade is refused", before: with(updated, metav1.ConditionTrue, "Updated", "m"),
			after: with(updated, metav1.ConditionFalse, "DowngradeRefused", "n"),
			want:  []event{warning("DowngradeRefused", "n")},
		},
		{
			name: "a rollout has ended", before: of(initialized, updated, metav1.ConditionFalse, "RollingOut", "m"),
			after: of(initialized, updated, metav1.ConditionTrue, "Updated", "n"),
			want:  []event{normal("Updated", "n")},
		},
		{
			name: "a Vault that has come up was not updated", before: with(updated, metav1.ConditionFalse, "RollingOut", "m"),
			after: with(updated, metav1.ConditionTrue, "Updated", "n"),
		},
		{
			name:   "it was so when the operator came to know",
			before: of(initialized, tls, metav1.ConditionTrue, "SecretsValid", "m"),
			after:  with(updated, metav1.ConditionTrue, "Updated", "n"),
		},
		{
			name: "a rollout goes on by itself", before: with(updated, metav1.ConditionFalse, "ReleasePending", "m"),
			after: with(updated, metav1.ConditionFalse, "RollingOut", "n"),
		},
		{
			name:  "conditions of the nodes' states have events of their own",
			after: with(v1alpha1.AvailableCondition, metav1.ConditionFalse, "NoActiveNode", "m"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := transitions(&tt.before, &tt.after); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("transitions() = %q, want %q", got, tt.want)
			}
			if again := transitions(&tt.after, &tt.after); len(again) > 0 {
				t.Errorf("repeated at rest: %q", again)
			}
		})
	}
}
