package references

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// Secrets are read once for each version, not at all when they were made here, and not
// at all while one of them is missing.
func TestCertificatesAreReadOnce(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "1"}}
	api := fake.NewClientBuilder().WithScheme(scheme).Build()
	var read []string
	live := interceptor.NewClient(api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			read = append(read, key.Name)
			return c.Get(ctx, key, obj, opts...)
		},
	})
	late := fake.NewClientBuilder().WithScheme(scheme).Build()
	made, err := certs.Ensure(t.Context(), certs.Clients{Client: api, Cache: api, APIReader: api}, vault)
	if err != nil {
		t.Fatal(err)
	}
	certificates := &Certificates{Cache: late, APIReader: live}
	expect := func(what string, wantErr string, wantRead ...string) {
		t.Helper()
		read = nil
		_, err := certificates.Load(t.Context(), vault, made...)
		if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("%s: error %v, want %q", what, err, wantErr)
		}
		if !slices.Equal(read, wantRead) {
			t.Errorf("%s: read %q, want %q", what, read, wantRead)
		}
	}
	expect("just made", "")
	made = nil
	expect("the cache is late", "are gone")
	certificates.Cache = api
	expect("the cache has caught up", "")

	all := []string{"example-default-vault-server-tls", "example-default-vault-client-tls", "example-etcd-server-tls", "example-etcd-client-tls"}
	secret := &corev1.Secret{}
	get := func() {
		t.Helper()
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: vault.ServerSecretName()}, secret); err != nil {
			t.Fatal(err)
		}
	}
	get()
	certificate := secret.Data[v1alpha1.ServerCertKey]
	secret.Data[v1alpha1.ServerCertKey] = []byte("garbage")
	if err := api.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	expect("another version", vault.ServerSecretName(), all[:2]...)
	expect("read already", vault.ServerSecretName())
	secret.Data[v1alpha1.ServerCertKey] = certificate
	if err := api.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	expect("fixed", "", all...)
	expect("read already", "")
	if err := api.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	expect("one is missing", "being made: ")
	certificates.Forget(client.ObjectKeyFromObject(vault))
}
