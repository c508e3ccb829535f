//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestActiveNodeThatIsNotFollowed has a node that does not notice that another one leads. Vault 1.21 ends
// so when a node that is alone is told to step down: nobody can take over, and what waits for the end of its
// leadership is left behind and takes the next such notice for itself.
// https://github.com/hashicorp/vault/issues/18117
func TestActiveNodeThatIsNotFollowed(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	keys, stale, leads := startWithStaleNode(t, v)
	awaitReported(t, v, v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive, stale)
	leadsThere := func() error {
		pods, err := v.Endpoints()
		if err == nil && !slices.Equal(pods, []string{leads}) {
			err = fmt.Errorf("the Service leads to %v, want %s", pods, leads)
		}
		return err
	}
	for range 30 {
		// Both replicas decide, and one may know of the other node a moment later.
		pods, err := v.Endpoints()
		if err == nil && slices.ContainsFunc(pods, func(pod string) bool { return pod != leads }) {
			t.Fatalf("the Service leads to %v, want %s", pods, leads)
		}
		time.Sleep(500 * time.Millisecond)
	}
	shell.Eventually(t, "the Service leads to "+leads, time.Minute, leadsThere)
	if status, err := v.Status(); err != nil || len(status.VaultStatus.ActiveClaims) != 2 {
		t.Errorf("the status is %+v, error %v: the node has noticed", status.VaultStatus, err)
	}
	v.Do(t, leads, keys.RootToken, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")

	// What the condition says to do.
	shell.Run(t, v.Kubectl("delete pod %s", stale))
	v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
	if claims := v.AwaitHA(t, 2).VaultStatus.ActiveClaims; len(claims) > 0 {
		t.Errorf("%v say that they are active", claims)
	}
}

var initialized = regexp.MustCompile(`Initialized +true`)

// startWithStaleNode starts a Vault in which one node says that it is active and another one leads.
func startWithStaleNode(t *testing.T, v vaulttest.Vault) (keys vaulttest.Keys, stale, leads string) {
	t.Helper()
	shell.Apply(t, manifest(v, `{nodes: 3, storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}}`))
	v.AwaitSealed(t, 3)
	stale = v.Name + "-0"
	keys = v.Init(t, stale)
	v.Unseal(t, stale, keys)
	v.Await(t, "has an active node", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active == stale })
	v.Do(t, stale, keys.RootToken, "vault operator step-down")
	shell.Eventually(t, stale+" is active once more", time.Minute, func() error {
		out := shell.Run(t, v.Kubectl("logs %s", stale))
		if strings.Count(out, "acquired lock, enabling active operation") != 2 {
			return errors.New("it has not acquired the lock again")
		}
		return nil
	})
	for _, pod := range []string{v.Name + "-1", v.Name + "-2"} {
		shell.Eventually(t, pod+" has found the active node", time.Minute, func() error {
			// The command fails, since the node is sealed.
			if out, _ := shell.Try(v.Kubectl("exec %s -- vault status", pod)); !initialized.MatchString(out) {
				return errors.New(out)
			}
			return nil
		})
		v.Unseal(t, pod, keys)
		v.Await(t, "has "+pod+" as standby", func(s v1alpha1.VaultStatus) bool {
			return slices.Contains(s.VaultStatus.Standby, pod)
		})
	}
	shell.Eventually(t, "all nodes vote", time.Minute, func() error {
		out := v.Do(t, stale, keys.RootToken, "vault operator raft list-peers -format=json")
		if voters := strings.Count(out, `"voter": true`); voters != 3 {
			return fmt.Errorf("%d do", voters)
		}
		return nil
	})

	f := &fixture{Vault: v}
	f.signal(t, stale, syscall.SIGSTOP)
	leads = v.Await(t, "has another active node", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && s.VaultStatus.Active != stale
	}).VaultStatus.Active
	f.signal(t, stale, syscall.SIGCONT)
	v.Await(t, "has two that say that they are active", func(s v1alpha1.VaultStatus) bool {
		return len(s.VaultStatus.ActiveClaims) == 2 && s.VaultStatus.Active == leads
	})
	return keys, stale, leads
}
