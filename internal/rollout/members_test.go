package rollout

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

// members are nodes that all may run, of a Vault that is initialized and whose peers are known:
// each node is one.
func members(wanted int, text ...string) membership {
	m := membership{
		nodes: parse(text...), wanted: wanted, running: len(text), replicas: len(text), founded: true, known: true,
		voters: len(text), told: true,
	}
	for i := range m.nodes {
		n := &m.nodes[i]
		n.Peer, n.Leader, n.Old = "id-"+n.Name, n.State == probe.Active, true
	}
	return m
}

func TestDecideMembers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		m      membership
		change func(*membership)
		want   string
		why    string
	}{
		{name: "as wanted", m: members(3, "active", "standby", "standby")},
		{name: "more", m: members(5, "active", "standby", "standby"), want: "run nodes 5"},
		{name: "more, and the volume of one that was removed is there", m: members(5, "active", "standby", "standby"),
			change: func(m *membership) { m.removed, m.replicas = []int{3}, 4 }, why: "is deleted first"},
		{name: "it is deleted", m: members(5, "active", "standby", "standby"),
			change: func(m *membership) { m.removed = []int{3} }, want: "delete a claim 3"},
		{name: "a claim that is marked and in use", m: members(3, "active", "standby", "standby"),
			change: func(m *membership) { m.removed = []int{2} }},

		{name: "fewer: the peer first", m: members(3, "active", "standby", "standby", "standby", "standby"),
			want: "remove a peer id-4"},
		{name: "then the pod", m: members(3, "active", "standby", "standby", "standby", "removed"),
			change: func(m *membership) { m.nodes[4].Peer, m.voters = "", 4 }, want: "run nodes 4"},
		{name: "also one that never learned of it", m: members(3, "active", "standby", "standby", "standby", "silent"),
			change: func(m *membership) { m.nodes[4].Peer, m.voters = "", 4 }, want: "run nodes 4"},
		{name: "administrators take out several", m: members(3, "active", "standby", "standby", "removed", "standby"),
			change: func(m *membership) { m.refused = true }, want: "refused", why: "may not remove 4"},
		{name: "and it waits for that", m: members(3, "active", "standby", "standby", "standby", "removed"),
			change: func(m *membership) { m.running = 4 }, why: "5 pods are there and 4"},
		{name: "then the volume", m: members(3, "active", "standby", "standby", "standby"),
			change: func(m *membership) { m.removed = []int{4} }, want: "delete a claim 4"},
		{name: "not while its node is counted", m: members(3, "active", "standby", "standby"),
			change: func(m *membership) { m.removed, m.counted = []int{3}, []int{3} }, why: "is deleted first"},
		{name: "not while the peers are not known", m: members(3, "active", "standby", "standby"),
			change: func(m *membership) { m.removed, m.known = []int{3}, false }, why: "is deleted first"},
		{name: "not while nothing tells how many may run", m: members(3, "active", "standby", "standby"),
			change: func(m *membership) { m.removed, m.told = []int{3}, false }, why: "is deleted first"},
		{name: "one that is being deleted is not deleted again", m: members(5, "active", "standby", "standby"),
			change: func(m *membership) { m.removed, m.stuck = []int{3}, map[int]string{3: "it stays"} },
			why:    "first: it stays"},
		{name: "it keeps no node from being healed", m: members(3, "active", "removed", "standby"),
			change: func(m *membership) { m.removed, m.stuck = []int{3}, map[int]string{3: "it stays"} },
			want:   "replace a volume 1"},
		{name: "nor from being taken away", m: members(3, "active", "standby", "standby", "standby"),
			change: func(m *membership) { m.removed, m.stuck = []int{4}, map[int]string{4: "it stays"} },
			want:   "remove a peer id-3"},
		{name: "its node has joined again before it ended", m: members(5, "active", "standby", "standby"),
			change: func(m *membership) {
				m.removed, m.counted, m.away, m.voters = []int{4}, []int{4}, []vaultclient.Peer{{ID: "stale"}}, 4
			}, want: "remove a peer stale"},
		{name: "a pod between others is missing", m: members(3, "active", "standby", "standby", "standby"),
			change: func(m *membership) { m.nodes[3].Ordinal = 4 }, why: "no pod of node 3"},
		{name: "one that joins", m: members(1, "active", "standby", "standby"),
			change: func(m *membership) { m.nodes[2].Peer = "" }, why: "not known to be a peer"},
		{name: "then the next", m: members(3, "active", "standby", "standby", "standby"), want: "remove a peer id-3"},
		{name: "one of two", m: members(1, "active", "standby"), want: "remove a peer id-1"},
		{name: "the leader steps down", m: members(1, "standby", "standby", "active"), want: "step down 2"},
		{name: "a dead one", m: members(1, "active", "standby", "silent"), want: "remove a peer id-2"},
		{name: "another is sealed", m: members(1, "active", "sealed", "standby"), why: "1 nodes would be"},
		{name: "another is behind", m: members(1, "active", "standby behind", "standby"), why: "1 nodes would be"},
		{name: "nobody is active", m: members(1, "standby", "standby", "standby"), why: "0 nodes say"},
		{name: "a pod is going", m: members(1, "active", "standby going", "standby"), why: "1 is being deleted"},
		{name: "a peer that is no node votes", m: members(3, "active", "standby", "sealed", "standby", "standby"),
			change: func(m *membership) { m.voters = 7 }, why: "4 are needed"},
		{name: "not authorized", m: members(1, "active", "standby", "standby"),
			change: func(m *membership) { m.known, m.refused = false, true }, want: "refused", why: "may not remove 2"},
		{name: "somebody has removed it", m: members(1, "active", "standby", "removed"),
			change: func(m *membership) { m.known, m.refused = false, true }, want: "run nodes 2"},
		{name: "the peers are not known", m: members(1, "active", "standby", "removed"),
			change: func(m *membership) { m.known = false }, why: "has not told its peers"},
		{name: "not initialized", m: members(1, "uninitialized", "uninitialized", "uninitialized"),
			change: func(m *membership) { m.known, m.founded = false, false }, want: "run nodes 2"},
		{name: "initialized a moment ago", m: members(1, "sealed", "uninitialized", "uninitialized"),
			change: func(m *membership) { m.known, m.founded = false, false }, why: "has not told its peers"},

		{name: "one was removed", m: members(3, "active", "removed", "standby"), want: "replace a volume 1"},
		{name: "and the peers are not known", m: members(3, "active", "removed", "standby"),
			change: func(m *membership) { m.known = false }, want: "replace a volume 1"},
		{name: "a moment after it was replaced", m: members(3, "active", "removed", "standby"),
			change: func(m *membership) { m.nodes[1].Old = false }},
		{name: "without a majority of others", m: members(3, "active", "removed", "sealed")},
		{name: "it is the only one", m: members(1, "removed")},
		{name: "more vote than there are nodes", m: members(3, "active", "removed", "standby"),
			change: func(m *membership) { m.voters = 5 }},
		{name: "two were removed: one at a time", m: members(5, "active", "removed", "standby", "standby", "removed"),
			want: "replace a volume 1"},
		{name: "one is no peer", m: members(3, "active", "standby", "standby"),
			change: func(m *membership) { m.nodes[2].Ghost, m.nodes[2].Peer = true, "" }, want: "replace a volume 2"},
		{name: "one has lost its volume", m: members(3, "active", "standby", "down"),
			change: func(m *membership) { m.nodes[2].VolumeLost = true }, want: "replace a volume 2"},
		{name: "one that is to go is not healed", m: members(1, "active", "standby", "removed"),
			want: "remove a peer id-2"},
		{name: "another is healed first", m: members(3, "active", "removed", "standby", "standby", "standby"),
			want: "replace a volume 1"},

		{name: "a peer without a node", m: members(3, "active", "standby", "standby"), change: func(m *membership) {
			m.away, m.voters = []vaultclient.Peer{{ID: "stale"}}, 4
		}, want: "remove a peer stale"},
		{name: "it leads", m: members(3, "active", "standby", "standby"), change: func(m *membership) {
			m.away, m.voters = []vaultclient.Peer{{ID: "stale", Leader: true}}, 4
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(&tt.m)
			}
			d := decideMembers(tt.m)
			got := string(d.Do)
			switch d.Do {
			case run:
				got += fmt.Sprint(" ", d.Running)
			case removePeer:
				got += " " + d.Peer
			case "":
				if d.Refused {
					got = "refused"
				}
			default:
				got += fmt.Sprint(" ", d.Ordinal)
			}
			if got != tt.want || !strings.Contains(d.Why, tt.why) || tt.want == "" && (d.Why != "") != (tt.why != "") {
				t.Errorf("decideMembers() = %+v, want %q", d, tt.want)
			}
		})
	}
}

// FuzzDecideMembers checks what must be true of each change, whatever the nodes say.
func FuzzDecideMembers(f *testing.F) {
	f.Add([]byte{0x61, 0x51, 0x51}, []byte{3, 3, 3}, 1, 3, 3, byte(0xff), byte(1))
	f.Add([]byte{0x61, 0x51, 0x41, 0x51, 0x51}, []byte{3, 3, 9, 3, 3}, 3, 5, 5, byte(0xff), byte(1))
	f.Fuzz(func(t *testing.T, states, facts []byte, wanted, running, replicas int, settled, flags byte) {
		if len(states) > 7 || len(facts) < len(states) || wanted < 1 || wanted > 7 || running < 1 || running > 7 ||
			replicas < 0 || replicas > 7 {
			return
		}
		m := membership{wanted: wanted, running: running, replicas: replicas, known: flags&1 != 0, refused: flags&2 != 0,
			founded: flags&4 != 0, voters: int(flags >> 5), told: settled&128 == 0}
		if flags&8 != 0 {
			m.removed = []int{int(settled) % 8}
		}
		if flags&16 != 0 {
			m.away = []vaultclient.Peer{{ID: "away"}}
		}
		for i, b := range states {
			n := node{
				Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Ordinal: i, CaughtUp: b&1 != 0, Down: b&2 != 0,
				Terminating: b&4 != 0, Removed: b&8 != 0, State: probe.State(b>>4&7) % (probe.Active + 1),
				Settled: settled>>i&1 != 0, Leader: facts[i]&2 != 0, Ghost: facts[i]&4 != 0, VolumeLost: facts[i]&8 != 0,
				Old: facts[i]&16 != 0,
			}
			if facts[i]&1 != 0 {
				n.Peer = fmt.Sprint("id-", i)
			}
			m.nodes = append(m.nodes, n)
		}
		d := decideMembers(m)
		switch d.Do {
		case "", deleteClaim:
			if d.Do == deleteClaim && (d.Ordinal < m.running || d.Ordinal < m.replicas || d.Ordinal < len(m.nodes)) {
				t.Errorf("%+v deletes a claim in use of %+v", d, m)
			}
			return
		case run:
			if d.Running < m.running-1 || d.Running < m.wanted || d.Running > max(m.running, m.wanted) {
				t.Errorf("%+v of %+v", d, m)
			}
			return
		}
		active, reliable, going := 0, 0, len(m.nodes) != m.running || m.replicas != m.running
		for i := range m.nodes {
			n := &m.nodes[i]
			going = going || n.Terminating
			if n.State == probe.Active {
				active++
			}
			if n.Ordinal != d.Ordinal && n.reliable() {
				reliable++
			}
		}
		switch {
		case active != 1, going, reliable < (m.running-1)/2+1:
			t.Errorf("%+v with %d active and %d reliable others of %+v", d, active, reliable, m)
		case d.Do == removePeer && !m.known:
			t.Errorf("%+v though the peers are not known: %+v", d, m)
		case (d.Do == removePeer || d.Do == replaceVolume) && d.Ordinal >= 0 &&
			(m.nodes[d.Ordinal].State == probe.Active || m.nodes[d.Ordinal].Leader):
			t.Errorf("%+v takes the active node of %+v", d, m)
		case d.Do == replaceVolume && reliable < m.running/2+1:
			t.Errorf("%+v leaves no majority of %+v", d, m)
		}
	})
}
