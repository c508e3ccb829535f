// Command freshness measures how soon the status of a new Vault lists its nodes
// as sealed, beside how soon Kubernetes itself has their containers running.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// console ends the measurement at the first failure.
type console struct{}

func (console) Helper()             {}
func (console) Logf(string, ...any) {}
func (console) Cleanup(func())      {}
func (console) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "freshness: "+format+"\n", args...)
	os.Exit(1)
}

func main() {
	repetitions := flag.Int("n", 5, "how many Vaults to make, one after the other")
	flag.Parse()
	var t console
	const namespace = "bench-freshness"
	shell.Run(t, "kubectl create namespace "+namespace+" --dry-run=client -o yaml | kubectl apply -f -")
	var sealed, containers []time.Duration
	for i := range *repetitions {
		v := vaulttest.Vault{Namespace: namespace, Name: fmt.Sprintf("bench-%d", i)}
		listed, running := measure(t, v)
		fmt.Printf("%s: all nodes listed as sealed %s after apply; last container started %s after its pod was created\n",
			v.Name, listed, running)
		sealed, containers = append(sealed, listed), append(containers, running)
	}
	shell.Run(t, "kubectl delete namespace "+namespace)
	fmt.Printf("\n%-48s %8s %8s %8s\n", "", "min", "median", "max")
	row("kubectl apply until all nodes are listed as sealed", sealed)
	row("pod created until its container runs (1 s steps)", containers)
}

// measure makes a Vault of two nodes and times it.
func measure(t console, v vaulttest.Vault) (listed, running time.Duration) {
	begin := time.Now()
	shell.Apply(t, fmt.Sprintf(`{apiVersion: vault.security.coreos.com/v1alpha1, kind: Vault, metadata: {name: %s, `+
		`namespace: %s}, spec: {storage: {etcd: {whenDeleted: Delete}}}}`, v.Name, v.Namespace))
	poll.Eventually(t, v.Name+" has its nodes sealed", 3*time.Minute, 50*time.Millisecond, func() error {
		status, err := v.Status()
		if sealed := status.VaultStatus.Sealed; err == nil && len(sealed) != int((&v1alpha1.Vault{}).WantedNodes()) {
			err = fmt.Errorf("sealed are %q", sealed)
		}
		return err
	})
	listed = time.Since(begin).Round(10 * time.Millisecond)

	var pods corev1.PodList
	out := shell.Run(t, v.Kubectl("get pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=server -o json",
		v.Name))
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		t.Fatalf("%v", err)
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Status.ContainerStatuses {
			if container.State.Running != nil {
				running = max(running, container.State.Running.StartedAt.Sub(pod.CreationTimestamp.Time))
			}
		}
	}
	shell.Run(t, v.Kubectl("delete vault %s", v.Name))
	return listed, running
}

func row(what string, values []time.Duration) {
	slices.Sort(values)
	fmt.Printf("%-48s %8s %8s %8s\n", what, values[0], values[len(values)/2], values[len(values)-1])
}
