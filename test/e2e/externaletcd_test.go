//go:build e2e

package e2e

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
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

// TestExternalEtcd follows docs/external-storage.md with an etcd that the operator does not run.
func TestExternalEtcd(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	startOwnEtcd(t, v)
	shell.Apply(t, manifest(v, `{nodes: 2, storage: {external: {type: etcd, configSecretName: own-etcd}}}`))
	keys := v.InitAndUnseal(t, 2)
	active := v.AwaitHA(t, 1).VaultStatus.Active
	awaitReported(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonStorageUsed, "etcd")
	v.Do(t, active, keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")

	shell.Run(t, v.Kubectl("delete pod --wait=false %s", active))
	other := v.Await(t, "has failed over", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && s.VaultStatus.Active != active
	}).VaultStatus.Active
	if value := v.Do(t, other, keys.RootToken, "vault read -field=value secret/foo"); value != "bar" {
		t.Errorf("the secret is %q", value)
	}
	// What the operator does for its own etcd it does not do for this one.
	if out := shell.Run(t, v.Kubectl("get statefulsets,pvc,poddisruptionbudgets -o name")); strings.Contains(out, "etcd") {
		t.Errorf("there are %s", out)
	}
	shell.Apply(t, fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultBackup
metadata: {name: none, namespace: %s}
spec: {vault: example, destination: {persistentVolumeClaim: {claimName: none}}}`, v.Namespace))
	shell.Run(t, v.Kubectl(`wait vaultbackup/none --for=jsonpath='{.status.conditions[?(@.type=="Succeeded")].reason}'=%s`,
		v1alpha1.ReasonStorageNotSupported))
}

// startOwnEtcd starts an etcd of one member, and makes the Secret with which the page has it used.
func startOwnEtcd(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	const page = "../../docs/external-storage.md"
	etcd := vaulttest.Vault{Namespace: v.Namespace, Name: "own-etcd-client"}
	host := etcd.Name + "." + etcd.Namespace + ".svc"
	ca := newUserCA(t, etcd)
	ca.issue(t, 24*time.Hour)

	dir := t.TempDir()
	ca.write(t, filepath.Join(dir, "tls"), &x509.Certificate{
		Subject: pkix.Name{CommonName: "vault"}, NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	writePEM(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", ca.cert.Raw)
	stanza := docs.Find(t, page, regexp.MustCompile("(?s)```hcl\n(storage \"etcd\".*?)```"))
	stanza = strings.Replace(stanza, "HOST", host, 1)
	if err := os.WriteFile(filepath.Join(dir, v1alpha1.StorageKey), []byte(stanza), 0o600); err != nil {
		t.Fatal(err)
	}
	commands := docs.Commands(t, page)["etcd"]
	if len(commands) != 1 {
		t.Fatalf("%s has %d blocks of commands for etcd", page, len(commands))
	}
	shell.Run(t, fmt.Sprintf("set -e\ncd %s\nnamespace=%s\n%s", dir, v.Namespace, commands[0]))
	shell.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {app: own-etcd}
  ports: [{port: 2379}]
---
apiVersion: v1
kind: Pod
metadata: {name: own-etcd, namespace: %[1]s, labels: {app: own-etcd}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: etcd
    image: %[3]s:v%[4]s
    command: [etcd, --data-dir=/data/etcd, --listen-client-urls=https://0.0.0.0:2379,
      --advertise-client-urls=https://%[2]s.%[1]s.svc:2379, --cert-file=/tls/server.crt, --key-file=/tls/server.key,
      --client-cert-auth, --trusted-ca-file=/ca/vault-client-ca.crt]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    readinessProbe: {tcpSocket: {port: 2379}, periodSeconds: 1}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: tls, mountPath: /tls}
    - {name: ca, mountPath: /ca}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: tls, secret: {secretName: mine}}
  - {name: ca, secret: {secretName: my-ca}}
`, v.Namespace, etcd.Name, v1alpha1.DefaultEtcdBaseImage, v1alpha1.DefaultEtcdVersion))
	shell.Run(t, v.Kubectl("wait --for=condition=Ready --timeout=1m pod/own-etcd"))
}
