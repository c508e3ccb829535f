//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// fixture is a Vault that clients use while faults are injected.
type fixture struct {
	vaulttest.Vault
	keys vaulttest.Keys
	// nodes is how many nodes it has when it is whole.
	nodes int
	// replaceAfter is for how long a node may not respond before restore replaces its
	// pod; 0 is for ever.
	replaceAfter time.Duration
	// ca is the file with the CA that clients trust.
	ca string
}

// newFixture makes a Vault of three nodes, with a secret in it.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOf(t, "vault", 3, `{nodes: 3, storage: {etcd: {whenDeleted: Delete}}}`)
}

func newFixtureOf(t *testing.T, name string, nodes int, spec string) *fixture {
	t.Helper()
	requireLocalCluster(t)
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: name}
	watchInvariants(t, v)
	shell.Apply(t, manifest(v, spec))
	return fixtureOf(t, v, nodes)
}

func requireLocalCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("LOCAL_CLUSTER") == "" {
		t.Skip("signals to processes, cut cables and images that no registry has need the local cluster")
	}
}

// fixtureOf initializes a Vault that has three members of etcd, or three nodes with raft,
// and puts a secret in it.
func fixtureOf(t *testing.T, v vaulttest.Vault, nodes int) *fixture {
	t.Helper()
	f := &fixture{Vault: v, nodes: nodes, ca: filepath.Join(t.TempDir(), "ca.crt")}
	f.keys = f.InitAndUnseal(t, nodes)
	shell.Run(t, f.Kubectl(`get secret %s-default-vault-client-tls -o jsonpath='{.data.vault-client-ca\.crt}' | base64 `+
		`-d >%s`, f.Name, f.ca))
	active := f.AwaitHA(t, nodes-1).VaultStatus.Active
	f.Do(t, active, f.keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	// Vault starts with two members of etcd; tests count on the third.
	awaitReported(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	return f
}

// nodeOf is the node that a pod is on.
func (f *fixture) nodeOf(t *testing.T, pod string) string {
	t.Helper()
	return shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.spec.nodeName}'", pod))
}

// awaitOut waits until the Service does not point at the pod.
func (f *fixture) awaitOut(t *testing.T, pod string) {
	t.Helper()
	shell.Eventually(t, pod+" is out of the Service", 30*time.Second, func() error {
		endpoints, err := f.Endpoints()
		if err == nil && slices.Contains(endpoints, pod) {
			err = fmt.Errorf("it is in: %q", endpoints)
		}
		return err
	})
}

// active is the active pod, as soon as there is one: a fault may have been injected a
// moment ago, and a busy node that does not respond to a probe is unreachable until the
// next.
func (f *fixture) active(t *testing.T) string {
	t.Helper()
	return f.Await(t, "has an active node", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != ""
	}).VaultStatus.Active
}

// awaitOther waits until another pod is active.
func (f *fixture) awaitOther(t *testing.T, pod string) {
	t.Helper()
	f.Await(t, "has failed over", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && s.VaultStatus.Active != pod
	})
}

// calm is for how long a Vault has to look whole: what was done to it a moment ago may
// not be in its status yet.
const calm = 2 * time.Second

// restore unseals nodes until all that there should be are unsealed, and the Service
// points at the active one. A pod whose container was killed too often to be started
// again soon is replaced, be it of the Vault or of the operator.
func (f *fixture) restore(t *testing.T) {
	t.Helper()
	var since time.Time
	silent := map[string]time.Time{}
	f.Await(t, "is whole", func(s v1alpha1.VaultStatus) bool {
		f.replaceSilent(t, s.VaultStatus.Unreachable, silent)
		replaceBackingOff(t, f.Namespace, operatorNamespace)
		f.TryUnsealAll(t, s.VaultStatus.Sealed, f.keys)
		endpoints, err := f.Endpoints()
		if err != nil || s.VaultStatus.Active == "" || len(s.VaultStatus.Standby) != f.nodes-1 || int(s.Nodes) != f.nodes ||
			!slices.Equal(endpoints, []string{s.VaultStatus.Active}) {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) >= calm
	})
}

// replaceBackingOff deletes the pods whose containers have ended so often that the kubelet waits before it starts
// them again.
func replaceBackingOff(t *testing.T, namespaces ...string) {
	t.Helper()
	for _, namespace := range namespaces {
		var pods corev1.PodList
		if err := vaulttest.List(namespace, &pods); err != nil {
			t.Log(err)
		}
		for _, pod := range pods.Items {
			for _, c := range pod.Status.ContainerStatuses {
				if c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" {
					shell.Run(t, fmt.Sprintf("kubectl -n %s delete pod --ignore-not-found --wait=false %s", namespace, pod.Name))
				}
			}
		}
	}
}

// replaceSilent deletes the pods of nodes that have not responded for long. Since says
// from when on they have not.
func (f *fixture) replaceSilent(t *testing.T, unreachable []string, since map[string]time.Time) {
	t.Helper()
	maps.DeleteFunc(since, func(pod string, _ time.Time) bool { return !slices.Contains(unreachable, pod) })
	for _, pod := range unreachable {
		if since[pod].IsZero() {
			since[pod] = time.Now()
		}
		if f.replaceAfter > 0 && time.Since(since[pod]) > f.replaceAfter {
			t.Logf("%s does not respond, and is replaced", pod)
			shell.Run(t, f.Kubectl("delete pod --ignore-not-found --wait=false %s", pod))
			delete(since, pod)
		}
	}
}

// finishRollout unseals nodes until the rollout is done.
func (f *fixture) finishRollout(t *testing.T) {
	t.Helper()
	f.restore(t)
	f.Await(t, "is updated", func(s v1alpha1.VaultStatus) bool {
		f.TryUnsealAll(t, s.VaultStatus.Sealed, f.keys)
		return meta.IsStatusConditionTrue(s.Conditions, v1alpha1.UpdatedCondition) && len(s.UpdatedNodes) == f.nodes
	})
	f.restore(t)
}

// spread puts each pod on a node of its own. A drain leaves two of them on one, and
// Kubernetes does not move what runs.
func (f *fixture) spread(t *testing.T) {
	t.Helper()
	shell.Eventually(t, "each pod is on a node of its own", 3*time.Minute, func() error {
		f.restore(t)
		active := f.AwaitHA(t, 2).VaultStatus.Active
		taken := map[string]string{f.nodeOf(t, active): active}
		for _, pod := range f.AwaitHA(t, 2).VaultStatus.Standby {
			node := f.nodeOf(t, pod)
			if other := taken[node]; other != "" {
				shell.Run(t, f.Kubectl("delete pod %s", pod))
				return fmt.Errorf("%s and %s are on %s", pod, other, node)
			}
			taken[node] = pod
		}
		return nil
	})
}

// awaitMembers waits until all members of etcd are ready.
func (f *fixture) awaitMembers(t *testing.T) {
	t.Helper()
	awaitCondition(t, f.Vault, 3*time.Minute, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum)
}

// containers names the containers of a component, and so tells whether one was replaced
// or restarted.
func (f *fixture) containers(t *testing.T, component string) string {
	t.Helper()
	return shell.Run(t, f.Kubectl(`get pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=%s `+
		`-o jsonpath='{range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID}{"\n"}{end}'`, f.Name,
		component))
}
