package releases

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	helmdriver "helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgofake "k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const testNamespace = "operator"

type fixture struct {
	*Store
	t     *testing.T
	vault *v1alpha1.Vault
}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	store := &Store{
		Namespace: testNamespace, Chart: "vault", Client: api, APIReader: api, Recorder: record.NewFakeRecorder(100),
		Clock: clock.RealClock{},
	}
	return &fixture{store, t, testVault()}
}

// storage is what Helm works with during one reconcile.
func (f *fixture) storage() *storage.Storage {
	d, err := f.Driver(f.t.Context(), f.vault, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return storage.Init(d)
}

// secrets are the names of those in a namespace.
func (f *fixture) secrets(namespace string) []string {
	f.t.Helper()
	var list corev1.SecretList
	if err := f.APIReader.List(f.t.Context(), &list, client.InNamespace(namespace)); err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, secret := range list.Items {
		names = append(names, secret.Name)
	}
	return names
}

func (f *fixture) events() string {
	var all []string
	for {
		select {
		case e := <-f.Recorder.(*record.FakeRecorder).Events:
			all = append(all, e)
		default:
			return strings.Join(all, "\n")
		}
	}
}

// tenantSecret is a record in the namespace of the Vault.
func tenantSecret(
	t *testing.T, revision int, status release.Status, owned bool, change func(*release.Release),
) *corev1.Secret {
	t.Helper()
	rel := testRelease(goodManifest)
	rel.Version, rel.Info.Status = revision, status
	if change != nil {
		change(rel)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "t", Name: recordName("x", revision), UID: "secret", Labels: helmLabels(rel),
		},
		Type: secretType,
		Data: map[string][]byte{dataKey: mustPack(t, rel)},
	}
	if owned {
		vault := testVault()
		secret.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(vault, vault.GroupVersionKind())}
	}
	return secret
}

func TestRecordsAreKeptInTheOperatorsNamespace(t *testing.T) {
	f := newFixture(t)
	s := f.storage()
	if _, err := s.Last("x"); !errors.Is(err, helmdriver.ErrReleaseNotFound) {
		t.Fatalf("error %v", err)
	}
	rel := testRelease(goodManifest)
	rel.Version, rel.Info.Status = 1, release.StatusPendingInstall
	if err := s.Create(rel); err != nil {
		t.Fatal(err)
	}
	rel.Info.Status = release.StatusDeployed
	if err := s.Update(rel); err != nil {
		t.Fatal(err)
	}
	name := "sh.helm.release.v1." + string(f.vault.UID) + ".v1"
	if got := f.secrets(testNamespace); !slices.Equal(got, []string{name}) || len(f.secrets("t")) > 0 {
		t.Fatalf("Secrets %q", got)
	}
	if err := s.Create(rel); !errors.Is(err, helmdriver.ErrReleaseExists) {
		t.Errorf("a second one: error %v", err)
	}
	for _, s := range []*storage.Storage{s, f.storage()} {
		got, err := s.Deployed("x")
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != "x" || got.Namespace != "t" || got.Version != 1 || got.Manifest != goodManifest {
			t.Errorf("release %+v", got)
		}
		got.Manifest = "changed by the caller"
		if again, err := s.Get("x", 1); err != nil || again.Manifest != goodManifest {
			t.Errorf("release %+v, error %v", again, err)
		}
	}
	if _, err := f.storage().Delete("x", 1); err != nil {
		t.Fatal(err)
	}
	if got := f.secrets(testNamespace); len(got) > 0 {
		t.Errorf("left are %q", got)
	}
}

// The helm command finds the release by the UID of the Vault.
func TestHelmReadsTheRecords(t *testing.T) {
	f := newFixture(t)
	if err := f.storage().Create(testRelease(goodManifest)); err != nil {
		t.Fatal(err)
	}
	var secret corev1.Secret
	name := recordName(string(f.vault.UID), 4)
	if err := f.APIReader.Get(t.Context(), client.ObjectKey{Namespace: testNamespace, Name: name}, &secret); err != nil {
		t.Fatal(err)
	}
	helm := helmdriver.NewSecrets(secretsOf(&secret))
	rel, err := storage.Init(helm).Last(string(f.vault.UID))
	if err != nil {
		t.Fatal(err)
	}
	if rel.Name != string(f.vault.UID) || rel.Manifest != goodManifest || rel.Chart.Metadata.Version != "0.1.0" {
		t.Errorf("release %+v", rel)
	}
}

func TestUnreadableRecordsAreToldAndReplaced(t *testing.T) {
	f := newFixture(t)
	if err := f.storage().Create(testRelease(goodManifest)); err != nil {
		t.Fatal(err)
	}
	name := recordName(string(f.vault.UID), 4)
	secret := &corev1.Secret{}
	if err := f.APIReader.Get(t.Context(), client.ObjectKey{Namespace: testNamespace, Name: name}, secret); err != nil {
		t.Fatal(err)
	}
	secret.Data[dataKey] = []byte("eHh4")
	if err := f.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	s := f.storage()
	if _, err := s.Last("x"); !errors.Is(err, helmdriver.ErrReleaseNotFound) {
		t.Errorf("error %v", err)
	}
	if got := f.events(); !strings.Contains(got, "Warning RecordUnreadable") || !strings.Contains(got, name) {
		t.Errorf("events %q", got)
	}
	if err := s.Create(testRelease(goodManifest)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.storage().Last("x"); err != nil {
		t.Error(err)
	}
}

func TestForeignReleaseIsRefused(t *testing.T) {
	f := newFixture(t, tenantSecret(t, 1, release.StatusDeployed, false, nil))
	s := f.storage()
	if _, err := s.Last("x"); !errors.Is(err, helmdriver.ErrReleaseNotFound) {
		t.Errorf("error %v", err)
	}
	var conflict *conflictError
	if err := f.Check(f.vault.UID); !errors.As(err, &conflict) || conflict.Secret != recordName("x", 1) {
		t.Errorf("error %v", err)
	}
	if err := s.Create(testRelease(goodManifest)); !errors.As(err, &conflict) {
		t.Errorf("it is deployed beside it: error %v", err)
	}
	if got := f.events(); !strings.Contains(got, "Warning ReleaseConflict") {
		t.Errorf("events %q", got)
	}
	if got := f.secrets("t"); len(got) != 1 {
		t.Errorf("Secrets %q", got)
	}

	// A Vault that is being deleted is not held up.
	f.vault.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	if _, err := f.storage().Last("x"); !errors.Is(err, helmdriver.ErrReleaseNotFound) {
		t.Errorf("error %v", err)
	}
	if err := f.Check(f.vault.UID); err != nil {
		t.Errorf("it is remembered for ever: %v", err)
	}
}

func TestForeignReleaseDoesNotHinderADeployedVault(t *testing.T) {
	f := newFixture(t)
	if err := f.storage().Create(testRelease(goodManifest)); err != nil {
		t.Fatal(err)
	}
	if err := f.Client.Create(t.Context(), tenantSecret(t, 1, release.StatusDeployed, false, nil)); err != nil {
		t.Fatal(err)
	}
	if rel, err := f.storage().Last("x"); err != nil || rel.Version != 4 {
		t.Errorf("release %v, error %v", rel, err)
	}
	if err := f.Check(f.vault.UID); err != nil {
		t.Error(err)
	}
}

func TestRecordOfAnEarlierVaultIsWaitedFor(t *testing.T) {
	left := tenantSecret(t, 1, release.StatusDeployed, true, nil)
	left.OwnerReferences[0].UID = "earlier"
	f := newFixture(t, left)
	if _, err := f.storage().Last("x"); !errors.Is(err, helmdriver.ErrReleaseNotFound) {
		t.Errorf("error %v", err)
	}
	if err := f.Check(f.vault.UID); err == nil || !strings.Contains(err.Error(), "waiting for the deletion") {
		t.Errorf("error %v", err)
	}
}

func TestImport(t *testing.T) {
	foreign := tenantSecret(t, 1, release.StatusSuperseded, false, nil)
	f := newFixture(t, foreign,
		tenantSecret(t, 2, release.StatusSuperseded, true, nil),
		tenantSecret(t, 3, release.StatusDeployed, true, nil),
		tenantSecret(t, 4, release.StatusPendingUpgrade, true, nil),
	)
	rel, err := f.storage().Last("x")
	if err != nil {
		t.Fatal(err)
	}
	if rel.Version != 3 || rel.Info.Status != release.StatusDeployed {
		t.Errorf("release %+v", rel)
	}
	if got := f.secrets("t"); !slices.Equal(got, []string{foreign.Name}) {
		t.Errorf("in the namespace of the Vault: %q", got)
	}
	if got := f.secrets(testNamespace); !slices.Equal(got, []string{recordName(string(f.vault.UID), 3)}) {
		t.Errorf("in the operator's: %q", got)
	}
	if again, err := f.storage().Last("x"); err != nil || again.Manifest != rel.Manifest {
		t.Errorf("release %v, error %v", again, err)
	}
}

func TestForgedOwnerDoesNotImport(t *testing.T) {
	f := newFixture(t, tenantSecret(t, 3, release.StatusDeployed, true, func(rel *release.Release) {
		rel.Manifest += "---\napiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: other}\n"
	}))
	if _, err := f.storage().Last("x"); !errors.Is(err, helmdriver.ErrReleaseNotFound) {
		t.Errorf("error %v", err)
	}
	if got := f.events(); !strings.Contains(got, "Warning RecordIgnored") || !strings.Contains(got, "another namespace") {
		t.Errorf("events %q", got)
	}
	if err := f.Check(f.vault.UID); err != nil {
		t.Errorf("the Vault is refused: %v", err)
	}
}

func TestCollect(t *testing.T) {
	now := time.Now()
	secret := func(name, uid, vault string, age time.Duration) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: testNamespace, Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age)),
			Labels: map[string]string{ownerLabel: ownerHelm, nameLabel: uid, VaultNamespaceLabel: "t", vaultNameLabel: vault},
		}}
	}
	other := secret("another-release", "a", "x", time.Hour)
	delete(other.Labels, vaultNameLabel)
	vault := testVault()
	f := newFixture(t, vault, other,
		secret("kept", string(vault.UID), "x", time.Hour),
		secret("of-an-earlier-one", "earlier", "x", time.Hour),
		secret("without-a-vault", "gone", "y", time.Hour),
		secret("young", "new", "z", time.Minute),
	)
	if err := f.collect(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if got := f.secrets(testNamespace); !slices.Equal(got, []string{"another-release", "kept", "young"}) {
		t.Errorf("left are %q", got)
	}
}

// secretsOf is a client that Helm's own driver works with.
func secretsOf(secrets ...*corev1.Secret) typedcorev1.SecretInterface {
	objects := make([]runtime.Object, 0, len(secrets))
	for _, secret := range secrets {
		objects = append(objects, secret)
	}
	return clientgofake.NewClientset(objects...).CoreV1().Secrets(testNamespace)
}
