// Package message keeps the messages of conditions and events short: the API server
// refuses a whole status for one message of more than 32 KiB, and few read beyond the
// first lines.
package message

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

const (
	// Max is how many bytes a message has at most: as many as events.k8s.io/v1 allows.
	Max      = 1024
	ellipsis = "…"
	// maxNames is how many names a list names.
	maxNames = 10
)

// Cut returns the text, or the beginning of a text that is too long, as valid UTF-8.
func Cut(text string) string {
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if len(text) <= Max {
		return text
	}
	end := Max - len(ellipsis)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return strings.TrimSpace(text[:end]) + ellipsis
}

// Names lists names for a message. Of a long list it gives the number of those that
// it leaves out, so that no name is cut.
func Names(names []string) string {
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > maxNames+1:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	default:
		return strings.Join(names, ", ")
	}
}

// Recorder returns a recorder that cuts the messages of events.
func Recorder(recorder record.EventRecorder) record.EventRecorder {
	return cutting{recorder}
}

type cutting struct{ record.EventRecorder }

func (c cutting) Event(object runtime.Object, eventType, reason, text string) {
	c.EventRecorder.Event(object, eventType, reason, Cut(text))
}

func (c cutting) Eventf(object runtime.Object, eventType, reason, format string, args ...any) {
	c.Event(object, eventType, reason, fmt.Sprintf(format, args...))
}

func (c cutting) AnnotatedEventf(object runtime.Object, annotations map[string]string,
	eventType, reason, format string, args ...any,
) {
	c.EventRecorder.AnnotatedEventf(object, annotations, eventType, reason, "%s", Cut(fmt.Sprintf(format, args...)))
}
