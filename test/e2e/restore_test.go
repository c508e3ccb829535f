//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestRestore loses two Vaults with all that they have, one on etcd that is backed up into an S3 server and
// one with integrated storage that is backed up into a volume, and brings each back from its backup by the
// commands of docs/restore.md, with the rights that the documentation names.
func TestRestore(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	s3 := startS3(t, newNamespace(t))
	etcd := &lost{nodes: 2, spec: `{nodes: 2, ` + smallEtcd + `}`, destination: s3.destination("right"), at: "s3://"}
	raft := &lost{nodes: 3, spec: `{nodes: 3, storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}}`,
		destination: s3.volume(t), at: "pvc://backups/"}
	etcd.Vault = vaulttest.Vault{Namespace: s3.Namespace, Name: "remote"}
	raft.Vault = vaulttest.Vault{Namespace: s3.Namespace, Name: "local"}
	both := []*lost{etcd, raft}
	for _, l := range both {
		shell.Apply(t, manifest(l.Vault, l.spec))
	}
	path := newAdministrator(t, etcd.Vault).path
	// The documentation names the Secret with the CA of one Vault.
	shell.Run(t, raft.Kubectl("create role ca --verb=get --resource=secrets --resource-name=%s-default-vault-client-tls",
		raft.Name))
	shell.Run(t, raft.Kubectl("create rolebinding ca --role=ca --serviceaccount=%s:administrator", raft.Namespace))
	for _, l := range both {
		l.backUp(t, s3)
		shell.Apply(t, s3.schedule(l.Name+"-nightly", l.Name, `schedule: "0 3 * * *"`))
	}
	restore := func(t *testing.T, l *lost, code int, input string, flags ...string) string {
		t.Helper()
		a := administrator{vaulttest.Vault{Namespace: l.Namespace, Name: l.backup()}, path}
		return a.run(t, code, input, "restore", append([]string{"--into", l.Name}, flags...)...)
	}
	if out := restore(t, etcd, 0, "", "--dry-run"); !strings.Contains(out, "3 of the 5 keys") {
		t.Errorf("before anything is deleted it says\n%s", out)
	}
	if out := restore(t, etcd, 3, ""); !strings.Contains(out, "never replaces") {
		t.Errorf("into a Vault with data it says\n%s", out)
	}
	page := docs.Commands(t, "../../docs/restore.md")["From the alert to the last read"]
	if len(page) != 6 {
		t.Fatalf("docs/restore.md has other blocks of commands: %q", page)
	}
	for _, l := range both {
		t.Run(l.Name, func(t *testing.T) { l.follow(t, path, page) })
	}

	// The namespace was lost with its VaultBackups; what is stored is known from the bucket. The restore is
	// there before the Vault.
	out := shell.Run(t, s3.Kubectl("get vaultbackup of-remote -o jsonpath={.status.location}"))
	shell.Run(t, s3.Kubectl("delete vaultbackup of-remote"))
	etcd.delete(t)
	name := strings.TrimSuffix(strings.TrimPrefix(out, "s3://"+s3Bucket+"/e2e/"), ".snapshot")
	shell.Apply(t, fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultRestore
metadata: {name: stored, namespace: %s}
spec: {vault: %s, from: {name: %q, location: %s}}`, s3.Namespace, etcd.Name, name, s3.destination("right")))
	shell.Apply(t, manifest(etcd.Vault, etcd.spec))
	shell.Eventually(t, "what is stored is restored", 4*time.Minute, func() error {
		var x v1alpha1.VaultRestore
		err := vaulttest.Get(s3.Namespace, "stored", &x)
		if err == nil && x.Status.Phase != v1alpha1.RestoreSucceeded {
			err = fmt.Errorf("%+v", x.Status)
		}
		if err == nil && (x.Status.Requires == nil || x.Status.Requires.Threshold != 3) {
			err = fmt.Errorf("it requires %+v", x.Status.Requires)
		}
		return err
	})
	if _, err := etcd.Plugin(shares(etcd.keys.UnsealKeys[:3]...), "unseal"); err != nil {
		t.Fatal(err)
	}
	etcd.read(t)
}

// lost is a Vault that is lost.
type lost struct {
	vaulttest.Vault
	nodes int
	spec  string
	// destination is where it is backed up, and at how its location begins.
	destination, at string
	keys            vaulttest.Keys
}

func (l *lost) backup() string { return "of-" + l.Name }

// backUp writes a secret and backs it up.
func (l *lost) backUp(t *testing.T, s3 objectStore) {
	t.Helper()
	l.keys = l.InitAndUnseal(t, l.nodes)
	active := l.AwaitHA(t, l.nodes-1).VaultStatus.Active
	l.Do(t, active, l.keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	shell.Run(t, l.Kubectl("create secret generic token-%s --from-literal=token=%s", l.Name, l.keys.RootToken))
	shell.Apply(t, fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultBackup
metadata: {name: %s, namespace: %s}
spec: {vault: %s, destination: %s, tokenSecretName: token-%[3]s}`, l.backup(), l.Namespace, l.Name,
		l.destination))
	if b := s3.await(t, l.backup()); !b.Succeeded() || b.Status.Vault.Threshold != 3 || b.Status.Vault.Shares != 5 {
		t.Fatalf("the backup is %+v", b.Status)
	}
}

// follow deletes the Vault and restores it, by the commands of the page.
func (l *lost) follow(t *testing.T, path string, page []string) {
	dir := t.TempDir()
	file := filepath.Join(dir, l.Name+".yaml")
	if err := os.WriteFile(file, []byte(manifest(l.Vault, l.spec)), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(code int, input, block string) string {
		t.Helper()
		block = strings.NewReplacer("example-nightly-29412345", l.backup(), "example", l.Name).Replace(block)
		return requireCode(t, code, input, fmt.Sprintf(`set -e
kubectl() {
	if [ "$1" = vault ]; then
		shift
		command kubectl vault "$@" -n %[1]s --as=system:serviceaccount:%[1]s:administrator
	else
		command kubectl --namespace=%[1]s "$@"
	fi
}
cd %[2]s
%[3]s`, l.Namespace, dir, block), "PATH="+path)
	}
	list, plan, remove, again, restore, unseal := page[0], page[1], page[2], page[3], page[4], page[5]
	if out := run(0, "", list); !strings.Contains(out, l.backup()) {
		t.Errorf("the backups are\n%s", out)
	}
	if out := run(0, "", plan); !strings.Contains(out, "3 of the 5 keys") {
		t.Errorf("before anything is deleted it says\n%s", out)
	}
	t.Log(run(0, "", remove))
	l.awaitGone(t)
	run(0, "", again)
	l.AwaitSealed(t, l.nodes)
	if out := run(3, "other\n", restore); !strings.Contains(out, "3 of the 5 keys") {
		t.Errorf("before it asks it says\n%s", out)
	}
	out := run(0, l.Name+"\n", restore)
	if !strings.Contains(out, "is restored from "+l.at) {
		t.Errorf("it says\n%s", out)
	}
	t.Log(out)
	run(0, shares(l.keys.UnsealKeys[:3]...), unseal)
	l.read(t)
}

// delete deletes the Vault with its volumes.
func (l *lost) delete(t *testing.T) {
	t.Helper()
	shell.Run(t, l.Kubectl("delete vault %s --timeout=2m", l.Name))
	l.awaitGone(t)
}

func (l *lost) awaitGone(t *testing.T) {
	t.Helper()
	shell.Eventually(t, l.Name+" is gone with its volumes", 2*time.Minute, func() error {
		out, err := shell.Try(l.Kubectl("get pods,pvc,secrets -l app.kubernetes.io/instance=%s -o name | "+
			"grep -v -e -backup -e -restore", l.Name))
		if out != "" {
			return errors.New(out)
		}
		_ = err // grep finds nothing
		return nil
	})
}

// read reads what the Vault had.
func (l *lost) read(t *testing.T) {
	t.Helper()
	active := l.AwaitHA(t, l.nodes-1).VaultStatus.Active
	if got := l.Do(t, active, l.keys.RootToken, "vault read -field=value secret/foo"); got != "bar" {
		t.Errorf("the secret is %q", got)
	}
}
