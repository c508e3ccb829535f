package members

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/etcd"
)

const mebibyte = 1 << 20

const (
	// minFree is how much has to be free within a database for a defragmentation to be worth it.
	minFree = 64 * mebibyte
	// maxInUse is how much may be in use: all of that is copied, and the member serves nothing
	// meanwhile. A slow machine has taken 38 seconds for 305 MB, and after 80 the kubelet
	// restarts the member. An administrator may defragment what is larger.
	maxInUse = 512 * mebibyte
)

// step is what is done next about databases that are larger than what they hold.
type step struct {
	// Defragment is the pod of the member to defragment; empty for none.
	Defragment types.UID
	// From is the pod of the leader that hands over to the one with the ID To; empty for none.
	From types.UID
	To   string
	// Disarm is the pod of a member that is asked to take the alarm back; empty for none.
	Disarm types.UID
	// CountAgain is the pod of a member that has all of them count anew what is in use.
	CountAgain types.UID
}

// nextStep says what to do about the databases, of what is known of all members of one etcd, and
// of nothing else. A fact that is missing counts against it.
//
//   - Nothing is done while a pod is missing, is being deleted, or is of an older template, or one
//     of the members cannot be relied on, or not one of them leads.
//   - The members whose defragmentation is worth it have it one after the other, the one of the
//     highest number first. The leader is the last, and hands over before: while a leader is
//     away no lease is renewed, and Vault's lock could run out.
//   - When no member is left whose defragmentation is worth it, and all have room, an alarm that
//     says that there is none is taken back. When one has none, what it tells to be in use may be
//     from before that was freed: all have the same data, so the leader does not hand over before.
func nextStep(members []member, wanted int) step {
	var leader *member
	leaders := 0
	for i := range members {
		m := &members[i]
		if !m.Updated || !m.reliable() {
			return step{}
		}
		if m.Leader {
			leader = m
			leaders++
		}
	}
	if len(members) != wanted || leaders != 1 {
		return step{}
	}
	others := slices.DeleteFunc(slices.Clone(members), func(m member) bool { return m.Leader })
	slices.SortFunc(others, func(a, b member) int { return b.Ordinal - a.Ordinal })
	for _, m := range others {
		if m.fragmented() {
			return step{Defragment: m.UID}
		}
	}
	return lastStep(leader, others)
}

// lastStep says what to do when all but the leader are well.
func lastStep(leader *member, others []member) step {
	full := leader.Report.Alarm == etcd.NoSpace
	switch {
	case full && slices.ContainsFunc(others, member.crowded):
		return step{CountAgain: leader.UID}
	case leader.fragmented() && len(others) == 0:
		return step{Defragment: leader.UID}
	case leader.fragmented():
		return step{From: leader.UID, To: others[len(others)-1].Report.ID}
	case full && leader.crowded():
		return step{CountAgain: leader.UID}
	case full:
		return step{Disarm: leader.UID}
	}
	return step{}
}

// fragmented says that a defragmentation of the member is worth it: most of the database is free,
// or a good part of one that comes near its quota. What was defragmented and has grown again
// needs the room, so it is left alone for a day, unless nothing can be written any more.
func (m member) fragmented() bool {
	r := m.Report
	free := r.Size - r.InUse
	if r.InUse <= 0 || r.Quota <= 0 || r.InUse > maxInUse || free < minFree || m.Recent && r.Alarm != etcd.NoSpace {
		return false
	}
	return r.Size > 2*r.InUse || r.Size > r.Quota/4*3 && free > r.Quota/8
}

// crowded says that the member has no room, or does not tell. etcd would raise the alarm at once.
func (m member) crowded() bool {
	r := m.Report
	return r.Size <= 0 || r.Quota <= 0 || r.Size > r.Quota/10*9
}
