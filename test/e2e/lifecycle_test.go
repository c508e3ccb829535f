//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
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
		shell.Apply(t, manifest(v, `{nodes: 2, `+smallEtcd+`}`))
	}
	a.InitAndUnseal(t, 2)
	status := b.AwaitSealed(t, 2)
	if status.Initialized || status.VaultStatus.Active != "" {
		t.Fatalf("initializing one Vault changed the other: %+v", status)
	}
	b.InitAndUnseal(t, 2)
	a.AwaitHA(t, 1)
	if os.Getenv("LOCAL_CLUSTER") != "" {
		requireConfined(t, a, b)
	}
}

func TestRemoval(t *testing.T) {
	t.Run("data that is kept is found again", func(t *testing.T) {
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
	})
	t.Run("data that is not kept goes, also when the operator was away", func(t *testing.T) {
		v := vaulttest.Vault{Namespace: newNamespace(t), Name: "gone"}
		shell.Apply(t, manifest(v, `{nodes: 1, `+smallEtcd+`}`))
		v.AwaitSealed(t, 1)
		scaleOperator(t, 0)
		shell.Run(t, v.Kubectl("delete vault gone --wait=false"))
		scaleOperator(t, 2)
		awaitNothingLeft(t, v, 0)
	})
	t.Run("a namespace goes, also when the operator was away", func(t *testing.T) {
		v := vaulttest.Vault{Namespace: newNamespace(t), Name: "gone"}
		shell.Apply(t, manifest(v, `{nodes: 1, storage: {etcd: {nodes: 1}}}`))
		v.AwaitSealed(t, 1)
		scaleOperator(t, 0)
		shell.Run(t, "kubectl delete namespace --wait=false "+v.Namespace)
		scaleOperator(t, 2)
		shell.Eventually(t, "namespace is gone", 2*time.Minute, func() error {
			out, err := shell.Try("kubectl get namespace --ignore-not-found " + v.Namespace)
			if err == nil && out != "" {
				err = errors.New(out)
			}
			return err
		})
	})
}

// awaitNothingLeft waits until all that was made for a Vault is gone but its
// volumes.
func awaitNothingLeft(t *testing.T, v vaulttest.Vault, volumes int) {
	t.Helper()
	shell.Eventually(t, "nothing is left", 2*time.Minute, func() error {
		out, err := shell.Try(v.Kubectl(`get vaults,deployments,replicasets,statefulsets,pods,services,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies -o name | grep -v serviceaccount/default || true`))
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
	shell.Eventually(t, fmt.Sprintf("%d volumes are left", volumes), time.Minute, func() error {
		out, err := shell.Try(v.Kubectl("get pvc -o name"))
		if err == nil && len(strings.Fields(out)) != volumes {
			err = errors.New(out)
		}
		return err
	})
}

func scaleOperator(t *testing.T, replicas int) {
	t.Helper()
	deployment := " deployment/vault-operator-controller-manager "
	shell.Run(t, "kubectl -n "+operatorNamespace+" scale"+deployment+fmt.Sprintf("--replicas=%d", replicas))
	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout status --timeout=120s"+deployment)
	if replicas == 0 {
		shell.Run(t, "kubectl -n "+operatorNamespace+" wait --for=delete pod -l app.kubernetes.io/name=vault-operator --timeout=60s")
	}
}

// TestOperatorKilled kills the operator's processes at random moments of a
// Vault's life, and watches that the status is never lost and that the Service
// never has two active pods.
func TestOperatorKilled(t *testing.T) {
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
		shell.Apply(t, manifest(v, `{nodes: 2, `+smallEtcd+`}`))
		keys := v.InitAndUnseal(t, 2)
		active := v.AwaitHA(t, 1).VaultStatus.Active
		shell.Run(t, v.Kubectl("delete pod %s", active))
		v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
		v.AwaitHA(t, 1)
	}()

	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout status --timeout=180s deployment/vault-operator-controller-manager")
	v.AwaitHA(t, 1)
	// The lease of a leader that was killed lives on for a while.
	shell.Eventually(t, "no release is stuck", time.Minute, func() error {
		out, err := shell.Try("kubectl -n " + operatorNamespace + " get secrets -l owner=helm,status!=deployed,status!=superseded,status!=failed" +
			",vault.security.coreos.com/vault-name=" + v.Name + ",vault.security.coreos.com/vault-namespace=" + v.Namespace + " -o name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

// killOperator kills all processes of the operator at once: really, where the
// processes are on this machine, and as well as can be elsewhere.
func killOperator(t *testing.T) {
	out, err := shell.Try(`
pods=$(kubectl -n ` + operatorNamespace + ` get pods -l app.kubernetes.io/name=vault-operator -o name)
if [[ -n ${LOCAL_CLUSTER:-} ]]; then
	for pod in $pods; do kill -KILL $($LOCAL_CLUSTER pid ` + operatorNamespace + `/${pod#pod/} manager) || true; done
else
	kubectl -n ` + operatorNamespace + ` delete --grace-period=0 --force --wait=false $pods
fi`)
	t.Logf("operator killed %v %s", err, out)
}

// watchInvariants fails the test when, at any time until it ends, the status of
// the nodes is missing once it was there, or two pods are in the Service.
func watchInvariants(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	var once sync.Once
	seen := false
	watch(t, v, "vaults", func(_ string, object map[string]any) {
		status, _ := object["status"].(map[string]any)
		_, has := status["vaultStatus"]
		if seen && !has {
			once.Do(func() { t.Errorf("status.vaultStatus went missing: %v", status) })
		}
		seen = seen || has
	})
	watch(t, v, "endpointslices -l kubernetes.io/service-name="+v.Name, func(_ string, object map[string]any) {
		endpoints, _ := object["endpoints"].([]any)
		var ready []any
		for _, endpoint := range endpoints {
			endpoint, _ := endpoint.(map[string]any)
			if conditions, _ := endpoint["conditions"].(map[string]any); conditions["ready"] == true {
				ready = append(ready, endpoint["targetRef"])
			}
		}
		if len(ready) > 1 {
			t.Errorf("two pods are in the Service: %v", ready)
		}
	})
}

// watch calls each for every event that kubectl prints until the test ends: ADDED,
// MODIFIED or DELETED, and the object.
func watch(t *testing.T, v vaulttest.Vault, what string, each func(event string, object map[string]any)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec "+v.Kubectl("get --watch --output-watch-events -o json %s", what))
	cmd.Env = os.Environ()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for decoder := json.NewDecoder(bufio.NewReader(out)); ; {
			var event struct {
				Type   string
				Object map[string]any
			}
			if err := decoder.Decode(&event); err != nil {
				return // the watch was ended
			}
			each(event.Type, event.Object)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait() // it was killed
	})
}
