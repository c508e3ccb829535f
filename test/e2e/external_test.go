//go:build e2e

package e2e

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

// TestExternalStorage follows docs/external-storage.md: a Vault of two nodes keeps its data in
// a PostgreSQL that runs beside the cluster, through failovers and what can be wrong.
func TestExternalStorage(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	db := startPostgres(t, v)
	db.run(t, db.commands[0])
	db.put(t, "pg", db.stanza)

	t.Run("what cannot be is refused", func(t *testing.T) { db.refuse(t) })
	shell.Apply(t, manifest(v, external("postgresql", 2)))
	keys := v.InitAndUnseal(t, 2)
	status := v.AwaitHA(t, 1)
	awaitReported(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonStorageUsed, "postgresql")
	v.Do(t, status.VaultStatus.Active, keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	if out := shell.Run(t, v.Kubectl("get statefulsets,pvc -o name")); out != "" {
		t.Errorf("there are %s", out)
	}

	t.Run("the active node is lost", func(t *testing.T) {
		active := status.VaultStatus.Active
		start := time.Now()
		shell.Run(t, v.Kubectl("delete pod --wait=false %s", active))
		other := v.Await(t, "has failed over", func(s v1alpha1.VaultStatus) bool {
			return s.VaultStatus.Active != "" && s.VaultStatus.Active != active
		}).VaultStatus.Active
		t.Logf("another node is active after %s", time.Since(start).Round(time.Millisecond))
		if value := v.Do(t, other, keys.RootToken, "vault read -field=value secret/foo"); value != "bar" {
			t.Errorf("the secret is %q", value)
		}
		v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
		v.AwaitHA(t, 1)
	})
	t.Run("a wrong password is told and not shown", func(t *testing.T) { db.wrongPassword(t) })
}

func external(kind string, nodes int) string {
	return fmt.Sprintf(`{nodes: %d, storage: {external: {type: %s, configSecretName: pg}}}`, nodes, kind)
}

// refuse asks for what the API server or the operator does not take.
func (db *postgres) refuse(t *testing.T) {
	if out, err := shell.TryApply(manifest(db.Vault, external("s3", 2))); err == nil ||
		!strings.Contains(out, "must be 1") {
		t.Errorf("two nodes on S3: %s", out)
	}
	v := vaulttest.Vault{Namespace: db.Namespace, Name: "refused"}
	shell.Apply(t, manifest(v, `{nodes: 2, storage: {external: {type: postgresql, configSecretName: without}}}`))
	awaitReported(t, v, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigSecretNotFound,
		"without")
	db.put(t, "without", strings.Replace(db.stanza, `"true"`, `"false"`, 1))
	awaitReported(t, v, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigInvalid, "ha_enabled")
	for _, kind := range []string{"etcd: {}", "raft: {}"} {
		out, err := shell.TryApply(manifest(v, `{nodes: 1, storage: {`+kind+`}}`))
		if err == nil || !strings.Contains(out, "docs/moving-storage.md") {
			t.Errorf("another storage, %s: %s", kind, out)
		}
	}
	shell.Run(t, v.Kubectl("delete vault %s", v.Name))
}

// wrongPassword names a Secret with another password: one more node is started, and ends. Those
// that run go on.
func (db *postgres) wrongPassword(t *testing.T) {
	before := db.AwaitHA(t, 1).VaultStatus
	const wrong = "not-the-password"
	db.put(t, "typo", strings.Replace(db.stanza, db.password, wrong, 1))
	setSpec(t, db.Vault, `{"storage": {"external": {"configSecretName": "typo"}}}`)
	awaitCondition(t, db.Vault, 2*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionFalse,
		v1alpha1.ReasonNodeFailing)
	shown := shell.Run(t, db.Kubectl("get vault,events,deployments,configmaps -o yaml"))
	for _, secret := range []string{wrong, db.password} {
		if strings.Contains(shown, secret) {
			t.Error("a password is shown")
		}
	}
	if now := db.AwaitHA(t, 1).VaultStatus; now.Active != before.Active {
		t.Errorf("active is %s, and was %s", now.Active, before.Active)
	}
	setSpec(t, db.Vault, `{"storage": {"external": {"configSecretName": "pg"}}}`)
	awaitReported(t, db.Vault, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated, "")

	alone := vaulttest.Vault{Namespace: db.Namespace, Name: "alone"}
	shell.Apply(t, manifest(alone, `{nodes: 1, storage: {external: {type: postgresql, configSecretName: typo}}}`))
	awaitReported(t, alone, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonStorageRefused, "typo")
	if shown := shell.Run(t, alone.Kubectl("get vault,events -o yaml")); strings.Contains(shown, wrong) {
		t.Error("the password is shown")
	}
	shell.Run(t, alone.Kubectl("delete vault %s", alone.Name))
}

// postgres is a PostgreSQL for one Vault, in the network of the control plane.
type postgres struct {
	vaulttest.Vault
	dir, bin, password string
	// commands and stanza are those of docs/external-storage.md.
	commands []string
	stanza   string
}

// postgresAddress is where pods reach it: the address of the control plane.
const postgresAddress = "10.90.0.1"

func startPostgres(t *testing.T, v vaulttest.Vault) *postgres {
	t.Helper()
	const page = "../../docs/external-storage.md"
	db := &postgres{Vault: v, password: "p4ssw0rd-of-the-test", commands: docs.Commands(t, page)["PostgreSQL"]}
	if len(db.commands) != 2 {
		t.Fatalf("%s has %d blocks of commands", page, len(db.commands))
	}
	stanza := docs.Find(t, page, regexp.MustCompile("(?s)```hcl\n(.*?)```"))
	db.stanza = strings.NewReplacer("PASSWORD", db.password, "HOST", postgresAddress).Replace(stanza)
	db.bin = shell.Run(t, "../postgresql/install.sh")
	// A path of its own, for a socket's may have 107 characters, and a user who is not root.
	dir, err := os.MkdirTemp("/tmp", "postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	db.dir = dir
	db.certificate(t)
	shell.Run(t, fmt.Sprintf(`set -e
chown -R postgres: %[1]s
runuser -u postgres -- %[2]s/initdb -D %[1]s/data --auth=trust >/dev/null
echo 'hostssl all all all scram-sha-256' >>%[1]s/data/pg_hba.conf`, dir, db.bin))
	background := shell.Start(t, fmt.Sprintf(`exec %[1]srunuser -u postgres -- %[2]s/postgres -D %[3]s/data -k %[3]s `+
		`-c listen_addresses=%[4]s -c ssl=on -c ssl_cert_file=%[3]s/server.crt -c ssl_key_file=%[3]s/server.key`,
		inNode(t, "control"), db.bin, dir, postgresAddress))
	shell.Eventually(t, "PostgreSQL serves", time.Minute, func() error {
		if out, ended := background.Ended(); ended {
			return fmt.Errorf("it ended: %s", out)
		}
		_, err := shell.Try(db.psql() + ` postgres -c 'SELECT 1'`)
		return err
	})
	shell.Run(t, db.psql()+" postgres -c \"CREATE ROLE vault LOGIN PASSWORD '"+db.password+"'\" "+
		"-c 'CREATE DATABASE vault'")
	return db
}

func (db *postgres) psql() string {
	return db.bin + "/psql -v ON_ERROR_STOP=1 -h " + db.dir + " -U postgres"
}

// certificate makes a CA, and by it the certificate of the server.
func (db *postgres) certificate(t *testing.T) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "the database's CA"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca := &userCA{vault: db.Vault, key: key}
	ca.cert = ca.sign(t, template, template, key)
	writePEM(t, filepath.Join(db.dir, "ca.crt"), "CERTIFICATE", ca.cert.Raw)
	ca.write(t, filepath.Join(db.dir, "server"), &x509.Certificate{
		Subject: pkix.Name{CommonName: "database"}, NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(postgresAddress)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// run runs a block of the page as the administrator of the database.
func (db *postgres) run(t *testing.T, block string) {
	t.Helper()
	shell.Run(t, "psql() { "+db.psql()+" \"$@\"; }\n"+block)
}

// put makes a Secret of a stanza by the block of the page, under a name of its own.
func (db *postgres) put(t *testing.T, name, stanza string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(db.dir, v1alpha1.StorageKey), []byte(stanza), 0o600); err != nil {
		t.Fatal(err)
	}
	shell.Run(t, fmt.Sprintf("set -e\ncd %s\nnamespace=%s\n%s", db.dir, db.Namespace,
		strings.Replace(db.commands[1], "generic pg ", "generic "+name+" ", 1)))
}
