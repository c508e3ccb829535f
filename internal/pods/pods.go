// Package pods holds what the controllers have in common about Vault pods.
package pods

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// List returns the pods of the Vault's nodes, by name, those that have ended
// included: they may still have the active label.
func List(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) ([]corev1.Pod, error) {
	return WithLabels(ctx, reader, vault, vault.PodLabels())
}

// Members returns the pods of the Vault's etcd members, by name.
func Members(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) ([]corev1.Pod, error) {
	return WithLabels(ctx, reader, vault, vault.EtcdLabels())
}

// WithLabels returns the pods of the Vault that have the labels, by name.
func WithLabels(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, labels client.MatchingLabels,
) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := reader.List(ctx, &list, client.InNamespace(vault.Namespace), labels); err != nil {
		return nil, fmt.Errorf("listing the pods of Vault %s: %w", vault.Name, err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return list.Items, nil
}

// Ended says that the pod will never run again, for example because it was evicted, or
// deleted and has stopped.
func Ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// ToVault maps the pod of a Vault node to its Vault.
func ToVault(_ context.Context, obj client.Object) []reconcile.Request {
	labels := obj.GetLabels()
	if labels[v1alpha1.NameLabel] != v1alpha1.AppName || labels[v1alpha1.InstanceLabel] == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{
		Namespace: obj.GetNamespace(), Name: labels[v1alpha1.InstanceLabel],
	}}}
}

// vaultContainer returns the status of the Vault container, or nil.
func vaultContainer(pod *corev1.Pod) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if status := &pod.Status.ContainerStatuses[i]; status.Name == v1alpha1.VaultContainer {
			return status
		}
	}
	return nil
}

// Running says that the Vault container of the pod runs at an address.
func Running(pod *corev1.Pod) bool {
	container := vaultContainer(pod)
	return container != nil && container.State.Running != nil && pod.Status.PodIP != ""
}

// StartedAt is when the Vault container, which runs, was started.
func StartedAt(pod *corev1.Pod) time.Time {
	container := vaultContainer(pod)
	if container == nil || container.State.Running == nil {
		return time.Time{}
	}
	return container.State.Running.StartedAt.Time
}

// Container identifies one start of the Vault container, and changes with the next.
func Container(pod *corev1.Pod) string {
	container := vaultContainer(pod)
	if container == nil {
		return ""
	}
	return fmt.Sprintf("%s#%d", container.ContainerID, container.RestartCount)
}

// Labelled says that the pod has the active label, which the Service selects.
func Labelled(pod *corev1.Pod) bool {
	return pod.Labels[v1alpha1.ActiveLabel] == v1alpha1.ActiveLabelValue
}

// InService says that the Service sends requests to the pod: it has the active
// label, is ready, and is not being deleted.
func InService(pod *corev1.Pod) bool {
	return Labelled(pod) && !Terminating(pod) && Ready(pod)
}

// Ready says that the pod is among the ready endpoints of its Services.
func Ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// FastRetries is a rate limiter for work that must not wait: retries begin at
// 20 ms and are never more than a second apart.
func FastRetries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](20*time.Millisecond, time.Second)
}

// SlowRetries is a rate limiter for work with requests to Vault: retries are a second to half
// a minute apart.
func SlowRetries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 30*time.Second)
}

// Terminating says that the pod is being deleted.
func Terminating(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil
}
