package docs

import (
	"encoding/json"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
)

// TestHealthCheckOfArgoCD runs the health check of docs/gitops.md as Argo CD does: in
// Lua, with the resource as the table "obj".
func TestHealthCheckOfArgoCD(t *testing.T) {
	_, script, found := strings.Cut(read(t, "docs/gitops.md"), "health.vault.security.coreos.com_Vault: |\n")
	if !found {
		t.Fatal("docs/gitops.md has no health check")
	}
	script, _, _ = strings.Cut(script, "```")
	for _, tt := range []struct{ name, vault, status, message string }{
		{"new", `{"metadata": {"generation": 1}}`, "Progressing", "Waiting for the operator"},
		{"changed", `{"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", ` +
			`"status": "True", "message": "m"}]}}`,
			"Progressing", "Waiting for the operator"},
		{"ready", `{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": ` +
			`"Available", "status": "False", "message": "a"}, {"type": "Ready", "status": "True", "message": "m"}]}}`,
			"Healthy", "m"},
		{"sealed", `{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", ` +
			`"status": "False", "message": "m"}]}}`,
			"Progressing", "m"},
		{"stalled", `{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", ` +
			`"status": "False", "message": "m"}, {"type": "Stalled", "status": "True", "message": "s"}]}}`,
			"Degraded", "s"},
	} {
		var vault any
		if err := json.Unmarshal([]byte(tt.vault), &vault); err != nil {
			t.Fatal(err)
		}
		state := lua.NewState()
		state.SetGlobal("obj", toLua(state, vault))
		if err := state.DoString(script); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		health := state.Get(-1)
		status, message := state.GetField(health, "status").String(), state.GetField(health, "message").String()
		if status != tt.status || message != tt.message {
			t.Errorf("%s: %s, %q, want %s, %q", tt.name, status, message, tt.status, tt.message)
		}
		state.Close()
	}
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, field := range value {
			table.RawSetString(key, toLua(state, field))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	default:
		return lua.LNil
	}
}
