//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// keepers are the holders of PGP keys, which are in the home directory of gpg of this name.
type keepers string

func (k keepers) env() string { return "GNUPGHOME=" + string(k) }

// newKeepers makes PGP keys, and the ConfigMap with their public parts.
func newKeepers(t *testing.T, v vaulttest.Vault, names ...string) keepers {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	k := keepers(home)
	t.Cleanup(func() {
		if out, err := shell.Try("gpgconf --kill all; rm -r "+home, k.env()); err != nil {
			t.Log(out, err)
		}
	})
	create := v.Kubectl("create configmap keepers")
	for _, name := range names {
		shell.Run(t, fmt.Sprintf("gpg --batch --passphrase '' --quick-generate-key %[1]s@example.com && "+
			"gpg --export --armor %[1]s@example.com > %[2]s/%[1]s.asc", name, home), k.env())
		create += fmt.Sprintf(" --from-file=%s/%s.asc", home, name)
	}
	shell.Run(t, create)
	return k
}

// decrypt decrypts what was encrypted to a keeper.
func (k keepers) decrypt(t *testing.T, encrypted []byte) string {
	t.Helper()
	text, err := shell.TryInput(string(encrypted), "base64 -d | gpg --batch --quiet --decrypt 2>/dev/null", k.env())
	if err != nil {
		t.Fatal("what is stored cannot be decrypted: ", err)
	}
	return strings.TrimSpace(text)
}

// keysOf reads the Secret with the keys of a Vault.
func keysOf(t *testing.T, v vaulttest.Vault) map[string][]byte {
	t.Helper()
	var secret corev1.Secret
	if err := vaulttest.Get(v.Namespace, v.Name+"-vault-keys", &secret); err != nil {
		t.Fatal(err)
	}
	if secret.Immutable == nil || !*secret.Immutable || len(secret.OwnerReferences) > 0 {
		t.Errorf("the Secret is %+v", secret.ObjectMeta)
	}
	return secret.Data
}

// TestInitialization has the operator initialize Vaults, as docs/initialization.md says.
func TestInitialization(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	namespace := newNamespace(t)
	v := vaulttest.Vault{Namespace: namespace, Name: "example"}
	t.Run("to the PGP keys of three administrators", func(t *testing.T) { initializeEncrypted(t, v) })
	t.Run("and a node is sealed by hand", func(t *testing.T) {
		sealByHand(t, vaulttest.Vault{Namespace: namespace, Name: "sealed"})
	})
	t.Run("for development", func(t *testing.T) {
		initializePlain(t, vaulttest.Vault{Namespace: namespace, Name: "dev"})
	})
}

func initializeEncrypted(t *testing.T, v vaulttest.Vault) {
	const spec = `{nodes: 1, storage: {etcd: {nodes: 1, whenDeleted: Retain}}, initialization: {shares: 3, ` +
		`threshold: 3, pgpKeysConfigMapName: keepers, rootToken: PGP, rootTokenPGPKey: ann.asc}}`
	shell.Apply(t, manifest(v, spec))
	v.AwaitSealed(t, 1)
	// Nothing happens before the keys are there.
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionFalse, v1alpha1.ReasonPGPKeysNotFound,
		`"keepers"`)
	keepers := newKeepers(t, v, "ann", "ben", "cleo")
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysStored,
		"example-vault-keys")
	stored := keysOf(t, v)
	var keys vaulttest.Keys
	for i, name := range []string{"ann", "ben", "cleo"} {
		key := fmt.Sprintf("unseal-key-%d", i+1)
		keys.UnsealKeys = append(keys.UnsealKeys, keepers.decrypt(t, stored[key]))
		if !strings.Contains(string(stored["pgp-keys"]), name+".asc") {
			t.Errorf("pgp-keys does not name %s.asc:\n%s", name, stored["pgp-keys"])
		}
	}
	keys.RootToken = keepers.decrypt(t, stored["root-token"])
	v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
	active := v.AwaitHA(t, 0).VaultStatus.Active
	v.Do(t, active, keys.RootToken, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")

	// The same Vault finds its data and its keys again, and is not initialized once more.
	shell.Run(t, v.Kubectl("delete vault %s --timeout=2m", v.Name))
	shell.Apply(t, manifest(v, spec))
	v.AwaitSealed(t, 1)
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, v1alpha1.ReasonInitializedBefore,
		"")
	v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
	active = v.AwaitHA(t, 0).VaultStatus.Active
	if value := v.Do(t, active, keys.RootToken, "vault read -field=value secret/foo"); value != "bar" {
		t.Errorf("the secret is %q", value)
	}

	// With other volumes the Secret of the first ones is in the way.
	shell.Run(t, v.Kubectl("delete vault %s --timeout=2m", v.Name))
	shell.Run(t, v.Kubectl("delete pvc -l app.kubernetes.io/instance=%s --timeout=2m", v.Name))
	shell.Apply(t, manifest(v, spec))
	v.AwaitSealed(t, 1)
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretExists,
		"example-vault-keys")
}

func initializePlain(t *testing.T, v vaulttest.Vault) {
	shell.Apply(t, manifest(v, fmt.Sprintf(`{nodes: %d, %s, initialization: {shares: 1, threshold: 1, `+
		`rootToken: Revoke, allowPlaintext: true}, unseal: {keysSecretName: dev-vault-keys}}`, several, anyStorage)))
	v.AwaitHA(t, several-1)
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysInPlaintext,
		"The root token was revoked")
	active := v.AwaitHA(t, several-1).VaultStatus.Active
	if _, stored := keysOf(t, v)["root-token"]; stored {
		t.Error("the root token is stored")
	}

	// What starts is unsealed.
	standby := v.AwaitHA(t, several-1).VaultStatus.Standby
	if anyStorage != smallEtcd {
		time.Sleep(45 * time.Second) // until nodes vote that have just joined: no token is left to ask
	}
	shell.Run(t, v.Kubectl("delete pod %s", active))
	v.Await(t, "is highly available again", func(s v1alpha1.VaultStatus) bool {
		return slices.Contains(standby, s.VaultStatus.Active) && len(s.VaultStatus.Standby) == several-1
	})
	awaitCondition(t, v, time.Minute, v1alpha1.UnsealKeysValidCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysAccepted)
}

// sealByHand seals a node that the operator unseals: it stays sealed until it starts again.
func sealByHand(t *testing.T, v vaulttest.Vault) {
	shell.Apply(t, manifest(v, `{nodes: 1, `+anyStorage+`, initialization: {shares: 1, threshold: 1, rootToken: Secret, `+
		`allowPlaintext: true}, unseal: {keysSecretName: sealed-vault-keys}}`))
	active := v.AwaitHA(t, 0).VaultStatus.Active
	awaitCondition(t, v, time.Minute, v1alpha1.UnsealKeysValidCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysAccepted)
	v.Do(t, active, string(keysOf(t, v)["root-token"]), "vault operator seal")
	awaitReported(t, v, v1alpha1.UnsealKeysValidCondition, metav1.ConditionTrue, v1alpha1.ReasonSealedByHand, active)
	time.Sleep(10 * time.Second) // in which it would be unsealed
	if status := v.AwaitSealed(t, 1); status.VaultStatus.Active != "" {
		t.Errorf("the operator has unsealed it: %+v", status.VaultStatus)
	}
	shell.Run(t, v.Kubectl("delete pod %s", active))
	v.AwaitHA(t, 0)
}
