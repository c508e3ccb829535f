package rollout

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// parse reads nodes as "old active", "new standby behind": one for each word list, with the
// names 0, 1 and so on.
func parse(text ...string) []node {
	var nodes []node
	for i, words := range text {
		n := node{Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Ordinal: i, CaughtUp: true, Settled: true, Ready: true}
		for _, word := range strings.Fields(words) {
			switch word {
			case "old":
			case "new":
				n.Updated = true
			case "active":
				n.State = probe.Active
			case "standby":
				n.State = probe.Standby
			case "sealed":
				n.State, n.CaughtUp = probe.Sealed, false
			case "uninitialized":
				n.State, n.CaughtUp = probe.Uninitialized, false
			case "silent":
				n.State, n.CaughtUp = probe.Unreachable, false
			case "unverified":
				n.State, n.CaughtUp = probe.Unverified, false
			case "unknown":
				n.State, n.CaughtUp = probe.Unknown, false
			case "joined":
				n.Settled = false
			case "unready":
				n.Ready = false
			case "behind":
				n.CaughtUp = false
			case "down":
				n.Down, n.CaughtUp = true, false
			case "going":
				n.Terminating = true
			case "removed":
				n.State, n.Removed, n.CaughtUp = probe.Sealed, true, false
			default:
				panic(word)
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func TestDecide(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nodes []node
		// voters is how many vote, if more than there are nodes.
		voters int
		// wanted is the number of nodes, by default that of those there are.
		wanted int
		delete string
		done   bool
		why    string
	}{
		{name: "nothing to do", nodes: parse("new active", "new standby", "new standby"), done: true},
		{name: "nothing to do, and one is sealed", nodes: parse("new active", "new sealed", "new standby"), done: true},
		{name: "the standby of the highest number first", nodes: parse("old active", "old standby", "old standby"),
			delete: "2"},
		{name: "though it has a lower number than the active one",
			nodes: parse("old standby", "old standby", "old active"), delete: "1"},
		{name: "then the next", nodes: parse("old active", "old standby", "new standby"), delete: "1"},
		{name: "the active one last", nodes: parse("old active", "new standby", "new standby"), delete: "0"},
		{name: "and not before the others are ready", nodes: parse("old active", "new standby", "new standby unready"),
			why: "2 is not ready"},
		{name: "and neither does a standby", nodes: parse("old active", "old standby", "new standby unready"),
			why: "2 is not ready"},
		{name: "but one that does not vote", nodes: parse("old active", "old sealed", "old standby unready"), delete: "1"},
		{name: "nor for the active one itself", nodes: parse("old active unready", "new standby", "new standby"),
			delete: "0"},
		{name: "one that is sealed before", nodes: parse("old active", "old sealed", "old standby"), delete: "1"},
		{name: "one that is down before", nodes: parse("old active", "old down", "old standby"), delete: "1"},
		{name: "one that is removed before", nodes: parse("old active", "old standby", "old removed"), delete: "2"},

		{name: "the updated one waits to be unsealed", nodes: parse("old active", "old standby", "new sealed"),
			why: "the updated node 2"},
		{name: "it waits to join", nodes: parse("old active", "old standby", "new uninitialized"), why: "the updated node 2"},
		{name: "it is behind", nodes: parse("old active", "old standby", "new standby behind"), why: "the updated node 2"},
		{name: "it cannot start", nodes: parse("old active", "old standby", "new down"), why: "the updated node 2"},
		{name: "it does not answer", nodes: parse("old active", "old standby", "new silent"), why: "the updated node 2"},
		{name: "it was removed", nodes: parse("old active", "old standby", "new removed"), why: "the updated node 2"},
		{name: "the template is set back, and the one that failed goes",
			nodes: parse("new active", "new standby", "old down"), delete: "2"},
		{name: "the template is fixed, and the one that failed goes first",
			nodes: parse("old active", "old standby", "old sealed"), delete: "2"},
		{name: "the last one is sealed", nodes: parse("new active", "new sealed", "old standby"), why: "the updated node 1"},

		{name: "all are sealed: one, to see whether it works", nodes: parse("old sealed", "old sealed", "old sealed"),
			delete: "2"},
		{name: "and then it waits", nodes: parse("old sealed", "old sealed", "new sealed"), why: "the updated node 2"},
		{name: "not initialized yet", nodes: parse("old uninitialized", "old uninitialized", "old uninitialized"),
			delete: "2"},

		{name: "a majority would be lost",
			nodes: parse("old active", "old standby behind", "new standby", "old silent", "old silent"),
			why:   "without 4 2 nodes would be unsealed"},
		{name: "another is behind", nodes: parse("old active", "old standby behind", "old standby"),
			why: "without 2 1 nodes"},
		{name: "of five one may be behind", nodes: parse("old active", "old standby behind", "old standby", "old standby",
			"old standby"), delete: "4"},
		{name: "nobody is active", nodes: parse("old standby", "old standby", "old standby"), why: "0 nodes say"},
		{name: "two say that they are", nodes: parse("old active", "old active", "old standby"), why: "2 nodes say"},
		{name: "one that was not probed yet may vote", nodes: parse("old active", "old unknown", "old sealed"), delete: "2"},
		{name: "and is not relied on", nodes: parse("old unknown", "old active", "old standby"), why: "without 2 1 nodes"},
		{name: "nor is one that is unverified", nodes: parse("old active", "old unverified", "old standby"),
			why: "without 2 1 nodes"},
		{name: "one that hangs goes when the others can do without",
			nodes: parse("old active", "new standby", "old silent"), delete: "2"},

		{name: "more vote than there are nodes", nodes: parse("old active", "old standby", "old standby"), voters: 5,
			why: "3 are needed"},

		{name: "a pod is missing", nodes: parse("old active", "old standby"), wanted: 3, why: "2 of 3 pods"},
		{name: "a pod too many", nodes: parse("old active", "old standby", "old standby", "old standby"), wanted: 3,
			why: "4 of 3 pods"},
		{name: "a pod is going", nodes: parse("old active", "old standby", "old standby going"), why: "2 is being deleted"},

		{name: "the only one", nodes: parse("old active"), delete: "0"},
		{name: "the only one, sealed", nodes: parse("old sealed"), delete: "0"},
		{name: "the only one, silent", nodes: parse("old silent"), delete: "0"},
		{name: "two have just joined the only one that votes", nodes: parse("old active", "new standby joined",
			"new standby joined"), why: "has just joined"},
		{name: "one that was replaced by hand has just joined", nodes: parse("old active", "old standby joined",
			"old standby"), why: "2 are needed"},
		{name: "it says that it is unsealed, and Kubernetes that it is down", nodes: parse("old active", "old sealed",
			"old standby down"), delete: "1"},
		{name: "the only one, updated", nodes: parse("new sealed"), done: true},
		{name: "no pods", done: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.wanted == 0 {
				tt.wanted = len(tt.nodes)
			}
			got := decide(tt.nodes, tt.wanted, tt.voters)
			if string(got.Delete) != tt.delete || got.Done != tt.done || !strings.Contains(got.Why, tt.why) ||
				(got.Why != "") != (tt.why != "") {
				t.Errorf("decide() = %+v", got)
			}
		})
	}
}

// FuzzDecide checks what must be true of each decision, whatever the nodes say.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{0x61, 0x51, 0x51}, 3, byte(0x7f), byte(0x7f))
	f.Add([]byte{0x61, 0xd1, 0xc1}, 3, byte(0x7f), byte(0x7f))
	f.Add([]byte{0x60, 0x50, 0x50, 0x40, 0x10}, 5, byte(0x55), byte(0x02))
	f.Fuzz(func(t *testing.T, bytes []byte, wanted int, settled, ready byte) {
		if len(bytes) > 7 || wanted < 1 || wanted > 7 {
			return
		}
		var nodes []node
		for i, b := range bytes {
			nodes = append(nodes, node{
				Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Ordinal: i,
				CaughtUp: b&1 != 0, Down: b&2 != 0, Terminating: b&4 != 0, Removed: b&8 != 0,
				State: probe.State(b>>4&7) % (probe.Active + 1), Updated: b&128 != 0,
				Settled: settled>>i&1 != 0, Ready: ready>>i&1 != 0,
			})
		}
		d := decide(nodes, wanted, 0)
		var old, going, reliable, updatedAndNot int
		var chosen *node
		for i := range nodes {
			n := &nodes[i]
			if !n.Updated {
				old++
			}
			if n.Terminating {
				going++
			}
			if n.Updated && !n.reliable() {
				updatedAndNot++
			}
			if n.UID == d.Delete {
				chosen = n
			} else if n.reliable() {
				reliable++
			}
		}
		if d.Done != (old == 0) || !d.Done && (d.Delete != "") == (d.Why != "") {
			t.Fatalf("%+v of %+v", d, nodes)
		}
		if chosen == nil {
			return
		}
		mayVote := chosen.unsealed() || !chosen.Down && chosen.State != probe.Sealed && chosen.State != probe.Uninitialized
		switch {
		case chosen.Updated:
			t.Errorf("a pod of the newest template is deleted: %+v of %+v", d, nodes)
		case len(nodes) != wanted || going > 0 || updatedAndNot > 0:
			t.Errorf("%+v, while something is under way: %+v", d, nodes)
		case mayVote && wanted > 1 && reliable < wanted/2+1:
			t.Errorf("%+v leaves no majority of %+v", d, nodes)
		}
		for _, n := range nodes {
			if chosen.State == probe.Active && mayVote && !n.Updated && n.UID != chosen.UID {
				t.Errorf("%+v: the active node is not the last of %+v", d, nodes)
			}
			if mayVote && wanted > 1 && !n.Ready && n.UID != chosen.UID && n.reliable() {
				t.Errorf("%+v: clients cannot go to another one yet: %+v", d, nodes)
			}
		}
	})
}
