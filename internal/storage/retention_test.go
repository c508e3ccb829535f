package storage

import (
	"context"
	"errors"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func newAPI(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Vault{}).WithObjects(objects...).
		Build()
}

// setController does what the StatefulSet controller does when the retention policy
// of a StatefulSet is changed: it marks the claims.
func setController(api client.WithWatch, vault *v1alpha1.Vault) client.WithWatch {
	return interceptor.NewClient(api, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch,
			opts ...client.PatchOption) error {
			if err := c.Patch(ctx, obj, patch, opts...); err != nil {
				return err
			}
			set, ok := obj.(*appsv1.StatefulSet)
			if !ok {
				return nil
			}
			var list corev1.PersistentVolumeClaimList
			if err := c.List(ctx, &list, client.MatchingLabels(vault.EtcdLabels())); err != nil {
				return err
			}
			for i := range list.Items {
				list.Items[i].OwnerReferences = nil
				policy := set.Spec.PersistentVolumeClaimRetentionPolicy
				if policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
					list.Items[i].OwnerReferences = []metav1.OwnerReference{ownerOf(set)}
				}
				if err := c.Update(ctx, &list.Items[i]); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

func ownerOf(set *appsv1.StatefulSet) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set.Name, UID: set.UID}
}

// What the spec says when a Vault is deleted counts, not what was deployed last.
func TestApplyRetention(t *testing.T) {
	for name, tt := range map[string]struct {
		deployed appsv1.PersistentVolumeClaimRetentionPolicyType
		owned    bool
		wanted   v1alpha1.DataRetention
	}{
		"kept after all":      {deployed: "Delete", owned: true, wanted: v1alpha1.RetainData},
		"deleted after all":   {deployed: "Retain", wanted: v1alpha1.DeleteData},
		"kept as before":      {deployed: "Retain", wanted: v1alpha1.RetainData},
		"deleted as before":   {deployed: "Delete", owned: true, wanted: v1alpha1.DeleteData},
		"kept by the default": {deployed: "Delete", owned: true},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(1)
			vault.Spec.Storage.Etcd.WhenDeleted = tt.wanted
			set := newSet(vault, nil)
			set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenDeleted: tt.deployed,
			}
			c := claim(vault, 0, "bound", "2Gi", "fast")
			if tt.owned {
				c.OwnerReferences = []metav1.OwnerReference{ownerOf(set)}
			}
			api := setController(newAPI(t, set, c), vault)
			if err := ApplyRetention(t.Context(), api, api, vault); err != nil {
				t.Fatal(err)
			}
			if err := api.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
				t.Fatal(err)
			}
			if owned := len(c.OwnerReferences) == 1; owned != (tt.wanted == v1alpha1.DeleteData) {
				t.Errorf("the claim is owned by the StatefulSet: %v", owned)
			}
		})
	}
	vault := newVault(1)
	api := newAPI(t)
	if err := ApplyRetention(t.Context(), api, api, vault); err != nil {
		t.Errorf("without a StatefulSet: %v", err)
	}
}

// Nobody takes the policy over for a claim that has no replica.
func TestRetentionOfOtherClaims(t *testing.T) {
	vault := newVault(1)
	set := newSet(vault, nil)
	set.Spec.Replicas = new(int32(1))
	claims := map[int]*corev1.PersistentVolumeClaim{0: claim(vault, 0, "bound", "2Gi", "fast"),
		1: claim(vault, 1, "bound", "2Gi", "fast")}
	if got := notFollowed(claims, set, "Delete"); !slices.Equal(got, []string{claims[0].Name}) {
		t.Errorf("it is waited for %q", got)
	}
}

// A StatefulSet without volumes is replaced together with its claims, in steps.
func TestReplacement(t *testing.T) {
	vault := newVault(1)
	vault.Spec.Storage.Etcd.StorageClassName = ptr(v1alpha1.ObjectName("fast"))
	set := newSet(vault, ptr("fats"))
	c := claim(vault, 0, "unbound", "2Gi", "fats")
	api := setController(newAPI(t, vault, set, c), vault)
	r := &Reconciler{Client: api, APIReader: api}
	for range 3 {
		if _, err := r.Reconcile(t.Context(), requestFor(vault)); err != nil {
			t.Fatal(err)
		}
	}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(set), set); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the StatefulSet is still there: %v", err)
	}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil || len(c.OwnerReferences) != 1 {
		t.Errorf("the claim would not go with it: %v %v", c.OwnerReferences, err)
	}
}

func TestGuard(t *testing.T) {
	vault := newVault(3)
	set := newSet(vault, nil)
	objects := []client.Object{vault, set}
	for i := range 3 {
		objects = append(objects, claim(vault, i, "bound", "2Gi", "fast"))
		vault.Status.Storage = &v1alpha1.StorageStatus{}
	}
	for i := range 3 {
		vault.Status.Storage.Volumes = append(vault.Status.Storage.Volumes,
			v1alpha1.StorageVolume{Claim: vault.EtcdClaimName(i), UID: objects[i+2].GetUID()})
	}
	api := newAPI(t, objects...)
	r := &Reconciler{Client: api, APIReader: api}
	guard := func() string {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), requestFor(vault)); err != nil {
			t.Fatal(err)
		}
		var current corev1.ConfigMap
		err := api.Get(t.Context(), client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdReplacementName()}, &current)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return current.Data[stateKey]
	}
	if got := guard(); got != "" {
		t.Errorf("at rest: %q", got)
	}
	// An administrator replaces a member by docs/recovery.md.
	own := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: vault.EtcdReplacementName()},
		Data:       map[string]string{stateKey: "existing"},
	}
	if err := errors.Join(api.Create(t.Context(), own), api.Delete(t.Context(), objects[3])); err != nil {
		t.Fatal(err)
	}
	if got := guard(); got != "existing" {
		t.Errorf("while an administrator replaces a member: %q", got)
	}
	if err := api.Delete(t.Context(), objects[4]); err != nil {
		t.Fatal(err)
	}
	if got := guard(); got != stateLost {
		t.Errorf("when two are lost: %q", got)
	}
	// The data is given up.
	vault.Status.Storage = nil
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(vault), vault); err != nil {
		t.Fatal(err)
	}
	vault.Status.Storage = nil
	if err := api.Status().Update(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	if got := guard(); got != "" {
		t.Errorf("when the data is given up: %q", got)
	}
}

func TestSetPlacement(t *testing.T) {
	vault := newVault(1)
	for name, tt := range map[string]struct {
		set         bool
		annotations map[string]string
		own         bool
		stays       bool
	}{
		"not made yet":       {},
		"made before":        {set: true, stays: true},
		"made to follow":     {set: true, annotations: map[string]string{v1alpha1.FollowsVaultAnnotation: "true"}},
		"a place of its own": {set: true, own: true},
	} {
		vault, set := vault.DeepCopy(), newSet(vault, nil)
		set.Annotations = tt.annotations
		if tt.own {
			vault.Spec.Storage.Etcd.Pod = &v1alpha1.EtcdPodPolicy{}
		}
		api := newAPI(t, vault)
		if tt.set {
			api = newAPI(t, vault, set)
		}
		values := map[string]any{"storage": map[string]any{"etcd": map[string]any{}}}
		if err := SetPlacement(t.Context(), api, vault, values); err != nil {
			t.Fatal(err)
		}
		if _, stays := values["storage"].(map[string]any)["etcd"].(map[string]any)["pod"]; stays != tt.stays {
			t.Errorf("%s: values %v", name, values)
		}
	}
}

func requestFor(vault *v1alpha1.Vault) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(vault)}
}
