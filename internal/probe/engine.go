package probe

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/internal/notify"
)

// Timing of the probes, while the process is not late. A node that hangs is
// Unreachable after at most steady + failures*timeout.
const (
	// steady is the pause between probes while nothing is expected to happen.
	steady = 750 * time.Millisecond
	// burst is the pause while a node is expected to change its state soon. An
	// unsealed node reads from its storage for each response.
	burst = 100 * time.Millisecond
	// uninitialized is the pause before a node is probed again that waits for "vault operator
	// init": Vault writes a line into its log for each probe until then.
	uninitialized = 2 * time.Second
	// jitter is by which part a pause may be shorter, so that probes that began
	// together spread.
	jitter = 0.1
	// timeout of one probe.
	timeout = 450 * time.Millisecond
	// failures is how many probes in a row fail before a node is Unreachable, so that
	// one lost packet does not take a node out.
	failures = 2
	// grace is how much later than its timeout a probe may end, before that is a sign
	// that the process is late.
	grace = 100 * time.Millisecond
	// maxInconclusive is how many probes in a row may prove nothing because the
	// process was late. Then the node is shown as Unreachable all the same, although its
	// silence does not count for routing.
	maxInconclusive = 10
)

// Engine probes the nodes of all Vaults, each node on its own, so that one that
// hangs delays no other, and keeps what they last said.
type Engine struct {
	// Clock tells when a node was active last. It is the real one unless a test sets another
	// before nodes are probed; how long probes take is measured by the timers of the process.
	Clock clock.PassiveClock

	load *load

	mu     sync.Mutex
	vaults map[types.NamespacedName]*group
	news   notify.Notifier
	// ended says that the engine has stopped, and no node is to be probed any more.
	ended bool
}

// group is the nodes of one Vault.
type group struct {
	workers      map[types.UID]*worker
	observations map[types.UID]Observation
}

// worker probes one node until it is stopped.
type worker struct {
	uid       types.UID
	namespace string
	prober    *prober
	load      *load
	stop      context.CancelFunc
	kick      chan struct{}

	mu sync.Mutex
	// target is the node; the worker follows changes of InService only.
	target Target
	burst  bool
	// silent says that the node has given no answer since it gave the last one.
	silent bool

	seal sealWatch
}

// NewEngine returns an Engine without nodes to probe.
func NewEngine() *Engine {
	return &Engine{Clock: clock.RealClock{}, vaults: map[types.NamespacedName]*group{}, load: newLoad()}
}

// Source makes a controller reconcile a Vault when what is known of one of its nodes
// has changed, after a delay: a controller that is less urgent lets others go first,
// and handles several changes in one reconcile.
func (e *Engine) Source(after time.Duration) source.Source {
	return e.news.Source(after)
}

// SetTargets says which nodes a Vault has from now on.
// With expectChange the nodes are probed in a burst, at once, until the next call,
// as far as the budget that all Vaults share allows it.
func (e *Engine) SetTargets(vault types.NamespacedName, targets []Target, expectChange bool) {
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
		if w != nil && w.follow(target, expectChange) {
			continue
		}
		if w != nil {
			w.stop()
			if w.target.Container != target.Container {
				delete(g.observations, target.UID) // it is of an earlier process
			}
		}
		e.startWorker(vault, g, target, expectChange)
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

func (e *Engine) startWorker(vault types.NamespacedName, g *group, target Target, expectChange bool) {
	ctx, cancel := context.WithCancel(context.Background())
	var roots *x509.CertPool
	for _, other := range g.workers {
		if other.target.CA == target.CA && other.target.EarlierCAs == target.EarlierCAs {
			roots = other.prober.roots() // parsed once for all nodes of a Vault
			break
		}
	}
	w := &worker{
		uid: target.UID, namespace: vault.Namespace, prober: newProber(target, roots), load: e.load, target: target,
		stop: cancel, kick: make(chan struct{}, 1), burst: expectChange,
	}
	g.workers[target.UID] = w
	go w.run(ctx, func(o Observation) { e.record(vault, w, o) }, func(seal Seal) { e.recordSeal(vault, w, seal) })
}

// Forget probes the nodes of a Vault no more: it is gone.
func (e *Engine) Forget(vault types.NamespacedName) {
	e.SetTargets(vault, nil, false)
	activeLastSeen.DeleteLabelValues(vault.Namespace, vault.Name)
}

// Observations returns what the nodes of a Vault last said, by the UID of their
// pods. A node that was not probed yet is not in it.
func (e *Engine) Observations(vault types.NamespacedName) map[types.UID]Observation {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.vaults[vault]; g != nil {
		return maps.Clone(g.observations)
	}
	return nil
}

// Target returns a node as it is probed.
func (e *Engine) Target(vault types.NamespacedName, uid types.UID) (Target, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.vaults[vault]
	if g == nil || g.workers[uid] == nil {
		return Target{}, false
	}
	w := g.workers[uid]
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target, true
}

// Confirm probes a node now, apart from its regular probes, and returns what it
// says. Use it before acting on an observation, which may be a whole pause old.
// If it contradicts the observation, controllers are called again: at once, or, when
// the node did not answer, after its next regular probe, whatever that finds.
func (e *Engine) Confirm(ctx context.Context, vault types.NamespacedName, uid types.UID) Observation {
	w := e.worker(vault, uid)
	if w == nil {
		return Observation{State: Unknown}
	}
	o := w.prober.probe(ctx, timeout)
	if o.State.Responded() {
		e.record(vault, w, o)
		return o
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.vaults[vault]; g != nil && g.observations[uid].State.Responded() {
		doubted := g.observations[uid]
		doubted.doubted = true
		g.observations[uid] = doubted
	}
	return o
}

// worker is the one that probes the node of a pod, or nil.
func (e *Engine) worker(vault types.NamespacedName, uid types.UID) *worker {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.vaults[vault]; g != nil {
		return g.workers[uid]
	}
	return nil
}

// late says that this process is too busy to tell a silent node from its own
// lateness.
func (e *Engine) late() bool { return e.load.late() }

// manySilent is how many active nodes have to be silent at the same time to be a
// reason to suspect this process's own network, if they are also more than the
// share manySilentShare of all. The nodes of another namespace count as maxOthers at
// most: a tenant can make as many pods silent as he likes, and shall not keep the
// hanging nodes of others in their Services.
const (
	manySilent      = 3
	manySilentShare = 0.4
	maxOthers       = 2
)

// SilenceCounts says that it may be the fault of a node in the namespace when it does not answer: this
// process is not late, and not many active nodes are silent at the same time.
func (e *Engine) SilenceCounts(namespace string) bool {
	if e.load.late() {
		return false
	}
	var served, silent float64
	for of, n := range e.served() {
		weight := 1.0
		if of != namespace {
			weight = min(1, maxOthers/n.nodes)
		}
		served += weight * n.nodes
		silent += weight * n.silent
	}
	return silent <= manySilent || silent <= manySilentShare*served
}

// service is how many nodes of a namespace are in their Service, and how many of these are silent.
type service struct{ nodes, silent float64 }

// served counts the nodes by namespace.
func (e *Engine) served() map[string]service {
	e.mu.Lock()
	defer e.mu.Unlock()
	result := map[string]service{}
	for vault, g := range e.vaults {
		for _, w := range g.workers {
			inService, silent := w.service()
			if !inService {
				continue
			}
			n := result[vault.Namespace]
			n.nodes++
			if silent {
				n.silent++
			}
			result[vault.Namespace] = n
		}
	}
	return result
}

// Yield waits while this process is late, but not for longer than limit. It is
// for work that is less urgent than keeping clients at the active node.
func (e *Engine) Yield(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for e.late() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * latenessPeriod):
		}
	}
}

// Start measures how late this process is until the context ends, and then stops
// all probes.
func (e *Engine) Start(ctx context.Context) error {
	e.load.measure(ctx)
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

// NeedLeaderElection says that every replica probes: routing does not wait for
// an election among the operator's replicas.
func (e *Engine) NeedLeaderElection() bool { return false }

func (e *Engine) record(vault types.NamespacedName, w *worker, o Observation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// A worker that was stopped while its probe was under way must not overwrite
	// what its successor found.
	g, uid := e.vaults[vault], w.uid
	if g == nil || g.workers[uid] != w {
		return
	}
	last, known := g.observations[uid]
	o.LastActive, o.Last, o.Seal = last.LastActive, last.Last, last.Seal
	if o.State.Responded() {
		o.Last = o.State
	}
	if o.State == Active {
		o.LastActive = e.Clock.Now()
		if !w.target.Unmeasured {
			activeLastSeen.WithLabelValues(vault.Namespace, vault.Name).Set(float64(o.LastActive.UnixNano()) / 1e9)
		}
	}
	g.observations[uid] = o
	if known && last.same(o) && !last.doubted {
		return
	}
	e.news.Notify(vault)
}

// follow makes the worker go on with the target, if it is the same node that is
// verified in the same way.
func (w *worker) follow(target Target, expectChange bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	same := target
	same.InService = w.target.InService
	if same != w.target {
		return false
	}
	w.target.InService = target.InService
	faster := expectChange && !w.burst
	w.burst = expectChange
	if faster && w.load.bursts.Allow() {
		select {
		case w.kick <- struct{}{}:
		default:
		}
	}
	return true
}

// service says whether the pod is in the Service, and whether it is silent.
func (w *worker) service() (inService, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target.InService, w.silent
}

func (w *worker) setSilent(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = silent
}

// pause waits until the next probe is due. A node whose burst finds the shared
// budget used up goes on at the steady pace.
func (w *worker) pause(ctx context.Context, last State) {
	w.mu.Lock()
	inService, fast := w.target.InService, w.burst
	w.mu.Unlock()
	pause := w.load.pause(inService)
	if fast && w.load.bursts.Allow() {
		pause = burst
	}
	if last == Uninitialized {
		pause = max(pause, uninitialized)
	}
	//nolint:gosec // to spread probes, not to keep a secret
	timer := time.NewTimer(pause - time.Duration(jitter*rand.Float64()*float64(pause)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.kick:
	case <-timer.C:
	}
}

func (w *worker) run(ctx context.Context, record func(Observation), recordSeal func(Seal)) {
	defer w.prober.close()
	// A pod that is in the Service has to be known first.
	if inService, _ := w.service(); !inService && w.load.connects.Wait(ctx) != nil {
		return
	}
	var failed, refused, inconclusive int
	for {
		release := w.load.acquire(ctx, w.namespace)
		if release == nil {
			return
		}
		begin := time.Now()
		o := w.prober.probe(ctx, timeout)
		release()
		if ctx.Err() != nil {
			return
		}
		w.setSilent(o.Silent && !notListening(o.Err))
		switch {
		case o.State != Unreachable:
			failed, refused, inconclusive = 0, 0, 0
		case inconclusive < maxInconclusive && w.overdue(o, time.Since(begin)):
			inconclusive++
			w.pause(ctx, o.State)
			continue
		default:
			failed++
		}
		if notListening(o.Err) {
			refused++
		}
		if failed > 0 && failed < failures {
			continue // probe again at once before a node is called unreachable
		}
		o.Refused = refused >= failures && connectionRefused(o.Err)
		record(o)
		if o.State.Responded() {
			w.readSeal(ctx, o.State, recordSeal)
		}
		w.pause(ctx, o.State)
	}
}

// overdue says that a probe ran out of time while this process was late, so that
// it proves nothing of the node.
func (w *worker) overdue(o Observation, took time.Duration) bool {
	return errors.Is(o.Err, context.DeadlineExceeded) && (took > timeout+grace || w.load.late())
}
