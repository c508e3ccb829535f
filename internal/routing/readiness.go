package routing

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
)

const (
	// readinessCheck is how often it is looked at whether all nodes were probed.
	readinessCheck = 100 * time.Millisecond
	// readinessLimit is how long that is waited for. An operator that is late is
	// better than none.
	readinessLimit = 30 * time.Second
)

// Readiness says that this replica can take the place of another one: its caches
// are synced, and it has probed every Vault node that runs. So a rollout of the
// operator, which waits for it, costs no failover.
type Readiness struct {
	client.Reader
	Engine *probe.Engine

	ready atomic.Bool
}

// Start waits until the replica is ready. The manager calls it when the caches
// are synced.
func (r *Readiness) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readinessLimit)
	defer cancel()
	ticker := time.NewTicker(readinessCheck)
	defer ticker.Stop()
	for !r.allProbed(ctx) {
		select {
		case <-ctx.Done():
			r.ready.Store(true)
			return nil
		case <-ticker.C:
		}
	}
	r.ready.Store(true)
	return nil
}

// NeedLeaderElection says that every replica gets ready.
func (r *Readiness) NeedLeaderElection() bool { return false }

// Check is the check of /readyz.
func (r *Readiness) Check(*http.Request) error {
	if !r.ready.Load() {
		return errors.New("not all Vault nodes were probed yet")
	}
	return nil
}

func (r *Readiness) allProbed(ctx context.Context) bool {
	var vaults v1alpha1.VaultList
	if err := r.List(ctx, &vaults); err != nil {
		return false
	}
	for i := range vaults.Items {
		vault := &vaults.Items[i]
		list, err := pods.List(ctx, r, vault)
		if err != nil {
			return false
		}
		observations := r.Engine.Observations(client.ObjectKeyFromObject(vault))
		for j := range list {
			if _, probed := observations[list[j].UID]; !probed && mustBeProbed(&list[j]) {
				return false
			}
		}
	}
	return true
}

func mustBeProbed(pod *corev1.Pod) bool { return pods.Running(pod) && !pods.Terminating(pod) }
