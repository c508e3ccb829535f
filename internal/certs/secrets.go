package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// Keys of the Secrets that only the operator and its chart read.
const (
	caCertKey     = "ca.crt"
	caKeyKey      = "ca.key"
	clientCertKey = "client.crt"
	clientKeyKey  = "client.key"
)

// refused is the error for a Secret that cannot be used.
func refused(reason, format string, args ...any) error {
	return problem.New(v1alpha1.TLSReadyCondition, reason, format, args...)
}

// generated is the error for Secrets that do not exist and that the operator makes.
func generated(reason, format string, args ...any) error {
	return &problem.Error{
		Condition: v1alpha1.TLSReadyCondition, Reason: reason, Message: fmt.Sprintf(format, args...), Generated: true,
	}
}

// leaf is a Secret with a certificate that a CA signs.
type leaf struct {
	secret string
	// data makes the Secret's content.
	data func(ca KeyPair, now time.Time) (map[string][]byte, error)
}

// issuer is a CA and what it signs. Each purpose has its own, so that what
// one signs means nothing to the other.
type issuer struct {
	secret     string
	commonName string
	leaves     []leaf
}

func (i issuer) leafSecrets() []string { return secretsOf(i.leaves) }

func secretsOf(leaves []leaf) []string {
	names := make([]string, 0, len(leaves))
	for _, l := range leaves {
		names = append(names, l.secret)
	}
	return names
}

// lost are Secrets that do not exist: CAs, and certificates that they have signed.
type lost struct{ cas, leaves []string }

func (l *lost) add(i issuer, leaves []string) {
	l.cas = append(l.cas, i.secret)
	l.leaves = append(l.leaves, leaves...)
}

// err is the error for CAs that are lost and that pods still trust. It names all that
// has to be restored, and is nil when nothing is lost.
func (l *lost) err() error {
	if len(l.cas) == 0 {
		return nil
	}
	return generated(v1alpha1.ReasonAuthorityLost, "Secrets with a CA are gone: %s; and with them what was signed: %s. "+
		"No second CA is made while pods trust the first one: restore all of these from a backup. "+
		"Without a backup follow 'When a certificate authority is lost' in docs/tls.md", quoted(l.cas), quoted(l.leaves))
}

// quoted lists names for a message.
func quoted(names []string) string {
	return `"` + strings.Join(names, `", "`) + `"`
}

// Clients are what Ensure reads and writes with.
type Clients struct {
	// Client writes.
	client.Client
	// Cache holds the metadata of Secrets, and the pods, Deployments and
	// StatefulSets of Vaults.
	Cache client.Reader
	// APIReader reads from the API server.
	APIReader client.Reader
	Clock     clock.PassiveClock
}

// Ensure makes the Secrets with certificates that this Vault needs and that do
// not exist, and returns what it made, which the cache may not have yet. The content
// of a Secret that exists is never written. The Vault owns them, so they go when it
// goes; one that a backup tool has restored without its owner is adopted.
//
// The cache may be late, so that something is missing is for the API server to say:
// it refuses to create what is there. A CA that nothing is known of is made
// so; one that something is known of is read first, since a second CA would be
// worse than none.
func Ensure(ctx context.Context, c Clients, vault *v1alpha1.Vault) ([]*corev1.Secret, error) {
	var made []*corev1.Secret
	var gone lost
	for _, i := range issuers(vault) {
		more, err := ensureIssuer(ctx, c, vault, i, &gone)
		if err != nil {
			return nil, err
		}
		made = append(made, more...)
	}
	return made, gone.err()
}

func issuers(vault *v1alpha1.Vault) []issuer {
	var all []issuer
	if vault.HasEtcd() {
		all = append(all, etcdIssuer(vault))
	}
	if !vault.HasStaticTLS() {
		all = append(all, vaultIssuer(vault))
	}
	return all
}

func vaultIssuer(vault *v1alpha1.Vault) issuer {
	return issuer{
		secret:     vault.Name + "-default-vault-ca",
		commonName: vault.Name + " Vault CA",
		leaves: []leaf{
			{vault.ServerSecretName(), func(ca KeyPair, now time.Time) (map[string][]byte, error) {
				server, err := Sign(ca, vault.ServerName(), []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
					serverNames(vault), now, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
				return map[string][]byte{v1alpha1.ServerCertKey: server.Cert, v1alpha1.ServerKeyKey: server.Key}, err
			}},
			{vault.ClientSecretName(), func(ca KeyPair, _ time.Time) (map[string][]byte, error) {
				return map[string][]byte{v1alpha1.ClientCAKey: ca.Cert}, nil
			}},
		},
	}
}

func etcdIssuer(vault *v1alpha1.Vault) issuer {
	service := etcdServerName(vault)
	forVault := vault.EtcdName() + "-client." + vault.Namespace + ".svc"
	return issuer{
		secret:     vault.EtcdName() + "-ca",
		commonName: vault.Name + " etcd CA",
		leaves: []leaf{
			{vault.EtcdServerSecretName(), func(ca KeyPair, now time.Time) (map[string][]byte, error) {
				// Members are clients of each other, so the usage is both.
				server, err := Sign(ca, service, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
					[]string{service, "*." + service, forVault, "localhost"}, now, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
				return map[string][]byte{
					v1alpha1.ServerCertKey: server.Cert, v1alpha1.ServerKeyKey: server.Key, caCertKey: ca.Cert,
				}, err
			}},
			{vault.EtcdClientSecretName(), func(ca KeyPair, now time.Time) (map[string][]byte, error) {
				client, err := Sign(ca, "vault", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil, now)
				return map[string][]byte{clientCertKey: client.Cert, clientKeyKey: client.Key, caCertKey: ca.Cert}, err
			}},
		},
	}
}

// etcdServerName is a DNS name that the certificate of every member is valid for.
func etcdServerName(vault *v1alpha1.Vault) string {
	return vault.EtcdName() + "." + vault.Namespace + ".svc"
}

// CASecretNames are the names of the Secrets with the CAs that the
// operator makes for a Vault.
func CASecretNames(vault *v1alpha1.Vault) []string {
	var names []string
	for _, i := range issuers(vault) {
		names = append(names, i.secret)
	}
	return names
}

// serverNames are the DNS names that the certificate of the Vault nodes is made for.
func serverNames(vault *v1alpha1.Vault) []string {
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

// ensureIssuer makes what is missing of a CA and its leaves. The CA
// is needed, and so made, only when a leaf is missing. The leaves that exist
// must come from the CA that exists: when the CA was lost, a new one could not
// sign for them, nor for what pods have mounted: it is added to gone then.
func ensureIssuer(
	ctx context.Context, c Clients, vault *v1alpha1.Vault, i issuer, gone *lost,
) ([]*corev1.Secret, error) {
	err := adopt(ctx, c, vault, i.secret)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	known := err == nil
	var missing []leaf
	for _, l := range i.leaves {
		if err := adopt(ctx, c, vault, l.secret); apierrors.IsNotFound(err) {
			missing = append(missing, l)
		} else if err != nil {
			return nil, err
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	caSecret, err := ensureCA(ctx, c, vault, i, known, missing)
	if err != nil {
		return nil, err
	}
	if caSecret == nil {
		gone.add(i, secretsOf(missing))
		return nil, nil
	}
	if err := fits(ctx, c.APIReader, vault, i, secretsOf(missing), caSecret); err != nil {
		return nil, err
	}
	made := []*corev1.Secret{caSecret}
	ca := KeyPair{Cert: caSecret.Data[caCertKey], Key: caSecret.Data[caKeyKey]}
	for _, l := range missing {
		data, err := l.data(ca, c.Clock.Now())
		if err != nil {
			return nil, fmt.Errorf("making Secret %q: %w", l.secret, err)
		}
		secret, err := createSecret(ctx, c, vault, l.secret, data)
		if err != nil {
			return nil, err
		}
		made = append(made, secret)
	}
	return made, nil
}

// ensureCA returns the Secret with the CA, or nil when it is lost. The cache knows
// of it, or does not.
func ensureCA(
	ctx context.Context, c Clients, vault *v1alpha1.Vault, i issuer, known bool, missing []leaf,
) (*corev1.Secret, error) {
	trusted, err := mounted(ctx, c.Cache, vault, i.leafSecrets())
	if err != nil {
		return nil, err
	}
	if trusted = trusted || len(missing) < len(i.leaves); known || trusted {
		secret, err := getOwn(ctx, c.APIReader, vault, i.secret)
		if !apierrors.IsNotFound(err) {
			return secret, err
		}
	}
	if trusted {
		return nil, nil
	}
	ca, err := NewCA(i.commonName, c.Clock.Now())
	if err != nil {
		return nil, err
	}
	return createSecret(ctx, c, vault, i.secret, map[string][]byte{caCertKey: ca.Cert, caKeyKey: ca.Key})
}

// fits says, as a *problem.Error, why the CA cannot sign for the Secrets that are missing: those that are left are of
// another one. Each side would refuse the other.
func fits(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, i issuer, missing []string, caSecret *corev1.Secret,
) error {
	cas := parsePEM(caSecret.Data[caCertKey])
	for _, l := range i.leaves {
		if slices.Contains(missing, l.secret) {
			continue
		}
		left, err := get(ctx, reader, vault.Namespace, l.secret)
		if apierrors.IsNotFound(err) {
			continue // it is missing by now
		}
		if err != nil {
			return err
		}
		if len(cas) > 0 && !of(left.Data, cas[0]) {
			return refused(v1alpha1.ReasonSecretInvalid, "Secret %q has another CA than Secret %q, which is of the same Vault, "+
				"and nothing is signed by it: restore the right CA, or delete both for new certificates if no pod runs",
				caSecret.Name, l.secret)
		}
	}
	return nil
}

// of says that a Secret which has been signed trusts the CA, or has a certificate of it if it trusts none. What
// cannot be read is for others to tell.
func of(data map[string][]byte, ca *x509.Certificate) bool {
	if trusted := parsePEM(slices.Concat(data[v1alpha1.ClientCAKey], data[caCertKey])); len(trusted) > 0 {
		return slices.ContainsFunc(trusted, func(t *x509.Certificate) bool {
			// One that was issued again with the same key proves the same.
			return bytes.Equal(t.RawSubject, ca.RawSubject) && bytes.Equal(t.RawSubjectPublicKeyInfo, ca.RawSubjectPublicKeyInfo)
		})
	}
	signed := parsePEM(data[v1alpha1.ServerCertKey])
	return len(signed) == 0 || signed[0].CheckSignatureFrom(ca) == nil
}

// mounted says that a pod of the Vault or its etcd has one of the Secrets mounted,
// or will have.
func mounted(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, secrets []string) (bool, error) {
	uses := func(spec *corev1.PodSpec) bool {
		return slices.ContainsFunc(spec.Volumes, func(volume corev1.Volume) bool {
			return volume.Secret != nil && slices.Contains(secrets, volume.Secret.SecretName)
		})
	}
	nodes, err := workload.Get(ctx, reader, vault)
	if err != nil || nodes != nil && uses(&nodes.Template.Spec) {
		return true, err
	}
	var set appsv1.StatefulSet
	err = reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: vault.EtcdName()}, &set)
	if client.IgnoreNotFound(err) != nil || err == nil && uses(&set.Spec.Template.Spec) {
		return true, client.IgnoreNotFound(err)
	}
	type lister func(context.Context, client.Reader, *v1alpha1.Vault) ([]corev1.Pod, error)
	for _, list := range []lister{pods.List, pods.Members} {
		all, err := list(ctx, reader, vault)
		if err != nil {
			return true, err
		}
		for i := range all {
			if !pods.Ended(&all[i]) && uses(&all[i].Spec) {
				return true, nil
			}
		}
	}
	return false, nil
}

// adopt makes the Vault the owner of a Secret which has its labels and no owner.
// The Secret is looked up in the cache.
func adopt(ctx context.Context, c Clients, vault *v1alpha1.Vault, name string) error {
	secret := secretMetadata()
	if err := c.Cache.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, secret); err != nil {
		return err
	}
	if owner := metav1.GetControllerOf(secret); owner != nil {
		return belongs(secret, vault)
	}
	labels := secret.Labels
	if labels[v1alpha1.NameLabel] != v1alpha1.AppName || labels[v1alpha1.InstanceLabel] != vault.Name {
		return nil // made by hand or by another tool: usable, and not the operator's to delete
	}
	before := secret.DeepCopy()
	if err := controllerutil.SetControllerReference(vault, secret, c.Scheme()); err != nil {
		return err
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := c.Patch(ctx, secret, patch); err != nil {
		return fmt.Errorf("adopting Secret %q: %w", name, err)
	}
	return nil
}

func secretMetadata() *metav1.PartialObjectMetadata {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return secret
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
	return secret, belongs(secret, vault)
}

// belongs says why a Secret is not this Vault's to use.
func belongs(secret client.Object, vault *v1alpha1.Vault) error {
	if owner := metav1.GetControllerOf(secret); owner != nil && owner.UID != vault.UID {
		return fmt.Errorf("waiting for the deletion of Secret %q, which belongs to another %s of the name %q",
			secret.GetName(), owner.Kind, owner.Name)
	}
	return nil
}

// createSecret makes a Secret, and returns it, or the one that is there already.
func createSecret(
	ctx context.Context, c Clients, vault *v1alpha1.Vault, name string, data map[string][]byte,
) (*corev1.Secret, error) {
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
		return nil, err
	}
	switch err := c.Create(ctx, secret); {
	case apierrors.IsAlreadyExists(err):
		return getOwn(ctx, c.APIReader, vault, name)
	case err != nil:
		return nil, fmt.Errorf("creating Secret %q: %w", name, err)
	}
	return secret, nil
}
