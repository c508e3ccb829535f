package login

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

// Access is how other controllers use the operator's login to a Vault. Each method makes one
// request to the active node, and fails with ErrNoAccess where the operator may not. None logs
// in: that is for this controller alone, at its pace.
type Access interface {
	// Peers are those of the Vault's integrated storage, as its active node tells.
	Peers(ctx context.Context, vault *v1alpha1.Vault) ([]vaultclient.Peer, error)
	// RemovePeer takes a peer out of the cluster, by its ID.
	RemovePeer(ctx context.Context, vault *v1alpha1.Vault, id string) error
	// StepDown has the node of a pod give up its place. It fails when that is not the one that
	// is known to be active.
	StepDown(ctx context.Context, vault *v1alpha1.Vault, pod types.UID) error
}

var _ Access = &Reconciler{}

// ErrNoAccess says that the operator is not authorized in a Vault, or not logged in now.
var ErrNoAccess = errors.New("the operator is not logged in to this Vault")

// errNotActive says that there is no node, or not the one that was meant, to make a request to.
var errNotActive = errors.New("the node is not known to be the active one")

// grant is what Access may use of a session.
type grant struct {
	vault   types.UID
	token   string
	expires time.Time
	// denied says that Vault has denied something meanwhile.
	denied bool
}

// share lets Access use a session, if the operator may do all that it needs.
func (r *Reconciler) share(key types.NamespacedName, s *session, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !s.valid(now) || s.refusal != nil || len(s.missing) > 0 {
		delete(r.grants, key)
		return
	}
	if r.grants == nil {
		r.grants = map[types.NamespacedName]*grant{}
	}
	if old := r.grants[key]; old != nil && old.token == s.token && old.vault == s.vault {
		return
	}
	r.grants[key] = &grant{vault: s.vault, token: s.token, expires: s.expires}
}

// deniedSince says that Vault has denied a request by Access since the session was shared.
func (r *Reconciler) deniedSince(key types.NamespacedName, s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.grants[key]
	return g != nil && g.token == s.token && g.denied
}

// use makes a request to the active node, with the token of the operator.
func (r *Reconciler) use(
	ctx context.Context, vault *v1alpha1.Vault, doing string, pod types.UID,
	request func(ctx context.Context, node *vaultclient.Client, token string) error,
) error {
	key := client.ObjectKeyFromObject(vault)
	r.mu.Lock()
	g := r.grants[key]
	usable := g != nil && g.vault == vault.UID && !g.denied && r.Clock.Now().Before(g.expires) && vault.HasOperatorLogin()
	r.mu.Unlock()
	if !usable {
		return ErrNoAccess
	}
	list, err := pods.List(ctx, r, vault)
	if err != nil {
		return err
	}
	node, active := r.active(vault, list, r.Engine.Observations(key))
	if node == nil || pod != "" && pod != active {
		return fmt.Errorf("%s: %w", doing, errNotActive)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err = request(ctx, node, g.token)
	if deniedBy(err) {
		r.mu.Lock()
		g.denied = true
		r.mu.Unlock()
		return fmt.Errorf("%s: %w", doing, ErrNoAccess)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Peers implements Access.
func (r *Reconciler) Peers(ctx context.Context, vault *v1alpha1.Vault) (peers []vaultclient.Peer, err error) {
	err = r.use(ctx, vault, "reading the peers of integrated storage", "",
		func(ctx context.Context, node *vaultclient.Client, token string) error {
			peers, err = node.Peers(ctx, token)
			return err
		})
	return peers, err
}

// RemovePeer implements Access.
func (r *Reconciler) RemovePeer(ctx context.Context, vault *v1alpha1.Vault, id string) error {
	return r.use(ctx, vault, "removing a peer of integrated storage", "",
		func(ctx context.Context, node *vaultclient.Client, token string) error {
			return node.RemovePeer(ctx, token, id)
		})
}

// StepDown implements Access.
func (r *Reconciler) StepDown(ctx context.Context, vault *v1alpha1.Vault, pod types.UID) error {
	return r.use(ctx, vault, "asking the active node to step down", pod,
		func(ctx context.Context, node *vaultclient.Client, token string) error {
			return node.StepDown(ctx, token)
		})
}
