package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// ofBits is an odd number.
func ofBits(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.SetBit(n, 0, 1)
}

// With such a prime crypto/x509 computes for minutes, or days, although the key is refused in the end.
func TestLargePrimes(t *testing.T) {
	pair := newCA(t)
	key, err := asn1.Marshal(struct {
		Version int
		N       *big.Int
		E       int
		D, P, Q *big.Int
	}{N: big.NewInt(15), E: 3, D: big.NewInt(3), P: ofBits(60_000), Q: big.NewInt(3)})
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := asn1.Marshal(struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}{Algorithm: pkix.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue,
	}, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}})
	for name, text := range map[string][]byte{
		"PKCS #1":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: key}),
		"PKCS #8":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: wrapped}),
		"another":     append(params, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: key})...),
		"of one type": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"many bytes": pem.EncodeToMemory(&pem.Block{
			Type: "PRIVATE KEY", Bytes: bytes.Repeat([]byte{0}, maxKey+1),
		}),
	} {
		begin := time.Now()
		if _, err := keyPair(pair.Cert, text); err == nil || !strings.Contains(err.Error(), "8192 bits") {
			t.Errorf("%s: error %v", name, err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

// Keys that are used are accepted in each form.
func TestKeySizes(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []*pem.Block{
		{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}, {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := checkKeySize(pem.EncodeToMemory(block)); err != nil {
			t.Errorf("%s: %v", block.Type, err)
		}
	}
	pair := newCA(t)
	parameters, err := asn1.Marshal(struct{ P, G *big.Int }{ofBits(8192), big.NewInt(2)})
	if err != nil {
		t.Fatal(err)
	}
	beside := pem.EncodeToMemory(&pem.Block{Type: "DH PARAMETERS", Bytes: parameters})
	for name, file := range map[string][]byte{
		"alone": pair.Key, "beside certificates": append(bytes.Repeat(pair.Cert, 50), pair.Key...),
		"beside parameters": append(beside, pair.Key...),
	} {
		if _, err := keyPair(pair.Cert, file); err != nil {
			t.Errorf("a generated key %s: %v", name, err)
		}
	}
}

// A CA that takes long to verify with is no CA: no probe verifies with it.
func TestLargeCAs(t *testing.T) {
	good, large := newCA(t).Cert, certificateOf(t, ofBits(maxRSABits+1))
	largest := certificateOf(t, ofBits(maxRSABits))
	if got := UsableCAs(bytes.Join([][]byte{large, []byte("# a comment\n"), good, largest}, nil)); !bytes.Equal(got,
		append(bytes.Clone(good), largest...)) {
		t.Errorf("usable is\n%s", got)
	}
	for name, bundle := range map[string][]byte{
		"none": nil, "garbage": []byte("x"), "a large one": large,
		"many": bytes.Repeat(good, MaxPEM/len(good)+1),
	} {
		if got := UsableCAs(bundle); len(got) > 0 {
			t.Errorf("%s: usable is %.200s", name, got)
		}
	}
}

// certificateOf is a certificate with such a modulus, which nobody has signed.
func certificateOf(t *testing.T, modulus *big.Int) []byte {
	t.Helper()
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "large"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &rsa.PublicKey{N: modulus, E: 65537}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: der})
}
