//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// routingFaults are faults of what lies between the operator and the nodes. The active
// node serves all the while, and has to stay in the Service.
func routingFaults(t *testing.T, f *fixture) {
	t.Run("one replica of the operator cannot reach the active node", func(t *testing.T) { f.blindReplica(t) })
	t.Run("the active node pauses while the others are sealed", func(t *testing.T) { f.pauseAmongSealed(t) })
	t.Run("the label cannot be set", func(t *testing.T) { f.denyLabel(t) })
}

// settled is within how many seconds replicas that see different things have to agree.
const settled = 10 * time.Second

// blindReplica drops, on the Kubernetes node of one replica of the operator, what is sent
// to the active pod. The other replica reaches it, and so do clients.
func (f *fixture) blindReplica(t *testing.T) {
	onlyInAll(t, "TestReplicasThatSeeDifferentThingsSettle has two that do")
	f.spread(t)
	active := f.AwaitHA(t, f.nodes-1).VaultStatus.Active
	home := f.nodeOf(t, active)
	places := operatorNodes(t)
	i := slices.IndexFunc(places, func(node string) bool { return node != home })
	if i < 0 {
		t.Fatalf("all replicas of the operator are on %s", home)
	}
	address := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.status.podIP}'", active))
	route := inNode(t, places[i]) + "ip route %s blackhole " + address + "/32"
	label := f.watchLabel(t)
	c := f.start(t, home, 2*time.Minute)
	func() {
		shell.Run(t, fmt.Sprintf(route, "add"))
		defer shell.Run(t, fmt.Sprintf(route, "del"))
		time.Sleep(settled)
		changes := label.changes()
		if changes >= 5 {
			t.Errorf("the label was changed %d times in %s, want less than 5", changes, settled)
		}
		time.Sleep(settled)
		if now := label.changes(); now != changes {
			t.Errorf("the replicas have not settled: the label was changed another %d times", now-changes)
		}
		if endpoints, err := f.Endpoints(); err != nil || !slices.Equal(endpoints, []string{active}) {
			t.Errorf("the Service leads to %q, want %s (%v)", endpoints, active, err)
		}
	}()
	f.restore(t)
	requireOutage(t, c.stop(t), slack)
}

// pauseAmongSealed stops the active node for moments, again and again, while no other
// node could take over. A request that waits for it is served then.
func (f *fixture) pauseAmongSealed(t *testing.T) {
	onlyInAll(t, "TestHungNodeLeavesTheServiceOnlyForOneThatCouldTakeOver has one that hangs")
	// What comes after needs a whole Vault, also when this fails.
	defer f.restore(t)
	active := f.AwaitHA(t, f.nodes-1).VaultStatus.Active
	for _, pod := range f.AwaitHA(t, f.nodes-1).VaultStatus.Standby {
		shell.Run(t, f.Kubectl("delete pod %s", pod))
	}
	f.AwaitSealed(t, f.nodes-1)
	c := f.start(t, f.nodeOf(t, active), 2*time.Minute, longTimeout)
	for range 5 {
		pid := f.signal(t, active, syscall.SIGSTOP)
		time.Sleep(1300 * time.Millisecond)
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
	}
	requireNoFailure(t, c.stop(t))
}

// denyLabel has the API server refuse the active label on any other pod, and takes the
// active node away.
func (f *fixture) denyLabel(t *testing.T) {
	active := f.AwaitHA(t, f.nodes-1).VaultStatus.Active
	remove := "kubectl delete --ignore-not-found validatingadmissionpolicybinding,validatingadmissionpolicy " + f.Namespace
	defer shell.Run(t, remove)
	shell.Apply(t, strings.NewReplacer("NAMESPACE", f.Namespace, "LABEL", v1alpha1.ActiveLabel).Replace(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAMESPACE}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [pods]}]
  validations:
  - expression: "!('LABEL' in object.metadata.labels) || 'LABEL' in oldObject.metadata.labels"
    message: the test denies it
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAMESPACE}
spec: {policyName: NAMESPACE, validationActions: [Deny]}
`))
	standby := f.AwaitHA(t, f.nodes-1).VaultStatus.Standby[0]
	shell.Eventually(t, "the policy is in force", 30*time.Second, func() error {
		out, err := shell.Try(f.Kubectl("label --dry-run=server pod %s %s=%s", standby, v1alpha1.ActiveLabel,
			v1alpha1.ActiveLabelValue))
		if err == nil {
			return fmt.Errorf("it is not: %s", out)
		}
		return nil
	})
	shell.Run(t, f.Kubectl("delete pod %s", active))
	awaitReported(t, f.Vault, v1alpha1.AvailableCondition, metav1.ConditionFalse, v1alpha1.ReasonNotInService, "")
	if endpoints, err := f.Endpoints(); err != nil || len(endpoints) > 0 {
		t.Errorf("the Service leads to %q (%v): the policy was not in force", endpoints, err)
	}
	shell.Run(t, remove)
	f.restore(t)
	awaitReported(t, f.Vault, v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive, "")
}
