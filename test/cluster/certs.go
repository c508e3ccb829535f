package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// ensureCertificates makes the CA of the cluster and what it signs: once, since a running
// cluster trusts the CA that it was started with.
// https://kubernetes.io/docs/setup/best-practices/certificates/
func ensureCertificates() error {
	if exists(adminKubeconfig()) {
		return nil
	}
	ca, err := newCA("ca")
	if err != nil {
		return err
	}
	if err := writeKey(pki("service-account.key")); err != nil {
		return err
	}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	certificates := []request{
		{name: "apiserver", usage: server,
			names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc." + clusterDomain},
			ips: []string{"127.0.0.1", controlPlaneIP, apiServiceIP}},
		{name: "apiserver-kubelet-client", usage: client, groups: []string{"system:masters"}},
		{name: "front-proxy-client", usage: client},
	}
	users := []request{
		{name: "system:kube-controller-manager", usage: client},
		{name: "system:kube-scheduler", usage: client},
		{name: "system:kube-proxy", usage: client},
		{name: "coredns", usage: client},
		{name: kubeRouter, usage: client},
	}
	for _, n := range nodes {
		certificates = append(certificates, request{name: n.name, usage: server, names: []string{n.name},
			ips: []string{n.ip}})
		users = append(users, request{name: "system:node:" + n.name, usage: client, groups: []string{"system:nodes"}})
	}
	for _, r := range certificates {
		if err := ca.issue(r); err != nil {
			return err
		}
	}
	for _, r := range users {
		if err := ca.kubeconfig(r, kubeconfigPath(r.name), "https://"+controlPlaneIP+":6443"); err != nil {
			return err
		}
	}
	// The admin's is written last: it says that all the others are there.
	return ca.kubeconfig(request{name: "admin", usage: client, groups: []string{"system:masters"}}, adminKubeconfig(),
		"https://"+forwardAddress)
}

func pki(file string) string { return statePath("pki", file) }

func kubeconfigPath(user string) string { return pki(user + ".kubeconfig") }

// issuer is a CA with its key.
type issuer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// request is a certificate to sign.
type request struct {
	name       string
	groups     []string
	usage      []x509.ExtKeyUsage
	names, ips []string
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
}

func newCA(name string) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("vault-operator local cluster")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := writePair(name, der, key); err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &issuer{certificate, key}, err
}

// issue writes a certificate and its key to the pki directory.
func (a *issuer) issue(r request) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := template(r.name)
	t.Subject.Organization, t.ExtKeyUsage, t.DNSNames = r.groups, r.usage, r.names
	t.KeyUsage = x509.KeyUsageDigitalSignature
	for _, ip := range r.ips {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePair(r.name, der, key)
}

// kubeconfig writes a kubeconfig with a certificate of its own.
func (a *issuer) kubeconfig(r request, path, server string) error {
	if err := a.issue(r); err != nil {
		return err
	}
	data := map[string]string{}
	for key, file := range map[string]string{"ca": "ca.crt", "crt": r.name + ".crt", "key": r.name + ".key"} {
		content, err := os.ReadFile(pki(file))
		if err != nil {
			return err
		}
		data[key] = base64.StdEncoding.EncodeToString(content)
	}
	return writeFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: local
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %[3]q
  user: {client-certificate-data: %[4]s, client-key-data: %[5]s}
contexts:
- name: local
  context: {cluster: local, user: %[3]q}
current-context: local
`, server, data["ca"], r.name, data["crt"], data["key"]))
}

func writePair(name string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writePEM(pki(name+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(pki(name+".key"), "PRIVATE KEY", keyDER)
}

// writeKey makes the key that service account tokens are signed with.
func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
