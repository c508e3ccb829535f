// Command demo takes a Vault through the usage guide for an administrator who watches:
// it prints each command and what it really printed, and leaves the Vault.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// console is a shell.T for an administrator: it says little, and ends at a failure.
type console struct{ cleanups []func() }

func (*console) Helper()             {}
func (*console) Logf(string, ...any) {}
func (c *console) Cleanup(fn func()) { c.cleanups = append(c.cleanups, fn) }
func (c *console) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...)
	c.end()
	os.Exit(1)
}

func (c *console) end() {
	for i := len(c.cleanups) - 1; i >= 0; i-- {
		c.cleanups[i]()
	}
	c.cleanups = nil
}

const getVault = `kubectl -n default get vault example`

type demo struct {
	*console
	guide docs.UserGuide
	vault vaulttest.Vault
	env   []string
}

// demoAnnotation is on the Vault of a demo, which the next one may delete.
const demoAnnotation = "vault.security.coreos.com/demo"

func main() {
	d := &demo{console: &console{}, vault: vaulttest.Vault{Namespace: "default", Name: "example"},
		env: []string{"VAULT_ADDR=https://localhost:8200", "VAULT_SKIP_VERIFY=true"}}
	defer d.end()
	d.guide = docs.ReadUserGuide(d, "docs/user-guide.md")
	d.run()
}

func (d *demo) run() {
	if found := shell.Run(d, getVault+" --ignore-not-found"); found != "" {
		if !strings.Contains(shell.Run(d, getVault+" -o jsonpath='{.metadata.annotations}'"), demoAnnotation) {
			d.Fatalf("there is a Vault example in the namespace default that is of no demo: use another cluster, or delete it")
		}
		d.say("A Vault of an earlier demo is there; it is removed, with its data.")
		d.show(`kubectl -n default delete vault example`)
		d.show(`kubectl -n default delete pvc -l 'app.kubernetes.io/name=vault,app.kubernetes.io/instance=example,` +
			`app.kubernetes.io/component in (server,etcd)'`)
	}
	d.say("One resource makes a Vault.")
	d.show("cat config/samples/vault.yaml")
	d.show("kubectl apply -f config/samples/vault.yaml")
	shell.Run(d, "kubectl -n default annotate vault example "+demoAnnotation+"=true")
	d.vault.AwaitSealed(d, 2)
	d.show(getVault)
	d.show("kubectl -n default get pods,services")

	d.say("Its nodes wait for an administrator to initialize it. The guide's command forwards a port to the first " +
		"sealed one.")
	var keys vaulttest.Keys
	d.forward(d.guide.ForwardSealed, func() {
		fmt.Println("$ vault operator init -format=json")
		keys = vaulttest.ParseKeys(d, shell.Run(d, "vault operator init -format=json", d.env...))
		fmt.Printf("(five unseal keys and the root token of this demo: written to %s)\n", d.save(keys))
		d.say("Three of the five keys unseal a node. The first becomes active.")
		d.unseal(keys)
	})
	d.vault.AwaitHA(d, 0)
	d.show(getVault)
	d.say("The next becomes standby.")
	d.forward(d.guide.ForwardSealed, func() { d.unseal(keys) })
	d.vault.AwaitHA(d, 1)
	d.show(getVault)

	d.env = append(d.env, "VAULT_TOKEN="+keys.RootToken)
	d.say("A secret is written to the active node. Today's Vault mounts nothing at secret/ by itself.")
	d.forward(d.guide.ForwardActive, func() {
		d.show("vault secrets enable -path=secret -version=1 kv")
		d.show("vault write secret/foo value=bar")
		d.show("vault read secret/foo")
		d.show("vault audit enable file file_path=stdout")
	})

	d.say("The active node is deleted. The standby takes over, and the Service follows.")
	before := d.vault.AwaitHA(d, 1).VaultStatus
	d.show(d.guide.DeleteActive)
	d.vault.Await(d, "has failed over", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active == before.Standby[0]
	})
	d.show(getVault)
	d.forward(d.guide.ForwardActive, func() { d.show("vault read secret/foo") })

	d.say("The node that replaces the deleted one is unsealed, and Vault is highly available again.")
	d.vault.AwaitSealed(d, 1)
	d.forward(d.guide.ForwardSealed, func() { d.unseal(keys) })
	d.vault.AwaitHA(d, 1)
	d.show(getVault + " -o wide")
	d.show("kubectl -n default describe vault example | sed -n '/^Events/,$p'")
	d.say(`The cluster stays. To explore it:
  eval "$(make -s env)"
  kubectl get vault
and to remove it:
  make cluster-down`)
}

// say prints an explanation.
func (d *demo) say(text string) { fmt.Printf("\n# %s\n", text) }

// show prints a command and what it prints.
func (d *demo) show(command string) {
	fmt.Println("$ " + command)
	out := shell.Run(d, command, d.env...)
	if out != "" {
		fmt.Println(out)
	}
}

// forward runs one of the guide's pipes while fn runs.
func (d *demo) forward(pipe string, fn func()) {
	fmt.Println("$ " + pipe + " &")
	background := shell.Start(d, pipe)
	defer background.Stop()
	vaulttest.AwaitPort(d, 8200, background)
	fn()
}

var progress = regexp.MustCompile(`(?m)^(Sealed|Unseal Progress) .*$`)

func (d *demo) unseal(keys vaulttest.Keys) {
	for _, key := range keys.UnsealKeys[:3] {
		fmt.Println("$ vault operator unseal")
		// The command reads a key from a terminal only; "write" reads it from here.
		out, err := shell.TryInput(`{"key": "`+key+`"}`,
			"vault write sys/unseal - >/dev/null && vault status || [[ $? == 2 ]]", d.env...)
		if err != nil {
			d.Fatalf("unsealing: %s", out)
		}
		fmt.Println(strings.Join(progress.FindAllString(out, -1), "\n"))
	}
}

// save writes the keys where only this user can read them.
func (d *demo) save(keys vaulttest.Keys) string {
	dir, err := os.MkdirTemp("", "vault-demo-")
	if err != nil {
		d.Fatalf("%v", err)
	}
	path := filepath.Join(dir, "keys")
	content := strings.Join(append(keys.UnsealKeys, "root token: "+keys.RootToken), "\n") + "\n"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		d.Fatalf("%v", err)
	}
	return path
}
