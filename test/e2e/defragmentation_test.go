//go:build e2e

package e2e

import (
	"regexp"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// TestDefragmentation fills the storage up and deletes what was written. The operator has one
// member after the other give the space back, the one that led at the end, and then the storage can be
// written to again.
func TestDefragmentation(t *testing.T) {
	onlyInAll(t, "the integration test of this name does not wait for etcd to forget")
	t.Parallel()
	r := &recovery{fixture: newFixtureOf(t, "grown", 2,
		`{nodes: 2, storage: {etcd: {volumeSize: 512Mi, whenDeleted: Delete}}}`)}
	r.awaitMembers(t)
	active := r.fill(t)
	led := r.etcdLeader(t)
	r.empty(t, active)
	// etcd forgets by itself what is older than five minutes.
	const etcdctl = "exec grown-etcd-0 -- etcdctl "
	shell.Run(t, r.Kubectl(etcdctl+"compaction --physical $(")+
		r.Kubectl(etcdctl+"endpoint status --write-out=json")+` | grep -o '"revision":[0-9]*' | cut -d: -f2)`)
	awaitCondition(t, r.Vault, 20*time.Minute, v1alpha1.StorageReadyCondition, metav1.ConditionTrue,
		v1alpha1.ReasonQuorum, "3 of 3")
	awaitEvent(t, r.Vault, "AlarmDisarmed", "written to", r.began)
	out := shell.Run(t, r.Kubectl("get events --field-selector reason=Defragmented --sort-by=.lastTimestamp "+
		"-o jsonpath='{range .items[*]}{.message}{\"\\n\"}{end}'"))
	t.Log(out)
	line := regexp.MustCompile(`member (\S+) was defragmented, from 1[23][0-9] MiB to [0-9] MiB`)
	order := line.FindAllStringSubmatch(out, -1)
	if len(order) != 3 || order[2][1] != led {
		t.Errorf("%s led", led)
	}
	if out, err := r.inPod(active, "vault write secret/small value=x"); err != nil {
		t.Errorf("the storage takes no writes: %s", out)
	}
}
