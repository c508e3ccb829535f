//go:build e2e

package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// TestEtcdRollout changes the members of etcd while clients write: they are replaced one by
// one, the leader last, and a version that cannot start costs one of them, until the spec is set
// back. No write is lost, and no Vault pod is touched.
func TestEtcdRollout(t *testing.T) {
	t.Parallel()
	f := newFixtureOf(t, "etcd", 2, `{nodes: 2, storage: {etcd: {whenDeleted: Delete}}}`)
	vaults := f.containers(t, "server")
	t.Run("other resources and larger volumes", func(t *testing.T) { f.changeEtcd(t) })
	t.Run("a version that cannot start", func(t *testing.T) { f.badEtcdVersion(t) })
	if now := f.containers(t, "server"); now != vaults {
		t.Errorf("Vault runs in %s, and ran in %s", now, vaults)
	}
}

// etcdLeader is the name of the pod that leads.
func (f *fixture) etcdLeader(t *testing.T) (leader string) {
	t.Helper()
	shell.Eventually(t, "a member of etcd leads", time.Minute, func() error {
		if leader = f.leaderNow(); leader == "" {
			return errors.New("none does")
		}
		return nil
	})
	return leader
}

// leaderNow is the name of the pod that leads, if there is one.
func (f *fixture) leaderNow() string {
	for _, pod := range []string{f.Name + "-etcd-0", f.Name + "-etcd-1", f.Name + "-etcd-2"} {
		// One that does not run cannot tell.
		if status, err := shell.Try(f.Kubectl("exec %s -- etcdctl endpoint status", pod)); err == nil &&
			strings.Contains(status, ", true,") {
			return pod
		}
	}
	return ""
}

// changeEtcd replaces all members.
func (f *fixture) changeEtcd(t *testing.T) {
	f.awaitMembers(t)
	// Another may lead after a while, without a reason that the test knows.
	led := []string{f.etcdLeader(t)}
	var order []string
	r := f.underLoad(t, func(string) {
		setSpec(t, f.Vault,
			`{"storage": {"etcd": {"volumeSize": "3Gi", "resources": {"requests": {"memory": "129Mi"}}}}}`)
		f.Await(t, "has replaced its members", func(v1alpha1.VaultStatus) bool {
			out, err := shell.Try(f.Kubectl(`get pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=etcd `+
				`-o jsonpath='{range .items[*]}{.metadata.name} {.spec.containers[0].resources.requests.memory}{"\n"}{end}'`,
				f.Name))
			if err != nil {
				return false
			}
			if leader := f.leaderNow(); len(order) < 2 && leader != "" && !slices.Contains(led, leader) {
				led = append(led, leader)
			}
			var pods []string
			for line := range strings.Lines(out) {
				if pod, changed := strings.CutSuffix(strings.TrimSpace(line), " 129Mi"); changed {
					pods = append(pods, pod)
				}
			}
			for _, pod := range pods {
				if !slices.Contains(order, pod) {
					order = append(order, pod)
				}
			}
			return len(order) == 3
		})
		awaitCondition(t, f.Vault, 3*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated)
	}, longTimeout)
	if !slices.Contains(led, order[len(order)-1]) {
		t.Errorf("members were replaced in the order %v, and %v led", order, led)
	}
	requireOutage(t, r, outageBesideOthers)
	f.awaitMembers(t)
	requireVolumes(t, f.Vault, "3Gi")
	args := shell.Run(t, f.Kubectl("get pod %s-etcd-0 -o jsonpath={.spec.containers[0].command}", f.Name))
	if !strings.Contains(args, "--quota-backend-bytes=1476395008") {
		t.Errorf("etcd runs with %s", args)
	}
}

// badEtcdVersion goes to a version that does not exist, which costs one member, and back.
func (f *fixture) badEtcdVersion(t *testing.T) {
	onlyInAll(t, "TestUpgrade does so with Vault")
	leader := f.etcdLeader(t)
	r := f.underLoad(t, func(string) {
		setSpec(t, f.Vault, `{"storage": {"etcd": {"version": "3.6.99"}}}`)
		awaitCondition(t, f.Vault, 3*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionFalse,
			v1alpha1.ReasonNodeFailing, "ImagePullBackOff")
		time.Sleep(20 * time.Second) // it must stay at one
		awaitStorage(t, f.Vault, metav1.ConditionTrue, "2 of 3 etcd members are ready")
		// Another may lead by now: that no member responds in time is enough on a busy machine.
		failing := shell.Run(t, f.Kubectl(`get pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=etcd `+
			`-o jsonpath='{.items[?(@.status.containerStatuses[0].ready==false)].metadata.name}'`, f.Name))
		if failing == leader || strings.Contains(failing, " ") {
			t.Errorf("the version has cost %q, and %s led", failing, leader)
		}
		setSpec(t, f.Vault, `{"storage": {"etcd": {"version": null}}}`)
		awaitCondition(t, f.Vault, 3*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated)
	}, longTimeout)
	requireOutage(t, r, outageBesideOthers)
	f.awaitMembers(t)
}
