package workload

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestFailureOfADeployment(t *testing.T) {
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "example"}}
	for message, told := range map[string]bool{
		`pods "example-new-x" is forbidden: exceeded quota`: true,
		`pods "example-old-x" is forbidden: exceeded quota`: false,
		`admission webhook denied the request`:              true,
	} {
		deployment.Status.Conditions = []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Message: message},
			{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: message},
		}
		w := Of(deployment)
		w.Revision = "new"
		if failure := w.Failure(); (failure != nil) != told {
			t.Errorf("%s: %v", message, failure)
		}
	}
}

// A StatefulSet runs nodes that have volumes of their own. It tells its revision itself, and
// only events tell why it cannot make a pod.
func TestStatefulSet(t *testing.T) {
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
	vault.Spec.Storage.Raft = &v1alpha1.RaftStorage{}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", Generation: 2, Annotations: map[string]string{
			v1alpha1.GenerationAnnotation: "7", v1alpha1.VersionAnnotation: "1.21.0",
		}},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdateRevision: "new"},
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{appsv1.StatefulSetRevisionLabel: "new"}}}
	for name, tt := range map[string]struct {
		observed int64
		updated  bool
	}{"as it is": {2, true}, "a change that was not seen yet": {1, false}} {
		set.Status.ObservedGeneration = tt.observed
		api := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(set).Build()
		w, err := GetWithRevision(t.Context(), api, vault)
		if err != nil || w == nil {
			t.Fatalf("%s: workload %v, error %v", name, w, err)
		}
		if w.Updated(pod) != tt.updated || w.Generation() != "7" || w.Version() != "1.21.0" || w.Kind != "StatefulSet" {
			t.Errorf("%s: %+v", name, w)
		}
		if w.Failure() != nil {
			t.Errorf("%s: failure %+v", name, w.Failure())
		}
		w.Causes = []string{"create Pod example-0 failed: exceeded quota"}
		if failure := w.Failure(); failure == nil || failure.Message != w.Causes[0] {
			t.Errorf("%s: failure %+v", name, failure)
		}
	}
}
