package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// nodesPerVault is how many nodes each Vault has.
const nodesPerVault = 3

// maxVaults is for how many Vaults there are addresses.
const maxVaults = 20000

// nodeState is what a node says of itself.
type nodeState int32

const (
	standby nodeState = iota
	active
)

// responses are Vault's, by state.
// https://developer.hashicorp.com/vault/api-docs/system/health
var responses = map[nodeState][]byte{
	standby: []byte(`{"initialized":true,"sealed":false,"standby":true,"performance_standby":false,` +
		`"replication_performance_mode":"disabled","replication_dr_mode":"disabled","server_time_utc":1764158400,` +
		`"version":"1.21.0","enterprise":false,"cluster_name":"vault-cluster-1","cluster_id":"0b1b1f2c-7f4a"}` + "\n"),
	active: []byte(`{"initialized":true,"sealed":false,"standby":false,"performance_standby":false,` +
		`"replication_performance_mode":"disabled","replication_dr_mode":"disabled","server_time_utc":1764158400,` +
		`"version":"1.21.0","enterprise":false,"cluster_name":"vault-cluster-1","cluster_id":"0b1b1f2c-7f4a"}` + "\n"),
}

// probes counts the requests that all nodes have responded to.
var probes atomic.Int64

// node responds as a Vault node, at a loopback address of its own. It is cheaper
// than Vault, so that the operator and not its nodes is measured.
type node struct {
	ip     string
	config *tls.Config
	state  atomic.Int32
	// responded is when it last responded, in nanoseconds since 1970.
	responded atomic.Int64

	mu     sync.Mutex
	server *http.Server
}

// startNode starts the i-th node of all.
func startNode(i int, cert tls.Certificate) (*node, error) {
	n := &node{
		ip:     net.IPv4(127, byte(100+i/62500), byte(i/250%250), byte(1+i%250)).String(),
		config: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	return n, n.start()
}

func (n *node) start() error {
	listener, err := net.Listen("tcp", net.JoinHostPort(n.ip, strconv.Itoa(v1alpha1.ClientPort)))
	if err != nil {
		return fmt.Errorf("a Vault node: %w", err)
	}
	server := &http.Server{
		Handler:           n,
		TLSConfig:         n.config,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1 only
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: time.Minute,
	}
	n.mu.Lock()
	n.server = server
	n.mu.Unlock()
	go func() { _ = server.ServeTLS(listener, "", "") }()
	return nil
}

// kill ends the node: connections break and new ones are refused.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		_ = n.server.Close()
		n.server = nil
	}
}

func (n *node) set(state nodeState) { n.state.Store(int32(state)) }

func (n *node) get() nodeState { return nodeState(n.state.Load()) }

// alive says that something listens.
func (n *node) alive() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server != nil
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	probes.Add(1)
	state := n.get()
	code := http.StatusOK
	if state == standby {
		code = http.StatusTooManyRequests
		if wanted, err := strconv.Atoi(r.URL.Query().Get("standbycode")); err == nil {
			code = wanted
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(responses[state])
	n.responded.Store(time.Now().UnixNano())
}

// issuer is a CA that signs the certificates that Vaults name by spec.tls.static.
type issuer struct{ pair certs.KeyPair }

func newIssuer() (*issuer, error) {
	pair, err := certs.NewCA("scale CA", time.Now())
	return &issuer{pair}, err
}

// certificate makes one that is valid for all Vaults of a namespace.
func (a *issuer) certificate(_ context.Context, namespace string) (certs.KeyPair, error) {
	names := []string{"*." + namespace + ".svc", "localhost"}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return certs.Sign(a.pair, names[0], usage, names, time.Now(), net.IPv4(127, 0, 0, 1))
}
