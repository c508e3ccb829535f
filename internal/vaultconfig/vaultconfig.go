// Package vaultconfig reads and checks the Vault configuration that a user brings in
// a ConfigMap or a Secret, and puts it where the Vault nodes find it.
package vaultconfig

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// Config is the configuration that a user brings: HCL by the name of the file that
// Vault is to read, and what else the HCL names, by names that do not end in ".hcl".
type Config map[string][]byte

// Files of a Config. Vault reads them in this order.
const (
	configMapFile = "configmap.hcl"
	secretFile    = "secret.hcl"
)

// Load returns the configuration that the Vault names, checked. What the user has to
// fix is a *problem.Error; any other error says that the API server could not be read
// from.
func Load(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (Config, error) {
	config := Config{}
	if name := string(vault.Spec.ConfigMapName); name != "" {
		var configMap corev1.ConfigMap
		from := origin{"configMapName", "ConfigMap", name, v1alpha1.ReasonConfigMapNotFound, elsewhere(vault)}
		if err := from.get(ctx, reader, vault.Namespace, &configMap); err != nil {
			return nil, err
		}
		text, ok := configMap.Data[v1alpha1.ConfigMapKey]
		if err := from.check(text, ok); err != nil {
			return nil, err
		}
		config[configMapFile] = []byte(text)
	}
	if name := string(vault.Spec.ConfigSecretName); name != "" {
		var secret corev1.Secret
		from := origin{"configSecretName", "Secret", name, v1alpha1.ReasonConfigSecretNotFound, elsewhere(vault)}
		if err := from.get(ctx, reader, vault.Namespace, &secret); err != nil {
			return nil, err
		}
		text, ok := secret.Data[v1alpha1.ConfigMapKey]
		if err := from.check(string(text), ok); err != nil {
			return nil, err
		}
		config[secretFile] = text
	}
	if vault.HasExternal() {
		if err := loadStorage(ctx, reader, vault, config); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// origin is the object that a user's configuration is in.
type origin struct {
	field, kind, name string
	// notFound is the reason of the condition when it is missing.
	notFound string
	// elsewhere are the keys that must not be in it because the spec sets them.
	elsewhere []string
}

func elsewhere(vault *v1alpha1.Vault) []string {
	if vault.Spec.Seal != nil || vault.OldSeal() != nil {
		return seals
	}
	return nil
}

func (o origin) get(ctx context.Context, reader client.Reader, namespace string, object client.Object) error {
	err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: o.name}, object)
	switch {
	case apierrors.IsNotFound(err):
		return refused(o.notFound, "spec.%s: %s %q does not exist", o.field, o.kind, o.name)
	case err != nil:
		return fmt.Errorf("reading %s %q: %w", o.kind, o.name, err)
	}
	return nil
}

func (o origin) check(text string, found bool) error {
	if !found {
		return refused(v1alpha1.ReasonConfigInvalid, "%s %q has no key %q", o.kind, o.name, v1alpha1.ConfigMapKey)
	}
	if err := checkText(text, o.elsewhere...); err != nil {
		return refused(v1alpha1.ReasonConfigInvalid, "%s %q, key %q: %v", o.kind, o.name, v1alpha1.ConfigMapKey, err)
	}
	return nil
}

// refused is the error for a configuration that cannot be used.
func refused(reason, format string, args ...any) error {
	return problem.New(v1alpha1.ConfigValidCondition, reason, format, args...)
}

// Check says what is wrong with the configuration that the Vault names, as Load does.
func Check(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	_, err := Load(ctx, reader, vault)
	return err
}

// Accepted is what the condition ConfigValid says when nothing is wrong.
func Accepted(spec *v1alpha1.VaultSpec) (reason, message string) {
	if external := spec.Storage.External; external != nil {
		defer func() { message += fmt.Sprintf("; Secret %q is used for the storage", external.ConfigSecretName) }()
	}
	switch configMap, secret := spec.ConfigMapName, spec.ConfigSecretName; {
	case configMap != "" && secret != "":
		message = fmt.Sprintf("ConfigMap %q and Secret %q are used", configMap, secret)
	case configMap != "":
		message = fmt.Sprintf("ConfigMap %q is used", configMap)
	case secret != "":
		message = fmt.Sprintf("Secret %q is used", secret)
	default:
		message = "No ConfigMap is named in spec.configMapName, and no Secret in spec.configSecretName"
	}
	return v1alpha1.ReasonConfigAccepted, message
}
