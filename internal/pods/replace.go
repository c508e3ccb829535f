package pods

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Replace deletes the pod of a list that has the UID, so that the StatefulSet controller makes
// another one, of the newest template. It leaves it, and returns nil, while a pod is being deleted
// or one of those that the others rely on without it is not ready any more.
func Replace(
	ctx context.Context, api client.Writer, list []corev1.Pod, uid types.UID, without []types.UID,
) (*corev1.Pod, error) {
	var replaced *corev1.Pod
	ready := map[types.UID]bool{}
	for i := range list {
		pod := &list[i]
		if Terminating(pod) {
			return nil, nil // it is looked at again soon
		}
		ready[pod.UID] = Ready(pod)
		if pod.UID == uid {
			replaced = pod
		}
	}
	if replaced == nil || slices.ContainsFunc(without, func(uid types.UID) bool { return !ready[uid] }) {
		return nil, nil
	}
	err := api.Delete(ctx, replaced, client.Preconditions{UID: &replaced.UID})
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("deleting pod %s, which is of an older template: %w", replaced.Name, err)
	}
	return replaced, nil
}
