package references

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// Certificates reads the Secrets with the certificates of Vaults, once for each version
// of them, for the Helm reconciler and the status alike.
type Certificates struct {
	// Cache holds the metadata of Secrets.
	Cache client.Reader
	// APIReader reads from the API server.
	APIReader client.Reader

	memo Memo[loaded]
}

// loaded is what the Secrets hold, or what is wrong with them.
type loaded struct {
	material *certs.Material
	bad      *certs.Error
}

// Load is certs.Load. Made are Secrets that were made a moment ago, so that the cache
// may not have them yet. That any other is missing is believed of the cache: the event
// of a Secret tells when it is there.
func (c *Certificates) Load(ctx context.Context, vault *v1alpha1.Vault, made ...*corev1.Secret) (*certs.Material, error) {
	reader := existing{live: c.APIReader, cache: c.Cache, made: made}
	// While one is being made the others need not be read.
	if err := certs.Missing(ctx, reader, vault); err != nil {
		return nil, err
	}
	result, err := c.memo.Get(ctx, reader, vault, Secrets(vault), func() (loaded, error) {
		material, err := certs.Load(ctx, reader, vault)
		if bad := (*certs.Error)(nil); errors.As(err, &bad) {
			return loaded{bad: bad}, nil
		}
		return loaded{material: material}, err
	})
	if err == nil && result.bad != nil {
		err = result.bad
	}
	return result.material, err
}

// Forget drops what is kept of a Vault that is gone.
func (c *Certificates) Forget(vault types.NamespacedName) { c.memo.Forget(vault) }

// existing reads Secrets that were made a moment ago, or else from the API server what
// the cache knows to exist.
type existing struct {
	live, cache client.Reader
	made        []*corev1.Secret
}

// Get reads a Secret or its metadata.
func (e existing) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	metadata, onlyMetadata := obj.(*metav1.PartialObjectMetadata)
	for _, secret := range e.made {
		switch {
		case client.ObjectKeyFromObject(secret) != key:
		case onlyMetadata:
			secret.ObjectMeta.DeepCopyInto(&metadata.ObjectMeta)
			return nil
		default:
			secret.DeepCopyInto(obj.(*corev1.Secret))
			return nil
		}
	}
	if onlyMetadata {
		return e.cache.Get(ctx, key, obj, opts...)
	}
	if err := e.cache.Get(ctx, key, metadataOf("Secret")); err != nil {
		return err
	}
	return e.live.Get(ctx, key, obj, opts...)
}

// List is not needed.
func (e existing) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.ErrUnsupported
}
