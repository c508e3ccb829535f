package routing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// caVolume is the volume of a Vault pod that holds the CA of its certificate.
const caVolume = "tls-ca"

// maxCAs is how many versions of one CA are trusted at the same time: a pod serves
// with a certificate of an earlier one until it has loaded the newest.
const maxCAs = 3

// caSource is where the CA of a pod's certificate is.
type caSource struct {
	secret, key string
}

// caSourceOf returns the CA that the pod mounts: the Vault's spec may name another
// one since. A pod that mounts none is verified with what the spec names.
func caSourceOf(vault *v1alpha1.Vault, pod *corev1.Pod) caSource {
	for _, volume := range pod.Spec.Volumes {
		if volume.Name != caVolume || volume.Secret == nil || volume.Secret.SecretName == "" {
			continue
		}
		source := caSource{secret: volume.Secret.SecretName, key: v1alpha1.ClientCAKey}
		if items := volume.Secret.Items; len(items) > 0 {
			source.key = items[0].Key
		}
		return source
	}
	if vault == nil {
		return caSource{}
	}
	return caSource{secret: vault.ClientSecretName(), key: v1alpha1.ClientCAKey}
}

// trust keeps the CAs that the nodes of each Vault are verified with, so that a
// failover does not wait for the API server to give them out again, and a CA that
// becomes unusable blinds nobody.
type trust struct {
	mu      sync.Mutex
	entries map[types.NamespacedName]map[caSource]caEntry
}

// caEntry is a CA, and the version of the Secret that was looked at last.
type caEntry struct {
	version string
	// pems are the usable versions of the CA, the newest first. One that many Vaults have is in memory once.
	pems []unique.Handle[string]
	caSet
}

// caSet are CAs in PEM that a node is verified with.
type caSet struct {
	// newest is what the Secret has, and earlier is what it had.
	newest, earlier string
}

// cas returns for each pod the CAs that it is verified with. When one
// cannot be read it returns those that could be before, with the error, if the Secret is there. The
// metadata, from the cache, says whether it is still current; apiReader reads the content.
func (t *trust) cas(
	ctx context.Context, cached, apiReader client.Reader, vault *v1alpha1.Vault, list []corev1.Pod,
) (map[types.UID]caSet, error) {
	key := client.ObjectKeyFromObject(vault)
	t.mu.Lock()
	before := t.entries[key]
	t.mu.Unlock()
	after := map[caSource]caEntry{}
	result := map[types.UID]caSet{}
	var failed []error
	for i := range list {
		source := caSourceOf(vault, &list[i])
		entry, ok := after[source]
		if !ok {
			var err error
			if entry, err = refresh(ctx, cached, apiReader, vault.Namespace, source, before[source]); err != nil {
				failed = append(failed, client.IgnoreNotFound(err)) // the event of a Secret tells that it is there
			}
			after[source] = entry
		}
		result[list[i].UID] = entry.caSet
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil {
		t.entries = map[types.NamespacedName]map[caSource]caEntry{}
	}
	t.entries[key] = after
	return result, errors.Join(failed...)
}

// refresh returns the entry as the Secret has it now.
func refresh(
	ctx context.Context, cached, apiReader client.Reader, namespace string, source caSource, entry caEntry,
) (caEntry, error) {
	name := types.NamespacedName{Namespace: namespace, Name: source.secret}
	var metadata metav1.PartialObjectMetadata
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := cached.Get(ctx, name, &metadata); err != nil {
		return entry, fmt.Errorf("looking for Secret %q: %w", source.secret, err)
	}
	if entry.version == metadata.ResourceVersion {
		return entry, nil
	}
	// The labels must not wait for it.
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout/2)
	defer cancel()
	var secret corev1.Secret
	if err := apiReader.Get(ctx, name, &secret); err != nil {
		return entry, fmt.Errorf("reading Secret %q: %w", source.secret, err)
	}
	return entry.with(secret.ResourceVersion, string(secret.Data[source.key])), nil
}

// with returns the entry after another version of the Secret was read. A CA that
// is not usable takes the place of none, and the earlier ones together are no larger than one may be.
func (e caEntry) with(version, bundle string) caEntry {
	pem := string(certs.UsableCAs([]byte(bundle)))
	if pem == "" {
		e.version = version
		return e
	}
	newest := unique.Make(pem)
	after := caEntry{version: version, pems: []unique.Handle[string]{newest}, caSet: caSet{newest: newest.Value()}}
	var values []string
	size := 0
	for _, earlier := range e.pems {
		if earlier == newest {
			continue
		}
		value := earlier.Value()
		if size += len(value); len(after.pems) == maxCAs || size > certs.MaxPEM {
			break
		}
		after.pems, values = append(after.pems, earlier), append(values, value)
	}
	after.earlier = unique.Make(strings.Join(values, "\n")).Value()
	return after
}

func (t *trust) forget(vault types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, vault)
}
