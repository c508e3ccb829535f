package plugin

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// cleanWriter takes out what a terminal obeys, and what changes the direction of text: what
// is printed comes from pods, from the status and from logs.
type cleanWriter struct{ io.Writer }

func (w cleanWriter) Write(p []byte) (int, error) {
	if _, err := w.Writer.Write(bytes.Map(printable, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func printable(r rune) rune {
	if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
		return utf8.RuneError
	}
	return r
}

const (
	// lineLimit is for what stands in a line with something else.
	lineLimit = 512
	// textLimit is for messages.
	textLimit = 4096
)

// line makes one line of a text that somebody else wrote, so that it cannot look like
// another line of the plugin.
func line(text string) string {
	return cut(strings.Join(strings.Fields(text), " "), lineLimit)
}

// short cuts a message.
func short(text string) string { return cut(text, textLimit) }

func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}
