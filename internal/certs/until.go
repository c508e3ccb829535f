package certs

import (
	"crypto/x509"
	"encoding/pem"
	"time"
)

// Turn returns when the next of the certificates in a Secret begins or ends to be
// valid; the zero time if none does. Until then the Secret means the same as now.
func Turn(data map[string][]byte, now time.Time) time.Time {
	var next time.Time
	for _, value := range data {
		for block, rest := pem.Decode(value); block != nil; block, rest = pem.Decode(rest) {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				continue
			}
			for _, turn := range []time.Time{certificate.NotBefore, certificate.NotAfter} {
				if turn.After(now) && (next.IsZero() || turn.Before(next)) {
					next = turn
				}
			}
		}
	}
	return next
}
