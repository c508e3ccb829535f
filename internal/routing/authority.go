package routing

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// authorityCache keeps the CA that the nodes of each Vault are verified with,
// so that a failover does not wait for the API server to give it out again. It
// keeps this one key of one Secret a Vault, and not Secrets.
type authorityCache struct {
	mu      sync.Mutex
	entries map[types.NamespacedName]authority
}

// authority is a CA in PEM, and which version of which Secret it is from.
type authority struct {
	secret, version string
	pem             string
}

// get returns the CA in PEM. When it cannot be read it returns the last one
// that could, with the error. The metadata, from the cache, says whether it is
// still current; live reads the content.
func (c *authorityCache) get(ctx context.Context, cached, live client.Reader, vault *v1alpha1.Vault) (string, error) {
	key := client.ObjectKeyFromObject(vault)
	name := types.NamespacedName{Namespace: vault.Namespace, Name: vault.ClientSecretName()}
	entry := c.entry(key)

	var metadata metav1.PartialObjectMetadata
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := cached.Get(ctx, name, &metadata); err != nil {
		return entry.pem, fmt.Errorf("looking for Secret %q: %w", name.Name, err)
	}
	if entry.secret == name.Name && entry.version == metadata.ResourceVersion {
		return entry.pem, nil
	}
	// The labels must not wait for it.
	ctx, cancel := context.WithTimeout(ctx, limit/2)
	defer cancel()
	var secret corev1.Secret
	if err := live.Get(ctx, name, &secret); err != nil {
		return entry.pem, fmt.Errorf("reading Secret %q: %w", name.Name, err)
	}
	entry = authority{secret: name.Name, version: secret.ResourceVersion, pem: string(secret.Data[v1alpha1.ClientCAKey])}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[types.NamespacedName]authority{}
	}
	c.entries[key] = entry
	return entry.pem, nil
}

func (c *authorityCache) entry(vault types.NamespacedName) authority {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[vault]
}

func (c *authorityCache) forget(vault types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, vault)
}
