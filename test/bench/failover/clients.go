package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// outcome is what the hammer reports of its reads.
type outcome struct {
	Requests, Failed                        int
	Outage                                  time.Duration
	FirstFailed, LastFailed, LastUnanswered time.Time
	LastError                               string
	Longest                                 time.Duration
	Patient                                 int
}

// hammer is a client that reads from a Vault all the time.
type hammer struct {
	variant   variant
	cmd       *exec.Cmd
	addresses io.WriteCloser
	output    bytes.Buffer
	// done is closed when it has ended, with err.
	done chan struct{}
	err  error
}

// requestTimeout is how long the hammer waits for an answer. So a request that fails
// because of a fault may have begun that long before it.
const requestTimeout = 500 * time.Millisecond

// startHammer starts a client on a node of the cluster, so that it is that
// node's kube-proxy that sends it on. It asks the Service of the variant, or the
// nodes by their addresses where there is none. It ends by itself when it has been
// served for as long as calm after the fault, if that is not zero.
func (b *bench) startHammer(ctx context.Context, v variant, from string, calm time.Duration) (*hammer, error) {
	s := b.sets[v.set]
	address, err := b.addressOf(ctx, v)
	if err != nil {
		return nil, err
	}
	h := &hammer{variant: v, done: make(chan struct{})}
	h.cmd = exec.CommandContext(ctx, "nsenter", "--net="+netnsOf(from), b.hammer, "-writes=false", "-interval="+b.interval.String(), "-calm="+calm.String(),
		"-timeout="+v.timeout().String(), "-retry="+strconv.FormatBool(v.wait > 0), "-address="+address, "-server-name="+s.serverName(), "-ca="+b.caFile(s))
	h.cmd.Env = append(os.Environ(), "VAULT_TOKEN="+s.keys.RootToken)
	h.cmd.Stdout, h.cmd.Stderr = &h.output, &h.output
	if h.addresses, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		h.err = h.cmd.Wait()
		close(h.done)
	}()
	return h, nil
}

// timeout is how long clients wait for an answer.
func (v variant) timeout() time.Duration { return cmp.Or(v.wait, requestTimeout) }

// addressOf returns where clients find a variant.
func (b *bench) addressOf(ctx context.Context, v variant) (string, error) {
	if v.service == "" {
		pods, err := b.podsOf(ctx, b.sets[v.set])
		return strings.Join(addressesOf(pods), ","), err
	}
	ip, err := b.clusterIP(ctx, v.service)
	return "https://" + ip + ":8200", err
}

// follow tells a client that needs no Service where the nodes are now.
func (h *hammer) follow(addresses []string) {
	if h.variant.service == "" && len(addresses) > 0 {
		fmt.Fprintln(h.addresses, strings.Join(addresses, ",")) // it may have ended
	}
}

// stop ends the client, as soon as it is served again, and returns what it saw.
func (h *hammer) stop() (o outcome, err error) {
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return o, fmt.Errorf("hammer of %s: %w: %s", h.variant.name, err, h.output.String())
	}
	if <-h.done; h.err != nil {
		return o, fmt.Errorf("hammer of %s: %w: %s", h.variant.name, h.err, h.output.String())
	}
	var report struct{ Reads outcome }
	err = json.Unmarshal(h.output.Bytes(), &report)
	return report.Reads, err
}

// result is what the clients of one variant saw of one fault.
type result struct {
	// Round is when the repetition began that the result is of.
	Round          time.Time `json:"round"`
	Fault, Variant string
	// Outage is the longest time between two answers, in milliseconds.
	Outage int64
	// Disturbed is the time from the first request that failed to the last. It is
	// longer than Outage when some requests are served and others are not.
	Disturbed int64
	// Stale is for how long after the fault clients were sent to a node that does
	// not answer.
	Stale int64
	// Unfinished says that requests still failed when the observation ended.
	Unfinished       bool `json:",omitempty"`
	Requests, Failed int
	// Longest is how long a client has waited that tries again until it is served, in
	// milliseconds.
	Longest int64 `json:",omitempty"`
	// Patient is how many of these clients have waited for more than 25 s.
	Patient int `json:",omitempty"`
	// Failovers is how often another node was active, in an upgrade.
	Failovers int `json:",omitempty"`
	// Interval of the requests of a client, in milliseconds.
	Interval int64
	// Load of the machine when the repetition began, and what the machine is.
	Load    float64
	Machine string
}

func (r result) String() string {
	text := fmt.Sprintf("outage %s, disturbed %s, %d of %d requests failed", ms(r.Outage), ms(r.Disturbed), r.Failed, r.Requests)
	if r.Longest > 0 {
		text += fmt.Sprintf(", the longest wait %s, %d waited for more than 25 s", ms(r.Longest), r.Patient)
	}
	if r.Unfinished {
		text += ", still failing"
	}
	return text
}

// errBusy says that a repetition measured the machine and not the Vaults.
var errBusy = errors.New("clients were not served before anything happened: the machine is too busy; try a longer -interval")

// newResult sums up what a client saw of a fault, until the observation ended.
func newResult(o outcome, begin, end time.Time, timeout time.Duration) (result, error) {
	if o.Failed > 0 && o.FirstFailed.Before(begin.Add(-timeout)) {
		return result{}, errBusy
	}
	r := result{Outage: o.Outage.Milliseconds(), Requests: o.Requests, Failed: o.Failed}
	if o.Failed > 0 {
		r.Disturbed = o.LastFailed.Sub(o.FirstFailed).Milliseconds()
		r.Unfinished = o.LastFailed.After(end.Add(-time.Second))
	}
	if o.LastUnanswered.After(begin) {
		r.Stale = o.LastUnanswered.Sub(begin).Milliseconds()
	}
	return r, nil
}
