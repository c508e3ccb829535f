//go:build e2e

package e2e

// Reasons of conditions that the tests wait for.
const (
	reasonCALost              = "AuthorityLost"
	reasonCertificateExpiring = "CertificateExpiring"
	reasonCertificateExpired  = "CertificateExpired"
)
