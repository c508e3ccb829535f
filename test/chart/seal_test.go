package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// sealCase is a seal with all of its fields, and what Vault has to read.
type sealCase struct {
	values string
	want   map[string]string
	// variables are what Vault takes from its environment instead, and credentials are those
	// among them that a workload identity may bring.
	// https://github.com/hashicorp/vault/blob/v1.21.0/internalshared/configutil/env_var_util.go
	variables, credentials []string
}

var seals = map[string]sealCase{
	"transit": {
		values: `{address: "https://root.security.svc:8200", keyName: example, mountPath: team/transit, namespace: admin, ` +
			`tlsServerName: root, credentialsSecretName: creds, caSecretName: ca}`,
		want: map[string]string{
			"address": "https://root.security.svc:8200", "key_name": "example", "mount_path": "team/transit",
			"namespace":       "admin",
			"tls_server_name": "root", "tls_ca_cert": "/vault/seal/ca.crt", "tls_skip_verify": "false",
			"token": "file:///vault/seal/token",
		},
		variables: []string{
			"VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY",
			"VAULT_TLS_SERVER_NAME",
			"VAULT_SKIP_VERIFY", "VAULT_TRANSIT_SEAL_KEY_NAME", "TRANSIT_WRAPPER_KEY_NAME", "TRANSIT_WRAPPER_MOUNT_PATH",
			"VAULT_TRANSIT_SEAL_MOUNT_PATH", "TRANSIT_WRAPPER_DISABLE_RENEWAL", "VAULT_TRANSIT_SEAL_DISABLE_RENEWAL",
			// Those of the client that it uses.
			"VAULT_AGENT_ADDR", "VAULT_CACERT_BYTES", "VAULT_CAPATH", "VAULT_HEADERS", "VAULT_SRV_LOOKUP",
		},
	},
	"awskms": {
		values: `{region: eu-central-1, kmsKeyID: "alias/vault", endpoint: "https://kms.example.com", ` +
			`credentialsSecretName: creds}`,
		want: map[string]string{
			"region": "eu-central-1", "kms_key_id": "alias/vault", "endpoint": "https://kms.example.com",
			"access_key": "file:///vault/seal/access_key", "secret_key": "file:///vault/seal/secret_key",
		},
		variables:   []string{"AWS_KMS_ENDPOINT", "VAULT_AWSKMS_SEAL_KEY_ID", "AWSKMS_WRAPPER_KEY_ID"},
		credentials: []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
	},
	"gcpckms": {
		values: `{project: p, region: global, keyRing: vault, cryptoKey: unseal, credentialsSecretName: creds}`,
		want: map[string]string{
			"project": "p", "region": "global", "key_ring": "vault", "crypto_key": "unseal",
			"credentials": "/vault/seal/credentials.json",
		},
		variables: []string{
			"GOOGLE_PROJECT", "GOOGLE_REGION", "VAULT_GCPCKMS_SEAL_CRYPTO_KEY", "GCPCKMS_WRAPPER_CRYPTO_KEY",
			"GCPCKMS_WRAPPER_KEY_RING", "VAULT_GCPCKMS_SEAL_KEY_RING",
		},
		credentials: []string{"GOOGLE_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS"},
	},
	"azurekeyvault": {
		values: `{vaultName: v, keyName: k, tenantID: t, clientID: c, environment: AzurePublicCloud, resource: ` +
			`vault.azure.net, credentialsSecretName: creds}`,
		want: map[string]string{
			"vault_name": "v", "key_name": "k", "tenant_id": "t", "client_id": "c", "environment": "AzurePublicCloud",
			"resource":      "vault.azure.net",
			"client_secret": "file:///vault/seal/client_secret",
		},
		variables: []string{
			"AZURE_ENVIRONMENT", "AZURE_AD_RESOURCE", "AZUREKEYVAULT_WRAPPER_KEY_NAME", "VAULT_AZUREKEYVAULT_KEY_NAME",
			"AZUREKEYVAULT_WRAPPER_VAULT_NAME", "VAULT_AZUREKEYVAULT_VAULT_NAME",
		},
		credentials: []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"},
	},
	"ocikms": {
		values: `{keyID: ocid1.key.oc1, cryptoEndpoint: "https://a-crypto.kms.example.com", managementEndpoint: ` +
			`"https://a-management.kms.example.com", credentialsSecretName: creds}`,
		want: map[string]string{
			"key_id": "ocid1.key.oc1", "crypto_endpoint": "https://a-crypto.kms.example.com",
			"management_endpoint": "https://a-management.kms.example.com",
			"auth_type_api_key":   "true",
		},
		variables: []string{
			"OCIKMS_WRAPPER_CRYPTO_ENDPOINT", "VAULT_OCIKMS_CRYPTO_ENDPOINT", "OCIKMS_WRAPPER_KEY_ID",
			"VAULT_OCIKMS_SEAL_KEY_ID",
			"OCIKMS_WRAPPER_MANAGEMENT_ENDPOINT", "VAULT_OCIKMS_MANAGEMENT_ENDPOINT",
		},
	},
	"alicloudkms": {
		values: `{region: eu-central-1, kmsKeyID: "alias/vault", domain: kms.example.com, credentialsSecretName: creds}`,
		want: map[string]string{
			"region": "eu-central-1", "kms_key_id": "alias/vault", "domain": "kms.example.com",
			"access_key": "file:///vault/seal/access_key", "secret_key": "file:///vault/seal/secret_key",
		},
		variables: []string{"ALICLOUD_REGION", "ALICLOUD_DOMAIN", "VAULT_ALICLOUDKMS_SEAL_KEY_ID",
			"ALICLOUDKMS_WRAPPER_KEY_ID"},
		credentials: []string{"ALICLOUD_ACCESS_KEY", "ALICLOUD_SECRET_KEY", "ALICLOUD_ACCESS_KEY_STS_TOKEN"},
	},
}

// parseSeal reads the stanza as Vault does.
// https://github.com/hashicorp/vault/blob/v1.21.0/internalshared/configutil/kms.go
func parseSeal(t *testing.T, text string) (kind string, parameters map[string]string) {
	t.Helper()
	file, err := hcl.Parse(text)
	if err != nil {
		t.Fatalf("Vault cannot parse\n%s: %v", text, err)
	}
	root := file.Node.(*ast.ObjectList)
	if len(root.Items) != 1 {
		t.Fatalf("more than a seal:\n%s", text)
	}
	item := root.Filter("seal").Items[0]
	if err := hcl.DecodeObject(&parameters, item.Val); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return item.Keys[0].Token.Value().(string), parameters
}

func TestSeals(t *testing.T) {
	for kind, tt := range seals {
		t.Run(kind, func(t *testing.T) {
			var policy v1alpha1.SealPolicy
			values := `{` + kind + `: ` + tt.values + `}`
			if err := yaml.UnmarshalStrict([]byte(values), &policy); err != nil {
				t.Fatal(err)
			}
			out := release{values: `{operated: true, ownerUID: a, sealKey: "` + policy.Key() + `", sealCAKey: tls-ca, seal: ` +
				values + `}`}.render(t)
			text := string(out.seal.Data["seal.hcl"])
			if got, parameters := parseSeal(t, text); got != kind || !reflect.DeepEqual(parameters, tt.want) {
				t.Errorf("the seal %q is %v, want %v", got, parameters, tt.want)
			}
			requireSealMounted(t, out, &policy)
			requireRestricted(t, &out.vault.Spec.Template.Spec, false)

			// Without credentials the identity of the pod is used.
			identity := strings.NewReplacer(", credentialsSecretName: creds", "").Replace(values)
			if kind != "transit" {
				text := string(release{values: `{operated: true, seal: ` + identity + `}`}.render(t).seal.Data["seal.hcl"])
				if strings.Contains(text, "/vault/seal/") || strings.Contains(text, "auth_type") {
					t.Errorf("without a Secret the seal is\n%s", text)
				}
			}
		})
	}
	text := string(release{values: `{operated: true, seal: {transit: {address: "https://a:8200", keyName: k, ` +
		`credentialsSecretName: s}}}`}.render(t).seal.Data["seal.hcl"])
	if _, parameters := parseSeal(t, text); parameters["mount_path"] != "transit" ||
		parameters["tls_skip_verify"] != "false" || parameters["tls_ca_cert"] != "" {
		t.Errorf("the least that can be set of a seal is\n%s", text)
	}
}

// requireSealMounted checks that the nodes get the stanza and the Secrets, as files.
func requireSealMounted(t *testing.T, out rendered, policy *v1alpha1.SealPolicy) {
	t.Helper()
	pod := out.vault.Spec.Template.Spec
	container := pod.Containers[0]
	if !slices.Contains(container.Args, "-config=/vault/seal/seal.hcl") ||
		container.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		t.Errorf("the container is %+v", container)
	}
	files := map[string]string{}
	for _, source := range pod.Volumes[len(pod.Volumes)-1].Projected.Sources {
		for _, item := range source.Secret.Items {
			files[item.Path] = source.Secret.Name + "/" + item.Key
		}
		if len(source.Secret.Items) == 0 {
			files["seal.hcl"] = source.Secret.Name
		}
	}
	want := map[string]string{"seal.hcl": out.seal.Name}
	for _, key := range policy.CredentialsKeys() {
		want[key] = "creds/" + key
	}
	if policy.CASecretName() != "" {
		want["ca.crt"] = "ca/tls-ca"
	}
	if !reflect.DeepEqual(files, want) {
		t.Errorf("mounted are %v, want %v", files, want)
	}
	if out.vault.Annotations[v1alpha1.ConfigSecretsAnnotation] != out.config.Name+","+out.seal.Name {
		t.Errorf("the Deployment has the annotations %v", out.vault.Annotations)
	}
	if got := out.vault.Spec.Template.Annotations[v1alpha1.SealAnnotation]; got != policy.Key() {
		t.Errorf("the pods say that their key is %q, want %q", got, policy.Key())
	}
	if immutable := out.seal.Immutable; immutable == nil || !*immutable ||
		out.seal.Annotations["helm.sh/resource-policy"] != "keep" || len(out.seal.OwnerReferences) != 1 {
		t.Errorf("the Secret is %+v", out.seal.ObjectMeta)
	}
}

// A Vault without spec.seal has nothing of it.
func TestShamirHasNothingOfASeal(t *testing.T) {
	out := release{values: `{operated: true, ownerUID: a}`}.render(t)
	encoded, err := json.Marshal(out.vault)
	if err != nil {
		t.Fatal(err)
	}
	if out.seal.Name != "" || strings.Contains(string(encoded), "/vault/seal") || strings.Contains(string(encoded),
		"VAULT_SEAL_TYPE") ||
		out.vault.Spec.Template.Spec.Containers[0].TerminationMessagePolicy != "" {
		t.Errorf("the Deployment is %s, the Secret %v", encoded, out.seal)
	}
}

// Whatever a value holds stays a string in the HCL, even if the API server had let it pass.
func TestEvilStringsStayStrings(t *testing.T) {
	for _, evil := range []string{
		`a" token = "b`, "a\nseal \"shamir\" {}", `${env("X")}`, `a ${ b`, `$${x}`, `%{ if true }`, `\`, `\"`, `a\u0022 }`,
		"\x00\x07", "</script>&", "é\u2028",
		"/* x", "# x", "<<EOF", `"}`,
	} {
		encoded, err := json.Marshal(map[string]any{"operated": true, "seal": map[string]any{
			"transit": map[string]any{"address": evil, "keyName": evil, "credentialsSecretName": "a"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		out := release{values: string(encoded), unchecked: true}.render(t)
		_, parameters := parseSeal(t, string(out.seal.Data["seal.hcl"]))
		if len(parameters) != 5 || parameters["address"] != evil || parameters["key_name"] != evil ||
			parameters["token"] != "file:///vault/seal/token" {
			t.Errorf("%q becomes %q", evil, parameters)
		}
		encoded, err = json.Marshal(map[string]any{"operated": true,
			"seal": map[string]any{"awskms": map[string]any{"region": evil, "kmsKeyID": "k"}}})
		if err != nil {
			t.Fatal(err)
		}
		script := release{values: string(encoded),
			unchecked: true}.render(t).vault.Spec.Template.Spec.Containers[0].Command[2]
		for line := range strings.Lines(script) {
			if region, found := strings.CutPrefix(line, "export AWS_REGION="); found && strings.Trim(region,
				"abcdefghijklmnopqrstuvwxyz0123456789-\n") != "" {
				t.Errorf("%q becomes the command %q", evil, line)
			}
		}
		if strings.Contains(script, evil) && len(evil) > 3 {
			t.Errorf("%q is in the script", evil)
		}
	}
	if _, err := (release{values: `{seal: {awskms: {region: "a b", kmsKeyID: k}}}`}).manifests(t); err == nil {
		t.Error("the schema of the values accepts a region with a space")
	}
}

// What is in the environment, by whichever way, takes the place of nothing in the stanza.
func TestEnvironmentDoesNotReplaceTheSeal(t *testing.T) {
	for kind, tt := range seals {
		t.Run(kind, func(t *testing.T) {
			container := release{values: `{operated: true, seal: {` + kind + `: ` + tt.values +
				`}}`}.render(t).vault.Spec.Template.Spec.Containers[0]
			environment := func(mounted string) string {
				said := filepath.Join(t.TempDir(), "said")
				text := strings.ReplaceAll(container.Command[2], "/vault/seal", mounted)
				cmd := exec.Command("/bin/sh", "-c", text, "vault", "/bin/sh", "-c",
					fmt.Sprintf("env > %s.new; mv %[1]s.new %[1]s", said))
				cmd.Env = append(os.Environ(), "VAULT_SEAL_TYPE=evil", "AWS_REGION=evil", "AWS_DEFAULT_REGION=evil", "KEPT=evil")
				for _, name := range slices.Concat(tt.variables, tt.credentials) {
					cmd.Env = append(cmd.Env, name+"=evil")
				}
				if err := cmd.Run(); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(said)
				if err != nil {
					t.Fatal(err)
				}
				return string(got)
			}
			without := environment(filepath.Join(t.TempDir(), "nothing"))
			dir := t.TempDir()
			for _, key := range []string{"token", "access_key", "credentials.json", "client_secret", "config"} {
				if err := os.WriteFile(filepath.Join(dir, key), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			with := environment(dir)
			for _, name := range append(tt.variables, "VAULT_SEAL_TYPE") {
				if strings.Contains(without, name+"=") {
					t.Errorf("%s reaches Vault", name)
				}
			}
			for _, name := range tt.credentials {
				if !strings.Contains(without, name+"=evil") {
					t.Errorf("%s does not reach Vault, which has no credentials", name)
				}
				if strings.Contains(with, name+"=") {
					t.Errorf("%s reaches Vault, in place of the Secret", name)
				}
			}
			if !strings.Contains(without, "KEPT=evil") {
				t.Error("what is not about the seal is gone")
			}
			if regions := "AWS_DEFAULT_REGION=eu-central-1\n"; kind == "awskms" && (!strings.Contains(with, regions) ||
				!strings.Contains(with, "AWS_REGION=eu-central-1\n")) {
				t.Errorf("the region of the environment wins:\n%s", with)
			}
			if kind == "ocikms" && (strings.Contains(without, "OCI_CONFIG_FILE") || !strings.Contains(with,
				"OCI_CONFIG_FILE="+dir+"/config\n")) {
				t.Errorf("the configuration of OCI is not found:\n%s", with)
			}
		})
	}
}

// TestVaultReadsTheSeals starts a real Vault with each stanza, where VAULT_BINARY is set: it
// has to get as far as the key service, which is not there.
func TestVaultReadsTheSeals(t *testing.T) {
	binary := os.Getenv("VAULT_BINARY")
	if binary == "" {
		t.Skip("VAULT_BINARY is not set")
	}
	for kind := range seals {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			// Without a Secret, at addresses where nothing is.
			values := strings.NewReplacer(
				", credentialsSecretName: creds, caSecretName: ca", ", credentialsSecretName: creds", "root.security.svc:8200",
				"127.0.0.1:1",
				"https://kms.example.com", "https://127.0.0.1:1", "kms.example.com", "127.0.0.1", ", domain: 127.0.0.1", "",
			).Replace(seals[kind].values)
			if kind != "transit" {
				values = strings.Replace(values, ", credentialsSecretName: creds", "", 1)
			}
			dir := t.TempDir()
			stanza := string(release{values: `{operated: true, seal: {` + kind + `: ` + values +
				`}}`}.render(t).seal.Data["seal.hcl"])
			stanza = strings.ReplaceAll(stanza, "/vault/seal/", dir+"/")
			for name, content := range map[string]string{
				"token":    "hvs.x",
				"seal.hcl": stanza,
				"rest.hcl": "storage \"inmem\" {}\ndisable_mlock = true\nlistener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  " +
					"tls_disable = true\n}\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("timeout", "20", binary, "server", "-config="+dir+"/rest.hcl", "-config="+dir+"/seal.hcl")
			cmd.Env = []string{
				"HOME=" + dir, "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AZURE_TENANT_ID=t", "AZURE_CLIENT_ID=c",
				"AZURE_CLIENT_SECRET=s",
				"ALICLOUD_ACCESS_KEY=a", "ALICLOUD_SECRET_KEY=b", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1",
			}
			begin := time.Now()
			out, _ := cmd.CombinedOutput()
			text := string(out)
			t.Logf("after %s: %s", time.Since(begin).Round(time.Second), text)
			for _, bad := range []string{"not found for", "is required", "error loading configuration", "Unknown KMS", "unused",
				"error decoding"} {
				if strings.Contains(text, bad) {
					t.Errorf("Vault says %q", bad)
				}
			}
		})
	}
}
