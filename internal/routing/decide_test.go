package routing

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// everyNode returns a node in every condition that it can be in.
func everyNode(uid types.UID) []vaultNode {
	var all []vaultNode
	add := func(node vaultNode) {
		node.UID = uid
		all = append(all, node)
		node.Terminating = true
		all = append(all, node)
	}
	for _, labelled := range []bool{false, true} {
		for _, state := range []probe.State{
			probe.Unknown, probe.Unverified, probe.Uninitialized, probe.Sealed, probe.Standby, probe.Active,
		} {
			add(vaultNode{State: state, Labelled: labelled})
		}
		all = append(all, vaultNode{UID: uid, State: probe.Unknown, Labelled: labelled, Starting: true})
		all = append(all,
			vaultNode{UID: uid, State: probe.Unreachable, Refused: true, Silent: true, Labelled: labelled, Starting: true})
		for _, node := range []vaultNode{
			{Ended: true},
			{}, // it gave a wrong answer
			{Silent: true},
			{Silent: true, Connected: true},
			{Silent: true, Standby: true},
			{Silent: true, Standby: true, Connected: true},
			{Silent: true, Refused: true},
		} {
			node.State, node.Labelled = probe.Unreachable, labelled
			add(node)
		}
		if labelled {
			add(vaultNode{State: probe.Unreachable, Silent: true, Vouched: true, Labelled: true})
		}
	}
	return all
}

// everyVault calls visit with every combination of up to three nodes.
func everyVault(visit func(nodes []vaultNode)) {
	var extend func(nodes []vaultNode, more int)
	extend = func(nodes []vaultNode, more int) {
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
// with up to three nodes, whether silence counts or not.
func TestDecideInvariants(t *testing.T) {
	situations := 0
	everyVault(func(nodes []vaultNode) {
		for _, silenceCounts := range []bool{true, false} {
			situations++
			d := decide(nodes, silenceCounts)
			for _, violated := range []string{
				labelsOnlyChangeWhereNeeded(nodes, d),
				promotesOnlyTheOneActive(nodes, d),
				neverTwoInTheService(nodes, d),
				onlyTheseLoseTheLabel(nodes, d, silenceCounts),
				theseLoseTheLabel(nodes, d, silenceCounts),
				isStable(nodes, d, silenceCounts),
				dependsOnNothingElse(nodes, d, silenceCounts),
				probesFastWhileTheActiveIsNotKnown(nodes, d),
			} {
				if violated != "" {
					t.Fatalf("%s\n nodes %+v\n silence counts %t\n decision %+v", violated, nodes, silenceCounts, d)
				}
			}
		}
	})
	each := len(everyNode(""))
	if want := 2 * (1 + each + each*each + each*each*each); situations != want {
		t.Errorf("looked at %d situations, want %d", situations, want)
	}
	t.Logf("%d situations", situations)
}

func labelsOnlyChangeWhereNeeded(nodes []vaultNode, d decision) string {
	seen := map[types.UID]bool{}
	for _, uid := range d.Demote {
		node := find(nodes, uid)
		switch {
		case node == nil:
			return "demotes a pod that is not there"
		case !node.Labelled:
			return "demotes a pod without the label"
		case node.Terminating:
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

func promotesOnlyTheOneActive(nodes []vaultNode, d decision) string {
	if d.Promote == "" {
		return ""
	}
	if find(nodes, d.Promote).State != probe.Active {
		return "promotes a node that did not say that it is active"
	}
	if number(nodes, isClaimant) > 1 {
		return "promotes although two nodes say that they are active"
	}
	if number(nodes, isClaimant) == 1 && find(nodes, d.Promote).Terminating {
		return "promotes a pod that is being deleted although another is active"
	}
	return ""
}

// neverTwoInTheService follows the labels patch by patch, since the operator can
// die after any of them.
func neverTwoInTheService(nodes []vaultNode, d decision) string {
	all := patches(nodes, d)
	for n := 0; n <= len(all); n++ {
		if before, now := number(nodes, isReady), number(apply(nodes, all[:n]), isReady); now > max(before, 1) {
			return fmt.Sprintf("after %d patches more pods are in the Service than before", n)
		}
	}
	if after := apply(nodes, all); d.Promote != "" && number(after, isReady) > 1 {
		return "another pod is in the Service beside the promoted one"
	}
	return ""
}

// onlyTheseLoseTheLabel has the reasons for which a pod may be taken out of the
// Service although nobody takes its place.
func onlyTheseLoseTheLabel(nodes []vaultNode, d decision, silenceCounts bool) string {
	for _, uid := range d.Demote {
		node := find(nodes, uid)
		anotherIsServed := number(nodes, isClaimant) == 1 && node.State != probe.Active && number(nodes, isServed) == 1 ||
			number(nodes, isClaimant) == 0 && number(nodes, isTerminatingServed) == 1
		switch {
		case node.State.Responded() && (node.State != probe.Active || number(nodes, isClaimant) > 1):
		case node.Ended:
		case node.State == probe.Unknown:
			return "demotes a pod that was not asked"
		case anotherIsServed:
		case node.State == probe.Unverified:
			return "demotes a node because it could not be verified"
		case !node.Silent:
			return "demotes a node because of a wrong answer"
		case node.Vouched:
			return "demotes a node that another replica can reach"
		case !couldTakeOver(nodes, node):
			return "demotes a silent node that no other could replace"
		case !silenceCounts && !node.Refused:
			return "demotes a silent node although silence does not count"
		}
	}
	return ""
}

// theseLoseTheLabel is the other half: who has to go goes, and who is active comes.
func theseLoseTheLabel(nodes []vaultNode, d decision, silenceCounts bool) string {
	for i := range nodes {
		node := &nodes[i]
		silent := node.State == probe.Unreachable && node.Silent && !node.Vouched
		switch {
		case !isReady(*node) || slices.Contains(d.Demote, node.UID):
		case node.Ended:
			return fmt.Sprintf("pod %s has ended and keeps its label", node.UID)
		case node.State.Responded() && node.State != probe.Active:
			return fmt.Sprintf("pod %s is not active and keeps its label", node.UID)
		case node.State == probe.Active && number(nodes, isClaimant) > 1:
			return fmt.Sprintf("pod %s keeps its label although others are active too", node.UID)
		case silent && (silenceCounts || node.Refused) && couldTakeOver(nodes, node):
			return fmt.Sprintf("pod %s is silent, could be replaced, and keeps its label", node.UID)
		}
	}
	if number(nodes, isClaimant) == 1 && number(nodes, isUndecided) == 0 {
		after := apply(nodes, patches(nodes, d))
		if number(after, isServed) != 1 || number(after, isReady) != 1 {
			return "the only active node is not the only one in the Service"
		}
	}
	return ""
}

// couldTakeOver says that another node is there that could be active soon.
func couldTakeOver(nodes []vaultNode, node *vaultNode) bool {
	return number(nodes, func(other vaultNode) bool {
		return other.UID != node.UID && !other.Terminating && (other.State == probe.Standby || other.State == probe.Active ||
			other.Standby && other.Connected && !node.Connected)
	}) > 0
}

func isStable(nodes []vaultNode, d decision, silenceCounts bool) string {
	// Begin again after each patch: what remains is done, and nothing else.
	all := patches(nodes, d)
	want := apply(nodes, all)
	for n := 0; n <= len(all); n++ {
		after := apply(nodes, all[:n])
		rest := patches(after, decide(after, silenceCounts))
		if got := apply(after, rest); !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("another result after an interruption after %d patches: %+v, want %+v", n, got, want)
		}
	}
	if again := decide(want, silenceCounts); len(again.Demote) > 0 || again.Promote != "" {
		return fmt.Sprintf("is not done after it was applied: %+v", again)
	}
	return ""
}

func dependsOnNothingElse(nodes []vaultNode, d decision, silenceCounts bool) string {
	if again := decide(nodes, silenceCounts); !reflect.DeepEqual(again, d) {
		return fmt.Sprintf("decides differently the second time: %+v", again)
	}
	backwards := slices.Clone(nodes)
	slices.Reverse(backwards)
	other := decide(backwards, silenceCounts)
	slices.Sort(other.Demote)
	sorted := slices.Clone(d.Demote)
	slices.Sort(sorted)
	if !slices.Equal(other.Demote, sorted) || other.Promote != d.Promote || other.ExpectChange != d.ExpectChange {
		return fmt.Sprintf("depends on the order of the nodes: %+v", other)
	}
	return ""
}

func probesFastWhileTheActiveIsNotKnown(nodes []vaultNode, d decision) string {
	unsealed := number(nodes, func(n vaultNode) bool { return n.State == probe.Active || n.State == probe.Standby })
	startingNodes := number(nodes, func(n vaultNode) bool { return n.Starting && !n.State.Responded() })
	switch {
	case unsealed > 0 && number(nodes, isClaimant) != 1 && !d.ExpectChange:
		return "does not ask fast while it looks for the active node"
	case number(nodes, isUndecided) > 0 && !d.ExpectChange:
		return "does not ask fast while a labelled pod was not asked"
	case unsealed == 0 && startingNodes == 0 && number(nodes, isUndecided) == 0 && d.ExpectChange:
		return "asks fast although only administrators can change something"
	case number(nodes, isClaimant) == 1 && startingNodes == 0 && number(nodes, isUndecided) == 0 && d.ExpectChange:
		return "asks fast although the active node is known"
	}
	return ""
}

// isReady says that the Service sends requests to the node.
func isReady(n vaultNode) bool    { return n.Labelled && !n.Terminating }
func isClaimant(n vaultNode) bool { return n.State == probe.Active && !n.Terminating }
func isServed(n vaultNode) bool   { return n.State == probe.Active && isReady(n) }
func isTerminatingServed(n vaultNode) bool {
	return n.State == probe.Active && n.Terminating && n.Labelled
}
func isUndecided(n vaultNode) bool { return isReady(n) && n.State == probe.Unknown }

func find(nodes []vaultNode, uid types.UID) *vaultNode {
	for i := range nodes {
		if nodes[i].UID == uid {
			return &nodes[i]
		}
	}
	return nil
}

// patches are the pods whose labels change, in order: those that are demoted, the
// others that have the label when one is promoted, and that one.
func patches(nodes []vaultNode, d decision) []types.UID {
	all := slices.Clone(d.Demote)
	if d.Promote == "" {
		return all
	}
	for _, node := range nodes {
		if isReady(node) && !slices.Contains(all, node.UID) {
			all = append(all, node.UID)
		}
	}
	return append(all, d.Promote)
}

// apply returns the nodes after the patches, each of which changes a label.
func apply(nodes []vaultNode, patches []types.UID) []vaultNode {
	after := slices.Clone(nodes)
	for _, uid := range patches {
		find(after, uid).Labelled = !find(after, uid).Labelled
	}
	return after
}

// TestDecide names situations, many of which went wrong in other operators.
func TestDecide(t *testing.T) {
	node := func(uid string, state probe.State) vaultNode { return vaultNode{UID: types.UID(uid), State: state} }
	labelled := func(uid string, state probe.State) vaultNode {
		return vaultNode{UID: types.UID(uid), State: state, Labelled: true}
	}
	starting := func(uid string, state probe.State) vaultNode {
		return vaultNode{UID: types.UID(uid), State: state, Starting: true}
	}
	silent := vaultNode{UID: "a", State: probe.Unreachable, Labelled: true, Silent: true}
	hung, refusing, vouched, wrong := silent, silent, silent, silent
	hung.Connected, refusing.Refused, vouched.Vouched, wrong.Silent = true, true, true, false
	waiting := func(uid string, last probe.State) vaultNode {
		return vaultNode{
			UID: types.UID(uid), State: probe.Unreachable, Silent: true, Connected: true, Standby: last == probe.Standby,
		}
	}
	terminating := func(uid string, state probe.State) vaultNode {
		return vaultNode{UID: types.UID(uid), State: state, Labelled: true, Terminating: true}
	}
	tests := []struct {
		name  string
		nodes []vaultNode
		// late says that silence does not count.
		late bool
		want decision
	}{
		{name: "no pods"},
		{
			name:  "the first active node gets the label",
			nodes: []vaultNode{node("a", probe.Sealed), node("b", probe.Active)},
			want:  decision{Promote: "b"},
		},
		{
			name:  "nothing is done at rest",
			nodes: []vaultNode{labelled("a", probe.Active), node("b", probe.Standby), node("c", probe.Sealed)},
		},
		{
			name:  "a graceful change demotes the old before it promotes the new",
			nodes: []vaultNode{labelled("a", probe.Standby), node("b", probe.Active)},
			want:  decision{Demote: []types.UID{"a"}, Promote: "b"},
		},
		{
			name:  "an active node that stepped down leaves before another is found",
			nodes: []vaultNode{labelled("a", probe.Standby), node("b", probe.Standby)},
			want:  decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "an active node that was sealed leaves at once",
			nodes: []vaultNode{labelled("a", probe.Sealed), node("b", probe.Standby)},
			want:  decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "all nodes are sealed: administrators are waited for, not asked for in a burst",
			nodes: []vaultNode{node("a", probe.Sealed), node("b", probe.Uninitialized)},
		},
		{
			name:  "hashicorp/vault#18117: two pods say that they are active, neither is served",
			nodes: []vaultNode{labelled("a", probe.Active), node("b", probe.Active)},
			want:  decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "hashicorp/vault#18117: two pods have the label, the one that is standby loses it",
			nodes: []vaultNode{labelled("a", probe.Standby), labelled("b", probe.Active)},
			want:  decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "hashicorp/vault#21642: a hung leader is taken out as soon as another node answers",
			nodes: []vaultNode{silent, node("b", probe.Standby)},
			want:  decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "hashicorp/vault-helm#318: the Service follows an election when the old leader is gone",
			nodes: []vaultNode{silent, node("b", probe.Active)},
			want:  decision{Demote: []types.UID{"a"}, Promote: "b"},
		},
		{
			name:  "and while silence does not count, a successor that proves itself does",
			nodes: []vaultNode{silent, node("b", probe.Active)}, late: true,
			want: decision{Promote: "b"},
		},
		{
			name:  "an operator that is late takes nobody out for silence",
			nodes: []vaultNode{silent, node("b", probe.Standby)}, late: true,
			want: decision{ExpectChange: true},
		},
		{
			name:  "a node that another replica can reach keeps its label",
			nodes: []vaultNode{vouched, node("b", probe.Standby)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "nor does it lose it for a wrong answer, such as an error of its storage",
			nodes: []vaultNode{wrong, node("b", probe.Standby)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "nor for a certificate that cannot be verified",
			nodes: []vaultNode{labelled("a", probe.Unverified), node("b", probe.Standby)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "an unverified node is not promoted",
			nodes: []vaultNode{node("a", probe.Unverified), node("b", probe.Sealed)},
		},
		{
			name:  "an unverified node gives way to a successor that proves itself",
			nodes: []vaultNode{labelled("a", probe.Unverified), node("b", probe.Active)},
			want:  decision{Promote: "b"},
		},
		{
			name:  "nothing listens any more: late or not, the label goes when another could take over",
			nodes: []vaultNode{refusing, node("b", probe.Standby)}, late: true,
			want: decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "connections to all nodes are refused, perhaps by a firewall: nothing changes",
			nodes: []vaultNode{refusing, {UID: "b", State: probe.Unreachable, Silent: true, Refused: true, Standby: true}},
		},
		{
			name:  "a container that has ended needs no other proof",
			nodes: []vaultNode{{UID: "a", State: probe.Unreachable, Labelled: true, Ended: true}}, late: true,
			want: decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "coreos/vault-operator#344: an unreachable node is not acted on when nobody answers",
			nodes: []vaultNode{silent, node("b", probe.Unreachable)},
		},
		{
			name:  "coreos/vault-operator#344: nor while the operator has only just started",
			nodes: []vaultNode{labelled("a", probe.Unknown), node("b", probe.Unknown)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "a sealed node cannot take over, so a silent one keeps its label beside it",
			nodes: []vaultNode{hung, node("b", probe.Sealed), node("c", probe.Uninitialized)},
		},
		{
			name:  "coreos/vault-operator#321: the pod that was active is gone, and nobody is active instead",
			nodes: []vaultNode{node("b", probe.Standby), node("c", probe.Standby)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "hashicorp/vault-helm#326: an active node without the label gets it, whatever its pod says of itself",
			nodes: []vaultNode{node("a", probe.Active), node("b", probe.Standby)},
			want:  decision{Promote: "a"},
		},
		{
			name:  "hashicorp/vault-helm#430: a sealed node is not served beside the active one",
			nodes: []vaultNode{labelled("a", probe.Sealed), labelled("b", probe.Active)},
			want:  decision{Demote: []types.UID{"a"}},
		},
		{
			name: "hashicorp/vault-helm#817: nor is one that has yet to be initialized or to start",
			nodes: []vaultNode{
				labelled("a", probe.Uninitialized), labelled("b", probe.Unreachable), labelled("c", probe.Active),
			},
			want: decision{Demote: []types.UID{"a", "b"}},
		},
		{
			name:  "hashicorp/vault#17470: a node that comes back sealed changes nothing",
			nodes: []vaultNode{labelled("a", probe.Active), node("b", probe.Sealed), node("c", probe.Standby)},
		},
		{
			name:  "cloudnative-pg/cloudnative-pg#10409: the label is taken away when the failover begins, not when it ends",
			nodes: []vaultNode{silent, node("b", probe.Standby), node("c", probe.Standby)},
			want:  decision{Demote: []types.UID{"a"}, ExpectChange: true},
		},
		{
			name:  "cloudnative-pg/cloudnative-pg#10409: an old active node that returns with its claim is not served",
			nodes: []vaultNode{node("a", probe.Active), labelled("b", probe.Active)},
			want:  decision{Demote: []types.UID{"b"}, ExpectChange: true},
		},
		{
			name:  "bank-vaults/vault-operator: the leader is found although the first pod does not answer",
			nodes: []vaultNode{node("a", probe.Unreachable), node("b", probe.Unreachable), node("c", probe.Active)},
			want:  decision{Promote: "c"},
		},
		{
			name:  "dc-tec/openbao-operator: of two labels the last is not simply believed",
			nodes: []vaultNode{labelled("a", probe.Active), labelled("b", probe.Standby)},
			want:  decision{Demote: []types.UID{"b"}},
		},
		{
			name:  "an active node waits for a labelled one that was not asked yet",
			nodes: []vaultNode{labelled("a", probe.Unknown), node("b", probe.Active)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "a frozen leader that woke up as a standby does not get its label back",
			nodes: []vaultNode{node("a", probe.Standby), labelled("b", probe.Active)},
		},
		{
			name:  "a standby that does not answer changes nothing",
			nodes: []vaultNode{labelled("a", probe.Active), node("b", probe.Standby), node("c", probe.Unreachable)},
		},
		{
			name:  "a pod that starts is asked in a burst",
			nodes: []vaultNode{labelled("a", probe.Active), starting("b", probe.Unreachable)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "a deleted active pod serves until it hands over",
			nodes: []vaultNode{terminating("a", probe.Active), node("b", probe.Standby)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "a deleted pod is out of the Service, so its label is left alone",
			nodes: []vaultNode{terminating("a", probe.Unreachable), node("b", probe.Standby)},
			want:  decision{ExpectChange: true},
		},
		{
			name:  "the successor of a deleted pod waits for nothing",
			nodes: []vaultNode{terminating("a", probe.Unknown), node("b", probe.Active)},
			want:  decision{Promote: "b"},
		},
		{
			name:  "what a deleted pod said last does not stand against its successor",
			nodes: []vaultNode{terminating("a", probe.Active), node("b", probe.Active)},
			want:  decision{Promote: "b"},
		},
		{
			name:  "a lost active node loses its label although the others wait for the storage to elect a leader",
			nodes: []vaultNode{silent, waiting("b", probe.Standby), waiting("c", probe.Standby)},
			want:  decision{Demote: []types.UID{"a"}},
		},
		{
			name:  "the storage is unavailable: the active one keeps its label",
			nodes: []vaultNode{hung, waiting("b", probe.Standby), waiting("c", probe.Standby)},
		},
		{
			name:  "a lost active node keeps its label when the others were sealed before they fell silent",
			nodes: []vaultNode{silent, waiting("b", probe.Sealed), waiting("c", probe.Unknown)},
		},
		{
			name:  "a single node that does not answer keeps the label: there is no other",
			nodes: []vaultNode{silent},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := decide(tt.nodes, !tt.late); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("decide() = %+v, want %+v", got, tt.want)
			}
		})
	}
}
