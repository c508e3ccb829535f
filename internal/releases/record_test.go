package releases

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const goodManifest = `---
# Source: vault/templates/configmap.yaml
apiVersion: v1
kind: ConfigMap
metadata:
  name: x-config
  namespace: t
data:
  user.hcl: token = "secret"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: x
spec:
  replicas: 2
`

func testVault() *v1alpha1.Vault {
	vault := &v1alpha1.Vault{}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	vault.Namespace, vault.Name, vault.UID = "t", "x", "0e4b8a5e-6a7e-4d2b-9a53-3d1d4f5f9d10"
	return vault
}

func testRelease(manifest string) *release.Release {
	return &release.Release{
		Name: "x", Namespace: "t", Version: 4, Manifest: manifest,
		Info:   &release.Info{Status: release.StatusDeployed, Notes: "notes"},
		Chart:  &chart.Chart{Metadata: &chart.Metadata{Name: "vault", Version: "0.1.0", APIVersion: "v2"}},
		Config: map[string]any{"config": "token = \"secret\""},
	}
}

func mustPack(t testing.TB, rel *release.Release) []byte {
	t.Helper()
	data, err := pack(rel)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// compress is gzip and base64.
func compress(t testing.TB, content io.Reader) []byte {
	t.Helper()
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	if _, err := io.Copy(writer, content); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(compressed.Bytes()))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// encoded is a record as an administrator writes it.
func encoded(t testing.TB, change func(record map[string]any)) []byte {
	t.Helper()
	text, err := json.Marshal(testRelease(goodManifest))
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(text, &record); err != nil {
		t.Fatal(err)
	}
	change(record)
	if text, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(text))
}

// withObject is a record with one more object in its manifest.
func withObject(t testing.TB, object string) []byte {
	return encoded(t, func(r map[string]any) { r["manifest"] = goodManifest + "---\n" + object })
}

func TestRecordsOfTheVaultsNamespace(t *testing.T) {
	hook := map[string]any{
		"name": "h", "kind": "ConfigMap", "events": []string{"pre-delete"}, "manifest": "kind: ConfigMap",
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"as written":            {mustPack(t, testRelease(goodManifest)), ""},
		"not compressed":        {encoded(t, func(map[string]any) {}), ""},
		"hooks null":            {encoded(t, func(r map[string]any) { r["hooks"] = nil }), ""},
		"empty":                 {nil, "empty"},
		"no release":            {[]byte("eHh4"), "not the JSON of a release"},
		"not base64":            {[]byte("{}"), "not base64"},
		"cut off":               {[]byte("H4sIAAAA"), "not gzip"},
		"zeros":                 {compress(t, io.LimitReader(zeros{}, 64<<20)), "when it is decompressed"},
		"3 MB":                  {bytes.Repeat([]byte("A"), 3<<20), "larger than"},
		"another name":          {encoded(t, func(r map[string]any) { r["name"] = "y" }), "of another release"},
		"another namespace":     {encoded(t, func(r map[string]any) { r["namespace"] = "other" }), "of another release"},
		"another chart":         {encoded(t, func(r map[string]any) { delete(r, "chart") }), "of another chart"},
		"no revision":           {encoded(t, func(r map[string]any) { delete(r, "version") }), "not complete"},
		"no status":             {encoded(t, func(r map[string]any) { delete(r, "info") }), "not complete"},
		"a hook":                {encoded(t, func(r map[string]any) { r["hooks"] = []any{hook} }), "has hooks"},
		"hooks of another type": {encoded(t, func(r map[string]any) { r["hooks"] = "x" }), "has hooks"},
		"a large manifest": {
			encoded(t, func(r map[string]any) { r["manifest"] = strings.Repeat("a", maxManifest+1) }),
			"manifest is larger",
		},
		"another's object": {
			withObject(t, "{apiVersion: v1, kind: Service, metadata: {name: y}}"), "name of the Vault",
		},
		"an object like it": {
			withObject(t, "{apiVersion: v1, kind: Service, metadata: {name: xy}}"), "name of the Vault",
		},
		"elsewhere": {
			withObject(t, "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: other}}"), "another namespace",
		},
		"a Secret": {
			withObject(t, "{apiVersion: v1, kind: Secret, metadata: {name: x-etcd-ca}}"), "kind that the chart",
		},
		"a ClusterRole": {
			withObject(t, "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x}}"),
			"kind that",
		},
		"another group": {
			withObject(t, "{apiVersion: example.com/v1, kind: Service, metadata: {name: x}}"), "kind that the chart",
		},
		"a list": {
			withObject(t, "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Secret}]}"), "kind that the chart",
		},
		"a name twice": {
			withObject(t, "{apiVersion: v1, kind: Service, kind: Secret, metadata: {name: x}}"), "not YAML",
		},
		"no object":              {withObject(t, "[1, 2]"), "not YAML of objects"},
		"a kind that is no text": {withObject(t, "{apiVersion: v1, kind: 1, metadata: []}"), "kind that the chart"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fromTenant(tt.data, testVault(), "vault")
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestImportedReleaseHasWhatIsNeeded(t *testing.T) {
	rel, err := fromTenant(mustPack(t, testRelease(goodManifest)), testVault(), "vault")
	if err != nil {
		t.Fatal(err)
	}
	if rel.Version != 4 || rel.Info.Status != release.StatusDeployed || rel.Info.Notes != "" || len(rel.Config) > 0 {
		t.Errorf("release %+v, %+v", rel, rel.Info)
	}
	if strings.Contains(rel.Manifest, "secret") || !strings.Contains(rel.Manifest, `user.hcl: ""`) {
		t.Errorf("the contents of the ConfigMap are in %s", rel.Manifest)
	}
	if !strings.Contains(rel.Manifest, "replicas: 2") {
		t.Errorf("the Deployment is not in %s", rel.Manifest)
	}
}

// What a forged record may cost: the operator has 512 MiB.
func TestForgedRecordsCostLittleMemory(t *testing.T) {
	for name, data := range map[string][]byte{
		"zeros":     compress(t, io.LimitReader(zeros{}, 64<<20)),
		"hooks":     compress(t, strings.NewReader(`{"hooks":[`+strings.Repeat("{},", 2<<20)+`{}]}`)),
		"templates": compress(t, strings.NewReader(`{"chart":{"templates":[`+strings.Repeat("{},", 2<<20)+`{}]}}`)),
		"small values": encoded(t, func(r map[string]any) {
			r["manifest"] = "a: [" + strings.Repeat("a,", maxManifest/2-8) + "a]"
		}),
		"nesting": encoded(t, func(r map[string]any) { r["manifest"] = strings.Repeat("[", maxManifest) }),
		"aliases": encoded(t, func(r map[string]any) {
			text := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
			for i := range 12 {
				text += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
			}
			r["manifest"] = text
		}),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := fromTenant(data, testVault(), "vault"); err == nil {
				t.Error("it is accepted")
			}
			runtime.ReadMemStats(&after)
			allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
			t.Logf("%d MiB are allocated", allocated)
			if allocated > 256 {
				t.Errorf("%d MiB are allocated", allocated)
			}
		})
	}
}

// FuzzRecord feeds records that somebody has forged.
func FuzzRecord(f *testing.F) {
	f.Add(mustPack(f, testRelease(goodManifest)))
	f.Add(compress(f, io.LimitReader(zeros{}, 16<<20)))
	f.Add(encoded(f, func(r map[string]any) { r["hooks"] = []any{map[string]any{"name": "h"}} }))
	f.Add(withObject(f, "{apiVersion: v1, kind: Secret, metadata: {name: precious, namespace: other}}"))
	f.Add([]byte("eHh4"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if text, err := unpack(data); err == nil {
			if rel, err := parse(text, testVault()); err == nil &&
				(rel.Name != "x" || rel.Namespace != "t" || len(rel.Hooks) > 0) {
				t.Errorf("accepted %+v", rel)
			}
		}
		if rel, err := fromTenant(data, testVault(), "vault"); err == nil {
			checkAccepted(t, rel)
		}
	})
}

// FuzzManifest feeds the manifests of such records.
func FuzzManifest(f *testing.F) {
	f.Add(goodManifest)
	f.Add("a: &a [*a]")
	f.Add("--- {apiVersion: v1, kind: Service, metadata: {name: x}}\n--- # \n---\n")
	f.Add("apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {a: \"\\n---\\nkind: Secret\"}}")
	f.Fuzz(func(t *testing.T, manifest string) {
		if checked, err := checkManifest(manifest, client.ObjectKeyFromObject(testVault())); err == nil {
			rel := testRelease(checked)
			checkAccepted(t, rel)
		}
	})
}

// checkAccepted reads the manifest as Helm does when it uninstalls.
func checkAccepted(t *testing.T, rel *release.Release) {
	t.Helper()
	for _, document := range releaseutil.SplitManifests(rel.Manifest) {
		var object unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
			t.Fatalf("%q: %v", document, err)
		}
		if err := checkObject(&object, client.ObjectKeyFromObject(testVault())); err != nil {
			t.Errorf("accepted %q: %v", document, err)
		}
	}
	if rel.Name != "x" || rel.Namespace != "t" || len(rel.Hooks) > 0 {
		t.Errorf("accepted %+v", rel)
	}
}
