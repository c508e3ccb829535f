package docs

import (
	"strings"
	"testing"
)

func TestReadUserGuide(t *testing.T) {
	guide := ReadUserGuide(t, "../../../docs/user-guide.md")
	if !strings.HasPrefix(guide.DeleteActive, "kubectl -n default get vault example") {
		t.Errorf("to delete the active pod the guide has %q", guide.DeleteActive)
	}
}
