// Package vaultconfig reads and checks the Vault configuration that a user
// brings in a ConfigMap, before it may reach a Vault node.
package vaultconfig

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Error is a configuration that cannot be used: something for the user to mend.
type Error struct {
	// Reason is one of the reasons of the condition ConfigValid.
	Reason string
	// Message names the ConfigMap and what is wrong with it.
	Message string
}

func (e *Error) Error() string { return e.Message }

// Load returns the HCL of the ConfigMap that the Vault names, checked, or the
// empty string when it names none. What the user has to mend is an *Error; any
// other error says that the API server could not be asked.
func Load(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (string, error) {
	name := vault.Spec.ConfigMapName
	if name == "" {
		return "", nil
	}
	var configMap corev1.ConfigMap
	err := reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, &configMap)
	switch {
	case apierrors.IsNotFound(err):
		return "", &Error{v1alpha1.ReasonConfigMapNotFound, fmt.Sprintf("spec.configMapName: ConfigMap %q does not exist", name)}
	case err != nil:
		return "", fmt.Errorf("reading ConfigMap %q: %w", name, err)
	}
	text, ok := configMap.Data[v1alpha1.ConfigMapKey]
	if !ok {
		return "", &Error{v1alpha1.ReasonConfigInvalid, fmt.Sprintf("ConfigMap %q has no key %q", name, v1alpha1.ConfigMapKey)}
	}
	if err := Check(text); err != nil {
		return "", &Error{v1alpha1.ReasonConfigInvalid, fmt.Sprintf("ConfigMap %q, key %q: %v", name, v1alpha1.ConfigMapKey, err)}
	}
	return text, nil
}
