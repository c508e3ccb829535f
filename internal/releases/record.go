package releases

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	// maxEncoded is more than fits into a Secret.
	maxEncoded = 2 << 20
	// maxDecoded limits what a record may grow to when it is decompressed: a
	// thousand times its size is possible, and the process has 512 MiB.
	maxDecoded = 8 << 20
	// maxManifest limits the YAML that is parsed of an imported record, for which
	// the parser needs up to 200 times its size.
	maxManifest = 256 << 10
)

var gzipMagic = []byte{0x1f, 0x8b, 0x08}

// pack encodes a release as Helm does. Of the chart only the metadata is kept:
// the templates are in the operator's image, and nothing reads them from a record.
func pack(rel *release.Release) ([]byte, error) {
	stored := *rel
	if rel.Chart != nil {
		stored.Chart = &chart.Chart{Metadata: rel.Chart.Metadata}
	}
	text, err := json.Marshal(&stored)
	if err != nil {
		return nil, err
	}
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	if _, err := writer.Write(text); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, compressed.Bytes()), nil
}

// unpack returns the JSON of a record. It counts while it decompresses.
func unpack(encoded []byte) ([]byte, error) {
	if len(encoded) == 0 {
		return nil, errors.New("it is empty")
	}
	if len(encoded) > maxEncoded {
		return nil, fmt.Errorf("it is larger than %d bytes", maxEncoded)
	}
	text, err := base64.StdEncoding.AppendDecode(nil, encoded)
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	if !bytes.HasPrefix(text, gzipMagic) {
		return text, nil // Helm reads those, too
	}
	reader, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, errors.New("it is not gzip")
	}
	text, err = io.ReadAll(io.LimitReader(reader, maxDecoded+1))
	if err != nil {
		return nil, errors.New("it is not gzip")
	}
	if len(text) > maxDecoded {
		return nil, fmt.Errorf("it is larger than %d bytes when it is decompressed", maxDecoded)
	}
	return text, nil
}

// parse makes a release of the JSON of a record in the operator's namespace.
func parse(text []byte, vault client.Object) (*release.Release, error) {
	rel := &release.Release{}
	if err := json.Unmarshal(text, rel); err != nil {
		return nil, errors.New("it is not the JSON of a release")
	}
	switch {
	case rel.Info == nil || rel.Version < 1:
		return nil, errors.New("it is not complete")
	case rel.Name != string(vault.GetUID()) || rel.Namespace != vault.GetNamespace():
		return nil, errors.New("it is not of this Vault")
	case len(rel.Hooks) > 0:
		return nil, errors.New("it has hooks")
	}
	// Charts and ownership annotations know the release by the Vault's name.
	rel.Name = vault.GetName()
	return rel, nil
}

// tenantRecord is what is read of a record that users of the Vault's namespace
// can write: no more than is needed, so that it cannot need more memory either.
type tenantRecord struct {
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"`
	Version   int          `json:"version"`
	Info      release.Info `json:"info"`
	Chart     struct {
		Metadata struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"metadata"`
	} `json:"chart"`
	Manifest string          `json:"manifest"`
	Hooks    json.RawMessage `json:"hooks"`
}

// fromTenant makes a release of a record in the Vault's namespace. Whoever may
// write Secrets there can have forged it, whatever it says. So it is taken for a
// release only if all that Helm could do by it is to change or to delete objects
// of the kinds that the chart renders, of names that begin with the Vault's, in
// the Vault's namespace.
func fromTenant(encoded []byte, vault client.Object, chartName string) (*release.Release, error) {
	text, err := unpack(encoded)
	if err != nil {
		return nil, err
	}
	var old tenantRecord
	if err := json.Unmarshal(text, &old); err != nil {
		return nil, errors.New("it is not the JSON of a release")
	}
	hooks := string(bytes.TrimSpace(old.Hooks))
	switch {
	case old.Version < 1 || old.Info.Status == "":
		return nil, errors.New("it is not complete")
	case old.Name != vault.GetName() || old.Namespace != vault.GetNamespace():
		return nil, errors.New("it is of another release")
	case old.Chart.Metadata.Name != chartName:
		return nil, errors.New("it is of another chart")
	case hooks != "" && hooks != "null" && hooks != "[]":
		return nil, errors.New("it has hooks")
	}
	manifest, err := checkManifest(old.Manifest, client.ObjectKeyFromObject(vault))
	if err != nil {
		return nil, err
	}
	return &release.Release{
		Name:      old.Name,
		Namespace: old.Namespace,
		Version:   old.Version,
		Info: &release.Info{
			FirstDeployed: old.Info.FirstDeployed, LastDeployed: old.Info.LastDeployed, Status: old.Info.Status,
			Description: "Imported from the namespace of the Vault",
		},
		Chart:    &chart.Chart{Metadata: &chart.Metadata{Name: chartName, Version: old.Chart.Metadata.Version}},
		Manifest: manifest,
	}, nil
}

// importedKinds are those that the chart has rendered for the operator since its
// first version, as "apiVersion kind".
var importedKinds = map[string]bool{
	"apps/v1 Deployment":                 true,
	"apps/v1 StatefulSet":                true,
	"v1 ConfigMap":                       true,
	"v1 Service":                         true,
	"v1 ServiceAccount":                  true,
	"policy/v1 PodDisruptionBudget":      true,
	"networking.k8s.io/v1 NetworkPolicy": true,
}

// checkManifest returns the manifest as it was understood here, so that Helm does
// not understand it differently. The contents of ConfigMaps are left out: they
// are the user's configuration, and only the keys are compared with.
func checkManifest(manifest string, vault types.NamespacedName) (string, error) {
	if len(manifest) > maxManifest {
		return "", fmt.Errorf("its manifest is larger than %d bytes", maxManifest)
	}
	var checked strings.Builder
	// A long last line without an end would be left out by the reader.
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest + "\n")))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return checked.String(), nil
		}
		if err != nil {
			return "", errors.New("its manifest is not YAML")
		}
		object, err := parseObject(document)
		if err != nil {
			return "", err
		}
		if object == nil {
			continue
		}
		if err := checkObject(object, vault); err != nil {
			return "", err
		}
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return "", errors.New("its manifest is not YAML")
		}
		checked.WriteString("---\n")
		checked.Write(text)
	}
}

func parseObject(document []byte) (*unstructured.Unstructured, error) {
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, errors.New("its manifest is not YAML")
	}
	var object map[string]any
	if err := utiljson.Unmarshal(text, &object); err != nil {
		return nil, errors.New("its manifest is not YAML of objects")
	}
	if len(object) == 0 {
		return nil, nil
	}
	return &unstructured.Unstructured{Object: object}, nil
}

func checkObject(object *unstructured.Unstructured, vault types.NamespacedName) error {
	if !importedKinds[object.GetAPIVersion()+" "+object.GetKind()] {
		return errors.New("its manifest has an object of a kind that the chart does not render")
	}
	if namespace := object.GetNamespace(); namespace != "" && namespace != vault.Namespace {
		return errors.New("its manifest has an object of another namespace")
	}
	if name := object.GetName(); name != vault.Name && !strings.HasPrefix(name, vault.Name+"-") {
		return errors.New("its manifest has an object that does not have the name of the Vault")
	}
	if object.GetKind() != "ConfigMap" {
		return nil
	}
	if data, ok := object.Object["data"].(map[string]any); ok {
		for key := range data {
			data[key] = ""
		}
	}
	return nil
}
