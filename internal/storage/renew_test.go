package storage

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// A StatefulSet is made anew for larger volumes without its pods, when they are there and
// nothing else is in the way.
func TestRenew(t *testing.T) {
	sized := func(set *appsv1.StatefulSet, size string) *appsv1.StatefulSet {
		set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests =
			corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
		return set
	}
	for name, tt := range map[string]struct {
		// template is the size in the StatefulSet, rendered that in the manifests, and has that of the volumes.
		template, rendered, has string
		change                  func(vault *v1alpha1.Vault, set *appsv1.StatefulSet, claims []*corev1.PersistentVolumeClaim)
		deleted                 bool
		refused                 string
		// invalid says that the API server refuses the next one.
		invalid bool
	}{
		"all volumes are larger":             {template: "2Gi", rendered: "4Gi", has: "4Gi", deleted: true},
		"it makes them already":              {template: "4Gi", rendered: "4Gi", has: "4Gi"},
		"a volume is not larger yet":         {template: "2Gi", rendered: "4Gi", has: "2Gi", refused: "waiting for data-"},
		"the spec was changed while":         {template: "2Gi", rendered: "3Gi", has: "4Gi", refused: "the spec has changed"},
		"a change that the volumes have not": {template: "8Gi", rendered: "4Gi", has: "4Gi", refused: "set it back to 8Gi"},
		"it was made a moment ago": {template: "2Gi", rendered: "4Gi", has: "4Gi", refused: "was made less than 30s ago",
			change: func(_ *v1alpha1.Vault, set *appsv1.StatefulSet, _ []*corev1.PersistentVolumeClaim) {
				set.CreationTimestamp = metav1.Now()
			}},
		"claims would go with it": {template: "2Gi", rendered: "4Gi", has: "4Gi", refused: "keeps the volume claims",
			change: func(_ *v1alpha1.Vault, set *appsv1.StatefulSet, claims []*corev1.PersistentVolumeClaim) {
				claims[0].OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set.Name,
					UID: set.UID}}
			}},
		"the API server refuses the next one": {template: "2Gi", rendered: "4Gi", has: "4Gi", invalid: true,
			refused: "cannot be made anew"},
		"the Vault is deleted meanwhile": {template: "2Gi", rendered: "4Gi", has: "4Gi", refused: "is being deleted",
			change: func(vault *v1alpha1.Vault, _ *appsv1.StatefulSet, _ []*corev1.PersistentVolumeClaim) {
				vault.DeletionTimestamp, vault.Finalizers = ptr(metav1.Now()), []string{"example.com/keep"}
			}},
		"it is of another Vault": {template: "2Gi", rendered: "4Gi", has: "4Gi",
			change: func(_ *v1alpha1.Vault, set *appsv1.StatefulSet, _ []*corev1.PersistentVolumeClaim) {
				set.OwnerReferences[0].UID = "another"
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := newVault(3)
			vault.Spec.Storage.Etcd.VolumeSize = ptr(resource.MustParse("4Gi"))
			vault.Status.Storage = &v1alpha1.StorageStatus{Volumes: []v1alpha1.StorageVolume{{Claim: "data-example-etcd-0"}}}
			set := sized(newSet(vault, nil), tt.template)
			set.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
			var claims []*corev1.PersistentVolumeClaim
			for i := range 3 {
				c := claim(vault, i, "bound", "4Gi", "fast")
				c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(tt.has)}
				claims = append(claims, c)
			}
			if tt.change != nil {
				tt.change(vault, set, claims)
			}
			propagation := metav1.DeletionPropagation("")
			api := interceptor.NewClient(newAPI(t, vault, set, claims[0], claims[1], claims[2]), interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
					if tt.invalid {
						return apierrors.NewBadRequest("it is invalid")
					}
					return c.Create(ctx, obj, opts...)
				},
				Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
					var options client.DeleteOptions
					options.ApplyOptions(opts)
					propagation = *options.PropagationPolicy
					return c.Delete(ctx, obj)
				}})
			wanted := sized(newSet(vault, nil), tt.rendered)
			rendered, err := yaml.Marshal(wanted)
			if err != nil {
				t.Fatal(err)
			}
			rendered = append([]byte("apiVersion: apps/v1\nkind: StatefulSet\n"), rendered...)
			r := Renewal{Client: api, APIReader: api, Vault: client.ObjectKeyFromObject(vault)}
			if _, err = r.Gate().Run(bytes.NewBuffer(rendered)); err == nil {
				if err := api.Get(t.Context(), client.ObjectKeyFromObject(set), &appsv1.StatefulSet{}); err != nil {
					t.Errorf("the gate has deleted it: %v", err)
				}
				err = r.MakeWayFor(t.Context(), rendered)
			} else if !tt.invalid && r.MakeWay(t.Context(), wanted) == nil {
				t.Error("what the gate refuses is deleted")
			}
			if (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("it is refused with %v, want %q", err, tt.refused)
			}
			err = api.Get(t.Context(), client.ObjectKeyFromObject(set), &appsv1.StatefulSet{})
			if apierrors.IsNotFound(err) != tt.deleted {
				t.Errorf("reading the StatefulSet: %v", err)
			}
			if tt.deleted && propagation != metav1.DeletePropagationOrphan {
				t.Errorf("it is deleted with its pods: %q", propagation)
			}
		})
	}
}
