//go:build e2e

package e2e

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/program"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// administrator runs "kubectl vault" with the rights that docs/kubectl-plugin.md gives, and
// no others.
type administrator struct {
	vaulttest.Vault
	path string
}

func newAdministrator(t *testing.T, v vaulttest.Vault) administrator {
	t.Helper()
	path := pathWithPlugin(t)
	role := docs.Find(t, "../../docs/kubectl-plugin.md", regexp.MustCompile("(?s)```yaml\n(apiVersion: rbac.*?)```"))
	named := strings.NewReplacer("namespace: default", "namespace: "+v.Namespace, "example-default", v.Name+"-default")
	shell.Apply(t, named.Replace(role))
	shell.Run(t, v.Kubectl("create serviceaccount administrator"))
	shell.Run(t, v.Kubectl("create rolebinding administrator --role=vault-administrator "+
		"--serviceaccount=%s:administrator", v.Namespace))
	return administrator{v, path}
}

// pathWithPlugin is a PATH by which kubectl finds "kubectl vault" of this tree.
func pathWithPlugin(t *testing.T) string {
	t.Helper()
	plugin, err := program.Path("cmd/kubectl-vault")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(plugin) + ":" + os.Getenv("PATH")
}

// kubectlVault is a command line of the plugin. What follows the name of the command comes
// after the name of the Vault.
func (a administrator) kubectlVault(command string, args ...string) string {
	return fmt.Sprintf("PATH=%s kubectl vault %s %s -n %[4]s --as=system:serviceaccount:%[4]s:administrator %[5]s",
		a.path, command, a.Name, a.Namespace, strings.Join(args, " "))
}

// run runs a command of the plugin, which has to end with the code, and returns what it
// printed to both outputs.
func (a administrator) run(t *testing.T, code int, input, command string, args ...string) string {
	t.Helper()
	return requireCode(t, code, input, a.kubectlVault(command, args...))
}

// requireCode runs a command line that has to end with the code, and returns what it printed to both outputs.
func requireCode(t *testing.T, code int, input, command string, env ...string) string {
	t.Helper()
	out, err := shell.TryInput(input, command, env...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	}
	if got != code {
		t.Fatalf("%s\nended with %d, want %d:\n%s", command, got, code, out)
	}
	return out
}

// shares are key shares as they are typed in.
func shares(keys ...string) string { return strings.Join(keys, "\n") + "\n" }

// TestPlugin is the life of a Vault with "kubectl vault".
func TestPlugin(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "plugged"}
	a := newAdministrator(t, v)
	shell.Apply(t, manifest(v, fmt.Sprintf(`{nodes: %d, %s}`, several, anyStorage)))
	v.AwaitSealed(t, several)

	if out := a.run(t, 2, "", "status"); !strings.Contains(out, "kubectl vault init "+v.Name) {
		t.Errorf("before the initialization the status does not say what helps:\n%s", out)
	}
	a.run(t, 3, "", "unseal")
	keys := vaulttest.ParseKeys(t, a.run(t, 0, "", "init", "-o", "json", "2>/dev/null"))
	a.run(t, 3, "", "init")

	a.unsealFirst(t, keys)
	a.useActive(t, keys)
	a.handOver(t, keys)
	a.upgrade(t, keys)
	a.makeRoot(t, keys)
	a.makeReport(t)

	shell.Run(t, v.Kubectl("delete rolebinding administrator"))
	shell.Run(t, v.Kubectl("create role only-reads --verb=get,list --resource=vaults,pods,secrets"))
	shell.Run(t, v.Kubectl("create rolebinding only-reads --role=only-reads --serviceaccount=%s:administrator",
		v.Namespace))
	if out := a.run(t, 1, "", "unseal"); !strings.Contains(out, "may not forward ports") {
		t.Errorf("without the right to forward ports it says\n%s", out)
	}
}

// unsealFirst unseals all nodes, after shares that do not.
func (a administrator) unsealFirst(t *testing.T, keys vaulttest.Keys) {
	if out := a.run(t, 2, shares(keys.UnsealKeys[0]), "unseal"); !strings.Contains(out, "2 more key share(s) needed") {
		t.Errorf("with one share it says\n%s", out)
	}
	wrong := "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYw"
	a.run(t, 4, shares(keys.UnsealKeys[1], wrong), "unseal")
	a.run(t, 0, shares(keys.UnsealKeys[:3]...), "unseal")
	a.AwaitHA(t, several-1)
	shell.Eventually(t, "kubectl vault status says that all is well", time.Minute, func() error {
		_, err := shell.Try(a.kubectlVault("status"))
		return err
	})
}

// useActive runs the vault command against the active node.
func (a administrator) useActive(t *testing.T, keys vaulttest.Keys) {
	token := "VAULT_TOKEN=" + keys.RootToken
	write := "-- sh -c 'vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar'"
	shell.Run(t, a.kubectlVault("exec", write), token)
	if out := shell.Run(t, a.kubectlVault("exec", "-- vault read -field=value secret/foo"), token); out != "bar" {
		t.Errorf("the active node has %q", out)
	}
	a.run(t, 7, "", "exec", "-- sh -c 'exit 7'")
}

// handOver gives the active node's place to another, by a step-down and by the end of its
// pod.
func (a administrator) handOver(t *testing.T, keys vaulttest.Keys) {
	before := a.AwaitHA(t, several-1).VaultStatus.Active
	awaitVotes(t, a.Vault, keys.RootToken)
	a.run(t, 4, "hvs.none\n", "step-down")
	a.run(t, 0, keys.RootToken+"\n", "step-down")
	active := a.Await(t, "has another active node", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && s.VaultStatus.Active != before
	}).VaultStatus.Active

	shell.Run(t, a.Kubectl("delete pod --wait=false %s", active))
	out := a.run(t, 0, shares(keys.UnsealKeys[:3]...), "unseal")
	if a.AwaitHA(t, several-1); !strings.Contains(out, "unsealed") {
		t.Errorf("after a pod was replaced it says\n%s", out)
	}
}

// upgrade unseals all nodes of an upgrade by one command.
func (a administrator) upgrade(t *testing.T, keys vaulttest.Keys) {
	setSpec(t, a.Vault, `{"version": "1.21.1"}`)
	a.AwaitSealed(t, 1)
	a.run(t, 0, shares(keys.UnsealKeys[:3]...), "unseal")
	a.Await(t, "is upgraded", func(s v1alpha1.VaultStatus) bool {
		return s.Version == "1.21.1" && len(s.UpdatedNodes) == several && len(s.VaultStatus.Standby) == several-1
	})
}

// makeRoot generates a root token that works.
func (a administrator) makeRoot(t *testing.T, keys vaulttest.Keys) {
	out, err := shell.TryInput(shares(keys.UnsealKeys[:3]...), a.kubectlVault("generate-root", "2>/dev/null"))
	if err != nil {
		t.Fatalf("generating a root token: %s", out)
	}
	read := a.kubectlVault("exec", "-- vault read -field=policies auth/token/lookup-self")
	if policies := shell.Run(t, read, "VAULT_TOKEN="+out); policies != "[root]" {
		t.Errorf("the token has the policies %s", policies)
	}
	shell.Run(t, a.kubectlVault("exec", "-- vault token revoke -self"), "VAULT_TOKEN="+out)
}

// makeReport looks at the logs and at a report, which have to be of all nodes and without
// secrets.
func (a administrator) makeReport(t *testing.T) {
	status := a.AwaitHA(t, several-1).VaultStatus
	logs := a.run(t, 0, "", "logs", "--tail=5")
	for _, pod := range slices.Concat([]string{status.Active}, status.Standby) {
		if !strings.Contains(logs, pod) {
			t.Errorf("the logs are not those of %s:\n%s", pod, logs)
		}
	}
	const planted = "hvs.CAESIplantedplantedplantedplanted"
	shell.Run(t, a.Kubectl("annotate vault %s note=%s", a.Name, planted))
	dir := t.TempDir()
	shell.Run(t, "cd "+dir+" && "+a.kubectlVault("report"))
	files, err := filepath.Glob(dir + "/*.zip")
	if err != nil || len(files) != 1 {
		t.Fatalf("the report is in %q (%v)", files, err)
	}
	archive, err := zip.OpenReader(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	var all strings.Builder
	for _, file := range archive.File {
		reader, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if text := all.String(); strings.Contains(text, planted) || !strings.Contains(text, status.Active) {
		t.Errorf("the report has the secret, or nothing of %s: %d bytes", status.Active, len(text))
	}
}
