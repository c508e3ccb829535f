//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// migrated is a Vault whose data is moved from seal to seal.
type migrated struct {
	fixture
	keyService
	// variables are what the commands of the page need, and migrate and remove those of them
	// that are the same for each direction.
	variables, migrate, remove string
}

// TestSealMigration follows docs/seal-migration.md: the data of one Vault is moved from Shamir's
// keys to a key service, to another key, and back to Shamir's keys, while clients use it.
func TestSealMigration(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	page := docs.Commands(t, "../../docs/seal-migration.md")
	toKeyService, toAnother := page["From Shamir's keys to a key service"], page["From one key to another"]
	toShamir := page["From a key service to Shamir's keys"]
	if len(toKeyService) != 4 || len(toAnother) != 2 || len(toShamir) != 1 {
		t.Fatalf("docs/seal-migration.md has other blocks of commands: %q", page)
	}
	wait, remove, found := strings.Cut(toKeyService[3], "\n")
	if !found || !strings.Contains(wait, "condition=SealMigrated") || !strings.Contains(remove, "null") {
		t.Fatalf("docs/seal-migration.md ends a migration by %q", toKeyService[3])
	}
	namespace := newNamespace(t)
	variables := fmt.Sprintf("set -e\nnamespace=%[1]s\nroot=%[1]s\n", namespace)
	m := &migrated{
		fixture: fixture{Vault: vaulttest.Vault{Namespace: namespace, Name: "example"}, nodes: several,
			ca: filepath.Join(t.TempDir(), "ca.crt")},
		keyService: newKeyService(t, namespace, variables), variables: variables,
		migrate: strings.TrimSpace(toKeyService[2]), remove: remove,
	}
	watchInvariants(t, m.Vault)
	shell.Apply(t, manifest(m.Vault, fmt.Sprintf(`{nodes: %d, version: 1.21.0, %s}`, several, anyStorage)))
	m.keys = m.InitAndUnseal(t, several)
	shell.Run(t, m.Kubectl(`get secret example-default-vault-client-tls -o jsonpath='{.data.vault-client-ca\.crt}' | `+
		`base64 -d >%s`, m.ca))
	m.Do(t, m.AwaitHA(t, several-1).VaultStatus.Active, m.keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	awaitSeal(t, m.Vault, "shamir", "")

	t.Run("what cannot be is refused", func(t *testing.T) { m.refuse(t) })
	t.Run("a migration is given up", func(t *testing.T) { m.giveUp(t, toKeyService[0]) })
	t.Run("from Shamir's keys to a key service", func(t *testing.T) {
		m.move(t, toKeyService[0], "transit", "transit:transit/keys/example")
		if said := shell.Run(t, m.variables+toKeyService[1]); !strings.Contains(said, "remove spec.sealMigration") {
			t.Errorf("the condition says %q", said)
		}
		before := running(t, m.Vault)
		shell.Run(t, m.variables+m.remove)
		m.awaitOver(t)
		awaitRunning(t, m.Vault, before)
		m.restartAll(t)
	})
	t.Run("from one key to another", func(t *testing.T) {
		m.asRoot(t, m.variables+toAnother[0])
		m.move(t, toAnother[1], "transit", "transit:transit/keys/example-2")
		shell.Run(t, m.variables+m.remove)
		m.awaitOver(t)
		// The old key is not needed any more.
		m.asRoot(t, "vault write transit/keys/example/config deletion_allowed=true && vault delete transit/keys/example")
		m.restartAll(t)
	})
	t.Run("from a key service to Shamir's keys", func(t *testing.T) {
		m.move(t, toShamir[0], "shamir", "")
		shell.Run(t, m.variables+m.remove)
		m.finishRollout(t) // with the former recovery keys
		m.awaitOver(t)
		m.asRoot(t, "vault operator seal") // it is not needed any more
		m.restartAll(t)
	})
}

// awaitSeal waits until the status says what the data is bound to.
func awaitSeal(t *testing.T, v vaulttest.Vault, kind, key string) {
	t.Helper()
	v.Await(t, "is bound to "+kind+" "+key, func(s v1alpha1.VaultStatus) bool {
		return s.Seal != nil && s.Seal.Type == kind && s.Seal.Key == key
	})
}

// refuse asks for what is no migration of this Vault.
func (m *migrated) refuse(t *testing.T) {
	before := running(t, m.Vault)
	transit := func(key string) string {
		return `{"transit": {"address": "https://root.` + m.Namespace + `.svc:8200", "keyName": "` + key + `", ` +
			`"caSecretName": "transit-ca", "credentialsSecretName": "transit-token"}}`
	}
	for _, bad := range []struct{ change, says string }{
		{`{"seal": ` + transit("example") + `}`, "spec.sealMigration.from"},
		{`{"seal": ` + transit("example") + `, "sealMigration": {"from": ` + transit("other") + `}}`,
			"it is bound to Shamir's keys"},
	} {
		setSpec(t, m.Vault, bad.change)
		awaitReported(t, m.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSealChangeRefused,
			bad.says)
		setSpec(t, m.Vault, `{"seal": null, "sealMigration": null}`)
		m.awaitOver(t)
	}
	if out, err := shell.Try(m.Kubectl(`patch vault example --type=merge -p '{"spec": {"sealMigration": {"from": ` +
		`{"shamir": {}}}}}'`)); err == nil || !strings.Contains(out, "spec.sealMigration.from") {
		t.Errorf("a migration from Shamir's keys to Shamir's keys: %s", out)
	}
	awaitRunning(t, m.Vault, before)
}

// giveUp begins a migration, and goes back when a standby node is of it.
func (m *migrated) giveUp(t *testing.T, begin string) {
	active := m.AwaitHA(t, several-1).VaultStatus.Active
	shell.Run(t, m.variables+begin)
	pod := m.awaitNamed(t)
	m.unsealMigrate(t, pod)
	m.Await(t, "has a standby node of the new seal", func(s v1alpha1.VaultStatus) bool {
		return slices.Contains(s.VaultStatus.Standby, pod)
	})
	awaitSeal(t, m.Vault, "shamir", "")
	setSpec(t, m.Vault, `{"seal": null, "sealMigration": null}`)
	m.finishRollout(t)
	m.awaitOver(t)
	awaitSeal(t, m.Vault, "shamir", "")
	if now := m.AwaitHA(t, several-1).VaultStatus.Active; now != active {
		t.Errorf("active is %s, and was %s", now, active)
	}
}

// move runs the commands of the page that begin a migration, and those that administrators run in it.
func (m *migrated) move(t *testing.T, begin, kind, key string) {
	began := time.Now()
	r := m.underLoad(t, func(active string) {
		shell.Run(t, m.variables+begin)
		m.awaitNamed(t)
		awaitReported(t, m.Vault, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingSealMigration,
			"vault operator unseal -migrate")
		m.refuseMeanwhile(t)
		if now := m.active(t); now != active {
			t.Errorf("%s has become active before all others were replaced", now)
		}
		m.Await(t, "is migrated", func(s v1alpha1.VaultStatus) bool {
			for _, pod := range named(s) {
				m.unsealMigrate(t, pod)
			}
			return meta.IsStatusConditionTrue(s.Conditions, v1alpha1.SealMigratedCondition)
		})
	})
	requireOutage(t, r, outageBesideOthers)
	awaitSeal(t, m.Vault, kind, key)
	awaitEvent(t, m.Vault, v1alpha1.ReasonMigrated, "remove spec.sealMigration", began)
	m.requireSecret(t)
}

// refuseMeanwhile asks for other nodes and another version while data is moved.
func (m *migrated) refuseMeanwhile(t *testing.T) {
	for field, command := range map[string]string{
		"spec.nodes":   m.Kubectl("scale vault example --replicas=%d", several+2),
		"spec.version": m.Kubectl(`patch vault example --type=merge -p '{"spec": {"version": "1.21.1"}}'`),
	} {
		if out, err := shell.Try(command); err == nil || !strings.Contains(out, "spec.sealMigration is set") {
			t.Errorf("%s was changed: %s", field, out)
		}
	}
}

// named are the pods that the condition SealMigrated sends administrators to.
func named(s v1alpha1.VaultStatus) []string {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.SealMigratedCondition)
	if c == nil || c.Reason != v1alpha1.ReasonMigrating || !strings.Contains(c.Message, "unseal -migrate' on each") {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.VaultStatus.Sealed), func(pod string) bool {
		return !strings.Contains(c.Message, pod)
	})
}

// awaitNamed waits until administrators are sent to a pod, and returns it.
func (m *migrated) awaitNamed(t *testing.T) string {
	t.Helper()
	return named(m.Await(t, "names a pod that waits for unseal -migrate", func(s v1alpha1.VaultStatus) bool {
		return len(named(s)) > 0
	}))[0]
}

// unsealMigrate runs the command of the page on a pod with each of three key shares. The
// status may be of a moment ago: then the node has no use for them.
func (m *migrated) unsealMigrate(t *testing.T, pod string) {
	t.Helper()
	env, stop := m.Forward(t, pod)
	defer stop()
	for _, key := range m.keys.UnsealKeys[:3] {
		if out, err := shell.Try(m.migrate+" "+key, env...); err != nil {
			t.Logf("%s on %s: %s", m.migrate, pod, strings.ReplaceAll(out, key, "KEY"))
			return
		}
	}
}

// awaitOver waits until the Vault has no migration, and nothing is wrong with it.
func (m *migrated) awaitOver(t *testing.T) {
	t.Helper()
	m.Await(t, "has no migration, and all is well", func(s v1alpha1.VaultStatus) bool {
		is := func(condition string) bool { return meta.IsStatusConditionTrue(s.Conditions, condition) }
		return meta.FindStatusCondition(s.Conditions, v1alpha1.SealMigratedCondition) == nil &&
			is(v1alpha1.SealReadyCondition) && is(v1alpha1.UpdatedCondition) && is(v1alpha1.UnsealedCondition)
	})
}

// restartAll deletes all nodes at once. With a key service nobody is needed.
func (m *migrated) restartAll(t *testing.T) {
	before := m.AwaitHA(t, several-1).VaultStatus
	gone := append(slices.Clone(before.Standby), before.Active)
	shell.Run(t, m.Kubectl("delete pod %s", strings.Join(gone, " ")))
	m.Await(t, "has come back", func(s v1alpha1.VaultStatus) bool {
		if s.Seal.Type == v1alpha1.ShamirSeal {
			m.TryUnsealAll(t, s.VaultStatus.Sealed, m.keys)
		}
		// A status of before may name pods that have the same names now.
		ready, err := shell.Try(m.Kubectl(`get pod %s -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}'`,
			s.VaultStatus.Active))
		return err == nil && ready == "True" && len(s.VaultStatus.Standby) == several-1
	})
	m.requireSecret(t)
}

// requireSecret fails the test when what was written before is not there.
func (m *migrated) requireSecret(t *testing.T) {
	t.Helper()
	active := m.AwaitHA(t, several-1).VaultStatus.Active
	if value := m.Do(t, active, m.keys.RootToken, "vault read -field=value secret/foo"); value != "bar" {
		t.Errorf("the secret is %q", value)
	}
}
