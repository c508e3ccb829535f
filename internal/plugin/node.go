package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
)

const (
	// responseLimit is how much is read of a response.
	responseLimit = 1 << 20
	// responseTimeout is for how long a node may take. The last key share of an unseal is
	// answered when the node has opened its storage.
	responseTimeout = time.Minute
)

// SealStatus is what a node says of its seal.
type SealStatus = vaultapi.SealStatusResponse

// Node is a connection to one Vault node, over TLS that is verified.
type Node struct {
	// Pod is the name of the pod.
	Pod string
	// Address is where the node is reached from this machine.
	Address string

	api  *vaultapi.Client
	http *http.Transport
	stop func()
}

// NewNode returns a connection to the node at an address, whose certificate has to be valid
// for the name and signed by the CA.
func NewNode(pod, address, serverName string, ca []byte) (*Node, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the CA of Vault has no certificate in it")
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second,
		// After this many the rest would be of no use either.
		MaxResponseHeaderBytes: 64 << 10,
	}
	client, err := newClient(&vaultapi.Config{
		Address: "https://" + address,
		HttpClient: &http.Client{
			Transport:     bounded{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Timeout: responseTimeout,
		// Nothing is sent twice: of two answers to an initialization one has the keys.
		MaxRetries:       0,
		DisableRedirects: true,
	})
	if err != nil {
		return nil, err
	}
	return &Node{Pod: pod, Address: address, api: client, http: transport}, nil
}

var environment sync.Mutex

// newClient makes a client that follows none of the VAULT_ variables: they are about
// another Vault, or would turn the verification of certificates off. The library reads them
// all whenever it makes a client.
func newClient(config *vaultapi.Config) (*vaultapi.Client, error) {
	environment.Lock()
	defer environment.Unlock()
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "VAULT_") {
			_ = os.Unsetenv(name) // cannot fail for a name that is set
			defer func() { _ = os.Setenv(name, value) }()
		}
	}
	return vaultapi.NewClient(config)
}

// bounded limits what is read of answers, and follows none elsewhere.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		_ = response.Body.Close() // nothing of it is wanted
		return nil, errors.New("the node is not active any more: it sends to another one")
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, responseLimit), response.Body}
	return response, nil
}

// Close ends the connection.
func (n *Node) Close() {
	n.http.CloseIdleConnections()
	if n.stop != nil {
		n.stop()
	}
}

// withToken has requests made with a token.
func (n *Node) withToken(token string) error {
	// The library would put a token with a line break into its error.
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return exit(exitDenied, "the token has characters that no token has")
	}
	n.api.SetToken(token)
	return nil
}

// SealStatus asks whether the node is sealed.
func (n *Node) SealStatus(ctx context.Context) (*SealStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return n.api.Sys().SealStatusWithContext(ctx)
}

// leader asks an unsealed node what it knows of the cluster.
func (n *Node) leader(ctx context.Context) (*vaultapi.LeaderResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return n.api.Sys().LeaderWithContext(ctx)
}

// IsActive asks whether the node is active.
func (n *Node) IsActive(ctx context.Context) (bool, error) {
	leader, err := n.leader(ctx)
	if err != nil {
		return false, err
	}
	// A Vault whose storage knows no standby has no leader, and is the only node.
	return leader.IsSelf || !leader.HAEnabled, nil
}

// reason says in a line why a node did not do what it was asked.
func reason(err error) string {
	var response *vaultapi.ResponseError
	var certificate *tls.CertificateVerificationError
	if request := (*url.Error)(nil); errors.As(err, &request) {
		err = request.Err // the address on this machine says nothing
	}
	switch {
	case errors.Is(err, errNotRunning):
		return "it is starting"
	case errors.As(err, &response):
		if len(response.Errors) == 0 {
			return fmt.Sprintf("Vault answered %d", response.StatusCode)
		}
		return line(strings.Join(response.Errors, ", "))
	case errors.As(err, &certificate):
		return line("its certificate cannot be verified, so nothing was sent to it: " + certificate.Err.Error())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "it does not answer"
	case errors.Is(err, context.DeadlineExceeded):
		return "it does not answer in time"
	}
	return line(err.Error())
}

// status is the HTTP status of an answer that is an error, or 0 when there was no answer.
func status(err error) int {
	if response := (*vaultapi.ResponseError)(nil); errors.As(err, &response) {
		return response.StatusCode
	}
	return 0
}

// denied turns an answer that refuses a token into an exit code. Without an answer nobody knows what was done.
func denied(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case status(err) == http.StatusForbidden:
		return exit(exitDenied, "%s", text)
	case status(err) == 0:
		return errors.New(text + "; it is not known whether that was done")
	}
	return errors.New(text)
}
