package probe

import (
	"context"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Timing of the questions. A node that hangs is Unreachable after at most
// steady + failures*timeout.
const (
	// steady is the pause between questions while nothing is expected to happen.
	steady = 750 * time.Millisecond
	// burst is the pause while a node is expected to change its state soon. An
	// unsealed node reads from its storage for each answer.
	burst = 100 * time.Millisecond
	// timeout of one question.
	timeout = 450 * time.Millisecond
	// failures is how many questions in a row go unanswered before a node is
	// Unreachable, so that one lost packet does not take a node out.
	failures = 2
)

// Engine asks the nodes of all Vaults, each node on its own, so that one that
// hangs delays no other, and keeps what they last said.
type Engine struct {
	mu     sync.Mutex
	vaults map[types.NamespacedName]*group
	queues []workqueue.TypedRateLimitingInterface[reconcile.Request]
	// ended says that nobody is to be asked any more.
	ended bool
}

// group is the nodes of one Vault.
type group struct {
	workers      map[types.UID]*worker
	observations map[types.UID]Observation
}

// worker asks one node until it is stopped.
type worker struct {
	target Target
	stop   context.CancelFunc
	kick   chan struct{}

	mu   sync.Mutex
	pace time.Duration
}

// NewEngine returns an Engine that asks nobody yet.
func NewEngine() *Engine {
	return &Engine{vaults: map[types.NamespacedName]*group{}}
}

// Source makes a controller reconcile a Vault when what is known of one of its
// nodes has changed.
func (e *Engine) Source() source.Source {
	return source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.queues = append(e.queues, queue)
		return nil
	})
}

// SetTargets says which nodes a Vault has from now on.
// With expectChange the nodes are asked in a burst, at once, until the next call.
func (e *Engine) SetTargets(vault types.NamespacedName, targets []Target, expectChange bool) {
	pace := steady
	if expectChange {
		pace = burst
	}
	e.mu.Lock()
	defer e.mu.Unlock()

	if e.ended {
		return
	}
	g := e.vaults[vault]
	if g == nil {
		g = &group{workers: map[types.UID]*worker{}, observations: map[types.UID]Observation{}}
		e.vaults[vault] = g
	}
	wanted := map[types.UID]bool{}
	for _, target := range targets {
		wanted[target.UID] = true
		w := g.workers[target.UID]
		if w != nil && w.target == target {
			w.setPace(pace)
			continue
		}
		if w != nil {
			w.stop()
		}
		ctx, cancel := context.WithCancel(context.Background())
		w = &worker{target: target, stop: cancel, kick: make(chan struct{}, 1), pace: pace}
		g.workers[target.UID] = w
		go w.run(ctx, func(o Observation) { e.record(ctx, vault, target.UID, o) })
	}
	for uid, w := range g.workers {
		if !wanted[uid] {
			w.stop()
			delete(g.workers, uid)
			delete(g.observations, uid)
		}
	}
	if len(g.workers) == 0 {
		delete(e.vaults, vault)
	}
}

// Forget asks the nodes of a Vault no more: it is gone.
func (e *Engine) Forget(vault types.NamespacedName) {
	e.SetTargets(vault, nil, false)
	activeLastSeen.DeleteLabelValues(vault.Namespace, vault.Name)
}

// Observations returns what the nodes of a Vault last said, by the UID of their
// pods. A node that was not asked yet is not in it.
func (e *Engine) Observations(vault types.NamespacedName) map[types.UID]Observation {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.vaults[vault]; g != nil {
		return maps.Clone(g.observations)
	}
	return nil
}

// Confirm asks a node now, apart from its regular questions, and returns what it
// says. It is for whoever is about to act on an answer that may be a pause old.
func (e *Engine) Confirm(ctx context.Context, vault types.NamespacedName, uid types.UID) Observation {
	e.mu.Lock()
	var target Target
	if g := e.vaults[vault]; g != nil && g.workers[uid] != nil {
		target = g.workers[uid].target
	}
	e.mu.Unlock()
	asker, err := newAsker(target)
	if err != nil {
		return Observation{State: Unreachable, Err: err}
	}
	defer asker.close()
	return asker.ask(ctx, timeout)
}

// Start blocks until the context ends and then stops all questions.
func (e *Engine) Start(ctx context.Context) error {
	<-ctx.Done()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	for _, g := range e.vaults {
		for _, w := range g.workers {
			w.stop()
		}
	}
	return nil
}

// NeedLeaderElection says that every replica asks: routing does not wait for
// an election among the operator's replicas.
func (e *Engine) NeedLeaderElection() bool { return false }

func (e *Engine) record(ctx context.Context, vault types.NamespacedName, uid types.UID, o Observation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// A worker that was stopped while its question was under way must not
	// overwrite what its successor found.
	g := e.vaults[vault]
	if g == nil || ctx.Err() != nil {
		return
	}
	last, known := g.observations[uid]
	o.LastActive = last.LastActive
	if o.State == Active {
		o.LastActive = time.Now()
		activeLastSeen.WithLabelValues(vault.Namespace, vault.Name).SetToCurrentTime()
	}
	o.Lost = !o.State.Answered() && (last.Lost || last.State.Answered())
	g.observations[uid] = o
	if known && last.same(o) {
		return
	}
	for _, queue := range e.queues {
		queue.Add(reconcile.Request{NamespacedName: vault})
	}
}

func (w *worker) setPace(pace time.Duration) {
	w.mu.Lock()
	faster := pace < w.pace
	w.pace = pace
	w.mu.Unlock()
	if faster {
		select {
		case w.kick <- struct{}{}:
		default:
		}
	}
}

func (w *worker) pause(ctx context.Context) {
	w.mu.Lock()
	pace := w.pace
	w.mu.Unlock()
	timer := time.NewTimer(pace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.kick:
	case <-timer.C:
	}
}

func (w *worker) run(ctx context.Context, record func(Observation)) {
	asker, err := newAsker(w.target)
	if err != nil {
		record(Observation{State: Unreachable, Err: err})
		return
	}
	defer asker.close()
	failed := 0
	for ctx.Err() == nil {
		o := asker.ask(ctx, timeout)
		if o.State != Unreachable {
			failed = 0
		} else {
			failed++
		}
		if failed > 0 && failed < failures && !nobodyListens(o.Err) {
			continue // ask again at once before a node is called unreachable
		}
		record(o)
		w.pause(ctx)
	}
}
