package certs

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

func TestTurn(t *testing.T) {
	ca, err := NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := Sign(ca, "leaf", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{"x"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string][]byte{"server.crt": pair.Cert, "server.key": pair.Key, "other": []byte("x")}
	for name, test := range map[string]struct {
		now, want time.Time
	}{
		"before it begins": {leaf.NotBefore.Add(-time.Hour), leaf.NotBefore},
		"while it lasts":   {leaf.NotBefore.Add(time.Hour), leaf.NotAfter},
		"after its end":    {leaf.NotAfter.Add(time.Hour), time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Turn(data, test.now); !got.Equal(test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
