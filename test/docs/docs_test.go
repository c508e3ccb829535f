// Package docs checks what the documentation says of the code.
package docs

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// named is the name of a test in the documentation: TestName or TestName/of a part.
var named = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)(?:/([^`]+))?`")

// TestNamedTestsExist fails when docs/security.md claims to be proved by a test that is
// not there.
func TestNamedTestsExist(t *testing.T) {
	text := read(t, "docs/security.md")
	sources := testSources(t)
	matches := named.FindAllStringSubmatch(text, -1)
	if len(matches) == 0 {
		t.Fatal("docs/security.md names no test")
	}
	for _, match := range matches {
		definition := "func " + match[1] + "("
		parts := strings.Split(match[2], "/")
		found := slices.ContainsFunc(slices.Collect(maps.Values(sources)), func(directory string) bool {
			return strings.Contains(directory, definition) && !slices.ContainsFunc(parts, func(part string) bool {
				return part != "" && !strings.Contains(directory, `"`+part+`"`)
			})
		})
		if !found {
			t.Errorf("there is no test %s", match[0])
		}
	}
}

// testSources are the sources of all tests, by directory.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "build" || entry.Name() == ".git" || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sources[filepath.Dir(path)] += string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

// TestPermissionsAreExplained fails when the table of the operator's permissions in
// docs/security.md is not what its role grants.
func TestPermissionsAreExplained(t *testing.T) {
	for _, test := range []struct {
		title string
		files []string
	}{
		{"### In all namespaces that it serves", []string{"config/rbac/role.yaml"}},
		{"### In its own namespace", []string{"config/rbac/leader_election_role.yaml",
			"config/rbac/release_records_role.yaml", "config/rbac/login_role.yaml", "config/rbac/own_image_role.yaml"}},
	} {
		granted := grants(t, test.files)
		_, section, found := strings.Cut(read(t, "docs/security.md"), test.title+"\n")
		if !found {
			t.Fatalf("docs/security.md has no section %q", test.title)
		}
		section, _, _ = strings.Cut(section, "\n#")
		explained := map[string]string{}
		for line := range strings.Lines(section) {
			cells := strings.Split(line, "|")
			if len(cells) < 5 || !strings.Contains(cells[1], "`") {
				continue // not a row
			}
			verbs := strings.Split(strings.TrimSpace(cells[2]), ", ")
			for _, resource := range strings.Split(strings.TrimSpace(cells[1]), ", ") {
				add(explained, strings.Trim(resource, "`"), verbs)
			}
			if strings.TrimSpace(cells[3]) == "" {
				t.Errorf("no reason is given for %s", cells[1])
			}
		}
		for resource := range maps.All(granted) {
			if explained[resource] != granted[resource] {
				t.Errorf("%s grant %s on %s, and docs/security.md explains %q", test.files, granted[resource], resource,
					explained[resource])
			}
		}
		for resource := range maps.All(explained) {
			if granted[resource] == "" {
				t.Errorf("docs/security.md explains %s, which %s do not grant", resource, test.files)
			}
		}
	}
}

// grants are the verbs that roles grant, by resource.
func grants(t *testing.T, files []string) map[string]string {
	t.Helper()
	granted := map[string]string{}
	for _, file := range files {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(read(t, file)), &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					add(granted, strings.Trim(group+"/"+resource, "/"), rule.Verbs)
				}
			}
		}
	}
	return granted
}

// add adds verbs to those of a resource, in order.
func add(permissions map[string]string, resource string, verbs []string) {
	all := slices.Concat(strings.Fields(permissions[resource]), verbs)
	slices.Sort(all)
	permissions[resource] = strings.Join(slices.Compact(all), " ")
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMapIsWhole fails when a package of the operator is in no line of the map.
func TestMapIsWhole(t *testing.T) {
	text := read(t, "docs/architecture.md")
	packages, err := os.ReadDir(filepath.Join(root, "internal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		if !strings.Contains(text, "`internal/"+p.Name()+"`") {
			t.Errorf("docs/architecture.md does not say what internal/%s is for", p.Name())
		}
	}
}

// Applications share the label of the instance: without the name of this one, a command would
// delete what is theirs.
func TestDeletedIsWhatIsOfAVault(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	found := 0
	for _, page := range pages {
		for line := range strings.Lines(read(t, strings.TrimPrefix(page, root+"/"))) {
			if !strings.Contains(line, " delete ") || !strings.Contains(line, "app.kubernetes.io/instance=") {
				continue
			}
			found++
			// HashiCorp's chart uses the same name, and no label of components with this prefix.
			if !strings.Contains(line, "app.kubernetes.io/name=vault,") ||
				strings.Contains(line, "pvc") && !strings.Contains(line, "app.kubernetes.io/component") {
				t.Errorf("%s deletes what may be of another application: %s", page, line)
			}
		}
	}
	if found == 0 {
		t.Error("no page deletes by label")
	}
}

// A version that is told in one place alone would be deployed as another one.
func TestVersionIsOne(t *testing.T) {
	version := ""
	for file, pattern := range map[string]string{
		"Makefile":                          `(?m)^VERSION \?= (\S+)$`,
		"helm-charts/vault/Chart.yaml":      `(?m)^version: (\S+)$`,
		"config/manager/kustomization.yaml": `(?m)^  newTag: v(\S+)$`,
		"docs/kubectl-plugin.md":            `kubectl-vault_([0-9.]+)_linux`,
		"docs/upgrading.md":                 `(?m)^## From \S+ to (\S+)$`,
		"config/manifests/bases/vault-operator.clusterserviceversion.yaml": `(?m)^  version: (\S+)$`,
	} {
		found := regexp.MustCompile(pattern).FindStringSubmatch(read(t, file))
		if found == nil {
			t.Errorf("%s tells no version", file)
			continue
		}
		if version == "" {
			version = found[1]
		}
		if found[1] != version {
			t.Errorf("%s is of version %s, and others are of %s", file, found[1], version)
		}
	}
}
