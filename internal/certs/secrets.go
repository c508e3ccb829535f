package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Keys of the Secrets that only the operator and its chart read.
const (
	caCertKey     = "ca.crt"
	caKeyKey      = "ca.key"
	clientCertKey = "client.crt"
	clientKeyKey  = "client.key"
)

// Error is a Secret that cannot be used: something for the user to mend.
type Error struct {
	// Reason is one of the reasons of the condition TLSReady.
	Reason string
	// Message names the Secret and what is wrong with it.
	Message string
}

func (e *Error) Error() string { return e.Message }

// leaf is a Secret with a certificate that an authority signs.
type leaf struct {
	secret string
	// data makes the Secret's content.
	data func(ca KeyPair) (map[string][]byte, error)
}

// authority is a CA and what it signs. Each purpose has its own, so that what
// one signs means nothing to the other.
type authority struct {
	secret     string
	commonName string
	leaves     []leaf
}

// Ensure makes the Secrets with certificates that this Vault needs and that do
// not exist; one that exists is never written. The Vault owns them, so they go
// when it goes. The reader must not be a cache: a stale "not found" would make
// a second authority.
func Ensure(ctx context.Context, c client.Client, reader client.Reader, vault *v1alpha1.Vault) error {
	for _, a := range authorities(vault) {
		if err := ensureAuthority(ctx, c, reader, vault, a); err != nil {
			return err
		}
	}
	return nil
}

func authorities(vault *v1alpha1.Vault) []authority {
	all := []authority{etcdAuthority(vault)}
	if !vault.HasStaticTLS() {
		all = append(all, vaultAuthority(vault))
	}
	return all
}

func vaultAuthority(vault *v1alpha1.Vault) authority {
	return authority{
		secret:     vault.Name + "-default-vault-ca",
		commonName: vault.Name + " Vault CA",
		leaves: []leaf{
			{vault.ServerSecretName(), func(ca KeyPair) (map[string][]byte, error) {
				server, err := Sign(ca, vault.ServerName(), []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
					ServerNames(vault), net.IPv4(127, 0, 0, 1), net.IPv6loopback)
				return map[string][]byte{v1alpha1.ServerCertKey: server.Cert, v1alpha1.ServerKeyKey: server.Key}, err
			}},
			{vault.ClientSecretName(), func(ca KeyPair) (map[string][]byte, error) {
				return map[string][]byte{v1alpha1.ClientCAKey: ca.Cert}, nil
			}},
		},
	}
}

func etcdAuthority(vault *v1alpha1.Vault) authority {
	service := vault.EtcdName() + "." + vault.Namespace + ".svc"
	forVault := vault.EtcdName() + "-client." + vault.Namespace + ".svc"
	return authority{
		secret:     vault.EtcdName() + "-ca",
		commonName: vault.Name + " etcd CA",
		leaves: []leaf{
			{vault.EtcdServerSecretName(), func(ca KeyPair) (map[string][]byte, error) {
				// Members are clients of each other, so the usage is both.
				server, err := Sign(ca, service, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
					[]string{service, "*." + service, forVault, "localhost"}, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
				return map[string][]byte{
					v1alpha1.ServerCertKey: server.Cert, v1alpha1.ServerKeyKey: server.Key, caCertKey: ca.Cert,
				}, err
			}},
			{vault.EtcdClientSecretName(), func(ca KeyPair) (map[string][]byte, error) {
				client, err := Sign(ca, "vault", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil)
				return map[string][]byte{clientCertKey: client.Cert, clientKeyKey: client.Key, caCertKey: ca.Cert}, err
			}},
		},
	}
}

// ServerNames are the DNS names that the certificate of the Vault nodes is made for.
func ServerNames(vault *v1alpha1.Vault) []string {
	name, namespace := vault.Name, vault.Namespace
	nodes := name + "-nodes." + namespace + ".svc"
	return []string{
		"localhost", // port-forward, and "vault" run in the pod
		vault.ServerName(), name, name + "." + namespace, vault.ServerName() + ".cluster.local",
		// Single nodes: the DNS records of the headless Service, and of pods.
		// https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/
		"*." + nodes, "*." + nodes + ".cluster.local", "*." + namespace + ".pod",
	}
}

// ensureAuthority makes what is missing of an authority and its leaves. The CA
// is needed, and so made, only when a leaf is missing. The leaves that exist
// must come from the CA that exists: when the CA alone was lost, a new one
// could not sign for them, and the user is told to remove them all.
func ensureAuthority(ctx context.Context, c client.Client, reader client.Reader, vault *v1alpha1.Vault, a authority) error {
	var missing []leaf
	for _, l := range a.leaves {
		_, err := getOwn(ctx, reader, vault, l.secret)
		switch {
		case apierrors.IsNotFound(err):
			missing = append(missing, l)
		case err != nil:
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ca, err := ensureCA(ctx, c, reader, vault, a, len(missing) < len(a.leaves))
	if err != nil {
		return err
	}
	for _, l := range missing {
		data, err := l.data(ca)
		if err != nil {
			return fmt.Errorf("making Secret %q: %w", l.secret, err)
		}
		if err := createSecret(ctx, c, vault, l.secret, data); err != nil {
			return err
		}
	}
	return nil
}

func ensureCA(ctx context.Context, c client.Client, reader client.Reader, vault *v1alpha1.Vault, a authority, inUse bool) (KeyPair, error) {
	secret, err := getOwn(ctx, reader, vault, a.secret)
	if err == nil {
		return KeyPair{Cert: secret.Data[caCertKey], Key: secret.Data[caKeyKey]}, nil
	}
	if !apierrors.IsNotFound(err) {
		return KeyPair{}, err
	}
	if inUse {
		names := make([]string, 0, len(a.leaves))
		for _, l := range a.leaves {
			names = append(names, l.secret)
		}
		return KeyPair{}, &Error{v1alpha1.ReasonSecretNotFound, fmt.Sprintf(
			"Secret %q with the certificate authority is missing; restore it, or delete the Secrets %q and restart the pods to begin with a new one", a.secret, names)}
	}
	ca, err := NewCA(a.commonName)
	if err != nil {
		return KeyPair{}, err
	}
	return ca, createSecret(ctx, c, vault, a.secret, map[string][]byte{caCertKey: ca.Cert, caKeyKey: ca.Key})
}

func get(ctx context.Context, reader client.Reader, namespace, name string) (*corev1.Secret, error) {
	var secret corev1.Secret
	err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading Secret %q: %w", name, err)
	}
	return &secret, err
}

// getOwn reads a Secret that is not another Vault's: one of an earlier Vault of
// the same name is about to be deleted by the garbage collector, and what nodes
// begin to serve with must not be.
func getOwn(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, name string) (*corev1.Secret, error) {
	secret, err := get(ctx, reader, vault.Namespace, name)
	if err != nil {
		return nil, err
	}
	if owner := metav1.GetControllerOf(secret); owner != nil && owner.UID != vault.UID {
		return nil, fmt.Errorf("waiting for the deletion of Secret %q, which belongs to another %s of the name %q", name, owner.Kind, owner.Name)
	}
	return secret, nil
}

func createSecret(ctx context.Context, c client.Client, vault *v1alpha1.Vault, name string, data map[string][]byte) error {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace,
			Name:      name,
			Labels: map[string]string{
				v1alpha1.NameLabel:     v1alpha1.AppName,
				v1alpha1.InstanceLabel: vault.Name,
			},
		},
		Data: data,
	}
	if err := controllerutil.SetControllerReference(vault, secret, c.Scheme()); err != nil {
		return err
	}
	if err := c.Create(ctx, secret); err != nil {
		return fmt.Errorf("creating Secret %q: %w", name, err)
	}
	return nil
}

// Check says what is wrong with the Secrets that the Vault nodes and their
// clients use. What the user has to mend is an *Error; any other error says
// that the API server could not be asked.
func Check(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, now time.Time) error {
	server, err := require(ctx, reader, vault.Namespace, vault.ServerSecretName(), v1alpha1.ServerCertKey, v1alpha1.ServerKeyKey)
	if err != nil {
		return err
	}
	ca, err := require(ctx, reader, vault.Namespace, vault.ClientSecretName(), v1alpha1.ClientCAKey)
	if err != nil {
		return err
	}
	pair := KeyPair{Cert: server[v1alpha1.ServerCertKey], Key: server[v1alpha1.ServerKeyKey]}
	if err := Verify(pair, ca[v1alpha1.ClientCAKey], vault.ServerName(), now); err != nil {
		return &Error{v1alpha1.ReasonSecretInvalid, fmt.Sprintf("Secrets %q and %q: %v",
			vault.ServerSecretName(), vault.ClientSecretName(), err)}
	}
	return nil
}

// require returns the content of a Secret that has all keys.
func require(ctx context.Context, reader client.Reader, namespace, name string, keys ...string) (map[string][]byte, error) {
	secret, err := get(ctx, reader, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, &Error{v1alpha1.ReasonSecretNotFound, fmt.Sprintf("Secret %q does not exist", name)}
	}
	if err != nil {
		return nil, err
	}
	missing := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return len(secret.Data[key]) > 0 })
	if len(missing) > 0 {
		return nil, &Error{v1alpha1.ReasonSecretInvalid, fmt.Sprintf("Secret %q has no key %q", name, missing)}
	}
	return secret.Data, nil
}
