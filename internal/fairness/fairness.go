// Package fairness divides the workers of a controller between namespaces. Requests to the nodes of
// a Vault take as long as their pods like, and who may make pods in one namespace shall not make
// the Vaults of others wait.
package fairness

import (
	"context"
	"slices"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/internal/notify"
)

// Complete completes a controller of which a namespace has a limited number of workers. It needs more than these.
func Complete(controller *builder.Builder, limit int, reconciler reconcile.Reconciler) error {
	fair := perNamespace(limit, reconciler)
	return controller.WatchesRawSource(fair.source()).Complete(fair)
}

// fair works on a limited number of objects of one namespace at the same time. Others of it
// wait, without a worker.
type fair struct {
	reconcile.Reconciler
	limit int

	mu sync.Mutex
	// working is how many objects of a namespace are worked on, and waiting are those that come next.
	working map[string]int
	waiting map[string][]reconcile.Request
	free    notify.Notifier
}

// perNamespace returns one that has the reconciler do the work.
func perNamespace(limit int, reconciler reconcile.Reconciler) *fair {
	return &fair{
		Reconciler: reconciler, limit: limit, working: map[string]int{}, waiting: map[string][]reconcile.Request{},
	}
}

// source makes the controller reconcile an object that has waited.
func (f *fair) source() source.Source { return f.free.Source(0) }

// Reconcile does the work, unless the namespace has all the workers that it may have. What waits begins anew
// with the pauses between its retries, which are then no shorter than it waits.
func (f *fair) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !f.enter(request) {
		return reconcile.Result{}, nil
	}
	defer f.leave(request.Namespace)
	return f.Reconciler.Reconcile(ctx, request)
}

func (f *fair) enter(request reconcile.Request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	namespace := request.Namespace
	if f.working[namespace] < f.limit {
		f.working[namespace]++
		return true
	}
	if !slices.Contains(f.waiting[namespace], request) {
		f.waiting[namespace] = append(f.waiting[namespace], request)
	}
	return false
}

func (f *fair) leave(namespace string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.working[namespace]--; f.working[namespace] == 0 {
		delete(f.working, namespace)
	}
	waiting := f.waiting[namespace]
	if len(waiting) == 0 {
		return
	}
	f.free.Notify(waiting[0].NamespacedName)
	if f.waiting[namespace] = waiting[1:]; len(waiting) == 1 {
		delete(f.waiting, namespace)
	}
}
