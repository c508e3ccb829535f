package vaultstatus

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// What nodes say when they end is told in words of the operator's own.
func TestExternalStorageReady(t *testing.T) {
	const url = "failed to connect to `user=vault`: postgres://vault:hunter2@db: "
	const upsert = "Error initializing storage of type postgresql: failed to check for native upsert: " + url
	ended := func(message string) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "example-1"},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: v1alpha1.VaultContainer,
				LastTerminationState: corev1.ContainerState{
					Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: message},
				},
			}}},
		}
	}
	for name, test := range map[string]struct {
		message string
		state   v1alpha1.NodeState
		status  metav1.ConditionStatus
		reason  string
	}{
		"nothing is known": {status: metav1.ConditionUnknown, reason: v1alpha1.ReasonNotObserved},
		"active":           {state: v1alpha1.NodeActive, status: metav1.ConditionTrue, reason: v1alpha1.ReasonStorageUsed},
		"sealed": {
			message: upsert + "connection refused", state: v1alpha1.NodeSealed, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonStorageUsed,
		},
		"a wrong password": {
			message: upsert + `FATAL: password authentication failed for user "vault" (SQLSTATE 28P01)`,
			status:  metav1.ConditionFalse, reason: v1alpha1.ReasonStorageRefused,
		},
		"not there": {
			message: upsert + "dial tcp 10.0.0.1:5432: connect: connection refused",
			status:  metav1.ConditionFalse, reason: v1alpha1.ReasonStorageUnavailable,
		},
		"another CA": {
			message: upsert + "tls: failed to verify certificate: x509: certificate signed by unknown authority",
			status:  metav1.ConditionFalse, reason: v1alpha1.ReasonStorageUnverified,
		},
		"something else": {
			message: "Error initializing storage of type postgresql: missing connection_url",
			status:  metav1.ConditionFalse, reason: v1alpha1.ReasonStorageFailing,
		},
		"not the storage": {
			message: "error loading configuration: connection refused", status: metav1.ConditionUnknown,
			reason: v1alpha1.ReasonNotObserved,
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := &v1alpha1.Vault{}
			vault.Spec.Storage.External = &v1alpha1.ExternalStorage{Type: "postgresql", ConfigSecretName: "pg"}
			in := &storageInputs{vault: vault, nodes: []corev1.Pod{ended(test.message)}}
			if test.state != "" {
				in.states = []v1alpha1.NodeStatus{{Name: "example-1", State: test.state}}
			}
			got := in.external().ready
			if got.Status != test.status || got.Reason != test.reason {
				t.Errorf("the condition is %s, %s: %s", got.Status, got.Reason, got.Message)
			}
			if strings.Contains(got.Message, "hunter2") {
				t.Errorf("it tells the password: %s", got.Message)
			}
		})
	}
}
