// Package statuspart writes the part of the status of a Vault that one controller owns: a field
// and a condition, by server-side apply.
package statuspart

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/message"
)

// Writer writes such a part, and tells by events of a condition with another reason.
type Writer struct {
	Client   client.Client
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	// Owner is the field owner, Condition the type of the condition, and Field the name of
	// the field.
	Owner            client.FieldOwner
	Condition, Field string
	// Notable are the reasons of an Unknown condition that are told as well, and Alarming
	// those of a True one that are warnings.
	Notable, Alarming []string
}

// Write writes the field, which was before and is a pointer to a struct or a nil one, and the
// condition; a nil one is removed. Nothing is written when nothing has changed. If locked it
// fails when the Vault is not the version any more that it was made of. The Vault has the new
// version and conditions afterwards, and its field is for the caller to set.
func (w *Writer) Write(
	ctx context.Context, vault *v1alpha1.Vault, before, after any, condition *metav1.Condition, locked bool,
) error {
	var conditions []metav1.Condition
	old := meta.FindStatusCondition(vault.Status.Conditions, w.Condition).DeepCopy()
	if condition != nil {
		if old != nil {
			conditions = append(conditions, *old)
		}
		condition.Type = w.Condition
		condition.Message = message.Cut(condition.Message)
		condition.ObservedGeneration = vault.Generation
		condition.LastTransitionTime = metav1.Time{Time: w.Clock.Now()}.Rfc3339Copy()
		meta.SetStatusCondition(&conditions, *condition)
	}
	same := old == nil && condition == nil || old != nil && condition != nil &&
		equality.Semantic.DeepEqual(*old, conditions[0])
	if same && equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	if err := w.apply(ctx, vault, after, conditions, locked); err != nil {
		return err
	}
	vault.Status.Conditions = slices.DeleteFunc(slices.Clone(vault.Status.Conditions), func(c metav1.Condition) bool {
		return c.Type == w.Condition
	})
	vault.Status.Conditions = append(vault.Status.Conditions, conditions...)
	if condition != nil && (old == nil || old.Reason != condition.Reason) {
		w.event(vault, condition)
	}
	return nil
}

func (w *Writer) apply(
	ctx context.Context, vault *v1alpha1.Vault, field any, conditions []metav1.Condition, locked bool,
) error {
	status := map[string]any{}
	if !reflect.ValueOf(field).IsNil() {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(field)
		if err != nil {
			return err
		}
		status[w.Field] = object
	}
	if len(conditions) > 0 {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&conditions[0])
		if err != nil {
			return err
		}
		status["conditions"] = []any{object}
	}
	applied := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	applied.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	applied.SetNamespace(vault.Namespace)
	applied.SetName(vault.Name)
	// A Vault of the same name that was made since is not the one to write to.
	applied.SetUID(vault.UID)
	if locked {
		applied.SetResourceVersion(vault.ResourceVersion)
	}
	configuration := client.ApplyConfigurationFromUnstructured(applied)
	if err := w.Client.Status().Apply(ctx, configuration, w.Owner, client.ForceOwnership); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	vault.ResourceVersion = applied.GetResourceVersion()
	return nil
}

func (w *Writer) event(vault *v1alpha1.Vault, condition *metav1.Condition) {
	switch {
	case condition.Status == metav1.ConditionFalse, slices.Contains(w.Alarming, condition.Reason):
		w.Recorder.Event(vault, corev1.EventTypeWarning, condition.Reason, condition.Message)
	case condition.Status == metav1.ConditionTrue, slices.Contains(w.Notable, condition.Reason):
		w.Recorder.Event(vault, corev1.EventTypeNormal, condition.Reason, condition.Message)
	}
}
