package probe

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// run notes a lateness for so long, and returns when that ends.
func (l *load) run(lateness, length time.Duration, from time.Time) time.Time {
	for until := from.Add(length); from.Before(until); from = from.Add(latenessPeriod + lateness) {
		l.note(lateness, from)
	}
	return from
}

func TestLateness(t *testing.T) {
	l := newLoad()
	now := l.run(2*time.Millisecond, 5*time.Second, time.Now())
	if l.isLate(now) || l.slowdown != 1 || l.pause(false) != steady {
		t.Errorf("late at rest: %+v", l)
	}
	// A hiccup now and then is not lateness: a probe has time for it.
	l.note(stall/2, now)
	if l.isLate(now) {
		t.Error("late after one hiccup")
	}
	// A long one is, for a moment.
	l.note(stall+time.Millisecond, now)
	if !l.isLate(now) || !l.isLate(now.Add(lateFor-time.Millisecond)) {
		t.Error("not late after a long stall")
	}
	now = l.run(2*time.Millisecond, lateFor+time.Second, now)
	if l.isLate(now) {
		t.Error("still late after a long stall")
	}

	// Many small ones are as well: pauses grow, those of active nodes last.
	now = l.run(2*tolerated, 2*time.Second, now)
	if !l.isLate(now) || l.slowdown < 2 || l.pause(true) > l.pause(false)/2 || l.pause(false) < 2*steady {
		t.Errorf("not late, or not slower: %+v", l)
	}
	now = l.run(2*tolerated, 20*time.Second, now)
	if l.slowdown != maxSlowdown || l.pause(true) != maxSlowdown/4*steady ||
		l.bursts.Limit() != rate.Limit(burstRate/float64(maxSlowdown)) {
		t.Errorf("not at the slowest: %+v", l)
	}
	// It recovers by itself.
	now = l.run(0, 90*time.Second, now)
	if l.isLate(now) || l.slowdown != 1 || l.bursts.Limit() != burstRate {
		t.Errorf("not recovered: %+v", l)
	}
}

func TestMeasuresItsOwnTimers(t *testing.T) {
	l := newLoad()
	ctx, cancel := context.WithTimeout(t.Context(), 4*latenessPeriod)
	defer cancel()
	l.measure(ctx)
	if l.adapted.IsZero() {
		t.Error("nothing was measured")
	}
}

// Nodes of one namespace that give no answer leave room for those of others.
func TestSlotsOfANamespace(t *testing.T) {
	l := newLoad()
	var releases []func()
	for range ofNamespace {
		releases = append(releases, l.acquire(t.Context(), "full"))
	}
	ended, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	if release := l.acquire(ended, "full"); release != nil {
		t.Error("a namespace has more than its part")
	}
	other := l.acquire(t.Context(), "other")
	if other == nil {
		t.Fatal("another namespace has none")
	}
	other()
	for _, release := range releases {
		release()
	}
	if len(l.slots) != 0 || len(l.parts) != 0 {
		t.Errorf("%d are still taken, by %d namespaces", len(l.slots), len(l.parts))
	}
	if release := l.acquire(t.Context(), "full"); release == nil {
		t.Error("none is free again")
	}
}

// makeLate makes the engine believe that its process is late.
func makeLate(e *Engine) {
	e.load.mu.Lock()
	defer e.load.mu.Unlock()
	e.load.stalled = time.Now().Add(time.Hour)
}

// In a process that is late a node that does not answer in time is not called
// unreachable, and its last answer stands.
func TestSilenceProvesNothingToAProcessThatIsLate(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Active)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Active)
	makeLate(h.Engine)
	if !h.late() || h.SilenceCounts(exampleVault.Namespace) {
		t.Errorf("late %t, silence counts %t", h.late(), h.SilenceCounts(exampleVault.Namespace))
	}
	node.Freeze()
	time.Sleep(hangBound)
	if o := h.observation(target.UID); o.State != Active {
		t.Errorf("the node is %s", o.State)
	}
	// People shall see it in the end.
	h.waitFor(t, target.UID, Unreachable)
}

// Work that is less urgent waits for a process that is late, but not for ever.
func TestYield(t *testing.T) {
	t.Parallel()
	e := NewEngine()
	begin := time.Now()
	e.Yield(t.Context(), time.Minute)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("waited for %s at rest", took)
	}
	makeLate(e)
	begin = time.Now()
	e.Yield(t.Context(), 100*time.Millisecond)
	if took := time.Since(begin); took < 100*time.Millisecond || took > slack {
		t.Errorf("waited for %s", took)
	}
}

// Many active nodes that are silent at the same time are this process's fault.
func TestManySilentNodesAreNotBelieved(t *testing.T) {
	for _, tt := range []struct {
		all, silent int
		want        bool
	}{
		{1, 1, true}, {3, 3, true}, {4, 4, false}, {9, 4, false}, {10, 4, true}, {30, 12, true}, {30, 13, false},
		{100, 33, true},
	} {
		e := NewEngine()
		for i := range tt.all {
			w := &worker{target: Target{InService: true}, silent: i < tt.silent}
			standby := &worker{silent: true} // not in the Service
			e.vaults[types.NamespacedName{Name: fmt.Sprint(i)}] = &group{workers: map[types.UID]*worker{"a": w, "b": standby}}
		}
		if got := e.SilenceCounts(""); got != tt.want {
			t.Errorf("%d of %d silent: counts %t, want %t", tt.silent, tt.all, got, tt.want)
		}
	}
}

// Silent nodes of one namespace take from no other that its silence counts. Those of several do.
func TestSilentNodesOfOthers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		silent map[string]int
		all    map[string]int
		want   bool
	}{
		{"one tenant has many", map[string]int{"own": 1, "hostile": 50}, map[string]int{"own": 1, "hostile": 50}, true},
		{"all but one tenant's respond", map[string]int{"hostile": 50},
			map[string]int{"own": 1, "hostile": 50, "x": 1, "y": 1}, true},
		{"all of many are silent", map[string]int{"own": 1, "x": 1, "y": 3, "z": 1},
			map[string]int{"own": 1, "x": 1, "y": 3, "z": 1}, false},
		{"a third of all", map[string]int{"own": 1, "x": 10, "y": 10, "z": 10},
			map[string]int{"own": 3, "x": 30, "y": 30, "z": 30}, true},
		{"most of its own", map[string]int{"own": 4}, map[string]int{"own": 5, "x": 1}, false},
	} {
		e := NewEngine()
		for namespace, count := range tt.all {
			for i := range count {
				w := &worker{target: Target{InService: true}, silent: i < tt.silent[namespace]}
				e.vaults[types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(i)}] = &group{
					workers: map[types.UID]*worker{"a": w}}
			}
		}
		if got := e.SilenceCounts("own"); got != tt.want {
			t.Errorf("%s: counts %t", tt.name, got)
		}
	}
}

// Who finds the budget of bursts used up goes on at the steady pace.
func TestBurstsShareABudget(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Standby)
	h := newHarness(t)
	h.load.bursts.SetLimit(0)
	h.load.bursts.SetBurst(0)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Standby)
	waitUntil(t, func() bool { return len(node.Probes()) >= 3 })
	times := node.Probes()
	if pause := times[2].Sub(times[1]); pause < steady/2 {
		t.Errorf("the pause is %s, want about %s", pause, steady)
	}
}
