package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// fault is something that happens to active nodes.
type fault struct {
	name string
	// title in the report.
	title string
	// window is how long clients are observed after it at most. Those that have been
	// served again for as long as calm are not observed any more.
	window time.Duration
	// signal that the process of the active node gets.
	signal syscall.Signal
	// atOnce is how many Vaults have the fault at the same time, so that what takes long takes
	// less; the others wait until all are whole again.
	atOnce int
	// cut says that all active nodes are on one node of the cluster, which is cut off.
	cut bool
	// inject injects the fault into one Vault and returns when clients have been observed
	// long enough; the default is to wait for the window.
	inject func(ctx context.Context, b *bench, v *victim) error
}

// everyone has the fault at the same time.
const everyone = 100

var faults = []fault{
	{name: "planned", title: "The active pod is deleted", window: 15 * time.Second, atOnce: 1, inject: deleteActive},
	{name: "sigkill", title: "The active process is killed (SIGKILL)", window: 30 * time.Second, signal: syscall.SIGKILL,
		atOnce: 1},
	{name: "sigstop", title: "The active process hangs (SIGSTOP)", window: 40 * time.Second, signal: syscall.SIGSTOP,
		atOnce: everyone},
	// Kubernetes calls a node lost after 50 seconds.
	{name: "lost", title: "The node of the active pod is lost", window: 52 * time.Second, atOnce: everyone, cut: true},
	{name: "upgrade", title: "Rolling upgrade", atOnce: 2, inject: upgrade},
}

// known are all faults. Nothing happens to the active nodes in the last one, so that there is no
// need for another: it is not measured unless it is chosen, because it takes long.
var known = append(slices.Clone(faults),
	fault{name: "nothing", title: "Nothing, for ten minutes", atOnce: everyone, inject: doNothing})

func namesOfFaults(list []fault) (names []string) {
	for _, f := range list {
		names = append(names, f.name)
	}
	return names
}

// victim is a Vault in one repetition.
type victim struct {
	*set
	// variants whose clients use it.
	variants []variant
	active   corev1.Pod
	// pid of the active node's process.
	pid   int
	loads []*load
	// failovers since the fault was injected, and the pod that was active last.
	failovers  int
	lastActive types.UID
}

// countFailover notes that another node may be active now.
func (v *victim) countFailover(now state) {
	if now.active != nil && now.active.UID != v.lastActive {
		v.lastActive = now.active.UID
		v.failovers++
	}
}

// settle is how long clients are served before anything happens, and after an
// upgrade.
const settle = time.Second

// round injects the fault into every Vault once, and returns what their clients saw.
func (b *bench) round(ctx context.Context, f fault) (results []result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	load, round := machineLoad(), time.Now().UTC()
	victims := b.victims()
	// None is always the first.
	rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for together := range slices.Chunk(victims, f.atOnce) {
		saw, err := b.inject(ctx, f, together)
		if err != nil {
			return nil, err
		}
		results = append(results, saw...)
	}
	for i := range results {
		results[i].Round, results[i].Fault, results[i].Load, results[i].Machine = round, f.name, load, machine()
	}
	return results, nil
}

// victims are the Vaults, with the clients that use them.
func (b *bench) victims() (all []*victim) {
	for _, name := range slices.Sorted(maps.Keys(b.sets)) {
		v := &victim{set: b.sets[name]}
		for _, variant := range b.variants {
			if variant.set == name {
				v.variants = append(v.variants, variant)
			}
		}
		all = append(all, v)
	}
	return all
}

// inject injects the fault into Vaults at the same time, when all are whole.
func (b *bench) inject(ctx context.Context, f fault, victims []*victim) (results []result, err error) {
	if err := b.restore(ctx); err != nil {
		return nil, err
	}
	for _, v := range victims {
		if err := b.aim(ctx, f, v); err != nil {
			return nil, err
		}
	}
	lost := victims[0].active.Spec.NodeName
	if f.cut {
		if err := b.gather(ctx, victims, lost); err != nil {
			return nil, err
		}
	}
	if err := b.startClients(ctx, f, victims, lost); err != nil {
		return nil, err
	}
	if f.cut {
		defer b.join(lost)
		if err := b.cut(lost); err != nil {
			return nil, err
		}
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, v := range victims {
		wait.Go(func() {
			saw, failure := b.observe(ctx, f, v)
			mu.Lock()
			defer mu.Unlock()
			results = append(results, saw...)
			err = errors.Join(err, failure)
		})
	}
	wait.Wait()
	return results, err
}

// aim finds the active node of a Vault.
func (b *bench) aim(ctx context.Context, f fault, v *victim) error {
	found, err := b.tend(ctx, v.set)
	if err != nil {
		return err
	}
	if found.active == nil {
		return fmt.Errorf("%s has no active node", v.name)
	}
	v.active = *found.active
	if f.signal == 0 {
		return nil
	}
	out, err := shell.Try("$LOCAL_CLUSTER pid " + namespace + "/" + v.active.Name + " vault")
	if err != nil {
		return err
	}
	_, err = fmt.Sscan(out, &v.pid)
	return err
}

// gather brings the active nodes of all Vaults to one node of the cluster, and waits
// until the Services and then kube-proxy have followed.
func (b *bench) gather(ctx context.Context, victims []*victim, place string) (err error) {
	for _, v := range victims {
		if v.active, err = b.moveActive(ctx, v.set, place); err != nil {
			return err
		}
	}
	if err := b.restore(ctx); err != nil {
		return err
	}
	return sleep(ctx, 2*settle)
}

// moveActive makes active nodes step down until it is the one in this place.
func (b *bench) moveActive(ctx context.Context, s *set, place string) (active corev1.Pod, err error) {
	err = poll.Until(ctx, "the active node of "+s.name+" is on "+place, time.Minute, pace, func() error {
		found, err := b.tend(ctx, s)
		if err != nil {
			return err
		}
		if found.active == nil {
			return errors.New("no node is active")
		}
		active = *found.active
		if active.Spec.NodeName == place {
			return nil
		}
		vault, err := s.at(active)
		if err == nil {
			err = vault.Sys().StepDownWithContext(ctx)
		}
		if err == nil {
			err = errors.New("it is on " + active.Spec.NodeName)
		}
		return err
	})
	return active, err
}

// startClients starts the clients of Vaults, on a node of the cluster that is not
// lost, and waits until they are at work.
func (b *bench) startClients(ctx context.Context, f fault, victims []*victim, lost string) error {
	from, err := b.nodeBeside(ctx, lost)
	if err != nil {
		return err
	}
	untilCalm := calm
	if f.window == 0 {
		untilCalm = 0 // it is the fault that says when it is over
	}
	for _, v := range victims {
		for _, variant := range v.variants {
			l, err := b.startLoad(ctx, variant, from, untilCalm)
			if err != nil {
				return err
			}
			v.loads = append(v.loads, l)
		}
	}
	return sleep(ctx, settle)
}

// calm is for how long clients are served until the fault is over for them. Each
// makes twenty requests or more in that time, and of those to a Service that leads
// to a dead node as well one half would fail.
const calm = 2 * time.Second

// awaitCalm waits until it is over for all clients, or for the window. Clients that
// wait for long have to be given the time.
func (v *victim) awaitCalm(ctx context.Context, window time.Duration) error {
	for _, variant := range v.variants {
		if variant.wait > 0 {
			return sleep(ctx, max(window, variant.wait+calm))
		}
	}
	timer := time.NewTimer(window)
	defer timer.Stop()
	for _, l := range v.loads {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-l.Done():
		}
	}
	return nil
}

// observe injects the fault into one Vault and returns what its clients saw.
func (b *bench) observe(ctx context.Context, f fault, v *victim) ([]result, error) {
	begin := time.Now()
	v.lastActive = v.active.UID
	if f.signal != 0 {
		if err := syscall.Kill(v.pid, f.signal); err != nil {
			return nil, err
		}
		defer b.undo(f, v)
	}
	if f.inject != nil {
		if err := f.inject(ctx, b, v); err != nil {
			return nil, err
		}
	}
	if err := v.awaitCalm(ctx, f.window); err != nil {
		return nil, err
	}
	end := time.Now()
	var results []result
	for _, l := range v.loads {
		saw, err := l.stop()
		if err != nil {
			return nil, err
		}
		r, err := newResult(saw, begin, end, l.variant.timeout())
		if err != nil {
			// The others are measured all the same.
			fmt.Printf("  %-18s not measured: %s (%s)\n", l.variant.name, err, saw.LastError)
			continue
		}
		r.Interval = b.interval.Milliseconds()
		r.Variant, r.Failovers = l.variant.name, v.failovers
		if l.variant.wait > 0 {
			r.LongestWait, r.LongWaits = saw.LongestWait.Milliseconds(), saw.LongWaits
		}
		results = append(results, r)
	}
	return results, nil
}

// undo ends what a signal did. The pod of a killed process is replaced,
// because the kubelet waits longer every time before it restarts one.
func (b *bench) undo(f fault, v *victim) {
	var err error
	switch f.signal {
	case syscall.SIGSTOP:
		err = syscall.Kill(v.pid, syscall.SIGCONT)
	case syscall.SIGKILL:
		err = b.Delete(context.Background(), &v.active)
	}
	if err != nil {
		fmt.Println(err)
	}
}

// doNothing counts how often another node becomes active meanwhile.
func doNothing(ctx context.Context, b *bench, v *victim) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for sleep(ctx, pace) == nil {
		if found, err := b.tend(ctx, v.set); err == nil {
			v.countFailover(found)
		}
	}
	return nil
}

func deleteActive(ctx context.Context, b *bench, v *victim) error {
	return b.Delete(ctx, &v.active)
}

// nodeBeside returns a node of the cluster that is another one.
func (b *bench) nodeBeside(ctx context.Context, node string) (string, error) {
	var list corev1.NodeList
	if err := b.List(ctx, &list); err != nil {
		return "", err
	}
	for _, other := range list.Items {
		if other.Name != node {
			return other.Name, nil
		}
	}
	return "", errors.New("the cluster has one node only")
}

// cut takes a node off the network, and join brings it back.
func (b *bench) cut(node string) error {
	b.sidecars.nodeIsCut(node)
	return setLink(node, "cut")
}

func (b *bench) join(node string) {
	if err := setLink(node, "join"); err != nil {
		fmt.Println(err)
	}
	b.sidecars.nodeIsCut("")
}

// setLink cuts a node off the network or joins it.
func setLink(node, action string) error {
	_, err := shell.Try("$LOCAL_CLUSTER node " + node + " " + action)
	return err
}

// machineLoad is how many processes were ready to run in the last minute.
func machineLoad() (load float64) {
	content, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(content), &load)
	}
	if err != nil {
		return -1
	}
	return load
}

// machine says how large this machine is.
func machine() string {
	memory := 0
	content, _ := os.ReadFile("/proc/meminfo") // it is said to be unknown below
	for line := range strings.Lines(string(content)) {
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &memory); err == nil {
			return fmt.Sprintf("%d CPUs, %d GiB of memory", runtime.NumCPU(), (memory+1<<19)>>20)
		}
	}
	return fmt.Sprintf("%d CPUs", runtime.NumCPU())
}
