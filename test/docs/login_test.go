package docs

import (
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/internal/authorization"
)

// What docs/operator-login.md has for review is what is written into Vault.
func TestPolicyIsShown(t *testing.T) {
	_, shown, _ := strings.Cut(read(t, "docs/operator-login.md"), "```hcl\n")
	if shown, _, _ = strings.Cut(shown, "```"); shown != authorization.Policy {
		t.Errorf("the policy is\n%s\nand docs/operator-login.md shows\n%s", authorization.Policy, shown)
	}
}
