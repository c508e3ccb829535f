package vaultconfig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/hcl/ast"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// maxStorageBytes is how much the Secret of an external storage may hold: that with the whole
// configuration has to stay below the megabyte that a Secret can have.
const maxStorageBytes = 256 << 10

// Storages of Vault that have a lock by which nodes agree on the active one: those that use it
// always, and those that do where the stanza says so. All others of Vault's own have none.
// They are the factories of physicalBackends with an HAEnabled, as of Vault 1.21.
// https://github.com/hashicorp/vault/blob/v1.21.0/command/commands_full.go
var (
	lockAlways   = []string{"consul", "zookeeper"}
	lockIfWanted = []string{
		"cockroachdb", "dynamodb", "etcd", "foundationdb", "gcs", "mysql", "oci", "postgresql", "spanner",
	}
)

// addresses are keys of a stanza that Vault takes for its own, whatever the storage is, and
// that the chart sets.
var addresses = []string{"api_addr", "redirect_addr", "advertise_addr", "cluster_addr", "disable_clustering"}

const haEnabled = "ha_enabled"

// isHCL says that Vault is to read a file of this name.
func isHCL(name string) bool { return strings.HasSuffix(name, ".hcl") }

// loadStorage adds what the Secret of the external storage holds to the configuration.
func loadStorage(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, config Config) error {
	external := vault.Spec.Storage.External
	name := string(external.ConfigSecretName)
	from := origin{"storage.external.configSecretName", "Secret", name, v1alpha1.ReasonConfigSecretNotFound, nil}
	var secret corev1.Secret
	if err := from.get(ctx, reader, vault.Namespace, &secret); err != nil {
		return err
	}
	wrong := func(format string, args ...any) error {
		return refused(v1alpha1.ReasonConfigInvalid, "Secret %q %s", name, fmt.Sprintf(format, args...))
	}
	text, ok := secret.Data[v1alpha1.StorageKey]
	if !ok {
		return wrong("has no key %q", v1alpha1.StorageKey)
	}
	parameters, err := storageStanza(string(text), external.Type)
	if err != nil {
		return wrong("key %q: %v", v1alpha1.StorageKey, err)
	}
	if vault.WantedNodes() > 1 && !sharable(external, parameters) {
		return wrong(`key %q: %s is not "true", without which nodes do not agree on the active one: `+
			"set it, or set spec.nodes to 1", v1alpha1.StorageKey, haEnabled)
	}
	size := 0
	for key, value := range secret.Data {
		if key != v1alpha1.StorageKey && isHCL(key) {
			return wrong("has a key beside %q that ends in .hcl: more configuration belongs into spec.configSecretName",
				v1alpha1.StorageKey)
		}
		size += len(value)
		config[key] = value
	}
	if size > maxStorageBytes {
		return wrong("is larger than %d KiB, which is the limit", maxStorageBytes>>10)
	}
	return nil
}

// Sharable says that several nodes can be run on the external storage of a Vault, by the
// configuration that was loaded for it.
func (c Config) Sharable(vault *v1alpha1.Vault) bool {
	external := vault.Spec.Storage.External
	parameters, err := storageStanza(string(c[v1alpha1.StorageKey]), external.Type)
	return err == nil && sharable(external, parameters)
}

func sharable(external *v1alpha1.ExternalStorage, parameters map[string]string) bool {
	switch {
	case slices.Contains(lockAlways, external.Type):
		return true
	case slices.Contains(lockIfWanted, external.Type):
		return parameters[haEnabled] == "true"
	}
	return external.HighAvailability
}

// storageStanza returns the parameters of the stanza of a storage that are strings, numbers or
// booleans. The error has no part of the text: see checkText.
func storageStanza(text, kind string) (map[string]string, error) {
	items, err := parseText(text)
	if err != nil {
		return nil, err
	}
	form := fmt.Errorf("must be one stanza storage %q and nothing else", kind)
	if len(items) != 1 || len(items[0].Keys) != 2 {
		return nil, form
	}
	for i, want := range []string{"storage", kind} {
		if key, ok := items[0].Keys[i].Token.Value().(string); !ok || key != want {
			return nil, form
		}
	}
	body, ok := items[0].Val.(*ast.ObjectType)
	if !ok {
		return nil, form
	}
	parameters := map[string]string{}
	for _, item := range body.List.Items {
		if len(item.Keys) == 0 {
			return nil, form
		}
		key, _ := item.Keys[0].Token.Value().(string)
		if slices.ContainsFunc(addresses, func(address string) bool { return strings.EqualFold(key, address) }) {
			return nil, fmt.Errorf("sets %s, which the operator does", strings.ToLower(key))
		}
		if _, twice := parameters[key]; twice {
			return nil, errors.New("sets a parameter twice")
		}
		parameters[key] = ""
		if literal, ok := item.Val.(*ast.LiteralType); ok {
			parameters[key] = fmt.Sprint(literal.Token.Value())
		}
	}
	return parameters, nil
}
