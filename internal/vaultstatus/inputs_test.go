package vaultstatus

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// A Secret that could not be read says nothing of the certificates, holds up
// nothing else, and is read again.
func TestSecretsThatCannotBeReadAreReadAgain(t *testing.T) {
	for name, apiErr := range apiErrors {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.run(t, "a", fakevault.Active)
			live := f.Inputs.APIReader
			f.Inputs.APIReader = interceptor.NewClient(f.api, interceptor.Funcs{
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
					opts ...client.GetOption) error {
					if _, content := obj.(*corev1.Secret); content {
						return apiErr
					}
					return c.Get(ctx, key, obj, opts...)
				},
			})
			tls := func() metav1.ConditionStatus {
				return meta.FindStatusCondition(f.status(t).Conditions, v1alpha1.TLSReadyCondition).Status
			}
			if _, _, err := f.reconcile(t); !errors.Is(err, apiErr) {
				t.Errorf("error %v, want one that leads to another try", err)
			}
			if status := f.status(t); status.VaultStatus.Active != "a" || tls() != metav1.ConditionUnknown {
				t.Errorf("active %q, TLSReady %s", status.VaultStatus.Active, tls())
			}
			f.Inputs.APIReader = live
			f.mustReconcile(t)
			if tls() != metav1.ConditionTrue {
				t.Errorf("TLSReady %s after the API server was back", tls())
			}
		})
	}
}
