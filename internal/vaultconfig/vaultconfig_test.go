package vaultconfig

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		// mentions is in the error; empty when the text is fine.
		mentions string
	}{
		"empty":                     {text: ""},
		"only a comment":            {text: "# nothing yet\n"},
		"settings":                  {text: "ui = true\nmax_lease_ttl = \"10h\"\ntelemetry {\n  disable_hostname = true\n}\n"},
		"JSON":                      {text: `{"ui": true}`},
		"a key that only looks so":  {text: "storage_tuning = 1\n"},
		"an owned key in a block":   {text: "telemetry {\n  listener = 1\n}\n"},
		"a block that is not ended": {text: "ui = {", mentions: "does not parse as HCL"},
		"a NUL byte":                {text: "ui = true\x00", mentions: "NUL byte"},
		"a listener":                {text: "listener \"tcp\" {}\n", mentions: "sets listener, which the operator owns"},
		"two, one of them twice":    {text: "api_addr = \"a\"\nlistener \"tcp\" {}\nlistener \"unix\" {}\n", mentions: "sets api_addr, listener,"},
		"in upper case":             {text: "Storage \"raft\" {}\n", mentions: "sets Storage,"},
		"in quotes":                 {text: "\"ha_storage\" \"raft\" {}\n", mentions: "sets ha_storage,"},
		"JSON with an owned key":    {text: `{"storage": {"file": {"path": "/tmp"}}}`, mentions: "sets storage,"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(test.text)
			switch {
			case test.mentions == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.mentions != "" && (err == nil || !strings.Contains(err.Error(), test.mentions)):
				t.Errorf("error %v, want one that mentions %q", err, test.mentions)
			}
		})
	}
}
