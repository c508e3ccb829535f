package members

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// member is what is known of one etcd member.
type member struct {
	Name string
	UID  types.UID
	// Ordinal is its number in the StatefulSet.
	Ordinal int
	// Updated says that the pod is of the newest template.
	Updated bool
	// Terminating says that the pod is being deleted.
	Terminating bool
	// Down says that no etcd runs in the pod, as Kubernetes reports it, and Ready that the
	// member answers reads.
	Down, Ready bool
	// Sound says that the member has told that it votes, knows a leader, knows as many members
	// as there should be, and has found no member with other data.
	Sound bool
	// Leader says that it has told that it is the leader.
	Leader bool

	// Report is what the member has said of itself, as far as it was asked.
	Report etcd.Report
	// Recent says that it was defragmented not long ago.
	Recent bool
}

// decision is what to do next.
type decision struct {
	// Delete is the pod to delete; empty for none.
	Delete types.UID
	// Without are the pods of the members that the cluster relies on when it is gone.
	Without []types.UID
	// Done says that all pods are of the newest template.
	Done bool
	// Why says what is waited for, when there is something to do and it is not done yet.
	Why string
}

// decide chooses the pod to delete next, so that one of the newest template takes its
// place, of what is known of all pods of one etcd, and of nothing else.
//
// Pods in which no etcd runs go first, then members that are not ready, then the others, the
// one of the highest number first, and the leader last. One at a time:
//
//   - every pod is there, and none is being deleted;
//   - in each pod of the newest template an etcd runs. So a template that does not work stops
//     at the first pod. That one is deleted when the template is set back, or fixed;
//   - a pod in which no etcd runs can go without more: members that start for the first time
//     are ready when a quorum of them runs, and not before;
//   - for any other, those of the newest template are ready and sound, and without it a quorum
//     is; one that is ready goes only when all others are. So the cluster can lose a member
//     while one is being replaced;
//   - of an etcd with one member that one can go at any time: it cannot be replaced
//     otherwise.
//
// A fact that is missing counts against it.
func decide(members []member, wanted int) decision {
	var old []member
	for _, m := range members {
		if !m.Updated {
			old = append(old, m)
		}
	}
	if len(old) == 0 {
		return decision{Done: true}
	}
	if len(members) != wanted {
		return decision{Why: fmt.Sprintf("%d of %d pods are there", len(members), wanted)}
	}
	for _, m := range members {
		switch {
		case m.Terminating:
			return decision{Why: m.Name + " is being deleted"}
		case m.Updated && m.Down:
			return decision{Why: "the updated member " + m.Name + " has not started"}
		}
	}
	slices.SortFunc(old, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.turn(), b.turn()), cmp.Compare(b.Ordinal, a.Ordinal))
	})
	next := old[0]
	if next.Down || wanted == 1 {
		return decision{Delete: next.UID}
	}
	if why := missing(members, next, wanted); why != "" {
		return decision{Why: why}
	}
	return decision{Delete: next.UID, Without: others(members, next)}
}

// missing is what the cluster would lack without the member, or nothing.
func missing(members []member, without member, wanted int) string {
	leaders := 0
	for _, m := range members {
		if m.Leader {
			leaders++
		}
		if m.UID != without.UID && !m.reliable() && (m.Updated || without.Ready) {
			return m.lacks()
		}
	}
	reliable, quorum := len(others(members, without)), storage.Quorum(wanted)
	switch {
	case reliable < quorum:
		return fmt.Sprintf("without %s %d members would be ready, and %d are needed", without.Name, reliable, quorum)
	case leaders != 1:
		return fmt.Sprintf("%d members say that they are the leader", leaders)
	}
	return ""
}

// others are the pods of the members that can be relied on without that one.
func others(members []member, without member) []types.UID {
	var uids []types.UID
	for _, m := range members {
		if m.UID != without.UID && m.reliable() {
			uids = append(uids, m.UID)
		}
	}
	return uids
}

// reliable says that the others can do with this member.
func (m member) reliable() bool { return m.Ready && m.Sound && !m.Down && !m.Terminating }

// lacks says why the others cannot.
func (m member) lacks() string {
	if !m.Ready || m.Down {
		return m.Name + " is not ready"
	}
	return m.Name + " does not say that it votes, has a leader and knows the members that the spec wants, " +
		"or has found other data in one"
}

// turn is when the member is replaced, compared with others.
func (m member) turn() int {
	switch {
	case m.Down:
		return 0
	case !m.Ready:
		return 1
	case m.Leader:
		return 3
	default:
		return 2
	}
}
