package authorization

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

var login = &v1alpha1.OperatorLoginStatus{
	Subject:    "system:serviceaccount:operators:manager",
	Audience:   "vault-operator/default/example",
	PublicKeys: []string{"-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----\n"},
}

// The operator must not get further than this, whatever is added to the policy.
func TestPolicyIsNarrow(t *testing.T) {
	paths := regexp.MustCompile(`path "([^"]+)"`).FindAllStringSubmatch(Policy, -1)
	var got []string
	for _, path := range paths {
		got = append(got, path[1])
	}
	want := []string{
		"sys/step-down", "sys/storage/raft/configuration", "sys/storage/raft/remove-peer", ConfigPath,
		"sys/capabilities-self",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the policy is about %q, want %q", got, want)
	}
	if strings.ContainsAny(Policy, "*+") || strings.Count(Policy, "sudo") != 1 {
		t.Error("the policy has a wildcard, or more than one right of sudo")
	}
}

func TestMissing(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(map[string][]string)
		want   string
	}{
		{"nothing", func(map[string][]string) {}, ""},
		{"all, for root", func(c map[string][]string) { c["sys/step-down"] = []string{"root"} }, ""},
		{"sudo", func(c map[string][]string) { c["sys/step-down"] = []string{"update"} }, "sudo on sys/step-down"},
		{"denied", func(c map[string][]string) { c[ConfigPath] = []string{"deny"} }, "read and update on " + ConfigPath},
		{"not told", func(c map[string][]string) { delete(c, ConfigPath) }, "read and update on " + ConfigPath},
	} {
		t.Run(test.name, func(t *testing.T) {
			capabilities := map[string][]string{"sys/step-down": {"sudo", "update"}, ConfigPath: {"read", "update"}}
			test.change(capabilities)
			if got := strings.Join(Missing(&v1alpha1.Vault{}, capabilities), ", "); got != test.want {
				t.Errorf("Missing() = %q, want %q", got, test.want)
			}
		})
	}
	raft := &v1alpha1.Vault{Spec: v1alpha1.VaultSpec{Storage: v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}}}
	capabilities := map[string][]string{"sys/step-down": {"root"}, ConfigPath: {"root"}}
	want := "read on sys/storage/raft/configuration, update on sys/storage/raft/remove-peer"
	if got := strings.Join(Missing(raft, capabilities), ", "); got != want {
		t.Errorf("with integrated storage Missing() = %q, want %q", got, want)
	}
}

func TestGrant(t *testing.T) {
	requests := Grant(login)
	var paths []string
	for _, request := range requests {
		paths = append(paths, request.Path)
	}
	// The roles come after their policies: before them nobody can log in.
	want := []string{PolicyPath, MountPath, ConfigPath, RolePath, BackupPolicyPath, BackupRolePath}
	if !slices.Equal(paths, want) {
		t.Errorf("paths are %q, want %q", paths, want)
	}
	// Jobs log in as the ServiceAccount of this Vault's backups, and may do nothing else.
	for field, want := range map[string]string{
		"bound_subject":   `"system:serviceaccount:default:example-backup"`,
		"bound_audiences": `["vault-operator/default/example"]`, "token_policies": `["vault-operator-backup"]`,
		"token_no_default_policy": "true", "token_ttl": `"5m"`, "role_type": `"jwt"`,
	} {
		if got, _ := json.Marshal(requests[5].Body[field]); string(got) != want {
			t.Errorf("%s of the role of backups is %s, want %s", field, got, want)
		}
	}
	role := requests[3].Body
	for field, want := range map[string]string{
		"bound_subject": `"system:serviceaccount:operators:manager"`, "bound_audiences": `["vault-operator/default/example"]`,
		"token_policies": `["vault-operator"]`, "token_no_default_policy": "true", "token_type": `"batch"`,
		"token_ttl": `"5m"`, "role_type": `"jwt"`,
	} {
		if got, _ := json.Marshal(role[field]); string(got) != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
	if want := []string{PolicyPath, BackupPolicyPath, MountPath}; !slices.Equal(Revoke(), want) {
		t.Errorf("Revoke() = %q, want %q", Revoke(), want)
	}
}

// The commands that are printed for review write what Grant writes.
func TestGrantCommands(t *testing.T) {
	commands := GrantCommands(login)
	documents := regexp.MustCompile(`(?s)vault (?:policy write|write) (\S+) - <<'EOF'\n(.*?)EOF\n`).
		FindAllStringSubmatch(commands, -1)
	if len(documents) != 5 {
		t.Fatalf("commands are\n%s", commands)
	}
	if documents[0][1] != Name || documents[0][2] != Policy {
		t.Errorf("another policy is printed: %s", documents[0][2])
	}
	if documents[3][1] != BackupName || documents[3][2] != BackupPolicy {
		t.Errorf("another policy of backups is printed: %s", documents[3][2])
	}
	for document, request := range map[int]Request{1: Grant(login)[2], 2: Grant(login)[3], 4: Grant(login)[5]} {
		want, _ := json.Marshal(request.Body)
		var printed map[string]any
		if err := json.Unmarshal([]byte(documents[document][2]), &printed); err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(printed); documents[document][1] != request.Path || string(got) != string(want) {
			t.Errorf("%s gets %s, want %s for %s", documents[document][1], got, want, request.Path)
		}
	}
	if !strings.Contains(commands, "\nvault auth enable -path=vault-operator ") {
		t.Errorf("nothing is mounted by\n%s", commands)
	}
}

// What somebody else has made by the same name is neither replaced nor deleted.
func TestOwn(t *testing.T) {
	first, rest, _ := strings.Cut(Policy, "\n")
	for text, want := range map[string]bool{
		Policy: true, "\n" + Policy: true, first + "\n# of another version\n": true,
		"": false, rest: false, first + " and more\n": false, "# mine\n" + Policy: false, "path \"*\" {}": false,
	} {
		if got := OwnPolicy(text); got != want {
			t.Errorf("OwnPolicy(%q) = %v", text, got)
		}
	}
	mount := Grant(login)[1].Body
	if kind, _ := mount["type"].(string); !OwnMount(kind, description) || mount["description"] != description {
		t.Errorf("what is written is not taken for the operator's: %v", mount)
	}
	if OwnMount("userpass", description) || OwnMount("jwt", "") {
		t.Error("the auth method of somebody else is taken for the operator's")
	}
}

func TestResponses(t *testing.T) {
	if !AlreadyMounted([]string{"path is already in use at vault-operator/"}) || AlreadyMounted([]string{"no"}) {
		t.Error("AlreadyMounted() is wrong")
	}
	if !NotMounted([]string{"No auth engine at vault-operator/"}) || NotMounted([]string{"permission denied"}) {
		t.Error("NotMounted() is wrong")
	}
	if others := Others([]string{"a", Name}); !slices.Equal(others, []string{"a"}) {
		t.Errorf("Others() = %q", others)
	}
}
