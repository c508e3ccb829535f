package references

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
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
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			read = append(read, key.Name)
			return c.Get(ctx, key, obj, opts...)
		},
	})
	late := fake.NewClientBuilder().WithScheme(scheme).Build()
	clients := certs.Clients{Client: api, Cache: api, APIReader: api, Clock: clock.RealClock{}}
	made, err := certs.Ensure(t.Context(), clients, vault)
	if err != nil {
		t.Fatal(err)
	}
	inputs := &Inputs{Cache: late, APIReader: live}
	expect := func(what string, wantErr string, wantRead ...string) {
		t.Helper()
		read = nil
		_, err := inputs.Certificates(t.Context(), vault, made...)
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
	inputs.Cache = api
	expect("the cache has caught up", "")

	all := []string{
		"example-default-vault-server-tls", "example-default-vault-client-tls", "example-etcd-server-tls",
		"example-etcd-client-tls",
	}
	secret := &corev1.Secret{}
	get := func() {
		t.Helper()
		key := client.ObjectKey{Namespace: "default", Name: vault.ServerSecretName()}
		if err := api.Get(t.Context(), key, secret); err != nil {
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
	inputs.Forget(client.ObjectKeyFromObject(vault))
}

// What a user brings is read once for each version, and again when it could not be read.
func TestChecksAreMadeOnce(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	api := fake.NewClientBuilder().WithScheme(scheme).Build()
	read, failure := 0, error(nil)
	live := interceptor.NewClient(api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			read++
			if failure != nil {
				return failure
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	vault := &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "1"},
		Spec:       v1alpha1.VaultSpec{ConfigMapName: "mine"},
	}
	inputs := &Inputs{Cache: api, APIReader: live}
	expect := func(what, wantErr string, wantRead int) {
		t.Helper()
		read = 0
		err := inputs.Gate(t.Context(), vault)
		if got := inputs.Check(t.Context(), vault)[v1alpha1.ConfigValidCondition]; fmt.Sprint(got) != fmt.Sprint(err) {
			t.Errorf("%s: the gate says %v, the condition %v", what, err, got)
		}
		if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("%s: error %v, want %q", what, err, wantErr)
		}
		if read != wantRead {
			t.Errorf("%s: read %d times, want %d", what, read, wantRead)
		}
	}
	expect("missing", `ConfigMap "mine" does not exist`, 1)
	expect("still missing", `ConfigMap "mine" does not exist`, 0)
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mine"},
		Data:       map[string]string{"vault.hcl": `storage "x" {}`},
	}
	if err := api.Create(t.Context(), configMap); err != nil {
		t.Fatal(err)
	}
	expect("there, and unusable", "sets storage", 1)
	configMap.Data["vault.hcl"] = "ui = true"
	if err := api.Update(t.Context(), configMap); err != nil {
		t.Fatal(err)
	}
	failure = errors.New("timeout")
	expect("it cannot be read", "timeout", 2)
	failure = nil
	expect("fixed", "", 1)
	expect("read already", "", 0)
	inputs.Forget(client.ObjectKeyFromObject(vault))
	expect("forgotten", "", 1)
}

// What is checked is watched, and has a condition.
func TestChecksAreWatchedAndTold(t *testing.T) {
	vault := &v1alpha1.Vault{Spec: v1alpha1.VaultSpec{ConfigMapName: "map", ConfigSecretName: "secret",
		Seal: &v1alpha1.SealPolicy{
			Transit: &v1alpha1.TransitSeal{CredentialsSecretName: "token", CASecretName: "ca"},
		}}}
	if !slices.Contains(configMapsOf(vault), "map") || !slices.Contains(secretsOf(vault), "secret") ||
		!slices.Contains(secretsOf(vault), "token") || !slices.Contains(secretsOf(vault), "ca") {
		t.Errorf("watched are %q and %q", configMapsOf(vault), secretsOf(vault))
	}
	for _, check := range Checks {
		if !slices.Contains(v1alpha1.VaultConditions, check.Condition) {
			t.Errorf("%s is none of the conditions of a Vault", check.Condition)
		}
	}
}
