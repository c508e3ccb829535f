package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// fault is something that happens to active nodes.
type fault struct {
	name string
	// title in the report.
	title string
	// window is how long clients are observed after it.
	window time.Duration
	// stagger is the pause before the next Vault suffers, so that their failovers
	// do not compete for this machine.
	stagger time.Duration
	// signal that the process of the active node gets.
	signal syscall.Signal
	// together says that all active nodes are on one node of the cluster, which is
	// cut off.
	together bool
	// suffer makes one Vault suffer and returns when clients have been observed
	// long enough; the default is to wait for the window.
	suffer func(ctx context.Context, b *bench, v *victim) error
}

var faults = []fault{
	{name: "planned", title: "The active pod is deleted", window: 15 * time.Second, stagger: 6 * time.Second, suffer: deleteActive},
	{name: "sigkill", title: "The active process is killed (SIGKILL)", window: 20 * time.Second, stagger: 3 * time.Second, signal: syscall.SIGKILL},
	{name: "sigstop", title: "The active process hangs (SIGSTOP)", window: 45 * time.Second, stagger: 3 * time.Second, signal: syscall.SIGSTOP},
	// Kubernetes calls a node lost after 50 seconds.
	{name: "lost", title: "The node of the active pod is lost", window: 65 * time.Second, together: true},
	{name: "upgrade", title: "Rolling upgrade", stagger: 5 * time.Second, suffer: upgrade},
}

func faultNames() (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

// victim is a Vault in one repetition.
type victim struct {
	*set
	active corev1.Pod
	// pid of the active node's process.
	pid     int
	hammers []*hammer
	// failovers of an upgrade.
	failovers int
}

// settle is how long clients are served before anything happens, and after an
// upgrade.
const settle = time.Second

// round makes every Vault suffer once, and returns what their clients saw.
func (b *bench) round(ctx context.Context, f fault) ([]result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := b.restore(ctx); err != nil {
		return nil, err
	}
	victims, err := b.prepare(ctx, f)
	if err != nil {
		return nil, err
	}
	// Clients are on a node that stays.
	from, err := b.nodeBeside(ctx, victims[0].active.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	load := machineLoad()
	round := time.Now().UTC()
	if f.together {
		for _, v := range victims {
			if err := b.startHammers(ctx, v, from); err != nil {
				return nil, err
			}
		}
		if err := sleep(ctx, settle); err != nil {
			return nil, err
		}
		lost := victims[0].active.Spec.NodeName
		b.sidecars.nodeIsCut(lost)
		defer b.sidecars.nodeIsCut("")
		defer func() {
			if err := setLink(lost, "join"); err != nil {
				fmt.Println(err)
			}
		}()
		if err := setLink(lost, "cut"); err != nil {
			return nil, err
		}
	}
	results, err := b.suffer(ctx, f, victims, from)
	for i := range results {
		results[i].Round, results[i].Fault, results[i].Load, results[i].Machine = round, f.name, load, machine()
	}
	return results, err
}

// prepare finds the active nodes, and gathers them on one node if they are to
// be lost together.
func (b *bench) prepare(ctx context.Context, f fault) (victims []*victim, err error) {
	place := ""
	for _, name := range slices.Sorted(maps.Keys(b.sets)) {
		s := b.sets[name]
		found, err := b.tend(ctx, s)
		if err == nil && found.active == nil {
			err = fmt.Errorf("%s has no active node", name)
		}
		if err != nil {
			return nil, err
		}
		v := &victim{set: s, active: *found.active}
		if place == "" {
			place = v.active.Spec.NodeName
		}
		if f.together {
			if v.active, err = b.moveActive(ctx, s, place); err != nil {
				return nil, err
			}
		}
		if f.signal != 0 {
			out, err := shell.Try("$LOCAL_CLUSTER pid " + namespace + "/" + v.active.Name + " vault")
			if err == nil {
				_, err = fmt.Sscan(out, &v.pid)
			}
			if err != nil {
				return nil, err
			}
		}
		victims = append(victims, v)
	}
	if f.together {
		// The Services have to follow before anything is measured.
		err = b.restore(ctx)
	}
	return victims, err
}

// moveActive makes active nodes step down until it is the one in this place.
func (b *bench) moveActive(ctx context.Context, s *set, place string) (active corev1.Pod, err error) {
	err = eventually(ctx, "the active node of "+s.name+" is on "+place, time.Minute, func() error {
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

// startHammers starts the clients of a Vault.
func (b *bench) startHammers(ctx context.Context, v *victim, from string) error {
	for _, variant := range b.variants {
		if variant.set != v.name {
			continue
		}
		h, err := b.startHammer(ctx, variant, from)
		if err != nil {
			return err
		}
		v.hammers = append(v.hammers, h)
	}
	return nil
}

// suffer makes the Vaults suffer, each on its own, with clients on a node.
func (b *bench) suffer(ctx context.Context, f fault, victims []*victim, from string) (results []result, err error) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i, v := range victims {
		wait.Go(func() {
			saw, failure := b.observe(ctx, f, v, time.Duration(i)*f.stagger, from)
			mu.Lock()
			defer mu.Unlock()
			results = append(results, saw...)
			err = errors.Join(err, failure)
		})
	}
	wait.Wait()
	return results, err
}

// observe makes one Vault suffer and returns what its clients saw.
func (b *bench) observe(ctx context.Context, f fault, v *victim, delay time.Duration, from string) ([]result, error) {
	if err := sleep(ctx, delay); err != nil {
		return nil, err
	}
	if !f.together {
		// Not before its turn: a handshake is much work for a small machine.
		if err := b.startHammers(ctx, v, from); err != nil {
			return nil, err
		}
		if err := sleep(ctx, settle); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	if f.signal != 0 {
		if err := syscall.Kill(v.pid, f.signal); err != nil {
			return nil, err
		}
		defer b.undo(f, v)
	}
	if f.suffer != nil {
		if err := f.suffer(ctx, b, v); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, f.window); err != nil {
		return nil, err
	}
	end := time.Now()
	var results []result
	for _, h := range v.hammers {
		saw, err := h.stop()
		if err != nil {
			return nil, err
		}
		r, err := newResult(saw, begin, end)
		if err != nil {
			// The others are measured all the same.
			fmt.Printf("  %-18s not measured: %s (%s)\n", h.variant.name, err, saw.LastError)
			continue
		}
		r.Interval = b.interval.Milliseconds()
		r.Variant, r.Failovers = h.variant.name, v.failovers
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
