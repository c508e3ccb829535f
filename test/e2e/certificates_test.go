//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// userCA is a CA of the user's own, with the Secrets "mine" and "my-ca" that a Vault
// names by spec.tls.static.
type userCA struct {
	vault vaulttest.Vault
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	// file holds its certificate.
	file string
}

func newUserCA(t *testing.T, v vaulttest.Vault) *userCA {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "the user's CA"}, NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c := &userCA{vault: v, file: filepath.Join(t.TempDir(), "vault-client-ca.crt")}
	c.key = newKey(t)
	c.cert = c.sign(t, template, template, c.key)
	writePEM(t, c.file, "CERTIFICATE", c.cert.Raw)
	c.put(t, "my-ca", "--from-file="+c.file)
	return c
}

// issue puts a server certificate of so long a life into the Secret "mine", and returns
// its serial number in hexadecimal.
func (c *userCA) issue(t *testing.T, life time.Duration) string {
	t.Helper()
	dir := t.TempDir()
	leaf := c.write(t, filepath.Join(dir, "server"), &x509.Certificate{
		Subject: pkix.Name{CommonName: "made by the user"}, NotAfter: time.Now().Add(life),
		DNSNames:    []string{c.vault.Name + "." + c.vault.Namespace + ".svc"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	c.put(t, "mine", "--from-file="+dir+"/server.crt --from-file="+dir+"/server.key")
	return leaf.SerialNumber.Text(16)
}

// put makes a Secret, or replaces its content.
func (c *userCA) put(t *testing.T, name, content string) {
	t.Helper()
	shell.Run(t, c.vault.Kubectl("create secret generic %s %s --dry-run=client -o yaml | kubectl apply -f -", name,
		content))
}

// write makes a certificate and its key, in the files PATH.crt and PATH.key.
func (c *userCA) write(t *testing.T, path string, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := c.sign(t, template, c.cert, key)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, path+".crt", "CERTIFICATE", leaf.Raw)
	writePEM(t, path+".key", "PRIVATE KEY", encoded)
	return leaf
}

func (c *userCA) sign(t *testing.T, template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.NotBefore = time.Now().Add(-time.Hour)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, path, kind string, content []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// renewal is how long it may take until a renewed certificate is served. The kubelet
// takes up to a minute of it to write the files.
const renewal = 2 * time.Minute

// awaitServed waits until a pod serves the certificate with the serial number.
func (f *fixture) awaitServed(t *testing.T, pod, serial string) {
	t.Helper()
	address := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.status.podIP}'", pod))
	command := inNode(t, f.nodeOf(t, pod)) + "openssl s_client -connect " + address +
		":8200 </dev/null 2>/dev/null | openssl x509 -noout -serial"
	want := new(big.Int)
	if _, ok := want.SetString(serial, 16); !ok {
		t.Fatalf("%q is no serial number", serial)
	}
	shell.Eventually(t, pod+" serves the new certificate", renewal, func() error {
		out, err := shell.Try(command)
		if err != nil {
			return err
		}
		var got big.Int
		if _, err := fmt.Sscanf(out, "serial=%X", &got); err != nil || got.Cmp(want) != 0 {
			return fmt.Errorf("it serves %s, want %X (%w)", out, want, err)
		}
		return nil
	})
}

// renewCertificate replaces a certificate by one of the same CA that ends soon, and lets
// it end.
func (f *fixture) renewCertificate(t *testing.T, ca *userCA) {
	before := running(t, f.Vault)
	serial := ca.issue(t, 10*time.Minute)
	status := f.AwaitHA(t, f.nodes-1).VaultStatus
	pods := append([]string{status.Active}, status.Standby...)
	for _, pod := range pods {
		f.awaitServed(t, pod, serial)
	}
	shell.Eventually(t, "the status tells which certificate is served", renewal, func() error {
		out, err := shell.Try(f.Kubectl(`get vault %s -o jsonpath='{range `+
			`.status.nodeStatuses[*]}{.certificate.serial}{"\n"}{end}'`, f.Name))
		for line := range strings.Lines(out) {
			if err == nil && !strings.EqualFold(strings.TrimSpace(line), serial) {
				err = fmt.Errorf("it tells\n%s", out)
			}
		}
		return err
	})
	awaitReported(t, f.Vault, v1alpha1.TLSReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonCertificateExpiring, "mine")
	ca.issue(t, 20*time.Second)
	awaitReported(t, f.Vault, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonCertificateExpired, "mine")
	serial = ca.issue(t, 90*24*time.Hour)
	for _, pod := range pods {
		f.awaitServed(t, pod, serial)
	}
	// The operator keeps a connection for a minute, which shows the certificate of its beginning.
	awaitCondition(t, f.Vault, renewal, v1alpha1.TLSReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonSecretsValid)
	f.AwaitHA(t, f.nodes-1)
	if now := running(t, f.Vault); now != before {
		t.Errorf("a renewed certificate is no reason to restart: the pods are\n%s\nand were\n%s", now, before)
	}
}
