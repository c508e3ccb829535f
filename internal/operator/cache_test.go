package operator

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
)

// large is as much as an annotation may hold.
var large = strings.Repeat("x", 256<<10)

func secretMetadata(name string, labels map[string]string) *metav1.PartialObjectMetadata {
	secret := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: "uid", ResourceVersion: "7", Generation: 2, Labels: labels,
		OwnerReferences: []metav1.OwnerReference{{Kind: "Vault", Name: "example", UID: "owner"}},
		Annotations:     map[string]string{corev1.LastAppliedConfigAnnotation: large},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		Finalizers:      []string{"example.com/x"},
	}}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return secret
}

func TestSlimMetadata(t *testing.T) {
	secret := secretMetadata("certs", map[string]string{"a": "b"})
	want := secret.DeepCopy()
	want.Annotations, want.ManagedFields, want.Finalizers = nil, nil, nil
	if got := slimmed(t, secret); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSlimMetadataOfManyLabels(t *testing.T) {
	labels := map[string]string{}
	for i := range 1000 {
		labels[fmt.Sprint("label-", i)] = "x"
	}
	want := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "certs", UID: "uid", ResourceVersion: "7",
	}}
	want.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if got := slimmed(t, secretMetadata("certs", labels)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSlimAnnotations(t *testing.T) {
	for name, obj := range map[string]client.Object{
		"Pod": &corev1.Pod{}, "Deployment": &appsv1.Deployment{}, "Vault": &v1alpha1.Vault{},
		"metadata": &metav1.PartialObjectMetadata{},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]string{
				v1alpha1.GenerationAnnotation:       "1",
				corev1.PodDeletionCost:              "100",
				"deployment.kubernetes.io/revision": "2",
			}
			annotations := map[string]string{corev1.LastAppliedConfigAnnotation: large, "example.com/tool": "x"}
			for key, value := range want {
				annotations[key] = value
			}
			obj.SetAnnotations(annotations)
			if got := slimmed(t, obj).GetAnnotations(); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Labels and annotations of tenants could have a megabyte in each object.
func TestSlimLabels(t *testing.T) {
	want := map[string]string{
		v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: "example", v1alpha1.ScheduleLabel: "nightly",
		v1alpha1.ProofLabel: "nightly", backupschedule.UpgradeLabel: "true",
	}
	for _, obj := range []client.Object{
		&v1alpha1.VaultBackup{}, &v1alpha1.VaultBackupSchedule{}, &v1alpha1.VaultRestore{},
	} {
		labels := maps.Clone(want)
		for i := range 1000 {
			labels[fmt.Sprint("example.com/", i)] = "x"
		}
		obj.SetLabels(labels)
		obj.SetAnnotations(map[string]string{v1alpha1.GenerationAnnotation: large})
		if slimmed := slimmed(t, obj.DeepCopyObject().(client.Object)); len(slimmed.GetAnnotations()) > 0 {
			t.Errorf("%T has annotations", obj)
		}
		if got := slimmed(t, obj).GetLabels(); !maps.Equal(got, want) {
			t.Errorf("%T has %v", obj, got)
		}
	}
}

func TestSlimPod(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "example-0", Labels: map[string]string{v1alpha1.NameLabel: v1alpha1.AppName},
		},
		Spec: corev1.PodSpec{
			NodeName: "node",
			Containers: []corev1.Container{
				{Name: "vault", Image: "vault:1", Args: []string{large}, Env: []corev1.EnvVar{{Value: large}}},
			},
			Volumes: []corev1.Volume{{Name: "certs"}},
		},
		Status: corev1.PodStatus{PodIP: "10.0.0.1"},
	}
	want := pod.DeepCopy()
	want.Spec.Containers[0].Args, want.Spec.Containers[0].Env = nil, nil
	if got := slimmed(t, pod.DeepCopy()); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// What no pod of a Vault has is of no Vault.
	pod.Status.Message = large
	want = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-0"}}
	if got := slimmed(t, pod); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

// slimmed is what is kept of an object; it must not change when it comes again.
func slimmed(t *testing.T, obj client.Object) client.Object {
	t.Helper()
	once, err := slim(obj)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := slim(once.(client.Object).DeepCopyObject())
	if err != nil || !reflect.DeepEqual(once, twice) {
		t.Errorf("again: %v, %v", twice, err)
	}
	return once.(client.Object)
}

// A list is read in pages, and no page is kept as it is.
func TestListsAreReadInPages(t *testing.T) {
	var pages []metav1.PartialObjectMetadataList
	for page := range 3 {
		list := metav1.PartialObjectMetadataList{
			ListMeta: metav1.ListMeta{ResourceVersion: "42", Continue: fmt.Sprint(page + 1)},
		}
		for i := range pageSize {
			list.Items = append(list.Items, *secretMetadata(fmt.Sprintf("%d-%d", page, i), nil))
		}
		pages = append(pages, list)
	}
	pages[2].Continue = ""
	requests := 0
	lister := &toolscache.ListWatch{ListWithContextFunc: func(_ context.Context,
		options metav1.ListOptions) (runtime.Object, error) {
		if options.Limit != pageSize || options.ResourceVersion != "" ||
			requests > 0 && options.Continue != fmt.Sprint(requests) {
			t.Errorf("page %d is asked for with %v", requests, options)
		}
		requests++
		return &pages[requests-1], nil
	}}
	all, err := list(t.Context(), lister)
	if err != nil {
		t.Fatal(err)
	}
	items, err := meta.ExtractList(all)
	if err != nil || len(items) != 3*pageSize {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for _, item := range items {
		if annotations := item.(client.Object).GetAnnotations(); annotations != nil {
			t.Fatalf("an annotation was kept: %.100v", annotations)
		}
	}
	if m, _ := meta.ListAccessor(all); m.GetResourceVersion() != "42" {
		t.Errorf("the list is of version %s", m.GetResourceVersion())
	}
}
