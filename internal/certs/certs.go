// Package certs makes and checks the certificates of a Vault: those that its
// nodes serve with, and those between Vault and the etcd cluster run for it.
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
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	// lifetime of all certificates. They are not rotated yet, so it is long.
	lifetime = 10 * 365 * 24 * time.Hour
	// backdate allows for clocks that differ between Kubernetes nodes, by hours too.
	backdate = 24 * time.Hour
)

// KeyPair is a certificate and its private key, in PEM.
type KeyPair struct {
	Cert, Key []byte
}

// NewCA makes a certificate authority.
func NewCA(commonName string) (KeyPair, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return create(template, nil)
}

// Sign makes a certificate for the DNS names and IP addresses, signed by ca.
func Sign(ca KeyPair, commonName string, usage []x509.ExtKeyUsage, names []string, addresses ...net.IP) (KeyPair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usage,
		DNSNames:    names,
		IPAddresses: addresses,
	}
	return create(template, &ca)
}

// create signs the template by ca, or by itself when ca is nil.
func create(template *x509.Certificate, ca *KeyPair) (KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, err
	}
	// RFC 5280 allows serial numbers of up to 20 octets; 16 random ones do not repeat.
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return KeyPair{}, err
	}
	template.NotBefore = time.Now().Add(-backdate)
	template.NotAfter = template.NotBefore.Add(lifetime)

	parent, signer := template, any(key)
	if ca != nil {
		pair, err := tls.X509KeyPair(ca.Cert, ca.Key)
		if err != nil {
			return KeyPair{}, fmt.Errorf("certificate authority: %w", err)
		}
		parent, signer = pair.Leaf, pair.PrivateKey
		// A certificate that outlives its authority cannot be verified.
		if template.NotAfter.After(parent.NotAfter) {
			template.NotAfter = parent.NotAfter
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return KeyPair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// Verify says why a server with this certificate and key would be refused by
// a client that trusts ca and asks for serverName.
func Verify(server KeyPair, ca []byte, serverName string, now time.Time) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("the certificate authority holds no PEM certificate")
	}
	pair, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		// The text of crypto/tls never quotes key material.
		return fmt.Errorf("the server certificate and key: %w", err)
	}
	intermediates := x509.NewCertPool()
	intermediates.AppendCertsFromPEM(trimFirst(server.Cert))
	_, err = pair.Leaf.Verify(x509.VerifyOptions{
		DNSName:       serverName,
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("the server certificate: %w", err)
	}
	return nil
}

// trimFirst drops the first PEM block: the leaf of a chain.
func trimFirst(chain []byte) []byte {
	_, rest := pem.Decode(bytes.TrimSpace(chain))
	return rest
}
