package plugin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

const (
	// secretLimit is how long a key share or a token may be.
	secretLimit = 4096
	// fileLimit is how large an encrypted key share, or a public key, may be.
	fileLimit = 1 << 20
)

// secrets are where key shares and tokens come from: first files that gpg decrypts, then
// the terminal, without echo, or what is not one, line by line.
type secrets struct {
	in     io.Reader
	prompt io.Writer
	gpg    []string

	// typed are the lines that were read, and restore lets the terminal echo again.
	typed   chan typed
	restore func()
	closed  atomic.Bool
}

type typed struct {
	text []byte
	err  error
}

// close gives the terminal back.
func (s *secrets) close() {
	if s.restore == nil {
		return
	}
	s.closed.Store(true)
	s.restore()
	// The reader may have been about to turn the echo off once more.
	time.Sleep(20 * time.Millisecond)
	s.restore()
}

func (p *plugin) secrets(gpg []string) *secrets {
	return &secrets{in: p.streams.In, prompt: p.errOut, gpg: gpg}
}

// terminal is the terminal that a stream is, if it is one.
func terminal(stream any) (int, bool) {
	file, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	fd := int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// next returns the next secret. After the last one, or when nothing is typed, it returns
// io.EOF.
func (s *secrets) next(ctx context.Context, prompt string) (string, error) {
	if len(s.gpg) > 0 {
		file := s.gpg[0]
		s.gpg = s.gpg[1:]
		return decrypt(ctx, file, s.prompt)
	}
	if fd, ok := terminal(s.in); ok {
		return s.readHidden(ctx, fd, prompt)
	}
	if s.typed == nil {
		s.typed = make(chan typed)
		go s.scan()
	}
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case got, ok := <-s.typed:
			text := strings.TrimSpace(string(got.text))
			switch {
			case !ok:
				return "", io.EOF
			case got.err != nil:
				return "", fmt.Errorf("standard input: %w", got.err)
			case text != "":
				return text, nil
			}
		}
	}
}

// scan reads what is no terminal, beside whoever waits for it, who may be interrupted.
func (s *secrets) scan() {
	defer close(s.typed)
	lines := bufio.NewScanner(s.in)
	lines.Buffer(make([]byte, 0, secretLimit), secretLimit)
	for lines.Scan() {
		s.typed <- typed{text: bytes.Clone(lines.Bytes())}
	}
	if err := lines.Err(); err != nil {
		s.typed <- typed{err: err}
	}
}

// readHidden reads from a terminal without echo. It goes on reading between two questions, so that
// of several lines that are pasted none is echoed, or left to the shell.
func (s *secrets) readHidden(ctx context.Context, fd int, prompt string) (string, error) {
	if s.typed == nil {
		before, err := term.GetState(fd)
		if err != nil {
			return "", err
		}
		s.restore = func() { _ = term.Restore(fd, before) } // there is nobody to tell
		s.typed = make(chan typed, 64)
		go func() {
			defer close(s.typed)
			for !s.closed.Load() {
				text, err := term.ReadPassword(fd)
				s.typed <- typed{text, err}
				if err != nil {
					return
				}
			}
		}()
	}
	fmt.Fprintf(s.prompt, "%s (hidden): ", prompt)
	defer fmt.Fprintln(s.prompt)
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case got := <-s.typed:
		text := strings.TrimSpace(string(got.text))
		if got.err == nil && text == "" {
			return "", io.EOF
		}
		return text, got.err
	}
}

// share returns the next key share. What cannot be one is told, and at a terminal asked for
// again.
func (s *secrets) share(ctx context.Context, prompt string) (string, error) {
	for {
		text, err := s.next(ctx, prompt)
		if err != nil {
			return "", err
		}
		if isShare(text) {
			return text, nil
		}
		if _, ok := terminal(s.in); !ok {
			return "", exit(exitDenied, "that is no key share: it is neither hexadecimal nor base64, or too short or too long")
		}
		fmt.Fprintln(s.prompt, "That is no key share: it is neither hexadecimal nor base64, or too short or too long.")
	}
}

// isShare says whether a text has the form of a key share. Which lengths Vault takes it
// says itself.
func isShare(text string) bool {
	decoded, err := hex.DecodeString(text)
	if err != nil {
		decoded, err = base64.StdEncoding.DecodeString(text)
	}
	return err == nil && len(decoded) >= 16 && len(decoded) <= 128
}

// token returns a token.
func (s *secrets) token(ctx context.Context) (string, error) {
	token, err := s.next(ctx, "Token")
	if errors.Is(err, io.EOF) {
		return "", exit(exitDenied, "no token was given")
	}
	return token, err
}

// decrypt decrypts a file in memory. Vault hands out shares as base64 of what gpg reads.
func decrypt(ctx context.Context, file string, errOut io.Writer) (string, error) {
	content, err := readFile(file)
	if err != nil {
		return "", err
	}
	if decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(content)), "")); err == nil {
		content = decoded
	}
	gpg := exec.CommandContext(ctx, "gpg", "--quiet", "--decrypt")
	gpg.Stdin, gpg.Stderr = bytes.NewReader(content), errOut
	text, err := gpg.Output()
	if err != nil {
		return "", fmt.Errorf("gpg could not decrypt %s: %w", file, err)
	}
	if len(text) > secretLimit {
		return "", fmt.Errorf("%s is too long for a key share", file)
	}
	return strings.TrimSpace(string(text)), nil
}

// readFile reads a file that is small.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, fileLimit+1))
	if err == nil && len(content) > fileLimit {
		err = fmt.Errorf("%s is too large", name)
	}
	return content, err
}
