package certs

import (
	"crypto/x509"
	"time"
)

// noticePeriod is how long before its end a certificate is reported. One that
// lives for a short time is renewed shortly before its end, and is reported only
// when less than a fifth of that time is left: by then it should have been
// renewed. (cert-manager renews when a third is left.)
const noticePeriod = 14 * 24 * time.Hour

// Expiry is the end of a certificate.
type Expiry struct {
	// Name says which certificate it is, and of which Secret.
	Name string
	// Notice is the time from which on the end is reported.
	Notice, NotAfter time.Time
}

func newExpiry(name string, certificate *x509.Certificate) Expiry {
	notice := min(noticePeriod, certificate.NotAfter.Sub(certificate.NotBefore)/5)
	return Expiry{Name: name, Notice: certificate.NotAfter.Add(-notice), NotAfter: certificate.NotAfter}
}

// Expiries are the ends of all certificates of a Vault.
type Expiries []Expiry

// First returns the earliest end; the zero time when there are no certificates.
func (e Expiries) First() time.Time {
	var first time.Time
	for _, expiry := range e {
		first = Earlier(first, expiry.NotAfter)
	}
	return first
}

// Due returns the certificate to report now: the first to end, or nil.
func (e Expiries) Due(now time.Time) *Expiry {
	var due *Expiry
	for i := range e {
		if !now.Before(e[i].Notice) && (due == nil || e[i].NotAfter.Before(due.NotAfter)) {
			due = &e[i]
		}
	}
	return due
}

// Next returns when there will be something else to report; the zero time if never.
func (e Expiries) Next(now time.Time) time.Time {
	var next time.Time
	for _, expiry := range e {
		for _, at := range []time.Time{expiry.Notice, expiry.NotAfter} {
			if at.After(now) {
				next = Earlier(next, at)
			}
		}
	}
	return next
}

// Earlier returns the earlier one; the zero time means never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
