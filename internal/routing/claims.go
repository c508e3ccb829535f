package routing

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

const (
	// leaderTimeout is how long a node has to say whom it follows.
	leaderTimeout = 500 * time.Millisecond
	// followedFor is how long it is remembered whom a majority followed: on a busy machine
	// nodes are late, and the label would come and go.
	followedFor = 5 * time.Second
)

// followed is the node that a majority followed, and when.
type followed struct {
	uid  types.UID
	when time.Time
}

// lastFollowed is the node that a majority followed a moment ago, or empty.
func (r *Reconciler) lastFollowed(vault types.NamespacedName) types.UID {
	if last, found := r.followed.Load(vault); found && r.Clock.Since(last.(followed).when) < followedFor {
		return last.(followed).uid
	}
	return ""
}

// settleClaims lets the nodes decide when several say that they are active: the one that a
// majority follows is, and the others count as standby from here on. So does one that says so
// alone, a moment after a majority has followed another. It says whether that was to be
// decided. Without a majority, all claims stay, unless another replica has had one: the label came back
// to a node from which this one had taken it.
func (r *Reconciler) settleClaims(
	ctx context.Context, vault types.NamespacedName, nodes []vaultNode, list []corev1.Pod,
) bool {
	last := r.lastFollowed(vault)
	if claims := count(nodes).claims; claims == 0 || claims == 1 && (last == "" || activeClaim(nodes) == last) {
		r.contested.forget(vault)
		return false
	}
	back := r.contested.vouched(vault, list, func(uid types.UID) bool {
		return slices.ContainsFunc(nodes, func(n vaultNode) bool { return n.UID == uid && n.claims() })
	})
	uid := majority(nodes, r.leaders(ctx, vault, nodes))
	switch {
	case uid != "":
		r.followed.Store(vault, followed{uid, r.Clock.Now()})
	case last != "":
		uid = last
	default:
		if i := slices.IndexFunc(nodes, func(n vaultNode) bool { return back[n.UID] }); i >= 0 {
			uid = nodes[i].UID
		}
	}
	depose(nodes, uid)
	return true
}

// activeClaim is the first node that says that it is active.
func activeClaim(nodes []vaultNode) types.UID {
	if i := slices.IndexFunc(nodes, vaultNode.claims); i >= 0 {
		return nodes[i].UID
	}
	return ""
}

// leaders requests what the unsealed nodes say of the active one.
func (r *Reconciler) leaders(
	ctx context.Context, vault types.NamespacedName, nodes []vaultNode,
) map[types.UID]probe.Leader {
	if 2*(1+number(nodes, vaultNode.follows)) <= number(nodes, vaultNode.stays) {
		return nil // there is no majority, whatever they say
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	var mu sync.Mutex
	var wait sync.WaitGroup
	leaders := map[types.UID]probe.Leader{}
	for _, node := range nodes {
		if !node.claims() && !node.follows() {
			continue
		}
		wait.Go(func() {
			leader, err := r.Leader(ctx, vault, node.UID)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && leader.ClusterAddress != "" {
				leaders[node.UID] = leader
			}
		})
	}
	wait.Wait()
	return leaders
}

// claims says that the node says that it is active, and stays.
func (n vaultNode) claims() bool { return n.State == probe.Active && !n.Terminating }

// follows says that the node is standby, and stays.
func (n vaultNode) follows() bool { return n.State == probe.Standby && !n.Terminating }

// stays says that the node runs, and is not being deleted.
func (n vaultNode) stays() bool { return !n.Terminating && !n.Ended }

// number is how many nodes are so.
func number(nodes []vaultNode, is func(vaultNode) bool) int {
	result := 0
	for _, node := range nodes {
		if is(node) {
			result++
		}
	}
	return result
}

// majority returns the node that says that it is active and is, together with the standby nodes
// that follow it, most of the nodes that stay. It is empty if there is none.
func majority(nodes []vaultNode, leaders map[types.UID]probe.Leader) (winner types.UID) {
	for _, node := range nodes {
		own, told := leaders[node.UID]
		if !node.claims() || !told || !own.Self {
			continue
		}
		voices := 1 + number(nodes, func(n vaultNode) bool {
			its, told := leaders[n.UID]
			return n.follows() && told && its.ClusterAddress == own.ClusterAddress
		})
		switch {
		case 2*voices <= number(nodes, vaultNode.stays):
		case winner != "":
			return "" // two have the same address
		default:
			winner = node.UID
		}
	}
	return winner
}

// depose has those that say that they are active count as standby, but for one. If there is none
// to be left, nothing is changed.
func depose(nodes []vaultNode, but types.UID) {
	for i := range nodes {
		if but != "" && nodes[i].claims() && nodes[i].UID != but {
			nodes[i].State = probe.Standby
		}
	}
}
