package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// oldOf are the parameters of a seal as the old one of a migration: its files are in a
// directory of their own, but for the configuration of OCI, which says itself where its key is.
func oldOf(kind string) map[string]string {
	want := map[string]string{"disabled": "true"}
	for name, value := range seals[kind].want {
		want[name] = strings.ReplaceAll(value, "/vault/seal/", "/vault/seal/old/")
	}
	return want
}

var credentialsOf = map[string]string{"transit": "token", "awskms": "access_key secret_key",
	"gcpckms": "credentials.json", "azurekeyvault": "client_secret", "ocikms": "config key.pem",
	"alicloudkms": "access_key secret_key"}

// Both seals of a migration have their stanza, the old one disabled, and each its own
// credentials.
func TestSealMigration(t *testing.T) {
	for kind, tt := range seals {
		old := `oldSealCAKey: old-ca, oldSeal: {` + kind + `: ` + strings.NewReplacer("creds", "old-creds",
			"caSecretName: ca", "caSecretName: old").Replace(tt.values) + `}`
		for now, seal := range map[string]string{
			"": "", kind: `, sealCAKey: tls-ca, seal: {` + kind + `: ` + tt.values + `}`,
			"transit": `, sealKey: "transit:x", sealCAKey: tls-ca, seal: {transit: ` + seals["transit"].values + `}`,
		} {
			t.Run("from "+kind+" to "+now, func(t *testing.T) {
				out := release{values: `{operated: true, ownerUID: a, ` + old + seal + `}`}.render(t)
				requireStanzas(t, string(out.seal.Data["seal.hcl"]), kind, now)
				files := mountedFiles(out)
				for _, key := range strings.Fields(credentialsOf[kind]) {
					path, secret := "old/"+key, "old-creds/"+key
					if kind == "ocikms" {
						path = key
					}
					if kind == "ocikms" && now == "ocikms" {
						secret = "creds/" + key
					}
					if files[path] != secret {
						t.Errorf("mounted are %v, want %s at %s", files, secret, path)
					}
				}
				if kind == "transit" && files["old/ca.crt"] != "old/old-ca" || now == "transit" &&
					(files["token"] != "creds/token" ||
						files["ca.crt"] != "ca/tls-ca") {
					t.Errorf("mounted are %v", files)
				}
				container := out.vault.Spec.Template.Spec.Containers[0]
				if !slices.Contains(container.Args, "-config=/vault/seal/seal.hcl") ||
					container.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
					t.Errorf("the container is %+v", container)
				}
				if key := out.vault.Spec.Template.Annotations[v1alpha1.SealAnnotation]; now == "" && key != "" {
					t.Errorf("the pods say that their key is %q, and are of Shamir's keys", key)
				}
			})
		}
	}
}

func requireStanzas(t *testing.T, text, old, now string) {
	t.Helper()
	file, err := hcl.Parse(text)
	if err != nil {
		t.Fatalf("Vault cannot parse\n%s: %v", text, err)
	}
	enabled, disabled := 0, 0
	for _, item := range file.Node.(*ast.ObjectList).Filter("seal").Items {
		var parameters map[string]string
		if err := hcl.DecodeObject(&parameters, item.Val); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		kind, want := item.Keys[0].Token.Value().(string), seals[now].want
		if parameters["disabled"] == "" {
			enabled++
		} else {
			disabled++
			now, want = old, oldOf(old)
		}
		if kind != now || !reflect.DeepEqual(parameters, want) {
			t.Errorf("the seal %q is %v, want %v", kind, parameters, want)
		}
	}
	if disabled != 1 || enabled > 1 || enabled == 0 && now != old && now != "" {
		t.Errorf("%d stanzas are disabled, and %d not:\n%s", disabled, enabled, text)
	}
}

// mountedFiles are those in the volume of the seal, and the Secrets and keys that they are of.
func mountedFiles(out rendered) map[string]string {
	files := map[string]string{}
	volumes := out.vault.Spec.Template.Spec.Volumes
	for _, source := range volumes[len(volumes)-1].Projected.Sources {
		for _, item := range source.Secret.Items {
			files[item.Path] = source.Secret.Name + "/" + item.Key
		}
	}
	return files
}

// What is in the environment takes the place of nothing in either stanza, and a region that is
// exported for one key is not that of the other.
func TestEnvironmentDoesNotReplaceTwoSeals(t *testing.T) {
	aws := func(region string) string { return `{awskms: {region: ` + region + `, kmsKeyID: k}}` }
	for values, want := range map[string][]string{
		`{operated: true, seal: ` + aws("a-1") + `, oldSeal: ` + aws("b-1") + `}`: nil,
		`{operated: true, oldSeal: ` + aws("b-1") + `}`: {
			"AWS_DEFAULT_REGION=b-1", "AWS_REGION=b-1"},
		`{operated: true, seal: {transit: ` + seals["transit"].values + `}, oldSeal: ` + aws("b-1") + `}`: {
			"AWS_DEFAULT_REGION=b-1", "AWS_REGION=b-1"},
		`{operated: true, seal: ` + aws("a-1") + `, oldSeal: {transit: ` + seals["transit"].values + `}}`: {
			"AWS_DEFAULT_REGION=a-1", "AWS_REGION=a-1"},
	} {
		script := release{values: values}.render(t).vault.Spec.Template.Spec.Containers[0].Command[2]
		said := filepath.Join(t.TempDir(), "said")
		cmd := exec.Command("/bin/sh", "-c", script, "vault", "/bin/sh", "-c",
			fmt.Sprintf("env | grep -E '^(AWS|VAULT)_' | sort > %s.new; mv %[1]s.new %[1]s", said))
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, "AWS_REGION=evil", "AWS_DEFAULT_REGION=evil",
			"AWS_KMS_ENDPOINT=evil",
			"VAULT_SEAL_TYPE=evil")
		if strings.Contains(values, "transit") {
			cmd.Env = append(cmd.Env, "VAULT_TOKEN=evil", "VAULT_NAMESPACE=evil")
		}
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(said)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Fields(string(got)); !slices.Equal(lines, want) {
			t.Errorf("with %s Vault gets %q, want %q", values, lines, want)
		}
	}
}

// TestVaultMovesItsData runs a real Vault through each direction, where VAULT_BINARY is set, with
// what the chart renders: what the operator believes of nodes that wait, that were restarted
// and that start after the data was moved is what they do.
func TestVaultMovesItsData(t *testing.T) {
	binary := os.Getenv("VAULT_BINARY")
	if binary == "" {
		t.Skip("VAULT_BINARY is not set")
	}
	root := &realVault{t: t, address: freeAddress(t), token: "root"}
	defer root.start(binary, "server", "-dev", "-dev-root-token-id=root", "-dev-listen-address="+root.address)()
	root.call(http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"})
	for _, key := range []string{"one", "two"} {
		root.call(http.MethodPost, "transit/keys/"+key, nil)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	transit := func(field, key string) string {
		return `, ` + field + `: {transit: {address: "https://root:8200", keyName: ` + key + `, credentialsSecretName: a}}`
	}
	v := &realVault{t: t, address: freeAddress(t)}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", "root")
	write("old/token", "root")
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	// With a storage that is highly available the data is moved when the node becomes active.
	write("rest.hcl", fmt.Sprintf("storage \"raft\" {\n  path = %q\n  node_id = \"a\"\n}\ndisable_mlock = true\n"+
		"api_addr = \"http://%[2]s\"\ncluster_addr = \"https://%[3]s\"\nlistener \"tcp\" {\n  address = %[2]q\n"+
		"  cluster_address = %[3]q\n  tls_disable = true\n}\n", filepath.Join(dir, "data"), v.address, freeAddress(t)))
	with := func(values string, use func()) {
		t.Helper()
		stanzas := string(release{values: `{operated: true` + values + `}`}.render(t).seal.Data["seal.hcl"])
		write("seal.hcl", strings.NewReplacer("/vault/seal/", dir+"/", "https://root:8200", "http://"+root.address).
			Replace(stanzas))
		args := []string{"server", "-config=" + dir + "/rest.hcl"}
		if stanzas != "" {
			args = append(args, "-config="+dir+"/seal.hcl")
		}
		stop := v.start(binary, args...)
		defer stop()
		use()
	}
	var share string
	with("", func() {
		keys := v.call(http.MethodPut, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1})
		share, v.token = keys["keys_base64"].([]any)[0].(string), keys["root_token"].(string)
		v.unseal(share, false)
		v.call(http.MethodPost, "sys/mounts/secret", map[string]any{"type": "kv"})
		v.call(http.MethodPost, "secret/foo", map[string]any{"value": "bar"})
	})
	for _, step := range []struct {
		values, kind string
		// moved are the values that do without the old seal, and byHand and byHandMoved say that
		// a node with these does not unseal itself.
		moved               string
		byHand, byHandMoved bool
	}{
		{values: transit("seal", "one"), kind: "transit", moved: transit("seal", "one")},
		{values: transit("seal", "two") + transit("oldSeal", "one"), kind: "transit", moved: transit("seal", "two"),
			byHand: true},
		{values: transit("oldSeal", "two"), kind: "shamir", byHand: true, byHandMoved: true},
	} {
		for range 2 { // it is restarted before somebody has given the key share
			with(step.values, func() { v.await(step.kind, true, true) })
		}
		with(step.values, func() {
			v.await(step.kind, true, true)
			v.unseal(share, true)
			v.await(step.kind, false, false)
		})
		for values, byHand := range map[string]bool{step.values: step.byHand, step.moved: step.byHandMoved} {
			with(values, func() {
				if byHand {
					v.await(step.kind, true, false)
					v.unseal(share, false)
				}
				v.await(step.kind, false, false)
				if secret := v.call(http.MethodGet, "secret/foo", nil)["data"].(map[string]any); secret["value"] != "bar" {
					t.Errorf("the secret is %v", secret)
				}
			})
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// realVault is a Vault that runs on this machine.
type realVault struct {
	t              *testing.T
	address, token string
}

// start starts it, and waits until it answers.
func (v *realVault) start(binary string, args ...string) (stop func()) {
	v.t.Helper()
	var log bytes.Buffer
	cmd := exec.CommandContext(v.t.Context(), binary, args...)
	cmd.Env = []string{"HOME=" + v.t.TempDir()}
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
		if v.t.Failed() {
			v.t.Log(log.String())
		}
	}
	responds := false
	defer func() {
		if !responds {
			stop()
		}
	}()
	poll.Eventually(v.t, "Vault answers", time.Minute, 100*time.Millisecond, func() error {
		_, err := v.try(http.MethodGet, "sys/seal-status", nil)
		return err
	})
	responds = true
	return stop
}

func (v *realVault) try(method, path string, body any) (map[string]any, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(v.t.Context(), method, "http://"+v.address+"/v1/"+path,
		bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Token", v.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var result map[string]any
	if response.StatusCode != http.StatusNoContent {
		err = json.NewDecoder(response.Body).Decode(&result)
	}
	if response.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %d %v", method, path, response.StatusCode, result["errors"])
	}
	return result, err
}

// call makes a request until it is served: a node becomes active a moment after it was
// unsealed.
func (v *realVault) call(method, path string, body any) (result map[string]any) {
	v.t.Helper()
	poll.Eventually(v.t, method+" "+path, 30*time.Second, 200*time.Millisecond, func() (err error) {
		result, err = v.try(method, path, body)
		return err
	})
	return result
}

func (v *realVault) unseal(share string, migrate bool) {
	v.t.Helper()
	if result := v.call(http.MethodPut, "sys/unseal", map[string]any{"key": share,
		"migrate": migrate}); result["sealed"] != false {
		v.t.Fatalf("it stays sealed: %v", result)
	}
}

// await waits until it says that it is of the kind, sealed or not, and waits for a migration or
// not.
func (v *realVault) await(kind string, sealed, migration bool) {
	v.t.Helper()
	poll.Eventually(v.t, fmt.Sprintf("it is of %s, sealed %v, in a migration %v", kind, sealed, migration), 30*time.Second,
		100*time.Millisecond, func() error {
			s, err := v.try(http.MethodGet, "sys/seal-status", nil)
			if err == nil && (s["type"] != kind || s["sealed"] != sealed || s["migration"] != migration) {
				err = fmt.Errorf("it says %v", s)
			}
			return err
		})
}
