//go:build integration

package integration

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestInitializationIsValidated(t *testing.T) {
	namespace := newNamespace(t)
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"neither encrypted nor acknowledged", `spec: {initialization: {rootToken: Revoke}}`,
			[]string{"spec.initialization", "pgpKeysConfigMapName must be set"}},
		{"a root token in the clear", `spec: {initialization: {pgpKeysConfigMapName: a, rootToken: Secret}}`,
			[]string{"spec.initialization.rootToken", "allowPlaintext"}},
		{"a root token for nobody", `spec: {initialization: {pgpKeysConfigMapName: a, rootToken: PGP}}`,
			[]string{"spec.initialization", "needs rootTokenPGPKey"}},
		{"a key for no root token", `spec: {initialization: {pgpKeysConfigMapName: a, rootToken: Revoke, ` +
			`rootTokenPGPKey: b}}`, []string{"spec.initialization", "nothing else does"}},
		{"a key of no ConfigMap", `spec: {initialization: {allowPlaintext: true, rootToken: PGP, rootTokenPGPKey: b}}`,
			[]string{"spec.initialization", "rootTokenPGPKey needs pgpKeysConfigMapName"}},
		{"no word on the root token", `spec: {initialization: {pgpKeysConfigMapName: a}}`,
			[]string{"spec.initialization.rootToken", "Required"}},
		{"another word on it", `spec: {initialization: {pgpKeysConfigMapName: a, rootToken: Keep}}`,
			[]string{"spec.initialization.rootToken", "Unsupported value"}},
		{"a threshold above the shares", `spec: {initialization: {allowPlaintext: true, rootToken: Secret, shares: 2}}`,
			[]string{"spec.initialization.threshold", "must not be higher than shares"}},
		{"one of several shares", `spec: {initialization: {allowPlaintext: true, rootToken: Secret, threshold: 1}}`,
			[]string{"spec.initialization.threshold", "at least 2"}},
		{"no shares", `spec: {initialization: {allowPlaintext: true, rootToken: Secret, shares: 0}}`,
			[]string{"spec.initialization.shares", "greater than or equal to 1"}},
		{"keys for a Vault that unseals itself",
			`spec: {unseal: {keysSecretName: a}, seal: {awskms: {region: a, kmsKeyID: b}}}`,
			[]string{"spec.unseal", "together with seal"}},
		{"keys of nothing", `spec: {unseal: {}}`, []string{"spec.unseal.keysSecretName", "Required"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requireRefused(t, parseVault(t, namespace, "example", tt.spec), tt.want)
		})
	}
	for name, spec := range map[string]string{
		"encrypted": `spec: {initialization: {pgpKeysConfigMapName: a, rootToken: PGP, rootTokenPGPKey: ann.asc}}`,
		"revoked":   `spec: {initialization: {pgpKeysConfigMapName: a, rootToken: Revoke, shares: 3, threshold: 2}}`,
		"one share": `spec: {initialization: {allowPlaintext: true, rootToken: Secret, shares: 1, threshold: 1}, ` +
			`unseal: {keysSecretName: example-vault-keys}}`,
	} {
		if err := strict().Create(t.Context(), parseVault(t, namespace, "example", spec), client.DryRunAll); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
