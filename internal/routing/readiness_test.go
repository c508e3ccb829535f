package routing

import (
	"context"
	"testing"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

func TestReadinessWaitsForEveryNode(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	b.Freeze()
	ended := newPod(vault, "c", "", false)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false),
		ended)
	r := &Readiness{Reader: f.api, Engine: f.Engine}
	done := make(chan error, 1)
	go func() { done <- r.Start(context.Background()) }()
	if r.allProbed(t.Context()) || r.Check(nil) == nil {
		t.Error("ready before any node was probed")
	}
	f.run(t, vault)
	// A node that hangs is one that was probed.
	eventually(t, "the replica is ready", func() bool { return r.Check(nil) == nil })
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := len(f.Engine.Observations(requestFor(vault).NamespacedName)); got != 2 {
		t.Errorf("ready when %d nodes were probed", got)
	}
}
