// Package vaultconfig reads and checks the Vault configuration that a user
// brings in a ConfigMap, before it may reach a Vault node.
package vaultconfig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// owned are the top-level keys of Vault's configuration that the chart writes.
// https://developer.hashicorp.com/vault/docs/configuration
var owned = []string{
	"storage", "backend", "ha_storage", "ha_backend", // backend is the old name of storage
	"listener", "api_addr", "cluster_addr", "disable_clustering",
	"disable_mlock", "service_registration",
}

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

// Check says why a node could not be started with this HCL: it does not parse
// by the parser that Vault uses, or sets what the operator owns.
func Check(text string) error {
	// The chart stores the text in a YAML block, and Vault reads it as UTF-8.
	if strings.ContainsRune(text, 0) {
		return errors.New("contains a NUL byte")
	}
	file, err := hcl.Parse(text)
	if err != nil {
		return fmt.Errorf("does not parse as HCL: %w", err)
	}
	root, ok := file.Node.(*ast.ObjectList)
	if !ok {
		return errors.New("does not parse as HCL: the top level is not an object")
	}
	var conflicts []string
	for _, item := range root.Items {
		if len(item.Keys) == 0 {
			continue
		}
		key, ok := item.Keys[0].Token.Value().(string)
		// HCL matches keys without regard to case.
		if ok && slices.Contains(owned, strings.ToLower(key)) && !slices.Contains(conflicts, key) {
			conflicts = append(conflicts, key)
		}
	}
	if len(conflicts) > 0 {
		return fmt.Errorf("sets %s, which the operator owns", strings.Join(conflicts, ", "))
	}
	return nil
}
