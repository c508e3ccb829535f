//go:build e2e

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/test/internal/hammer"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// probeInterval is how often the operator probes the nodes while all is well, rounded up.
// For no longer may the label be lost.
const probeInterval = time.Second

// TestOperatorUpgrade replaces the previous version of the operator by this one, while
// clients use a Vault of it. What may happen to that is what docs/upgrading.md says.
func TestOperatorUpgrade(t *testing.T) {
	requireLocalCluster(t)
	t.Cleanup(func() { shell.Run(t, "../../hack/deploy.sh") })
	removeOperator(t)
	// "make e2e" has built it before, which may take long.
	lines := strings.Split(shell.Run(t, "../../hack/previous.sh"), "\n")
	previous := lines[len(lines)-1]
	shell.Run(t, "$LOCAL_CLUSTER load "+previous+"/build/image.tar")
	shell.Run(t, previous+"/hack/deploy.sh")

	f := newFixture(t)
	f.AwaitHA(t, f.nodes-1)
	record := shell.Run(t, f.Kubectl("get secrets -l owner=helm,status=deployed -o name"))
	if record == "" {
		t.Error("the previous version keeps its records elsewhere than this test believes")
	}
	etcd, vaults := f.containers(t, "etcd"), f.containers(t, "server")
	label := f.watchLabel(t)
	c := f.start(t, "node-1", 15*time.Minute, longTimeout)
	shell.Run(t, "../../hack/deploy.sh")

	// The first new pod waits to be unsealed, and nothing else happens.
	f.AwaitSealed(t, 1)
	awaitReported(t, f.Vault, "Deployed", metav1.ConditionTrue, "UpgradeSuccessful", "")
	time.Sleep(10 * time.Second)
	for pod := range strings.Lines(vaults) {
		if now := f.containers(t, "server"); !strings.Contains(now, strings.TrimSpace(pod)) {
			t.Errorf("before a new node is unsealed, %s went; there are\n%s", pod, now)
		}
	}
	if gaps := label.absences(); len(gaps) > 0 {
		t.Errorf("no pod was labelled for %s while the operator was replaced", gaps)
	}
	undisturbed := time.Now()
	f.finishRollout(t)
	r := c.stop(t)
	requireOneHandover(t, r)
	for _, o := range []hammer.Outcome{r.Writes, r.Reads} {
		if o.Failed > 0 && o.FirstFailed.Before(undisturbed) {
			t.Errorf("requests failed before the handover, from %s on: %s", o.FirstFailed, o.LastError)
		}
	}
	var lost []time.Duration
	for _, gap := range label.absences() {
		if gap > probeInterval {
			lost = append(lost, gap)
		}
	}
	if len(lost) > 1 {
		t.Errorf("no pod was labelled for %s, want one handover", lost)
	}
	if now := f.containers(t, "etcd"); now != etcd {
		t.Errorf("members of etcd were replaced:\n%s\nbefore:\n%s", now, etcd)
	}
	f.requireImported(t)

	// "make undeploy" removes the Vaults that are left before the operator that uninstalls them.
	shell.Run(t, "../../hack/undeploy.sh")
	left := shell.Run(t, "kubectl get crds,namespaces -o name | grep -e vault.security -e "+operatorNamespace+" || true")
	if left != "" {
		t.Errorf("after the operator was removed there is\n%s", left)
	}
	shell.Run(t, "../../hack/deploy.sh") // with the CRD
	awaitNothingLeft(t, f.Vault, 0)
}

// requireImported fails the test when the records of the release are not where no tenant
// can write.
func (f *fixture) requireImported(t *testing.T) {
	t.Helper()
	uid := shell.Run(t, f.Kubectl("get vault %s -o jsonpath='{.metadata.uid}'", f.Name))
	records := shell.Run(t, "kubectl -n "+operatorNamespace+" get secrets -l owner=helm,name="+uid+" -o name")
	if records == "" {
		t.Errorf("the operator has no record of release %s", uid)
	}
	shell.Eventually(t, "the records of the previous version are gone", 30*time.Second, func() error {
		out, err := shell.Try(f.Kubectl("get secrets -l owner=helm -o name"))
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}
