package probe

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A process that is short of CPU cannot tell a node that does not answer from an
// answer that it has not read yet. So it measures how late its own timers fire.
const (
	// latenessPeriod is how often a timer is set to measure that.
	latenessPeriod = 50 * time.Millisecond
	// tolerated is how late timers may fire on average. A probe takes a handful of
	// steps, each of which is as late, and has to be done within its timeout.
	tolerated = 40 * time.Millisecond
	// stall is how late a single timer may fire, and lateFor is for how long one
	// that was later is remembered.
	stall   = timeout / 2
	lateFor = 2 * time.Second
	// smoothing is the weight of the newest measurement in the average.
	smoothing = 0.1

	// adaptPeriod is how often the pace is adapted. While the process is late pauses
	// double each time, up to maxSlowdown; else they shrink by a twentieth.
	adaptPeriod = time.Second
	maxSlowdown = 16
	recovery    = 0.95

	// burstRate is how many probes a second all bursts together may make, and
	// burstSize how many of them at once.
	burstRate = 1000
	burstSize = 500
	// connectRate is how many nodes are probed for the first time a second, with a
	// TLS handshake for each, and connectSize how many at once.
	connectRate = 300
	connectSize = 100
	// inFlight is how many probes may be under way at once, and ofNamespace how many of one namespace: a node that
	// gives no answer takes all the time that a probe may take.
	inFlight    = 256
	ofNamespace = inFlight / 2
)

// load is what the process bears: whether it is late, how far the pace of the
// probes has to be slowed down, and the budgets that they share.
type load struct {
	bursts   *rate.Limiter
	connects *rate.Limiter
	slots    chan struct{}
	// parts are the slots of each namespace that has probes under way, or waits for them.
	parts   map[string]*part
	partsMu sync.Mutex
	// seals are the turns of the nodes that are asked for their seal.
	seals chan struct{}

	mu sync.Mutex
	// average is by how much timers fire late.
	average time.Duration
	// stalled is when one was later than stall.
	stalled time.Time
	// slowdown is what pauses are multiplied by.
	slowdown float64
	adapted  time.Time
}

func newLoad() *load {
	return &load{
		bursts:   rate.NewLimiter(burstRate, burstSize),
		connects: rate.NewLimiter(connectRate, connectSize),
		slots:    make(chan struct{}, inFlight),
		seals:    make(chan struct{}, sealsInFlight),
		parts:    map[string]*part{},
		slowdown: 1,
	}
}

// measure notes how late timers fire until the context ends.
func (l *load) measure(ctx context.Context) {
	timer := time.NewTimer(latenessPeriod)
	defer timer.Stop()
	for {
		due := time.Now().Add(latenessPeriod)
		timer.Reset(latenessPeriod)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			now := time.Now()
			l.note(now.Sub(due), now)
		}
	}
}

// note takes note of a timer that has fired late by so much.
func (l *load) note(lateness time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.average += time.Duration(smoothing * float64(max(lateness, 0)-l.average))
	if lateness > stall {
		l.stalled = now
	}
	if now.Sub(l.adapted) >= adaptPeriod {
		l.adapted = now
		if l.average > tolerated || now.Sub(l.stalled) < adaptPeriod {
			l.slowdown = min(2*l.slowdown, maxSlowdown)
		} else {
			l.slowdown = max(recovery*l.slowdown, 1)
		}
		l.bursts.SetLimit(rate.Limit(burstRate / l.slowdown))
		slowdownGauge.Set(l.slowdown)
	}
	latenessGauge.Set(l.average.Seconds())
}

func (l *load) isLate(now time.Time) bool {
	return l.average > tolerated || now.Sub(l.stalled) < lateFor
}

// late says that the process is, or was a moment ago, too late for the silence of
// a node to mean anything.
func (l *load) late() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isLate(time.Now())
}

// pause is for how long to wait between two probes of a node. The active nodes
// are the last to be slowed down.
func (l *load) pause(inService bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	factor := l.slowdown
	if inService {
		factor = max(1, factor/4)
	}
	return time.Duration(factor * float64(steady))
}

// part are the slots of a namespace.
type part struct {
	slots chan struct{}
	// users are the probes that are under way, or wait.
	users int
}

// enter returns the part of a namespace, and leave gives it back.
func (l *load) enter(namespace string) *part {
	l.partsMu.Lock()
	defer l.partsMu.Unlock()
	p := l.parts[namespace]
	if p == nil {
		p = &part{slots: make(chan struct{}, ofNamespace)}
		l.parts[namespace] = p
	}
	p.users++
	return p
}

func (l *load) leave(namespace string, p *part) {
	l.partsMu.Lock()
	defer l.partsMu.Unlock()
	if p.users--; p.users == 0 {
		delete(l.parts, namespace)
	}
}

// acquire waits until a probe of a node in the namespace may be made, and returns what says that it is over. It is
// nil when the context has ended before.
func (l *load) acquire(ctx context.Context, namespace string) (release func()) {
	own := l.enter(namespace)
	select {
	case own.slots <- struct{}{}:
	case <-ctx.Done():
		l.leave(namespace, own)
		return nil
	}
	free := func() {
		<-own.slots
		l.leave(namespace, own)
	}
	select {
	case l.slots <- struct{}{}:
		return func() { <-l.slots; free() }
	case <-ctx.Done():
		free()
		return nil
	}
}
