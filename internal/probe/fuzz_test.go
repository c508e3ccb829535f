package probe

import (
	"strings"
	"testing"
)

// FuzzHealth shows that no answer of a node ends the operator, and that nothing of it
// gets into the status but a state and a short version.
func FuzzHealth(f *testing.F) {
	for _, seed := range []string{
		`{"initialized":true,"sealed":false,"standby":false,"performance_standby":false,"version":"1.21.0+ent"}`,
		`{"initialized":true,"sealed":false,"standby":true}`,
		`{"initialized":true,"sealed":true,"standby":true,"version":"1.21"}`,
		`{"initialized":false,"sealed":true,"standby":true,"version":null}`,
		`{"initialized":"true"}`,
		`{"Initialized":true,"SEALED":false,"standby":false,"standby":true}`,
		`{"errors":["Vault is sealed"]}`,
		`[`, `null`, ``, `0`, `"`, strings.Repeat("[", 10000),
		`{"initialized":true,"sealed":false,"standby":false,"version":"` + strings.Repeat("1", 10000) + `"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		health, err := parseHealth(body)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if state := health.state(); !state.Responded() {
			t.Errorf("an answer of the state %s", state)
		}
		if version := health.version(); len(version) > 100 || strings.ContainsAny(version, " \n\"<") {
			t.Errorf("the version %q", version)
		}
	})
}
