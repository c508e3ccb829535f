package vaultstatus

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/references"
)

// certificates is what is wrong with the certificates of a Vault, and until when:
// the zero time means until a Secret changes.
type certificates struct {
	problem error
	until   time.Time
}

// checkCertificates says what is wrong with the certificates. The Secrets are read
// once for each version of them, and when one of the certificates begins or ends to
// be valid.
func (r *Reconciler) checkCertificates(ctx context.Context, vault *v1alpha1.Vault, now time.Time) error {
	compute := func() (certificates, error) {
		reader := &secretReader{cache: r.Client, live: r.Live, now: now}
		err := certs.Check(ctx, reader, vault, now)
		if bad := (*certs.Error)(nil); errors.As(err, &bad) {
			return certificates{bad, reader.turn}, nil
		}
		return certificates{nil, reader.turn}, err
	}
	found, err := r.certificates.Get(ctx, r.Client, vault, references.Secrets(vault), compute)
	if err == nil && !found.until.IsZero() && now.After(found.until) {
		r.certificates.Forget(client.ObjectKeyFromObject(vault))
		found, err = r.certificates.Get(ctx, r.Client, vault, references.Secrets(vault), compute)
	}
	return errors.Join(found.problem, err)
}

// secretReader reads Secrets from the API server, unless it is known that they do
// not exist, and notes when what they hold will mean something else.
type secretReader struct {
	client.Reader
	cache, live client.Reader
	now, turn   time.Time
}

func (r *secretReader) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	metadata := &metav1.PartialObjectMetadata{}
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := r.cache.Get(ctx, key, metadata); err != nil {
		return err
	}
	if err := r.live.Get(ctx, key, obj, opts...); err != nil {
		return err
	}
	if secret, ok := obj.(*corev1.Secret); ok {
		turn := certs.Turn(secret.Data, r.now)
		if r.turn.IsZero() || !turn.IsZero() && turn.Before(r.turn) {
			r.turn = turn
		}
	}
	return nil
}
