//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"

	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const (
	beforeCSV = "vault-operator.v0.1.0"
	firstCSV  = "vault-operator.v0.2.0"
	secondCSV = "vault-operator.v0.2.1"
)

// TestOLM installs the operator as OperatorHub does: from a catalog, by the Operator
// Lifecycle Manager, for one namespace. It follows docs/install.md.
func TestOLM(t *testing.T) {
	requireLocalCluster(t)
	t.Cleanup(func() { shell.Run(t, "../../hack/deploy.sh") })
	// The one that came with plain manifests serves all namespaces, and goes first.
	removeOperator(t)
	installOLM(t)
	o := &olm{t: t, namespace: newNamespace(t), dir: t.TempDir()}
	first := o.bundle(firstCSV, "")
	second := o.bundle(secondCSV, firstCSV)
	o.subscribe(o.catalog(first))
	o.awaitCSV(firstCSV)
	o.requireOwnPermissions()

	vault := vaulttest.Vault{Namespace: o.namespace, Name: "example"}
	shell.Apply(t, o.example())
	watchInvariants(t, vault)
	f := fixtureOf(t, vault, 2)
	o.requireDescribed(f)
	pods := running(t, vault)
	both := o.catalog(first, second)
	clients := f.start(t, "node-1", 10*time.Minute, longTimeout)

	t.Run("an upgrade of the operator harms no Vault", func(t *testing.T) {
		shell.Run(t, fmt.Sprintf(`kubectl -n olm patch catalogsource vault-operator --type=merge -p '{"spec": {"image": `+
			`"%s"}}'`, both))
		o.awaitCSV(secondCSV)
		shell.Run(t, o.kubectl("rollout status deployment/vault-operator-controller-manager --timeout=120s"))
		f.AwaitHA(t, 1)
		if got := running(t, vault); got != pods {
			t.Errorf("pods are %s, and were %s", got, pods)
		}
	})
	t.Run("a removal of the operator harms no Vault", func(t *testing.T) {
		shell.Run(t, o.kubectl("delete subscription vault-operator"))
		shell.Run(t, o.kubectl("delete clusterserviceversion "+secondCSV))
		shell.Run(t, o.kubectl("wait --for=delete --timeout=120s deployment/vault-operator-controller-manager"))
		time.Sleep(5 * time.Second)
		if got := running(t, vault); got != pods {
			t.Errorf("pods are %s, and were %s", got, pods)
		}
	})
	requireNoFailure(t, clients.stop(t))
	t.Run("another operator takes the Vault over", func(t *testing.T) {
		shell.Run(t, "../../hack/deploy.sh")
		active := f.AwaitHA(t, 1).VaultStatus.Active
		if got := running(t, vault); got != pods {
			t.Errorf("pods are %s, and were %s", got, pods)
		}
		shell.Run(t, f.Kubectl("delete pod %s", active))
		f.awaitOther(t, active)
		shell.Run(t, f.Kubectl("delete vault %s", f.Name))
	})
}

// installOLM installs the Operator Lifecycle Manager by its own chart, without the
// server of package lists, which only consoles use.
func installOLM(t *testing.T) {
	t.Helper()
	lines := strings.Split(shell.Run(t, "$LOCAL_CLUSTER olm"), "\n")
	dir, opm, _ := strings.Cut(lines[len(lines)-1], " ")
	chart, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	image := map[string]any{"ref": "quay.io/operator-framework/olm:v0.42.0", "pullPolicy": "IfNotPresent"}
	values, err := chartutil.ToRenderValues(chart, map[string]any{
		"namespace": "olm", "catalog_namespace": "olm", "operator_namespace": "operators",
		"olm":     map[string]any{"image": image},
		"catalog": map[string]any{"image": image, "opmImageArgs": "--opmImage=" + opm},
	}, chartutil.ReleaseOptions{Name: "olm", Namespace: "olm"}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := engine.Render(chart, values)
	if err != nil {
		t.Fatal(err)
	}
	var manifests []string
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if !strings.Contains(name, "packageserver") && !strings.Contains(name, "catalogsource") &&
			strings.HasSuffix(name, ".yaml") {
			manifests = append(manifests, rendered[name])
		}
	}
	crds := filepath.Join(dir, "crds")
	t.Cleanup(func() {
		// It takes its finalizers away itself.
		shell.Run(t, "kubectl delete clusterserviceversions --all --all-namespaces --timeout=60s && kubectl delete "+
			"namespace olm operators")
		shell.Run(t, "kubectl delete -f "+crds)
	})
	shell.Run(t, "kubectl apply --server-side -f "+crds)
	shell.Run(t, "kubectl wait --for=condition=Established --timeout=60s -f "+crds)
	shell.Apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: olm}}\n---\n{apiVersion: v1, kind: Namespace, "+
		"metadata: {name: operators}}")
	shell.Apply(t, strings.Join(manifests, "\n---\n"))
	for _, name := range []string{"olm-operator", "catalog-operator"} {
		shell.Run(t, "kubectl -n olm rollout status --timeout=120s deployment/"+name)
	}
}

// olm is an installation by the Operator Lifecycle Manager.
type olm struct {
	t         *testing.T
	namespace string
	// dir is where bundles and catalogs are made.
	dir      string
	catalogs int
}

// bundle is one version of the operator.
type bundle struct{ name, replaces, dir, image string }

func (o *olm) kubectl(format string, args ...any) string {
	return "kubectl -n " + o.namespace + " " + fmt.Sprintf(format, args...)
}

// bundle makes the image of the repository's bundle, with the operator that was
// built last and under a version of its own.
func (o *olm) bundle(name, replaces string) bundle {
	o.t.Helper()
	b := bundle{name: name, replaces: replaces, dir: filepath.Join(o.dir, name)}
	_, version, _ := strings.Cut(name, ".v")
	shell.Run(o.t, "mkdir "+b.dir+" && cp -r ../../bundle ../../bundle.Dockerfile "+b.dir)
	file := filepath.Join(b.dir, "bundle", "manifests", "vault-operator.clusterserviceversion.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		o.t.Fatal(err)
	}
	operator, err := os.ReadFile("../../build/image.name")
	if err != nil {
		o.t.Fatal(err)
	}
	changed := strings.NewReplacer(firstCSV, name, "version: 0.2.0", "version: "+version,
		"quay.io/vault-operator/vault-operator:v0.2.0", strings.TrimSpace(string(operator))).Replace(string(text))
	// The catalog has no version before the first one, as that of OperatorHub has not where one was skipped.
	if replaces != "" {
		changed = strings.Replace(changed, "replaces: "+beforeCSV, "replaces: "+replaces, 1)
	}
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		o.t.Fatal(err)
	}
	shell.Run(o.t, "chmod -R a+rX "+b.dir)
	b.image = o.image("quay.io/vault-operator/vault-operator-bundle:v"+version, b.dir, "bundle.Dockerfile")
	return b
}

// image builds an image, and returns what the nodes call it by its digest.
func (o *olm) image(name, dir, dockerfile string) string {
	o.t.Helper()
	archive := filepath.Join(o.dir, "image.tar")
	shell.Run(o.t, "export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot; rm -f "+archive+
		" && buildah bud --quiet --tag "+name+" --file "+filepath.Join(dir, dockerfile)+" "+dir+
		" && buildah push --quiet "+name+" docker-archive:"+archive+":"+name+" && buildah rmi "+name)
	out := shell.Run(o.t, "$LOCAL_CLUSTER load "+archive)
	lines := strings.Split(out, "\n")
	return lines[len(lines)-1]
}

// catalog makes the image of a file-based catalog with bundles, by opm.
// https://olm.operatorframework.io/docs/reference/file-based-catalogs/
func (o *olm) catalog(bundles ...bundle) string {
	o.t.Helper()
	o.catalogs++
	dir := filepath.Join(o.dir, fmt.Sprintf("catalog-%d", o.catalogs))
	var entries []string
	text := "---\nschema: olm.package\nname: vault-operator\ndefaultChannel: alpha\n"
	for _, b := range bundles {
		entry := "{name: " + b.name
		if b.replaces != "" {
			entry += ", replaces: " + b.replaces
		}
		entries = append(entries, entry+"}")
		render := "opm render -o yaml --alpha-image-ref-template '" + b.image + "' " + filepath.Join(b.dir, "bundle")
		text += "---\n" + shell.Run(o.t, render) + "\n"
	}
	text += "---\nschema: olm.channel\npackage: vault-operator\nname: alpha\nentries: [" + strings.Join(entries, ", ") +
		"]\n"
	configs := filepath.Join(dir, "configs")
	if err := os.MkdirAll(configs, 0o755); err != nil {
		o.t.Fatal(err)
	}
	for path, content := range map[string]string{
		filepath.Join(configs, "catalog.yaml"): text,
		filepath.Join(dir, "Dockerfile"):       "FROM scratch\nCOPY configs /configs\nCOPY cache /cache\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
	shell.Run(o.t, "opm validate "+configs+" && opm serve "+configs+" --cache-dir="+filepath.Join(dir, "cache")+
		" --cache-only && chmod -R a+rX "+dir)
	return o.image(fmt.Sprintf("quay.io/vault-operator/vault-operator-catalog:test-%d", o.catalogs), dir, "Dockerfile")
}

// subscribe does what an administrator does in OperatorHub.
func (o *olm) subscribe(catalog string) {
	o.t.Helper()
	shell.Apply(o.t, `
apiVersion: operators.coreos.com/v1alpha1
kind: CatalogSource
metadata: {name: vault-operator, namespace: olm}
spec:
  sourceType: grpc
  image: `+catalog+`
  grpcPodConfig:
    securityContextConfig: restricted
    extractContent: {catalogDir: /configs, cacheDir: /cache}
---
apiVersion: operators.coreos.com/v1
kind: OperatorGroup
metadata: {name: vault-operator, namespace: `+o.namespace+`}
spec:
  targetNamespaces: [`+o.namespace+`]
---
apiVersion: operators.coreos.com/v1alpha1
kind: Subscription
metadata: {name: vault-operator, namespace: `+o.namespace+`}
spec: {name: vault-operator, channel: alpha, source: vault-operator, sourceNamespace: olm}
`)
}

// awaitCSV waits until a version of the operator is installed.
func (o *olm) awaitCSV(name string) {
	o.t.Helper()
	shell.Eventually(o.t, name+" has succeeded", 3*time.Minute, func() error {
		out, err := shell.Try(o.kubectl("get clusterserviceversion %s -o jsonpath='{.status.phase} {.status.message}'", name))
		if err == nil && !strings.HasPrefix(out, "Succeeded") {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
	shell.Eventually(o.t, "its install plan is complete", time.Minute, func() error {
		plans, err := shell.Try(o.kubectl(`get installplans -o jsonpath='{range ` +
			`.items[*]}{.spec.clusterServiceVersionNames[0]} {.status.phase}{"\n"}{end}'`))
		if err == nil && !strings.Contains(plans, name+" Complete") {
			err = fmt.Errorf("the install plans are %q", plans)
		}
		return err
	})
	if jobs := shell.Run(o.t, "kubectl -n olm get jobs -o name"); jobs == "" {
		o.t.Error("no job has unpacked the bundle")
	}
}

// requireOwnPermissions fails the test when the operator may do more than its CSV says.
func (o *olm) requireOwnPermissions() {
	o.t.Helper()
	as := " --as=system:serviceaccount:" + o.namespace + ":vault-operator-controller-manager"
	for request, want := range map[string]string{
		"list secrets -n " + o.namespace:           "yes",
		"patch pods -n " + o.namespace:             "yes",
		"create pods -n " + o.namespace:            "no",
		"list secrets -n default":                  "no",
		"patch pods -n " + operatorNamespace:       "no",
		"delete persistentvolumeclaims -n default": "no",
		"create jobs -n default":                   "no",
		"get nodes":                                "no",
		"create tokenreviews":                      "yes",
	} {
		got, _ := shell.Try("kubectl auth can-i " + request + as + " 2>/dev/null | tail -1")
		if !strings.HasPrefix(got, want) {
			o.t.Errorf("kubectl auth can-i %s: %s, want %s", request, got, want)
		}
	}
}

// example is the Vault that consoles begin with.
func (o *olm) example() string {
	o.t.Helper()
	text := shell.Run(o.t, o.kubectl(`get clusterserviceversion %s -o jsonpath='{.metadata.annotations.alm-examples}'`,
		firstCSV))
	var examples []map[string]any
	if err := json.Unmarshal([]byte(text), &examples); err != nil || len(examples) != 7 {
		o.t.Fatalf("alm-examples: %v\n%s", err, text)
	}
	first := examples[slices.IndexFunc(examples, func(e map[string]any) bool { return e["kind"] == "Vault" })]
	first["metadata"].(map[string]any)["namespace"] = o.namespace
	encoded, err := json.Marshal(first)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(encoded)
}

// requireDescribed fails the test when the living Vault has a field that a console
// has no name for, as the scorecard of operator-sdk does.
func (o *olm) requireDescribed(f *fixture) {
	o.t.Helper()
	var vault, csv struct {
		Spec   json.RawMessage
		Status map[string]any
	}
	for kind, into := range map[string]any{"vault " + f.Name: &vault, "clusterserviceversion " + firstCSV: &csv} {
		if err := json.Unmarshal([]byte(shell.Run(o.t, o.kubectl("get %s -o json", kind))), into); err != nil {
			o.t.Fatal(err)
		}
	}
	type descriptor struct{ Path string }
	type ownedKind struct {
		Kind                               string
		SpecDescriptors, StatusDescriptors []descriptor
	}
	var described struct {
		CustomResourceDefinitions struct{ Owned []ownedKind }
	}
	var spec map[string]any
	if err := errors.Join(json.Unmarshal(csv.Spec, &described), json.Unmarshal(vault.Spec, &spec)); err != nil {
		o.t.Fatal(err)
	}
	if len(spec) == 0 || len(vault.Status) == 0 {
		o.t.Errorf("the Vault has no spec or no status: %+v", vault)
	}
	at := slices.IndexFunc(described.CustomResourceDefinitions.Owned, func(k ownedKind) bool {
		return k.Kind == "Vault"
	})
	owned := described.CustomResourceDefinitions.Owned[at]
	for _, block := range []struct {
		fields      map[string]any
		descriptors []descriptor
	}{{spec, owned.SpecDescriptors}, {vault.Status, owned.StatusDescriptors}} {
		for field := range block.fields {
			if !slices.Contains(block.descriptors, descriptor{field}) {
				o.t.Errorf("field %s has no descriptor", field)
			}
		}
	}
}
