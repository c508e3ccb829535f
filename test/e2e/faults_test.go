//go:build e2e

package e2e

import (
	"sync"
	"testing"
)

// TestFaults injects all faults into one Vault that it can have without losing its
// storage, and into another with integrated storage, while clients write and read through their
// Services. TestRecovery is about the storage.
func TestFaults(t *testing.T) {
	f := newFixture(t)
	for _, suite := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"failover", failovers},
		{"control plane outage", controlPlaneOutage},
		{"drain", func(t *testing.T, f *fixture) { drains(t, f) }},
		{"routing", routingFaults},
		{"other tenants", otherTenants},
	} {
		t.Run(suite.name, func(t *testing.T) { suite.run(t, f) })
	}
	// Not before: it would have to be whole again after each fault above. It belongs to the whole test, be
	// it made by the one or the other.
	raft := sync.OnceValue(func() *fixture {
		return newFixtureOf(t, "raft", 3, `{nodes: 3, storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}}`)
	})
	t.Run("integrated storage", func(t *testing.T) { integratedStorage(t, raft()) })
	t.Run("what is about no storage, with integrated storage", func(t *testing.T) {
		onlyInAll(t, "it is with etcd above")
		t.Run("control plane outage", func(t *testing.T) { controlPlaneOutage(t, raft()) })
		t.Run("drain", func(t *testing.T) { drains(t, raft(), f) })
		// Where all others are sealed, the third fault of the routing, no node leads.
		t.Run("one replica of the operator cannot reach the active node", func(t *testing.T) { raft().blindReplica(t) })
		t.Run("the label cannot be set", func(t *testing.T) { raft().denyLabel(t) })
		t.Run("an attack delays nobody's failover", func(t *testing.T) { newTenant(t).attack(t, raft()) })
	})
	t.Run("chaos", func(t *testing.T) { chaosAtRandom(t, f, raft()) })
}
