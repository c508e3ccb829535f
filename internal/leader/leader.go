// Package leader tells whether the replica that leads is alive, sooner than its
// lease runs out: a lease that ran out on every hiccup would change hands all
// the time, but the status of a Vault cannot wait that long for the truth.
package leader

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

const (
	// RenewEvery is the pause between two renewals of the lease.
	RenewEvery = time.Second
	// maxSilence is for how long a leader that is alive may renew nothing.
	maxSilence = 2 * RenewEvery
)

// Heartbeat follows the lease of the leader.
type Heartbeat struct {
	mu          sync.Mutex
	renewed     string    // what the lease said last
	lastRenewal time.Time // when it began to say so, by this machine's clock
}

// Follow begins to follow the lease that the manager's cache holds.
func Follow(ctx context.Context, mgr manager.Manager) (*Heartbeat, error) {
	informer, err := mgr.GetCache().GetInformer(ctx, &coordinationv1.Lease{})
	if err != nil {
		return nil, err
	}
	h := &Heartbeat{lastRenewal: time.Now()}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { h.observe(obj, time.Now()) },
		UpdateFunc: func(_, obj any) { h.observe(obj, time.Now()) },
	})
	return h, err
}

// observe takes note of a lease. The time in it is by another machine's clock, so
// all that counts is that it changes.
func (h *Heartbeat) observe(obj any, now time.Time) {
	lease, ok := obj.(*coordinationv1.Lease)
	if !ok || lease.Spec.RenewTime == nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return
	}
	renewed := *lease.Spec.HolderIdentity + lease.Spec.RenewTime.String()
	h.mu.Lock()
	defer h.mu.Unlock()
	if renewed != h.renewed {
		h.renewed, h.lastRenewal = renewed, now
	}
}

// Alive says that the leader renewed its lease a moment ago.
func (h *Heartbeat) Alive(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Sub(h.lastRenewal) < maxSilence
}
