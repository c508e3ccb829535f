// Package references maps the Secrets and ConfigMaps that a Vault names to the
// Vault, so that a change of their content is noticed, and checks them. Only their
// metadata is watched: their content is read from the API server when it is needed.
package references

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// Names of the field indices.
const (
	secretIndex    = "references.secrets"
	configMapIndex = "references.configMaps"
)

// Index adds the field indices that the handlers below need.
func Index(ctx context.Context, mgr ctrl.Manager) error {
	indexer := mgr.GetFieldIndexer()
	if err := indexer.IndexField(ctx, &v1alpha1.Vault{}, secretIndex, secretsOf); err != nil {
		return err
	}
	return indexer.IndexField(ctx, &v1alpha1.Vault{}, configMapIndex, configMapsOf)
}

func secretsOf(obj client.Object) []string { return namesOf(obj, "Secret") }

func configMapsOf(obj client.Object) []string { return namesOf(obj, "ConfigMap") }

// namesOf are the names of the objects of a kind that a Vault uses.
func namesOf(obj client.Object, kind string) []string {
	vault := obj.(*v1alpha1.Vault)
	used := certificates(vault)
	for _, c := range Checks {
		used = append(used, c.objects(&vault.Spec)...)
	}
	var names []string
	for _, object := range used {
		if object.kind == kind {
			names = append(names, object.name)
		}
	}
	return names
}

// certificates are the Secrets with the certificates of a Vault and its etcd, if it has one.
func certificates(vault *v1alpha1.Vault) []object {
	// A CA is needed to make again what it has signed.
	names := append(certs.CASecretNames(vault), vault.ServerSecretName(), vault.ClientSecretName())
	if vault.HasEtcd() {
		names = append(names, vault.EtcdServerSecretName(), vault.EtcdClientSecretName())
	}
	result := make([]object, 0, len(names))
	for _, name := range names {
		result = append(result, object{"Secret", name})
	}
	return result
}

// sealSecrets are the Secrets for the key service of a Vault, and for that which its data is
// moved from.
func sealSecrets(spec *v1alpha1.VaultSpec) []object {
	var result []object
	old := (&v1alpha1.Vault{Spec: *spec}).OldSeal()
	for _, name := range []string{spec.Seal.CredentialsSecretName(), spec.Seal.CASecretName(),
		old.CredentialsSecretName(), old.CASecretName()} {
		if secret := (object{"Secret", name}); name != "" && !slices.Contains(result, secret) {
			result = append(result, secret)
		}
	}
	return result
}

// configs are what a Vault names for more configuration.
func configs(spec *v1alpha1.VaultSpec) []object {
	var result []object
	if spec.ConfigMapName != "" {
		result = append(result, object{"ConfigMap", string(spec.ConfigMapName)})
	}
	if spec.ConfigSecretName != "" {
		result = append(result, object{"Secret", string(spec.ConfigSecretName)})
	}
	if external := spec.Storage.External; external != nil {
		result = append(result, object{"Secret", string(external.ConfigSecretName)})
	}
	return result
}

// Secret is the object to watch for SecretHandler.
func Secret() client.Object { return metadataOf("Secret") }

// ConfigMap is the object to watch for ConfigMapHandler.
func ConfigMap() client.Object { return metadataOf("ConfigMap") }

func metadataOf(kind string) *metav1.PartialObjectMetadata {
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return obj
}

// SecretHandler reconciles the Vaults that use a Secret.
func SecretHandler(reader client.Reader) handler.EventHandler {
	return Naming(reader, secretIndex)
}

// ConfigMapHandler reconciles the Vaults that name a ConfigMap.
func ConfigMapHandler(reader client.Reader) handler.EventHandler {
	return Naming(reader, configMapIndex)
}

// Naming reconciles the Vaults that name an object, by a field index of the names.
func Naming(reader client.Reader, index string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []reconcile.Request {
		var vaults v1alpha1.VaultList
		named := client.MatchingFields{index: obj.GetName()}
		if err := reader.List(ctx, &vaults, client.InNamespace(obj.GetNamespace()), named); err != nil {
			return nil // the cache does not fail once it is synced
		}
		requests := make([]reconcile.Request, 0, len(vaults.Items))
		for i := range vaults.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&vaults.Items[i])})
		}
		return requests
	})
}
