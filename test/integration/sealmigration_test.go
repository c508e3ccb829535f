//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// The API server refuses what is no migration, and what has to wait for its end.
func TestSealMigrationsAreValidated(t *testing.T) {
	namespace := newNamespace(t)
	for name, tt := range map[string]struct {
		spec string
		want []string
	}{
		"from no seal": {`spec: {sealMigration: {from: {}}}`, []string{"spec.sealMigration.from", "exactly one"}},
		"from two": {`spec: {sealMigration: {from: {shamir: {}, awskms: {region: a, kmsKeyID: b}}}}`,
			[]string{"spec.sealMigration.from", "exactly one"}},
		"from nothing": {`spec: {sealMigration: {}}`, []string{"spec.sealMigration.from", "Required"}},
		"to the same": {`spec: {sealMigration: {from: {shamir: {}}}}`, []string{"spec.sealMigration.from",
			"another seal"}},
		"from what is wrong": {`spec: {sealMigration: {from: {awskms: {region: "a;b", kmsKeyID: c}}}}`,
			[]string{"spec.sealMigration.from.awskms.region", "should match"}},
		"from a key that shamir has not": {`spec: {sealMigration: {from: {shamir: {shares: 5}}}}`,
			[]string{`unknown field "spec.sealMigration.from.shamir.shares"`}},
	} {
		t.Run(name, func(t *testing.T) {
			requireRefused(t, parseVault(t, namespace, "example", tt.spec), tt.want)
		})
	}
	const digest = `"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"`
	const begin = `"seal": {"awskms": {"region": "a", "kmsKeyID": "b"}}, "sealMigration": {"from": {"shamir": {}}}`
	vault := createVault(t, namespace, "")
	refused := func(what, patch, field string) {
		t.Helper()
		err := admin.Patch(t.Context(), vault.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch)))
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), field) ||
			!strings.Contains(err.Error(), "spec.sealMigration is set") {
			t.Errorf("%s: %v, want a refusal of %s", what, err, field)
		}
	}
	changes := map[string]string{
		"spec.nodes": `"nodes": 3`, "spec.version": `"version": "1.21.1"`, "spec.baseImage": `"baseImage": "a/b"`,
		"spec.imageDigest":              `"imageDigest": ` + digest,
		"spec.storage.etcd.version":     `"storage": {"etcd": {"version": "3.6.17"}}`,
		"spec.storage.etcd.baseImage":   `"storage": {"etcd": {"baseImage": "a/b"}}`,
		"spec.storage.etcd.imageDigest": `"storage": {"etcd": {"imageDigest": ` + digest + `}}`,
	}
	for field, patch := range changes {
		refused("together with a migration", `{"spec": {`+begin+`, `+patch+`}}`, field)
	}
	change(t, vault, `{"spec": {`+begin+`}}`)
	for field, patch := range changes {
		refused("in a migration", `{"spec": {`+patch+`}}`, field)
	}
	err := admin.Patch(t.Context(), vault.DeepCopy(), client.RawPatch("application/merge-patch+json",
		[]byte(`{"spec": {"unseal": {"keysSecretName": "keys"}, "seal": null, "sealMigration": {"from": {"shamir": null, `+
			`"awskms": {"region": "a", "kmsKeyID": "b"}}}}}`)))
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.unseal") {
		t.Errorf("spec.unseal in a migration: %v", err)
	}
	change(t, vault, `{"spec": {"pod": {"annotations": {"a": "b"}}}}`)
	change(t, vault, `{"spec": {"sealMigration": null, "nodes": 3, "version": "1.21.1"}}`)
}

// A migration is deployed when the data is bound to the old seal, and not before; it cannot be
// removed before the data is moved, and what is deployed afterwards has nothing of it.
func TestSealMigration(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	for _, name := range []string{"token", "token-2"} {
		if err := admin.Create(t.Context(), sealSecret(namespace, name, map[string]string{"token": "hvs.x"})); err != nil {
			t.Fatal(err)
		}
	}
	transit := func(key, secret string) string {
		return `{"transit": {"address": "https://root.security.svc:8200", "keyName": "` + key +
			`", "credentialsSecretName": "` + secret + `"}}`
	}
	vault := awaitDeployed(t, createVault(t, namespace, transitSpec))
	node := startPod(t, vault, "a", fakevault.Uninitialized)
	node.SetSeal(fakevault.Seal{Type: "transit"})
	annotate := func(key string) {
		t.Helper()
		change(t, get(t, namespace, "a", &corev1.Pod{}), fmt.Sprintf(`{"metadata": {"annotations": {%q: %q}}}`,
			v1alpha1.SealAnnotation, key))
	}
	annotate("transit:transit/keys/example")
	awaitVault(t, vault, "it waits to be initialized", has("VaultInitialized=False AwaitingInit"))
	node.Set(fakevault.Active)
	bound := func(key string) func(*v1alpha1.Vault) error {
		return func(v *v1alpha1.Vault) error {
			if v.Status.Seal == nil || v.Status.Seal.Key != key {
				return fmt.Errorf("the seal is %+v", v.Status.Seal)
			}
			return nil
		}
	}
	awaitVault(t, vault, "the key is known", bound("transit:transit/keys/example"))
	awaitQuiet(t)
	before := runningNow(t, vault)

	change(t, vault, `{"spec": {"seal": `+transit("new", "token-2")+`, "sealMigration": {"from": `+
		transit("other", "token")+`}}}`)
	awaitVault(t, vault, "it is from what the data is not bound to", has("SealReady=False SealChangeRefused",
		"SealMigrated=False SealChangeRefused", "Irreconcilable=True ErrorGettingValues"))
	change(t, vault, `{"spec": {"sealMigration": {"from": `+transit("example", "nothing")+`}}}`)
	awaitEvent(t, vault, `Warning SecretNotFound spec.sealMigration.from.transit.credentialsSecretName: Secret "nothing"`)
	if now := runningNow(t, vault); now.deployment != before.deployment {
		t.Errorf("what runs was changed from %+v to %+v", before, now)
	}

	change(t, vault, `{"spec": {"sealMigration": {"from": `+transit("example", "token")+`}}}`)
	deployed := func(key string, secrets ...string) {
		t.Helper()
		eventually(t, "deployed is "+key, func() error {
			deployment := deploymentOf(t, vault)
			if got := deployment.Spec.Template.Annotations[v1alpha1.SealAnnotation]; got != key {
				return fmt.Errorf("the key is %q", got)
			}
			if got := sealSecretsOf(deployment); got != strings.Join(secrets, " ") {
				return fmt.Errorf("mounted are %q", got)
			}
			return nil
		})
	}
	deployed("transit:transit/keys/new", "token-2", "token")
	awaitVault(t, vault, "it goes on", has("SealMigrated=False Migrating"))
	awaitEvent(t, vault, "Normal Migrating")

	change(t, vault, `{"spec": {"sealMigration": null}}`)
	awaitVault(t, vault, "it was removed too early", has("SealReady=False SealChangeRefused"))
	change(t, vault, `{"spec": {"sealMigration": {"from": `+transit("example", "token")+`}}}`)
	awaitVault(t, vault, "it goes on again", has("SealMigrated=False Migrating", "Irreconcilable=False Reconciled"))
	deployed("transit:transit/keys/new", "token-2", "token")

	// It is given up, and begun again.
	change(t, vault, `{"spec": {"seal": `+transit("example", "token")+`, "sealMigration": null}}`)
	deployed("transit:transit/keys/example", "token")
	change(t, vault, `{"spec": {"seal": `+transit("new", "token-2")+`, "sealMigration": {"from": `+
		transit("example", "token")+`}}}`)
	deployed("transit:transit/keys/new", "token-2", "token")

	annotate("transit:transit/keys/new")
	awaitVault(t, vault, "the data is moved", bound("transit:transit/keys/new"))
	change(t, vault, `{"spec": {"seal": `+transit("example", "token")+`, "sealMigration": null}}`)
	awaitVault(t, vault, "it cannot be given up any more", has("SealReady=False SealChangeRefused"))
	change(t, vault, `{"spec": {"seal": `+transit("new", "token-2")+`}}`)
	deployed("transit:transit/keys/new", "token-2")
}

// sealSecretsOf are the Secrets with credentials that the nodes mount for their seals.
func sealSecretsOf(deployment *appsv1.Deployment) string {
	var names []string
	for _, volume := range deployment.Spec.Template.Spec.Volumes {
		if volume.Name != "seal" {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if len(source.Secret.Items) > 0 {
				names = append(names, source.Secret.Name)
			}
		}
	}
	return strings.Join(names, " ")
}
