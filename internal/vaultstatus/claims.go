package vaultstatus

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/vault-operator/vault-operator/internal/pods"
)

// claimSettled is how long a pod that claims a volume may be without a Kubernetes node
// before that is a failure: the claim and the volume are made meanwhile. It is longer than
// causes are kept, so that the failure is told with its cause.
const claimSettled = 15 * time.Second

// claims are the names of the claims that Kubernetes makes for a pod alone, by the names of
// its volumes.
// https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes
func claims(pod *corev1.Pod) map[string]string {
	names := map[string]string{}
	for i := range pod.Spec.Volumes {
		if volume := &pod.Spec.Volumes[i]; volume.Ephemeral != nil {
			names[volume.Name] = pod.Name + "-" + volume.Name
		}
	}
	return names
}

// unscheduled returns the condition which says that the pod can be put on no Kubernetes
// node, or nil.
func unscheduled(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c
		}
	}
	return nil
}

// gatherClaims collects why volumes are not made that pods wait for.
func (r *Reconciler) gatherClaims(ctx context.Context, f *facts) {
	f.unmade = map[types.UID]string{}
	for i := range f.pods {
		pod := &f.pods[i]
		if unscheduled(pod) == nil || pods.Terminating(pod) || pods.Ended(pod) {
			continue
		}
		for volume, name := range claims(pod) {
			why, err := r.whyUnbound(ctx, pod, volume, name)
			if err != nil {
				// A status without the cause is better than none.
				log.FromContext(ctx).V(1).Info("No cause is known of a claim that is not bound",
					"claim", name, "error", err.Error())
			}
			if why != "" {
				f.unmade[pod.UID] = "unbound claim " + name + ": " + why
			}
		}
	}
}

// whyUnbound is why a claim is not bound, as events of it tell; while it is not made, those
// of its pod do.
func (r *Reconciler) whyUnbound(ctx context.Context, pod *corev1.Pod, volume, name string) (string, error) {
	var claim corev1.PersistentVolumeClaim
	err := r.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name}, &claim)
	about, prefix := claim.UID, ""
	switch {
	case apierrors.IsNotFound(err):
		about, prefix = pod.UID, fmt.Sprintf("ephemeral volume %s: ", volume)
	case err != nil:
		return "", err
	case claim.Status.Phase == corev1.ClaimBound:
		return "", nil
	}
	messages, err := r.Causes.Of(ctx, pod.Namespace, about)
	for _, message := range messages {
		if text, ok := strings.CutPrefix(message, prefix); ok {
			return text, nil
		}
	}
	return "", err
}
