// Package probe asks Vault nodes for their state, over verified TLS, and knows
// when to ask: it is the only place that decides when a node is probed.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"k8s.io/apimachinery/pkg/types"
)

// State is what a Vault node said of itself.
type State int

const (
	// Unknown means that the node was not asked yet.
	Unknown State = iota
	// Unreachable means that the node was asked and gave no answer that counts.
	Unreachable
	// Uninitialized means that Vault waits for "vault operator init".
	Uninitialized
	// Sealed means that the node waits for "vault operator unseal".
	Sealed
	// Standby means that the node is unsealed and another one may be active.
	Standby
	// Active means that the node says that it serves requests.
	Active
)

// String returns the name of the state.
func (s State) String() string {
	return [...]string{"Unknown", "Unreachable", "Uninitialized", "Sealed", "Standby", "Active"}[s]
}

// Answered says that the node itself told its state.
func (s State) Answered() bool { return s >= Uninitialized }

// Observation is the outcome of asking a node.
type Observation struct {
	State State
	// Version of Vault that the node runs; empty when it did not answer.
	Version string
	// Err says why the node is Unreachable.
	Err error
	// Connected says that a connection to an Unreachable node was made: there is a
	// way to it, and what does not answer is Vault, or the storage it asks.
	Connected bool
	// Lost says that the node is Unreachable and has answered before: it is not
	// one that has yet to start.
	Lost bool
	// LastActive is when the node last said that it is active; zero if it never did.
	LastActive time.Time
}

// same says that two observations mean the same to whoever acts on them.
func (o Observation) same(other Observation) bool {
	return o.State == other.State && o.Version == other.Version && o.Connected == other.Connected
}

// Target is a Vault node to ask.
type Target struct {
	// UID of the pod, so that a new pod of the same name is another target.
	UID types.UID
	// Address is host:port of the node.
	Address string
	// ServerName that the certificate of the node has to be valid for.
	ServerName string
	// CA is the PEM of the authority that the certificate is verified with. When
	// it is empty the node cannot be asked and is Unreachable.
	CA string
}

// errNoCA is the Err of a node that cannot be verified.
var errNoCA = errors.New("the certificate authority of this Vault is not known")

// asker asks one node. It keeps the connection between questions.
type asker struct {
	client    *vaultapi.Client
	transport *http.Transport
}

func newAsker(target Target) (*asker, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(target.CA)) {
		return nil, errNoCA
	}
	// HTTP/1: a connection on which an answer did not come is not used again. It may
	// lead to a process that hangs or a node that is gone.
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: target.ServerName, MinVersion: tls.VersionTLS12},
		Proxy:           nil, // pods are reached directly, whatever the operator's environment says
	}
	// Not DefaultConfig, which takes the address of an agent, timeouts and more
	// from the operator's environment.
	client, err := vaultapi.NewClient(&vaultapi.Config{
		Address:    "https://" + target.Address,
		HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return nil, err
	}
	client.ClearToken()
	return &asker{client: client, transport: transport}, nil
}

func (a *asker) close() { a.transport.CloseIdleConnections() }

// ask asks for seal and leader state in one request.
// https://developer.hashicorp.com/vault/api-docs/system/health
func (a *asker) ask(ctx context.Context, timeout time.Duration) Observation {
	begin := time.Now()
	o := a.askNow(ctx, timeout)
	if ctx.Err() == nil { // a question that nobody waits for any more says nothing of the node
		probeDuration.WithLabelValues(label(o.State)).Observe(time.Since(begin).Seconds())
	}
	return o
}

func (a *asker) askNow(ctx context.Context, timeout time.Duration) Observation {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{ConnectDone: func(_, _ string, err error) {
		if err == nil {
			connected.Store(true)
		}
	}})
	health, err := a.client.Sys().HealthWithContext(ctx)
	if err != nil {
		return Observation{State: Unreachable, Err: err, Connected: connected.Load()}
	}
	return Observation{State: stateOf(health), Version: health.Version}
}

func stateOf(health *vaultapi.HealthResponse) State {
	switch {
	case !health.Initialized:
		return Uninitialized
	case health.Sealed:
		return Sealed
	case health.Standby || health.PerformanceStandby:
		return Standby
	default:
		return Active
	}
}

// nobodyListens says that the error proves that no process listens at the
// address, as opposed to one that is slow or cannot be reached.
func nobodyListens(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}
