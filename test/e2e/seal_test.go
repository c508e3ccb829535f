//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// autoUnsealed is a Vault that is unsealed by the transit secrets engine of another one.
type autoUnsealed struct {
	vaulttest.Vault
	keyService
	// token is the root token of the Vault.
	token string
	// another are the commands of the page that give it another token.
	another string
}

// keyService is a Vault that unseals another one by its transit secrets engine.
type keyService struct {
	root     vaulttest.Vault
	rootKeys vaulttest.Keys
}

// newKeyService makes one, with the key and the Secrets for the Vault "example" as
// docs/auto-unseal.md does. Variables are what the commands of the page need.
func newKeyService(t *testing.T, namespace, variables string) keyService {
	t.Helper()
	k := keyService{root: vaulttest.Vault{Namespace: namespace, Name: "root"}}
	shell.Apply(t, manifest(k.root, `{nodes: 1, `+anyStorage+`}`))
	k.rootKeys = k.root.InitAndUnseal(t, 1)
	transit := docs.Commands(t, "../../docs/auto-unseal.md")["Transit of another Vault"]
	k.asRoot(t, variables+transit[0]+transit[1])
	return k
}

// TestAutoUnseal follows docs/auto-unseal.md: a Vault unseals itself by another one, which
// administrators unseal, through the loss of all of its nodes and of that other one.
func TestAutoUnseal(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	page := docs.Commands(t, "../../docs/auto-unseal.md")
	// The YAML between them is indented as well.
	transit, initialize := page["Transit of another Vault"], page["Initialize it"]
	if len(transit) != 4 || len(initialize) != 1 {
		t.Fatalf("docs/auto-unseal.md has other blocks of commands: %q", page)
	}
	namespace := newNamespace(t)
	variables := fmt.Sprintf("set -e\nnamespace=%[1]s\nroot=%[1]s\n", namespace)
	v := &autoUnsealed{
		Vault: vaulttest.Vault{Namespace: namespace, Name: "example"}, keyService: newKeyService(t, namespace, variables),
		another: variables + transit[3],
	}
	shell.Apply(t, manifest(v.Vault, `{nodes: 2, version: 1.21.0, `+smallEtcd+`, seal: {transit: {address: `+
		`"https://root.`+namespace+`.svc:8200", `+
		`keyName: example, caSecretName: transit-ca, credentialsSecretName: transit-token}}}`))
	pod := v.AwaitSealed(t, 2).VaultStatus.Sealed[0]
	awaitCondition(t, v.Vault, time.Minute, v1alpha1.InitializedCondition, metav1.ConditionFalse,
		v1alpha1.ReasonAwaitingInit, strings.TrimSpace(initialize[0]))
	v.init(t, pod, strings.TrimSpace(initialize[0]))
	active := v.AwaitHA(t, 1).VaultStatus.Active
	v.awaitWorks(t)
	v.Await(t, "knows its key", func(s v1alpha1.VaultStatus) bool {
		return s.Seal != nil && s.Seal.Type == "transit" && s.Seal.Key == "transit:transit/keys/example" &&
			s.Seal.Healthy != nil && *s.Seal.Healthy
	})
	v.Do(t, active, v.token, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")

	t.Run("all nodes are lost", func(t *testing.T) { v.loseNodes(t) })
	t.Run("what cannot be is refused", func(t *testing.T) { v.refuse(t) })
	t.Run("the key service is away", func(t *testing.T) { v.loseRoot(t) })
	t.Run("the token ends", func(t *testing.T) { v.endToken(t) })
	t.Run("the token is refused", func(t *testing.T) { v.loseToken(t) })
	t.Run("a change is set back", func(t *testing.T) { v.setBack(t) })
}

// asRoot runs commands with the root token of the Vault that unseals the other one.
func (k *keyService) asRoot(t *testing.T, commands string) {
	t.Helper()
	k.root.Do(t, k.root.AwaitHA(t, 0).VaultStatus.Active, k.rootKeys.RootToken, commands)
}

func (v *autoUnsealed) init(t *testing.T, pod, command string) {
	t.Helper()
	env, stop := v.Forward(t, pod)
	defer stop()
	var keys struct {
		RecoveryKeys []string `json:"recovery_keys_b64"`
		UnsealKeys   []string `json:"unseal_keys_b64"`
		RootToken    string   `json:"root_token"`
	}
	out := shell.Run(t, command+" -format=json", env...)
	if err := json.Unmarshal([]byte(out), &keys); err != nil || len(keys.RecoveryKeys) != 5 ||
		len(keys.UnsealKeys) != 0 || keys.RootToken == "" {
		t.Fatalf("it was not initialized with recovery keys: %v", err) // not what it printed: these are secrets
	}
	v.token = keys.RootToken
}

// pods are the names of those that are there.
func (v *autoUnsealed) pods(t *testing.T) []string {
	t.Helper()
	return strings.Fields(shell.Run(t, v.Kubectl("get pods -l "+
		"app.kubernetes.io/instance=example,app.kubernetes.io/component=server -o jsonpath='{.items[*].metadata.name}'")))
}

func (v *autoUnsealed) image(t *testing.T) string {
	t.Helper()
	return shell.Run(t, v.Kubectl("get deployment %s -o jsonpath='{.spec.template.spec.containers[0].image}'", v.Name))
}

// loseNodes deletes all nodes at once: nobody is needed.
func (v *autoUnsealed) loseNodes(t *testing.T) {
	before := v.pods(t)
	shell.Run(t, v.Kubectl("delete pod --wait=false %s", strings.Join(before, " ")))
	status := v.Await(t, "has come back by itself", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && !slices.Contains(before, s.VaultStatus.Active) && len(s.VaultStatus.Standby) == 1
	})
	if value := v.Do(t, status.VaultStatus.Active, v.token, "vault read -field=value secret/foo"); value != "bar" {
		t.Errorf("the secret is %q", value)
	}
	shell.Run(t, v.Kubectl("wait --for=delete --timeout=1m pod/%s", strings.Join(before, " pod/")))
}

// refuse sets what cannot be.
func (v *autoUnsealed) refuse(t *testing.T) {
	before := v.pods(t)
	for _, bad := range []struct{ change, back, reason, says string }{
		{`{"keyName": "other"}`, `{"keyName": "example"}`, v1alpha1.ReasonSealChangeRefused, "transit/keys/other"},
		{`{"credentialsSecretName": "nothing"}`, `{"credentialsSecretName": "transit-token"}`, v1alpha1.ReasonSecretNotFound,
			`"nothing"`},
		{`{"address": "https://example.` + v.Namespace + `.svc:8200"}`, `{"address": "https://root.` + v.Namespace +
			`.svc:8200"}`, v1alpha1.ReasonSealInvalid, "this Vault itself"},
	} {
		setSpec(t, v.Vault, `{"seal": {"transit": `+bad.change+`}}`)
		awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, bad.reason, bad.says)
		setSpec(t, v.Vault, `{"seal": {"transit": `+bad.back+`}}`)
		v.awaitWorks(t)
	}
	for _, pod := range v.pods(t) { // one of before may have been on its way out
		if !slices.Contains(before, pod) {
			t.Errorf("pod %s is not one of %q", pod, before)
		}
	}
}

// loseRoot seals the other Vault: nodes that start say so, and an upgrade waits. When it is
// unsealed all goes on by itself.
func (v *autoUnsealed) loseRoot(t *testing.T) {
	status := v.AwaitHA(t, 1)
	root := v.root.AwaitHA(t, 0).VaultStatus.Active
	v.asRoot(t, "vault operator seal")
	v.root.AwaitSealed(t, 1)
	shell.Run(t, v.Kubectl("delete pod --wait=false %s", status.VaultStatus.Standby[0]))
	awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonKeyServiceUnavailable,
		"a transit Vault may be sealed")
	setSpec(t, v.Vault, `{"version": "1.21.1"}`)
	awaitCondition(t, v.Vault, time.Minute, v1alpha1.IrreconcilableCondition, metav1.ConditionTrue, "",
		"no node is replaced or taken away")
	now, err := v.Status()
	if err != nil {
		t.Fatal(err)
	}
	if now.VaultStatus.Active != status.VaultStatus.Active || !strings.HasSuffix(v.image(t), ":1.21.0") {
		t.Errorf("active is %s, and was %s; deployed is %s", now.VaultStatus.Active, status.VaultStatus.Active, v.image(t))
	}
	for _, c := range now.Conditions {
		if strings.Contains(c.Message, "vault operator unseal") {
			t.Errorf("%s sends somebody to unseal what unseals itself: %s", c.Type, c.Message)
		}
	}
	v.root.Unseal(t, root, v.rootKeys)
	v.awaitWorks(t)
	awaitUpdated(t, v.Vault, "1.21.1", 2)
}

// endToken puts tokens that end into the Secret in the place of the one that nodes run with:
// the operator tells it before one of them has to start with it.
func (v *autoUnsealed) endToken(t *testing.T) {
	before := v.pods(t)
	put := func(arguments, then string) {
		t.Helper()
		v.asRoot(t, fmt.Sprintf(`set -e
token=$(vault token create -orphan -policy=unseal-example -field=token %s)
%s
printf %%s "$token" | kubectl -n %s create secret generic transit-token --from-file=token=/dev/stdin `+
			`--dry-run=client -o yaml | kubectl replace -f -`, arguments, then, v.Namespace))
	}
	tells := func(reason, text string) {
		t.Helper()
		awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionTrue, reason, text)
		awaitEvent(t, v.Vault, reason, text, time.Time{})
	}
	put("-renewable=false -ttl=1h", "")
	tells(v1alpha1.ReasonTokenNotRenewable, `"transit-token" ends at`)
	// Vault renews for as long as it is told to, which is less than it has granted at first.
	put("-ttl=1h", `vault token renew -increment=5m "$token" >/dev/null`)
	tells(v1alpha1.ReasonTokenExpiring, `"transit-token" ends at`)
	v.asRoot(t, fmt.Sprintf(`vault token revoke "$(kubectl -n %s get secret transit-token -o jsonpath={.data.token} | `+
		`base64 -d)"`, v.Namespace))
	// It is looked up at once when its Secret is another, and else within minutes.
	shell.Run(t, v.Kubectl("annotate secret transit-token revoked=true"))
	awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonCredentialsRefused,
		"does not know the token")
	put("-period=720h", "")
	v.awaitWorks(t)
	for _, pod := range v.pods(t) { // one of before may have been on its way out
		if !slices.Contains(before, pod) {
			t.Errorf("pod %s is not one of %q", pod, before)
		}
	}
}

// loseToken names a Secret with a token that is refused, and then one of the page.
func (v *autoUnsealed) loseToken(t *testing.T) {
	active := v.AwaitHA(t, 1).VaultStatus.Active
	shell.Run(t, v.Kubectl("create secret generic refused --from-literal=token=hvs.refused"))
	setSpec(t, v.Vault, `{"seal": {"transit": {"credentialsSecretName": "refused"}}}`)
	awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonCredentialsRefused, "")
	if status, err := v.Status(); err != nil || status.VaultStatus.Active != active {
		t.Errorf("active is %q, and was %s: %v", status.VaultStatus.Active, active, err)
	}
	v.asRoot(t, v.another)
	v.awaitWorks(t)
	awaitUpdated(t, v.Vault, "1.21.1", 2)
	v.AwaitHA(t, 1)
}

// setBack makes a mistake that keeps new nodes from the key service, and undoes it.
func (v *autoUnsealed) setBack(t *testing.T) {
	before := v.AwaitHA(t, 1).UpdatedNodes
	setSpec(t, v.Vault, `{"pod": {"env": [{"name": "HTTPS_PROXY", "value": "http://127.0.0.1:1"}, `+
		`{"name": "NO_PROXY", "value": "example-etcd-client.`+v.Namespace+`.svc"}]}}`)
	awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonKeyServiceUnavailable, "")
	setSpec(t, v.Vault, `{"pod": {"env": null}}`)
	v.awaitWorks(t)
	awaitUpdated(t, v.Vault, "1.21.1", 2)
	if after := v.AwaitHA(t, 1).UpdatedNodes; !slices.Equal(after, before) {
		t.Errorf("the nodes %q became %q", before, after)
	}
}

// awaitWorks waits until the key service works, for as long as the kubelet may wait before it
// starts a container again.
func (v *autoUnsealed) awaitWorks(t *testing.T) {
	t.Helper()
	awaitCondition(t, v.Vault, 6*time.Minute, v1alpha1.SealReadyCondition, metav1.ConditionTrue,
		v1alpha1.ReasonKeyServiceWorks, "transit")
}
