// Package seal checks spec.seal and the Secrets that it names, tells why nodes cannot
// unseal themselves by a key service, and says when the data may be migrated to another seal.
package seal

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

// Stalls are the reasons of the condition SealReady with which nothing goes on before
// somebody changes the spec or a Secret. A key service that is away comes back by itself.
var Stalls = []string{
	v1alpha1.ReasonSealInvalid, v1alpha1.ReasonSealChangeRefused, v1alpha1.ReasonSecretNotFound,
	v1alpha1.ReasonSecretInvalid,
}

func invalid(format string, args ...any) error {
	return problem.New(v1alpha1.SealReadyCondition, v1alpha1.ReasonSealInvalid, format, args...)
}

func badSecret(format string, args ...any) error {
	return problem.New(v1alpha1.SealReadyCondition, v1alpha1.ReasonSecretInvalid, format, args...)
}

// Check checks spec.seal, the seal that spec.sealMigration moves the data from, and the Secrets
// that they name. What the user has to fix is a *problem.Error; any other error says that the
// API server could not be read from.
func Check(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	for _, s := range both(vault) {
		if err := s.check(ctx, reader, vault); err != nil {
			return err
		}
	}
	return checkPair(vault.OldSeal(), vault.Spec.Seal)
}

// one is a seal, and the field that it is in.
type one struct {
	*v1alpha1.SealPolicy
	field string
}

// both are the seal of spec.seal and the one before, as far as they are key services.
func both(vault *v1alpha1.Vault) []one {
	return slices.DeleteFunc([]one{{vault.Spec.Seal, "spec.seal"}, {vault.OldSeal(), "spec.sealMigration.from"}},
		func(s one) bool { return s.SealPolicy == nil })
}

func (s one) check(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	if err := s.checkVersion(vault.Spec.Version); err != nil {
		return err
	}
	if err := checkMounts(&vault.Spec.Pod); err != nil {
		return err
	}
	if s.Transit != nil {
		if err := s.checkAddress(vault); err != nil {
			return err
		}
	}
	if name := s.CredentialsSecretName(); name != "" {
		secret, err := s.get(ctx, reader, vault, "credentialsSecretName", name)
		if err != nil {
			return err
		}
		if err := checkCredentials(s.SealPolicy, secret); err != nil {
			return err
		}
	}
	_, _, err := s.cas(ctx, reader, vault)
	return err
}

// CAKeys are the keys under which the Secrets with the CA of the key service, and of the one
// that the data is moved from, hold it; empty where there is no such Secret. Errors are as
// those of Check.
func CAKeys(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (now, old string, err error) {
	if now, _, err = (one{vault.Spec.Seal, "spec.seal"}).cas(ctx, reader, vault); err != nil {
		return "", "", err
	}
	old, _, err = one{vault.OldSeal(), "spec.sealMigration.from"}.cas(ctx, reader, vault)
	return now, old, err
}

// cas are the CAs of a key service, and the key under which their Secret holds them;
// nil when there is no such Secret.
func (s one) cas(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) (string, *x509.CertPool, error) {
	name := s.CASecretName()
	if name == "" {
		return "", nil, nil
	}
	secret, err := s.get(ctx, reader, vault, "caSecretName", name)
	if err != nil {
		return "", nil, err
	}
	for _, key := range []string{v1alpha1.ClientCAKey, "ca.crt"} {
		value, found := secret.Data[key]
		if !found {
			continue
		}
		pool := certs.Pool(value)
		if pool == nil {
			return "", nil, badSecret("Secret %q, key %q holds no certificate that can be verified with", name, key)
		}
		return key, pool, nil
	}
	return "", nil, badSecret("Secret %q has neither a key %q nor %q", name, v1alpha1.ClientCAKey, "ca.crt")
}

func (s one) get(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, field, name string) (
	*corev1.Secret, error,
) {
	var secret corev1.Secret
	err := reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, problem.New(v1alpha1.SealReadyCondition, v1alpha1.ReasonSecretNotFound,
			"%s.%s.%s: Secret %q does not exist", s.field, s.Type(), field, name)
	case err != nil:
		return nil, fmt.Errorf("reading Secret %q: %w", name, err)
	}
	return &secret, nil
}

// checkCredentials never quotes what is in the Secret.
func checkCredentials(policy *v1alpha1.SealPolicy, secret *corev1.Secret) error {
	for _, key := range policy.CredentialsKeys() {
		value, found := secret.Data[key]
		switch {
		case !found:
			return badSecret("Secret %q has no key %q", secret.Name, key)
		case len(value) == 0:
			return badSecret("Secret %q, key %q is empty", secret.Name, key)
		case key == "credentials.json":
			var file struct{ Type string }
			if json.Unmarshal(value, &file) != nil || file.Type == "" {
				return badSecret("Secret %q, key %q is not a key file of Google Cloud", secret.Name, key)
			}
		case key == "config" || key == "key.pem":
		// Vault takes the file as it is, and refuses a token with a newline.
		case slices.ContainsFunc(value, func(b byte) bool { return b <= ' ' || b > '~' }):
			return badSecret("Secret %q, key %q has a space, a newline or something else that is not printable",
				secret.Name, key)
		}
	}
	return nil
}

// filesSince is the version from which on Vault reads a token, an access key or a client
// secret of a seal from the file that the configuration names. An older one would take the
// name for the credential.
// https://github.com/hashicorp/vault/pull/29402
const filesSince = "1.19.0"

// checkVersion refuses a version of Vault that cannot read the credentials. The files of
// Google Cloud and of Oracle are read by their own clients, in any version.
func (s one) checkVersion(version string) error {
	ownFiles := s.GCPCKMS != nil || s.OCIKMS != nil
	if s.CredentialsSecretName() == "" || ownFiles || !vaultversion.Valid(version) ||
		!vaultversion.Lower(version, filesSince) {
		return nil
	}
	return invalid("%s.%s.credentialsSecretName needs Vault %s or later, which reads credentials from files, "+
		"and spec.version is %s", s.field, s.Type(), filesSince, version)
}

// checkMounts refuses what would be in the place of the seal's volume.
func checkMounts(pod *v1alpha1.PodPolicy) error {
	for _, v := range pod.Volumes {
		if v.Name == volume {
			return invalid("spec.pod.volumes: with spec.seal the volume %q is the operator's", v.Name)
		}
	}
	for _, mount := range pod.VolumeMounts {
		if mount.MountPath == "/vault/seal" || strings.HasPrefix(mount.MountPath, "/vault/seal/") {
			return invalid("spec.pod.volumeMounts: with spec.seal %q is the operator's", mount.MountPath)
		}
	}
	return nil
}

// checkAddress refuses a Vault that would unseal itself by itself: once all of its nodes are
// sealed nobody could unseal it.
func (s one) checkAddress(vault *v1alpha1.Vault) error {
	address := s.Transit.Address
	parsed, err := url.Parse(address)
	if err != nil || parsed.Hostname() == "" {
		return invalid("%s.transit.address is not a URL", s.field)
	}
	if isOwn(vault, parsed.Hostname()) {
		return invalid("%s.transit.address %q is this Vault itself, which could not be unsealed any more when "+
			"all of its nodes are sealed: use the transit secrets engine of another Vault", s.field, address)
	}
	return nil
}

// isOwn says that a host is a node of the Vault, by any of the names that Kubernetes has
// for it.
// https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/
func isOwn(vault *v1alpha1.Vault, host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if address, err := netip.ParseAddr(host); err == nil {
		return address.IsLoopback() || address.IsUnspecified()
	}
	if host == "localhost" {
		return true
	}
	labels := strings.Split(host, ".")
	services := []string{vault.Name, vault.Name + "-nodes"}
	if slices.Contains(services, labels[0]) && inNamespace(vault, labels[1:]) {
		return true
	}
	// One pod, by its address or its name. A name of two labels may also be somebody else's.
	return len(labels) > 1 && (labels[1] == services[1] || labels[1] == services[0] && len(labels) > 2) &&
		inNamespace(vault, labels[2:])
}

// inNamespace says that what follows the name of a Service leads to the namespace of the
// Vault.
func inNamespace(vault *v1alpha1.Vault, rest []string) bool {
	return len(rest) == 0 || rest[0] == vault.Namespace && (len(rest) == 1 || rest[1] == "svc")
}
