package probe

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// raftTimeout is for the request for what a node says of its integrated storage.
const raftTimeout = 2 * time.Second

// Raft is what an unsealed node says of its integrated storage.
type Raft struct {
	// Committed is the index of the last entry that it knows to be committed, and Applied
	// that of the last one that it has applied.
	Committed uint64 `json:"raft_committed_index"`
	Applied   uint64 `json:"raft_applied_index"`
}

// Leader is what an unsealed node says of the active one.
type Leader struct {
	// Self says that the node itself is active.
	Self bool `json:"is_self"`
	// ClusterAddress is where the other nodes reach the active one. Each node has its own.
	ClusterAddress string `json:"leader_cluster_address"`
}

var (
	errNotProbed = errors.New("the node is not probed")
	// errNoRaft says that a node does not tell its indexes: it is not of integrated storage, or
	// has none yet.
	errNoRaft = errors.New("the node does not tell what it has of its integrated storage")
)

// Raft requests what a node says of its integrated storage. It needs no token.
// https://developer.hashicorp.com/vault/api-docs/system/leader
func (e *Engine) Raft(ctx context.Context, vault types.NamespacedName, uid types.UID) (Raft, error) {
	ctx, cancel := context.WithTimeout(ctx, raftTimeout)
	defer cancel()
	var raft Raft
	if err := e.leader(ctx, vault, uid, &raft); err != nil {
		return Raft{}, err
	}
	if raft.Committed == 0 || raft.Applied == 0 {
		return Raft{}, errNoRaft
	}
	return raft, nil
}

// Leader requests what a node says of the active one. It needs no token.
// https://developer.hashicorp.com/vault/api-docs/system/leader
func (e *Engine) Leader(ctx context.Context, vault types.NamespacedName, uid types.UID) (leader Leader, err error) {
	err = e.leader(ctx, vault, uid, &leader)
	return leader, err
}

func (e *Engine) leader(ctx context.Context, vault types.NamespacedName, uid types.UID, into any) error {
	w := e.worker(vault, uid)
	if w == nil {
		return errNotProbed
	}
	return w.prober.get(ctx, w.prober.apart(), "/v1/sys/leader", into)
}
