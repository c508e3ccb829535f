package members

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// parse reads members as "old leader", "new unready": one for each word list, with the names
// 0, 1 and so on.
func parse(text ...string) []member {
	var members []member
	for i, words := range text {
		m := member{Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Ordinal: i, Ready: true, Sound: true}
		for _, word := range strings.Fields(words) {
			switch word {
			case "old":
			case "new":
				m.Updated = true
			case "leader":
				m.Leader = true
			case "unready":
				m.Ready = false
			case "learner", "corrupt", "silent":
				m.Sound = false
			case "down":
				m.Down, m.Ready, m.Sound = true, false, false
			case "going":
				m.Terminating = true
			default:
				panic(word)
			}
		}
		members = append(members, m)
	}
	return members
}

func TestDecide(t *testing.T) {
	for _, tt := range []struct {
		name    string
		members []member
		// wanted is the number of members, by default that of those there are.
		wanted int
		delete string
		done   bool
		why    string
	}{
		{name: "nothing to do", members: parse("new leader", "new", "new"), done: true},
		{name: "nothing to do, and one is not ready", members: parse("new leader", "new down", "new"), done: true},
		{name: "the highest number first", members: parse("old leader", "old", "old"), delete: "2"},
		{name: "though the leader has it", members: parse("old", "old", "old leader"), delete: "1"},
		{name: "then the next", members: parse("old leader", "old", "new"), delete: "1"},
		{name: "the leader last", members: parse("old leader", "new", "new"), delete: "0"},
		{name: "one that is not ready before", members: parse("old leader", "old unready", "old"), delete: "1"},
		{name: "one that is down before that", members: parse("old leader", "old", "old unready", "old down", "old"),
			delete: "3"},

		{name: "the updated one starts", members: parse("old leader", "old", "new unready"), why: "2 is not ready"},
		{name: "it does not start", members: parse("old leader", "old", "new down"), why: "2 has not started"},
		{name: "nor do others", members: parse("old leader", "old down", "new down"), why: "2 has not started"},
		{name: "the template is set back, and the one that failed goes",
			members: parse("new leader", "new", "old down"), delete: "2"},
		{name: "the template is fixed, and the one that failed goes first",
			members: parse("old leader", "old", "old down"), delete: "2"},
		{name: "another is not ready", members: parse("old leader", "old unready", "new"), delete: "1"},
		{name: "another of five is not ready, and goes", members: parse("old leader", "old", "old unready", "new", "new"),
			delete: "2"},
		{name: "an updated one is not ready", members: parse("old leader", "new unready", "old", "old", "old"),
			why: "1 is not ready"},

		{name: "another is a learner", members: parse("old leader", "old learner", "old"), why: "1 does not say"},
		{name: "a learner goes as the others do", members: parse("old leader", "old", "old learner"), delete: "2"},
		{name: "one has found other data", members: parse("old leader corrupt", "old", "old"), why: "0 does not say"},
		{name: "one does not tell", members: parse("old leader", "old silent", "old"), why: "1 does not say"},
		{name: "nobody leads", members: parse("old", "old", "old"), why: "0 members say"},
		{name: "two lead", members: parse("old leader", "old leader", "old"), why: "2 members say"},
		{name: "the quorum is lost", members: parse("old", "old unready", "old unready"),
			why: "without 2 1 members would be ready"},

		{name: "none starts: one, to see whether it works", members: parse("old down", "old down", "old down"),
			delete: "2"},
		{name: "it runs, and waits for the others", members: parse("old down", "old down", "new unready"), delete: "1"},
		{name: "it does not", members: parse("old down", "old down", "new down"), why: "2 has not started"},

		{name: "a pod is missing", members: parse("old leader", "old"), wanted: 3, why: "2 of 3 pods"},
		{name: "a pod too many", members: parse("old leader", "old", "old", "old"), wanted: 3, why: "4 of 3 pods"},
		{name: "a pod is going", members: parse("old leader", "old", "old going"), why: "2 is being deleted"},

		{name: "the only one", members: parse("old leader"), delete: "0"},
		{name: "the only one, down", members: parse("old down"), delete: "0"},
		{name: "the only one, silent", members: parse("old silent"), delete: "0"},
		{name: "the only one, updated", members: parse("new down"), done: true},
		{name: "no pods", done: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.wanted == 0 {
				tt.wanted = len(tt.members)
			}
			got := decide(tt.members, tt.wanted)
			if string(got.Delete) != tt.delete || got.Done != tt.done || !strings.Contains(got.Why, tt.why) ||
				(got.Why != "") != (tt.why != "") {
				t.Errorf("decide() = %+v", got)
			}
		})
	}
}

// FuzzDecide checks what must be true of each decision, whatever is known.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{0x38, 0x18, 0x18}, 3)
	f.Add([]byte{0x38, 0x19, 0x02}, 3)
	f.Add([]byte{0x38, 0x18, 0x10, 0x00, 0x19}, 5)
	f.Fuzz(func(t *testing.T, bytes []byte, wanted int) {
		if len(bytes) > 7 || wanted < 1 || wanted > 7 {
			return
		}
		var members []member
		for i, b := range bytes {
			members = append(members, member{
				Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Ordinal: i, Updated: b&1 != 0, Down: b&2 != 0,
				Terminating: b&4 != 0, Ready: b&8 != 0, Sound: b&16 != 0, Leader: b&32 != 0,
			})
		}
		d := decide(members, wanted)
		var old, going, reliable, bad, notReliable int
		var chosen *member
		for i := range members {
			m := &members[i]
			if !m.Updated {
				old++
			}
			if m.Terminating {
				going++
			}
			if m.Updated && m.Down {
				bad++
			}
			switch {
			case m.UID == d.Delete:
				chosen = m
			case m.reliable():
				reliable++
			default:
				notReliable++
			}
		}
		if d.Done != (old == 0) || !d.Done && (d.Delete != "") == (d.Why != "") {
			t.Fatalf("%+v of %+v", d, members)
		}
		if chosen == nil {
			return
		}
		switch {
		case chosen.Updated:
			t.Errorf("a pod of the newest template is deleted: %+v of %+v", d, members)
		case len(members) != wanted || going > 0 || bad > 0:
			t.Errorf("%+v, while something is under way: %+v", d, members)
		case !chosen.Down && wanted > 1 && reliable < wanted/2+1:
			t.Errorf("%+v leaves no quorum of %+v", d, members)
		case !chosen.Down && chosen.Ready && wanted > 1 && notReliable > 0:
			t.Errorf("%+v, while another is away: %+v", d, members)
		}
		for _, m := range members {
			if chosen.Leader && chosen.Ready && !chosen.Down && !m.Updated && !m.Leader && m.UID != chosen.UID {
				t.Errorf("%+v: the leader is not the last of %+v", d, members)
			}
		}
	})
}
