//go:build e2e

package e2e

import "testing"

// TestFaults injects all faults into one Vault that it can have without losing its
// storage, while clients write and read through its Service. TestRecovery is about
// its storage.
func TestFaults(t *testing.T) {
	f := newFixture(t)
	for _, suite := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"failover", failovers},
		{"control plane outage", controlPlaneOutage},
		{"drain", drains},
		{"routing", routingFaults},
		{"other tenants", otherTenants},
		{"chaos", chaosAtRandom},
	} {
		t.Run(suite.name, func(t *testing.T) { suite.run(t, f) })
	}
}
