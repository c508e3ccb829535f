//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

func TestTwoVaultsSideBySide(t *testing.T) {
	t.Parallel()
	a := vaulttest.Vault{Namespace: newNamespace(t), Name: "same"}
	b := vaulttest.Vault{Namespace: newNamespace(t), Name: "same"}
	for _, v := range []vaulttest.Vault{a, b} {
		shell.Apply(t, manifest(v, fmt.Sprintf(`{nodes: %d, %s}`, several, anyStorage)))
	}
	a.InitAndUnseal(t, several)
	status := b.AwaitSealed(t, several)
	if status.Initialized || status.VaultStatus.Active != "" {
		t.Fatalf("initializing one Vault changed the other: %+v", status)
	}
	b.InitAndUnseal(t, several)
	a.AwaitHA(t, several-1)
	if os.Getenv("LOCAL_CLUSTER") != "" && anyStorage == smallEtcd {
		requireConfined(t, a, b)
	}
}

// TestKeptData deletes a Vault and makes it again, with the data that it had.
func TestKeptData(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "kept"}
	spec := manifest(v, `{nodes: 1, storage: {etcd: {nodes: 1}}}`)
	shell.Apply(t, spec)
	keys := v.InitAndUnseal(t, 1)
	// As Argo CD deletes.
	shell.Run(t, v.Kubectl("delete vault kept --cascade=foreground"))
	awaitNothingLeft(t, v, 1)
	shell.Apply(t, spec)
	status := v.AwaitSealed(t, 1)
	v.Unseal(t, status.VaultStatus.Sealed[0], keys)
	v.AwaitHA(t, 0)
}

// TestRemovalWithoutOperator deletes a Vault and the namespace of another while no operator runs. Both
// go when there is one again.
func TestRemovalWithoutOperator(t *testing.T) {
	gone := vaulttest.Vault{Namespace: newNamespace(t), Name: "gone"}
	inside := vaulttest.Vault{Namespace: newNamespace(t), Name: "inside"}
	shell.Apply(t, manifest(gone, `{nodes: 1, `+anyStorage+`}`))
	shell.Apply(t, manifest(inside, `{nodes: 1, storage: {etcd: {nodes: 1}}}`))
	gone.AwaitSealed(t, 1)
	inside.AwaitSealed(t, 1)
	scaleOperator(t, 0)
	shell.Run(t, gone.Kubectl("delete vault gone --wait=false"))
	shell.Run(t, "kubectl delete namespace --wait=false "+inside.Namespace)
	scaleOperator(t, 2)
	awaitNothingLeft(t, gone, 0)
	shell.Eventually(t, "the namespace is gone", 2*time.Minute, func() error {
		out, err := shell.Try("kubectl get namespace --ignore-not-found " + inside.Namespace)
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

// TestOperatorKilled kills the operator's processes at random moments of a
// Vault's life, and watches that the status is never lost and that the Service
// never has two active pods.
func TestOperatorKilled(t *testing.T) {
	onlyInAll(t, "TestKillsAtRandomMoments does so without a cluster, and TestFaults with a Vault that is initialized")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "survivor"}
	watchInvariants(t, v)

	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for range 6 {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+random.IntN(7)) * time.Second):
				killOperator(t)
			}
		}
	}()
	func() {
		defer func() { close(stop); <-done }()
		shell.Apply(t, manifest(v, fmt.Sprintf(`{nodes: %d, %s}`, several, anyStorage)))
		keys := v.InitAndUnseal(t, several)
		active := v.AwaitHA(t, several-1).VaultStatus.Active
		awaitVotes(t, v, keys.RootToken)
		shell.Run(t, v.Kubectl("delete pod %s", active))
		v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
		v.AwaitHA(t, several-1)
	}()

	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout status --timeout=180s "+
		"deployment/vault-operator-controller-manager")
	v.AwaitHA(t, several-1)
	// The lease of a leader that was killed lives on for a while.
	shell.Eventually(t, "no release is stuck", time.Minute, func() error {
		out, err := shell.Try("kubectl -n " + operatorNamespace +
			" get secrets -l owner=helm,status!=deployed,status!=superseded,status!=failed" +
			",vault.security.coreos.com/vault-name=" + v.Name + ",vault.security.coreos.com/vault-namespace=" + v.Namespace +
			" -o name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}
