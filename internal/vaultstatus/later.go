package vaultstatus

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// queue of a controller.
type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// later is a handler whose requests wait for routingFirst.
type later struct{ handler.EventHandler }

// Create handles an event.
func (l later) Create(ctx context.Context, e ctrlevent.CreateEvent, q queue) {
	l.EventHandler.Create(ctx, e, laterQueue{q, routingFirst})
}

// Update handles an event.
func (l later) Update(ctx context.Context, e ctrlevent.UpdateEvent, q queue) {
	l.EventHandler.Update(ctx, e, laterQueue{q, routingFirst})
}

// Delete handles an event.
func (l later) Delete(ctx context.Context, e ctrlevent.DeleteEvent, q queue) {
	l.EventHandler.Delete(ctx, e, laterQueue{q, routingFirst})
}

// laterQueue adds after a while what is added to it.
type laterQueue struct {
	queue
	after time.Duration
}

// Add adds the request after a while.
func (q laterQueue) Add(request reconcile.Request) { q.AddAfter(request, q.after) }
