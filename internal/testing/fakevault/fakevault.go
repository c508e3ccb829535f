// Package fakevault has stand-ins for Vault nodes that answer /v1/sys/health, and what is
// read of their seal, over TLS in whatever state a test puts them, and that can hang, crash and
// come back. Real nodes are the business of the end-to-end tests.
package fakevault

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// Port is the port that the operator probes Vault nodes at.
const Port = 8200

// State is what a node says of itself.
type State struct {
	Initialized bool `json:"initialized"`
	Sealed      bool `json:"sealed"`
	Standby     bool `json:"standby"`
	// Removed says that the node is not of its cluster any more.
	Removed bool `json:"removed_from_cluster,omitempty"`
}

// Seal is what a node says of its seal.
type Seal struct {
	Type string
	// Unhealthy says that Vault could not use the key service.
	Unhealthy bool
	// Migration says that Vault waits to be unsealed for a migration.
	Migration bool
}

// The states of a node, as Vault 1.21 reports them.
var (
	Uninitialized = State{Sealed: true, Standby: true}
	Sealed        = State{Initialized: true, Sealed: true, Standby: true}
	Standby       = State{Initialized: true, Standby: true}
	Active        = State{Initialized: true}
)

// Node is a fake Vault node. It is stopped when its test ends.
type Node struct {
	// IP is the loopback address that the node has for itself.
	IP string
	// Address is IP and port.
	Address string

	t    testing.TB
	cert tls.Certificate

	mu      sync.Mutex
	state   State
	seal    Seal
	version string
	probes  []time.Time
	// sealReads is how often the seal was read.
	sealReads int
	handle    func(http.ResponseWriter, *http.Request) bool
	// thawed is closed while the node runs, and open while it hangs.
	thawed chan struct{}
	server *http.Server
}

// Start runs a node on a loopback address of its own, at the port of Vault.
func Start(t testing.TB, cert tls.Certificate, state State) *Node {
	t.Helper()
	var err error
	for range 100 {
		// Test binaries that run at the same time take different addresses.
		n := newNode(t, net.IPv4(127, 82, byte(rand.IntN(250)), byte(1+rand.IntN(250))), cert, state)
		if err = n.listen(); err == nil {
			t.Cleanup(n.stop)
			return n
		}
	}
	t.Fatalf("no loopback address for a fake Vault node: %v", err)
	return nil
}

// StartIPv6 runs a node on the loopback address of IPv6. There is one, so that it waits
// until no other test has it.
func StartIPv6(t testing.TB, cert tls.Certificate, state State) *Node {
	t.Helper()
	if listener, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	} else {
		_ = listener.Close() // it has shown what it was for
	}
	n := newNode(t, net.IPv6loopback, cert, state)
	poll.Eventually(t, n.Address+" is free", time.Minute, 100*time.Millisecond, n.listen)
	t.Cleanup(n.stop)
	return n
}

func newNode(t testing.TB, ip net.IP, cert tls.Certificate, state State) *Node {
	n := &Node{
		IP: ip.String(), Address: net.JoinHostPort(ip.String(), strconv.Itoa(Port)), t: t, cert: cert, state: state,
		version: "1.21.0", seal: Seal{Type: v1alpha1.ShamirSeal},
	}
	n.thawed = make(chan struct{})
	close(n.thawed)
	return n
}

// Set changes what the node says.
func (n *Node) Set(state State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = state
}

// State is what the node says.
func (n *Node) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

// SetSeal changes what the node says of its seal. Without a type it tells none.
func (n *Node) SetSeal(seal Seal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seal = seal
}

// Handle has a test answer what it can of all requests but those for the health.
func (n *Node) Handle(handle func(http.ResponseWriter, *http.Request) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handle = handle
}

// SealReads is how often the seal was read, both requests counted.
func (n *Node) SealReads() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sealReads
}

// SetVersion changes the Vault version that the node reports.
func (n *Node) SetVersion(version string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.version = version
}

// Probes returns when the node was probed.
func (n *Node) Probes() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]time.Time(nil), n.probes...)
}

// Freeze makes the node hang like a process that got SIGSTOP: the kernel still
// accepts connections, and nothing is ever read from them.
func (n *Node) Freeze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.thawed:
		n.thawed = make(chan struct{})
	default:
	}
}

// Thaw lets a frozen node go on.
func (n *Node) Thaw() {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.thawed:
	default:
		close(n.thawed)
	}
}

// Kill ends the node: connections break and new ones are refused.
func (n *Node) Kill() {
	n.mu.Lock()
	server := n.server
	n.server = nil
	n.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// Restart brings a killed node back, at the same address.
func (n *Node) Restart(state State) {
	n.t.Helper()
	n.Set(state)
	if err := n.listen(); err != nil {
		n.t.Fatalf("restarting the fake Vault node %s: %v", n.Address, err)
	}
}

func (n *Node) stop() {
	n.Thaw()
	n.Kill()
}

func (n *Node) listen() error {
	listener, err := net.Listen("tcp", n.Address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(n.respond),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{n.cert}, MinVersion: tls.VersionTLS12},
		ErrorLog:          log.New(io.Discard, "", 0), // refused handshakes are what tests want
		ReadHeaderTimeout: time.Minute,
	}
	n.mu.Lock()
	n.server = server
	n.mu.Unlock()
	go func() { _ = server.ServeTLS(freezable{listener, n}, "", "") }()
	return nil
}

// respond is Vault's /v1/sys/health: the status code tells the state, and the
// client may choose the codes.
// https://developer.hashicorp.com/vault/api-docs/system/health
func (n *Node) respond(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/sys/health" {
		n.mu.Lock()
		handle := n.handle
		n.mu.Unlock()
		if handle == nil || !handle(w, r) {
			n.respondSeal(w, r)
		}
		return
	}
	n.mu.Lock()
	n.probes = append(n.probes, time.Now())
	state, version := n.state, n.version
	n.mu.Unlock()

	code := http.StatusOK
	switch {
	case !state.Initialized:
		code = statusCode(r, "uninitcode", http.StatusNotImplemented)
	case state.Sealed:
		code = statusCode(r, "sealedcode", http.StatusServiceUnavailable)
	case state.Standby:
		code = statusCode(r, "standbycode", http.StatusTooManyRequests)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(struct {
		State
		Version string `json:"version"`
	}{state, version})
}

// respondSeal is Vault's /v1/sys/seal-status and /v1/sys/seal-backend-status.
func (n *Node) respondSeal(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.sealReads++
	state, seal := n.state, n.seal
	n.mu.Unlock()
	var response any
	switch {
	case seal.Type == "":
	case r.URL.Path == "/v1/sys/seal-status":
		response = map[string]any{"type": seal.Type, "initialized": state.Initialized, "sealed": state.Sealed,
			"migration": seal.Migration}
	case r.URL.Path == "/v1/sys/seal-backend-status":
		response = map[string]any{
			"healthy": !seal.Unhealthy, "fully_wrapped": false,
			"backends": []map[string]any{{"name": seal.Type, "healthy": !seal.Unhealthy}},
		}
	}
	if response == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(response)
}

func statusCode(r *http.Request, parameter string, fallback int) int {
	if code, err := strconv.Atoi(r.URL.Query().Get(parameter)); err == nil {
		return code
	}
	return fallback
}

// freezable is a listener whose connections stand still while the node hangs.
type freezable struct {
	net.Listener
	node *Node
}

func (l freezable) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &freezableConn{Conn: conn, node: l.node, closed: make(chan struct{})}, nil
}

type freezableConn struct {
	net.Conn
	node   *Node
	once   sync.Once
	closed chan struct{}
}

func (c *freezableConn) Read(b []byte) (int, error) {
	count, err := c.Conn.Read(b)
	c.node.mu.Lock()
	thawed := c.node.thawed
	c.node.mu.Unlock()
	select {
	case <-thawed:
	case <-c.closed:
	}
	return count, err
}

func (c *freezableConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// CA signs the certificates of fake nodes.
type CA struct {
	// PEM is what clients trust.
	PEM  string
	pair certs.KeyPair
}

// NewCA makes a CA.
func NewCA(t testing.TB) CA {
	t.Helper()
	pair, err := certs.NewCA("test CA", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return CA{PEM: string(pair.Cert), pair: pair}
}

// Certificate makes a server certificate for the DNS name.
func (ca CA) Certificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	leaf, err := certs.Sign(ca.pair, name, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{name}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return Pair(t, leaf.Cert, leaf.Key)
}

// Secrets are those that spec.tls.static names, with a certificate for the DNS name.
func (ca CA) Secrets(t testing.TB, namespace, name string) (server, client *corev1.Secret) {
	t.Helper()
	leaf, err := certs.Sign(ca.pair, name, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{name}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "static-server"},
			Data:       map[string][]byte{v1alpha1.ServerCertKey: leaf.Cert, v1alpha1.ServerKeyKey: leaf.Key},
		}, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "static-client"},
			Data:       map[string][]byte{v1alpha1.ClientCAKey: []byte(ca.PEM)},
		}
}

// Pair parses a certificate and its key.
func Pair(t testing.TB, cert, key []byte) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
