package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

const testName = "example.default.svc"

var serverAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}

func newCA(t *testing.T) KeyPair {
	t.Helper()
	ca, err := NewCA("test CA", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func sign(t *testing.T, ca KeyPair, names ...string) KeyPair {
	t.Helper()
	leaf, err := Sign(ca, names[0], serverAuth, names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func parse(t *testing.T, cert []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(cert)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		t.Fatalf("not one PEM certificate: %q", cert)
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestNewCA(t *testing.T) {
	ca := newCA(t)
	cert := parse(t, ca.Cert)
	if !cert.IsCA || !cert.BasicConstraintsValid {
		t.Error("is not a certificate authority")
	}
	if cert.MaxPathLen != 0 || !cert.MaxPathLenZero {
		t.Error("may sign other CAs")
	}
	if cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("key usage %b", cert.KeyUsage)
	}
	if cert.Subject.CommonName != "test CA" {
		t.Errorf("subject %s", cert.Subject)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		t.Errorf("does not sign itself: %v", err)
	}
	if _, err := tls.X509KeyPair(ca.Cert, ca.Key); err != nil {
		t.Errorf("key: %v", err)
	}
	checkLifetime(t, cert)
	if other := parse(t, newCA(t).Cert); other.SerialNumber.Cmp(cert.SerialNumber) == 0 ||
		other.PublicKey.(*ecdsa.PublicKey).Equal(cert.PublicKey) {
		t.Error("two CAs share their serial number or key")
	}
}

func TestSign(t *testing.T) {
	ca := newCA(t)
	addresses := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	leaf, err := Sign(ca, testName, serverAuth, []string{testName, "localhost"}, time.Now(), addresses...)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, leaf.Cert)
	if err := cert.CheckSignatureFrom(parse(t, ca.Cert)); err != nil {
		t.Errorf("is not signed by the CA: %v", err)
	}
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, serverAuth) {
		t.Errorf("is CA %v, key usage %b, extended %v", cert.IsCA, cert.KeyUsage, cert.ExtKeyUsage)
	}
	for _, host := range []string{testName, "localhost", "127.0.0.1", "::1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if err := cert.VerifyHostname("elsewhere"); err == nil {
		t.Error("is valid for any name")
	}
	checkLifetime(t, cert)
	if parse(t, ca.Cert).NotAfter.Before(cert.NotAfter) {
		t.Error("outlives its CA")
	}
}

func checkLifetime(t *testing.T, cert *x509.Certificate) {
	t.Helper()
	now := time.Now()
	if cert.NotBefore.After(now.Add(-30 * time.Minute)) {
		t.Errorf("is not valid for a clock that is late: %s", cert.NotBefore)
	}
	if cert.NotAfter.Before(now.AddDate(9, 0, 0)) {
		t.Errorf("ends at %s, and is not rotated", cert.NotAfter)
	}
}

func TestSignRefusesAnAuthorityThatCannotSign(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	for name, broken := range map[string]KeyPair{
		"nothing":        {},
		"no key":         {Cert: ca.Cert},
		"another's key":  {Cert: ca.Cert, Key: other.Key},
		"not PEM at all": {Cert: []byte("garbage"), Key: []byte("garbage")},
	} {
		if _, err := Sign(broken, testName, serverAuth, []string{testName}, time.Now()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// custom makes a certificate that NewCA and Sign would not make.
func custom(t *testing.T, change func(*x509.Certificate), ca *KeyPair) KeyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "custom"},
		DNSNames:     []string{testName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  serverAuth,
	}
	change(template)
	parent, signer := template, any(key)
	if ca != nil {
		pair, err := tls.X509KeyPair(ca.Cert, ca.Key)
		if err != nil {
			t.Fatal(err)
		}
		parent, signer = pair.Leaf, pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return KeyPair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

func caTemplate(template *x509.Certificate) {
	template.DNSNames, template.ExtKeyUsage = nil, nil
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
}

func TestVerify(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	good := sign(t, ca, testName, "localhost")
	elsewhere := sign(t, ca, "other.default.svc")
	root := custom(t, caTemplate, nil)
	intermediate := custom(t, caTemplate, &root)
	below := sign(t, intermediate, testName)
	expired := custom(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, &ca)
	early := custom(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, &ca)
	clientOnly := custom(t, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}, &ca)
	join := func(certs ...[]byte) []byte { return bytes.Join(certs, nil) }

	tests := []struct {
		name    string
		server  KeyPair
		ca      []byte
		at      time.Duration
		wantErr string
	}{
		{name: "signed by the CA", server: good, ca: ca.Cert},
		{name: "a bundle of CAs", server: good, ca: join(other.Cert, ca.Cert)},
		{
			name: "a chain with an intermediate", server: KeyPair{join(below.Cert, intermediate.Cert), below.Key},
			ca: root.Cert,
		},
		{
			name:   "white space around the chain",
			server: KeyPair{join([]byte("\n\n"), below.Cert, []byte("\n"), intermediate.Cert, []byte("\n")), below.Key},
			ca:     root.Cert,
		},
		{name: "an intermediate that is missing", server: below, ca: root.Cert, wantErr: "signed by unknown authority"},
		{
			name: "a chain in the wrong order", server: KeyPair{join(intermediate.Cert, below.Cert), below.Key},
			ca: root.Cert, wantErr: "private key does not match",
		},
		{name: "another name", server: elsewhere, ca: ca.Cert, wantErr: "valid for other.default.svc, not " + testName},
		{name: "another CA", server: good, ca: other.Cert, wantErr: "signed by unknown authority"},
		{name: "expired", server: expired, ca: ca.Cert, wantErr: "has expired"},
		{name: "expired later", server: good, ca: ca.Cert, at: lifetime, wantErr: "has expired"},
		{name: "not valid yet", server: early, ca: ca.Cert, wantErr: "not yet valid"},
		{name: "valid by then", server: early, ca: ca.Cert, at: 2 * time.Minute},
		{name: "for clients only", server: clientOnly, ca: ca.Cert, wantErr: "incompatible key usage"},
		{
			name: "another's key", server: KeyPair{good.Cert, elsewhere.Key}, ca: ca.Cert,
			wantErr: "private key does not match",
		},
		{
			name: "a certificate that is garbage", server: KeyPair{[]byte("garbage"), good.Key}, ca: ca.Cert,
			wantErr: "failed to find any PEM data in certificate input",
		},
		{
			name: "a key that is garbage", server: KeyPair{good.Cert, []byte("garbage")}, ca: ca.Cert,
			wantErr: "failed to find any PEM data in key input",
		},
		{
			name: "key and certificate mixed up", server: KeyPair{good.Key, good.Cert}, ca: ca.Cert,
			wantErr: "PEM inputs may have been switched",
		},
		{
			name:   "PEM around garbage",
			server: KeyPair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("garbage")}), good.Key},
			ca:     ca.Cert, wantErr: "malformed certificate",
		},
		{
			name: "a CA that is garbage", server: good, ca: []byte("garbage"),
			wantErr: "the certificate authority holds no PEM certificate",
		},
		{name: "an empty CA", server: good, wantErr: "the certificate authority holds no PEM certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := verify(tt.server, tt.ca, testName, time.Now().Add(tt.at))
			if tt.wantErr == "" {
				if err != nil {
					t.Errorf("verify() = %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Fatalf("verify() = %v, want %q", err, tt.wantErr)
			}
			noKeyMaterial(t, err.Error(), tt.server.Key, good.Key)
		})
	}
}

// noKeyMaterial fails when the text holds a piece of a key.
func noKeyMaterial(t *testing.T, text string, keys ...[]byte) {
	t.Helper()
	for _, key := range keys {
		for line := range strings.Lines(string(key)) {
			line = strings.TrimSpace(line)
			if len(line) >= 16 && !strings.HasPrefix(line, "-----") && strings.Contains(text, line) {
				t.Errorf("key material in %q", text)
			}
		}
	}
}

// The operator verifies with Verify what clients then verify with crypto/tls.
func TestVerifyAgreesWithTLS(t *testing.T) {
	ca := newCA(t)
	root := custom(t, caTemplate, nil)
	intermediate := custom(t, caTemplate, &root)
	below := sign(t, intermediate, testName)
	for name, tt := range map[string]struct {
		server KeyPair
		ca     []byte
		name   string
	}{
		"good":         {sign(t, ca, testName), ca.Cert, testName},
		"wrong name":   {sign(t, ca, "other"), ca.Cert, testName},
		"wrong CA":     {sign(t, newCA(t), testName), ca.Cert, testName},
		"chain":        {KeyPair{append(slices.Clone(below.Cert), intermediate.Cert...), below.Key}, root.Cert, testName},
		"broken chain": {below, root.Cert, testName},
		"wildcard":     {sign(t, ca, "*.default.svc"), ca.Cert, testName},
	} {
		t.Run(name, func(t *testing.T) {
			verified := verify(tt.server, tt.ca, tt.name, time.Now())
			if shaken := handshake(t, tt.server, tt.ca, tt.name); (verified == nil) != (shaken == nil) {
				t.Errorf("verify() = %v, a TLS client says %v", verified, shaken)
			}
		})
	}
}

// Of a bundle only what can prove the certificate is kept, and no more than could be meant is read.
func TestBundlesAreBounded(t *testing.T) {
	ca := newCA(t)
	server := sign(t, ca, testName)
	named := func(name string) []byte {
		return custom(t, func(template *x509.Certificate) {
			caTemplate(template)
			template.Subject.CommonName = name
		}, nil).Cert
	}
	others := bytes.Repeat(named("other"), 100)
	c, err := newChain(server, slices.Concat(others, ca.Cert, others))
	if err != nil || len(c.cas) != 1 {
		t.Fatalf("of a bundle %d CAs are kept: %v", len(c.cas), err)
	}
	c.serverName = testName
	if _, err := c.verify(time.Now()); err != nil {
		t.Errorf("with a bundle: %v", err)
	}
	large := bytes.Repeat(others, MaxPEM/len(others)+1)
	if _, err := newChain(server, slices.Concat(ca.Cert, large)); err == nil {
		t.Error("a bundle without end is read")
	}
	if _, err := newChain(KeyPair{slices.Concat(server.Cert, large), server.Key}, ca.Cert); err == nil {
		t.Error("a chain without end is read")
	}
	namesakes := bytes.Repeat(named("test CA"), maxCandidates)
	if _, err := newChain(server, slices.Concat(ca.Cert, namesakes)); err == nil {
		t.Error("too many CAs of the same name are kept")
	}
}

func handshake(t *testing.T, server KeyPair, ca []byte, name string) error {
	t.Helper()
	pair, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		there, err := listener.Accept()
		if err != nil {
			return
		}
		_ = tls.Server(there, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}).Handshake()
		_ = there.Close()
	}()
	defer func() { _ = listener.Close(); <-served }()
	here, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = here.Close() }()
	return tls.Client(here, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}).Handshake()
}

// verify says why a server with this certificate and key would be refused by
// a client that trusts ca and asks for serverName.
func verify(server KeyPair, ca []byte, serverName string, now time.Time) error {
	c, err := newChain(server, ca)
	if err != nil {
		return err
	}
	c.serverName = serverName
	_, err = c.verify(now)
	return err
}
