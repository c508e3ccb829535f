// Package hammer starts the clients of test/hammer, and has the types of their report.
package hammer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/program"
)

// Report is what the command prints at the end.
type Report struct {
	Writes Outcome `json:"writes"`
	Reads  Outcome `json:"reads"`
	// Lost are keys whose write was acknowledged and that are not there.
	Lost []string `json:"lost"`
}

// Outcome sums up the requests of one kind.
type Outcome struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Outage is the longest time between two requests that were served.
	Outage time.Duration `json:"outage"`
	// OutageBegan is when that outage began.
	OutageBegan time.Time `json:"outageBegan"`
	// FirstFailed and LastFailed are when the first and the last request began that
	// failed.
	FirstFailed time.Time `json:"firstFailed"`
	LastFailed  time.Time `json:"lastFailed"`
	// LastWithoutResponse is when the last request began that got no response, not even a
	// refusal.
	LastWithoutResponse time.Time `json:"lastWithoutResponse"`
	// LastError is what the last request that failed said.
	LastError string `json:"lastError"`
	// LongestWait is for how long a client has waited that tries again until it is served.
	LongestWait time.Duration `json:"longestWait"`
	// LongWaits is how many clients have waited for longer than an outage lasts.
	LongWaits int `json:"longWaits"`
}

// Options of a client.
type Options struct {
	// Netns is the network namespace to run it in.
	Netns string
	// Addresses of the Service or of the nodes, with commas between.
	Addresses string
	// ServerName is the name to verify certificates for, and CA the file of their CA.
	ServerName, CA string
	Token          string
	// Flags are more flags of the command.
	Flags []string
}

// Client is a command that runs.
type Client struct {
	cmd       *exec.Cmd
	addresses io.WriteCloser
	output    bytes.Buffer
	// done is closed when it has ended, with err.
	done chan struct{}
	err  error
}

// Start starts a client. It ends with the context at the latest.
func Start(ctx context.Context, o Options) (*Client, error) {
	binary, err := program.Path("test/hammer")
	if err != nil {
		return nil, err
	}
	args := append([]string{"--net=" + o.Netns, binary,
		"-address=" + o.Addresses, "-server-name=" + o.ServerName, "-ca=" + o.CA}, o.Flags...)
	c := &Client{cmd: exec.CommandContext(ctx, "nsenter", args...), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "VAULT_TOKEN="+o.Token)
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	if c.addresses, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// Follow tells a client that uses no Service where the nodes are now.
func (c *Client) Follow(addresses []string) {
	_, _ = fmt.Fprintln(c.addresses, strings.Join(addresses, ",")) // it may have ended
}

// Done is closed when the client has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Stop ends the client, as soon as it is served again, and returns its report.
func (c *Client) Stop() (Report, error) {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return Report{}, fmt.Errorf("%w: %s", err, c.output.String())
	}
	if <-c.done; c.err != nil {
		return Report{}, fmt.Errorf("%w: %s", c.err, c.output.String())
	}
	return parse(c.output.Bytes())
}

// parse reads a report strictly: a field of another name would be zero, and zero is what
// the tests want.
func parse(output []byte) (report Report, err error) {
	decoder := json.NewDecoder(bytes.NewReader(output))
	decoder.DisallowUnknownFields()
	if err = decoder.Decode(&report); err == nil && decoder.More() {
		err = errors.New("there is more than a report")
	}
	if err == nil && report.Reads.Requests == 0 {
		err = errors.New("nothing was read")
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return report, err
}
