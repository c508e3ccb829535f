package workload

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFailureOfADeployment(t *testing.T) {
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "example"}}
	w := Of(deployment)
	w.Revision = "new"
	for message, told := range map[string]bool{
		`pods "example-new-x" is forbidden: exceeded quota`: true,
		`pods "example-old-x" is forbidden: exceeded quota`: false,
		`admission webhook denied the request`:              true,
	} {
		deployment.Status.Conditions = []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Message: message},
			{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: message},
		}
		if failure := w.Failure(); (failure != nil) != told {
			t.Errorf("%s: %v", message, failure)
		}
	}
}
