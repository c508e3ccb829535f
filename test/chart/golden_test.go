package chart

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what is rendered to testdata")

// TestObjectsStay compares what is rendered with what was before: other pods are replaced,
// and each node of each Vault has to be unsealed, when the operator is upgraded. Where that
// is worth it, "go test ./test/chart -run TestObjectsStay -update" writes the file.
func TestObjectsStay(t *testing.T) {
	full, err := os.ReadFile("../../config/samples/vault_full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var sample struct{ Spec map[string]any }
	if err := yaml.Unmarshal(full, &sample); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"configMapName", "configSecretName", "allowDowngrade", "initialization", "unseal", "operatorLogin", "sealMigration",
	} {
		delete(sample.Spec, name)
	}
	sample.Spec["operated"], sample.Spec["ownerUID"] = true, "uid"
	values, err := yaml.Marshal(sample.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for file, r := range map[string]release{
		"testdata/default.yaml": {values: `{operated: true, ownerUID: uid}`, kubernetes: "v1.35.0"},
		"testdata/full.yaml":    {values: string(values), kubernetes: "v1.35.0"},
	} {
		got := objects(t, r)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("what is rendered is not what %s has, and pods may be replaced by an upgrade of the operator", file)
		}
	}
}

// objects are the documents of a release in a fixed order, whichever templates have them.
func objects(t *testing.T, r release) []byte {
	t.Helper()
	files, err := r.manifests(t)
	if err != nil {
		t.Fatal(err)
	}
	var documents []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for document := range strings.SplitSeq(files[name], "\n---\n") {
			if strings.HasSuffix(name, ".yaml") && strings.Contains(document, "kind:") {
				documents = append(documents, strings.TrimSpace(document)+"\n")
			}
		}
	}
	slices.Sort(documents)
	return []byte(strings.Join(documents, "---\n"))
}
