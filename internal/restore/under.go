package restore

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Into is the name of the VaultRestore that writes into a Vault now, or nothing. Meanwhile nobody else may
// initialize it, and nodes may have other keys than they have afterwards. The reader must not be a cache.
func Into(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (string, error) {
	for next := ""; ; {
		var list v1alpha1.VaultRestoreList
		err := reader.List(ctx, &list, client.InNamespace(vault.Namespace), client.Limit(pageSize), client.Continue(next))
		if err != nil {
			return "", fmt.Errorf("listing VaultRestores: %w", err)
		}
		for i := range list.Items {
			x := &list.Items[i]
			if string(x.Spec.Vault) == vault.Name && x.Status.StartTime != nil && !x.Completed() {
				return x.Name, nil
			}
		}
		if next = list.Continue; next == "" {
			return "", nil
		}
	}
}

// pageSize is how many VaultRestores are in memory as they are: a tenant may have made them large.
const pageSize = 25
