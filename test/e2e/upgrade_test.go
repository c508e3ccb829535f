//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestUpgrade takes a Vault to a version that does not exist and back, to a newer
// one, and not back from that.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "vault"}
	shell.Apply(t, manifest(v, `{nodes: 2, version: 1.21.0, `+smallEtcd+`}`))
	keys := v.InitAndUnseal(t, 2)
	awaitUpdated(t, v, "1.21.0", 2)

	t.Run("to a version that cannot start, and back", func(t *testing.T) { toBadVersion(t, v) })
	t.Run("to a newer version", func(t *testing.T) { toNewVersion(t, v, keys) })
	t.Run("a downgrade is refused", func(t *testing.T) { toOldVersion(t, v) })
}

// TestUpgradeWithoutRoomForOneMore upgrades a Vault whose pods need a Kubernetes node each, on
// as many nodes: a standby node goes first, and the active one last. Then they need none any more.
func TestUpgradeWithoutRoomForOneMore(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "spread"}
	shell.Apply(t, manifest(v, `{nodes: 3, version: 1.21.0, `+anyStorage+`, pod: {affinity: {podAntiAffinity: {`+
		`requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, `+
		`labelSelector: {matchLabels: {app.kubernetes.io/instance: spread, app.kubernetes.io/component: server}}}]}}}}`))
	keys := v.InitAndUnseal(t, 3)
	first := v.AwaitHA(t, 2).VaultStatus.Active
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	setSpec(t, v, `{"version": "1.21.1"}`)
	var unsealed []string
	for len(unsealed) < 3 {
		status := v.Await(t, "waits for an administrator", func(s v1alpha1.VaultStatus) bool {
			return len(s.VaultStatus.Sealed) == 1 && !slices.Contains(unsealed, s.VaultStatus.Sealed[0])
		})
		if len(unsealed) < 2 && status.VaultStatus.Active != first {
			t.Errorf("%s is active when %d nodes are updated, want still %s", status.VaultStatus.Active, len(unsealed), first)
		}
		awaitCondition(t, v, 3*time.Minute, v1alpha1.ReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal,
			status.VaultStatus.Sealed[0])
		unsealed = append(unsealed, status.VaultStatus.Sealed[0])
		v.Unseal(t, status.VaultStatus.Sealed[0], keys)
	}
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	if status := v.AwaitHA(t, 2); status.Version != "1.21.1" {
		t.Errorf("the nodes run %q", status.Version)
	}
	requireSilence(t, v)
	t.Run("the affinity is weakened in the same change", func(t *testing.T) { weakenAffinity(t, v, keys) })
}

// weakenAffinity takes the required podAntiAffinity away together with another change of the pods. Those that run
// still require it, and keep the new ones off their Kubernetes nodes.
// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity
func weakenAffinity(t *testing.T, v vaulttest.Vault, keys vaulttest.Keys) {
	setSpec(t, v, `{"pod": {"affinity": null, "env": [{"name": "CHANGED", "value": "yes"}]}}`)
	shell.Eventually(t, "all nodes are of the new spec", 3*time.Minute, func() error {
		var vault v1alpha1.Vault
		if err := vaulttest.Get(v.Namespace, v.Name, &vault); err != nil {
			return err
		}
		status := &vault.Status
		v.TryUnsealAll(t, status.VaultStatus.Sealed, keys)
		c := meta.FindStatusCondition(status.Conditions, v1alpha1.UpdatedCondition)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != vault.Generation ||
			len(status.UpdatedNodes) != 3 || status.ReadyNodes != 3 {
			return fmt.Errorf("%q are updated, of the nodes %+v; the condition is %+v", status.UpdatedNodes,
				status.NodeStatuses, c)
		}
		return nil
	})
	v.AwaitHA(t, 2)
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
}

// requireSilence asserts that Vault logs nothing at rest: probes look like no client that
// fails. A node that is too busy to respond in time logs one, so it is looked at again.
func requireSilence(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	time.Sleep(20 * time.Second)
	shell.Eventually(t, "the nodes of "+v.Name+" log nothing", time.Minute, func() error { return silent(v) })
}

func silent(v vaulttest.Vault) error {
	pods, err := shell.Try(v.Kubectl("get pods -l app.kubernetes.io/component=server -o name"))
	if err != nil {
		return err
	}
	for pod := range strings.FieldsSeq(pods) {
		log, err := shell.Try(v.Kubectl("logs %s --since=12s", pod))
		if err == nil && log != "" {
			err = fmt.Errorf("%s logs at rest:\n%s", pod, log)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitUpdated waits until all nodes run the version, and those of another one
// are gone.
func awaitUpdated(t *testing.T, v vaulttest.Vault, version string, nodes int) {
	t.Helper()
	v.Await(t, "is updated to "+version, func(s v1alpha1.VaultStatus) bool {
		return meta.IsStatusConditionTrue(s.Conditions, v1alpha1.UpdatedCondition) && s.Version == version &&
			s.DataVersion == version && int(s.Nodes) == nodes && len(s.UpdatedNodes) == nodes
	})
}

func toBadVersion(t *testing.T, v vaulttest.Vault) {
	before := running(t, v)
	setSpec(t, v, `{"version": "1.99.0"}`)
	// How long it takes to find no image is the registry's affair.
	awaitCondition(t, v, 3*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonNodeFailing)
	awaitReported(t, v, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonNodeFailing, "ImagePullBackOff")
	shown := shell.Run(t, v.Kubectl("get vault %s -o wide", v.Name))
	if !strings.Contains(shown, v1alpha1.ReasonNodeFailing) {
		t.Errorf("kubectl get does not show it:\n%s", shown)
	}
	after := running(t, v)
	for pod := range strings.Lines(before) {
		if !strings.Contains(after, strings.TrimSpace(pod)) {
			t.Errorf("%s was touched, there are\n%s", pod, after)
		}
	}
	status := v.AwaitHA(t, 1)
	if len(status.UpdatedNodes) != 1 {
		t.Errorf("updated nodes are %q, want the first alone", status.UpdatedNodes)
	}

	setSpec(t, v, `{"version": "1.21.0"}`)
	awaitUpdated(t, v, "1.21.0", 2)
	awaitRunning(t, v, before)
}

func toNewVersion(t *testing.T, v vaulttest.Vault, keys vaulttest.Keys) {
	began := time.Now()
	setSpec(t, v, `{"version": "1.21.1"}`)
	for unsealed := ""; ; {
		// The second is the last: the old active node goes when it is unsealed.
		status := v.Await(t, "waits for an administrator", func(s v1alpha1.VaultStatus) bool {
			return len(s.VaultStatus.Sealed) == 1 && s.VaultStatus.Sealed[0] != unsealed
		})
		pod := status.VaultStatus.Sealed[0]
		awaitReported(t, v, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal, pod)
		if status.DataVersion != "1.21.0" {
			t.Errorf("the data is of %q while an old node is active", status.DataVersion)
		}
		if !slices.ContainsFunc(status.NodeStatuses, func(node v1alpha1.NodeStatus) bool {
			return node.Name == pod && node.State == v1alpha1.NodeSealed && node.Version == "1.21.1"
		}) {
			t.Errorf("the nodes are %+v", status.NodeStatuses)
		}
		v.Unseal(t, pod, keys)
		if unsealed != "" {
			break
		}
		unsealed = pod
	}
	awaitUpdated(t, v, "1.21.1", 2)
	awaitEvent(t, v, v1alpha1.ReasonUpdated, "All nodes are of the pod template", began)
}

func toOldVersion(t *testing.T, v vaulttest.Vault) {
	v.AwaitHA(t, 1)
	before := running(t, v)
	setSpec(t, v, `{"version": "1.21.0"}`)
	awaitReported(t, v, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonDowngradeRefused, "1.21.1")
	awaitReported(t, v, "Deployed", metav1.ConditionTrue, "UpgradeSuccessful", "")
	image := shell.Run(t, v.Kubectl("get deployment %s -o jsonpath='{.spec.template.spec.containers[0].image}'", v.Name))
	if !strings.HasSuffix(image, ":1.21.1") {
		t.Errorf("%s is deployed", image)
	}
	awaitRunning(t, v, before)

	setSpec(t, v, `{"allowDowngrade": true}`)
	v.Await(t, "has a node of the old version", func(s v1alpha1.VaultStatus) bool {
		return slices.ContainsFunc(s.NodeStatuses, func(node v1alpha1.NodeStatus) bool {
			return node.State == v1alpha1.NodeSealed && node.Version == "1.21.0"
		})
	})
	setSpec(t, v, `{"version": "1.21.1", "allowDowngrade": null}`)
	awaitUpdated(t, v, "1.21.1", 2)
	awaitRunning(t, v, before)
}
