//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// scaleOperator sets the number of replicas, and waits until it is so.
func scaleOperator(t *testing.T, replicas int) {
	t.Helper()
	deployment := " deployment/vault-operator-controller-manager "
	shell.Run(t, "kubectl -n "+operatorNamespace+" scale"+deployment+fmt.Sprintf("--replicas=%d", replicas))
	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout status --timeout=120s"+deployment)
	if replicas == 0 {
		shell.Run(t, "kubectl -n "+operatorNamespace+" wait --for=delete pod -l app.kubernetes.io/name=vault-operator "+
			"--timeout=60s")
	}
}

// killOperator kills all processes of the operator at once. Where they are not on this
// machine it deletes their pods by force.
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

// removeOperator removes the operator that came with plain manifests, and leaves the
// CustomResourceDefinition, as docs/install.md says.
func removeOperator(t *testing.T) {
	t.Helper()
	shell.Run(t, "kubectl delete namespace "+operatorNamespace)
	shell.Run(t, "kubectl delete clusterrole,clusterrolebinding,priorityclass,"+
		"validatingadmissionpolicy,validatingadmissionpolicybinding -l app.kubernetes.io/name=vault-operator")
}

// operatorNodes are the Kubernetes nodes that replicas of the operator run on.
func operatorNodes(t *testing.T) []string {
	t.Helper()
	return strings.Fields(shell.Run(t, "kubectl -n "+operatorNamespace+
		` get pods -l app.kubernetes.io/component=controller-manager --field-selector=status.phase=Running -o `+
		`jsonpath='{.items[*].spec.nodeName}'`))
}

// requireOperatorApart fails the test when the replicas of the operator are on one
// node, and would be lost with it.
func requireOperatorApart(t *testing.T) {
	t.Helper()
	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout status --timeout=60s "+
		"deployment/vault-operator-controller-manager")
	nodes := operatorNodes(t)
	slices.Sort(nodes)
	if len(slices.Compact(nodes)) < 2 {
		t.Errorf("the replicas of the operator are on %s alone", nodes)
	}
}

// operatorProcesses names the pods of the operator that stay, and how often each was
// restarted.
func operatorProcesses(t *testing.T) string {
	t.Helper()
	return shell.Run(t, "kubectl -n "+operatorNamespace+` get pods -l app.kubernetes.io/component=controller-manager `+
		`-o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{(index `+
		`.status.containerStatuses 0).restartCount}}{{"\n"}}{{end}}{{end}}'`)
}

// requireProcesses fails the test when a process of the operator has ended since.
func requireProcesses(t *testing.T, before string) {
	t.Helper()
	if now := operatorProcesses(t); now != before {
		t.Errorf("processes of the operator have ended:\n%s\nbefore:\n%s", now, before)
	}
}

// operatorMemory is the most memory that each process of the operator has had, by pod.
func operatorMemory(t *testing.T) map[string]int {
	t.Helper()
	peaks := map[string]int{}
	for line := range strings.Lines(operatorProcesses(t)) {
		pod, _, _ := strings.Cut(line, " ")
		pid := "$($LOCAL_CLUSTER pid " + operatorNamespace + "/" + pod + " manager)"
		out := shell.Run(t, "awk '/^VmHWM/ {print $2}' /proc/"+pid+"/status")
		var kilobytes int
		if _, err := fmt.Sscan(out, &kilobytes); err != nil {
			t.Fatal(err)
		}
		peaks[pod] = kilobytes << 10
	}
	return peaks
}

// newMetricsReader returns the token of a ServiceAccount that may read the metrics.
func newMetricsReader(t *testing.T, namespace string) string {
	t.Helper()
	shell.Run(t, fmt.Sprintf("kubectl -n %[1]s create serviceaccount metrics-reader && kubectl create "+
		"clusterrolebinding %[1]s --clusterrole=vault-operator-metrics-reader --serviceaccount=%[1]s:metrics-reader",
		namespace))
	t.Cleanup(func() { shell.Run(t, "kubectl delete clusterrolebinding "+namespace) })
	return shell.Run(t, "kubectl -n "+namespace+" create token metrics-reader --duration=1h")
}
