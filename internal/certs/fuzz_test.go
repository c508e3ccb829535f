package certs

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// FuzzVerify shows that no content of a Secret ends the operator, that errors never
// hold a key, and that what is accepted can be served.
func FuzzVerify(f *testing.F) {
	ca, err := NewCA("ca", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	pair, err := Sign(ca, "leaf", serverAuth, []string{"example.default.svc"}, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	add := func(cert, key, ca []byte, name string) { f.Add(cert, key, ca, name) }
	add(pair.Cert, pair.Key, ca.Cert, "example.default.svc")
	add(pair.Cert, pair.Key, ca.Cert, "elsewhere")
	add(append(bytes.Clone(pair.Cert), ca.Cert...), pair.Key, append(bytes.Clone(ca.Cert), ca.Cert...), "")
	add(pair.Key, pair.Cert, ca.Key, "example.default.svc")
	add(ca.Cert, pair.Key, pair.Cert, "*.default.svc")
	add(pair.Cert[:len(pair.Cert)/2], pair.Key[:len(pair.Key)/2], ca.Cert[:len(ca.Cert)/2], "\x00")
	add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), nil, nil, "x")
	now := time.Now()
	f.Fuzz(func(t *testing.T, cert, key, ca []byte, name string) {
		err := verify(KeyPair{Cert: cert, Key: key}, ca, name, now)
		if err == nil {
			return
		}
		for line := range strings.Lines(string(key)) {
			line = strings.TrimSpace(line)
			if len(line) > 40 && !strings.Contains(string(cert), line) && strings.Contains(err.Error(), line) {
				t.Errorf("the error holds a part of the key: %v", err)
			}
		}
	})
}
