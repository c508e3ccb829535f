package references

import (
	"context"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// memo keeps what was made of the Secrets and ConfigMaps of a Vault, so that they
// are read from the API server once for each version and not whenever the result is
// needed. What is kept should hold no keys and no contents.
type memo[T any] struct {
	mu      sync.Mutex
	entries map[types.NamespacedName]*entry[T]
}

// entry is a result and the versions of what it was made of.
type entry[T any] struct {
	// mu is held while the result is computed: whoever needs the same waits for it.
	mu       sync.Mutex
	versions string
	result   T
}

// object names a Secret or a ConfigMap in the namespace of the Vault.
type object struct{ kind, name string }

// Get returns what compute has made of the objects in the versions that metadata has
// of them, and of the Vault's spec. That an object is missing is a version as well. An
// error of compute is not kept: it means that the objects could not be read, and what
// is wrong with them belongs into the result.
//
// Compute has to read what is as new as the metadata or newer. When the metadata comes
// from a cache that catches up, it is called once more.
func (m *memo[T]) Get(
	ctx context.Context, metadata client.Reader, vault client.Object, objects []object, compute func() (T, error),
) (T, error) {
	key := client.ObjectKeyFromObject(vault)
	versions, err := versionsOf(ctx, metadata, vault, objects)
	if err != nil {
		var none T
		return none, err
	}
	known := m.entry(key)
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.versions == versions {
		return known.result, nil
	}
	result, err := compute()
	if err == nil {
		known.versions, known.result = versions, result
	}
	return result, err
}

func (m *memo[T]) entry(key types.NamespacedName) *entry[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[key] == nil {
		if m.entries == nil {
			m.entries = map[types.NamespacedName]*entry[T]{}
		}
		m.entries[key] = &entry[T]{}
	}
	return m.entries[key]
}

// Forget drops what is kept of a Vault that is gone.
func (m *memo[T]) Forget(vault types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, vault)
}

// versionsOf identifies the Vault's spec and the objects as they are now.
func versionsOf(ctx context.Context, cache client.Reader, vault client.Object, objects []object) (string, error) {
	var versions strings.Builder
	fmt.Fprintf(&versions, "%s %d", vault.GetUID(), vault.GetGeneration())
	for _, object := range objects {
		metadata := metadataOf(object.kind)
		name := types.NamespacedName{Namespace: vault.GetNamespace(), Name: object.name}
		err := cache.Get(ctx, name, metadata)
		if err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("looking for %s %q: %w", object.kind, object.name, err)
		}
		fmt.Fprintf(&versions, "\n%s %s %s %s", object.kind, object.name, metadata.UID, metadata.ResourceVersion)
	}
	return versions.String(), nil
}
