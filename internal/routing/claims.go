package routing

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
)

const (
	// leaderTimeout is how long a node has to say whom it follows.
	leaderTimeout = time.Second
	// followedFor is how long it is remembered whom a majority followed: on a busy machine
	// nodes are late, and the label would come and go.
	followedFor = 10 * time.Second
)

// followed is the node that a majority followed, and when.
type followed struct {
	uid  types.UID
	when time.Time
}

// settleClaims lets the nodes decide when several say that they are active: the one that a
// majority follows is, and the others count as standby from here on. It says whether several say
// so. Without a majority, all claims stay.
func (r *Reconciler) settleClaims(ctx context.Context, vault types.NamespacedName, nodes []vaultNode) bool {
	if count(nodes).claims < 2 {
		r.followed.Delete(vault)
		return false
	}
	uid := majority(nodes, r.leaders(ctx, vault, nodes))
	if uid != "" {
		r.followed.Store(vault, followed{uid, time.Now()})
	} else if last, found := r.followed.Load(vault); found && time.Since(last.(followed).when) < followedFor {
		uid = last.(followed).uid
	}
	depose(nodes, uid)
	return true
}

// leaders requests what the unsealed nodes say of the active one.
func (r *Reconciler) leaders(
	ctx context.Context, vault types.NamespacedName, nodes []vaultNode,
) map[types.UID]probe.Leader {
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

// majority returns the node that says that it is active and is, together with the standby nodes
// that follow it, most of the nodes that stay. It is empty if there is none.
func majority(nodes []vaultNode, leaders map[types.UID]probe.Leader) (winner types.UID) {
	staying := 0
	for _, node := range nodes {
		if !node.Terminating {
			staying++
		}
	}
	for _, node := range nodes {
		own, told := leaders[node.UID]
		if !node.claims() || !told || !own.Self {
			continue
		}
		voices := 1
		for _, other := range nodes {
			if its, told := leaders[other.UID]; other.follows() && told && its.ClusterAddress == own.ClusterAddress {
				voices++
			}
		}
		switch {
		case 2*voices <= staying:
		case winner != "":
			return "" // two have the same address
		default:
			winner = node.UID
		}
	}
	return winner
}

// depose has those that say that they are active count as standby, but for one that does say so.
func depose(nodes []vaultNode, but types.UID) {
	for _, node := range nodes {
		if node.UID != but || !node.claims() {
			continue
		}
		for i := range nodes {
			if nodes[i].claims() && nodes[i].UID != but {
				nodes[i].State = probe.Standby
			}
		}
		return
	}
}
