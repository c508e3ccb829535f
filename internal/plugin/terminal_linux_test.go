package plugin

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// openTerminal returns both ends of a pseudoterminal: that of whoever types, and that of a
// program.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	fd := int(user.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return user, program
}

func echoes(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

func awaitEcho(t *testing.T, terminal *os.File, on bool) {
	t.Helper()
	poll.Eventually(t, fmt.Sprintf("the echo of the terminal is %t", on), 20*time.Second, time.Millisecond, func() error {
		if got := echoes(t, terminal); got != on {
			return fmt.Errorf("it is %t", got)
		}
		return nil
	})
}

// TestTerminalDoesNotEchoKeys pastes all key shares at once, and one too many.
func TestTerminalDoesNotEchoKeys(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, sealed: true}
	h.pods(map[string]string{"a": h.serve(node)})
	user, program := openTerminal(t)
	done := make(chan result)
	go func() { done <- h.runWith(t.Context(), program, "unseal", "example") }()
	awaitEcho(t, program, false)
	if _, err := user.WriteString(lines("nonsense", good[0], good[1], good[2], good[3])); err != nil {
		t.Fatal(err)
	}
	r := <-done
	r.expect(t, 0, "Key share 1, 3 more needed", "That is no key share", "a: unsealed")
	awaitEcho(t, program, true)
	if _, err := program.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 4096)
	n, err := user.Read(shown)
	if err != nil || !strings.HasSuffix(string(shown[:n]), "end") {
		t.Fatalf("the terminal shows %d bytes, %v", n, err)
	}
	for _, key := range append(good, "nonsense") {
		if bytes.Contains(shown[:n], []byte(key)) {
			t.Error("the terminal echoed a key share")
		}
	}
}

func TestInterruptGivesTheTerminalBack(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, active: true})})
	_, program := openTerminal(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan result)
	go func() { done <- h.runWith(ctx, program, "seal", "example") }()
	awaitEcho(t, program, false)
	stop()
	r := <-done
	r.expect(t, exitInterrupted, "Token (hidden)")
	awaitEcho(t, program, true)
}

// TestExecLeavesInterruptionsToItsCommand, such as a shell, which goes on; and ends it when it
// is itself told to end.
func TestExecLeavesInterruptionsToItsCommand(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, active: true})})
	cmd := h.process("exec", "example", "--", "sh", "-c",
		`trap 'echo interrupted' INT; trap 'echo told to end; exit 3' TERM; echo begun
		i=0; while [ $i -lt 200 ]; do sleep 0.1; i=$((i+1)); done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "begun" {
		t.Fatalf("it printed %q", lines.Text())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if lines.Scan(); lines.Text() != "told to end" {
		t.Errorf("it printed %q", lines.Text())
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

// TestInitShowsKeysWhenStandardOutputIsBroken: nobody could get them again.
func TestInitShowsKeysWhenStandardOutputIsBroken(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{sealed: true}
	h.pods(map[string]string{"a": h.serve(node)})
	user, program := openTerminal(t)
	cmd := h.process("init", "example")
	cmd.Stderr = program
	breakOutput(t, cmd)
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitError {
		t.Errorf("it ended with %v", err)
	}
	if _, err := program.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	shown := ""
	for part := make([]byte, 4096); !strings.HasSuffix(shown, "end"); {
		n, err := user.Read(part)
		if err != nil {
			t.Fatal(err)
		}
		shown += string(part[:n])
	}
	for _, text := range []string{good[0], "hvs.root", "the keys are above, and nowhere else"} {
		if !strings.Contains(shown, text) {
			t.Errorf("the terminal does not show %q", text)
		}
	}

	// Where nobody looks they are not written.
	node.mu.Lock()
	node.initialized = false
	node.mu.Unlock()
	var errOut strings.Builder
	cmd = h.process("init", "example", "-o", "json")
	cmd.Stderr = &errOut
	breakOutput(t, cmd)
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitError {
		t.Errorf("it ended with %v", err)
	}
	if text := errOut.String(); !strings.Contains(text, "are lost") || strings.Contains(text, good[0]) {
		t.Errorf("it says\n%s", text)
	}
}

// breakOutput makes the standard output of a command a pipe that nobody reads.
func breakOutput(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writer.Close() })
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = writer
}
