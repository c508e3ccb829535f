package login

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// rollout is what is known of the pods of a Vault, and of what the Deployment makes of them.
type rollout struct {
	pods         []corev1.Pod
	observations map[types.UID]probe.Observation
	workload     *workload.Workload
}

// deployment is the Deployment, or nil while it is not known which pods are updated. The rollout
// of a StatefulSet is the operator's own.
func (r rollout) deployment() *appsv1.Deployment {
	if r.workload == nil || r.workload.Revision == "" {
		return nil
	}
	deployment, _ := r.workload.Object.(*appsv1.Deployment)
	return deployment
}

// handover returns the pod whose node has to step down, and one of those that can take over
// from it, or nothing.
//
// The Deployment takes away one old pod whenever one more that is updated has been ready for
// minReadySeconds, and by its deletion cost the active one last. So the moment for a step-down
// is between when the last updated pod is ready and when the active one is deleted. Before that
// an old node could become active after an updated one, which Vault does not support: its
// data may be that of the newer version. All that could take the lock has to be updated, so
// that no other pod may be left, not even one that is being deleted.
//
// While anything is not known nothing is done: the active node then gives up its place when it
// is ended, as everywhere else.
func handover(r rollout) (active, successor *corev1.Pod) {
	deployment := r.deployment()
	if deployment == nil {
		return nil, nil
	}
	ready := 0
	for i := range r.pods {
		pod := &r.pods[i]
		updated := r.workload.Updated(pod)
		state := r.observations[pod.UID].State
		switch {
		case pods.Ended(pod):
		case pods.Terminating(pod):
			return nil, nil
		case !updated && state == probe.Active && active == nil:
			active = pod
		case !updated, state == probe.Active:
			return nil, nil
		case state == probe.Standby && pods.Ready(pod):
			ready++
			successor = pod
		}
	}
	if active == nil || successor == nil || ready < enough(deployment) {
		return nil, nil
	}
	return active, successor
}

// enough is how many updated pods have to be ready before the last old one is deleted.
func enough(deployment *appsv1.Deployment) int {
	replicas := 1
	if deployment.Spec.Replicas != nil {
		replicas = int(*deployment.Spec.Replicas)
	}
	unavailable := 0
	if rolling := deployment.Spec.Strategy.RollingUpdate; rolling != nil && rolling.MaxUnavailable != nil {
		var err error
		if unavailable, err = intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, replicas, false); err != nil {
			return replicas
		}
	}
	return max(replicas-unavailable, 1)
}
