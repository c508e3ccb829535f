package helm

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/message"
)

func TestLongMessagesOfConditionsAreCut(t *testing.T) {
	condition := map[string]any{"type": v1alpha1.IrreconcilableCondition, "status": "True", "message": "  " + strings.Repeat("世", 20000)}
	complete(condition, 1)
	got := text(condition, "message")
	if len(got) > message.Max || !utf8.ValidString(got) || !strings.HasPrefix(got, "世") {
		t.Errorf("a message of %d bytes, valid: %v", len(got), utf8.ValidString(got))
	}
}
