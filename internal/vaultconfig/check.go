package vaultconfig

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/hcl/ast"
	hclparser "github.com/hashicorp/hcl/hcl/parser"
	hcltoken "github.com/hashicorp/hcl/hcl/token"
	jsonparser "github.com/hashicorp/hcl/json/parser"
)

const (
	// maxBytes is the largest configuration that is looked at. Vault's own is a few
	// hundred bytes; what is larger does not fit into a Helm release either.
	maxBytes = 64 << 10
	// maxNesting is how deep blocks and lists may be nested. The parser calls itself
	// for each level, so an input that is all brackets would use up the memory of
	// the operator. Vault's own configuration needs four levels.
	maxNesting = 32
)

// owned are the top-level keys of Vault's configuration that the chart writes.
// https://developer.hashicorp.com/vault/docs/configuration
var owned = []string{
	"storage", "backend", "ha_storage", "ha_backend", // backend is the old name of storage
	"listener", "api_addr", "cluster_addr", "disable_clustering",
	"disable_mlock", "service_registration",
}

// seals are the top-level keys of seals, two of them old names.
var seals = []string{"seal", "kms", "hsm"}

// checkText says why a node could not be started with this HCL: it does not parse
// by the parser that Vault uses, is too large, or sets what the operator owns.
//
// The error gives the position and the kind of the mistake and never a part of the
// text, because the text may hold credentials and the error ends up in conditions,
// events and the log.
//
// More are keys that are set elsewhere, too.
func checkText(text string, more ...string) error {
	items, err := parseText(text)
	if err != nil {
		return err
	}
	var conflicts []string
	for _, item := range items {
		if len(item.Keys) == 0 {
			continue
		}
		key, ok := item.Keys[0].Token.Value().(string)
		// HCL matches keys without regard to case.
		key = strings.ToLower(key)
		if ok && slices.Contains(more, key) {
			return fmt.Errorf("sets %s, and so does spec.seal: only one of them may", key)
		}
		if ok && slices.Contains(owned, key) && !slices.Contains(conflicts, key) {
			conflicts = append(conflicts, key)
		}
	}
	if len(conflicts) > 0 {
		return fmt.Errorf("sets %s, which the operator owns", strings.Join(conflicts, ", "))
	}
	return nil
}

// parseText returns what is at the top level of a text of any size.
func parseText(text string) ([]*ast.ObjectItem, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("is larger than %d KiB, which is the limit", maxBytes>>10)
	}
	// The chart stores the text in a YAML block, and Vault reads it as UTF-8.
	if strings.ContainsRune(text, 0) {
		return nil, errors.New("contains a NUL byte")
	}
	// The parser does the same before it counts columns.
	return parse(bytes.ReplaceAll([]byte(text), []byte("\r\n"), []byte("\n")))
}

// parse returns what is at the top level of the source.
func parse(source []byte) (items []*ast.ObjectItem, err error) {
	// The scanners and parsers panic on some broken input, with the text in what
	// they panic with.
	defer func() {
		if recover() != nil {
			items, err = nil, syntaxError{kind: "syntax error"}
		}
	}()
	// The library tells HCL from JSON in the same way.
	isJSON := bytes.HasPrefix(bytes.TrimLeftFunc(source, unicode.IsSpace), []byte("{"))
	scan, parser, explain := scanHCL, hclparser.Parse, explainHCL
	if isJSON {
		scan, parser, explain = scanJSON, jsonparser.Parse, explainJSON
	}
	// What is too deep for the parser has to be found without it.
	if err := scan(source); err != nil {
		return nil, err
	}
	file, err := parser(source)
	if err != nil {
		return nil, explain(err, source)
	}
	root, ok := file.Node.(*ast.ObjectList)
	if !ok {
		return nil, syntaxError{kind: "the top level is not an object"}
	}
	if err := checkValues(root); err != nil {
		return nil, err
	}
	return root.Items, nil
}

// checkValues refuses numbers and escape sequences that the parser lets pass and
// that Vault ends with a panic for.
func checkValues(root ast.Node) error {
	var bad error
	check := func(token hcltoken.Token) {
		if bad == nil && !hasValue(token) {
			bad = syntaxError{position{token.Pos.Line, token.Pos.Column}, "invalid number or escape sequence"}
		}
	}
	ast.Walk(root, func(node ast.Node) (ast.Node, bool) {
		switch node := node.(type) {
		case *ast.ObjectKey:
			check(node.Token)
		case *ast.LiteralType:
			check(node.Token)
		}
		return node, true
	})
	return bad
}

func hasValue(token hcltoken.Token) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	token.Value()
	return true
}
