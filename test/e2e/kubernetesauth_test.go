//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestKubernetesAuth follows docs/kubernetes-auth.md: a workload logs in with the token of
// its ServiceAccount and reads a secret.
func TestKubernetesAuth(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	page := docs.Commands(t, "../../docs/kubernetes-auth.md")
	give, read, own := page["Give Vault a token that may review others"], page["Let a workload read a secret"],
		page["Without a token in the Vault pods"]
	if len(give) != 3 || len(read) != 2 || len(own) != 1 {
		t.Fatalf("docs/kubernetes-auth.md has other blocks of commands: %q", page)
	}
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	shell.Apply(t, manifest(v, `{nodes: 1, `+anyStorage+`}`))
	keys := v.InitAndUnseal(t, 1)
	active := v.AwaitHA(t, 0).VaultStatus.Active
	v.Do(t, active, keys.RootToken, "vault secrets enable -path=secret -version=1 kv")
	namespace := "namespace=" + v.Namespace + "\n"
	give[0] = strings.Replace(give[0], "namespace=default\n", "", 1)
	t.Cleanup(func() {
		shell.Run(t, fmt.Sprintf("kubectl delete clusterrolebinding --ignore-not-found %[1]s-example-token-review "+
			"%[1]s-app-token-review", v.Namespace))
	})
	login := startApp(t, v, read[1])

	if token, err := shell.Try(v.Kubectl("exec %s -- ls /var/run/secrets/kubernetes.io", active)); err == nil {
		t.Errorf("a pod has a token without being given one: %s", token)
	}
	shell.Run(t, namespace+give[0])
	sealed := v.AwaitSealed(t, 1).VaultStatus.Sealed[0]
	v.Unseal(t, sealed, keys)
	v.Await(t, "has been replaced", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active == sealed })
	v.Do(t, sealed, keys.RootToken, "set -ex\n"+namespace+give[2]+read[0])
	if out, err := login("kubernetes"); err == nil {
		t.Fatalf("Vault has reviewed a token without the right: %s", out)
	}
	shell.Run(t, namespace+give[1])
	awaitPassword(t, "kubernetes", login)

	v.Do(t, sealed, keys.RootToken, "cd "+t.TempDir()+"\nset -ex\n"+namespace+own[0])
	awaitPassword(t, "kubernetes-own", login)
}

// startApp starts a pod with the ServiceAccount app, and returns what logs in there with
// the commands of the page, by the auth method at a path.
func startApp(t *testing.T, v vaulttest.Vault, commands string) func(path string) (string, error) {
	t.Helper()
	shell.Run(t, v.Kubectl("create serviceaccount app"))
	shell.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: %[1]s}
spec:
  serviceAccountName: app
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 100, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: app
    image: hashicorp/vault:1.21.0
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    env:
    - {name: VAULT_ADDR, value: "https://%[2]s.%[1]s.svc:8200"}
    - {name: VAULT_CACERT, value: /ca/vault-client-ca.crt}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: ca, mountPath: /ca}]
  volumes: [{name: ca, secret: {secretName: %[2]s-default-vault-client-tls}}]`, v.Namespace, v.Name))
	shell.Run(t, v.Kubectl("wait --for=condition=Ready pod/app --timeout=2m"))
	return func(path string) (string, error) {
		script := "set -e\n" + strings.ReplaceAll(commands, "auth/kubernetes/", "auth/"+path+"/")
		return shell.TryInput(script, v.Kubectl("exec -i app -- sh"))
	}
}

// awaitPassword logs in until the API server knows of the right.
func awaitPassword(t *testing.T, path string, login func(path string) (string, error)) {
	t.Helper()
	shell.Eventually(t, "the workload has read its password by "+path, 20*time.Second, func() error {
		out, err := login(path)
		if err == nil && out != "swordfish" {
			t.Fatalf("it has read %q", out)
		}
		return err
	})
}
