//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestOperatorLogin follows docs/operator-login.md: an administrator authorizes the operator, which
// can do nothing beside what it is for, and takes that back.
func TestOperatorLogin(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	t.Run("by kubectl vault", func(t *testing.T) {
		authorizeByPlugin(t, vaulttest.Vault{Namespace: namespace, Name: "known"})
	})
	t.Run("by the root token of an initialization", func(t *testing.T) {
		authorizeByRootToken(t, vaulttest.Vault{Namespace: namespace, Name: "born"})
	})
}

func authorizeByPlugin(t *testing.T, v vaulttest.Vault) {
	shell.Apply(t, manifest(v, fmt.Sprintf(`{nodes: %d, version: 1.21.0, %s, initialization: {shares: 1, threshold: 1, `+
		`rootToken: Secret, allowPlaintext: true}, unseal: {keysSecretName: known-vault-keys}}`, several, anyStorage)))
	active := v.AwaitHA(t, several-1).VaultStatus.Active
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	root := string(keysOf(t, v)["root-token"])
	v.Do(t, active, root, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	a := newAdministrator(t, v)
	if out := a.run(t, 3, "", "authorize", "--dry-run"); !strings.Contains(out, "kubectl patch vault") {
		t.Errorf("a Vault whose spec asks for no login: %s", out)
	}

	before := running(t, v)
	setSpec(t, v, `{"operatorLogin": {"enabled": true}}`)
	awaitReported(t, v, v1alpha1.AuthorizedCondition, metav1.ConditionFalse, v1alpha1.ReasonNotAuthorized,
		"kubectl vault authorize known")
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	awaitRunning(t, v, before)

	granting := grantingToken(t, v, active, root)
	requireRefused(t, a, active, root, granting)

	// What is printed for review does the same.
	commands := a.run(t, 0, "", "authorize", "--dry-run", "2>/dev/null")
	v.Do(t, active, root, "set -ex\n"+commands)
	lookNow(t, v)
	awaitCondition(t, v, 6*time.Minute, v1alpha1.AuthorizedCondition, metav1.ConditionTrue, v1alpha1.ReasonAuthorized)
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	a.run(t, 4, "hvs.none\n", "authorize")
	a.run(t, 0, granting+"\n", "authorize")
	if out := a.run(t, 0, "", "status"); !strings.Contains(out, v1alpha1.ReasonAuthorized) {
		t.Errorf("kubectl vault status says nothing of it:\n%s", out)
	}
	token := loginAsOperator(t, v, active)
	requireNarrow(t, v, active, token)

	requireStepDown(t, v)
	awaitCondition(t, v, time.Minute, v1alpha1.AuthorizedCondition, metav1.ConditionTrue, v1alpha1.ReasonAuthorized)

	active = v.AwaitHA(t, several-1).VaultStatus.Active
	token = loginAsOperator(t, v, active)
	a.run(t, 0, granting+"\n", "deauthorize")
	// Once more there is nothing to delete.
	a.run(t, 0, granting+"\n", "deauthorize")
	env, stop := v.Forward(t, active)
	requireDenied(t, "vault read auth/vault-operator/config", append(env, "VAULT_TOKEN="+token)...)
	stop()
	if everything() { // it is minutes before the operator needs another login; tests of internal/login have a clock
		awaitCondition(t, v, 5*time.Minute, v1alpha1.AuthorizedCondition, metav1.ConditionFalse, v1alpha1.ReasonNotAuthorized)
	}
	setSpec(t, v, `{"operatorLogin": null}`)
	shell.Eventually(t, "the Vault says nothing of a login", time.Minute, func() error {
		status, err := v.Status()
		if err == nil && status.OperatorLogin != nil {
			return fmt.Errorf("the status is %+v", status.OperatorLogin)
		}
		return err
	})
}

// requireStepDown asserts that the active node steps down in a rollout. The Deployment gives the operator
// five seconds for that, which a busy machine may take for something else; then there is another rollout.
func requireStepDown(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	for _, change := range []string{
		`{"version": "1.21.1"}`, `{"pod": {"env": [{"name": "CHANGED", "value": "yes"}]}}`, `{"pod": {"env": null}}`,
	} {
		active := v.AwaitHA(t, several-1).VaultStatus.Active
		since := time.Now()
		setSpec(t, v, change)
		shell.Run(t, v.Kubectl("wait --for=delete --timeout=170s pod/%s", active))
		awaitUpdated(t, v, "1.21.1", several)
		if err := findEvent(v, "SteppedDown", active, since); err == nil {
			return
		}
		t.Logf("%s was deleted before it stepped down", active)
	}
	t.Error("in no rollout the active node stepped down")
}

// grantingToken is a token with the rights that docs/operator-login.md gives for authorize and
// deauthorize, and no others.
func grantingToken(t *testing.T, v vaulttest.Vault, active, root string) string {
	t.Helper()
	rights := docs.Find(t, "../../docs/operator-login.md",
		regexp.MustCompile("(?s)<!-- TestOperatorLogin [^\n]*\n```hcl\n(.*?)```"))
	v.Do(t, active, root, "vault policy write granting - <<'EOF'\n"+rights+"EOF\n")
	return v.Do(t, active, root, "vault token create -policy=granting -no-default-policy -field=token")
}

// requireRefused asserts that what is somebody else's in Vault is neither replaced nor deleted.
func requireRefused(t *testing.T, a administrator, active, root, granting string) {
	t.Helper()
	foreign := `vault policy write vault-operator - <<< 'path "secret/*" { capabilities = ["read"] }'`
	for create, clean := range map[string]string{
		foreign: "vault policy delete vault-operator",
		"vault auth enable -path=vault-operator userpass": "vault auth disable vault-operator",
	} {
		a.Do(t, active, root, create)
		for _, command := range []string{"authorize", "deauthorize"} {
			if out := a.run(t, 3, granting+"\n", command); !strings.Contains(out, clean) {
				t.Errorf("%s does not say %q: %s", command, clean, out)
			}
		}
		a.Do(t, active, root, clean)
	}
}

// authorizeByRootToken has the operator authorize itself by a root token that it revokes.
func authorizeByRootToken(t *testing.T, v vaulttest.Vault) {
	shell.Apply(t, manifest(v, `{nodes: 1, `+anyStorage+`, operatorLogin: {enabled: true}, `+
		`initialization: {shares: 1, threshold: 1, rootToken: Revoke, allowPlaintext: true}, `+
		`unseal: {keysSecretName: born-vault-keys}}`))
	active := v.AwaitHA(t, 0).VaultStatus.Active
	awaitReported(t, v, v1alpha1.InitializationSucceededCondition, metav1.ConditionTrue, v1alpha1.ReasonKeysInPlaintext,
		"The root token was revoked")
	awaitCondition(t, v, 6*time.Minute, v1alpha1.AuthorizedCondition, metav1.ConditionTrue, v1alpha1.ReasonAuthorized)
	requireNarrow(t, v, active, loginAsOperator(t, v, active))
}

// operatorJWT is a token of the operator's ServiceAccount for an audience.
func operatorJWT(t *testing.T, audience string) string {
	t.Helper()
	return shell.Run(t, fmt.Sprintf("kubectl create token vault-operator-controller-manager -n %s --audience=%s "+
		"--duration=10m", operatorNamespace, audience))
}

const loginCommand = "vault write -field=token auth/vault-operator/login role=vault-operator jwt=-"

// loginAsOperator logs in as who has a token of the operator's ServiceAccount for this Vault. One
// for another Vault is refused.
func loginAsOperator(t *testing.T, v vaulttest.Vault, active string) string {
	t.Helper()
	audience := "vault-operator/" + v.Namespace + "/" + v.Name
	env, stop := v.Forward(t, active)
	defer stop()
	if out, err := shell.TryInput(operatorJWT(t, audience+"-other"), loginCommand, env...); err == nil ||
		!strings.Contains(out, "audience") {
		t.Errorf("a token for another Vault: %s", out)
	}
	if out, err := shell.TryInput(operatorJWT(t, "vault"), loginCommand, env...); err == nil {
		t.Errorf("a token for others: %s", out)
	}
	token, err := shell.TryInput(operatorJWT(t, audience), loginCommand, env...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// requireNarrow asserts that a token of the operator reads no secret, and cannot get further.
func requireNarrow(t *testing.T, v vaulttest.Vault, active, token string) {
	t.Helper()
	env, stop := v.Forward(t, active)
	defer stop()
	env = append(env, "VAULT_TOKEN="+token)
	keys := shell.Run(t, "vault read -field=jwt_validation_pubkeys auth/vault-operator/config", env...)
	if !strings.Contains(keys, "PUBLIC KEY") {
		t.Errorf("the operator reads the public keys %q", keys)
	}
	for _, command := range []string{
		"vault read secret/foo",
		"vault list secret/",
		"vault policy read vault-operator",
		"vault policy write vault-operator - <<< 'path \"*\" { capabilities = [\"read\"] }'",
		"vault read auth/vault-operator/role/vault-operator",
		"vault write auth/vault-operator/role/other role_type=jwt user_claim=sub bound_subject=a token_policies=root",
		"vault token create",
		"vault token lookup",
		"vault auth list",
		"vault secrets list",
		"vault operator seal",
		"vault read sys/storage/raft/snapshot",
	} {
		requireDenied(t, command, env...)
	}
}

func requireDenied(t *testing.T, command string, env ...string) {
	t.Helper()
	if out, err := shell.Try(command, env...); err == nil || !strings.Contains(out, "permission denied") {
		t.Errorf("the operator may run %q: %s", command, out)
	}
}
