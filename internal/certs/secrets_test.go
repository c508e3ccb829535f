package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

var errAPI = errors.New("the API server is away")

func newVault() *v1alpha1.Vault {
	return &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid"}}
}

func newStaticVault() *v1alpha1.Vault {
	vault := newVault()
	vault.Spec.TLS = &v1alpha1.TLSPolicy{Static: &v1alpha1.StaticTLS{ServerSecret: "my-server", ClientSecret: "my-ca"}}
	return vault
}

func newClient(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func secrets(t *testing.T, c client.Client) map[string]corev1.Secret {
	t.Helper()
	var list corev1.SecretList
	if err := c.List(context.Background(), &list); err != nil {
		t.Fatal(err)
	}
	byName := map[string]corev1.Secret{}
	for _, secret := range list.Items {
		byName[secret.Name] = secret
	}
	return byName
}

func names(secrets map[string]corev1.Secret) []string {
	return slices.Sorted(maps.Keys(secrets))
}

var (
	etcdSecrets  = []string{"example-etcd-ca", "example-etcd-client-tls", "example-etcd-server-tls"}
	vaultSecrets = []string{"example-default-vault-ca", "example-default-vault-client-tls", "example-default-vault-server-tls"}
	allSecrets   = slices.Sorted(slices.Values(append(slices.Clone(vaultSecrets), etcdSecrets...)))
)

func TestEnsure(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if err := Ensure(t.Context(), c, c, vault); err != nil {
		t.Fatal(err)
	}
	made := secrets(t, c)
	if got := names(made); !slices.Equal(got, allSecrets) {
		t.Errorf("made %v, want %v", got, allSecrets)
	}
	keys := map[string][]string{
		"example-default-vault-ca":         {"ca.crt", "ca.key"},
		"example-default-vault-server-tls": {"server.crt", "server.key"},
		"example-default-vault-client-tls": {"vault-client-ca.crt"},
		"example-etcd-ca":                  {"ca.crt", "ca.key"},
		"example-etcd-server-tls":          {"ca.crt", "server.crt", "server.key"},
		"example-etcd-client-tls":          {"ca.crt", "client.crt", "client.key"},
	}
	for name, secret := range made {
		if got := slices.Sorted(maps.Keys(secret.Data)); !slices.Equal(got, keys[name]) {
			t.Errorf("Secret %s has the keys %v, want %v", name, got, keys[name])
		}
		for key, value := range secret.Data {
			if len(value) == 0 {
				t.Errorf("Secret %s, key %s is empty", name, key)
			}
		}
		controller := true
		want := []metav1.OwnerReference{{
			APIVersion: "vault.security.coreos.com/v1alpha1", Kind: "Vault", Name: "example", UID: "vault-uid",
			Controller: &controller, BlockOwnerDeletion: &controller,
		}}
		if !reflect.DeepEqual(secret.OwnerReferences, want) {
			t.Errorf("Secret %s is owned by %+v, want %+v", name, secret.OwnerReferences, want)
		}
	}
	if err := Check(t.Context(), c, vault, time.Now()); err != nil {
		t.Errorf("Check() = %v", err)
	}
	checkEtcd(t, vault, made)

	// What is there is never written again.
	for range 3 {
		if err := Ensure(t.Context(), readOnly(t, c), c, vault); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(secrets(t, c), made) {
		t.Error("Ensure changed what it had made")
	}
}

// readOnly fails the test at any write.
func readOnly(t *testing.T, c client.WithWatch) client.Client {
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.CreateOption) error {
			t.Errorf("Secret %s is created", obj.GetName())
			return errAPI
		},
		Update: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.UpdateOption) error {
			t.Errorf("Secret %s is updated", obj.GetName())
			return errAPI
		},
		Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, _ client.Patch, _ ...client.PatchOption) error {
			t.Errorf("Secret %s is patched", obj.GetName())
			return errAPI
		},
		Delete: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.DeleteOption) error {
			t.Errorf("Secret %s is deleted", obj.GetName())
			return errAPI
		},
	})
}

// checkEtcd asserts that the members and Vault can authenticate to each other.
func checkEtcd(t *testing.T, vault *v1alpha1.Vault, made map[string]corev1.Secret) {
	t.Helper()
	server, user := made[vault.EtcdServerSecretName()].Data, made[vault.EtcdClientSecretName()].Data
	ca := server["ca.crt"]
	if string(ca) != string(user["ca.crt"]) || string(ca) != string(made["example-etcd-ca"].Data["ca.crt"]) {
		t.Error("the members and Vault do not trust the same authority")
	}
	pair := KeyPair{Cert: server["server.crt"], Key: server["server.key"]}
	for _, name := range []string{"example-etcd.default.svc", "example-etcd-0.example-etcd.default.svc", "example-etcd-client.default.svc", "localhost", "127.0.0.1"} {
		if err := Verify(pair, ca, name, time.Now()); err != nil {
			t.Errorf("member as %s: %v", name, err)
		}
	}
	verifyClient(t, "member", server["server.crt"], server["server.key"], ca)
	verifyClient(t, "Vault", user["client.crt"], user["client.key"], ca)
	if err := Verify(KeyPair{Cert: user["client.crt"], Key: user["client.key"]}, ca, "", time.Now()); err == nil {
		t.Error("the certificate of Vault may serve")
	}
	if vaultCA, ok := made["example-default-vault-ca"]; ok {
		if err := Verify(pair, vaultCA.Data["ca.crt"], "localhost", time.Now()); err == nil {
			t.Error("the authority of Vault's clients vouches for etcd")
		}
	}
}

func verifyClient(t *testing.T, who string, cert, key, ca []byte) {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatalf("%s: %v", who, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("%s as a client of etcd: %v", who, err)
	}
}

func TestServerCertificateIsValidForAllWaysToANode(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if err := Ensure(t.Context(), c, c, vault); err != nil {
		t.Fatal(err)
	}
	made := secrets(t, c)
	server := made[vault.ServerSecretName()].Data
	ca := made[vault.ClientSecretName()].Data[v1alpha1.ClientCAKey]
	for _, name := range []string{
		"example.default.svc", "example", "example.default", "example.default.svc.cluster.local",
		"localhost", "127.0.0.1", "::1",
		"10-244-1-7.example-nodes.default.svc", "10-244-1-7.default.pod", "example-0.example-nodes.default.svc.cluster.local",
	} {
		if err := Verify(KeyPair{server["server.crt"], server["server.key"]}, ca, name, time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Verify(KeyPair{server["server.crt"], server["server.key"]}, ca, "other.default.svc", time.Now()); err == nil {
		t.Error("is valid for another Vault")
	}
}

func TestEnsureWithStaticTLSMakesOnlyEtcdsSecrets(t *testing.T) {
	vault := newStaticVault()
	c := newClient(t)
	if err := Ensure(t.Context(), c, c, vault); err != nil {
		t.Fatal(err)
	}
	made := secrets(t, c)
	if got := names(made); !slices.Equal(got, etcdSecrets) {
		t.Errorf("made %v, want %v", got, etcdSecrets)
	}
	checkEtcd(t, vault, made)
}

// An operator can die after any creation; the next one completes what is there.
func TestEnsureCompletesAfterACrashAtAnyCreation(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		for crash := range len(allSecrets) {
			t.Run(fmt.Sprintf("%s creation %d", when, crash+1), func(t *testing.T) {
				vault := newVault()
				api := newClient(t)
				creations := 0
				crashing := interceptor.NewClient(api, interceptor.Funcs{
					Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
						creations++
						if creations-1 < crash {
							return c.Create(ctx, obj, opts...)
						}
						if when == "after" && creations-1 == crash {
							_ = c.Create(ctx, obj, opts...)
						}
						return errAPI
					},
				})
				if err := Ensure(t.Context(), crashing, crashing, vault); !errors.Is(err, errAPI) {
					t.Fatalf("Ensure() = %v, want the error of the API server", err)
				}
				before := secrets(t, api)

				if err := Ensure(t.Context(), api, api, vault); err != nil {
					t.Fatalf("the next Ensure: %v", err)
				}
				after := secrets(t, api)
				if got := names(after); !slices.Equal(got, allSecrets) {
					t.Errorf("made %v, want %v", got, allSecrets)
				}
				for name, secret := range before {
					if !reflect.DeepEqual(after[name], secret) {
						t.Errorf("Secret %s was written a second time", name)
					}
				}
				if err := Check(t.Context(), api, vault, time.Now()); err != nil {
					t.Errorf("Check() = %v", err)
				}
				checkEtcd(t, vault, after)
			})
		}
	}
}

func TestEnsureReplacesALostLeaf(t *testing.T) {
	for _, lost := range []string{"example-default-vault-server-tls", "example-default-vault-client-tls", "example-etcd-server-tls", "example-etcd-client-tls"} {
		t.Run(lost, func(t *testing.T) {
			vault := newVault()
			c := newClient(t)
			if err := Ensure(t.Context(), c, c, vault); err != nil {
				t.Fatal(err)
			}
			remove(t, c, lost)
			before := secrets(t, c)
			if err := Ensure(t.Context(), c, c, vault); err != nil {
				t.Fatal(err)
			}
			after := secrets(t, c)
			if err := Check(t.Context(), c, vault, time.Now()); err != nil {
				t.Errorf("Check() = %v", err)
			}
			checkEtcd(t, vault, after)
			for name := range before {
				if !reflect.DeepEqual(after[name], before[name]) {
					t.Errorf("Secret %s was written", name)
				}
			}
		})
	}
}

func remove(t *testing.T, c client.Client, name string) {
	t.Helper()
	if err := c.Delete(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}); err != nil {
		t.Fatal(err)
	}
}

// A second authority would not fit the certificates that pods have mounted.
func TestEnsureMakesNoSecondAuthority(t *testing.T) {
	tests := []struct {
		name    string
		lost    []string
		wantErr []string
	}{
		{name: "the authority alone was lost: nothing is missing to serve with", lost: []string{"example-default-vault-ca"}},
		{
			name: "the authority and a leaf were lost", lost: []string{"example-default-vault-ca", "example-default-vault-client-tls"},
			wantErr: []string{`"example-default-vault-ca"`, `"example-default-vault-server-tls"`, "restart the pods"},
		},
		{
			name: "etcd's authority and a leaf were lost", lost: []string{"example-etcd-ca", "example-etcd-server-tls"},
			wantErr: []string{`"example-etcd-ca"`, `"example-etcd-client-tls"`},
		},
		{name: "all were lost: there is nothing to fit", lost: vaultSecrets},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vault := newVault()
			c := newClient(t)
			if err := Ensure(t.Context(), c, c, vault); err != nil {
				t.Fatal(err)
			}
			for _, name := range tt.lost {
				remove(t, c, name)
			}
			before := secrets(t, c)
			err := Ensure(t.Context(), c, c, vault)
			if len(tt.wantErr) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if err := Check(t.Context(), c, vault, time.Now()); err != nil {
					t.Errorf("Check() = %v", err)
				}
				return
			}
			var bad *Error
			if !errors.As(err, &bad) || bad.Reason != v1alpha1.ReasonSecretNotFound {
				t.Fatalf("Ensure() = %v, want an *Error with reason SecretNotFound", err)
			}
			for _, want := range tt.wantErr {
				if !strings.Contains(bad.Message, want) {
					t.Errorf("message %q does not contain %q", bad.Message, want)
				}
			}
			if !reflect.DeepEqual(secrets(t, c), before) {
				t.Error("Secrets were written all the same")
			}
		})
	}
}

// When a Vault is deleted and made again, the Secrets of the old one are still
// there for a moment, and the garbage collector takes them one by one.
func TestEnsureDoesNotUseTheSecretsOfAnEarlierVault(t *testing.T) {
	earlier, vault := newVault(), newVault()
	vault.UID = "another-uid"
	c := newClient(t)
	if err := Ensure(t.Context(), c, c, earlier); err != nil {
		t.Fatal(err)
	}
	old := secrets(t, c)
	for _, name := range allSecrets {
		var bad *Error
		if err := Ensure(t.Context(), c, c, vault); err == nil || errors.As(err, &bad) {
			t.Errorf("Ensure() = %v while %s is there, want an error that nobody has to mend", err, name)
		}
		remove(t, c, name)
	}
	if err := Ensure(t.Context(), c, c, vault); err != nil {
		t.Fatal(err)
	}
	made := secrets(t, c)
	for _, name := range allSecrets {
		if owner := made[name].OwnerReferences[0]; owner.UID != vault.UID {
			t.Errorf("Secret %s belongs to %s", name, owner.UID)
		}
		for key, value := range made[name].Data {
			if string(value) == string(old[name].Data[key]) {
				t.Errorf("Secret %s has the old %s", name, key)
			}
		}
	}
	if err := Check(t.Context(), c, vault, time.Now()); err != nil {
		t.Errorf("Check() = %v", err)
	}
	checkEtcd(t, vault, made)
}

// One that was restored from a backup belongs to nobody.
func TestEnsureUsesASecretWithoutAnOwner(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if err := Ensure(t.Context(), c, c, vault); err != nil {
		t.Fatal(err)
	}
	restored := secrets(t, c)["example-default-vault-ca"]
	remove(t, c, restored.Name)
	remove(t, c, vault.ServerSecretName())
	restored.OwnerReferences, restored.ResourceVersion = nil, ""
	if err := c.Create(t.Context(), &restored); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), c, c, vault); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), c, vault, time.Now()); err != nil {
		t.Errorf("Check() = %v", err)
	}
}

func TestEnsureReportsABrokenAuthority(t *testing.T) {
	vault := newVault()
	key := newCA(t).Key
	c := newClient(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-default-vault-ca"},
		Data:       map[string][]byte{"ca.crt": []byte("garbage"), "ca.key": key},
	})
	err := Ensure(t.Context(), c, c, vault)
	if err == nil || !strings.Contains(err.Error(), "example-default-vault-server-tls") {
		t.Fatalf("Ensure() = %v", err)
	}
	noKeyMaterial(t, err.Error(), key)
}

func TestEnsureAsksTheAPIServerAndNotACache(t *testing.T) {
	vault := newVault()
	api := newClient(t)
	if err := Ensure(t.Context(), api, api, vault); err != nil {
		t.Fatal(err)
	}
	stale := interceptor.NewClient(api, interceptor.Funcs{
		Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
			t.Errorf("Secret %s is read from the client", key.Name)
			return errAPI
		},
	})
	if err := Ensure(t.Context(), stale, api, vault); err != nil {
		t.Error(err)
	}
}

func TestErrorsOfTheAPIServerAreNotTheUsers(t *testing.T) {
	vault := newVault()
	broken := interceptor.NewClient(newClient(t), interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errAPI
		},
	})
	var bad *Error
	if err := Ensure(t.Context(), broken, broken, vault); !errors.Is(err, errAPI) || errors.As(err, &bad) {
		t.Errorf("Ensure() = %v", err)
	}
	if err := Check(t.Context(), broken, vault, time.Now()); !errors.Is(err, errAPI) || errors.As(err, &bad) {
		t.Errorf("Check() = %v", err)
	}
}

func TestCheck(t *testing.T) {
	ca := newCA(t)
	server, other := sign(t, ca, testName), sign(t, ca, "other.default.svc")
	secret := func(name string, data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
	}
	goodServer := secret("my-server", map[string][]byte{"server.crt": server.Cert, "server.key": server.Key})
	goodCA := secret("my-ca", map[string][]byte{"vault-client-ca.crt": ca.Cert})
	tests := []struct {
		name        string
		objects     []client.Object
		wantReason  string
		wantMessage []string
	}{
		{name: "good", objects: []client.Object{goodServer, goodCA}},
		{
			name: "no server Secret", objects: []client.Object{goodCA},
			wantReason: v1alpha1.ReasonSecretNotFound, wantMessage: []string{`"my-server"`, "does not exist"},
		},
		{
			name: "no client Secret", objects: []client.Object{goodServer},
			wantReason: v1alpha1.ReasonSecretNotFound, wantMessage: []string{`"my-ca"`, "does not exist"},
		},
		{
			name: "Secrets of another namespace", objects: []client.Object{
				&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "my-server"}, Data: goodServer.Data}, goodCA,
			},
			wantReason: v1alpha1.ReasonSecretNotFound, wantMessage: []string{`"my-server"`},
		},
		{
			name: "a key is missing", objects: []client.Object{secret("my-server", map[string][]byte{"server.crt": server.Cert}), goodCA},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, `"server.key"`},
		},
		{
			name: "the keys of kubernetes.io/tls", objects: []client.Object{
				secret("my-server", map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key}), goodCA,
			},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, `"server.crt"`, `"server.key"`},
		},
		{
			name: "an empty key", objects: []client.Object{goodServer, secret("my-ca", map[string][]byte{"vault-client-ca.crt": nil})},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-ca"`, `"vault-client-ca.crt"`},
		},
		{
			name: "a certificate for another name", objects: []client.Object{
				secret("my-server", map[string][]byte{"server.crt": other.Cert, "server.key": other.Key}), goodCA,
			},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, testName},
		},
		{
			name: "another authority", objects: []client.Object{goodServer, secret("my-ca", map[string][]byte{"vault-client-ca.crt": newCA(t).Cert})},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, `"my-ca"`, "unknown authority"},
		},
		{
			name: "a key that does not match", objects: []client.Object{
				secret("my-server", map[string][]byte{"server.crt": server.Cert, "server.key": other.Key}), goodCA,
			},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, "private key does not match"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(t.Context(), newClient(t, tt.objects...), newStaticVault(), time.Now())
			if tt.wantReason == "" {
				if err != nil {
					t.Errorf("Check() = %v", err)
				}
				return
			}
			var bad *Error
			if !errors.As(err, &bad) || bad.Reason != tt.wantReason {
				t.Fatalf("Check() = %v, want an *Error with reason %s", err, tt.wantReason)
			}
			for _, want := range tt.wantMessage {
				if !strings.Contains(bad.Message, want) {
					t.Errorf("message %q does not contain %q", bad.Message, want)
				}
			}
			noKeyMaterial(t, err.Error(), server.Key, other.Key)
		})
	}
}
