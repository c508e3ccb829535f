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

// errNoRaft says that a node does not tell its indexes: it is not probed, is not of
// integrated storage, or has none yet.
var errNoRaft = errors.New("the node does not tell what it has of its integrated storage")

// Raft requests what a node says of its integrated storage. It needs no token.
// https://developer.hashicorp.com/vault/api-docs/system/leader
func (e *Engine) Raft(ctx context.Context, vault types.NamespacedName, uid types.UID) (Raft, error) {
	w := e.worker(vault, uid)
	if w == nil {
		return Raft{}, errNoRaft
	}
	ctx, cancel := context.WithTimeout(ctx, raftTimeout)
	defer cancel()
	var raft Raft
	if err := w.prober.get(ctx, w.prober.apart(), "/v1/sys/leader", &raft); err != nil {
		return Raft{}, err
	}
	if raft.Committed == 0 || raft.Applied == 0 {
		return Raft{}, errNoRaft
	}
	return raft, nil
}
