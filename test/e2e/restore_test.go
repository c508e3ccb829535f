//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
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
	for _, l := range both {
		l.backUp(t, s3)
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
	for _, l := range both {
		t.Run(l.Name, func(t *testing.T) {
			l.delete(t)
			shell.Apply(t, manifest(l.Vault, l.spec))
			l.AwaitSealed(t, l.nodes)
			if out := restore(t, l, 3, "other\n"); !strings.Contains(out, "3 of the 5 keys") {
				t.Errorf("before it asks it says\n%s", out)
			}
			out := restore(t, l, 0, l.Name+"\n")
			if !strings.Contains(out, "is restored from "+l.at) {
				t.Errorf("it says\n%s", out)
			}
			t.Log(out)
			l.read(t)
		})
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

// delete deletes the Vault with its volumes.
func (l *lost) delete(t *testing.T) {
	t.Helper()
	shell.Run(t, l.Kubectl("delete vault %s --timeout=2m", l.Name))
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

// read unseals the Vault with the keys that it had, and reads what it had.
func (l *lost) read(t *testing.T) {
	t.Helper()
	if _, err := l.Plugin(strings.Join(l.keys.UnsealKeys[:3], "\n")+"\n", "unseal"); err != nil {
		t.Fatal(err)
	}
	active := l.AwaitHA(t, l.nodes-1).VaultStatus.Active
	if got := l.Do(t, active, l.keys.RootToken, "vault read -field=value secret/foo"); got != "bar" {
		t.Errorf("the secret is %q", got)
	}
}
