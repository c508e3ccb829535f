package helm

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// dependentChanged passes what can make a rendered object differ from its
// manifest: its deletion, and a change of anything but its status.
func dependentChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return true },
		UpdateFunc: func(e event.UpdateEvent) bool {
			if !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) {
				return true
			}
			if e.ObjectNew.GetGeneration() != 0 {
				return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()
			}
			// Kinds without a generation have no status that others write.
			return changed(e.ObjectOld, e.ObjectNew)
		},
	}
}

// isConfiguration passes Secrets with configuration.
func isConfiguration() predicate.Predicate {
	return predicate.NewPredicateFuncs(func(object client.Object) bool {
		return object.GetLabels()[v1alpha1.ConfigLabel] != ""
	})
}

func changed(before, after client.Object) bool {
	return before.GetResourceVersion() != after.GetResourceVersion()
}

// deleted passes deletions: the gate may have waited for one.
func deleted() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// memberBecameReady passes what a change of the etcd pods may have waited for: that a
// member has become ready, while the spec of its Vault cannot be deployed.
func memberBecameReady(reader client.Reader) predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, after := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
			if after.Labels[v1alpha1.ComponentLabel] != v1alpha1.EtcdComponent || storage.Ready(before) ||
				!storage.Ready(after) {
				return false
			}
			var vault v1alpha1.Vault
			key := client.ObjectKey{Namespace: after.Namespace, Name: after.Labels[v1alpha1.InstanceLabel]}
			if err := reader.Get(context.Background(), key, &vault); err != nil {
				return !apierrors.IsNotFound(err)
			}
			return meta.IsStatusConditionTrue(vault.Status.Conditions, v1alpha1.IrreconcilableCondition) ||
				meta.IsStatusConditionTrue(vault.Status.Conditions, v1alpha1.ReleaseFailedCondition)
		},
	}
}

// sealBecameReady passes what a change of the nodes may have waited for: that the key
// service works again, or that something is known of it, while the spec of the Vault cannot
// be deployed.
func sealBecameReady() predicate.Predicate {
	return onUpdate(func(old, vault *v1alpha1.Vault) bool {
		conditions := vault.Status.Conditions
		before := meta.FindStatusCondition(old.Status.Conditions, v1alpha1.SealReadyCondition)
		after := meta.FindStatusCondition(conditions, v1alpha1.SealReadyCondition)
		return after != nil && !seal.Fails(after) && (before == nil || before.Reason != after.Reason) &&
			(meta.IsStatusConditionTrue(conditions, v1alpha1.IrreconcilableCondition) ||
				meta.IsStatusConditionTrue(conditions, v1alpha1.ReleaseFailedCondition))
	})
}

// runningNodesChanged passes that another number of nodes may run.
func runningNodesChanged() predicate.Predicate {
	return onUpdate(func(before, after *v1alpha1.Vault) bool { return before.RunningNodes() != after.RunningNodes() })
}

// onUpdate passes the updates of a Vault that it says, and nothing else.
func onUpdate(passes func(before, after *v1alpha1.Vault) bool) predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return passes(e.ObjectOld.(*v1alpha1.Vault), e.ObjectNew.(*v1alpha1.Vault))
		},
	}
}

// secretChanged passes the events of Secrets but for one: that a Secret of the Vault
// was made. The gate makes them, and goes on with them; each would cost another
// reconcile that finds nothing to do. Only while a Vault is irreconcilable somebody
// else may have made it, to fix that.
func secretChanged(reader client.Reader) predicate.Predicate {
	return predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool {
		owner := metav1.GetControllerOf(e.Object)
		if owner == nil {
			return true
		}
		var vault v1alpha1.Vault
		key := client.ObjectKey{Namespace: e.Object.GetNamespace(), Name: owner.Name}
		if err := reader.Get(context.Background(), key, &vault); err != nil || vault.UID != owner.UID {
			return true
		}
		return meta.IsStatusConditionTrue(vault.Status.Conditions, v1alpha1.IrreconcilableCondition)
	}}
}
