package backup

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// vaultTimeout is for a small request to Vault.
	vaultTimeout = 30 * time.Second
	// takeTimeout is how long Vault may need to use a snapshot that it has, and lookEvery how
	// often it is asked.
	takeTimeout = 10 * time.Minute
	lookEvery   = time.Second
)

// raftSource is the active node of a Vault with integrated storage.
type raftSource struct {
	*RaftStorage
	client *vaultclient.Client
	login  string
}

func newRaftSource(storage *RaftStorage, files *Files) (*raftSource, error) {
	address, err := url.Parse(storage.Address)
	if err != nil || address.Scheme != "https" || address.Port() == "" {
		return nil, fail(Failed, nil, "%q is not the URL of a node of Vault, https://HOST:PORT", printable(storage.Address))
	}
	ca, err := os.ReadFile(filepath.Join(files.Vault, "ca.crt"))
	if err != nil {
		return nil, fail(Failed, err, "The CA of Vault cannot be read")
	}
	return &raftSource{RaftStorage: storage, login: files.Login, client: vaultclient.New(probe.Target{
		Address: address.Host, ServerName: address.Hostname(), CA: string(ca),
	})}, nil
}

// token returns the token of Vault that the Job was given, or one by its ServiceAccount.
func (s *raftSource) token(ctx context.Context) (string, error) {
	token, err := readSecret(s.login, "token")
	if err == nil {
		if token == "" {
			return "", fail(Denied, nil, "The token of Vault in the Secret is empty")
		}
		return token, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	jwt, err := readSecret(s.login, "jwt")
	if err != nil {
		return "", fail(Denied, err, "The Job has neither a token of Vault nor one of its ServiceAccount")
	}
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	made, err := s.client.LoginJWT(ctx, strings.Trim(s.AuthMount, "/"), s.Role, jwt)
	if err != nil {
		reason := Reason("")
		if vaultclient.StatusOf(err)/100 == 4 { // Vault refuses a login with 400 as well
			reason = Denied
		}
		return "", fail(reason, err, "The login at auth/%s with the role %q failed",
			printable(s.AuthMount), printable(s.Role))
	}
	return made.Value, nil
}

func (s *raftSource) members(context.Context) ([]member, error) {
	return []member{{endpoint: s.Address}}, nil
}

func (s *raftSource) open(ctx context.Context, _ string) (*snapshot, error) {
	token, err := s.token(ctx)
	if err != nil {
		return nil, err
	}
	body, err := s.client.SaveSnapshot(ctx, token)
	if err != nil {
		return nil, s.explain(err, "Vault gives no snapshot")
	}
	return &snapshot{Reader: body, format: formatRaft, close: body.Close}, nil
}

func (s *raftSource) explain(err error, message string) error {
	switch status := vaultclient.StatusOf(err); {
	case status/100 == 3, status == 472, status == 473:
		return fail(Unreachable, err, "%s: the node is not active", message)
	case status == 503:
		return fail(Unreachable, err, "%s: the node is sealed", message)
	case status == 403:
		return fail(Denied, err, "%s: the token may not use the path", message)
	}
	return fail("", err, "%s", message)
}

// restore has Vault take a snapshot, and waits until it has. Sealed is what it is then, or, with a
// seal that has the same key, unsealed and of the cluster of the snapshot.
func (s *raftSource) restore(ctx context.Context, content io.Reader, clusterID string) error {
	token, err := s.token(ctx)
	if err != nil {
		return err
	}
	before, err := s.client.SealStatus(ctx)
	if err != nil {
		return fail(Unreachable, err, "Vault does not respond")
	}
	if !before.Initialized || before.Sealed {
		return fail(Refused, nil, "A snapshot is restored into a Vault that is initialized and unsealed")
	}
	if err := s.client.RestoreSnapshot(ctx, token, content); err != nil {
		return s.explain(err, "Vault did not take the snapshot")
	}
	return s.taken(ctx, before.ClusterID, clusterID)
}

// taken waits until Vault has used the snapshot. It does not respond while it does.
func (s *raftSource) taken(ctx context.Context, before, wanted string) error {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return fail(Failed, ctx.Err(), "Vault did not come back with the data of the snapshot; see its log")
		case <-time.After(lookEvery):
		}
		status, err := s.client.SealStatus(ctx)
		switch {
		case err != nil: // it is at it
		case status.Sealed, status.ClusterID != "" && status.ClusterID == wanted,
			wanted == "" && status.ClusterID != before:
			return nil
		}
	}
}
