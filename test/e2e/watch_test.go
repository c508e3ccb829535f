//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// watchInvariants fails the test when, at any time until it ends, the status of
// the nodes is missing once it was there, or two pods are in the Service.
func watchInvariants(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	var once sync.Once
	seen := false
	watch(t, v, "vaults --field-selector=metadata.name="+v.Name, func(event string, object map[string]any) {
		if event == watchBegins {
			return
		}
		status, _ := object["status"].(map[string]any)
		_, has := status["vaultStatus"]
		if seen && !has {
			once.Do(func() { t.Errorf("status.vaultStatus went missing: %v", status) })
		}
		seen = seen || has
	})
	watch(t, v, "endpointslices -l kubernetes.io/service-name="+v.Name, func(_ string, object map[string]any) {
		endpoints, _ := object["endpoints"].([]any)
		var ready []any
		for _, endpoint := range endpoints {
			endpoint, _ := endpoint.(map[string]any)
			if conditions, _ := endpoint["conditions"].(map[string]any); conditions["ready"] == true {
				ready = append(ready, endpoint["targetRef"])
			}
		}
		if len(ready) > 1 {
			t.Errorf("two pods are in the Service: %v", ready)
		}
	})
}

// watchBegins is the event at which a watch begins, be it again: what has been deleted meanwhile is not told.
const watchBegins = "BEGINS"

// watch calls each for every event that kubectl prints until the test ends: ADDED,
// MODIFIED or DELETED, and the object; and before the first one.
func watch(t *testing.T, v vaulttest.Vault, what string, each func(event string, object map[string]any)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// An API server ends each watch after a while.
		for ctx.Err() == nil {
			if err := watchOnce(ctx, v, what, each); err != nil && ctx.Err() == nil {
				t.Log(err)
				time.Sleep(time.Second)
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// watchOnce is one watch, until it ends.
func watchOnce(
	ctx context.Context, v vaulttest.Vault, what string, each func(event string, object map[string]any),
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	each(watchBegins, nil)
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec "+v.Kubectl("get --watch --output-watch-events -o json %s", what))
	cmd.Env = os.Environ()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	for decoder := json.NewDecoder(bufio.NewReader(out)); ; {
		var event struct {
			Type   string
			Object map[string]any
		}
		if err := decoder.Decode(&event); err != nil {
			cancel()
			_ = cmd.Wait() // it was killed
			return fmt.Errorf("the watch of %s has ended: %w", what, err)
		}
		if event.Type == "ERROR" {
			continue // of an API server that hangs: the object is none
		}
		each(event.Type, event.Object)
	}
}

// labelWatch watches which pods of a Vault have the active label.
type labelWatch struct {
	mu       sync.Mutex
	labelled map[string]bool
	// peak is how many have had it at one time, at most.
	peak  int
	count int
	// since is when the last pod lost it, and gaps for how long none had it.
	since time.Time
	gaps  []time.Duration
}

// watchLabel watches the active label until the test ends.
func (f *fixture) watchLabel(t *testing.T) *labelWatch {
	t.Helper()
	w := &labelWatch{labelled: map[string]bool{}}
	selector := fmt.Sprintf("pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=server", f.Name)
	watch(t, f.Vault, selector, func(event string, object map[string]any) {
		if event == watchBegins {
			w.forget()
			return
		}
		metadata, _ := object["metadata"].(map[string]any)
		name, _ := metadata["name"].(string)
		labels, _ := metadata["labels"].(map[string]any)
		w.observe(name, event != "DELETED" && labels[v1alpha1.ActiveLabel] == v1alpha1.ActiveLabelValue, event == "MODIFIED")
	})
	return w
}

// forget has the next events tell anew who has the label.
func (w *labelWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.labelled, w.since = map[string]bool{}, time.Time{}
}

// observe notes whether a pod has the label. It counts as a change only if it was
// written: a pod may also be deleted with it.
func (w *labelWatch) observe(pod string, labelled, written bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if labelled == w.labelled[pod] {
		return
	}
	if written {
		w.count++
	}
	if labelled {
		w.labelled[pod] = true
	} else {
		delete(w.labelled, pod)
	}
	w.peak = max(w.peak, len(w.labelled))
	switch {
	case len(w.labelled) == 0:
		w.since = time.Now()
	case !w.since.IsZero():
		w.gaps = append(w.gaps, time.Since(w.since))
		w.since = time.Time{}
	}
}

// changes is how often the label was set or removed.
func (w *labelWatch) changes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// most is how many pods have had the label at one time, at most. One that is being deleted keeps it.
func (w *labelWatch) most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peak
}

// absences are for how long no pod had the label, each time.
func (w *labelWatch) absences() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.gaps)
}
