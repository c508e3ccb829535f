package vaultconfig

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		// mentions is in the error; empty when the text is fine.
		mentions string
	}{
		"empty":          {text: ""},
		"only a comment": {text: "# nothing yet\n"},
		"settings": {
			text: "ui = true\nmax_lease_ttl = \"10h\"\ntelemetry {\n  disable_hostname = true\n}\n",
		},
		"JSON":                      {text: `{"ui": true}`},
		"JSON that is not closed":   {text: `{"ui": true`}, // by Vault's parser
		"text after JSON":           {text: `{"ui": true} and so on`},
		"a key that only looks so":  {text: "storage_tuning = 1\n"},
		"an owned key in a block":   {text: "telemetry {\n  listener = 1\n}\n"},
		"a block that is not ended": {text: "ui = {", mentions: "does not parse as HCL"},
		"a NUL byte":                {text: "ui = true\x00", mentions: "NUL byte"},
		"a listener":                {text: "listener \"tcp\" {}\n", mentions: "sets listener, which the operator owns"},
		"two, one of them twice": {
			text: "api_addr = \"a\"\nlistener \"tcp\" {}\nlistener \"unix\" {}\n", mentions: "sets api_addr, listener,",
		},
		"in upper case":           {text: "Storage \"raft\" {}\n", mentions: "sets storage,"},
		"in quotes":               {text: "\"ha_storage\" \"raft\" {}\n", mentions: "sets ha_storage,"},
		"in escape sequences":     {text: `"\u0073torage" "raft" {}`, mentions: "sets storage,"},
		"JSON with an owned key":  {text: `{"storage": {"file": {"path": "/tmp"}}}`, mentions: "sets storage,"},
		"as large as allowed":     {text: "#" + strings.Repeat("x", maxBytes-1)},
		"too large":               {text: "#" + strings.Repeat("x", maxBytes), mentions: "larger than 64 KiB"},
		"as deep as allowed":      {text: "x = " + strings.Repeat("[", 32) + strings.Repeat("]", 32)},
		"brackets in a string":    {text: `x = "` + strings.Repeat("[", 1000) + `"`},
		"brackets in a comment":   {text: "# " + strings.Repeat("{", 1000)},
		"brackets in a heredoc":   {text: "x = <<EOF\n" + strings.Repeat("{", 1000) + "\nEOF\n"},
		"JSON as deep as allowed": {text: `{"x":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + "}"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkText(test.text)
			switch {
			case test.mentions == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.mentions != "" && (err == nil || !strings.Contains(err.Error(), test.mentions)):
				t.Errorf("error %v, want one that mentions %q", err, test.mentions)
			}
		})
	}
}

// A seal is in the spec or in the configuration, and not in both.
func TestCheckSeal(t *testing.T) {
	for text, refused := range map[string]string{
		"ui = true": "", "seal \"transit\" {\n  token = \"hvsMARKER\"\n}": "seal", "KMS \"awskms\" {}": "kms",
		"hsm \"pkcs11\" {}":          "hsm",
		"telemetry {\n  seal = 1\n}": "",
	} {
		if err := checkText(text); err != nil {
			t.Errorf("%s: refused without spec.seal: %v", text, err)
		}
		err := checkText(text, elsewhere(&v1alpha1.Vault{Spec: v1alpha1.VaultSpec{Seal: &v1alpha1.SealPolicy{}}})...)
		if refused == "" && err != nil || refused != "" && (err == nil || !strings.Contains(err.Error(),
			"sets "+refused+", and so does spec.seal")) ||
			err != nil && strings.Contains(err.Error(), marker) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

// marker stands for a credential that must not leave the configuration.
const marker = "hvsMARKER"

// broken are mistakes of each kind, with the marker wherever the parser might quote
// it, and what is said of them.
var broken = map[string]struct{ text, says string }{
	"text without quotes": {
		"seal \"transit\" {\n  token = hvsMARKER\n}", "line 2, column 11: a value is expected (text has to be quoted)",
	},
	"a key without '='": {
		`seal "transit" { token "hvsMARKER" }`, "line 1, column 36: a key must be followed by '=' or '{'",
	},
	"keys at the end":  {`token "hvsMARKER"`, "line 1, column 18: a key must be followed by '=' or '{'"},
	"a key as a value": {"a = b.hvsMARKER", "line 1, column 5: a value is expected"},
	"a key twice":      {"hvsMARKER = 1\nhvsMARKER = 2\n", "line 2, column 1: a key is set twice"},
	"a key twice, quoted": {
		"\"hvsMARKER at 7:7 was already set\" = 1\n\"hvsMARKER at 7:7 was already set\" = 2",
		"line 2, column 1: a key is set twice",
	},
	"two keys before '='":     {`a hvsMARKER = 1`, "line 1, column 13: more than one key before '='"},
	"no key":                  {`= "hvsMARKER"`, "line 1, column 1: '=' without a key"},
	"a block without a key":   {`x = 1 [ "hvsMARKER" ]`, "line 1, column 7: a key is expected"},
	"braces within braces":    {"a {{ token = hvsMARKER }}", "line 1, column 4: a key is expected"},
	"a number for a key":      {`1 = "hvsMARKER"`, "line 1, column 1: a key is expected"},
	"an open block":           {`a { token = "hvsMARKER"`, "line 1, column 25: a block is not closed"},
	"an open list":            {`a = ["hvsMARKER", `, "line 1, column 19: a value or ']' is expected"},
	"a list without commas":   {`a = ["x" "hvsMARKER"]`, "line 1, column 10: ',' or ']' is expected"},
	"a list of text":          {`a = [hvsMARKER]`, "line 1, column 6: a value or ']' is expected"},
	"a list in a list":        {`a = [[hvsMARKER]]`, "line 1, column 7: a value or ']' is expected"},
	"an object in a list":     {`a = [{ token "hvsMARKER" }]`, "line 1, column 26: a key must be followed by"},
	"a forged position":       {`a = [{ token "At 7:7: hvsMARKER" }]`, "line 1, column 34: a key must be followed by"},
	"an end in a list":        {`a = [{ hvsMARKER =`, "line 1, column 20: a block is not closed"},
	"an open string":          {"a = \"hvsMARKER\nb = 1", "a string is not closed"},
	"an open interpolation":   {`a = "${hvsMARKER"`, "a string is not closed"},
	"a bad escape sequence":   {`a = "\qhvsMARKER"`, "invalid escape sequence"},
	"a rune that is none":     {`a = "\U00110000hvsMARKER"`, "line 1, column 5: invalid number or escape sequence"},
	"a key that is none":      {`"\U00110000hvsMARKER" = 1`, "line 1, column 1: invalid number or escape sequence"},
	"an octal byte too large": {`a = "\777hvsMARKER"`, "line 1, column 5: invalid number or escape sequence"},
	"a number too large": {
		`hvsMARKER = 99999999999999999999`, "line 1, column 13: invalid number or escape sequence",
	},
	"not a hexadecimal number": {`a = 0xhvsMARKER`, "invalid number"},
	"not an octal number":      {"a = 09 # hvsMARKER", "invalid number"},
	"an open comment":          {"/* hvsMARKER", "a comment is not closed"},
	"half a comment":           {"/hvsMARKER", "a comment begins with"},
	"an open heredoc":          {"a = <<EOF\nhvsMARKER\n", "a heredoc is not closed"},
	"half a heredoc":           {"a = <EOF\nhvsMARKER\n", "a heredoc begins with '<<'"},
	"a heredoc without a name": {"a = <<\nhvsMARKER\n", "invalid beginning of a heredoc"},
	"a heredoc with a space":   {"a = << hvsMARKER\n", "invalid beginning of a heredoc"},
	"a strange character":      {"hvsMARKER ; b", "line 1, column 11: invalid character"},
	"not UTF-8":                {"hvsMARKER = \xff", "not UTF-8"},
	"a reserved character":     {"hvsMARKER = \"\uE123\"", "a character that HCL reserves"},
	"nested too deep": {
		"hvsMARKER = " + strings.Repeat("[", 33),
		"line 1, column 45: blocks and lists are nested deeper than 32 levels",
	},
	"blocks nested too deep": {
		strings.Repeat("hvsMARKER {\n", 33), "line 33, column 11: blocks and lists are nested deeper than 32 levels",
	},
	"a million brackets":    {"hvsMARKER = " + strings.Repeat("[", 1_000_000), "larger than 64 KiB"},
	"64 KiB of brackets":    {strings.Repeat("[", maxBytes), "nested deeper than 32 levels"},
	"a key of the operator": {`storage "hvsMARKER" { token = "hvsMARKER" }`, "sets storage, which the operator owns"},

	"JSON: text without quotes": {
		"{\n\"a\": hvsMARKER}", "line 2, column 14: invalid character, or text without quotes",
	},
	"JSON: a key without quotes":    {`{hvsMARKER: 1}`, "invalid character"},
	"JSON: a bracket for a key":     {`{ [ "hvsMARKER" ]}`, "line 1, column 3: a key in quotes is expected"},
	"JSON: a comma for a value":     {`{"hvsMARKER":,}`, "line 1, column 14: a value is expected"},
	"JSON: a colon in a list":       {`{"hvsMARKER":[:]}`, "line 1, column 15: a value or ']' is expected"},
	"JSON: a colon too early":       {`{: "hvsMARKER"}`, "line 1, column 2: a key in quotes is expected"},
	"JSON: an open string":          {`{"hvsMARKER`, "a string is not closed"},
	"JSON: a number with zeros":     {`{"hvsMARKER": 007}`, "invalid number"},
	"JSON: a bad escape sequence":   {`{"hvsMARKER\q": 1}`, "invalid escape sequence"},
	"JSON: an end in an escape":     {`{"hvsMARKER\u1`, "syntax error"},
	"JSON: another escape":          {`{"hvsMARKER": "\U00110000"}`, "invalid number or escape sequence"},
	"JSON: a strange character":     {`{"hvsMARKER"; 1}`, "invalid character"},
	"JSON: nested too deep":         {`{"hvsMARKER": ` + strings.Repeat("[", 32), "nested deeper than 32 levels"},
	"JSON: objects nested too deep": {strings.Repeat(`{"hvsMARKER": `, 33), "nested deeper than 32 levels"},
	"JSON: an owned key":            {`{"Listener": {"hvsMARKER": 1}}`, "sets listener, which the operator owns"},
}

// A mistake is told by its position and its kind, without a part of the text.
func TestCheckQuotesNothing(t *testing.T) {
	for name, test := range broken {
		t.Run(name, func(t *testing.T) {
			err := checkText(test.text)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q, want one that says %q", err, test.says)
			}
			if strings.Contains(err.Error(), marker) || strings.Contains(err.Error(), "7:7") ||
				strings.Contains(err.Error(), "line 7") {
				t.Errorf("the error quotes the configuration: %v", err)
			}
			if len(err.Error()) > 200 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			// The error is wrapped by many; nothing else may hang on it.
			if text := fmt.Sprintf("%+v %#v", err, err); strings.Contains(text, marker) {
				t.Errorf("the error holds the configuration: %s", text)
			}
		})
	}
}

// FuzzCheck shows that no configuration ends the operator, that errors are short
// and quote nothing, and that what is accepted is what Vault's parser accepts.
func FuzzCheck(f *testing.F) {
	for _, test := range broken {
		if len(test.text) <= 1024 {
			f.Add(test.text)
		}
	}
	f.Add("ui = true\ntelemetry {\n  disable_hostname = true # yes\n}\nx = [1, 2.5, [true, {}], <<-EOF\n  a\n  EOF\n]\n")
	f.Add(`{"ui": true, "telemetry": [{"a": {"b": [1, -2e3, null, "${x}"]}}]} rest`)
	f.Fuzz(func(t *testing.T, text string) {
		err := checkText(text)
		if err == nil {
			if _, err := hcl.Parse(text); err != nil {
				t.Errorf("accepted, but does not parse: %v", err)
			}
			return
		}
		if len(err.Error()) > 400 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool {
			return strings.ContainsRune(" \t\n\"={}[](),;:.'", r)
		}) {
			// What is this long is in no message of this package.
			if len(word) > 12 && strings.Contains(err.Error(), word) && !strings.Contains(wordsOfMessages, word) {
				t.Errorf("the error quotes the configuration: %v", err)
			}
		}
	})
}

// wordsOfMessages are the long words of the messages of this package.
var wordsOfMessages = strings.Join(append(owned, "interpolation"), " ")
