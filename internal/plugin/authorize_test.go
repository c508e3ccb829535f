package plugin

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// asked is a harness whose Vault has the operator log in.
func asked(t *testing.T) *harness {
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
	h := asked(t)
	node := &fakeNode{initialized: true, active: true, answer: map[string]http.HandlerFunc{}}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run("hvs.bad\n", "authorize", "example").expect(t, exitDenied,
		"writing sys/policies/acl/vault-operator", "permission denied")
	h.run("", "authorize", "example").expect(t, exitDenied, "no token was given")
	h.run("hvs.good\n", "authorize", "example").expect(t, 0, "may keep Vault example available")
	var paths []string
	for _, request := range node.written {
		paths = append(paths, strings.Join(strings.Fields(request)[:2], " "))
	}
	want := []string{"PUT sys/policies/acl/vault-operator", "PUT sys/auth/vault-operator",
		"PUT auth/vault-operator/config", "PUT auth/vault-operator/role/vault-operator"}
	if !slices.Equal(paths, want) || !strings.Contains(node.written[3], `"vault-operator/default/example"`) {
		t.Errorf("Vault got %q, want %q", node.written, want)
	}
	node.written = nil
	h.run("hvs.good\n", "deauthorize", "example").expect(t, 0, "may do nothing in Vault example any more")
	want = []string{"DELETE sys/policies/acl/vault-operator ", "DELETE sys/auth/vault-operator "}
	if !slices.Equal(node.written, want) {
		t.Errorf("Vault got %q, want %q", node.written, want)
	}
}

// An auth method of somebody else is not given to the operator.
func TestAuthorizeOnceMore(t *testing.T) {
	h := asked(t)
	node := &fakeNode{initialized: true, active: true}
	roles := []string{"vault-operator"}
	node.answer = map[string]http.HandlerFunc{
		"auth/vault-operator": func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusBadRequest, "path is already in use at vault-operator/")
		},
		"/v1/auth/vault-operator/role": func(w http.ResponseWriter, _ *http.Request) {
			reply(w, map[string]any{"data": map[string]any{"keys": roles}})
		},
	}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run("hvs.good\n", "authorize", "example").expect(t, 0, "may keep Vault example available")
	roles = append(roles, "backup")
	h.run("hvs.good\n", "authorize", "example").expect(t, exitRefused, "roles that are not the operator's", "backup")
}

func TestAuthorizeForReview(t *testing.T) {
	h := asked(t)
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
