package vaultconfig

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

const (
	password = "hunter2"
	postgres = `storage "postgresql" {` + "\n" + `  connection_url = "postgres://vault:` + password + `@db/vault"` + "\n"
	shared   = postgres + `  ha_enabled = "true"` + "\n}\n"
)

// withStorage is a Vault on a storage whose Secret has this content.
func withStorage(t *testing.T, kind string, nodes int32, content map[string]string) (Config, *v1alpha1.Vault, error) {
	t.Helper()
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
	vault.Spec.Nodes = &nodes
	vault.Spec.Storage.External = &v1alpha1.ExternalStorage{Type: kind, ConfigSecretName: "pg"}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pg"}, Data: map[string][]byte{}}
	for key, value := range content {
		secret.Data[key] = []byte(value)
	}
	reader := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(secret).Build()
	config, err := Load(t.Context(), reader, vault)
	return config, vault, err
}

func TestExternalStorage(t *testing.T) {
	for name, test := range map[string]struct {
		kind, text string
		nodes      int32
		// mentions is in the error; empty when it is accepted.
		mentions string
	}{
		"with a lock":               {"postgresql", shared, 3, ""},
		"with a lock, as a boolean": {"postgresql", postgres + "ha_enabled = true\n}", 3, ""},
		"JSON":                      {"postgresql", `{"storage": {"postgresql": {"ha_enabled": "true"}}}`, 3, ""},
		"a lock by nature":          {"consul", `storage "consul" {}`, 3, ""},
		"one node without a lock":   {"postgresql", postgres + "}", 1, ""},
		"no lock at all":            {"s3", `storage "s3" { bucket = "b" }`, 1, ""},
		"no lock wanted":            {"postgresql", postgres + "}", 2, `ha_enabled is not "true"`},
		"a lock that Vault does not take for one": {
			"postgresql", postgres + "ha_enabled = \"1\"\n}", 2, `ha_enabled is not "true"`,
		},
		"a lock twice":      {"postgresql", postgres + "ha_enabled = \"true\"\nha_enabled = \"false\"\n}", 2, "twice"},
		"another type":      {"mysql", shared, 1, `storage "mysql"`},
		"another stanza":    {"postgresql", "ha_" + shared, 1, `storage "postgresql"`},
		"two stanzas":       {"postgresql", shared + shared, 1, "nothing else"},
		"more than that":    {"postgresql", shared + "ui = true\n", 1, "nothing else"},
		"only the body":     {"postgresql", `ha_enabled = "true"`, 1, "nothing else"},
		"empty":             {"postgresql", "", 1, "nothing else"},
		"an address":        {"postgresql", postgres + "cluster_addr = \"x\"\n}", 1, "sets cluster_addr"},
		"an address, shout": {"postgresql", postgres + "Redirect_Addr = \"x\"\n}", 1, "sets redirect_addr"},
		"no HCL":            {"postgresql", postgres, 1, "does not parse as HCL"},
		"too large":         {"postgresql", "#" + strings.Repeat("x", maxBytes), 1, "larger than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			config, vault, err := withStorage(t, test.kind, test.nodes, map[string]string{"storage.hcl": test.text})
			if test.mentions == "" {
				if err != nil || string(config["storage.hcl"]) != test.text {
					t.Fatalf("error %v, configuration %q", err, config)
				}
				if got, want := config.Sharable(vault), test.nodes > 1; got != want {
					t.Errorf("sharable is %v, want %v", got, want)
				}
				return
			}
			wrong := problem.In(err)
			if wrong == nil || wrong.Condition != v1alpha1.ConfigValidCondition ||
				!strings.Contains(wrong.Message, test.mentions) {
				t.Fatalf("error %v, want one that mentions %q", err, test.mentions)
			}
			if strings.Contains(wrong.Message, password) {
				t.Errorf("it tells the password: %v", err)
			}
		})
	}
}

// The other keys of the Secret are files for the stanza, and no configuration.
func TestExternalStorageFiles(t *testing.T) {
	config, _, err := withStorage(t, "postgresql", 2, map[string]string{"storage.hcl": shared, "ca.crt": "PEM"})
	if err != nil || string(config["ca.crt"]) != "PEM" {
		t.Errorf("error %v, configuration %q", err, config)
	}
	if isHCL("ca.crt") || !isHCL(v1alpha1.StorageKey) {
		t.Error("Vault would read the wrong files")
	}
	for name, content := range map[string]map[string]string{
		"no stanza":          {"ca.crt": "PEM"},
		"more configuration": {"storage.hcl": shared, "operator.hcl": "ui = true"},
		"too much":           {"storage.hcl": shared, "ca.crt": strings.Repeat("x", maxStorageBytes)},
	} {
		if _, _, err := withStorage(t, "postgresql", 2, content); problem.In(err) == nil {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
