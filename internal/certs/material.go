package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Keys are the names under which the Secrets of the Vault nodes hold the
// certificate, its private key and the CA.
type Keys struct {
	Cert, Key, CA string
}

// keysOf chooses among the names that are accepted: the CoreOS operator's, and
// those of Kubernetes and of cert-manager. What is missing has the first name.
func keysOf(server, client map[string][]byte) Keys {
	keys := Keys{v1alpha1.ServerCertKey, v1alpha1.ServerKeyKey, v1alpha1.ClientCAKey}
	if len(server[keys.Cert]) == 0 && len(server[keys.Key]) == 0 && len(server[corev1.TLSCertKey]) > 0 {
		keys.Cert, keys.Key = corev1.TLSCertKey, corev1.TLSPrivateKeyKey
	}
	if len(client[keys.CA]) == 0 && len(client[caCertKey]) > 0 {
		keys.CA = caCertKey
	}
	return keys
}

// Material is what the Secrets of a Vault hold, parsed and without private keys.
type Material struct {
	// Keys are those of the Secrets of the Vault nodes.
	Keys Keys
	// Leaf is the certificate that the Vault nodes have to serve.
	Leaf *x509.Certificate

	chains []*chain
}

// Load reads the Secrets with the certificates of a Vault and its etcd, and parses
// them. What the user has to fix is a *problem.Error; any other error says that the
// API server could not be read from. Whether what it returns is valid changes with the
// time: Check tells.
func Load(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (*Material, error) {
	material := &Material{}
	if err := material.loadNodes(ctx, reader, vault); err != nil {
		return nil, err
	}
	if vault.HasEtcd() {
		if err := material.loadEtcd(ctx, reader, vault); err != nil {
			return nil, err
		}
	}
	return material, nil
}

func (m *Material) loadNodes(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	serverName, clientName := vault.ServerSecretName(), vault.ClientSecretName()
	server, err := read(ctx, reader, vault, serverName)
	if err != nil {
		return err
	}
	m.Keys = keysOf(server, nil)
	if err := require(serverName, server, m.Keys.Cert, m.Keys.Key); err != nil {
		return err
	}
	user := server
	if clientName != serverName {
		if user, err = read(ctx, reader, vault, clientName); err != nil {
			return err
		}
	}
	m.Keys = keysOf(server, user)
	if err := require(clientName, user, m.Keys.CA); err != nil {
		return err
	}
	nodes, err := newChain(KeyPair{Cert: server[m.Keys.Cert], Key: server[m.Keys.Key]}, user[m.Keys.CA])
	if err != nil {
		return invalid(serverName, clientName, err)
	}
	nodes.leafName = inSecret("the server certificate", serverName)
	nodes.caName = inSecret("the certificate authority", clientName)
	nodes.serverName = vault.ServerName()
	m.Leaf = nodes.leaf
	m.chains = append(m.chains, nodes)
	return nil
}

func (m *Material) loadEtcd(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	serverName, clientName := vault.EtcdServerSecretName(), vault.EtcdClientSecretName()
	server, err := read(ctx, reader, vault, serverName)
	if err != nil {
		return err
	}
	user, err := read(ctx, reader, vault, clientName)
	if err != nil {
		return err
	}
	if err := require(serverName, server, v1alpha1.ServerCertKey, v1alpha1.ServerKeyKey, caCertKey); err != nil {
		return err
	}
	if err := require(clientName, user, clientCertKey, clientKeyKey, caCertKey); err != nil {
		return err
	}
	member := KeyPair{Cert: server[v1alpha1.ServerCertKey], Key: server[v1alpha1.ServerKeyKey]}
	for _, side := range []struct {
		pair                     KeyPair
		ca                       []byte
		leafSecret, serverSecret string
		name                     string
		usage                    x509.ExtKeyUsage
	}{
		{member, user[caCertKey], serverName, clientName, etcdServerName(vault), x509.ExtKeyUsageServerAuth},
		// Members are clients of each other as well.
		{member, server[caCertKey], serverName, serverName, etcdServerName(vault), x509.ExtKeyUsageServerAuth},
		{member, server[caCertKey], serverName, serverName, "", x509.ExtKeyUsageClientAuth},
		{
			KeyPair{Cert: user[clientCertKey], Key: user[clientKeyKey]}, server[caCertKey], clientName, serverName, "",
			x509.ExtKeyUsageClientAuth,
		},
	} {
		c, err := newChain(side.pair, side.ca)
		if err != nil {
			return invalid(side.leafSecret, side.serverSecret, err)
		}
		c.leafName = inSecret("the certificate", side.leafSecret)
		c.caName = inSecret("the certificate authority", side.serverSecret)
		c.serverName, c.usage = side.name, side.usage
		m.chains = append(m.chains, c)
	}
	return nil
}

// EtcdClient is what a client of the Vault's etcd shows, and what it verifies members by: that
// which Vault itself has.
func EtcdClient(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (*tls.Config, error) {
	name := vault.EtcdClientSecretName()
	secret, err := getOwn(ctx, reader, vault, name)
	if err != nil {
		return nil, err
	}
	pair, err := keyPair(secret.Data[clientCertKey], secret.Data[clientKeyKey])
	if err != nil {
		return nil, refused(v1alpha1.ReasonSecretInvalid, "the certificate in Secret %q cannot be used", name)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		// An empty pool, unlike none, is not that of the system: without a CA nothing can be verified.
		RootCAs: poolOf(usable(secret.Data[caCertKey])), ServerName: etcdServerName(vault),
		MinVersion: tls.VersionTLS12,
	}, nil
}

func inSecret(what, secret string) string { return fmt.Sprintf("%s in Secret %q", what, secret) }

func invalid(leafSecret, caSecret string, err error) error {
	if leafSecret == caSecret {
		return refused(v1alpha1.ReasonSecretInvalid, "Secret %q: %v", leafSecret, err)
	}
	return refused(v1alpha1.ReasonSecretInvalid, "Secrets %q and %q: %v", leafSecret, caSecret, err)
}

// Check says what a client, or etcd, would refuse of the certificates now. When it
// refuses nothing it returns when each certificate that is needed ends.
func (m *Material) Check(now time.Time) (Expiries, error) {
	var expiries Expiries
	for _, c := range m.chains {
		proof, err := c.verify(now)
		if errors.Is(err, errExpired) {
			return nil, refused(v1alpha1.ReasonCertificateExpired, "%s", sentence(err))
		}
		if err != nil {
			return nil, refused(v1alpha1.ReasonSecretInvalid, "%s", sentence(err))
		}
		for i, certificate := range proof {
			name := c.leafName
			if i > 0 {
				name = c.caName
			}
			expiries = append(expiries, newExpiry(name, certificate))
		}
	}
	return expiries, nil
}

// sentence begins with a capital letter, as conditions do. The text is ours, in ASCII.
func sentence(err error) string {
	text := err.Error()
	return string(text[0]-'a'+'A') + text[1:]
}

// read returns the content of a Secret that has to exist.
func read(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, name string) (map[string][]byte, error) {
	secret, err := get(ctx, reader, vault.Namespace, name)
	if err == nil {
		return secret.Data, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	if err := Missing(ctx, reader, vault); err != nil {
		return nil, err
	}
	for _, i := range issuers(vault) {
		if slices.Contains(i.leafSecrets(), name) {
			return nil, beingMade(name) // what was read for Missing is older
		}
	}
	return nil, refused(v1alpha1.ReasonSecretNotFound, "Secret %q does not exist", name)
}

// beingMade is the error for Secrets that the operator is about to make.
func beingMade(names ...string) error {
	return generated(v1alpha1.ReasonSecretNotFound, "Secrets that do not exist and are being made: %s", quoted(names))
}

// Missing says, as a *problem.Error, which Secrets do not exist that the operator makes and pods
// mount. It is nil when all do.
func Missing(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	var gone lost
	var making []string
	for _, i := range issuers(vault) {
		leaves, err := missing(ctx, reader, vault, i.leafSecrets()...)
		if err != nil {
			return err
		}
		if len(leaves) == 0 {
			continue
		}
		switch ca, err := missing(ctx, reader, vault, i.secret); {
		case err != nil:
			return err
		case len(ca) > 0:
			gone.add(i, leaves)
		default:
			making = append(making, leaves...)
		}
	}
	if err := gone.err(); err != nil || len(making) == 0 {
		return err
	}
	return beingMade(making...)
}

// missing are those of the Secrets that do not exist.
func missing(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, names ...string) ([]string, error) {
	var result []string
	for _, name := range names {
		err := reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, secretMetadata())
		if apierrors.IsNotFound(err) {
			result = append(result, name)
		} else if err != nil {
			return nil, fmt.Errorf("reading Secret %q: %w", name, err)
		}
	}
	return result, nil
}

// require says which keys a Secret lacks.
func require(name string, data map[string][]byte, keys ...string) error {
	missing := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return len(data[key]) > 0 })
	if len(missing) > 0 {
		return refused(v1alpha1.ReasonSecretInvalid, "Secret %q has no key %q", name, missing)
	}
	return nil
}
