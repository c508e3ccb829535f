//go:build integration

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

const transitSpec = `spec: {seal: {transit: {address: "https://root.security.svc:8200", keyName: example, ` +
	`credentialsSecretName: token}}}`

func sealSecret(namespace, name string, data map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: data}
}

// A Secret that is missing or lacks something is named, changes nothing that runs, and is
// used as soon as it is right.
func TestSealSecrets(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := createVault(t, namespace, transitSpec)
	awaitVault(t, vault, "the Secret is missed", has("SealReady=False SecretNotFound",
		"Irreconcilable=True ErrorGettingValues", "Stalled=True SecretNotFound"))
	awaitEvent(t, vault, `Warning SecretNotFound spec.seal.transit.credentialsSecretName: Secret "token" does not exist`)
	token := sealSecret(namespace, "token", map[string]string{"token": "hvs.MARKER\n"})
	if err := admin.Create(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	awaitEvent(t, vault, `Warning SecretInvalid Secret "token", key "token" has a space, a newline`)
	change(t, token, `{"stringData": {"token": "hvs.MARKER"}}`)
	awaitDeployed(t, vault)
	awaitQuiet(t)
	before := runningNow(t, vault)
	if names := configSecrets(t, vault); len(names) != 2 {
		t.Errorf("the Deployment names the Secrets %q, want the seal's among them", names)
	}

	change(t, token, `{"data": {"token": null}, "stringData": {"tokn": "hvs.MARKER"}}`)
	awaitVault(t, vault, "the key is missed", has("SealReady=False SecretInvalid",
		"Irreconcilable=True ErrorGettingValues", "Deployed=True InstallSuccessful"))
	remove(t, token)
	awaitVault(t, vault, "the Secret is missed again", has("SealReady=False SecretNotFound"))
	if now := runningNow(t, vault); now != before {
		t.Errorf("what runs was changed from %+v to %+v", before, now)
	}
	if err := admin.Create(t.Context(), sealSecret(namespace, "token",
		map[string]string{"token": "hvs.MARKER"})); err != nil {
		t.Fatal(err)
	}
	awaitDeployed(t, vault)
	for _, e := range events(t, vault) {
		if strings.Contains(e, "MARKER") {
			t.Errorf("event %q holds the token", e)
		}
	}
	if encoded := fmt.Sprint(lastRelease(t, vault)); strings.Contains(encoded, "MARKER") {
		t.Error("the release holds the token")
	}
}

// While the key service fails nothing is done that would end nodes, but for a change of the
// seal. When it works again what was held back goes on by itself.
func TestSealHoldsBack(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	for _, name := range []string{"token", "token-2"} {
		if err := admin.Create(t.Context(), sealSecret(namespace, name, map[string]string{"token": "hvs.x"})); err != nil {
			t.Fatal(err)
		}
	}
	vault := awaitDeployed(t, createVault(t, namespace, transitSpec))
	node := startPod(t, vault, "a", fakevault.Uninitialized)
	node.SetSeal(fakevault.Seal{Type: "transit"})
	change(t, get(t, namespace, "a", &corev1.Pod{}), fmt.Sprintf(`{"metadata": {"annotations": {%q: %q}}}`,
		v1alpha1.SealAnnotation, vault.Spec.Seal.Key()))
	awaitVault(t, vault, "it waits to be initialized", has("VaultInitialized=False AwaitingInit"))
	node.Set(fakevault.Active)
	awaitVault(t, vault, "the key is known", func(v *v1alpha1.Vault) error {
		if v.Status.Seal == nil || v.Status.Seal.Type != "transit" || v.Status.Seal.Key != "transit:transit/keys/example" ||
			v.Status.Seal.Healthy == nil {
			return fmt.Errorf("the seal is %+v", v.Status.Seal)
		}
		return has("SealReady=True KeyServiceWorks")(v)
	})

	node.SetSeal(fakevault.Seal{Type: "transit", Unhealthy: true})
	node.Set(fakevault.Sealed)
	awaitVault(t, vault, "the key service fails", has("SealReady=False KeyServiceFailing",
		"Unsealed=False AwaitingAutoUnseal"))
	awaitEvent(t, vault, "Warning KeyServiceFailing")
	awaitQuiet(t)
	before := runningNow(t, vault)
	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	awaitVault(t, vault, "the upgrade is held back", func(v *v1alpha1.Vault) error {
		c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.IrreconcilableCondition)
		if c == nil || c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, "no node is replaced or taken away") {
			return fmt.Errorf("Irreconcilable is %+v", c)
		}
		return nil
	})
	if now := runningNow(t, vault); now.deployment != before.deployment {
		t.Errorf("what runs was changed from %+v to %+v", before, now)
	}

	change(t, vault, `{"spec": {"version": "1.21.0", "seal": {"transit": {"credentialsSecretName": "token-2"}}}}`)
	eventually(t, "a change of the seal alone is deployed", func() error {
		for _, volume := range deploymentOf(t, vault).Spec.Template.Spec.Volumes {
			if volume.Name == "seal" && slices.ContainsFunc(volume.Projected.Sources,
				func(s corev1.VolumeProjection) bool { return s.Secret.Name == "token-2" }) {
				return nil
			}
		}
		return fmt.Errorf("it is not mounted")
	})

	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	awaitVault(t, vault, "the upgrade is held back again", has("Updated=False ReleasePending"))
	node.SetSeal(fakevault.Seal{Type: "transit"})
	node.Set(fakevault.Active)
	awaitEvent(t, vault, "Normal KeyServiceWorks")
	eventually(t, "the upgrade goes on by itself", func() error {
		if image := deploymentOf(t, vault).Spec.Template.Spec.Containers[0].Image; !strings.HasSuffix(image, ":1.21.1") {
			return fmt.Errorf("deployed is %s", image)
		}
		return nil
	})
}

// The data of an initialized Vault is bound to its seal.
func TestSealChanges(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	if err := admin.Create(t.Context(), sealSecret(namespace, "token", map[string]string{"token": "hvs.x"})); err != nil {
		t.Fatal(err)
	}
	vault := deployVault(t, namespace)
	node := startPod(t, vault, "a", fakevault.Uninitialized)
	awaitVault(t, vault, "it waits to be initialized", has("SealReady=True Shamir", "VaultInitialized=False AwaitingInit"))
	node.Set(fakevault.Active)
	awaitVault(t, vault, "it is initialized", func(v *v1alpha1.Vault) error {
		if !v.Status.Initialized || v.Status.Seal == nil || v.Status.Seal.Type != v1alpha1.ShamirSeal {
			return fmt.Errorf("status %+v", v.Status.Seal)
		}
		return nil
	})
	awaitQuiet(t)
	before := runningNow(t, vault)
	change(t, vault, `{"spec": {"seal": {"transit": {"address": "https://root:8200", "keyName": "k", `+
		`"credentialsSecretName": "token"}}}}`)
	awaitVault(t, vault, "a key service is refused", has("SealReady=False SealChangeRefused",
		"Irreconcilable=True ErrorGettingValues"))
	awaitEvent(t, vault, "Warning SealChangeRefused spec.seal is of the kind transit, and Vault's seal is of the kind "+
		"shamir")
	if now := runningNow(t, vault); now != before {
		t.Errorf("what runs was changed from %+v to %+v", before, now)
	}
	change(t, vault, `{"spec": {"seal": {"transit": {"address": "https://EXAMPLE.`+namespace+`.svc.:8200"}}}}`)
	awaitVault(t, vault, "its own address is refused", has("SealReady=False SealInvalid"))
	change(t, vault, `{"spec": {"seal": null}}`)
	awaitVault(t, vault, "all is well", has("SealReady=True Shamir", "Irreconcilable=False Reconciled"))

	// A seal of the user's configuration is one seal too many beside that of the spec.
	mine := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine"},
		Data: map[string]string{"vault.hcl": `seal "awskms" {}`}}
	if err := admin.Create(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	change(t, vault, `{"spec": {"configMapName": "mine", "seal": {"transit": {"address": "https://root:8200", `+
		`"keyName": "k", "credentialsSecretName": "token"}}}}`)
	awaitEvent(t, vault, `Warning ConfigInvalid ConfigMap "mine", key "vault.hcl": sets seal, and so does spec.seal`)
	// By itself it is used as ever, and what the nodes say of it is told.
	change(t, vault, `{"spec": {"seal": null}}`)
	awaitVault(t, vault, "it is used", has("ConfigValid=True ConfigAccepted", "Irreconcilable=False Reconciled"))
}

// What the API server refuses of a seal, with the name of the field, and what it accepts.
func TestSealsAreValidated(t *testing.T) {
	namespace := newNamespace(t)
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"a seal of no kind",
			`spec: {seal: {}}`, []string{"spec.seal", "exactly one"}},
		{"a seal of two kinds",
			`spec: {seal: {awskms: {region: a, kmsKeyID: b}, ocikms: {keyID: a, cryptoEndpoint: "https://a", ` +
				`managementEndpoint: "https://b"}}}`, []string{"spec.seal", "exactly one"}},
		{"a seal of Vault Enterprise",
			`spec: {seal: {pkcs11: {}}}`, []string{`unknown field "spec.seal.pkcs11"`}},
		{"a transit seal in the clear",
			`spec: {seal: {transit: {address: "http://root:8200", keyName: a, credentialsSecretName: b}}}`,
			[]string{"spec.seal.transit.address", "should match"}},
		{"a transit seal without a token",
			`spec: {seal: {transit: {address: "https://root:8200", keyName: a}}}`,
			[]string{"spec.seal.transit.credentialsSecretName", "Required"}},
		{"an address with a stanza in it",
			`spec: {seal: {transit: {address: "https://root:8200\"\n}\nseal \"shamir\" {", keyName: a, ` +
				`credentialsSecretName: b}}}`, []string{"spec.seal.transit.address", "should match"}},
		{"a key with an interpolation in it",
			`spec: {seal: {transit: {address: "https://root:8200", keyName: "${x}", credentialsSecretName: b}}}`,
			[]string{"spec.seal.transit.keyName", "should match"}},
		{"a key over two lines",
			`spec: {seal: {transit: {address: "https://root:8200", keyName: "a\n", credentialsSecretName: b}}}`,
			[]string{"spec.seal.transit.keyName", "should match"}},
		{"a region with a command in it",
			`spec: {seal: {awskms: {region: "a; reboot", kmsKeyID: b}}}`, []string{"spec.seal.awskms.region", "should match"}},
		{"a key of AWS with a template in it",
			`spec: {seal: {awskms: {region: a, kmsKeyID: "%{ if true }"}}}`, []string{"spec.seal.awskms.kmsKeyID",
				"should match"}},
		{"an address of KMS in the clear",
			`spec: {seal: {awskms: {region: a, kmsKeyID: b, endpoint: "http://a"}}}`, []string{"spec.seal.awskms.endpoint",
				"should match"}},
		{"a secret of no application",
			`spec: {seal: {azurekeyvault: {vaultName: a, keyName: b, credentialsSecretName: c}}}`,
			[]string{"spec.seal.azurekeyvault", "needs tenantID and clientID"}},
		{"what no Secret with a token can be named",
			`spec: {seal: {transit: {address: "https://root:8200", keyName: a, credentialsSecretName: "a b"}}}`,
			[]string{"spec.seal.transit.credentialsSecretName", "name of an object"}},
		{"a key that is too long",
			`spec: {seal: {transit: {address: "https://root:8200", credentialsSecretName: b, keyName: ` + strings.Repeat("x",
				129) + `}}}`, []string{"spec.seal.transit.keyName", "128"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requireRefused(t, parseVault(t, namespace, "example", tt.spec), tt.want)
		})
	}
	for name, spec := range map[string]string{
		"transit by IPv6": `spec: {seal: {transit: {address: "https://[fd00::1]:8200/", keyName: a.b_c-d, mountPath: ` +
			`a/b, credentialsSecretName: c, caSecretName: d}}}`,
		"an alias of AWS": `spec: {seal: {awskms: {region: eu-central-1, kmsKeyID: ` +
			`"arn:aws:kms:eu-central-1:1:alias/vault", endpoint: "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com"}}}`,
		"Google by identity": `spec: {seal: {gcpckms: {project: "example.com:my-project", region: global, keyRing: a_b, ` +
			`cryptoKey: c-d}}}`,
		"Azure by identity": `spec: {seal: {azurekeyvault: {vaultName: a-b, keyName: c}}}`,
		"Azure with a secret": `spec: {seal: {azurekeyvault: {vaultName: a, keyName: b, tenantID: c, clientID: d, ` +
			`credentialsSecretName: e, environment: AzureUSGovernmentCloud, resource: managedhsm.azure.net}}}`,
		"Oracle": `spec: {seal: {ocikms: {keyID: ocid1.key.oc1.eu-frankfurt-1.a.b, cryptoEndpoint: ` +
			`"https://a-crypto.kms.eu-frankfurt-1.oraclecloud.com", managementEndpoint: ` +
			`"https://a-management.kms.eu-frankfurt-1.oraclecloud.com"}}}`,
		"Alibaba": `spec: {seal: {alicloudkms: {region: eu-central-1, kmsKeyID: alias/a, domain: ` +
			`kms.eu-central-1.aliyuncs.com}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			vault := parseVault(t, namespace, "example", spec)
			if err := strict().Create(t.Context(), vault, client.DryRunAll); err != nil {
				t.Error(err)
			}
		})
	}
}
