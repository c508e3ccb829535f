package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/hammer"
	"github.com/vault-operator/vault-operator/test/internal/localcluster"
)

// load is a client that reads from a Vault all the time.
type load struct {
	*hammer.Client
	variant variant
}

// requestTimeout is how long the hammer waits for a response. So a request that fails
// because of a fault may have begun that long before it.
const requestTimeout = 500 * time.Millisecond

// startLoad starts a client on a node of the cluster, so that it is that
// node's kube-proxy that sends it on. It uses the Service of the variant, or the
// nodes by their addresses where there is none. It ends by itself when it has been
// served for as long as calm after the fault, if that is not zero.
func (b *bench) startLoad(ctx context.Context, v variant, from string, calm time.Duration) (*load, error) {
	s := b.sets[v.set]
	addresses, err := b.addressOf(ctx, v)
	if err != nil {
		return nil, err
	}
	netns, err := localcluster.Netns(from)
	if err != nil {
		return nil, err
	}
	client, err := hammer.Start(ctx, hammer.Options{
		Netns: netns, Addresses: addresses, ServerName: s.serverName(), CA: b.caFile(s),
		Token: s.keys.RootToken,
		Flags: []string{"-writes=false", "-interval=" + b.interval.String(), "-calm=" + calm.String(),
			"-timeout=" + v.timeout().String(), "-retry=" + strconv.FormatBool(v.wait > 0)},
	})
	return &load{client, v}, err
}

// timeout is how long clients wait for a response.
func (v variant) timeout() time.Duration { return cmp.Or(v.wait, requestTimeout) }

// addressOf returns where clients find a variant.
func (b *bench) addressOf(ctx context.Context, v variant) (string, error) {
	if v.service == "" {
		pods, err := b.podsOf(ctx, b.sets[v.set])
		return strings.Join(addressesOf(pods), ","), err
	}
	ip, err := b.clusterIP(ctx, v.service)
	return "https://" + net.JoinHostPort(ip, "8200"), err
}

// follow tells a client that needs no Service where the nodes are now.
func (l *load) follow(addresses []string) {
	if l.variant.service == "" && len(addresses) > 0 {
		l.Follow(addresses)
	}
}

// stop ends the client, as soon as it is served again, and returns what it saw.
func (l *load) stop() (hammer.Outcome, error) {
	report, err := l.Stop()
	if err != nil {
		err = fmt.Errorf("hammer of %s: %w", l.variant.name, err)
	}
	return report.Reads, err
}

// result is what the clients of one variant saw of one fault.
type result struct {
	// Round is when the repetition began that the result is of.
	Round          time.Time `json:"round"`
	Fault, Variant string
	// Outage is the longest time between two responses, in milliseconds.
	Outage int64
	// Disturbed is the time from the first request that failed to the last. It is
	// longer than Outage when some requests are served and others are not.
	Disturbed int64
	// Stale is for how long after the fault clients were sent to a node that does
	// not respond.
	Stale int64
	// Unfinished says that requests still failed when the observation ended.
	Unfinished       bool `json:",omitempty"`
	Requests, Failed int
	// LongestWait is for how long a client has waited that tries again until it is served,
	// in milliseconds.
	LongestWait int64 `json:",omitempty"`
	// LongWaits is how many of these clients have waited for more than 25 s.
	LongWaits int `json:",omitempty"`
	// Failovers is how often another node was active, in an upgrade.
	Failovers int `json:",omitempty"`
	// Interval of the requests of a client, in milliseconds.
	Interval int64
	// Load of the machine when the repetition began, and what the machine is.
	Load    float64
	Machine string
}

func (r result) String() string {
	text := fmt.Sprintf("outage %s, disturbed %s, %d of %d requests failed", ms(r.Outage), ms(r.Disturbed), r.Failed,
		r.Requests)
	if r.LongestWait > 0 {
		text += fmt.Sprintf(", the longest wait %s, %d waited for more than 25 s", ms(r.LongestWait), r.LongWaits)
	}
	if r.Unfinished {
		text += ", still failing"
	}
	return text
}

// errBusy says that a repetition measured the machine and not the Vaults.
var errBusy = errors.New("clients were not served before anything happened: the machine is too busy; try a longer " +
	"-interval")

// newResult sums up what a client saw of a fault, until the observation ended.
func newResult(o hammer.Outcome, begin, end time.Time, timeout time.Duration) (result, error) {
	if o.Failed > 0 && o.FirstFailed.Before(begin.Add(-timeout)) {
		return result{}, errBusy
	}
	r := result{Outage: o.Outage.Milliseconds(), Requests: o.Requests, Failed: o.Failed}
	if o.Failed > 0 {
		r.Disturbed = o.LastFailed.Sub(o.FirstFailed).Milliseconds()
		r.Unfinished = o.LastFailed.After(end.Add(-time.Second))
	}
	if o.LastWithoutResponse.After(begin) {
		r.Stale = o.LastWithoutResponse.Sub(begin).Milliseconds()
	}
	return r, nil
}
