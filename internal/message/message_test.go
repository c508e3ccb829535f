package message

import (
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

func TestCut(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"empty":           {"", ""},
		"short":           {"a ü 世", "a ü 世"},
		"just fits":       {strings.Repeat("x", Max), strings.Repeat("x", Max)},
		"a byte too long": {strings.Repeat("x", Max+1), strings.Repeat("x", Max-3) + ellipsis},
		"ends in a rune":  {strings.Repeat("世", 1000), strings.Repeat("世", 340) + ellipsis},
		"ends in a space": {strings.Repeat("x", 1000) + strings.Repeat(" ", 100), strings.Repeat("x", 1000) + ellipsis},
		"not UTF-8":       {"a\xffb", "a\uFFFDb"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Cut(test.text)
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if len(got) > Max || !utf8.ValidString(got) {
				t.Errorf("%d bytes, valid: %v", len(got), utf8.ValidString(got))
			}
		})
	}
}

func TestNames(t *testing.T) {
	names := func(n int) []string { return strings.Split(strings.Repeat("a ", n-1)+"a", " ") }
	for want, list := range map[string][]string{
		"none":                          nil,
		"a, b":                          {"a", "b"},
		strings.Repeat("a, ", 10) + "a": names(11),
		strings.Repeat("a, ", 9) + "a and 2 more": names(12),
	} {
		if got := Names(list); got != want {
			t.Errorf("%d names: got %q, want %q", len(list), got, want)
		}
	}
}

func TestRecorder(t *testing.T) {
	fake := record.NewFakeRecorder(3)
	recorder := Recorder(fake)
	long := strings.Repeat("世", 1000)
	recorder.Event(&corev1.Pod{}, "Warning", "Reason", long)
	recorder.Eventf(&corev1.Pod{}, "Warning", "Reason", "%s", long)
	recorder.AnnotatedEventf(&corev1.Pod{}, nil, "Warning", "Reason", "%s", long)
	for range 3 {
		if text := <-fake.Events; !strings.Contains(text, Cut(long)) || strings.Contains(text, long) {
			t.Errorf("event of %d bytes: %.60s", len(text), text)
		}
	}
}
