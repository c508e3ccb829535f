// Package fairness divides the workers of a controller between namespaces. Requests to the nodes of
// a Vault take as long as their pods like, and who may make pods in one namespace shall not make
// the Vaults of others wait.
package fairness

import (
	"context"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// pause is when an object is looked at again whose namespace has all the workers that it may have.
const pause = 250 * time.Millisecond

// PerNamespace returns a reconciler that works on at most limit objects of one namespace at the
// same time; others of it come later. Give the controller more workers than that.
func PerNamespace(limit int, reconciler reconcile.Reconciler) reconcile.Reconciler {
	return &limited{Reconciler: reconciler, limit: limit, working: map[string]int{}}
}

type limited struct {
	reconcile.Reconciler
	limit int

	mu sync.Mutex
	// working is how many objects of a namespace are worked on.
	working map[string]int
}

func (l *limited) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if !l.enter(request.Namespace) {
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	defer l.leave(request.Namespace)
	return l.Reconciler.Reconcile(ctx, request)
}

func (l *limited) enter(namespace string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.working[namespace] >= l.limit {
		return false
	}
	l.working[namespace]++
	return true
}

func (l *limited) leave(namespace string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.working[namespace]--; l.working[namespace] == 0 {
		delete(l.working, namespace)
	}
}
