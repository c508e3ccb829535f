package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	"github.com/operator-framework/api/pkg/validation"
	interfaces "github.com/operator-framework/api/pkg/validation/interfaces"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

const (
	repository = "../.."
	bundleDir  = "../../bundle"
)

func loadBundle(t *testing.T) *manifests.Bundle {
	t.Helper()
	bundle, err := manifests.GetBundleFromDir(filepath.Join(bundleDir, "manifests"))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// OLM installs the operator on no Kubernetes that the chart refuses.
func TestMinKubeVersion(t *testing.T) {
	chart, err := os.ReadFile(filepath.Join(repository, "helm-charts/vault/Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	minimum := loadBundle(t).CSV.Spec.MinKubeVersion
	if want := "kubeVersion: \">=" + minimum + "-0\"\n"; minimum == "" || !strings.Contains(string(chart), want) {
		t.Errorf("the bundle's minKubeVersion is %q, and the chart has no line %q", minimum, want)
	}
}

// TestValidators runs what "operator-sdk bundle validate" does, with all its suites.
func TestValidators(t *testing.T) {
	bundle := loadBundle(t)
	objects := bundle.ObjectsToValidate()
	for _, object := range bundle.Objects {
		objects = append(objects, object)
	}
	objects = append(objects,
		map[string]string{"k8s-version": "1.30", "index-path": filepath.Join(repository, "bundle.Dockerfile")})
	for name, validators := range map[string]interfaces.Validators{
		"default": append(interfaces.Validators{validation.ObjectValidator}, validation.DefaultBundleValidators...),
		"operatorhub": {
			validation.OperatorHubV2Validator, validation.StandardCapabilitiesValidator, validation.StandardCategoriesValidator,
		},
		"good-practices": {validation.GoodPracticesValidator},
		"community":      {validation.CommunityOperatorValidator},
		"deprecated":     {validation.AlphaDeprecatedAPIsValidator},
	} {
		t.Run(name, func(t *testing.T) {
			for _, result := range validators.Validate(objects...) {
				t.Logf("%s: %d errors, %d warnings", result.Name, len(result.Errors), len(result.Warnings))
				for _, finding := range slices.Concat(result.Errors, result.Warnings) {
					// A rule has no version to tell by, and the chart has policy/v1.
					if strings.Contains(finding.Detail, "poddisruptionbudgets") && strings.Contains(finding.Detail, "Rules[") {
						t.Log(finding)
						continue
					}
					t.Error(finding)
				}
			}
		})
	}
}

// TestScorecard checks what the olm suite of "operator-sdk scorecard" does of a bundle
// alone. What it looks at in a cluster is in the end-to-end tests.
func TestScorecard(t *testing.T) {
	bundle := loadBundle(t)
	var examples []struct {
		Kind string
		Spec map[string]any
	}
	if err := json.Unmarshal([]byte(bundle.CSV.Annotations["alm-examples"]), &examples); err != nil || len(examples) != 7 {
		t.Fatalf("examples: %v, %v", examples, err)
	}
	owned := bundle.CSV.Spec.CustomResourceDefinitions.Owned
	if len(owned) != 4 || len(bundle.V1CRDs) != len(owned) {
		t.Fatalf("owned: %+v", owned)
	}
	for _, kind := range owned {
		schema := bundle.V1CRDs[slices.IndexFunc(bundle.V1CRDs, func(crd *apiextensionsv1.CustomResourceDefinition) bool {
			return crd.Spec.Names.Kind == kind.Kind
		})].Spec.Versions[0].Schema.OpenAPIV3Schema
		if len(kind.Resources) == 0 {
			t.Errorf("%s names no resources", kind.Kind)
		}
		spec := requireDescriptors(t, kind, schema)
		for _, example := range examples {
			for name := range example.Spec {
				if example.Kind == kind.Kind && !spec[name] {
					t.Errorf("spec.%s of an example has no descriptor", name)
				}
			}
		}
	}
}

// requireDescriptors returns the fields of the spec that have one.
func requireDescriptors(
	t *testing.T, kind v1alpha1.CRDDescription, schema *apiextensionsv1.JSONSchemaProps,
) map[string]bool {
	t.Helper()
	spec, status := map[string]bool{}, map[string]bool{}
	for i, descriptor := range kind.SpecDescriptors {
		spec[descriptor.Path] = true
		requireUseful(t, "spec", descriptor.Path, descriptor.DisplayName, descriptor.Description)
		// Consoles forget what they were told of a part before they were told of the whole.
		if at := strings.LastIndex(descriptor.Path, "."); at >= 0 && !spec[descriptor.Path[:at]] {
			t.Errorf("descriptor %d, of spec.%s, comes before that of spec.%s", i, descriptor.Path, descriptor.Path[:at])
		}
	}
	for _, descriptor := range kind.StatusDescriptors {
		status[descriptor.Path] = true
		requireUseful(t, "status", descriptor.Path, descriptor.DisplayName, descriptor.Description)
	}
	for name := range schema.Properties["spec"].Properties {
		if !spec[name] {
			t.Errorf("spec.%s has no descriptor", name)
		}
	}
	for name := range schema.Properties["status"].Properties {
		if !status[name] {
			t.Errorf("status.%s has no descriptor", name)
		}
	}
	return spec
}

func requireUseful(t *testing.T, block, path, displayName, description string) {
	t.Helper()
	if displayName == "" || len(description) < 20 {
		t.Errorf("%s.%s is called %q and described by %q", block, path, displayName, description)
	}
}

// TestMissingDescriptors checks that a field without a descriptor is found.
func TestMissingDescriptors(t *testing.T) {
	d, err := describe("testdata", "Thing")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"spec.part.forgotten", "status.forgotten"}; !slices.Equal(d.missing, want) {
		t.Errorf("missing are %v, want %v", d.missing, want)
	}
	if len(d.spec) != 2 || d.spec[0].path != "part" || d.spec[1].path != "part.size" ||
		d.spec[1].description != "Size of it, in two lines." {
		t.Errorf("descriptors of the spec are %+v", d.spec)
	}
}

// TestIcon checks that the picture is the one that can be looked at.
func TestIcon(t *testing.T) {
	bundle := loadBundle(t)
	want, err := os.ReadFile(filepath.Join(repository, "config", "manifests", "icon.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := base64.StdEncoding.DecodeString(bundle.CSV.Spec.Icon[0].Data); err != nil ||
		string(got) != string(want) {
		t.Errorf("the icon is another one than icon.svg, in base64 (%v)", err)
	}
}
