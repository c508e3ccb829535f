package helm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/message"
)

// fieldOwner owns the fields of the status that the Helm reconciler writes.
const fieldOwner = client.FieldOwner("vault-operator-helm")

// finalizer is the Helm reconciler's, which does not export it.
const finalizer = "uninstall-helm-release"

// Conditions and reasons that v1alpha1 has no names for. Those of helm-operator-plugins are in a package that is
// internal to it.
const (
	initializedCondition = "Initialized"

	reasonInitialized = "Initialized"
	reasonNotDeployed = "NotDeployed"
	reasonReleased    = "Released"
	reasonReconciled  = "Reconciled"
	reasonUnknown     = "Unknown"
)

// ownedConditions are the conditions of the Helm reconciler that are kept, with
// the reason for those that it writes without one. Paused is not among them:
// nothing can pause a Vault.
var ownedConditions = map[string]map[metav1.ConditionStatus]string{
	initializedCondition:             {metav1.ConditionTrue: reasonInitialized},
	v1alpha1.DeployedCondition:       {metav1.ConditionFalse: reasonNotDeployed},
	v1alpha1.ReleaseFailedCondition:  {metav1.ConditionFalse: reasonReleased},
	v1alpha1.IrreconcilableCondition: {metav1.ConditionFalse: reasonReconciled},
}

// newClient returns the client for the Helm reconciler. It differs from the one
// that it wraps in how the status is written: the reconciler replaces the whole
// status by the part that it knows, and this client applies just the fields
// that Helm owns, so that the status of the Vault nodes is never touched. And a Vault
// whose release is uninstalled is not found.
func newClient(c client.Client) client.Client {
	return helmClient{c}
}

type helmClient struct{ client.Client }

// Get does not find a Vault that is being deleted and whose release is uninstalled: the
// reconciler would wait until it is gone, and that may take as long as its pods have to end
// when it is deleted in the foreground.
// https://kubernetes.io/docs/concepts/architecture/garbage-collection/#foreground-deletion
func (c helmClient) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if err := c.Client.Get(ctx, key, obj, opts...); err != nil {
		return err
	}
	if kind := obj.GetObjectKind().GroupVersionKind(); kind == v1alpha1.GroupVersion.WithKind("Vault") &&
		obj.GetDeletionTimestamp() != nil && !controllerutil.ContainsFinalizer(obj, finalizer) {
		return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("vaults").GroupResource(), key.Name)
	}
	return nil
}

func (c helmClient) Status() client.SubResourceWriter {
	return statusWriter{c.Client.Status()}
}

// Update adds or removes the reconciler's finalizer, which is all that it updates
// a Vault for. It does so on what is there now, since the status may have been
// written in between, and leaves all else alone.
func (c helmClient) Update(ctx context.Context, obj client.Object, _ ...client.UpdateOption) error {
	update := controllerutil.RemoveFinalizer
	if controllerutil.ContainsFinalizer(obj, finalizer) {
		update = controllerutil.AddFinalizer
		// A new Vault was read a moment ago, so that it has hardly changed since.
		if err := c.Client.Update(ctx, obj); !apierrors.IsConflict(err) {
			return err
		}
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current := &unstructured.Unstructured{}
		current.SetGroupVersionKind(obj.GetObjectKind().GroupVersionKind())
		if err := c.Client.Get(ctx, client.ObjectKeyFromObject(obj), current); err != nil {
			return err
		}
		if current.GetUID() != obj.GetUID() || !update(current, finalizer) {
			return nil
		}
		if err := c.Client.Update(ctx, current); err != nil {
			return err
		}
		obj.SetResourceVersion(current.GetResourceVersion())
		return nil
	})
}

type statusWriter struct{ client.SubResourceWriter }

// Update applies the fields of the status that Helm owns.
func (w statusWriter) Update(ctx context.Context, obj client.Object, _ ...client.SubResourceUpdateOption) error {
	vault, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("the status of a %T cannot be applied", obj)
	}
	status, err := ownedStatus(vault)
	if err != nil {
		return err
	}
	applied := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	applied.SetGroupVersionKind(vault.GroupVersionKind())
	applied.SetNamespace(vault.GetNamespace())
	applied.SetName(vault.GetName())
	// A Vault of the same name that was made since is not the one to write to.
	applied.SetUID(vault.GetUID())
	configuration := client.ApplyConfigurationFromUnstructured(applied)
	if err := w.Apply(ctx, configuration, fieldOwner, client.ForceOwnership); err != nil {
		return err
	}
	// The reconciler may go on to update the object, to remove its finalizer.
	vault.SetResourceVersion(applied.GetResourceVersion())
	return nil
}

// ownedStatus picks what Helm owns from the status that the reconciler wrote.
// The rendered manifest is left out: it is in the release, and large.
func ownedStatus(vault *unstructured.Unstructured) (map[string]any, error) {
	status := map[string]any{}
	name, _, err := unstructured.NestedString(vault.Object, "status", "deployedRelease", "name")
	if err != nil {
		return nil, err
	}
	if name != "" {
		status["deployedRelease"] = map[string]any{"name": name}
	}
	conditions, _, err := unstructured.NestedSlice(vault.Object, "status", "conditions")
	if err != nil {
		return nil, err
	}
	conditions = slices.DeleteFunc(conditions, func(c any) bool {
		condition, ok := c.(map[string]any)
		_, owned := ownedConditions[text(condition, "type")]
		return !ok || !owned
	})
	for _, c := range conditions {
		complete(c.(map[string]any), vault.GetGeneration())
	}
	if len(conditions) > 0 {
		status["conditions"] = conditions
	}
	return status, nil
}

// complete makes a condition of the Helm reconciler one that the API accepts.
func complete(condition map[string]any, generation int64) {
	if text(condition, "reason") == "" {
		reason := ownedConditions[text(condition, "type")][metav1.ConditionStatus(text(condition, "status"))]
		if reason == "" {
			reason = reasonUnknown
		}
		condition["reason"] = reason
	}
	condition["message"] = message.Cut(fieldsOfVault(strings.TrimSpace(text(condition, "message"))))
	condition["observedGeneration"] = generation
}

func text(object map[string]any, key string) string {
	value, _ := object[key].(string)
	return value
}
