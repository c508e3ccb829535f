package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// labelTimeout is how long a label may take before it counts as missed.
	labelTimeout = time.Minute
	// silence is for how long the operator makes no request when it is at rest.
	silence = 1500 * time.Millisecond
	// settled is for how long to wait for that when it will not come.
	settled = 10 * time.Second
)

// bench is a control plane, an operator and Vaults.
type bench struct {
	o        options
	plane    *controlPlane
	operator *operator
	fleet    *fleet
	stop     context.CancelFunc
}

func newBench(ctx context.Context, o options, size int) (b *bench, err error) {
	b = &bench{o: o}
	// The limit ends the measurement, and not what it is made in.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	fmt.Printf("%d Vaults: starting a control plane\n", size)
	if b.plane, err = startControlPlane(ctx, o.tree); err != nil {
		return b, err
	}
	if b.operator, err = startOperator(ctx, b.plane, o); err != nil {
		return b, err
	}
	b.fleet, err = newFleet(inner, b.plane, o, size)
	return b, err
}

func (b *bench) close() {
	b.stop()
	if b.operator != nil {
		b.operator.stop()
	}
	if b.fleet != nil {
		for _, v := range b.fleet.vaults {
			for _, n := range v.nodes {
				n.kill()
			}
		}
	}
	if b.plane != nil {
		if err := b.plane.stop(); err != nil {
			fmt.Println("stopping the control plane:", err)
		}
	}
}

// create creates Vaults, some at a time, and counts what one costs.
func (b *bench) create(ctx context.Context, r *result) error {
	fmt.Println("creating")
	begin, before := time.Now(), b.plane.audit.snapshot()
	next := make(chan *vault)
	errs := make(chan error, b.o.parallel)
	var creators sync.WaitGroup
	for range b.o.parallel {
		creators.Go(func() {
			for v := range next {
				if err := b.createOne(ctx, v); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	err := func() error {
		for _, v := range b.fleet.vaults {
			select {
			case next <- v:
			case err := <-errs:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}()
	close(next)
	creators.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	took := time.Since(begin)
	if err == nil {
		err = b.awaitQuiet(ctx)
	}
	r.Creation = &creation{
		Seconds:  took.Seconds(),
		Requests: b.plane.audit.snapshot().minus(before).withoutLease().per(len(b.fleet.vaults)),
	}
	return err
}

func (b *bench) createOne(ctx context.Context, v *vault) error {
	if err := b.fleet.create(ctx, v); err != nil {
		return err
	}
	if _, right := v.awaitRight(ctx, 2*labelTimeout); !right {
		return errors.Join(fmt.Errorf("%s: no label", v.key), b.fleet.err(), ctx.Err())
	}
	return nil
}

// awaitQuiet waits until the operator is at rest. It never is where a release
// that is refused is tried again now and then.
func (b *bench) awaitQuiet(ctx context.Context) error {
	begin := time.Now()
	for b.plane.audit.quietFor() < silence {
		if !b.o.releases && time.Since(begin) > settled {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the operator does not come to rest: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// overload creates all Vaults at once, and looks at the labels until all are right.
func (b *bench) overload(ctx context.Context, r *result) error {
	fmt.Println("creating all at once")
	begin := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	created := make(chan error, 1)
	go func() {
		var err error
		for _, v := range b.fleet.vaults {
			if err = b.fleet.create(ctx, v); err != nil {
				break
			}
		}
		created <- err
	}()
	r.Overload = &overload{}
	ticker := time.NewTicker(b.o.sampleEvery)
	defer ticker.Stop()
	var running time.Time
	for {
		select {
		case err := <-created:
			if err != nil {
				return err
			}
			created = nil
		case <-ctx.Done():
			return fmt.Errorf("not every label is right: %w", ctx.Err())
		case <-ticker.C:
		}
		s, err := b.sample(begin)
		if err != nil {
			return err
		}
		if created != nil && len(r.Overload.Samples) == 0 && s.Running == 0 {
			fmt.Printf("%8s %8s %8s %8s %8s %8s\n", "seconds", "running", "right", "lost", "patches", "MiB")
		}
		fmt.Printf("%8.0f %8d %8d %8d %8d %8.0f\n", s.Seconds, s.Running, s.Right, s.Lost, s.PodPatches, s.RSSMiB)
		r.Overload.Samples = append(r.Overload.Samples, s)
		if s.Running < len(b.fleet.vaults) {
			continue
		}
		if running.IsZero() {
			running = time.Now()
		}
		if s.Right == len(b.fleet.vaults) {
			r.Overload.Recovered = true
			r.Overload.RecoverySeconds = time.Since(running).Seconds()
			return nil
		}
	}
}

func (b *bench) sample(begin time.Time) (sample, error) {
	u, err := b.operator.usage()
	if err = errors.Join(err, b.fleet.err(), b.operator.ended()); err != nil {
		return sample{}, err
	}
	c := b.fleet.census()
	return sample{
		Seconds: time.Since(begin).Seconds(), Running: c.running, Right: c.right, Lost: b.fleet.lost.Load(),
		PodPatches: int(b.plane.audit.snapshot()["patch pods"]), RSSMiB: u.rssMiB, CPUSeconds: u.cpu.Seconds(),
	}, nil
}

// atRest measures what the operator needs when nothing happens.
func (b *bench) atRest(ctx context.Context, r *result) error {
	fmt.Println("at rest")
	if err := b.awaitQuiet(ctx); err != nil {
		return err
	}
	before, err := b.operator.usage()
	if err != nil {
		return err
	}
	begin, probed, requested, load := time.Now(), probes.Load(), b.plane.audit.snapshot(), machineBusy()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.o.rest):
	}
	after, err := b.operator.usage()
	if err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	r.Rest = &idle{
		Cores:             (after.cpu - before.cpu).Seconds() / seconds,
		RSSMiB:            after.rssMiB,
		ProbesPerSecond:   float64(probes.Load()-probed) / seconds,
		RequestsPerSecond: b.plane.audit.snapshot().minus(requested).total() / seconds,
		MachineBusy:       machineBusy().since(load),
		Right:             b.fleet.census().right,
	}
	r.Rest.HeapMiB, err = b.operator.heapMiB(ctx)
	return err
}

// kinds of failovers, by what happens to the active node.
const (
	// handover is a step-down: another node is active in the same moment.
	handover = "handover"
	// takeover is a death: connections are refused, and another node is active
	// some time later. What counts begins then.
	takeover = "takeover"
)

// failovers measures each kind, one at a time and many at once.
func (b *bench) failovers(ctx context.Context, r *result) error {
	for _, kind := range []string{handover, takeover} {
		for _, atOnce := range []int{1, min(b.o.atOnce, len(b.fleet.vaults))} {
			rounds := 1
			if atOnce == 1 {
				rounds = b.o.single
			}
			if rounds == 0 || atOnce == 0 {
				continue
			}
			measured, err := b.failover(ctx, kind, rounds, atOnce)
			if err != nil {
				return err
			}
			r.Failovers = append(r.Failovers, measured)
		}
	}
	return nil
}

func (b *bench) failover(ctx context.Context, kind string, rounds, atOnce int) (failover, error) {
	fmt.Printf("failovers: %s, %d at once\n", kind, atOnce)
	result := failover{Kind: kind, AtOnce: atOnce, Count: rounds * atOnce}
	var took []time.Duration
	for range rounds { // the operator is at rest
		before, lost := b.plane.audit.snapshot(), b.fleet.lost.Load()
		var chosen []*vault
		for _, i := range rand.Perm(len(b.fleet.vaults))[:atOnce] {
			chosen = append(chosen, b.fleet.vaults[i])
		}
		took = append(took, b.round(ctx, kind, chosen)...)
		if err := b.awaitQuiet(ctx); err != nil {
			return result, err
		}
		made := b.plane.audit.snapshot().minus(before).withoutLease()
		result.Requests = result.Requests.plus(made.per(rounds * atOnce))
		result.Lost += b.fleet.lost.Load() - lost
	}
	result.Missed = result.Count - len(took)
	result.summarize(took)
	return result, ctx.Err()
}

// round lets the Vaults fail over at the same moment, and returns how long the
// label took, of those that got it.
func (b *bench) round(ctx context.Context, kind string, chosen []*vault) (took []time.Duration) {
	if kind == takeover {
		for _, v := range chosen {
			v.activeNode().kill()
		}
		time.Sleep(b.o.gap)
	}
	since := make([]time.Time, len(chosen))
	old := make([]*node, len(chosen))
	for i, v := range chosen {
		since[i], old[i] = v.handOver()
	}
	for i, v := range chosen {
		if at, right := v.awaitRight(ctx, labelTimeout); right {
			took = append(took, at.Sub(since[i]))
		}
	}
	if kind == takeover {
		for _, n := range old {
			if err := n.start(); err != nil {
				fmt.Println(err)
			}
		}
	}
	return took
}
