package vaultstatus

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/internal/certs"
)

// The Secrets are read once, and again when one of them changes or when what they
// hold means something else.
func TestCertificatesAreReadOnce(t *testing.T) {
	f := newFixture(t)
	reads := 0
	live := interceptor.NewClient(f.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			reads++
			return c.Get(ctx, key, obj, opts...)
		},
	})
	r := &Reconciler{Client: f.api, Live: live}
	check := func(at time.Time) (int, error) {
		t.Helper()
		before := reads
		err := r.checkCertificates(t.Context(), f.vault, at)
		return reads - before, err
	}
	now := time.Now()
	if n, err := check(now); err != nil || n == 0 {
		t.Fatalf("at first: %v, %d reads", err, n)
	}
	for _, later := range []time.Duration{0, time.Minute, 365 * 24 * time.Hour} {
		if n, err := check(now.Add(later)); err != nil || n != 0 {
			t.Errorf("after %s: %v, %d reads", later, err, n)
		}
	}
	var bad *certs.Error
	if n, err := check(now.Add(20 * 365 * 24 * time.Hour)); !errors.As(err, &bad) || n == 0 {
		t.Errorf("after their end: %v, %d reads", err, n)
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: f.vault.Namespace, Name: f.vault.ServerSecretName()}
	if err := f.api.Get(t.Context(), key, secret); err != nil {
		t.Fatal(err)
	}
	secret.Data = nil
	if err := f.api.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if n, err := check(now); !errors.As(err, &bad) || n == 0 {
		t.Errorf("after a change: %v, %d reads", err, n)
	}
	// That one is missing is known without a question.
	if err := f.api.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if n, err := check(now); !errors.As(err, &bad) || n != 0 {
		t.Errorf("after a deletion: %v, %d reads", err, n)
	}
}
