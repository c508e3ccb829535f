// Package docs reads the command lines of the documentation, so that tests run those that
// readers do.
package docs

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// Commands returns the blocks of command lines of a page, those that are indented by four
// spaces, by the heading that they are under.
func Commands(t poll.T, file string) map[string][]string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v", err)
	}
	commands, heading, inBlock := map[string][]string{}, "", false
	for line := range strings.Lines(string(content)) {
		if text, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(text)
		}
		command, ok := strings.CutPrefix(line, "    ")
		switch blocks := commands[heading]; {
		case ok && inBlock:
			blocks[len(blocks)-1] += command
		case ok:
			commands[heading] = append(blocks, command)
		}
		inBlock = ok
	}
	return commands
}

// Find returns what the first group of the expression matches in a page.
func Find(t poll.T, file string, expression *regexp.Regexp) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v", err)
	}
	found := expression.FindSubmatch(content)
	if found == nil {
		t.Fatalf("%s has nothing that matches %q", file, expression)
		return ""
	}
	return string(found[1])
}

// UserGuide are the command lines of docs/user-guide.md about the Vault "example".
type UserGuide struct {
	// ForwardSealed and ForwardActive forward the port of a node until they are ended.
	ForwardSealed, ForwardActive string
	// GetActive, GetStandby and GetSealed print the pods that are.
	GetActive, GetStandby, GetSealed string
	DeleteActive                     string
}

// ReadUserGuide reads docs/user-guide.md.
func ReadUserGuide(t poll.T, file string) UserGuide {
	t.Helper()
	commands := Commands(t, file)
	line := func(heading, text string) string {
		t.Helper()
		lines := slices.Collect(strings.Lines(strings.Join(commands[heading], "")))
		lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, text) })
		if len(lines) != 1 {
			t.Fatalf("%s has %q with %q under %q, want one command line", file, lines, text, heading)
			return ""
		}
		return strings.TrimSpace(lines[0])
	}
	return UserGuide{
		ForwardSealed: line("Initialize it", "port-forward"),
		ForwardActive: line("Write a secret", "port-forward"),
		GetActive:     line("Unseal a node", "vaultStatus.active"),
		GetStandby:    line("Unseal a node", "vaultStatus.standby"),
		GetSealed:     line("Failover", "vaultStatus.sealed"),
		DeleteActive:  line("Failover", "delete po"),
	}
}
