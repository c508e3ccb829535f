package routing

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

var allStates = []probe.State{
	probe.Unknown, probe.Unreachable, probe.Uninitialized, probe.Sealed, probe.Standby, probe.Active,
}

// everyNode returns a node in every condition that it can be in.
func everyNode(uid types.UID) []Node {
	var all []Node
	for _, state := range allStates {
		for _, labelled := range []bool{false, true} {
			for _, age := range []Node{{}, {Starting: true}, {Leaving: true}} {
				node := Node{UID: uid, State: state, Labelled: labelled, Starting: age.Starting, Leaving: age.Leaving}
				all = append(all, node)
				if state == probe.Unreachable {
					node.Connected = true
					all = append(all, node)
				}
			}
		}
	}
	return all
}

// everyVault calls visit with every combination of up to three nodes.
func everyVault(visit func(nodes []Node)) {
	var extend func(nodes []Node, more int)
	extend = func(nodes []Node, more int) {
		visit(nodes)
		if more == 0 {
			return
		}
		for _, node := range everyNode(types.UID(fmt.Sprintf("pod-%d", len(nodes)))) {
			extend(append(slices.Clone(nodes), node), more-1)
		}
	}
	extend(nil, 3)
}

// TestDecideInvariants asserts what must hold in every situation of a Vault
// with up to three nodes.
func TestDecideInvariants(t *testing.T) {
	situations := 0
	everyVault(func(nodes []Node) {
		situations++
		d := Decide(nodes)
		for _, violated := range []string{
			labelsOnlyChangeWhereNeeded(nodes, d),
			promotesOnlyTheOneActive(nodes, d),
			neverTwoInTheService(nodes, d),
			missingFactsChangeNothing(nodes, d),
			deadAndDemotedLoseTheLabel(nodes, d),
			isStable(nodes, d),
			dependsOnNothingElse(nodes, d),
			asksFastWhileTheActiveIsNotKnown(nodes, d),
		} {
			if violated != "" {
				t.Errorf("%s\n nodes %+v\n decision %+v", violated, nodes, d)
			}
		}
		if t.Failed() {
			t.FailNow() // one counterexample is enough to read
		}
	})
	if want := 1 + 42 + 42*42 + 42*42*42; situations != want {
		t.Errorf("looked at %d situations, want %d", situations, want)
	}
}

func labelsOnlyChangeWhereNeeded(nodes []Node, d Decision) string {
	seen := map[types.UID]bool{}
	for _, uid := range d.Demote {
		node := find(nodes, uid)
		switch {
		case node == nil:
			return "demotes a pod that is not there"
		case !node.Labelled:
			return "demotes a pod without the label"
		case node.Leaving:
			return "demotes a pod that is being deleted"
		case seen[uid]:
			return "demotes a pod twice"
		}
		seen[uid] = true
	}
	if d.Promote == "" {
		return ""
	}
	switch node := find(nodes, d.Promote); {
	case node == nil:
		return "promotes a pod that is not there"
	case node.Labelled:
		return "promotes a pod that has the label"
	case seen[d.Promote]:
		return "demotes and promotes the same pod"
	}
	return ""
}

func promotesOnlyTheOneActive(nodes []Node, d Decision) string {
	if d.Promote == "" {
		return ""
	}
	if find(nodes, d.Promote).State != probe.Active {
		return "promotes a node that did not say that it is active"
	}
	if count(nodes, isClaimant) > 1 {
		return "promotes although two nodes say that they are active"
	}
	if count(nodes, isClaimant) == 1 && find(nodes, d.Promote).Leaving {
		return "promotes a pod that is being deleted although another is active"
	}
	return ""
}

// neverTwoInTheService follows the labels patch by patch, since the operator can
// die after any of them.
func neverTwoInTheService(nodes []Node, d Decision) string {
	for patches := 0; patches <= len(d.Demote)+1; patches++ {
		after := apply(nodes, d, patches)
		before, now := count(nodes, isReady), count(after, isReady)
		if now > max(before, 1) {
			return fmt.Sprintf("after %d patches more pods are in the Service than before", patches)
		}
		if patches > len(d.Demote) && d.Promote != "" && now > 1 {
			return "another pod is in the Service beside the promoted one"
		}
	}
	after := apply(nodes, d, len(d.Demote)+1)
	// With a labelled pod that was not asked, or with no answer at all, nothing
	// tells which of two labels is the right one.
	if count(nodes, isUndecided) == 0 && count(nodes, hasAnswered) > 0 && count(after, isReady) > 1 {
		return "leaves two pods in the Service although the facts are known"
	}
	return ""
}

func missingFactsChangeNothing(nodes []Node, d Decision) string {
	answered := count(nodes, hasAnswered) > 0
	if !answered && d.Promote != "" {
		return "promotes a node although none has answered"
	}
	for _, uid := range d.Demote {
		switch node := find(nodes, uid); {
		case node.State == probe.Unknown:
			return "demotes a pod that was not asked"
		case !answered && (node.Connected || count(nodes, isConnected) == 0):
			return "demotes a pod although no node has answered"
		}
	}
	return ""
}

func deadAndDemotedLoseTheLabel(nodes []Node, d Decision) string {
	claimants := count(nodes, isClaimant)
	for _, node := range nodes {
		if !isReady(node) || node.State == probe.Unknown {
			continue
		}
		if count(nodes, hasAnswered) == 0 {
			lost := !node.Connected && count(nodes, isConnected) > 0
			if lost && !slices.Contains(d.Demote, node.UID) {
				return fmt.Sprintf("pod %s is lost and keeps its label", node.UID)
			}
			continue
		}
		rightful := node.State == probe.Active && claimants == 1
		if demoted := slices.Contains(d.Demote, node.UID); demoted == rightful {
			return fmt.Sprintf("pod %s is rightful %v, demoted %v", node.UID, rightful, demoted)
		}
	}
	// The other half: the rightful one is not left out.
	if claimants == 1 && count(nodes, isUndecided) == 0 && count(apply(nodes, d, len(d.Demote)+1), func(n Node) bool {
		return isReady(n) && n.State == probe.Active
	}) != 1 {
		return "does not promote the only active node"
	}
	return ""
}

func isStable(nodes []Node, d Decision) string {
	// Begin again after each patch: what remains is done, and nothing else.
	want := apply(nodes, d, len(d.Demote)+1)
	for patches := 0; patches <= len(d.Demote)+1; patches++ {
		after := apply(nodes, d, patches)
		rest := Decide(after)
		if got := apply(after, rest, len(rest.Demote)+1); !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("another result after an interruption after %d patches: %+v, want %+v", patches, got, want)
		}
	}
	if again := Decide(want); len(again.Demote) > 0 || again.Promote != "" {
		return fmt.Sprintf("is not done after it was applied: %+v", again)
	}
	return ""
}

func dependsOnNothingElse(nodes []Node, d Decision) string {
	if again := Decide(nodes); !reflect.DeepEqual(again, d) {
		return fmt.Sprintf("decides differently the second time: %+v", again)
	}
	backwards := slices.Clone(nodes)
	slices.Reverse(backwards)
	other := Decide(backwards)
	slices.Sort(other.Demote)
	sorted := slices.Clone(d.Demote)
	slices.Sort(sorted)
	if !slices.Equal(other.Demote, sorted) || other.Promote != d.Promote || other.ExpectChange != d.ExpectChange {
		return fmt.Sprintf("depends on the order of the nodes: %+v", other)
	}
	return ""
}

func asksFastWhileTheActiveIsNotKnown(nodes []Node, d Decision) string {
	unsealed := count(nodes, func(n Node) bool { return n.State == probe.Active || n.State == probe.Standby })
	young := count(nodes, func(n Node) bool { return n.Starting && !n.State.Answered() })
	switch {
	case unsealed > 0 && count(nodes, isClaimant) != 1 && !d.ExpectChange:
		return "does not ask fast while it looks for the active node"
	case count(nodes, isUndecided) > 0 && !d.ExpectChange:
		return "does not ask fast while a labelled pod was not asked"
	case unsealed == 0 && young == 0 && count(nodes, isUndecided) == 0 && d.ExpectChange:
		return "asks fast although only people can change something"
	case count(nodes, isClaimant) == 1 && young == 0 && count(nodes, isUndecided) == 0 && d.ExpectChange:
		return "asks fast although the active node is known"
	}
	return ""
}

// isReady says that the Service sends requests to the node.
func isReady(n Node) bool     { return n.Labelled && !n.Leaving }
func isClaimant(n Node) bool  { return n.State == probe.Active && !n.Leaving }
func hasAnswered(n Node) bool { return n.State.Answered() }
func isConnected(n Node) bool { return n.Connected }
func isUndecided(n Node) bool { return isReady(n) && n.State == probe.Unknown }

func count(nodes []Node, is func(Node) bool) int {
	result := 0
	for _, node := range nodes {
		if is(node) {
			result++
		}
	}
	return result
}

func find(nodes []Node, uid types.UID) *Node {
	for i := range nodes {
		if nodes[i].UID == uid {
			return &nodes[i]
		}
	}
	return nil
}

// apply returns the nodes after the first patches of the decision.
func apply(nodes []Node, d Decision, patches int) []Node {
	after := slices.Clone(nodes)
	for i, uid := range d.Demote {
		if i < patches {
			find(after, uid).Labelled = false
		}
	}
	if patches > len(d.Demote) && d.Promote != "" {
		find(after, d.Promote).Labelled = true
	}
	return after
}

// TestDecide names situations, many of which went wrong in other operators.
func TestDecide(t *testing.T) {
	node := func(uid string, state probe.State) Node { return Node{UID: types.UID(uid), State: state} }
	labelled := func(uid string, state probe.State) Node {
		return Node{UID: types.UID(uid), State: state, Labelled: true}
	}
	starting := func(uid string, state probe.State) Node {
		return Node{UID: types.UID(uid), State: state, Starting: true}
	}
	connected := func(uid string) Node {
		return Node{UID: types.UID(uid), State: probe.Unreachable, Connected: true}
	}
	leaving := func(uid string, state probe.State) Node {
		return Node{UID: types.UID(uid), State: state, Labelled: true, Leaving: true}
	}
	tests := []struct {
		name  string
		nodes []Node
		want  Decision
	}{
		{name: "no pods"},
		{
			name:  "the first active node gets the label",
			nodes: []Node{node("a", probe.Sealed), node("b", probe.Active)},
			want:  Decision{Promote: "b"},
		},
		{
			name:  "nothing is done at rest",
			nodes: []Node{labelled("a", probe.Active), node("b", probe.Standby), node("c", probe.Sealed)},
		},
		{
			name:  "a graceful change demotes the old before it promotes the new",
			nodes: []Node{labelled("a", probe.Standby), node("b", probe.Active)},
			want:  Decision{Demote: []types.UID{"a"}, Promote: "b"},
		},
		{
			name:  "an active node that stepped down leaves before another is found",
			nodes: []Node{labelled("a", probe.Standby), node("b", probe.Standby)},
			want:  Decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "an active node that was sealed leaves at once",
			nodes: []Node{labelled("a", probe.Sealed), node("b", probe.Standby)},
			want:  Decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "all nodes are sealed: people are waited for, not asked for in a burst",
			nodes: []Node{node("a", probe.Sealed), node("b", probe.Uninitialized)},
		},
		{
			name:  "hashicorp/vault#18117: two pods say that they are active, neither is served",
			nodes: []Node{labelled("a", probe.Active), node("b", probe.Active)},
			want:  Decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "hashicorp/vault#18117: two pods have the label, the one that is standby loses it",
			nodes: []Node{labelled("a", probe.Standby), labelled("b", probe.Active)},
			want:  Decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "hashicorp/vault#21642: a hung leader is taken out as soon as another node answers",
			nodes: []Node{labelled("a", probe.Unreachable), node("b", probe.Standby)},
			want:  Decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "hashicorp/vault-helm#318: the Service follows an election when the old leader is gone",
			nodes: []Node{labelled("a", probe.Unreachable), node("b", probe.Active)},
			want:  Decision{Demote: []types.UID{"a"}, Promote: "b"},
		},
		{
			name:  "coreos/vault-operator#344: an unreachable node is not acted on when nobody answers",
			nodes: []Node{labelled("a", probe.Unreachable), node("b", probe.Unreachable)},
		},
		{
			name:  "coreos/vault-operator#344: nor while the operator has only just started",
			nodes: []Node{labelled("a", probe.Unknown), node("b", probe.Unknown)},
			want:  Decision{ExpectChange: true},
		},
		{
			name:  "coreos/vault-operator#321: a stale active name does not stay when another node answers",
			nodes: []Node{labelled("a", probe.Unreachable), node("b", probe.Sealed)},
			want:  Decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "coreos/vault-operator#321: the pod that was active is gone, and nobody is active instead",
			nodes: []Node{node("b", probe.Standby), node("c", probe.Standby)},
			want:  Decision{ExpectChange: true},
		},
		{
			name:  "hashicorp/vault-helm#326: an active node without the label gets it, whatever its pod says of itself",
			nodes: []Node{node("a", probe.Active), node("b", probe.Standby)},
			want:  Decision{Promote: "a"},
		},
		{
			name:  "hashicorp/vault-helm#430: a sealed node is not served beside the active one",
			nodes: []Node{labelled("a", probe.Sealed), labelled("b", probe.Active)},
			want:  Decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "hashicorp/vault-helm#817: nor is one that has yet to be initialized or to start",
			nodes: []Node{labelled("a", probe.Uninitialized), labelled("b", probe.Unreachable), labelled("c", probe.Active)},
			want:  Decision{Demote: []types.UID{"a", "b"}},
		},
		{
			name:  "hashicorp/vault#17470: a node that comes back sealed changes nothing",
			nodes: []Node{labelled("a", probe.Active), node("b", probe.Sealed), node("c", probe.Standby)},
		},
		{
			name:  "cloudnative-pg/cloudnative-pg#10409: the label is taken away when the failover begins, not when it ends",
			nodes: []Node{labelled("a", probe.Unreachable), node("b", probe.Standby), node("c", probe.Standby)},
			want:  Decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "cloudnative-pg/cloudnative-pg#10409: an old active node that returns with its claim is not served",
			nodes: []Node{node("a", probe.Active), labelled("b", probe.Active)},
			want:  Decision{Demote: []types.UID{"b"}, ExpectChange: true},
		},
		{
			name:  "bank-vaults/vault-operator: the leader is found although the first pod does not answer",
			nodes: []Node{node("a", probe.Unreachable), node("b", probe.Unreachable), node("c", probe.Active)},
			want:  Decision{Promote: "c"},
		},
		{
			name:  "dc-tec/openbao-operator: of two labels the last is not simply believed",
			nodes: []Node{labelled("a", probe.Active), labelled("b", probe.Standby)},
			want:  Decision{Demote: []types.UID{"b"}},
		},
		{
			name:  "an active node waits for a labelled one that was not asked yet",
			nodes: []Node{labelled("a", probe.Unknown), node("b", probe.Active)},
			want:  Decision{ExpectChange: true},
		},
		{
			name:  "a frozen leader that woke up as a standby does not get its label back",
			nodes: []Node{node("a", probe.Standby), labelled("b", probe.Active)},
		},
		{
			name:  "a standby that does not answer changes nothing",
			nodes: []Node{labelled("a", probe.Active), node("b", probe.Standby), node("c", probe.Unreachable)},
		},
		{
			name:  "a pod that starts is asked in a burst",
			nodes: []Node{labelled("a", probe.Active), starting("b", probe.Unreachable)},
			want:  Decision{ExpectChange: true},
		},
		{
			name:  "a deleted active pod serves until it hands over",
			nodes: []Node{leaving("a", probe.Active), node("b", probe.Standby)},
			want:  Decision{ExpectChange: true},
		},
		{
			name:  "a deleted pod is out of the Service, so its label is left alone",
			nodes: []Node{leaving("a", probe.Unreachable), node("b", probe.Standby)},
			want:  Decision{ExpectChange: true},
		},
		{
			name:  "the successor of a deleted pod waits for nothing",
			nodes: []Node{leaving("a", probe.Unknown), node("b", probe.Active)},
			want:  Decision{Promote: "b"},
		},
		{
			name:  "what a deleted pod said last does not stand against its successor",
			nodes: []Node{leaving("a", probe.Active), node("b", probe.Active)},
			want:  Decision{Promote: "b"},
		},
		{
			name:  "a lost active node loses its label although the others wait for the storage to elect a leader",
			nodes: []Node{labelled("a", probe.Unreachable), connected("b"), connected("c")},
			want:  Decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "the storage is away from all nodes: the active one keeps its label",
			nodes: []Node{{UID: "a", State: probe.Unreachable, Labelled: true, Connected: true}, connected("b"), connected("c")},
		},
		{
			name:  "a single node that does not answer keeps the label: there is no other",
			nodes: []Node{labelled("a", probe.Unreachable)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Decide(tt.nodes); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Decide() = %+v, want %+v", got, tt.want)
			}
		})
	}
}
