package backup

import (
	"cmp"
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
	"github.com/vault-operator/vault-operator/internal/vaultversion"
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
		Address: address.Host, ServerName: cmp.Or(storage.ServerName, address.Hostname()), CA: string(ca),
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
		switch vaultclient.StatusOf(err) / 100 {
		case 3: // a node that is not active
			reason = Unreachable
		case 4: // Vault refuses a login with 400 as well
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

func (s *raftSource) keys(ctx context.Context) (shares, threshold int) {
	status, err := s.client.SealStatus(ctx)
	if err != nil {
		return 0, 0
	}
	return status.Shares, status.Threshold
}

const (
	// initTimeout is how long Vault may take to be initialized, and then to be active.
	initTimeout = 3 * time.Minute
	// maxTakes is how often Vault is given the snapshot.
	maxTakes = 3
)

// found makes a Vault of a node that has no data and at least that version, if one is given. Its keys are in the
// memory of this process and nowhere else: what it has is replaced by the snapshot, with all of it.
func (s *raftSource) found(ctx context.Context, version string) (*vaultclient.InitResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	status, err := s.client.SealStatus(ctx)
	if err != nil {
		return nil, fail("", err, "Vault does not respond")
	}
	if status.Initialized {
		return nil, fail(Refused, nil, "Vault is initialized already, by somebody else or by an attempt of this restore "+
			"that was cut off")
	}
	if version != "" && status.Version != "" && vaultversion.Lower(status.Version, version) {
		return nil, fail(Refused, nil, "The backup is of Vault %s, and the node to restore into runs %s: delete its pod, so "+
			"that it gets the version of the spec", printable(version), printable(status.Version))
	}
	request := &vaultclient.InitRequest{SecretShares: 1, SecretThreshold: 1}
	if status.RecoverySeal {
		request = &vaultclient.InitRequest{RecoveryShares: 1, RecoveryThreshold: 1}
	}
	made, err := s.client.Init(ctx, request)
	if err != nil {
		return nil, fail("", err, "Vault cannot be initialized to take the snapshot")
	}
	for {
		err := s.activate(ctx, made)
		if err == nil {
			return made, nil
		}
		select {
		case <-time.After(lookEvery / 2):
		case <-ctx.Done():
			return nil, fail(Unreachable, err, "Vault was initialized to take the snapshot, and is not active")
		}
	}
}

// keyOf is the key of a Vault that was made. One that a key service unseals has none.
func keyOf(made *vaultclient.InitResponse) (string, error) {
	if len(made.Keys) == 0 {
		return "", fail(Failed, nil, "Vault gave no key when it was initialized, and asks for one")
	}
	return made.Keys[0], nil
}

// activate unseals the node if it is sealed, and fails while it is not active.
func (s *raftSource) activate(ctx context.Context, made *vaultclient.InitResponse) error {
	status, err := s.client.SealStatus(ctx)
	if err != nil {
		return err
	}
	if status.Sealed && !status.RecoverySeal {
		key, err := keyOf(made)
		if err == nil {
			_, err = s.client.Unseal(ctx, key)
		}
		if err != nil {
			return err
		}
	}
	return s.client.LookupSelf(ctx, made.RootToken)
}

// take has the Vault that was made take a snapshot, and waits until it has.
func (s *raftSource) take(ctx context.Context, made *vaultclient.InitResponse, content io.Reader) error {
	before, err := s.client.SealStatus(ctx)
	if err != nil {
		return fail(Unreachable, err, "Vault does not respond")
	}
	// With a key service Vault checks that its key has sealed the snapshot: with another one it would be sealed for
	// good. Shamir's keys of a Vault that was just made are others in any case.
	if err := s.client.RestoreSnapshot(ctx, made.RootToken, content, !before.RecoverySeal); err != nil {
		return s.explain(err, "Vault did not take the snapshot")
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return fail(Failed, ctx.Err(), "Vault did not come back with the data of the snapshot; see its log")
		case <-time.After(lookEvery):
		}
		if taken, err := s.taken(ctx, before, made); taken || err != nil {
			return err
		}
	}
}

// taken says whether Vault has the data of the snapshot. It responds before it uses that, and a node that cannot
// seals itself, as one does that can: with Shamir's keys what it has is told by the key of the Vault that was made,
// which opens that alone. With a key service it unseals itself, and is another cluster than before.
// https://github.com/hashicorp/vault/blob/v1.21.1/vault/logical_system_raft.go
func (s *raftSource) taken(
	ctx context.Context, before *vaultclient.SealStatus, made *vaultclient.InitResponse,
) (bool, error) {
	status, err := s.client.SealStatus(ctx)
	if err != nil {
		return false, nil //nolint:nilerr // it is at it
	}
	if !status.Sealed || before.RecoverySeal {
		return !status.Sealed && status.ClusterID != "" && status.ClusterID != before.ClusterID, nil
	}
	key, err := keyOf(made)
	if err != nil {
		return false, err
	}
	after, err := s.client.Unseal(ctx, key)
	switch code := vaultclient.StatusOf(err); {
	case err == nil && !after.Sealed:
		return false, fail("", nil, "Vault took the snapshot and could not use it; its log says why, such as a volume "+
			"without room for both")
	case err == nil: // more keys are needed
		return true, s.client.ResetUnseal(ctx)
	case code == 400, code == 500: // it is no key of what the node has
		return true, nil
	}
	return false, nil
}
