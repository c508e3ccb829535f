// Package fairness divides the workers of a controller between namespaces. Requests to the nodes of
// a Vault take as long as their pods like, and who may make pods in one namespace shall not make
// the Vaults of others wait.
package fairness

import (
	"context"
	"slices"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/internal/notify"
)

// Reconciler works on a limited number of objects of one namespace at the same time. Others of it
// wait, without a worker. The controller needs its Source, and more workers than the limit.
type Reconciler struct {
	reconcile.Reconciler
	limit int

	mu sync.Mutex
	// working is how many objects of a namespace are worked on, and waiting are those that come next.
	working map[string]int
	waiting map[string][]reconcile.Request
	free    notify.Notifier
}

// PerNamespace returns a Reconciler that has the given one do the work.
func PerNamespace(limit int, reconciler reconcile.Reconciler) *Reconciler {
	return &Reconciler{
		Reconciler: reconciler, limit: limit, working: map[string]int{}, waiting: map[string][]reconcile.Request{},
	}
}

// Source makes the controller reconcile an object that has waited.
func (r *Reconciler) Source() source.Source { return r.free.Source(0) }

// Reconcile does the work, unless the namespace has all the workers that it may have. What waits begins anew
// with the pauses between its retries, which are then no shorter than it waits.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !r.enter(request) {
		return reconcile.Result{}, nil
	}
	defer r.leave(request.Namespace)
	return r.Reconciler.Reconcile(ctx, request)
}

func (r *Reconciler) enter(request reconcile.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	namespace := request.Namespace
	if r.working[namespace] < r.limit {
		r.working[namespace]++
		return true
	}
	if !slices.Contains(r.waiting[namespace], request) {
		r.waiting[namespace] = append(r.waiting[namespace], request)
	}
	return false
}

func (r *Reconciler) leave(namespace string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.working[namespace]--; r.working[namespace] == 0 {
		delete(r.working, namespace)
	}
	waiting := r.waiting[namespace]
	if len(waiting) == 0 {
		return
	}
	r.free.Notify(waiting[0].NamespacedName)
	if r.waiting[namespace] = waiting[1:]; len(waiting) == 1 {
		delete(r.waiting, namespace)
	}
}
