//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// keepers are the holders of PGP keys.
type keepers map[string]*openpgp.Entity

// newKeepers makes PGP keys, and the ConfigMap with their public parts.
func newKeepers(t *testing.T, v vaulttest.Vault, names ...string) keepers {
	t.Helper()
	result := keepers{}
	var data strings.Builder
	for _, name := range names {
		entity, err := openpgp.NewEntity(name, "", name+"@example.com", nil)
		var public bytes.Buffer
		if err == nil {
			err = entity.Serialize(&public)
		}
		if err != nil {
			t.Fatal(err)
		}
		result[name] = entity
		fmt.Fprintf(&data, "  %s: %s\n", name, base64.StdEncoding.EncodeToString(public.Bytes()))
	}
	shell.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: keepers, namespace: %s}\n"+
		"binaryData:\n%s", v.Namespace, data.String()))
	return result
}

// decrypt decrypts what was encrypted to a keeper.
func (k keepers) decrypt(t *testing.T, name string, encrypted []byte) string {
	t.Helper()
	content, err := base64.StdEncoding.DecodeString(string(encrypted))
	if err != nil {
		t.Fatalf("what is stored for %s is no base64", name)
	}
	message, err := openpgp.ReadMessage(bytes.NewReader(content), openpgp.EntityList{k[name]}, nil, nil)
	if err != nil {
		t.Fatalf("what is stored for %s: %v", name, err)
	}
	text, err := io.ReadAll(message.UnverifiedBody)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// keysOf reads the Secret with the keys of a Vault.
func keysOf(t *testing.T, v vaulttest.Vault) map[string][]byte {
	t.Helper()
	var secret corev1.Secret
	if err := json.Unmarshal([]byte(shell.Run(t, v.Kubectl("get secret %s-vault-keys -o json", v.Name))),
		&secret); err != nil {
		t.Fatal("the Secret with the keys cannot be read") // not what it holds
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
	t.Run("to the PGP keys of three people", func(t *testing.T) { initializeEncrypted(t, v) })
	t.Run("and a node is sealed by hand", func(t *testing.T) {
		sealByHand(t, vaulttest.Vault{Namespace: namespace, Name: "sealed"})
	})
	t.Run("for development", func(t *testing.T) {
		initializePlain(t, vaulttest.Vault{Namespace: namespace, Name: "dev"})
	})
}

func initializeEncrypted(t *testing.T, v vaulttest.Vault) {
	const spec = `{nodes: 1, storage: {etcd: {nodes: 1, whenDeleted: Retain}}, initialization: {shares: 3, ` +
		`threshold: 3, pgpKeysConfigMapName: keepers, rootToken: PGP, rootTokenPGPKey: ann}}`
	shell.Apply(t, manifest(v, spec))
	v.AwaitSealed(t, 1)
	// Nothing happens before the keys are there.
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionFalse, v1alpha1.ReasonPGPKeysNotFound,
		`"keepers"`)
	people := newKeepers(t, v, "ann", "ben", "cleo")
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysStored,
		"example-vault-keys")
	stored := keysOf(t, v)
	var keys vaulttest.Keys
	for i, name := range []string{"ann", "ben", "cleo"} {
		keys.UnsealKeys = append(keys.UnsealKeys, people.decrypt(t, name, stored[fmt.Sprintf("unseal-key-%d", i+1)]))
	}
	keys.RootToken = people.decrypt(t, "ann", stored["root-token"])
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
	shell.Apply(t, manifest(v, `{nodes: 2, `+smallEtcd+`, initialization: {shares: 1, threshold: 1, rootToken: Revoke, `+
		`allowPlaintext: true}, unseal: {keysSecretName: dev-vault-keys}}`))
	v.AwaitHA(t, 1)
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysInPlaintext,
		"The root token was revoked")
	active := v.AwaitHA(t, 1).VaultStatus.Active
	if _, stored := keysOf(t, v)["root-token"]; stored {
		t.Error("the root token is stored")
	}

	// What starts is unsealed.
	standby := v.AwaitHA(t, 1).VaultStatus.Standby[0]
	shell.Run(t, v.Kubectl("delete pod %s", active))
	v.Await(t, "is highly available again", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active == standby && len(s.VaultStatus.Standby) == 1
	})
	awaitCondition(t, v, time.Minute, v1alpha1.UnsealKeysValidCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysAccepted)
}

// sealByHand seals a node that the operator unseals: it stays sealed until it starts again.
func sealByHand(t *testing.T, v vaulttest.Vault) {
	shell.Apply(t, manifest(v, `{nodes: 1, `+smallEtcd+`, initialization: {shares: 1, threshold: 1, rootToken: Secret, `+
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
