//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// guideEnv is what the guide has the reader export.
var guideEnv = []string{"VAULT_ADDR=https://localhost:8200", "VAULT_SKIP_VERIFY=true"}

// forward runs one of the guide's pipes while fn runs.
func forward(t *testing.T, pipe string, fn func()) {
	t.Helper()
	background := shell.Start(t, pipe)
	defer background.Stop()
	vaulttest.AwaitPort(t, 8200, background)
	fn()
}

// saysInitialized looks into the table of "vault status", whose columns are as wide as its longest line.
func saysInitialized(table, value string) bool {
	return slices.ContainsFunc(strings.Split(table, "\n"), func(line string) bool {
		return slices.Equal(strings.Fields(line), []string{"Initialized", value})
	})
}

func TestUsageGuide(t *testing.T) {
	t.Parallel()
	guide := docs.ReadUserGuide(t, "../../docs/user-guide.md")
	example := vaulttest.Vault{Namespace: "default", Name: "example"}
	t.Cleanup(func() { explain(t, "default") })
	remove := `kubectl -n default delete vault/example pod/client --ignore-not-found; kubectl -n default delete pvc -l ` +
		`app.kubernetes.io/instance=example`
	shell.Run(t, remove)
	if os.Getenv("E2E_KEEP") == "" {
		t.Cleanup(func() { shell.Run(t, remove) })
	}
	// No namespace enforces anything here: the guide is for a cluster as it is.
	if several == 2 {
		shell.Run(t, "kubectl apply -f ../../config/samples/vault.yaml")
	} else {
		shell.Apply(t, manifest(example, fmt.Sprintf("{nodes: %d, version: 1.21.0, %s}", several, anyStorage)))
	}
	example.AwaitSealed(t, several)

	var keys vaulttest.Keys
	token := func() []string { return append(guideEnv, "VAULT_TOKEN="+keys.RootToken) }

	t.Log("Initializing a Vault cluster")
	forward(t, guide.ForwardSealed, func() {
		out, err := shell.Try("vault status", guideEnv...)
		// The vault command of the guide's time printed error 400; today's prints a
		// table and exits with 2.
		if err == nil || !saysInitialized(out, "false") {
			t.Fatalf("vault status of a node that is not initialized: %v\n%s", err, out)
		}
		keys = vaulttest.ParseKeys(t, shell.Run(t, "vault operator init -format=json", guideEnv...))
	})

	t.Log("Unsealing a sealed node")
	// A moment ago the status had the nodes as they were before; a reader is not as fast.
	example.Await(t, "is initialized, and its nodes are sealed", func(s v1alpha1.VaultStatus) bool {
		return s.Initialized && len(s.VaultStatus.Sealed) == several
	})
	forward(t, guide.ForwardSealed, func() { vaulttest.UnsealAt(t, keys, guideEnv...) })
	status := example.Await(t, "has an active node beside sealed ones", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && len(s.VaultStatus.Sealed) == several-1
	})
	shell.Run(t, "kubectl wait --for=condition=Available vault/example --timeout=60s")

	t.Log("Writing secrets to the active node")
	if active := shell.Run(t, guide.GetActive); active != status.VaultStatus.Active {
		t.Fatalf("the guide's command prints %q", active)
	}
	forward(t, guide.ForwardActive, func() {
		// Since Vault 1.1 nothing is mounted at secret/ by itself.
		if out, err := shell.Try("vault write secret/foo value=bar", token()...); err == nil {
			t.Logf("the guide's command works without a mount now: %s", out)
		} else {
			shell.Run(t, "vault secrets enable -path=secret -version=1 kv", token()...)
		}
		shell.Run(t, "vault write secret/foo value=bar", token()...)
		requireBar(t, shell.Run(t, "vault read secret/foo", token()...))
	})

	t.Log("Enable audit backend")
	forward(t, guide.ForwardActive, func() {
		if out, err := shell.Try("vault audit-enable file file_path=stdout", token()...); err == nil {
			t.Fatalf("the guide's form works again: the documentation says that it does not\n%s", out)
		}
		shell.Run(t, "vault audit enable file file_path=stdout", token()...)
		requireBar(t, shell.Run(t, "vault read secret/foo", token()...))
	})
	logs := shell.Run(t, "kubectl -n default logs "+status.VaultStatus.Active)
	if !strings.Contains(logs, `"path":"secret/foo"`) {
		t.Fatalf("no audit line in the logs:\n%s", logs)
	}

	t.Log("Accessing Vault on Kubernetes")
	shell.Apply(t, clientPod)
	shell.Run(t, "kubectl -n default wait --for=condition=Ready pod/client --timeout=60s")
	requireBar(t, readAsClient(t, keys.RootToken))

	t.Log("Starting a standby Vault node")
	for standby := 1; standby < several; standby++ {
		forward(t, guide.ForwardSealed, func() {
			shell.Eventually(t, "the node has joined", time.Minute, func() error {
				if out, _ := shell.Try("vault status", guideEnv...); !saysInitialized(out, "true") {
					return errors.New(out)
				}
				return nil
			})
			vaulttest.UnsealAt(t, keys, guideEnv...)
		})
		status = example.AwaitHA(t, standby)
	}
	standby := status.VaultStatus.Standby
	if out := shell.Run(t, guide.GetStandby); out != `["`+strings.Join(standby, `","`)+`"]` {
		t.Fatalf("the guide's command prints %s", out)
	}

	awaitVotes(t, example, keys.RootToken) // which a node does that was healthy for ten seconds
	t.Log("Automated failover")
	shell.Run(t, guide.DeleteActive)
	example.Await(t, "has the standby active", func(s v1alpha1.VaultStatus) bool {
		return slices.Contains(standby, s.VaultStatus.Active)
	})
	requireBar(t, readAsClient(t, keys.RootToken))
	forward(t, guide.ForwardActive, func() {
		shell.Run(t, "vault write secret/foo value=bar", token()...)
		requireBar(t, shell.Run(t, "vault read secret/foo", token()...))
	})

	t.Log("Failure recovery")
	status = example.AwaitSealed(t, 1)
	if out := shell.Run(t, guide.GetSealed); out != `["`+status.VaultStatus.Sealed[0]+`"]` {
		t.Fatalf("the guide's command prints %s", out)
	}
	forward(t, guide.ForwardSealed, func() { vaulttest.UnsealAt(t, keys, guideEnv...) })
	example.AwaitHA(t, several-1)
	requireBar(t, readAsClient(t, keys.RootToken))

	requireReadable(t)
	requireNoSecrets(t, keys)
}

// clientPod is an application in the pod network that trusts the Vault's CA.
const clientPod = `
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: client
    image: hashicorp/vault:1.21.0
    command: [sleep, "3600"]
    env:
    - {name: VAULT_ADDR, value: "https://example.default.svc:8200"}
    - {name: VAULT_CACERT, value: /ca/vault-client-ca.crt}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: ca, mountPath: /ca}]
  volumes: [{name: ca, secret: {secretName: example-default-vault-client-tls}}]
  terminationGracePeriodSeconds: 0
`

// readAsClient reads through the Service, with the certificate verified.
func readAsClient(t *testing.T, token string) string {
	t.Helper()
	var out string
	shell.Eventually(t, "client pod has read", time.Minute, func() (err error) {
		out, err = shell.TryInput(token,
			`kubectl -n default exec -i client -- sh -c 'VAULT_TOKEN=$(cat) vault read secret/foo'`)
		return err
	})
	return out
}

func requireBar(t *testing.T, out string) {
	t.Helper()
	if !slices.Contains(strings.Fields(out), "bar") {
		t.Fatalf("vault read secret/foo: %s", out)
	}
}

// requireReadable checks that kubectl shows an administrator what matters.
func requireReadable(t *testing.T) {
	t.Helper()
	for command, want := range map[string][]string{
		"kubectl -n default get vault": {"NODES", "READY", "ACTIVE", "STANDBY", "SEALED", "VERSION", "AGE",
			"1.21.0"},
		"kubectl -n default get vlt -o wide": {"PHASE", "Running",
			"is active and serves requests at https://example.default.svc:8200"},
		"kubectl -n default describe vault example": {"Initialized", "BecameActive", "BecameStandby", "Sealed", "Available"},
		"kubectl explain vault.spec":                {"nodes", "configMapName", "Defaults to 2", "Vault nodes (pods)"},
		"kubectl explain vault.status.vaultStatus":  {"active", "standby", "sealed", "unreachable"},
	} {
		out := shell.Run(t, command)
		t.Logf("$ %s\n%s", command, out)
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("%s does not show %q", command, text)
			}
		}
	}
}

// requireNoSecrets checks that no key, token or private key is where it does
// not belong.
func requireNoSecrets(t *testing.T, keys vaulttest.Keys) {
	t.Helper()
	for _, command := range []string{
		"kubectl -n " + operatorNamespace + " logs -l app.kubernetes.io/name=vault-operator --tail=-1",
		"kubectl -n default get events,vault,pods,configmaps,deployments,statefulsets -o yaml",
		// Releases are base64 of base64 of gzip. One list, because those of a Vault
		// that another test has removed may go meanwhile.
		"kubectl -n " + operatorNamespace + ` get secrets -l owner=helm ` +
			`-o jsonpath='{range .items[*]}{.data.release}{"\n"}{end}' | ` +
			`while read -r release; do base64 -d <<<"$release" | base64 -d | gunzip; done`,
	} {
		out := shell.Run(t, command)
		if out == "" {
			t.Errorf("nothing is in the output of %s", command)
		}
		for _, secret := range append(keys.UnsealKeys, keys.RootToken, "PRIVATE KEY") {
			if strings.Contains(out, secret) {
				t.Errorf("a secret is in the output of %s", command)
			}
		}
	}
}
