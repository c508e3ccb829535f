package helm

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/message"
)

func TestLongMessagesOfConditionsAreCut(t *testing.T) {
	for name, character := range map[string]string{"one byte": "x", "three bytes": "世", "four bytes": "🔐"} {
		condition := map[string]any{
			"type": v1alpha1.IrreconcilableCondition, "status": "True", "message": "  " + strings.Repeat(character, 20000),
		}
		complete(condition, 1)
		got := text(condition, "message")
		if len(got) > message.Max || len(got) < message.Max-8 || !utf8.ValidString(got) ||
			!strings.HasPrefix(got, character) {
			t.Errorf("%s: a message of %d bytes, valid: %v", name, len(got), utf8.ValidString(got))
		}
	}
}

var errConflict = apierrors.NewConflict(schema.GroupResource{Resource: "vaults"}, "example", errors.New("modified"))

// The Helm reconciler adds or removes its finalizer, on whatever was read a while ago.
func TestFinalizersAreUpdated(t *testing.T) {
	for name, tt := range map[string]struct {
		// present and wanted say whether the Vault has the finalizer.
		present, wanted bool
		// stale says that the Vault was changed since it was read, and otherUID that it was
		// replaced by another of its name.
		stale    bool
		otherUID bool
		gone     bool
		// errs are what the API server answers to the first updates.
		errs []error
		// updates is how many there are, and changed whether the Vault is other than before.
		updates int
		changed bool
		wantErr func(error) bool
	}{
		"of a new Vault":          {wanted: true, updates: 1, changed: true},
		"of one that was changed": {wanted: true, stale: true, updates: 2, changed: true},
		"of one that is always changed": {
			wanted: true, errs: []error{errConflict, errConflict, errConflict}, updates: 4, changed: true,
		},
		"that is there already":              {present: true, wanted: true, stale: true, updates: 1},
		"of one that is being deleted":       {present: true, updates: 1, changed: true},
		"of one that is changed and deleted": {present: true, stale: true, updates: 1, changed: true},
		"after a conflict of the removal":    {present: true, errs: []error{errConflict}, updates: 2, changed: true},
		"that is removed already":            {stale: true},
		"of one that another has replaced":   {wanted: true, stale: true, otherUID: true, updates: 1},
		"of a deleted one that was replaced": {present: true, otherUID: true},
		"of one that is gone":                {gone: true, wantErr: apierrors.IsNotFound},
		"with an error that is no conflict":  {wanted: true, errs: []error{errAPI}, updates: 1, wantErr: isErrAPI},
		"with such an error after a conflict": {
			wanted: true, errs: []error{errConflict, errAPI}, updates: 2, wantErr: isErrAPI,
		},
		"with more conflicts than are retried": {
			errs: manyConflicts, present: true, updates: 5, wantErr: apierrors.IsConflict,
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault()
			if tt.present {
				controllerutil.AddFinalizer(vault, finalizer)
			}
			api := fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithObjects(vault).Build()
			read := currentVault(t, api)
			if tt.stale {
				change(t, api, func(current *unstructured.Unstructured) { current.SetLabels(map[string]string{"changed": "true"}) })
			}
			if tt.otherUID {
				change(t, api, func(current *unstructured.Unstructured) { current.SetUID("other") })
			}
			if tt.gone {
				change(t, api, func(current *unstructured.Unstructured) { current.SetFinalizers(nil) })
				if err := api.Delete(t.Context(), currentVault(t, api)); err != nil {
					t.Fatal(err)
				}
			}
			update := controllerutil.RemoveFinalizer
			if tt.wanted {
				update = controllerutil.AddFinalizer
			}
			update(read, finalizer)
			updates := 0
			c := newClient(interceptor.NewClient(api, interceptor.Funcs{
				Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
					updates++
					if updates <= len(tt.errs) {
						return tt.errs[updates-1]
					}
					return c.Update(ctx, obj, opts...)
				},
			}))

			err := c.Update(t.Context(), read)
			if updates != tt.updates {
				t.Errorf("%d updates, want %d", updates, tt.updates)
			}
			if tt.wantErr != nil {
				if !tt.wantErr(err) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			current := currentVault(t, api)
			if tt.stale && current.GetLabels()["changed"] != "true" {
				t.Error("what was changed meanwhile is lost")
			}
			if has := controllerutil.ContainsFinalizer(current, finalizer); !tt.otherUID && has != tt.wanted {
				t.Errorf("it has the finalizer: %v", has)
			}
			if tt.changed && read.GetResourceVersion() != current.GetResourceVersion() {
				t.Errorf("version %s, want %s", read.GetResourceVersion(), current.GetResourceVersion())
			}
			if !tt.changed && controllerutil.ContainsFinalizer(current, finalizer) != tt.present {
				t.Error("it was changed")
			}
		})
	}
}

var (
	errAPI        = errors.New("the API server is unavailable")
	manyConflicts = []error{errConflict, errConflict, errConflict, errConflict, errConflict, errConflict, errConflict}
)

func isErrAPI(err error) bool { return errors.Is(err, errAPI) }

// A Vault that is deleted in the foreground stays until its pods are gone, and nobody waits for that.
func TestUninstalledVaultIsNotFound(t *testing.T) {
	foreground := metav1.FinalizerDeleteDependents
	for name, tt := range map[string]struct {
		finalizers []string
		deleted    bool
		want       bool
	}{
		"that lives":                       {finalizers: []string{finalizer}, want: true},
		"that has no finalizer yet":        {want: true},
		"whose release is there":           {finalizers: []string{finalizer, foreground}, deleted: true, want: true},
		"whose release is uninstalled":     {finalizers: []string{foreground}, deleted: true},
		"that waits for another finalizer": {finalizers: []string{"example.com/other"}, deleted: true},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault()
			vault.SetFinalizers(tt.finalizers)
			api := fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithObjects(vault).Build()
			if tt.deleted {
				if err := api.Delete(t.Context(), vault); err != nil {
					t.Fatal(err)
				}
			}
			got := newVault()
			err := newClient(api).Get(t.Context(), client.ObjectKeyFromObject(vault), got)
			if tt.want && (err != nil || got.GetUID() != vault.GetUID()) || !tt.want && !apierrors.IsNotFound(err) {
				t.Errorf("found is %t, error %v", tt.want, err)
			}
		})
	}
}

func newVault() *unstructured.Unstructured {
	vault := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"version": "1.21.0"}}}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	vault.SetNamespace("default")
	vault.SetName("example")
	vault.SetUID("vault-uid")
	vault.SetGeneration(3)
	return vault
}

func currentVault(t *testing.T, api client.Client) *unstructured.Unstructured {
	t.Helper()
	current := newVault()
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(current), current); err != nil {
		t.Fatal(err)
	}
	return current
}

func change(t *testing.T, api client.Client, how func(*unstructured.Unstructured)) {
	t.Helper()
	current := currentVault(t, api)
	how(current)
	if err := api.Update(t.Context(), current); err != nil {
		t.Fatal(err)
	}
}

// What the Helm reconciler writes of a condition, by what is applied of it.
func TestConditionsAreCompleted(t *testing.T) {
	for name, tt := range map[string]struct{ conditionType, status, reason, want string }{
		"initialized":                {initializedCondition, "True", "", "Initialized"},
		"deployed":                   {v1alpha1.DeployedCondition, "True", "InstallSuccessful", "InstallSuccessful"},
		"not deployed":               {v1alpha1.DeployedCondition, "False", "", "NotDeployed"},
		"deployed, without a reason": {v1alpha1.DeployedCondition, "True", "", "Unknown"},
		"no release has failed":      {v1alpha1.ReleaseFailedCondition, "False", "", "Released"},
		"a release has failed":       {v1alpha1.ReleaseFailedCondition, "True", "UpgradeError", "UpgradeError"},
		"reconciled":                 {v1alpha1.IrreconcilableCondition, "False", "", "Reconciled"},
		"unknown":                    {v1alpha1.IrreconcilableCondition, "Unknown", "", "Unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			condition := map[string]any{
				"type": tt.conditionType, "status": tt.status, "lastTransitionTime": "2025-11-24T12:00:00Z",
			}
			if tt.reason != "" {
				condition["reason"] = tt.reason
			}
			vault := newVault()
			vault.Object["status"] = map[string]any{"conditions": []any{condition}}
			want := map[string]any{
				"type": tt.conditionType, "status": tt.status, "lastTransitionTime": "2025-11-24T12:00:00Z",
				"reason": tt.want, "message": "", "observedGeneration": int64(3),
			}
			applied, err := apply(t, vault, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := applied.Object["status"].(map[string]any)["conditions"].([]any)
			if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// Only what Helm owns is applied, and only to the Vault that was reconciled.
func TestOnlyTheStatusOfHelmIsApplied(t *testing.T) {
	vault := newVault()
	vault.Object["status"] = map[string]any{
		"phase":           "Running",
		"deployedRelease": map[string]any{"name": "vault-uid", "manifest": "kind: Secret"},
		"conditions": []any{
			map[string]any{"type": "Paused", "status": "False"},
			map[string]any{"type": v1alpha1.AvailableCondition, "status": "True"},
			map[string]any{"type": v1alpha1.IrreconcilableCondition, "status": "False"},
			"garbage",
		},
	}
	applied, err := apply(t, vault, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := newVault()
	want.SetGeneration(0)
	delete(want.Object, "spec")
	want.SetResourceVersion("applied")
	want.Object["status"] = map[string]any{
		"deployedRelease": map[string]any{"name": "vault-uid"},
		"conditions": []any{map[string]any{
			"type": v1alpha1.IrreconcilableCondition, "status": "False", "reason": "Reconciled", "message": "",
			"observedGeneration": int64(3),
		}},
	}
	unstructured.RemoveNestedField(want.Object, "metadata", "generation")
	if !reflect.DeepEqual(applied.Object, want.Object) {
		t.Errorf("applied\n%v, want\n%v", applied.Object, want.Object)
	}
	// It goes on to update the Vault, of which it has to know the version.
	if vault.GetResourceVersion() != "applied" {
		t.Errorf("version %q", vault.GetResourceVersion())
	}
}

func TestStatusesThatCannotBeApplied(t *testing.T) {
	broken := newVault()
	broken.Object["status"] = map[string]any{"conditions": "none"}
	if _, err := apply(t, broken, nil); err == nil {
		t.Error("conditions that are no list are applied")
	}
	if _, err := apply(t, newVault(), errAPI); !isErrAPI(err) {
		t.Errorf("error %v", err)
	}
	api := fake.NewClientBuilder().WithScheme(runtime.NewScheme()).Build()
	if err := newClient(api).Status().Update(t.Context(), &metav1.PartialObjectMetadata{}); err == nil {
		t.Error("the status of metadata is applied")
	}
}

// apply updates the status, and returns what is applied of it.
func apply(t *testing.T, vault *unstructured.Unstructured, failure error) (*unstructured.Unstructured, error) {
	t.Helper()
	applied := &unstructured.Unstructured{}
	api := interceptor.NewClient(fake.NewClientBuilder().WithScheme(runtime.NewScheme()).Build(), interceptor.Funcs{
		SubResourceApply: func(_ context.Context, _ client.Client, sub string, obj runtime.ApplyConfiguration,
			opts ...client.SubResourceApplyOption) error {
			var options client.SubResourceApplyOptions
			options.ApplyOpts(opts)
			if sub != "status" || options.FieldManager != string(fieldOwner) || options.Force == nil || !*options.Force {
				t.Errorf("%s applied with %+v", sub, options)
			}
			obj.(interface{ SetResourceVersion(string) }).SetResourceVersion("applied")
			encoded, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
			if err != nil {
				return err
			}
			applied.Object = encoded
			return failure
		},
	})
	return applied, newClient(api).Status().Update(t.Context(), vault)
}
