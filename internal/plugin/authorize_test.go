package plugin

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/authorization"
)

// loginHarness is a harness whose Vault has the operator log in.
func loginHarness(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	h.vault.Spec.OperatorLogin = &v1alpha1.OperatorLoginPolicy{Enabled: true}
	h.vault.Status.OperatorLogin = &v1alpha1.OperatorLoginStatus{
		Subject: "system:serviceaccount:operators:manager", Audience: "vault-operator/default/example",
		PublicKeys: []string{"-----BEGIN PUBLIC KEY-----"},
	}
	h.api.set("vaults", h.vault)
	return h
}

func TestAuthorize(t *testing.T) {
	h := loginHarness(t)
	node := &fakeNode{initialized: true, active: true, handlers: map[string]http.HandlerFunc{}}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run("hvs.bad\n", "authorize", "example").expect(t, exitDenied,
		"reading sys/policies/acl/vault-operator", "permission denied")
	h.run("", "authorize", "example").expect(t, exitDenied, "no token was given")
	h.run("hvs.good\n", "authorize", "example").expect(t, 0, "may keep Vault example available")
	var paths []string
	for _, request := range node.written {
		paths = append(paths, strings.Join(strings.Fields(request)[:2], " "))
	}
	want := []string{"PUT sys/policies/acl/vault-operator", "PUT sys/auth/vault-operator",
		"PUT auth/vault-operator/config", "PUT auth/vault-operator/role/vault-operator",
		"PUT sys/policies/acl/vault-operator-backup", "PUT auth/vault-operator/role/vault-operator-backup"}
	if !slices.Equal(paths, want) || !strings.Contains(node.written[3], `"vault-operator/default/example"`) {
		t.Errorf("Vault got %q, want %q", node.written, want)
	}
	node.written = nil
	h.run("hvs.good\n", "deauthorize", "example").expect(t, 0, "may do nothing in Vault example any more")
	want = []string{"DELETE sys/policies/acl/vault-operator ", "DELETE sys/policies/acl/vault-operator-backup ",
		"DELETE sys/auth/vault-operator "}
	if !slices.Equal(node.written, want) {
		t.Errorf("Vault got %q, want %q", node.written, want)
	}
}

// What is somebody else's is neither given to the operator nor replaced nor deleted.
func TestAuthorizeOnceMore(t *testing.T) {
	h := loginHarness(t)
	ours := map[string]any{"type": "jwt", "description": authorization.Grant(h.vault.Status.OperatorLogin)[1].
		Body["description"]}
	node := &fakeNode{initialized: true, active: true, policy: authorization.Policy, mount: ours}
	roles := []string{"vault-operator"}
	node.handlers = map[string]http.HandlerFunc{
		"/v1/auth/vault-operator/role": func(w http.ResponseWriter, _ *http.Request) {
			reply(w, map[string]any{"data": map[string]any{"keys": roles}})
		},
	}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run("hvs.good\n", "authorize", "example").expect(t, 0, "may keep Vault example available")
	if len(node.written) != 5 { // what is mounted is not mounted again
		t.Errorf("Vault got %q", node.written)
	}
	node.written = nil
	refused := func(texts ...string) {
		t.Helper()
		for _, command := range []string{"authorize", "deauthorize"} {
			h.run("hvs.good\n", command, "example").expect(t, exitRefused, texts...)
		}
		if len(node.written) > 0 {
			t.Errorf("Vault got %q", node.written)
		}
	}
	roles = append(roles, "backup")
	refused("roles that are not the operator's", "backup", "vault delete auth/vault-operator/role/NAME")
	roles = nil
	for _, mount := range []map[string]any{
		{"type": "userpass", "description": ours["description"]}, {"type": "jwt", "description": "of the builds"},
	} {
		node.mount = mount
		refused("is not the operator's", "vault auth move", "vault auth disable vault-operator")
	}
	node.mount, node.policy = ours, `path "secret/*" { capabilities = ["read"] }`
	refused("a policy vault-operator that is not the operator's", "vault policy delete vault-operator")
}

func TestAuthorizeForReview(t *testing.T) {
	h := loginHarness(t)
	h.run("", "authorize", "example", "--dry-run").expect(t, 0,
		"vault policy write vault-operator", `path "sys/step-down"`,
		"vault auth enable -path=vault-operator", `"system:serviceaccount:operators:manager"`)
	h.run("", "deauthorize", "example", "--dry-run").expect(t, 0, "vault auth disable vault-operator")
	for _, request := range h.api.requests() {
		if !strings.HasPrefix(request, http.MethodGet+" ") || strings.Contains(request, "secrets") {
			t.Errorf("the API server got %q", request)
		}
	}
	h.vault.Status.OperatorLogin = nil
	h.api.set("vaults", h.vault)
	h.run("", "authorize", "example", "--dry-run").expect(t, exitRefused, "has not said yet who it is")
	h.vault.Spec.OperatorLogin = nil
	h.api.set("vaults", h.vault)
	h.run("", "authorize", "example", "--dry-run").expect(t, exitRefused,
		"set operatorLogin.enabled", "kubectl patch vault example")
}
