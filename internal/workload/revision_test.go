package workload

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestGetWithRevision(t *testing.T) {
	controller := true
	deployment := func(generation, observed int64) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "example", UID: "deployment-uid", Generation: generation,
				Annotations: map[string]string{RevisionAnnotation: "2"},
			},
			Status: appsv1.DeploymentStatus{ObservedGeneration: observed},
		}
	}
	set := func(name, revision string, owner types.UID) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Annotations: map[string]string{RevisionAnnotation: revision},
			Labels: map[string]string{
				v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: "example",
				v1alpha1.ComponentLabel:                v1alpha1.ServerComponent,
				appsv1.DefaultDeploymentUniqueLabelKey: "hash-of-" + name,
			},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "Deployment", Name: "example", UID: owner, Controller: &controller},
			},
		}}
	}
	tests := []struct {
		name    string
		objects []client.Object
		want    string
	}{
		{name: "no Deployment yet"},
		{name: "no ReplicaSet yet", objects: []client.Object{deployment(2, 2)}},
		{
			name:    "the newest",
			objects: []client.Object{deployment(2, 2), set("old", "1", "deployment-uid"), set("new", "2", "deployment-uid")},
			want:    "hash-of-new",
		},
		{
			name:    "a change that was not seen yet",
			objects: []client.Object{deployment(3, 2), set("new", "2", "deployment-uid")},
		},
		{
			name:    "of a Deployment that was deleted and made anew",
			objects: []client.Object{deployment(2, 2), set("other", "2", "other-uid")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
			reader := fake.NewClientBuilder().WithObjects(tt.objects...).Build()
			w, err := GetWithRevision(t.Context(), reader, vault)
			if err != nil || (w == nil) != (len(tt.objects) == 0) || w != nil && w.Revision != tt.want {
				t.Errorf("GetWithRevision() = %+v, %v, want %q", w, err, tt.want)
			}
		})
	}
}
