//go:build e2e

package e2e

// Reasons of conditions that the tests wait for.
const (
	reasonNotInService        = "NotInService"
	reasonCALost              = "AuthorityLost"
	reasonCertificateExpiring = "CertificateExpiring"
	reasonCertificateExpired  = "CertificateExpired"
)
