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

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

var errAPI = errors.New("the API server is unavailable")

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

// clients reads and writes with one client.
func clients(c client.Client) Clients {
	return Clients{Client: c, Cache: c, APIReader: c, Clock: clock.RealClock{}}
}

// Check says what is wrong with the certificates of a Vault and its etcd.
func Check(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, now time.Time) error {
	material, err := Load(ctx, reader, vault)
	if err != nil {
		return err
	}
	_, err = material.Check(now)
	return err
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
	vaultSecrets = []string{
		"example-default-vault-ca", "example-default-vault-client-tls", "example-default-vault-server-tls",
	}
	leafSecrets = slices.Concat(vaultSecrets[1:], etcdSecrets[1:]) // what the CAs have signed
	allSecrets  = slices.Sorted(slices.Values(append(slices.Clone(vaultSecrets), etcdSecrets...)))
)

func TestEnsure(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
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
		reads := clients(c)
		reads.Client = readOnly(t, c)
		if _, err := Ensure(t.Context(), reads, vault); err != nil {
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
		t.Error("the members and Vault do not trust the same CA")
	}
	pair := KeyPair{Cert: server["server.crt"], Key: server["server.key"]}
	for _, name := range []string{"example-etcd.default.svc", "example-etcd-0.example-etcd.default.svc",
		"example-etcd-client.default.svc", "localhost", "127.0.0.1"} {
		if err := verify(pair, ca, name, time.Now()); err != nil {
			t.Errorf("member as %s: %v", name, err)
		}
	}
	verifyClient(t, "member", server["server.crt"], server["server.key"], ca)
	verifyClient(t, "Vault", user["client.crt"], user["client.key"], ca)
	if err := verify(KeyPair{Cert: user["client.crt"], Key: user["client.key"]}, ca, "", time.Now()); err == nil {
		t.Error("the certificate of Vault may serve")
	}
	if vaultCA, ok := made["example-default-vault-ca"]; ok {
		if err := verify(pair, vaultCA.Data["ca.crt"], "localhost", time.Now()); err == nil {
			t.Error("the CA of Vault's clients vouches for etcd")
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
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := pair.Leaf.Verify(options); err != nil {
		t.Errorf("%s as a client of etcd: %v", who, err)
	}
}

func TestServerCertificateIsValidForAllWaysToANode(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
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
		if err := verify(KeyPair{server["server.crt"], server["server.key"]}, ca, name, time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	pair := KeyPair{server["server.crt"], server["server.key"]}
	if err := verify(pair, ca, "other.default.svc", time.Now()); err == nil {
		t.Error("is valid for another Vault")
	}
}

func TestEnsureWithStaticTLSMakesOnlyEtcdsSecrets(t *testing.T) {
	vault := newStaticVault()
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
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
				if _, err := Ensure(t.Context(), clients(crashing), vault); !errors.Is(err, errAPI) {
					t.Fatalf("Ensure() = %v, want the error of the API server", err)
				}
				before := secrets(t, api)

				if _, err := Ensure(t.Context(), clients(api), vault); err != nil {
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
	for _, lost := range leafSecrets {
		t.Run(lost, func(t *testing.T) {
			vault := newVault()
			c := newClient(t)
			if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
				t.Fatal(err)
			}
			remove(t, c, lost)
			before := secrets(t, c)
			if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
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

// A CA that is not that of what is left signs nothing: each side would refuse the other.
func TestEnsureSignsWithNoOtherAuthority(t *testing.T) {
	for _, lost := range leafSecrets {
		t.Run(lost, func(t *testing.T) {
			vault := newVault()
			c := newClient(t)
			if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
				t.Fatal(err)
			}
			other := newCA(t)
			for _, name := range []string{"example-default-vault-ca", "example-etcd-ca"} {
				secret := secrets(t, c)[name]
				secret.Data = map[string][]byte{"ca.crt": other.Cert, "ca.key": other.Key}
				if err := c.Update(t.Context(), &secret); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
				t.Errorf("while nothing is missing: %v", err)
			}
			remove(t, c, lost)
			_, err := Ensure(t.Context(), clients(c), vault)
			if wrong := problem.In(err); wrong == nil || !strings.Contains(wrong.Message, "another CA") {
				t.Errorf("Ensure() = %v", err)
			}
			if _, made := secrets(t, c)[lost]; made {
				t.Error("it was made")
			}
		})
	}
}

func remove(t *testing.T, c client.Client, name string) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if err := c.Delete(context.Background(), secret); err != nil {
		t.Fatal(err)
	}
}

// A second CA would not fit the certificates that pods have mounted.
func TestEnsureMakesNoSecondAuthority(t *testing.T) {
	tests := []struct {
		name    string
		lost    []string
		objects []client.Object
		wantErr []string
	}{
		{name: "the CA alone was lost: nothing is missing to serve with", lost: []string{"example-default-vault-ca"}},
		{
			name:    "the CA and a leaf were lost",
			lost:    []string{"example-default-vault-ca", "example-default-vault-client-tls"},
			wantErr: []string{`"example-default-vault-ca"`, `"example-default-vault-client-tls"`, "restore"},
		},
		{
			name: "etcd's CA and a leaf were lost", lost: []string{"example-etcd-ca", "example-etcd-server-tls"},
			wantErr: []string{`"example-etcd-ca"`, `"example-etcd-server-tls"`},
		},
		{name: "all were lost, and nothing runs: there is nothing to fit", lost: vaultSecrets},
		{
			name: "all were lost under a Deployment", lost: vaultSecrets,
			objects: []client.Object{deployment("example-default-vault-server-tls")},
			wantErr: []string{
				`"example-default-vault-ca"`, `"example-default-vault-server-tls"`, `"example-default-vault-client-tls"`,
				"docs/tls.md",
			},
		},
		{
			name: "both were lost", lost: slices.Concat(vaultSecrets, etcdSecrets),
			objects: []client.Object{deployment("example-default-vault-server-tls"), statefulSet("example-etcd-server-tls")},
			wantErr: []string{
				`"example-etcd-ca", "example-default-vault-ca"`,
				`"example-etcd-server-tls", "example-etcd-client-tls", ` +
					`"example-default-vault-server-tls", "example-default-vault-client-tls"`,
			},
		},
		{
			name: "etcd's were lost, and Vault uses it", lost: etcdSecrets,
			objects: []client.Object{deployment("example-etcd-client-tls")},
			wantErr: []string{`"example-etcd-ca"`, `"example-etcd-server-tls"`},
		},
		{
			name: "etcd's were lost under its StatefulSet", lost: etcdSecrets,
			objects: []client.Object{statefulSet("example-etcd-server-tls")},
			wantErr: []string{`"example-etcd-ca"`},
		},
		{
			name: "etcd's were lost under a pod that nothing controls any more", lost: etcdSecrets,
			objects: []client.Object{pod(v1alpha1.EtcdComponent, corev1.PodRunning, "example-etcd-server-tls")},
			wantErr: []string{`"example-etcd-ca"`},
		},
		{
			name: "etcd's were lost under a pod that has ended", lost: etcdSecrets,
			objects: []client.Object{pod(v1alpha1.EtcdComponent, corev1.PodFailed, "example-etcd-server-tls")},
		},
		{
			name: "nothing that runs uses what was lost", lost: vaultSecrets,
			objects: []client.Object{deployment("my-server"), pod(v1alpha1.ServerComponent, corev1.PodRunning, "my-server")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vault := newVault()
			c := newClient(t)
			if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
				t.Fatal(err)
			}
			for _, object := range tt.objects {
				if err := c.Create(t.Context(), object); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range tt.lost {
				remove(t, c, name)
			}
			before := secrets(t, c)
			_, err := Ensure(t.Context(), clients(c), vault)
			if len(tt.wantErr) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if err := Check(t.Context(), c, vault, time.Now()); err != nil {
					t.Errorf("Check() = %v", err)
				}
				return
			}
			var bad *problem.Error
			if !errors.As(err, &bad) || bad.Reason != v1alpha1.ReasonAuthorityLost {
				t.Fatalf("Ensure() = %v, want a *problem.Error with reason AuthorityLost", err)
			}
			for _, want := range tt.wantErr {
				if !strings.Contains(bad.Message, want) {
					t.Errorf("message %q does not contain %q", bad.Message, want)
				}
			}
			if !reflect.DeepEqual(secrets(t, c), before) {
				t.Error("Secrets were written all the same")
			}
			if err := Check(t.Context(), c, vault, time.Now()); !errors.As(err, &bad) ||
				bad.Reason != v1alpha1.ReasonAuthorityLost {
				t.Errorf("Check() = %v, want a *problem.Error with reason AuthorityLost", err)
			}
		})
	}
}

func mounting(secret string) corev1.PodSpec {
	return corev1.PodSpec{Volumes: []corev1.Volume{{
		Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}},
	}}}
}

func deployment(secret string) client.Object {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
	d.Spec.Template.Spec = mounting(secret)
	return d
}

func statefulSet(secret string) client.Object {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-etcd"}}
	set.Spec.Template.Spec = mounting(secret)
	return set
}

func pod(component string, phase corev1.PodPhase, secret string) client.Object {
	labels := newVault().PodLabels()
	labels[v1alpha1.ComponentLabel] = component
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod", Labels: labels},
		Spec:       mounting(secret), Status: corev1.PodStatus{Phase: phase},
	}
}

// When a Vault is deleted and made again, the Secrets of the old one are still
// there for a moment, and the garbage collector takes them one by one.
func TestEnsureDoesNotUseTheSecretsOfAnEarlierVault(t *testing.T) {
	earlier, vault := newVault(), newVault()
	vault.UID = "another-uid"
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), earlier); err != nil {
		t.Fatal(err)
	}
	old := secrets(t, c)
	for _, name := range allSecrets {
		var bad *problem.Error
		if _, err := Ensure(t.Context(), clients(c), vault); err == nil || errors.As(err, &bad) {
			t.Errorf("Ensure() = %v while %s is there, want an error that nobody has to fix", err, name)
		}
		remove(t, c, name)
	}
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
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

// A backup tool restores Secrets without their owner.
func TestEnsureAdoptsASecretWithoutAnOwner(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
		t.Fatal(err)
	}
	made := secrets(t, c)
	for name, secret := range made {
		remove(t, c, name)
		secret.OwnerReferences, secret.ResourceVersion = nil, ""
		if name == "example-default-vault-ca" {
			secret.Labels = nil // made by hand
		}
		if err := c.Create(t.Context(), &secret); err != nil {
			t.Fatal(err)
		}
	}
	remove(t, c, vault.ServerSecretName())
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), c, vault, time.Now()); err != nil {
		t.Errorf("Check() = %v", err)
	}
	for name, secret := range secrets(t, c) {
		if owned, byHand := metav1.IsControlledBy(&secret, vault), name == "example-default-vault-ca"; owned == byHand {
			t.Errorf("Secret %s is owned: %v", name, owned)
		}
		if name != vault.ServerSecretName() && !reflect.DeepEqual(secret.Data, made[name].Data) {
			t.Errorf("the content of Secret %s was changed", name)
		}
	}
}

// Whoever has lost etcd's CA makes a new one, and lets all trust the old
// one as well, so that Vault need not be restarted at the same time as etcd.
func TestEnsureSignsWithACAOfAnAdministrator(t *testing.T) {
	vault := newVault()
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
		t.Fatal(err)
	}
	before := secrets(t, c)
	for _, name := range etcdSecrets {
		remove(t, c, name)
	}
	if err := c.Create(t.Context(), statefulSet("example-etcd-server-tls")); err != nil {
		t.Fatal(err)
	}
	ca := newCA(t)
	old := before["example-etcd-client-tls"].Data
	both := slices.Concat(ca.Cert, old["ca.crt"])
	byHand := func(name string, data map[string][]byte) {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: before[name].Labels}, Data: data,
		}
		if err := c.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	byHand("example-etcd-client-tls",
		map[string][]byte{"client.crt": old["client.crt"], "client.key": old["client.key"], "ca.crt": both})
	byHand("example-etcd-ca", map[string][]byte{"ca.crt": both, "ca.key": ca.Key})
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), c, vault, time.Now()); err != nil {
		t.Errorf("Check() = %v", err)
	}
	made := secrets(t, c)
	member := made["example-etcd-server-tls"].Data
	pair := KeyPair{Cert: member["server.crt"], Key: member["server.key"]}
	if err := verify(pair, ca.Cert, "example-etcd-client.default.svc", time.Now()); err != nil {
		t.Errorf("the members are not of the new CA: %v", err)
	}
	verifyClient(t, "Vault with its old certificate", old["client.crt"], old["client.key"], member["ca.crt"])
}

func TestEnsureReportsABrokenAuthority(t *testing.T) {
	vault := newVault()
	key := newCA(t).Key
	c := newClient(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-default-vault-ca"},
		Data:       map[string][]byte{"ca.crt": []byte("garbage"), "ca.key": key},
	})
	_, err := Ensure(t.Context(), clients(c), vault)
	if err == nil || !strings.Contains(err.Error(), "example-default-vault-server-tls") {
		t.Fatalf("Ensure() = %v", err)
	}
	noKeyMaterial(t, err.Error(), key)
}

// That a Secret is missing is never believed of a cache, which may be late.
func TestEnsureUsesWhatTheCacheDoesNotHaveYet(t *testing.T) {
	vault := newVault()
	for late := range len(allSecrets) + 1 {
		api := newClient(t)
		if _, err := Ensure(t.Context(), clients(api), vault); err != nil {
			t.Fatal(err)
		}
		before := secrets(t, api)
		cache := newClient(t)
		for _, name := range allSecrets[late:] {
			secret := before[name]
			secret.ResourceVersion = ""
			if err := cache.Create(t.Context(), &secret); err != nil {
				t.Fatal(err)
			}
		}
		behind := clients(api)
		behind.Cache = cache
		made, err := Ensure(t.Context(), behind, vault)
		if err != nil {
			t.Errorf("without %v: %v", allSecrets[:late], err)
		}
		if after := secrets(t, api); !reflect.DeepEqual(after, before) {
			t.Errorf("without %v: something was written", allSecrets[:late])
		}
		for _, secret := range made {
			if !reflect.DeepEqual(secret.Data, before[secret.Name].Data) {
				t.Errorf("without %v: another %s is returned", allSecrets[:late], secret.Name)
			}
		}
	}
}

// Nothing is asked of the API server when all is there.
func TestEnsureReadsNothingThatTheCacheHas(t *testing.T) {
	vault := newVault()
	api := newClient(t)
	if _, err := Ensure(t.Context(), clients(api), vault); err != nil {
		t.Fatal(err)
	}
	silent := interceptor.NewClient(api, interceptor.Funcs{
		Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
			t.Errorf("Secret %s is read from the API server", key.Name)
			return errAPI
		},
	})
	reads := Clients{Client: readOnly(t, api), Cache: api, APIReader: silent, Clock: clock.RealClock{}}
	if _, err := Ensure(t.Context(), reads, vault); err != nil {
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
	var bad *problem.Error
	if _, err := Ensure(t.Context(), clients(broken), vault); !errors.Is(err, errAPI) || errors.As(err, &bad) {
		t.Errorf("Ensure() = %v", err)
	}
	if err := Check(t.Context(), broken, vault, time.Now()); !errors.Is(err, errAPI) || errors.As(err, &bad) {
		t.Errorf("Check() = %v", err)
	}
}

func TestCheck(t *testing.T) {
	ca := newCA(t)
	server, other := sign(t, ca, testName), sign(t, ca, "other.default.svc")
	past := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	expired := custom(t, past, &ca)
	expiredCA := custom(t, func(c *x509.Certificate) { caTemplate(c); past(c) }, nil)
	orphan := custom(t, func(*x509.Certificate) {}, &expiredCA)
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
		{name: "the keys of kubernetes.io/tls and cert-manager", objects: []client.Object{
			secret("my-server", map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key, "ca.crt": ca.Cert}),
			secret("my-ca", map[string][]byte{"ca.crt": ca.Cert}),
		}},
		{name: "both kinds of keys", objects: []client.Object{
			secret("my-server",
				map[string][]byte{"server.crt": server.Cert, "server.key": server.Key, "tls.crt": []byte("garbage")}), goodCA,
		}},
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
			name:       "a key is missing",
			objects:    []client.Object{secret("my-server", map[string][]byte{"server.crt": server.Cert}), goodCA},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, `"server.key"`},
		},
		{
			name: "half a pair of each kind", objects: []client.Object{
				secret("my-server", map[string][]byte{"server.crt": server.Cert, "tls.key": server.Key}), goodCA,
			},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, `"server.key"`},
		},
		{
			name: "expired", objects: []client.Object{
				secret("my-server", map[string][]byte{"tls.crt": expired.Cert, "tls.key": expired.Key}), goodCA,
			},
			wantReason: v1alpha1.ReasonCertificateExpired, wantMessage: []string{`"my-server"`, "it was valid until 20"},
		},
		{
			name: "its CA expired", objects: []client.Object{
				secret("my-server", map[string][]byte{"tls.crt": orphan.Cert, "tls.key": orphan.Key}),
				secret("my-ca", map[string][]byte{"ca.crt": expiredCA.Cert}),
			},
			wantReason:  v1alpha1.ReasonCertificateExpired,
			wantMessage: []string{`"my-ca"`, "authority", "it was valid until 20"},
		},
		{
			name:       "an empty key",
			objects:    []client.Object{goodServer, secret("my-ca", map[string][]byte{"vault-client-ca.crt": nil})},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-ca"`, `"vault-client-ca.crt"`},
		},
		{
			name: "a certificate for another name", objects: []client.Object{
				secret("my-server", map[string][]byte{"server.crt": other.Cert, "server.key": other.Key}), goodCA,
			},
			wantReason: v1alpha1.ReasonSecretInvalid, wantMessage: []string{`"my-server"`, testName},
		},
		{
			name:       "another CA",
			objects:    []client.Object{goodServer, secret("my-ca", map[string][]byte{"vault-client-ca.crt": newCA(t).Cert})},
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
			c := newClient(t, tt.objects...)
			if _, err := Ensure(t.Context(), clients(c), newStaticVault()); err != nil {
				t.Fatal(err)
			}
			err := Check(t.Context(), c, newStaticVault(), time.Now())
			if tt.wantReason == "" {
				if err != nil {
					t.Errorf("Check() = %v", err)
				}
				return
			}
			var bad *problem.Error
			if !errors.As(err, &bad) || bad.Reason != tt.wantReason {
				t.Fatalf("Check() = %v, want a *problem.Error with reason %s", err, tt.wantReason)
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

// A condition with the current time in its message would be written at each look.
func TestCheckSaysTheSameAtAnyTime(t *testing.T) {
	ca := newCA(t)
	server := sign(t, ca, testName)
	c := newClient(t,
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "my-server"},
			Data:       map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key},
		},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "my-ca"}, Data: map[string][]byte{"ca.crt": ca.Cert},
		},
	)
	if _, err := Ensure(t.Context(), clients(c), newStaticVault()); err != nil {
		t.Fatal(err)
	}
	for _, years := range []int{-20, 20} {
		first := Check(t.Context(), c, newStaticVault(), time.Now().AddDate(years, 0, 0))
		second := Check(t.Context(), c, newStaticVault(), time.Now().AddDate(years, 0, 1))
		if first == nil || second == nil || first.Error() != second.Error() {
			t.Errorf("%d years: %v, and a day later %v", years, first, second)
		}
	}
}

func TestCheckLooksAtEtcd(t *testing.T) {
	other := newCA(t)
	for name, tt := range map[string]struct {
		secret, key string
		value       []byte
		reason      string
		mentions    string
	}{
		"a key of the members is missing": {
			"example-etcd-server-tls", "server.key", nil, v1alpha1.ReasonSecretInvalid, `has no key ["server.key"]`,
		},
		"Vault's certificate is missing": {
			"example-etcd-client-tls", "client.crt", nil, v1alpha1.ReasonSecretInvalid, `has no key ["client.crt"]`,
		},
		"members trust another CA": {
			"example-etcd-server-tls", "ca.crt", other.Cert, v1alpha1.ReasonSecretInvalid, "unknown authority",
		},
		"Vault trusts another CA": {
			"example-etcd-client-tls", "ca.crt", other.Cert, v1alpha1.ReasonSecretInvalid, "unknown authority",
		},
		"Vault's certificate is garbage": {
			"example-etcd-client-tls", "client.crt", []byte("garbage"), v1alpha1.ReasonSecretInvalid, "PEM",
		},
		"the key of the members is wrong": {
			"example-etcd-server-tls", "server.key", other.Key, v1alpha1.ReasonSecretInvalid, "private key does not match",
		},
		"the CA of Vault's is none": {
			"example-etcd-client-tls", "ca.crt", []byte("garbage"), v1alpha1.ReasonSecretInvalid, "no PEM certificate",
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault()
			c := newClient(t)
			if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
				t.Fatal(err)
			}
			secret := secrets(t, c)[tt.secret]
			secret.Data[tt.key] = tt.value
			if err := c.Update(t.Context(), &secret); err != nil {
				t.Fatal(err)
			}
			var bad *problem.Error
			if err := Check(t.Context(), c, vault, time.Now()); !errors.As(err, &bad) || bad.Reason != tt.reason {
				t.Fatalf("Check() = %v, want a *problem.Error with reason %s", err, tt.reason)
			}
			if !strings.Contains(bad.Message, tt.mentions) || !strings.Contains(bad.Message, tt.secret) {
				t.Errorf("message %q, want one that names %s and %q", bad.Message, tt.secret, tt.mentions)
			}
			noKeyMaterial(t, bad.Message, other.Key)
		})
	}
	vault := newVault()
	c := newClient(t)
	if _, err := Ensure(t.Context(), clients(c), vault); err != nil {
		t.Fatal(err)
	}
	remove(t, c, "example-etcd-client-tls")
	var bad *problem.Error
	if err := Check(t.Context(), c, vault, time.Now()); !errors.As(err, &bad) ||
		bad.Reason != v1alpha1.ReasonSecretNotFound || !bad.Generated {
		t.Errorf("Check() = %v, want one that the operator fixes", err)
	}
}

func TestExpiries(t *testing.T) {
	day := 24 * time.Hour
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	certificate := func(lifetime, left time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: now.Add(left - lifetime), NotAfter: now.Add(left)}
	}
	for name, tt := range map[string]struct {
		lifetime, left time.Duration
		due            bool
		next           time.Duration
	}{
		"ten years":                    {3650 * day, 3000 * day, false, 2986 * day},
		"ten years, a fortnight left":  {3650 * day, 14 * day, true, 14 * day},
		"three months":                 {90 * day, 30 * day, false, 16 * day},
		"three months, not renewed":    {90 * day, 13 * day, true, 13 * day},
		"a day":                        {day, 8 * time.Hour, false, 8*time.Hour - day/5},
		"a day, not renewed":           {day, 4 * time.Hour, true, 4 * time.Hour},
		"over":                         {day, -time.Hour, true, 0},
		"over in this very nanosecond": {day, 0, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			all := Expiries{
				newExpiry("leaf", certificate(tt.lifetime, tt.left)),
				newExpiry("CA", certificate(36500*day, 36000*day)),
			}
			if due := all.Due(now); (due != nil) != tt.due || due != nil && due.Name != "leaf" {
				t.Errorf("due: %+v, want %v", due, tt.due)
			}
			want := now.Add(tt.next)
			if tt.next == 0 {
				want = all[1].Notice
			}
			if next := all.Next(now); !next.Equal(want) {
				t.Errorf("next at %s, want %s", next, want)
			}
			if first := all.First(); !first.Equal(now.Add(tt.left)) {
				t.Errorf("first ends at %s", first)
			}
		})
	}
	if first := (Expiries{}).First(); !first.IsZero() {
		t.Errorf("nothing ends at %s", first)
	}
}
