package vaultstatus

import (
	"errors"

	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/vaultconfig"
)

// unread is why a Secret or the ConfigMap could not be read; nil when they could
// be, whatever was in them. No event tells that the API server is well again.
func (f *facts) unread() error {
	var badTLS *certs.Error
	var badConfig *vaultconfig.Error
	var unread []error
	if f.certificates.err != nil && !errors.As(f.certificates.err, &badTLS) {
		unread = append(unread, f.certificates.err)
	}
	if f.configErr != nil && !errors.As(f.configErr, &badConfig) {
		unread = append(unread, f.configErr)
	}
	return errors.Join(unread...)
}
