package certs

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
)

const (
	// certificateType is the type of certificates in PEM.
	certificateType = "CERTIFICATE"
	// maxRSABits is how large an RSA key may be. crypto/tls refuses larger ones of whoever it connects to, and
	// crypto/x509 none: with one of megabits, one signature takes minutes to verify.
	maxRSABits = 8192
	// maxKey is how many bytes a private key may have: twice what the largest one of RSA has.
	maxKey = 10 << 10
)

// keyPair parses a certificate, with its intermediates, and its private key, of whatever size they are.
func keyPair(cert, key []byte) (tls.Certificate, error) {
	if len(cert) > MaxPEM {
		return tls.Certificate{}, fmt.Errorf("more than %d KiB of certificates", MaxPEM>>10)
	}
	if err := checkKeySize(key); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// checkKeySize refuses a key that takes long to parse: crypto/x509 computes with its primes before it compares their
// size with that of the key.
func checkKeySize(key []byte) error {
	if len(key) > MaxPEM {
		return fmt.Errorf("the file with the private key has more than %d KiB", MaxPEM>>10)
	}
	for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") && (len(block.Bytes) > maxKey || !smallIntegers(block.Bytes)) {
			return fmt.Errorf("the private key is larger than one of RSA with %d bits", maxRSABits)
		}
	}
	return nil
}

// smallIntegers says that no number in DER has more bits than one of an RSA key may have: the modulus and the private
// exponent, which are the second and the fourth, twice what the primes have. PKCS #8 has the key in an octet string.
// https://www.rfc-editor.org/rfc/rfc8017#appendix-A.1.2
func smallIntegers(der []byte) bool {
	for i := 0; len(der) > 0; i++ {
		most := maxRSABits / 2
		if i == 1 || i == 3 {
			most = maxRSABits
		}
		var value asn1.RawValue
		rest, err := asn1.Unmarshal(der, &value)
		if err != nil {
			return true // it is no key, or has more in the octet string than numbers
		}
		switch {
		case value.Class != asn1.ClassUniversal:
		case value.Tag == asn1.TagInteger && len(value.Bytes) > most/8+1,
			(value.IsCompound || value.Tag == asn1.TagOctetString) && !smallIntegers(value.Bytes):
			return false
		}
		der = rest
	}
	return true
}

// parsePEM returns the certificates of a bundle. Like crypto/x509 it leaves out
// what it does not understand.
func parsePEM(bundle []byte) []*x509.Certificate {
	var blocks [][]byte
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == certificateType && len(block.Headers) == 0 {
			blocks = append(blocks, block.Bytes)
		}
	}
	return parseAll(blocks)
}

func parseAll(all [][]byte) []*x509.Certificate {
	var result []*x509.Certificate
	for _, der := range all {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if key, is := certificate.PublicKey.(*rsa.PublicKey); is && key.N.BitLen() > maxRSABits {
			continue
		}
		result = append(result, certificate)
	}
	return result
}

// usable is what of a bundle can be verified with; empty if nothing can, or it is larger than MaxPEM.
func usable(bundle []byte) []*x509.Certificate {
	if len(bundle) > MaxPEM {
		return nil
	}
	return parsePEM(bundle)
}

// Pool is what of a bundle can be verified with, or nil if nothing can.
func Pool(bundle []byte) *x509.CertPool {
	if cas := usable(bundle); len(cas) > 0 {
		return poolOf(cas)
	}
	return nil
}

func poolOf(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	return pool
}

// UsableCAs is the same in PEM; empty if nothing can be verified with.
func UsableCAs(bundle []byte) []byte {
	var usablePEM bytes.Buffer
	for _, certificate := range usable(bundle) {
		// A buffer takes all that is written.
		_ = pem.Encode(&usablePEM, &pem.Block{Type: certificateType, Bytes: certificate.Raw})
	}
	return usablePEM.Bytes()
}
