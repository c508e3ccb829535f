// Command bundle makes the OLM bundle of what kustomize builds from
// config/manifests, which it reads, and of what the Go types say of their fields.
// It does what "operator-sdk generate bundle" does with the same files.
// https://olm.operatorframework.io/docs/tasks/creating-operator-bundle/
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	packageName = "vault-operator"
	channel     = "alpha"
)

func main() {
	root := flag.String("root", "../..", "top of the repository")
	flag.Parse()
	if err := run(os.Stdin, *root); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(manifests io.Reader, root string) error {
	in, err := read(manifests)
	if err != nil {
		return err
	}
	kinds := map[string]description{}
	for _, kind := range []string{"Vault", "VaultBackup", "VaultBackupSchedule", "VaultRestore"} {
		d, err := describe(filepath.Join(root, "api", "v1alpha1"), kind)
		if err != nil {
			return err
		}
		if len(d.missing) > 0 {
			return errors.New("these fields of " + kind + " have no descriptor, that is, no marker +" + markerName + ": " +
				strings.Join(d.missing, ", "))
		}
		kinds[kind] = d
	}
	csv, err := in.clusterServiceVersion(kinds)
	if err != nil {
		return err
	}
	files := map[string]any{"manifests/" + packageName + ".clusterserviceversion.yaml": csv}
	for _, object := range in.crds {
		plural, group, _ := strings.Cut(object.GetName(), ".")
		files["manifests/"+group+"_"+plural+".yaml"] = object.Object
	}
	for _, object := range in.others {
		// OLM puts everything into the namespace of the operator.
		object.SetNamespace("")
		gvk := object.GroupVersionKind()
		parts := []string{object.GetName(), gvk.Group, gvk.Version, gvk.Kind}
		parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" })
		name := strings.ToLower(strings.Join(parts, "_"))
		files["manifests/"+name+".yaml"] = object.Object
	}
	files["metadata/annotations.yaml"] = map[string]any{"annotations": annotations}
	files["tests/scorecard/config.yaml"] = in.scorecard
	if err := write(filepath.Join(root, "bundle"), files); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "bundle.Dockerfile"), dockerfile(), 0o644)
}

// write makes the directory hold these files and no others.
func write(dir string, files map[string]any) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for name, content := range files {
		text, err := marshal(content)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// marshal leaves out what only a living object has.
func marshal(content any) ([]byte, error) {
	encoded, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(encoded, &object); err != nil {
		return nil, err
	}
	delete(object, "status")
	withoutTimestamps(object)
	return yaml.Marshal(object)
}

// withoutTimestamps takes the empty timestamps away that Go types are written with.
func withoutTimestamps(value any) {
	switch value := value.(type) {
	case map[string]any:
		if at, ok := value["creationTimestamp"]; ok && at == nil {
			delete(value, "creationTimestamp")
		}
		for _, child := range value {
			withoutTimestamps(child)
		}
	case []any:
		for _, child := range value {
			withoutTimestamps(child)
		}
	}
}

// annotations tell OLM what the bundle is; the image has them as labels.
// https://olm.operatorframework.io/docs/tasks/creating-operator-bundle/#bundle-annotations
var annotations = map[string]string{
	"operators.operatorframework.io.bundle.mediatype.v1":       "registry+v1",
	"operators.operatorframework.io.bundle.manifests.v1":       "manifests/",
	"operators.operatorframework.io.bundle.metadata.v1":        "metadata/",
	"operators.operatorframework.io.bundle.package.v1":         packageName,
	"operators.operatorframework.io.bundle.channels.v1":        channel,
	"operators.operatorframework.io.bundle.channel.default.v1": channel,
	"operators.operatorframework.io.test.mediatype.v1":         "scorecard+v1",
	"operators.operatorframework.io.test.config.v1":            "tests/scorecard/",
}

func dockerfile() []byte {
	var text bytes.Buffer
	text.WriteString("# The bundle's image, which OLM unpacks. Made by \"make bundle\".\nFROM scratch\n\n")
	for _, key := range sortedKeys(annotations) {
		fmt.Fprintf(&text, "LABEL %s=%s\n", key, annotations[key])
	}
	text.WriteString("\nCOPY bundle/manifests /manifests/\nCOPY bundle/metadata /metadata/\n" +
		"COPY bundle/tests/scorecard /tests/scorecard/\n")
	return text.Bytes()
}
