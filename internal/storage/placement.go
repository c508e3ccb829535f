package storage

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// SetPlacement says in the values whether the etcd pods follow spec.pod. Those of an
// etcd that was made before they did stay where they are: a selector could keep
// them from the Kubernetes nodes that their volumes are on.
func SetPlacement(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, values map[string]any) error {
	if !vault.HasEtcd() || vault.EtcdSpec().Pod != nil {
		return nil
	}
	s, err := Load(ctx, reader, vault)
	if err != nil || s.Set == nil || s.Set.Annotations[v1alpha1.FollowsVaultAnnotation] != "" {
		return err
	}
	return unstructured.SetNestedMap(values, map[string]any{}, "storage", "etcd", "pod")
}
