//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// outageTime is for how long the API server hangs. A Kubernetes node renews its lease
// every 10 seconds, so several renewals fail.
const outageTime = 30 * time.Second

// catchUp is how long it may take until the operator, Kubernetes' controllers and
// kube-proxy have made their connections and watches anew, one after the other.
const catchUp = 30 * time.Second

// controlPlaneOutage takes away what Vault does not need to serve: the API server and
// the operator.
func controlPlaneOutage(t *testing.T, f *fixture) {
	t.Run("the API server hangs", func(t *testing.T) {
		onlyInAll(t, "it hangs for a shorter time in the next")
		active := f.AwaitHA(t, 2).VaultStatus.Active
		c := f.start(t, f.nodeOf(t, active), 2*time.Minute, longTimeout)
		hangAPIServer(t, func() { time.Sleep(outageTime) })
		f.AwaitHA(t, 2)
		requireNoFailure(t, c.stop(t))
	})
	t.Run("the active process is killed meanwhile", func(t *testing.T) {
		const before = 12 * time.Second
		r := f.underLoad(t, func(active string) {
			pid := f.pid(t, active, "vault")
			c := f.start(t, f.nodeOf(t, active), time.Minute, longTimeout)
			hangAPIServer(t, func() {
				time.Sleep(before)
				requireNoFailure(t, c.stop(t))
				shell.Run(t, fmt.Sprintf("kill -KILL %d", pid))
				// Vault fails over, and the operator cannot point the Service at the new active node.
				time.Sleep(lockTimeout + slack)
			})
			f.awaitOther(t, active)
		})
		requireOutage(t, r, lockTimeout+slack+catchUp)
	})
	t.Run("no operator", func(t *testing.T) {
		onlyInAll(t, "there is none for a while in the next")
		scaleOperator(t, 0)
		defer scaleOperator(t, 2)
		active := f.AwaitHA(t, 2).VaultStatus.Active
		c := f.start(t, f.nodeOf(t, active), time.Minute, longTimeout)
		time.Sleep(10 * time.Second)
		requireNoFailure(t, c.stop(t))
	})
	t.Run("a failover without an operator", func(t *testing.T) {
		var returned time.Time
		r := f.underLoad(t, func(active string) {
			scaleOperator(t, 0)
			shell.Run(t, f.Kubectl("delete pod %s", active))
			// The Service does not point at the new active node before it is back.
			scaleOperator(t, 2)
			returned = time.Now()
			f.awaitOther(t, active)
		})
		if served := r.Writes.OutageBegan.Add(r.Writes.Outage); served.After(returned.Add(catchUp)) {
			t.Errorf("clients were served %s after the operator was back", served.Sub(returned))
		}
	})
}
