package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// sealPause is how often the seal of a node is read, unless that is Shamir's, which
	// does not change but for the end of a migration. Vault itself tries the key service every
	// ten minutes, and every minute while it fails.
	sealPause = 20 * time.Second
	// sealRest is for how long it is not read after it was read, though the node changes its
	// state: one that does so all the time must not take the turns of all others.
	sealRest = 2 * time.Second
	// sealTimeout is for both requests: a node reads from its storage for each.
	sealTimeout = 2 * time.Second
	// sealsInFlight is how many seals may be read at once. A node that finds no room has its
	// turn after sealRetry.
	sealsInFlight = 32
	sealRetry     = time.Second
)

// SealHealth is what a node says of its key service.
type SealHealth int

const (
	// SealHealthUnknown means that the node has not said anything of it, or has none.
	SealHealthUnknown SealHealth = iota
	// SealHealthy means that Vault could use the key service when it tried last.
	SealHealthy
	// SealUnhealthy means that it could not.
	SealUnhealthy
)

// Seal is what a node said of its seal.
type Seal struct {
	// Read says that the seal was read, be it in vain.
	Read bool
	// Type of the seal as Vault names it, such as shamir or transit; empty when it is not known.
	Type string
	// Health of the key service. It is of use only from a node that is active, which tries the
	// key service now and then, or sealed, which tries it to unseal itself. A standby node
	// has what it found when it was one of these.
	Health SealHealth
	// Migration says that the node is configured to move Vault's data to another seal, and that
	// no node has done so yet. The node may be unsealed all the same.
	Migration bool
}

// SealType is what a type of a seal may look like.
var SealType = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// seal reads the seal of the node. These requests need no token.
// https://developer.hashicorp.com/vault/api-docs/system/seal-status
// https://developer.hashicorp.com/vault/api-docs/system/seal-backend-status
func (a *prober) seal(ctx context.Context) Seal {
	ctx, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	transport := a.apart()
	seal := Seal{Read: true}
	var status struct {
		Type      string
		Migration bool
	}
	if a.get(ctx, transport, "/v1/sys/seal-status", &status) != nil || !SealType.MatchString(status.Type) {
		return seal
	}
	seal.Type, seal.Migration = status.Type, status.Migration
	if seal.Type == v1alpha1.ShamirSeal {
		return seal
	}
	var backend struct{ Healthy *bool }
	switch err := a.get(ctx, transport, "/v1/sys/seal-backend-status", &backend); {
	case err != nil || backend.Healthy == nil:
	case *backend.Healthy:
		seal.Health = SealHealthy
	default:
		seal.Health = SealUnhealthy
	}
	return seal
}

// apart has connections of its own: that of the probes must not wait, and its age counts.
func (a *prober) apart() *http.Transport {
	return &http.Transport{
		TLSClientConfig:        a.transport.TLSClientConfig.Clone(),
		DialContext:            (&net.Dialer{Timeout: sealTimeout}).DialContext,
		TLSHandshakeTimeout:    sealTimeout, // the end of the request ends no handshake
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponse,
	}
}

// get reads a JSON object of the node.
func (a *prober) get(ctx context.Context, transport *http.Transport, path string, into any) error {
	request := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: a.request.URL.Host, Path: path},
		Header: http.Header{}}
	response, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the response has the HTTP status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// sealWatch is when a worker reads the seal of its node. Only the worker's own goroutine
// uses it but for done.
type sealWatch struct {
	// due is when it is read next, and rested from when on a change of the state is a reason
	// to read it before that.
	due, rested time.Time
	state       State
	// done has the last response while it is not taken up, and busy says that one is waited for.
	done chan Seal
	busy bool
}

// readSeal reads the seal of the node when that is due: at first, when the node has changed
// its state, and now and then. The probes do not wait for the response.
func (w *worker) readSeal(ctx context.Context, state State, record func(Seal)) {
	s := &w.seal
	if s.done == nil {
		s.done = make(chan Seal, 1)
	}
	now := time.Now()
	select {
	case seal := <-s.done:
		s.busy, s.rested = false, now.Add(sealRest)
		if seal.Type == v1alpha1.ShamirSeal && !seal.Migration {
			s.due = now.Add(365 * 24 * time.Hour)
			s.rested = s.due
		}
	default:
	}
	changed := state != s.state && !now.Before(s.rested)
	if s.busy || now.Before(s.due) && !changed || w.load.late() {
		return
	}
	select {
	case w.load.seals <- struct{}{}:
	default:
		s.due = now.Add(sealRetry)
		s.rested = s.due
		return
	}
	s.busy, s.state, s.due = true, state, now.Add(sealPause)
	go func() {
		seal := w.prober.seal(ctx)
		<-w.load.seals
		if ctx.Err() == nil {
			record(seal)
		}
		s.done <- seal
	}()
}

// recordSeal takes over what a node said of its seal.
func (e *Engine) recordSeal(vault types.NamespacedName, w *worker, seal Seal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.vaults[vault]
	if g == nil || g.workers[w.uid] != w {
		return
	}
	o, known := g.observations[w.uid]
	if !known || o.Seal == seal {
		return
	}
	o.Seal = seal
	g.observations[w.uid] = o
	e.news.Notify(vault)
}
