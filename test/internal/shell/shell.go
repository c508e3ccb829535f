// Package shell runs commands as a user would type them.
package shell

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// T is what is needed of a test. The demo, which is no test, has its own.
type T interface {
	poll.T
	Cleanup(fn func())
}

// commandTimeout is how long one command may take. The plugin waits for nodes for five minutes.
const commandTimeout = 6 * time.Minute

// Try runs a command line and returns what it printed to both outputs.
func Try(command string, env ...string) (string, error) {
	return TryInput("", command, env...)
}

// TryInput is Try with something to read on the standard input: that is where
// tokens and keys belong, and not in arguments.
func TryInput(input, command string, env ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", command)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("$ %s\n%s\n%w", command, text, err)
	}
	return text, nil
}

// Run runs a command line that has to succeed.
func Run(t T, command string, env ...string) string {
	t.Helper()
	out, err := Try(command, env...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// Apply applies a manifest that has to be accepted.
func Apply(t T, manifest string) {
	t.Helper()
	if out, err := TryApply(manifest); err != nil {
		t.Fatalf("applying:\n%s\n%s", manifest, out)
	}
}

// TryApply applies a manifest and returns what kubectl said.
func TryApply(manifest string) (string, error) {
	return TryInput(manifest, "kubectl apply -f -")
}

// Background is a command that runs until it is stopped.
type Background struct {
	cmd    *exec.Cmd
	output *bytes.Buffer
	done   chan struct{}
}

// Start starts a command line in the background. It is stopped at the latest
// when the test ends.
func Start(t T, command string, env ...string) *Background {
	t.Helper()
	b := &Background{output: &bytes.Buffer{}, done: make(chan struct{})}
	b.cmd = exec.Command("bash", "-c", command)
	b.cmd.Env = append(os.Environ(), env...)
	b.cmd.Stdout, b.cmd.Stderr = b.output, b.output
	// A group of its own, so that the whole pipe can be stopped.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := b.cmd.Start(); err != nil {
		t.Fatalf("$ %s: %v", command, err)
	}
	go func() {
		_ = b.cmd.Wait() // it ends by a signal
		close(b.done)
	}()
	t.Cleanup(b.Stop)
	return b
}

// Stop ends the command and what it started.
func (b *Background) Stop() {
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-b.done
}

// Ended says that the command has ended by itself, and what it printed.
func (b *Background) Ended() (string, bool) {
	select {
	case <-b.done:
		return b.output.String(), true
	default:
		return "", false
	}
}

// Eventually is poll.Eventually with an interval that leaves the machine time between
// commands: one of kubectl takes a fifth of a second of CPU.
func Eventually(t T, what string, timeout time.Duration, check func() error) {
	t.Helper()
	poll.Eventually(t, what, timeout, 500*time.Millisecond, check)
}
