//go:build integration

package integration

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// soon is how long it may take until what a user has fixed is in force.
const soon = 15 * time.Second

// deploymentOf returns the Deployment of a Vault.
func deploymentOf(t *testing.T, vault *v1alpha1.Vault) *appsv1.Deployment {
	t.Helper()
	return get(t, vault.Namespace, vault.Name, &appsv1.Deployment{})
}

// running is what must not change while what a user brings cannot be used.
type running struct {
	deployment, config, release string
}

func runningNow(t *testing.T, vault *v1alpha1.Vault) running {
	t.Helper()
	rel := lastRelease(t, vault)
	return running{
		deployment: deploymentOf(t, vault).ResourceVersion,
		config:     fmt.Sprint(configSecrets(t, vault)),
		release:    fmt.Sprintf("%d %s", rel.Version, rel.Info.Status),
	}
}

// configSecrets are the names of the Secrets with configuration that pods which are
// made now would mount.
func configSecrets(t *testing.T, vault *v1alpha1.Vault) []string {
	t.Helper()
	return strings.Split(deploymentOf(t, vault).Annotations[v1alpha1.ConfigSecretsAnnotation], ",")
}

// userConfig is the user's part of what such pods would be configured with, by file.
func userConfig(t *testing.T, vault *v1alpha1.Vault) map[string]string {
	t.Helper()
	config := map[string]string{}
	for _, name := range configSecrets(t, vault)[1:] {
		var secret corev1.Secret
		if err := admin.Get(t.Context(), types.NamespacedName{Namespace: vault.Namespace, Name: name}, &secret); err != nil {
			return map[string]string{"error": err.Error()}
		}
		for file, text := range secret.Data {
			config[file] = string(text)
		}
	}
	return config
}

func TestConfigMap(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	recordVersions(t, namespace)
	vault := createVault(t, namespace, `spec: {configMapName: mine}`)
	setConfig := func(data map[string]string) {
		t.Helper()
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine"}}
		if exists(t, namespace, "mine", configMap) {
			configMap.Data = data
			if err := admin.Update(t.Context(), configMap); err != nil {
				t.Fatal(err)
			}
			return
		}
		configMap.Data = data
		if err := admin.Create(t.Context(), configMap); err != nil {
			t.Fatal(err)
		}
	}
	fixed := func(text string) {
		t.Helper()
		begin := time.Now()
		eventually(t, "the configuration is in force", func() error {
			var deployment appsv1.Deployment
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(vault), &deployment); err != nil {
				return err
			}
			if config := userConfig(t, vault); config["configmap.hcl"] != text {
				return fmt.Errorf("it is %q", config)
			}
			return nil
		})
		if took := time.Since(begin); took > soon {
			t.Errorf("it took %s until what was fixed was in force", took)
		}
		awaitDeployed(t, vault)
		awaitEvent(t, vault, "Normal ConfigAccepted")
	}

	// Missing from the start: nothing runs, and the status says why.
	awaitVault(t, vault, "the ConfigMap is missed", has("ConfigValid=False ConfigMapNotFound",
		"Irreconcilable=True ErrorGettingValues"))
	awaitEvent(t, vault, `Warning ConfigMapNotFound spec.configMapName: ConfigMap "mine" does not exist`)
	if exists(t, namespace, "example", &appsv1.Deployment{}) {
		t.Error("nodes run without the configuration that they were to have")
	}
	setConfig(map[string]string{"vault.hcl": "ui = true\n"})
	fixed("ui = true\n")

	// Broken later: what runs is not touched.
	awaitQuiet(t)
	before := runningNow(t, vault)
	names := configSecrets(t, vault)
	for _, broken := range []struct {
		what, reason, message string
		data                  map[string]string
	}{
		{"it does not parse", "ConfigInvalid", "does not parse as HCL",
			map[string]string{"vault.hcl": `telemetry { ui = true`}},
		{"it sets what the operator owns", "ConfigInvalid", "storage",
			map[string]string{"vault.hcl": `storage "file" { path = "/tmp" }`}},
		{"it is too large for a release", "ConfigInvalid", "larger than 64 KiB",
			map[string]string{"vault.hcl": strings.Repeat("# a comment\n", 693<<10/12)}},
		{"it lacks the key", "ConfigInvalid", `no key "vault.hcl"`, map[string]string{"config.hcl": "ui = true"}},
	} {
		setConfig(broken.data)
		awaitVault(t, vault, broken.what, func(v *v1alpha1.Vault) error {
			if err := has("ConfigValid=False "+broken.reason, "Irreconcilable=True ErrorGettingValues",
				"Deployed=True InstallSuccessful")(v); err != nil {
				return err
			}
			for _, condition := range v.Status.Conditions {
				if condition.Type == v1alpha1.ConfigValidCondition && (!strings.Contains(condition.Message, broken.message) ||
					!strings.Contains(condition.Message, `"mine"`)) {
					return fmt.Errorf("message %q", condition.Message)
				}
			}
			return nil
		})
		awaitEvent(t, vault, `Warning ConfigInvalid ConfigMap "mine"`)
		if now := runningNow(t, vault); now != before {
			t.Errorf("%s: what runs was changed from %+v to %+v", broken.what, before, now)
		}
	}
	remove(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine"}})
	awaitVault(t, vault, "the ConfigMap is missed again", has("ConfigValid=False ConfigMapNotFound"))
	if now := runningNow(t, vault); now != before {
		t.Errorf("the ConfigMap is gone: what runs was changed from %+v to %+v", before, now)
	}

	// Fixed: rolled out by itself, by a changed pod template.
	setConfig(map[string]string{"vault.hcl": "max_lease_ttl = \"10h\"\n"})
	fixed("max_lease_ttl = \"10h\"\n")
	if now := configSecrets(t, vault); now[0] != names[0] || now[1] == names[1] {
		t.Errorf("the nodes get the configuration %q, and had %q", now, names)
	}

	// Not named any more.
	change(t, vault, `{"spec": {"configMapName": null}}`)
	eventually(t, "the configuration is gone", func() error {
		if config := userConfig(t, vault); len(config) > 0 {
			return fmt.Errorf("it is %q", config)
		}
		if args := deploymentOf(t, vault).Spec.Template.Spec.Containers[0].Args; slices.Contains(args,
			"-config=/vault/config/configmap.hcl") {
			return fmt.Errorf("the arguments are %q", args)
		}
		return nil
	})
}

// A change of an object that another Vault uses, or none, is no work.
func TestForeignConfigMapsAndSecretsAreIgnored(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	requests := len(audit.all(t))
	for _, obj := range []struct{ configMap, secret string }{{"mine", "mine"}, {"kube-root-ca.crt", "example-token"}} {
		if err := admin.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
			Name: obj.configMap}}); err != nil {
			t.Fatal(err)
		}
		if err := admin.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
			Name: obj.secret}}); err != nil {
			t.Fatal(err)
		}
	}
	awaitQuiet(t)
	if all := audit.all(t); len(all) > requests {
		t.Errorf("the operator makes the requests %v", all[requests:])
	}
}

func TestStaticTLS(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	recordVersions(t, namespace)
	vault := createVault(t, namespace, `spec: {tls: {static: {serverSecret: my-server, clientSecret: my-ca}}}`)
	newPair := func(name string) (certs.KeyPair, []byte) {
		t.Helper()
		ca, err := certs.NewCA("mine", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pair, err := certs.Sign(ca, name, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{name}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return pair, ca.Cert
	}
	setSecret := func(name string, data map[string][]byte) {
		t.Helper()
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if exists(t, namespace, name, secret) {
			secret.Data = data
			if err := admin.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			return
		}
		secret.Data = data
		if err := admin.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	good, ca := newPair(vault.ServerName())
	wrongName, wrongCA := newPair("elsewhere.example.com")

	awaitVault(t, vault, "the Secret is missed", has("TLSReady=False SecretNotFound",
		"Irreconcilable=True ErrorGettingValues"))
	awaitEvent(t, vault, `Warning SecretNotFound Secret "my-server" does not exist`)
	if exists(t, namespace, "example", &appsv1.Deployment{}) {
		t.Error("nodes run without certificates")
	}
	if exists(t, namespace, "example-default-vault-server-tls", &corev1.Secret{}) {
		t.Error("certificates were made that the spec does not want")
	}

	setSecret("my-server", map[string][]byte{"server.crt": good.Cert, "server.key": good.Key})
	awaitVault(t, vault, "the other Secret is missed", has("TLSReady=False SecretNotFound"))
	awaitEvent(t, vault, `Warning SecretNotFound Secret "my-ca" does not exist`)
	setSecret("my-ca", map[string][]byte{"vault-client-ca.crt": ca})
	begin := time.Now()
	awaitDeployed(t, vault)
	if took := time.Since(begin); took > soon {
		t.Errorf("it took %s until the Secrets were used", took)
	}
	awaitEvent(t, vault, "Normal SecretsValid")
	for _, name := range []string{"my-server", "my-ca"} {
		if owners := get(t, namespace, name, &corev1.Secret{}).OwnerReferences; len(owners) > 0 {
			t.Errorf("the user's Secret %s is owned by %v", name, owners)
		}
	}

	awaitQuiet(t)
	before := runningNow(t, vault)
	for _, broken := range []struct {
		what, message string
		server, ca    map[string][]byte
	}{
		{
			what: "a key is missing", message: "server.key",
			server: map[string][]byte{"server.crt": good.Cert}, ca: map[string][]byte{"vault-client-ca.crt": ca},
		},
		{
			what: "the certificate is for another name", message: vault.ServerName(),
			server: map[string][]byte{"server.crt": wrongName.Cert, "server.key": wrongName.Key},
			ca:     map[string][]byte{"vault-client-ca.crt": wrongCA},
		},
		{
			what: "the key belongs to another certificate", message: "private key does not match",
			server: map[string][]byte{"server.crt": good.Cert, "server.key": wrongName.Key},
			ca:     map[string][]byte{"vault-client-ca.crt": ca},
		},
		{
			what: "another CA signed it", message: "unknown authority",
			server: map[string][]byte{"server.crt": good.Cert, "server.key": good.Key},
			ca:     map[string][]byte{"vault-client-ca.crt": wrongCA},
		},
	} {
		setSecret("my-server", broken.server)
		setSecret("my-ca", broken.ca)
		awaitVault(t, vault, broken.what, func(v *v1alpha1.Vault) error {
			if err := has("TLSReady=False SecretInvalid", "Irreconcilable=True ErrorGettingValues")(v); err != nil {
				return err
			}
			for _, condition := range v.Status.Conditions {
				if condition.Type == v1alpha1.TLSReadyCondition && (!strings.Contains(condition.Message, broken.message) ||
					!strings.Contains(condition.Message, `"my-server"`)) {
					return fmt.Errorf("message %q", condition.Message)
				}
			}
			return nil
		})
		if now := runningNow(t, vault); now != before {
			t.Errorf("%s: what runs was changed from %+v to %+v", broken.what, before, now)
		}
	}
	awaitEvent(t, vault, "Warning SecretInvalid")

	setSecret("my-server", map[string][]byte{"server.crt": good.Cert, "server.key": good.Key})
	setSecret("my-ca", map[string][]byte{"vault-client-ca.crt": ca})
	awaitDeployed(t, vault)
	for _, e := range events(t, vault) {
		if secret := leaked(t, e); secret != "" {
			t.Errorf("event %q holds %s", e, secret)
		}
	}
}
