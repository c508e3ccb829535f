package probe

import (
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// The seal of a node is read once if that is Shamir's, and else now and then and whenever
// its state changes.
func TestSeal(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	node.SetSeal(fakevault.Seal{Type: "transit", Unhealthy: true})
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool {
		return h.observation(target.UID).Seal == Seal{Read: true, Type: "transit", Health: SealUnhealthy}
	})
	node.SetSeal(fakevault.Seal{Type: "transit"})
	time.Sleep(3 * burst)
	if reads := node.SealReads(); reads != 2 {
		t.Errorf("the seal was read %d times, want 2 requests", reads)
	}
	node.Set(fakevault.Active)
	waitUntil(t, func() bool {
		return h.observation(target.UID).Seal == Seal{Read: true, Type: "transit", Health: SealHealthy}
	})
}

// A node that changes its state again and again takes its turn every two seconds at most.
func TestSealOfANodeThatFlaps(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	node.SetSeal(fakevault.Seal{Type: "transit"})
	h := newHarness(t)
	begin := time.Now()
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool { return h.observation(target.UID).Seal.Read })
	for i := range 10 {
		node.Set([]fakevault.State{fakevault.Active, fakevault.Sealed}[i%2])
		want := []State{Active, Sealed}[i%2]
		waitUntil(t, func() bool { return h.observation(target.UID).State == want })
	}
	// There are two requests for each.
	if reads, most := node.SealReads(), 2*(1+int(time.Since(begin)/sealRest)); reads > most {
		t.Errorf("there were %d requests for the seal in %v, want %d at most", reads, time.Since(begin), most)
	}
	node.SetSeal(fakevault.Seal{Type: "transit", Unhealthy: true})
	node.Set(fakevault.Standby)
	waitUntil(t, func() bool { return h.observation(target.UID).Seal.Health == SealUnhealthy })
}

func TestShamirIsReadOnce(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool { return h.observation(target.UID).Seal == Seal{Read: true, Type: "shamir"} })
	for _, state := range []fakevault.State{fakevault.Active, fakevault.Standby} {
		node.Set(state)
		time.Sleep(3 * burst)
	}
	if reads := node.SealReads(); reads != 1 {
		t.Errorf("the seal was read %d times, want once", reads)
	}
	// Another process may have another.
	node.SetSeal(fakevault.Seal{Type: "awskms"})
	target.Container = "again"
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool { return h.observation(target.UID).Seal.Type == "awskms" })
}

// A node that waits for a migration to Shamir's keys says so for as long as it does.
func TestSealMigration(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	node.SetSeal(fakevault.Seal{Type: "shamir", Migration: true})
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	waitUntil(t, func() bool {
		return h.observation(target.UID).Seal == Seal{Read: true, Type: "shamir", Migration: true}
	})
	time.Sleep(sealRest)
	node.SetSeal(fakevault.Seal{Type: "shamir"})
	node.Set(fakevault.Active)
	waitUntil(t, func() bool { return h.observation(target.UID).Seal == Seal{Read: true, Type: "shamir"} })
}

// What no seal can be called is not believed, and an endpoint that is not there, as in an
// older Vault, delays no probe.
func TestSealsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"", "a b", "Transit", "x\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		node, target := startNode(t, fakevault.Active)
		node.SetSeal(fakevault.Seal{Type: kind})
		h := newHarness(t)
		h.SetTargets(exampleVault, []Target{target}, false)
		waitUntil(t, func() bool { return h.observation(target.UID).Seal == Seal{Read: true} })
	}
}
