package references

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// existing reads Secrets that were made a moment ago, or else from the API server what
// the cache knows to exist.
type existing struct {
	apiReader, cache client.Reader
	made             []*corev1.Secret
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
	return e.apiReader.Get(ctx, key, obj, opts...)
}

// List is not needed.
func (e existing) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.ErrUnsupported
}
