package probe

import (
	"io"
	"net/http"
	"testing"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

func TestLeader(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Standby)
	h := newHarness(t)
	if _, err := h.Raft(t.Context(), exampleVault, target.UID); err == nil {
		t.Error("a node that is not probed tells what it has")
	}
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool { return h.observation(target.UID).State == Standby })
	if raft, err := h.Raft(t.Context(), exampleVault, target.UID); err == nil {
		t.Errorf("a node without integrated storage has %+v", raft)
	}
	respond := func(status int, text string) {
		node.Handle(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v1/sys/leader" {
				return false
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return true
		})
	}
	respond(http.StatusOK, `{"ha_enabled": true, "is_self": false, "raft_committed_index": 7, "raft_applied_index": 6}`)
	if raft, err := h.Raft(t.Context(), exampleVault, target.UID); err != nil || raft != (Raft{Committed: 7, Applied: 6}) {
		t.Errorf("%+v, error %v", raft, err)
	}
	respond(http.StatusOK, `{"is_self": true, "leader_cluster_address": "https://a:8201"}`)
	want := Leader{Self: true, ClusterAddress: "https://a:8201"}
	if leader, err := h.Leader(t.Context(), exampleVault, target.UID); err != nil || leader != want {
		t.Errorf("%+v, error %v", leader, err)
	}
	respond(http.StatusServiceUnavailable, `{"errors": ["Vault is sealed"]}`)
	if raft, err := h.Raft(t.Context(), exampleVault, target.UID); err == nil {
		t.Errorf("a sealed node has %+v", raft)
	}
}

func TestRemovedNode(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool { return h.observation(target.UID).State == Sealed })
	if h.observation(target.UID).Removed {
		t.Error("the node is removed")
	}
	removed := fakevault.Sealed
	removed.Removed = true
	node.Set(removed)
	waitUntil(t, func() bool { return h.observation(target.UID).Removed })
}
