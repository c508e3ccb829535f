// Package notify makes controllers reconcile a Vault when something new is known of it that
// is no object of Kubernetes.
package notify

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Notifier tells controllers. The zero value tells none yet.
type Notifier struct {
	mu   sync.Mutex
	adds []func(reconcile.Request)
}

// Source is that of a controller which reconciles a Vault after a delay: one that is less
// urgent lets others go first, and handles several changes in one reconcile.
func (n *Notifier) Source(after time.Duration) source.Source {
	return source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.adds = append(n.adds, func(r reconcile.Request) { queue.AddAfter(r, after) })
		return nil
	})
}

// Notify makes the controllers reconcile a Vault.
func (n *Notifier) Notify(vault types.NamespacedName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, add := range n.adds {
		add(reconcile.Request{NamespacedName: vault})
	}
}
