// Package probe requests the state of Vault nodes, over verified TLS. It is the only
// place that decides when a node is probed.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

const (
	// maxResponse is the most bytes that are read of a response, of its headers and of
	// its body each. Vault's has less than a kilobyte.
	maxResponse = 64 << 10
	// bufferSize of a connection, read and write: the default is four times as much,
	// for each of thousands of nodes.
	bufferSize = 1 << 10
	// reconnectAfter is for how long a connection is used. A node shows a renewed
	// certificate on new connections only.
	reconnectAfter = time.Minute
)

// State is what a Vault node said of itself.
type State int

const (
	// Unknown means that the node was not probed yet.
	Unknown State = iota
	// Unreachable means that the node was probed and gave no response that counts.
	Unreachable
	// Unverified means that the node was reached and that its certificate could not
	// be verified, so that nothing it says is believed. It is not silence.
	Unverified
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
	return [...]string{"Unknown", "Unreachable", "Unverified", "Uninitialized", "Sealed", "Standby", "Active"}[s]
}

// Responded says that the node itself told its state.
func (s State) Responded() bool { return s >= Uninitialized }

// Observation is the outcome of probing a node.
type Observation struct {
	State State
	// Version of Vault that the node runs; empty when it did not answer.
	Version string
	// Certificate that the node serves with; nil when none was seen. That of an
	// Unverified node proves nothing.
	Certificate *Certificate
	// Err says why the node is Unreachable or Unverified.
	Err error
	// Silent says that an Unreachable node gave no response at all, as opposed to one
	// that is not Vault's.
	Silent bool
	// Refused says that no process listens at the address of an Unreachable node:
	// connections were refused twice.
	Refused bool
	// Connected says that a connection to an Unreachable node was made: there is a
	// way to it, and what does not respond is Vault, or the storage that it reads.
	Connected bool
	// Last is what the node said when it last answered; Unknown if it never did.
	Last State
	// LastActive is when the node last said that it is active; zero if it never did.
	LastActive time.Time
	// Seal is what the node said of its seal last.
	Seal Seal
	// Removed says that the node, which is sealed, has been removed from the cluster of its
	// integrated storage. It cannot be unsealed before it has another volume.
	Removed bool
	// doubted says that the node did not answer since, when it was asked by Confirm.
	doubted bool
}

// Lost says that the node does not tell its state and has answered before: it is
// not one that has yet to start.
func (o Observation) Lost() bool { return !o.State.Responded() && o.Last != Unknown }

// same says that nothing that is acted on has changed between two observations.
func (o Observation) same(other Observation) bool {
	return o.State == other.State && o.Version == other.Version && o.Connected == other.Connected &&
		o.Silent == other.Silent && o.Removed == other.Removed && o.Refused == other.Refused &&
		o.Certificate.same(other.Certificate)
}

// Certificate is what is told of a certificate that a node serves with.
type Certificate struct {
	// Serial is the serial number in hexadecimal digits.
	Serial string
	// NotAfter is the end of its validity.
	NotAfter time.Time
}

// maxSerial is how many digits of a serial number are told: it may have 20 octets, but a node could show
// a certificate with any.
// https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.2
const maxSerial = 40

// CertificateOf returns what is told of a certificate.
func CertificateOf(leaf *x509.Certificate) *Certificate {
	serial := leaf.SerialNumber.Text(16)
	return &Certificate{Serial: serial[:min(len(serial), maxSerial)], NotAfter: leaf.NotAfter}
}

func (c *Certificate) same(other *Certificate) bool {
	if c == nil || other == nil {
		return c == other
	}
	return c.Serial == other.Serial && c.NotAfter.Equal(other.NotAfter)
}

// Target is a Vault node to probe.
type Target struct {
	// UID of the pod, so that a new pod of the same name is another target.
	UID types.UID
	// Address is host:port of the node.
	Address string
	// ServerName that the certificate of the node has to be valid for.
	ServerName string
	// CA is the PEM of the CAs that the certificate is verified with, one of which is
	// enough. Without any the node is Unverified when it can be reached.
	CA string
	// EarlierCAs are those which were in the place of CA before, with which the node is probed as well: it may not have
	// taken up a new certificate yet. It gets nothing secret by these.
	EarlierCAs string
	// Container changes with each start of the container: a node that was started
	// anew is probed anew.
	Container string
	// InService says that the pod has the active label.
	InService bool
	// Unmeasured says that nobody is to be called when the node is not active any more.
	Unmeasured bool
}

// errNoCA is the Err of a node that cannot be verified.
var errNoCA = errors.New("the certificate authority of this Vault is not known")

// The health endpoint tells seal and leader state in one response, with a status code below
// 300 whatever the state is.
// https://developer.hashicorp.com/vault/api-docs/system/health
const (
	healthPath  = "/v1/sys/health"
	healthQuery = "uninitcode=299&sealedcode=299&standbycode=299&drsecondarycode=299" +
		"&performancestandbycode=299&removedcode=299&haunhealthycode=299"
)

// prober probes one node. It keeps the connection between probes.
type prober struct {
	transport *http.Transport
	request   *http.Request
	// connected is when the last connection was made, in nanoseconds since 1970.
	connected atomic.Int64
}

// newProber returns a prober of the target. The target's CAs are parsed if roots is nil.
func newProber(target Target, roots *x509.CertPool) *prober {
	if roots == nil {
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(target.CA))
		roots.AppendCertsFromPEM([]byte(target.EarlierCAs))
	}
	health := &url.URL{Scheme: "https", Host: target.Address, Path: healthPath, RawQuery: healthQuery}
	p := &prober{request: &http.Request{Method: http.MethodGet, URL: health, Header: http.Header{}}}
	// HTTP/1: a connection on which a response did not come is not used again. It may
	// lead to a process that hangs or a node that is gone.
	p.transport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: target.ServerName, MinVersion: tls.VersionTLS12},
		Proxy:           nil, // pods are reached directly, whatever the operator's environment says
		DialContext:     p.dial,
		// A connection attempt may outlive the request that it was begun for.
		TLSHandshakeTimeout:    2 * timeout,
		MaxIdleConnsPerHost:    1,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponse,
		ReadBufferSize:         bufferSize,
		WriteBufferSize:        bufferSize,
	}
	return p
}

// roots are the CAs that the node is verified with.
func (p *prober) roots() *x509.CertPool { return p.transport.TLSClientConfig.RootCAs }

func (p *prober) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 2 * timeout}
	conn, err := dialer.DialContext(ctx, network, address)
	if err == nil {
		p.connected.Store(time.Now().UnixNano())
	}
	return conn, err
}

func (p *prober) close() { p.transport.CloseIdleConnections() }

// probe probes the node once.
func (p *prober) probe(ctx context.Context, timeout time.Duration) Observation {
	begin := time.Now()
	if begin.UnixNano()-p.connected.Load() > int64(reconnectAfter) {
		p.transport.CloseIdleConnections()
	}
	o := p.probeNow(ctx, timeout)
	if o.State == Unreachable {
		// Whether there is a way to the node shows on a new connection only.
		p.transport.CloseIdleConnections()
	}
	o.Connected = o.State == Unreachable && p.connected.Load() >= begin.UnixNano()
	if ctx.Err() == nil { // a probe that was cancelled says nothing of the node
		probeDuration.WithLabelValues(label(o.State)).Observe(time.Since(begin).Seconds())
	}
	return o
}

func (p *prober) probeNow(ctx context.Context, timeout time.Duration) Observation {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Not through an http.Client, which would follow redirects.
	response, err := p.transport.RoundTrip(p.request.WithContext(ctx))
	if err != nil {
		return p.failed(err)
	}
	defer func() { _ = response.Body.Close() }()
	health, err := readHealth(response)
	if err != nil {
		return p.failed(err)
	}
	return Observation{
		State:       health.state(),
		Version:     health.version(),
		Removed:     health.RemovedFromCluster,
		Certificate: CertificateOf(response.TLS.PeerCertificates[0]),
	}
}

// failed is what is known of a node after a probe that has failed.
func (p *prober) failed(err error) Observation {
	var unverified *tls.CertificateVerificationError
	if !errors.As(err, &unverified) {
		return Observation{State: Unreachable, Err: err, Silent: isSilence(err)}
	}
	o := Observation{State: Unverified, Err: err}
	if len(unverified.UnverifiedCertificates) > 0 {
		o.Certificate = CertificateOf(unverified.UnverifiedCertificates[0])
	}
	if p.roots().Equal(x509.NewCertPool()) {
		o.Err = errNoCA
	}
	return o
}

// health is the part of a node's response that is used. A response without one of
// the first three fields is not Vault's.
type health struct {
	Initialized        *bool  `json:"initialized"`
	Sealed             *bool  `json:"sealed"`
	Standby            *bool  `json:"standby"`
	PerformanceStandby bool   `json:"performance_standby"`
	Version            string `json:"version"`
	RemovedFromCluster bool   `json:"removed_from_cluster"`
}

func readHealth(response *http.Response) (*health, error) {
	// Read to its end, so that the connection can be used again.
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode != http.StatusOK && response.StatusCode != 299:
		return nil, fmt.Errorf("the answer has the HTTP status %d", response.StatusCode)
	case len(body) > maxResponse:
		return nil, fmt.Errorf("the answer has more than %d bytes", maxResponse)
	}
	return parseHealth(body)
}

// errNotHealth never quotes the response.
var errNotHealth = errors.New("the answer is not one of Vault")

func parseHealth(body []byte) (*health, error) {
	var h health
	if err := json.Unmarshal(body, &h); err != nil || h.Initialized == nil || h.Sealed == nil || h.Standby == nil {
		return nil, errNotHealth
	}
	return &h, nil
}

func (h *health) state() State {
	switch {
	case !*h.Initialized:
		return Uninitialized
	case *h.Sealed:
		return Sealed
	case *h.Standby || h.PerformanceStandby:
		return Standby
	default:
		return Active
	}
}

// version is what the node says, if that is a version.
func (h *health) version() string {
	if !vaultversion.Valid(h.Version) {
		return ""
	}
	return h.Version
}

// isSilence says that the error means that no response came, and not a wrong one.
func isSilence(err error) bool {
	var network net.Error
	var dial *net.OpError
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout() ||
		errors.As(err, &dial) && dial.Op == "dial" || notListening(err) || errors.Is(err, syscall.EPIPE)
}

// notListening says that the error proves that no process listens at the
// address, as opposed to one that is slow or cannot be reached.
func notListening(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) ||
		errors.Is(err, net.ErrClosed)
}

func connectionRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
