package vaultconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	hclscanner "github.com/hashicorp/hcl/hcl/scanner"
	hcltoken "github.com/hashicorp/hcl/hcl/token"
	jsonscanner "github.com/hashicorp/hcl/json/scanner"
	jsontoken "github.com/hashicorp/hcl/json/token"
)

// position is a place in the configuration, counted from one; zero when it is not
// known.
type position struct{ line, column int }

// syntaxError is a mistake that the parser of HCL found, without its words: they
// quote the text.
type syntaxError struct {
	position
	kind string
}

func (e syntaxError) Error() string {
	if e.line == 0 {
		return "does not parse as HCL: " + e.kind
	}
	return fmt.Sprintf("does not parse as HCL: line %d, column %d: %s", e.line, e.column, e.kind)
}

// kinds tells mistakes apart by how the message of the scanner or the parser
// begins. None of these beginnings contains text of the configuration.
var kinds = []struct{ prefix, kind string }{
	// Scanners.
	{"illegal UTF-8", "not UTF-8"},
	{"unicode code point U+E123", "a character that HCL reserves"},
	{"illegal char escape", "invalid escape sequence in a string"},
	{"illegal char", "invalid character, or text without quotes"},
	{"expected '/' for comment", "a comment begins with '#', '//' or '/*'"},
	{"comment not terminated", "a comment is not closed"},
	{"illegal hexadecimal number", "invalid number"},
	{"illegal octal number", "invalid number"},
	{"numbers cannot start with 0", "invalid number"},
	{"literal not terminated", "a string is not closed"},
	{"heredoc not terminated", "a heredoc is not closed"},
	{"heredoc expected second '<'", "a heredoc begins with '<<'"},
	{"invalid characters in heredoc anchor", "invalid beginning of a heredoc"},
	{"zero-length heredoc anchor", "invalid beginning of a heredoc"},
	// Parsers.
	{"key '", "a key must be followed by '=' or '{'"},
	{"Unknown token", "a value is expected (text has to be quoted)"},
	{"nested object expected", "more than one key before '='"},
	{"no object keys found", "'=' without a key"},
	{"expected: IDENT", "a key is expected"},
	{"expected: STRING", "a key in quotes is expected"},
	{"object expected closing RBRACE", "a block is not closed"},
	{"error parsing list, expected comma", "',' or ']' is expected"},
	{"unexpected token while parsing list", "a value or ']' is expected (text has to be quoted)"},
	{"Expected object value", "a value is expected (text has to be quoted)"},
}

// kindOf names the kind of a mistake in words of its own.
func kindOf(message string) string {
	for _, k := range kinds {
		if strings.HasPrefix(message, k.prefix) {
			return k.kind
		}
	}
	return "syntax error"
}

// scanHCL says what is wrong with the tokens of HCL or with their nesting.
func scanHCL(source []byte) error {
	var bad error
	scanner := hclscanner.New(source)
	scanner.Error = func(at hcltoken.Pos, message string) { keepFirst(&bad, at.Line, at.Column, message) }
	return checkNesting(&bad, func() (levels int, at position, more bool) {
		token := scanner.Scan()
		switch token.Type {
		case hcltoken.LBRACE, hcltoken.LBRACK:
			levels = 1
		case hcltoken.RBRACE, hcltoken.RBRACK:
			levels = -1
		}
		return levels, position{token.Pos.Line, token.Pos.Column}, token.Type != hcltoken.EOF
	})
}

// scanJSON does the same for JSON, up to where its only object ends: what follows
// is not looked at by the parser either.
func scanJSON(source []byte) error {
	var bad error
	depth := 0
	scanner := jsonscanner.New(source)
	scanner.Error = func(at jsontoken.Pos, message string) { keepFirst(&bad, at.Line, at.Column, message) }
	return checkNesting(&bad, func() (levels int, at position, more bool) {
		token := scanner.Scan()
		switch token.Type {
		case jsontoken.LBRACE, jsontoken.LBRACK:
			levels = 1
		case jsontoken.RBRACE, jsontoken.RBRACK:
			levels = -1
		}
		depth += levels
		return levels, position{token.Pos.Line, token.Pos.Column}, token.Type != jsontoken.EOF && depth > 0
	})
}

func keepFirst(bad *error, line, column int, message string) {
	if *bad == nil {
		*bad = syntaxError{position{line, column}, kindOf(message)}
	}
}

// checkNesting reads tokens until there are no more, one is bad, or too many levels
// are open. The scanners do not call themselves, whatever the text is.
func checkNesting(bad *error, next func() (levels int, at position, more bool)) error {
	open := 0
	for {
		levels, at, more := next()
		if *bad != nil || !more {
			return *bad
		}
		if open += levels; open > maxNesting {
			return syntaxError{
				at, fmt.Sprintf("blocks and lists are nested deeper than %d levels, which is the limit", maxNesting),
			}
		}
	}
}

var (
	// parserError is an error of the HCL parser at its innermost position. It is
	// anchored, since text of the configuration follows and could look the same.
	parserError = regexp.MustCompile(`(?s)^(?:At \d+:\d+: error while trying to parse (?:object|list) within list: )*` +
		`At (\d+):(\d+): (.*)$`)
	// duplicate is its error about a key that is set twice, which has the key in it.
	duplicate = regexp.MustCompile(` at (\d+):(\d+) was already set\. Each argument can only be defined once$`)
	// within comes before an inner error that has no position.
	within = regexp.MustCompile(`^error while trying to parse (?:object|list) within list: `)
)

// explainHCL puts an error of the HCL parser into words of its own.
func explainHCL(err error, source []byte) error {
	message := err.Error()
	if match := duplicate.FindStringSubmatch(message); match != nil {
		return syntaxError{positionOf(match[1], match[2]), "a key is set twice"}
	}
	if match := parserError.FindStringSubmatch(message); match != nil {
		return syntaxError{positionOf(match[1], match[2]), kindOf(within.ReplaceAllString(match[3], ""))}
	}
	// Only the end of the text has no position.
	return syntaxError{positionAt(source, len(source)), kindOf(message)}
}

// explainJSON does so for an error of the JSON parser. It gives no position, but
// the JSON decoder of Go most often stops at the same mistake.
func explainJSON(err error, source []byte) error {
	var at position
	var syntax *json.SyntaxError
	var value any
	if errors.As(json.Unmarshal(source, &value), &syntax) {
		at = positionAt(source, max(0, int(syntax.Offset)-1))
	}
	return syntaxError{at, kindOf(err.Error())}
}

func positionOf(line, column string) position {
	l, _ := strconv.Atoi(line)
	c, _ := strconv.Atoi(column)
	return position{l, c}
}

// positionAt is where the byte at the offset is.
func positionAt(source []byte, offset int) position {
	before := source[:min(offset, len(source))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{bytes.Count(before, []byte("\n")) + 1, len(bytes.Runes(before[start:])) + 1}
}
