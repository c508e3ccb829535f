package routing

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/vault-operator/vault-operator/internal/probe"
)

// What is measured; docs/metrics.md tells how to read it. Names and units follow
// https://prometheus.io/docs/practices/naming/
var (
	failoverDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "vault_operator_failover_duration_seconds",
		Help:    "Time from the last answer of the earlier active node until another pod had the active label.",
		Buckets: []float64{0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60},
	})

	relabels = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vault_operator_relabels_total",
		Help: "Changes of the active label that this replica made, by action: promote or demote.",
	}, []string{"action"})
)

// Values of the label action.
const (
	promoteAction = "promote"
	demoteAction  = "demote"
)

func init() {
	metrics.Registry.MustRegister(failoverDuration, relabels)
	// A series that appears only with the first change hides it from rate().
	relabels.WithLabelValues(promoteAction)
	relabels.WithLabelValues(demoteAction)
}

// lastActive is the pod that the Service pointed at last, and when its node last
// said that it is active: what comes after is a failover.
type lastActive struct {
	uid types.UID
	at  time.Time
}

// next is what is known after another look at all pods. Only what a node says
// while its pod is labelled counts, or has said before its pod went: an active
// node that the Service does not point at serves nobody.
func (s lastActive) next(nodes []vaultNode, observations map[types.UID]probe.Observation) lastActive {
	if f := count(nodes); f.responded > 0 && f.unsealed == 0 {
		return lastActive{} // nobody can take over before an administrator unseals a node
	}
	next, gone := s, true
	for _, node := range nodes {
		gone = gone && node.UID != s.uid
		if at := observations[node.UID].LastActive; node.Labelled && at.After(next.at) {
			next = lastActive{node.UID, at}
		}
	}
	if at := observations[s.uid].LastActive; gone && at.After(next.at) {
		next = lastActive{s.uid, at}
	}
	return next
}

// lastActiveTracker has the lastActive of each Vault.
type lastActiveTracker struct {
	mu      sync.Mutex
	entries map[types.NamespacedName]lastActive
}

// observe takes note of who is active. It has to happen before the engine forgets
// what the nodes of pods that are gone have said.
func (s *lastActiveTracker) observe(
	vault types.NamespacedName, nodes []vaultNode, observations map[types.UID]probe.Observation,
) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(vault, s.entries[vault].next(nodes, observations))
}

// promoted takes note that another pod has the label, and returns how long the
// failover took. There was none when the label is back on the same pod, or when
// nobody was known to be active before.
func (s *lastActiveTracker) promoted(vault types.NamespacedName, to types.UID, now time.Time) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.entries[vault]
	s.set(vault, lastActive{to, now})
	return now.Sub(last.at), last.uid != "" && last.uid != to
}

func (s *lastActiveTracker) set(vault types.NamespacedName, entry lastActive) {
	if s.entries == nil {
		s.entries = map[types.NamespacedName]lastActive{}
	}
	s.entries[vault] = entry
}

func (s *lastActiveTracker) forget(vault types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, vault)
}
