package restore

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Into is the name of the VaultRestore that writes into a Vault now, or nothing. Meanwhile nobody else may
// initialize it, and nodes may have other keys than they have afterwards.
func Into(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (string, error) {
	var list v1alpha1.VaultRestoreList
	if err := reader.List(ctx, &list, client.InNamespace(vault.Namespace)); err != nil {
		return "", fmt.Errorf("listing VaultRestores: %w", err)
	}
	for i := range list.Items {
		x := &list.Items[i]
		if string(x.Spec.Vault) == vault.Name && x.Status.StartTime != nil && !x.Completed() {
			return x.Name, nil
		}
	}
	return "", nil
}
