// Package vaultclient makes the few requests to a Vault node that change something: to
// initialize and to unseal Vault, to revoke the token that initializing has made, and what the
// operator does in a Vault that it is authorized in.
//
// Each request is made once, on a connection of its own, to the node that it is meant for:
// nothing is retried and no redirect is followed. The node is verified as probes verify it.
// No error quotes a request, and none a response: what Vault gives as its reasons is apart.
package vaultclient

import (
	"bytes"
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
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// What a node may say at most: one that is not what it should be must not fill the memory.
const (
	// readTimeout is for reading what a node says of itself.
	readTimeout = 5 * time.Second
	// maxResponse is the most bytes that are read of a response, and maxInitResponse of one
	// with the keys of up to 255 holders, encrypted by PGP, which Vault gives twice.
	maxResponse     = 64 << 10
	maxInitResponse = 2 << 20
	maxHeader       = 64 << 10

	// initPath initializes Vault.
	initPath = "/v1/sys/init"

	// maxReasons is how many of the reasons of an error are told, and maxReason how many bytes
	// of each.
	maxReasons = 4
	maxReason  = 200
	// minSecret is the least length of what is looked for in reasons.
	minSecret = 9
)

// Client makes requests to one node.
type Client struct {
	address   string
	transport *http.Transport
}

// New returns a client for a node.
func New(target probe.Target) *Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(target.CA)) // without any nothing can be verified
	return &Client{address: target.Address, transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: roots, ServerName: target.ServerName, MinVersion: tls.VersionTLS12},
		Proxy:              nil, // pods are reached directly, whatever the operator's environment says
		DisableKeepAlives:  true,
		DisableCompression: true,

		// A handshake goes on when nobody waits for it any more.
		TLSHandshakeTimeout:    readTimeout,
		MaxResponseHeaderBytes: maxHeader,
	}}
}

// Error is a response that is an error.
type Error struct {
	// Status of HTTP.
	Status int
	// Reasons are Vault's own words.
	Reasons []string
}

// Error returns the status alone.
func (e *Error) Error() string { return fmt.Sprintf("the response has the HTTP status %d", e.Status) }

// ReasonsOf are Vault's own words in a response that is an error.
func ReasonsOf(err error) []string {
	var response *Error
	if errors.As(err, &response) {
		return response.Reasons
	}
	return nil
}

// StatusOf is the HTTP status of a response that is an error, or 0 if there was none.
func StatusOf(err error) int {
	var response *Error
	if errors.As(err, &response) {
		return response.Status
	}
	return 0
}

// SealStatus is what a node says of its seal.
// https://developer.hashicorp.com/vault/api-docs/system/seal-status
type SealStatus struct {
	// Type as Vault names it, such as shamir or transit.
	Type        string `json:"type"`
	Version     string `json:"version"`
	Initialized bool   `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	// Shares is how many keys there are.
	Shares int `json:"n"`
	// Threshold is how many keys unseal the node, and Progress how many of them it has.
	Threshold int `json:"t"`
	Progress  int `json:"progress"`
	// Migration says that the node waits to be migrated to another seal.
	Migration bool `json:"migration"`
	// RecoverySeal says that Vault has recovery keys in place of unseal keys.
	RecoverySeal bool `json:"recovery_seal"`
	// ClusterID identifies the data. A sealed node does not know it.
	ClusterID string `json:"cluster_id"`
}

// SealStatus reads the seal of the node, which has readTimeout for that.
func (c *Client) SealStatus(ctx context.Context) (*SealStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var status SealStatus
	err := c.do(ctx, http.MethodGet, "/v1/sys/seal-status", "", nil, &status)
	if err == nil && status.Type == "" {
		err = errors.New("the response is not one of Vault")
	}
	return &status, err
}

// InitRequest asks to initialize Vault. PGP keys are in base64.
// https://developer.hashicorp.com/vault/api-docs/system/init
type InitRequest struct {
	SecretShares      int32    `json:"secret_shares,omitempty"`
	SecretThreshold   int32    `json:"secret_threshold,omitempty"`
	PGPKeys           []string `json:"pgp_keys,omitempty"`
	RecoveryShares    int32    `json:"recovery_shares,omitempty"`
	RecoveryThreshold int32    `json:"recovery_threshold,omitempty"`
	RecoveryPGPKeys   []string `json:"recovery_pgp_keys,omitempty"`
	RootTokenPGPKey   string   `json:"root_token_pgp_key,omitempty"`
}

// InitResponse has the keys, which nobody can get a second time.
type InitResponse struct {
	Keys         []string `json:"keys_base64"`
	RecoveryKeys []string `json:"recovery_keys_base64"`
	RootToken    string   `json:"root_token"`
}

// Init initializes Vault. After an error other than an *Error with a status below 500 it is
// not known whether it did.
func (c *Client) Init(ctx context.Context, request *InitRequest) (*InitResponse, error) {
	var response InitResponse
	if err := c.do(ctx, http.MethodPut, initPath, "", request, &response); err != nil {
		return nil, err
	}
	if len(response.Keys)+len(response.RecoveryKeys) == 0 {
		return nil, errors.New("the response has no keys")
	}
	return &response, nil
}

// Unseal gives the node a key, and returns what it says of its seal then.
// https://developer.hashicorp.com/vault/api-docs/system/unseal
func (c *Client) Unseal(ctx context.Context, key string) (*SealStatus, error) {
	var status SealStatus
	return &status, c.do(ctx, http.MethodPut, "/v1/sys/unseal", "", map[string]string{"key": key}, &status)
}

// ResetUnseal has the node forget the keys that it has got.
func (c *Client) ResetUnseal(ctx context.Context) error {
	return c.do(ctx, http.MethodPut, "/v1/sys/unseal", "", map[string]bool{"reset": true}, nil)
}

// RevokeSelf revokes a token. The node must be active.
// https://developer.hashicorp.com/vault/api-docs/auth/token#revoke-a-token-self
func (c *Client) RevokeSelf(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodPut, "/v1/auth/token/revoke-self", token, nil, nil)
}

// LookupSelf returns nil for a token that is valid, and an *Error with the status 403 for one
// that is not.
func (c *Client) LookupSelf(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodGet, "/v1/auth/token/lookup-self", token, nil, nil)
}

// What a token may be that a login makes: its size, and for how long it is valid. The node says
// both, and how often the operator logs in follows from it.
const (
	maxToken    = 8 << 10
	minLifetime = time.Minute
	maxLifetime = 24 * time.Hour
)

// Token is one that a login has made.
type Token struct {
	Value string
	// Lifetime is for how long it is valid.
	Lifetime time.Duration
}

// LoginJWT logs in by a JWT.
// https://developer.hashicorp.com/vault/api-docs/auth/jwt#jwt-login
func (c *Client) LoginJWT(ctx context.Context, mount, role, jwt string) (Token, error) {
	var response struct {
		Auth struct {
			Token    string `json:"client_token"`
			Lifetime int64  `json:"lease_duration"`
		} `json:"auth"`
	}
	body := map[string]string{"role": role, "jwt": jwt}
	if err := c.do(ctx, http.MethodPut, "/v1/auth/"+mount+"/login", "", body, &response); err != nil {
		return Token{}, err
	}
	token, seconds := response.Auth.Token, response.Auth.Lifetime
	if token == "" || len(token) > maxToken {
		return Token{}, fmt.Errorf("the response has no token of 1 to %d bytes", maxToken)
	}
	// Compared as seconds, since a duration may overflow.
	if seconds < int64(minLifetime/time.Second) || seconds > int64(maxLifetime/time.Second) {
		return Token{}, fmt.Errorf("the response has no token that is valid for %s to %s", minLifetime, maxLifetime)
	}
	return Token{token, time.Duration(seconds) * time.Second}, nil
}

// Capabilities returns what a token may do with paths.
// https://developer.hashicorp.com/vault/api-docs/system/capabilities-self
func (c *Client) Capabilities(ctx context.Context, token string, paths []string) (map[string][]string, error) {
	// Beside the paths there are fields of other types.
	var response struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	body := map[string][]string{"paths": paths}
	if err := c.do(ctx, http.MethodPut, "/v1/sys/capabilities-self", token, body, &response); err != nil {
		return nil, err
	}
	result := map[string][]string{}
	for _, path := range paths {
		var capabilities []string
		if err := json.Unmarshal(response.Data[path], &capabilities); err == nil {
			result[path] = capabilities
		}
	}
	return result, nil
}

// StepDown has the node give up its place. The node must be active.
// https://developer.hashicorp.com/vault/api-docs/system/step-down
func (c *Client) StepDown(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodPut, "/v1/sys/step-down", token, nil, nil)
}

// What a node may say of its peers at most.
const (
	maxPeers = 64
	maxPeer  = 512
)

// Peer is a member of the cluster of integrated storage, which votes or does not.
type Peer struct {
	// ID that it has made for its volume.
	ID string `json:"node_id"`
	// Address is host:port, at which the others reach it.
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
	Voter   bool   `json:"voter"`
}

// Peers are the members of the cluster of integrated storage. The node must be active.
// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#read-raft-configuration
func (c *Client) Peers(ctx context.Context, token string) ([]Peer, error) {
	var data struct {
		Config struct {
			Servers []Peer `json:"servers"`
		} `json:"config"`
	}
	if err := c.Read(ctx, token, "sys/storage/raft/configuration", &data); err != nil {
		return nil, err
	}
	peers := data.Config.Servers
	if len(peers) == 0 || len(peers) > maxPeers {
		return nil, fmt.Errorf("the response has no peers, or more than %d", maxPeers)
	}
	for _, peer := range peers {
		if peer.ID == "" || len(peer.ID) > maxPeer || len(peer.Address) > maxPeer {
			return nil, errors.New("the response has a peer without an ID, or one that is too long")
		}
	}
	return peers, nil
}

// RemovePeer takes a member out of the cluster of integrated storage. The node must be active.
// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#remove-a-node-from-raft-cluster
func (c *Client) RemovePeer(ctx context.Context, token, id string) error {
	return c.Write(ctx, token, "sys/storage/raft/remove-peer", map[string]string{"server_id": id})
}

// Mounts reads what Vault tells of its mounts without a token, for which the node has readTimeout, and fails when that
// cannot be read.
// https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts
func (c *Client) Mounts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return c.do(ctx, http.MethodGet, "/v1/sys/internal/ui/mounts", "", nil, nil)
}

// Read reads the data at a path.
func (c *Client) Read(ctx context.Context, token, path string, into any) error {
	response := struct {
		Data any `json:"data"`
	}{into}
	return c.do(ctx, http.MethodGet, "/v1/"+path, token, nil, &response)
}

// Write writes to a path.
func (c *Client) Write(ctx context.Context, token, path string, body any) error {
	return c.do(ctx, http.MethodPut, "/v1/"+path, token, body, nil)
}

// SaveSnapshot returns a snapshot of integrated storage, which whoever reads it has to close. The
// node must be active. It may end before the snapshot is whole.
// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#take-a-snapshot-of-the-raft-cluster
func (c *Client) SaveSnapshot(ctx context.Context, token string) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodGet, "/v1/sys/storage/raft/snapshot", token, nil, 0)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer func() { _ = response.Body.Close() }()
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxResponse)) // the status says enough
		return nil, refusal(response.StatusCode, text, secretsIn(token, nil))
	}
	return response.Body, nil
}

// RestoreSnapshot has the node take a snapshot of integrated storage; with force, whatever keys seal
// it. The node must be active. It responds before it uses the snapshot.
// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#restore-raft-using-a-snapshot
// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#force-restore-raft-using-a-snapshot
func (c *Client) RestoreSnapshot(ctx context.Context, token string, snapshot io.Reader, force bool) error {
	path := "/v1/sys/storage/raft/snapshot"
	if force {
		path += "-force"
	}
	response, err := c.send(ctx, http.MethodPut, path, token, snapshot, -1)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	return decode(response, maxResponse, secretsIn(token, nil), nil)
}

func (c *Client) do(ctx context.Context, method, path, token string, body, into any) error {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return errors.New("the request cannot be encoded")
		}
	}
	response, err := c.send(ctx, method, path, token, bytes.NewReader(encoded), int64(len(encoded)))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	limit := int64(maxResponse)
	if path == initPath {
		limit = maxInitResponse
	}
	return decode(response, limit, secretsIn(token, body), into)
}

// send makes a request. The length of its body is -1 when it is not known.
func (c *Client) send(
	ctx context.Context, method, path, token string, body io.Reader, length int64,
) (*http.Response, error) {
	request := &http.Request{
		Method: method, URL: &url.URL{Scheme: "https", Host: c.address, Path: path}, Header: http.Header{},
	}
	// A standby node would pass the request on to the active one, with the token, where another
	// node than the one that was chosen would act on it. It responds with a redirect instead.
	// https://developer.hashicorp.com/vault/docs/concepts/ha#request-forwarding
	request.Header.Set("X-Vault-No-Request-Forwarding", "true")
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	if length != 0 {
		// Without GetBody nothing makes the request a second time.
		request.Body, request.ContentLength = io.NopCloser(body), length
	}
	// Not through an http.Client, which would follow redirects.
	response, err := c.transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return nil, noResponse(err)
	}
	return response, nil
}

// noResponse is the error of a request without a response. What is no response of HTTP is quoted by the error of
// Go's client: a node may send there what it was sent.
func noResponse(err error) error {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &network) || errors.As(err, &certificate) || errors.Is(err, io.EOF) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no response: %w", err)
	}
	return errors.New("no response of HTTP")
}

// decode reads a response to its end.
func decode(response *http.Response, limit int64, secrets []string, into any) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, limit))
	switch {
	case response.StatusCode >= http.StatusMultipleChoices:
		return refusal(response.StatusCode, text, secrets)
	case err != nil:
		return fmt.Errorf("reading the response: %w", err)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errors.New("the response is not one of Vault")
	}
	return nil
}

// secretsIn is what of a request nobody may read.
func secretsIn(token string, body any) []string {
	secrets := []string{token}
	if fields, ok := body.(map[string]string); ok {
		secrets = append(secrets, fields["key"], fields["jwt"])
	}
	return slices.DeleteFunc(secrets, func(secret string) bool { return len(secret) < minSecret })
}

// refusal is the error of a response. What the node says ends in conditions and logs, so that
// it is short, and quotes none of the secrets.
func refusal(status int, text []byte, secrets []string) error {
	var response struct{ Errors []string }
	_ = json.Unmarshal(text, &response) // an answer that is not Vault's has none
	result := &Error{Status: status}
	for _, reason := range response.Errors {
		if len(result.Reasons) == maxReasons {
			break
		}
		if !slices.ContainsFunc(secrets, func(secret string) bool { return strings.Contains(reason, secret) }) {
			result.Reasons = append(result.Reasons, printable(reason))
		}
	}
	return result
}

// printable is the beginning of a text, in one line.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "")
	}
	return text
}
