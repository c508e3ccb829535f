package references

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Existing reads from the API server what the cache knows to exist. That a Secret or a
// ConfigMap is missing is believed of the cache, which may be late by a moment: the
// event of the object tells when it is there.
type Existing struct {
	client.Reader
	// Cache holds the metadata of Secrets and ConfigMaps.
	Cache client.Reader
}

// Get reads one object.
func (e Existing) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	kind := ""
	switch obj.(type) {
	case *corev1.Secret:
		kind = "Secret"
	case *corev1.ConfigMap:
		kind = "ConfigMap"
	}
	if kind != "" {
		if err := e.Cache.Get(ctx, key, metadataOf(kind)); err != nil {
			return err
		}
	}
	return e.Reader.Get(ctx, key, obj, opts...)
}
