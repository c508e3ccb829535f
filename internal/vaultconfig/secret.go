package vaultconfig

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"helm.sh/helm/v3/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Secret is where Vault nodes find the configuration that a user brings. The zero
// value means that there is none.
type Secret struct {
	Name string
	// Keys are those of the files that Vault is to read.
	Keys []string
}

// EnsureSecret makes the immutable Secret that holds the configuration. Another
// configuration is another Secret, so a pod keeps what it was made with. That the
// Secret is there is believed of the cache.
func EnsureSecret(
	ctx context.Context, c client.Client, cache, apiReader client.Reader, vault *v1alpha1.Vault, config Config,
) (Secret, error) {
	if len(config) == 0 {
		return Secret{}, nil
	}
	name, err := secretName(vault, config)
	if err != nil {
		return Secret{}, err
	}
	result := Secret{Name: name, Keys: slices.Sorted(maps.Keys(config))}
	result.Keys = slices.DeleteFunc(result.Keys, func(key string) bool { return !isHCL(key) })
	key := types.NamespacedName{Namespace: vault.Namespace, Name: name}
	metadata := metadataOf("Secret")
	if err := cache.Get(ctx, key, metadata); err == nil && metav1.IsControlledBy(metadata, vault) {
		return result, nil
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: name, Labels: vault.ConfigLabels()},
		Immutable:  new(true),
		Data:       config,
	}
	if err := controllerutil.SetControllerReference(vault, secret, c.Scheme()); err != nil {
		return Secret{}, err
	}
	err = c.Create(ctx, secret)
	if apierrors.IsAlreadyExists(err) {
		err = adopt(ctx, c, apiReader, vault, secret)
	}
	if err != nil {
		return Secret{}, fmt.Errorf("making Secret %q with the configuration: %w", name, err)
	}
	return result, nil
}

// adopt takes over a Secret that the cache did not have, or that a backup tool has
// restored without its owner.
func adopt(
	ctx context.Context, c client.Client, apiReader client.Reader, vault *v1alpha1.Vault, want *corev1.Secret,
) error {
	var secret corev1.Secret
	if err := apiReader.Get(ctx, client.ObjectKeyFromObject(want), &secret); err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(secret.Data, want.Data) {
		return fmt.Errorf("one of this name exists and holds something else: delete it")
	}
	if metav1.IsControlledBy(&secret, vault) || !equality.Semantic.DeepDerivative(want.Labels, secret.Labels) {
		return nil // made by hand: usable, and not the operator's to delete
	}
	before := secret.DeepCopy()
	if err := controllerutil.SetControllerReference(vault, &secret, c.Scheme()); err != nil {
		return err
	}
	return c.Patch(ctx, &secret, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// iterations make it slow to guess a secret in the configuration by the name of
// its Secret, which more people may read than its content: some 20 ms a guess.
const iterations = 100_000

// secretName is a name that changes with the content, and with the Vault.
func secretName(vault *v1alpha1.Vault, config Config) (string, error) {
	encoded, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	hash, err := pbkdf2.Key(sha256.New, string(encoded), []byte(vault.UID), iterations, 5)
	if err != nil {
		return "", err
	}
	return vault.Name + "-vault-config-" + hex.EncodeToString(hash), nil
}

// KeepConfigMap makes Helm keep the ConfigMap that an operator of version 0.1.0 has
// rendered, when it is not rendered any more: pods of that time have it mounted.
func KeepConfigMap(
	ctx context.Context, c client.Client, cache, apiReader client.Reader, vault *v1alpha1.Vault,
) error {
	key := types.NamespacedName{Namespace: vault.Namespace, Name: vault.OldConfigMapName()}
	metadata := metadataOf("ConfigMap")
	if err := cache.Get(ctx, key, metadata); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !metav1.IsControlledBy(metadata, vault) {
		return nil // a user's
	}
	metadata = metadataOf("ConfigMap") // the cache may be without annotations
	if err := apiReader.Get(ctx, key, metadata); err != nil {
		return client.IgnoreNotFound(err)
	}
	if metadata.Annotations[kube.ResourcePolicyAnno] == kube.KeepPolicy {
		return nil
	}
	patch := fmt.Sprintf(`{"metadata": {"uid": %q, "annotations": {%q: %q}}}`,
		metadata.UID, kube.ResourcePolicyAnno, kube.KeepPolicy)
	if err := c.Patch(ctx, metadata, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		return fmt.Errorf("keeping ConfigMap %q for the pods that have it mounted: %w", key.Name, err)
	}
	return nil
}

func metadataOf(kind string) *metav1.PartialObjectMetadata {
	metadata := &metav1.PartialObjectMetadata{}
	metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return metadata
}
