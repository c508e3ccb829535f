package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// errExpired says that a certificate was valid once.
var errExpired = errors.New("has expired")

const (
	// MaxPEM is how many bytes certificates of one side may have: twice what those of all public CAs have. Secrets are of
	// tenants, and what is in them is kept for each Vault that names one.
	MaxPEM = 512 << 10
	// maxCandidates is how many CAs and intermediate certificates may have the names of those that a certificate is
	// signed by.
	maxCandidates = 32
)

// chain is a certificate as one side presents it, and the CAs that the
// other side verifies it with.
type chain struct {
	// leafName and caName say in messages where the certificates are from.
	leafName, caName string
	leaf             *x509.Certificate
	intermediates    []*x509.Certificate
	cas              []*x509.Certificate
	// serverName has to be in the certificate, unless it is empty.
	serverName string
	usage      x509.ExtKeyUsage
}

// newChain parses a certificate with its intermediates, and the CAs. The
// private key is compared with the certificate and not kept.
func newChain(pair KeyPair, ca []byte) (*chain, error) {
	if len(ca) > MaxPEM {
		return nil, fmt.Errorf("more than %d KiB of certificates", MaxPEM>>10)
	}
	c := &chain{
		leafName: "the server certificate", caName: "the certificate authority",
		cas: parsePEM(ca), usage: x509.ExtKeyUsageServerAuth,
	}
	if len(c.cas) == 0 {
		return nil, errors.New("the certificate authority holds no PEM certificate")
	}
	parsed, err := keyPair(pair.Cert, pair.Key)
	if err != nil {
		// The text of crypto/tls never quotes key material.
		return nil, fmt.Errorf("the certificate and key: %w", err)
	}
	c.leaf = parsed.Leaf
	c.intermediates = parseAll(parsed.Certificate[1:])
	c.keepCandidates()
	if len(c.cas)+len(c.intermediates) > maxCandidates {
		return nil, fmt.Errorf("more than %d certificates of the names that the certificate is signed by", maxCandidates)
	}
	return c, nil
}

// keepCandidates drops CAs and intermediate certificates that cannot be in a proof of the leaf: those whose name is
// in no way to it, as crypto/x509 finds them.
func (c *chain) keepCandidates() {
	names := map[string]bool{string(c.leaf.RawSubject): true, string(c.leaf.RawIssuer): true}
	all := slices.Concat(c.cas, c.intermediates)
	for before := 0; before < len(names); {
		before = len(names)
		for _, certificate := range all {
			if names[string(certificate.RawSubject)] {
				names[string(certificate.RawIssuer)] = true
			}
		}
	}
	others := func(certificate *x509.Certificate) bool { return !names[string(certificate.RawSubject)] }
	c.cas, c.intermediates = slices.DeleteFunc(c.cas, others), slices.DeleteFunc(c.intermediates, others)
}

// verify returns the certificates that prove the leaf, itself first, or why none
// do. The error says the same at any time, so that a status with it rests.
func (c *chain) verify(now time.Time) ([]*x509.Certificate, error) {
	proofs, err := c.leaf.Verify(x509.VerifyOptions{
		DNSName:       c.serverName,
		Roots:         poolOf(c.cas),
		Intermediates: poolOf(c.intermediates),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{c.usage},
	})
	if err != nil {
		return nil, c.explain(err, now)
	}
	// In a bundle an old CA may end before the one that replaces it.
	return slices.MaxFunc(proofs, func(a, b []*x509.Certificate) int {
		return firstToEnd(a).Compare(firstToEnd(b))
	}), nil
}

func firstToEnd(proof []*x509.Certificate) time.Time {
	first := proof[0].NotAfter
	for _, certificate := range proof {
		if certificate.NotAfter.Before(first) {
			first = certificate.NotAfter
		}
	}
	return first
}

// explain replaces those errors of crypto/x509 that hold the current time.
func (c *chain) explain(err error, now time.Time) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if invalid.Cert.Equal(c.leaf) {
			return outOfTime(c.leafName, c.leaf, now)
		}
		return outOfTime(c.caName, invalid.Cert, now)
	case errors.As(err, &unknown):
		for _, signer := range slices.Concat(c.cas, c.intermediates) {
			if late := outOfTime(c.caName, signer, now); late != nil && c.signedBy(signer) {
				return late
			}
		}
		return fmt.Errorf("%s is signed by unknown authority, and not by %s", c.leafName, c.caName)
	default:
		return fmt.Errorf("%s: %w", c.leafName, err)
	}
}

// signedBy says that a CA has signed a certificate of the chain.
func (c *chain) signedBy(signer *x509.Certificate) bool {
	signed := append([]*x509.Certificate{c.leaf}, c.intermediates...)
	return slices.ContainsFunc(signed, func(certificate *x509.Certificate) bool {
		return certificate.CheckSignatureFrom(signer) == nil
	})
}

// outOfTime says that a certificate is not valid now; nil if it is.
func outOfTime(name string, certificate *x509.Certificate, now time.Time) error {
	switch {
	case now.After(certificate.NotAfter):
		return fmt.Errorf("%s %w: it was valid until %s", name, errExpired, utc(certificate.NotAfter))
	case now.Before(certificate.NotBefore):
		return fmt.Errorf("%s is not yet valid: it will be from %s on", name, utc(certificate.NotBefore))
	default:
		return nil
	}
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
