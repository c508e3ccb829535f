// Package leader tells whether the leader is alive, sooner than its lease expires. A
// short lease would change its holder on every hiccup, and the status of a Vault must
// not be wrong for as long as a long one lasts.
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
	renewed     string    // holder and time of the last renewal, as the lease has them
	lastRenewal time.Time // when this process saw that renewal first
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

// observe takes note of a lease. The time in it is by the clock of another
// Kubernetes node, so all that counts is that it changes.
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
