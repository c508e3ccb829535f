// Package certs makes and checks the certificates of a Vault: those that its
// nodes serve with, and those between Vault and the etcd cluster run for it.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
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

// NewCA makes a CA that is valid from now on.
func NewCA(commonName string, now time.Time) (KeyPair, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return create(template, nil, now)
}

// Sign makes a certificate for the DNS names and IP addresses that is valid from now on, signed by ca.
func Sign(
	ca KeyPair, commonName string, usage []x509.ExtKeyUsage, names []string, now time.Time, addresses ...net.IP,
) (KeyPair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usage,
		DNSNames:    names,
		IPAddresses: addresses,
	}
	return create(template, &ca, now)
}

// create signs the template by ca, or by itself when ca is nil.
func create(template *x509.Certificate, ca *KeyPair, now time.Time) (KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, err
	}
	// RFC 5280 allows serial numbers of up to 20 octets; 16 random ones do not repeat.
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return KeyPair{}, err
	}
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = template.NotBefore.Add(lifetime)

	parent, signer := template, any(key)
	if ca != nil {
		pair, err := keyPair(ca.Cert, ca.Key)
		if err != nil {
			return KeyPair{}, fmt.Errorf("certificate authority: %w", err)
		}
		parent, signer = pair.Leaf, pair.PrivateKey
		// A certificate that outlives its CA cannot be verified.
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
		Cert: pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}
