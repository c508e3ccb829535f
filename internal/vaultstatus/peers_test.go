package vaultstatus

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
)

// TestComputeOfWhatWentWrongElsewhere names situations that other operators have
// reported wrongly.
func TestComputeOfWhatWentWrongElsewhere(t *testing.T) {
	type nodes = v1alpha1.NodesStatus
	wasActive := func(pod string) func(*v1alpha1.VaultStatus) {
		return func(status *v1alpha1.VaultStatus) { status.Initialized, status.VaultStatus.Active = true, pod }
	}
	tests := []struct {
		name  string
		facts *situation
		want  nodes
		// updated are the nodes that an upgrade has not to replace.
		updated []string
	}{
		{
			name:  "coreos/vault-operator#321: the active pod is gone, and its name with it",
			facts: newSituation().before(wasActive("gone")).pod("a", probe.Standby).pod("b", probe.Standby),
			want:  nodes{Standby: []string{"a", "b"}},
		},
		{
			name:  "coreos/vault-operator#321: also when no other node is left",
			facts: newSituation().before(wasActive("gone")),
		},
		{
			name: "coreos/vault-operator#344: a node that does not answer is not one that has to be upgraded",
			facts: withTemplate("new", newSituation().before(wasActive("a")).
				pod("a", probe.Unreachable, ofTemplate("new")).pod("b", probe.Standby, ofTemplate("new"))),
			want:    nodes{Standby: []string{"b"}, Unreachable: []string{"a"}},
			updated: []string{"a", "b"},
		},
		{
			name:  "hashicorp/vault#18117: of two nodes that say that they are active neither is named active",
			facts: newSituation().before(wasActive("a")).pod("a", probe.Active).pod("b", probe.Active),
			want:  nodes{ActiveClaims: []string{"a", "b"}},
		},
		{
			name:  "hashicorp/vault#21642: a leader that hangs is not named active any more",
			facts: newSituation().before(wasActive("a")).pod("a", probe.Unreachable).pod("b", probe.Standby),
			want:  nodes{Standby: []string{"b"}, Unreachable: []string{"a"}},
		},
		{
			name:  "bank-vaults/vault-operator: the leader is found although the first pods do not answer",
			facts: newSituation().pod("a", probe.Unreachable).pod("b", probe.Unknown, notRunning).pod("c", probe.Active),
			want:  nodes{Active: "c", Unreachable: []string{"a"}},
		},
		{
			name:  "hashicorp/vault#17470: a node that comes back sealed is named as such, and the active one stays",
			facts: newSituation().before(wasActive("b")).pod("a", probe.Sealed).pod("b", probe.Active),
			want:  nodes{Active: "b", Sealed: []string{"a"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if !equality.Semantic.DeepEqual(status.VaultStatus, tt.want) {
				t.Errorf("nodes %+v, want %+v", status.VaultStatus, tt.want)
			}
			if tt.updated != nil && !slices.Equal(status.UpdatedNodes, tt.updated) {
				t.Errorf("updated nodes %v, want %v", status.UpdatedNodes, tt.updated)
			}
		})
	}
}

func withTemplate(hash string, s *situation) *situation {
	return s.ofRevision(hash)
}
