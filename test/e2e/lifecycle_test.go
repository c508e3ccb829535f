//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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

func TestTwoVaultsSideBySide(t *testing.T) {
	t.Parallel()
	a := vaulttest.Vault{Namespace: newNamespace(t), Name: "same"}
	b := vaulttest.Vault{Namespace: newNamespace(t), Name: "same"}
	local := os.Getenv("LOCAL_CLUSTER") != ""
	if local {
		changeObjects(t, b.Namespace)
	}
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
	if !local {
		return
	}
	before, since := changedUnderPolicy(t, b), time.Now()
	if anyStorage == smallEtcd {
		requireConfined(t, a, b)
		t.Run("a Vault of the name of another's etcd is refused", func(t *testing.T) { nameAsEtcd(t, a) })
	}
	t.Run("a policy that changes what the operator writes causes no loop", func(t *testing.T) {
		time.Sleep(time.Until(since.Add(30 * time.Second)))
		if now := written(t, b); now != before {
			t.Errorf("it is written again and again. Before:\n%s\nNow:\n%s", before, now)
		}
		awaitReported(t, b, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	})
}

// written names what the operator has made for a Vault and its version, and the records of Helm. It leaves out the
// status of objects, which others write.
func written(t *testing.T, v vaulttest.Vault) string {
	t.Helper()
	return shell.Run(t, v.Kubectl(`get deployments,statefulsets,services,networkpolicies,poddisruptionbudgets `+
		`-l app.kubernetes.io/instance=%s -o go-template='{{range .items}}{{.kind}} {{.metadata.name}} {{.metadata.uid}} `+
		`{{or .metadata.generation .metadata.resourceVersion}}{{"\n"}}{{end}}'`, v.Name)+
		" && kubectl -n "+operatorNamespace+" get secrets -l owner=helm,vault.security.coreos.com/vault-name="+v.Name+
		",vault.security.coreos.com/vault-namespace="+v.Namespace+" -o name")
}

// nameAsEtcd makes a Vault whose objects would have the names of those of another's etcd, with either storage, and
// deletes it. The other goes on as it was.
func nameAsEtcd(t *testing.T, v vaulttest.Vault) {
	pods, objects := running(t, v), written(t, v)
	second := vaulttest.Vault{Namespace: v.Namespace, Name: v.Name + "-etcd"}
	for _, storage := range []string{smallEtcd, `storage: {raft: {whenDeleted: Delete}}`} {
		shell.Apply(t, manifest(second, `{nodes: 1, `+storage+`}`))
		awaitReported(t, second, v1alpha1.ReadyCondition, metav1.ConditionFalse, "InstallError",
			`NetworkPolicy "`+second.Name+`"`)
		shell.Run(t, v.Kubectl("delete vault %s --timeout=2m", second.Name))
	}
	if now := running(t, v); now != pods {
		t.Errorf("other pods run. Before:\n%s\nNow:\n%s", pods, now)
	}
	if now := written(t, v); now != objects {
		t.Errorf("the objects are others. Before:\n%s\nNow:\n%s", objects, now)
	}
	v.AwaitHA(t, several-1)
	awaitReported(t, v, v1alpha1.ReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
}

// changeObjects has the API server change the objects of a namespace whenever they are written: all get a label, and
// workloads another number of revisions than the chart has. It takes Kubernetes 1.36.
// https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/
func changeObjects(t *testing.T, namespace string) {
	t.Helper()
	t.Cleanup(func() {
		shell.Run(t, "kubectl delete --ignore-not-found mutatingadmissionpolicybinding,mutatingadmissionpolicy "+namespace)
	})
	shell.Apply(t, strings.ReplaceAll(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: NAMESPACE}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments, statefulsets]}
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [services]}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: |
        has(object.spec.template) ?
          Object{
            metadata: Object.metadata{labels: {"example.com/policy": "changed"}},
            spec: Object.spec{revisionHistoryLimit: 5}
          } :
          Object{metadata: Object.metadata{labels: {"example.com/policy": "changed"}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: NAMESPACE}
spec: {policyName: NAMESPACE}
`, "NAMESPACE", namespace))
	shell.Eventually(t, "the policy is in force", 30*time.Second, func() error {
		out, err := shell.Try("kubectl -n " + namespace + " create service clusterip none --tcp=80 --dry-run=server " +
			"-o jsonpath={.metadata.labels}")
		if err == nil && !strings.Contains(out, "example.com/policy") {
			err = errors.New("a Service has the labels " + out)
		}
		return err
	})
}

// changedUnderPolicy changes the spec of a Vault under changeObjects, and returns what is written then.
func changedUnderPolicy(t *testing.T, v vaulttest.Vault) string {
	t.Helper()
	setSpec(t, v, `{"service": {"annotations": {"example.com/note": "yes"}}}`)
	shell.Eventually(t, "it is deployed", time.Minute, func() error {
		var vault v1alpha1.Vault
		if err := vaulttest.Get(v.Namespace, v.Name, &vault); err != nil {
			return err
		}
		c := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.DeployedCondition)
		if c == nil || c.Reason != "UpgradeSuccessful" || c.ObservedGeneration != vault.Generation {
			return fmt.Errorf("generation %d: %+v", vault.Generation, c)
		}
		return nil
	})
	const objects = "get deployments,statefulsets,services -l "
	of := "app.kubernetes.io/instance=" + v.Name
	if out := shell.Run(t, v.Kubectl(objects+"'%s,example.com/policy!=changed' -o name", of)); out != "" {
		t.Errorf("the policy has not changed %s", out)
	}
	limits := strings.Fields(shell.Run(t, v.Kubectl(
		"get deployments,statefulsets -l %s -o jsonpath='{.items[*].spec.revisionHistoryLimit}'", of)))
	if slices.ContainsFunc(limits, func(limit string) bool { return limit != "5" }) {
		t.Errorf("the limits of revisions are %q, want that of the policy", limits)
	}
	return written(t, v)
}

// TestKeptData deletes a Vault and makes it again, with the data that it had and the keys of before.
func TestKeptData(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "kept"}
	spec := manifest(v, `{nodes: 1, storage: {etcd: {nodes: 1}}}`)
	shell.Apply(t, spec)
	keys := v.InitAndUnseal(t, 1)
	v.Do(t, v.AwaitHA(t, 0).VaultStatus.Active, keys.RootToken,
		"vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	// As Argo CD deletes.
	shell.Run(t, v.Kubectl("delete vault kept --cascade=foreground"))
	awaitNothingLeft(t, v, 1)
	shell.Apply(t, spec)
	pod := v.AwaitSealed(t, 1).VaultStatus.Sealed[0]
	awaitCondition(t, v, time.Minute, v1alpha1.InitializedCondition, metav1.ConditionTrue, v1alpha1.ReasonDataFound,
		"unsealed with the keys of that one")
	awaitCondition(t, v, time.Minute, v1alpha1.UnsealedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal,
		"vault operator unseal", pod)
	awaitEvent(t, v, v1alpha1.ReasonDataFound, "unsealed with the keys of that one", time.Time{})
	v.Unseal(t, pod, keys)
	requireValue(t, v, v.AwaitHA(t, 0).VaultStatus.Active, keys.RootToken)

	// What was deleted had been initialized, and this was not.
	events := shell.Run(t, v.Kubectl("get events --field-selector=reason=Initialized,involvedObject.uid=$(%s)",
		v.Kubectl("get vault kept -o jsonpath={.metadata.uid}"))+" -o jsonpath='{.items[*].message}'")
	if events != "" {
		t.Errorf("the second Vault has the events %s", events)
	}
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
	shell.Run(t, "kubectl wait --for=delete --timeout=2m namespace/"+inside.Namespace)
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
