//go:build e2e

package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// TestRaftRecovery loses the volumes of two of three nodes, and recovers from the third by one
// command, with the rights that the documentation names.
func TestRaftRecovery(t *testing.T) {
	t.Parallel()
	f := newFixtureOf(t, "lostraft", 3, `{nodes: 3, storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}}`)
	a := newAdministrator(t, f.Vault)
	if out := a.run(t, 1, "", "recover-raft"); !strings.Contains(out, "forbidden") {
		t.Errorf("without the rights it says\n%s", out)
	}
	role := docs.Find(t, "../../docs/kubectl-plugin.md",
		regexp.MustCompile("(?s)```yaml\n([^`]*?name: vault-recovery.*?)```"))
	shell.Apply(t, strings.NewReplacer("namespace: default", "namespace: "+f.Namespace).Replace(role))
	shell.Run(t, f.Kubectl("create rolebinding recovery --role=vault-recovery --serviceaccount=%s:administrator",
		f.Namespace))
	if out := a.run(t, 3, "", "recover-raft"); !strings.Contains(out, "is active") {
		t.Errorf("of a Vault that works it says\n%s", out)
	}

	f.Do(t, f.active(t), f.keys.RootToken, "vault write secret/kept value=kept")
	f.awaitRaft(t)              // one that does not vote yet is not missed
	time.Sleep(2 * time.Second) // until all have what is written
	shell.Run(t, f.Kubectl("delete pvc data-lostraft-1 data-lostraft-2 --wait=false"))
	shell.Run(t, f.Kubectl("delete pods --force --grace-period=0 lostraft-1 lostraft-2"))
	awaitCondition(t, f.Vault, 2*time.Minute, v1alpha1.StorageReadyCondition, metav1.ConditionFalse,
		v1alpha1.ReasonVolumesLost, "kubectl vault recover-raft")
	f.Await(t, "has no active node", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active == "" })

	var plan string
	shell.Eventually(t, "the command says what will be lost", time.Minute, func() error {
		var err error
		plan, err = shell.Try(a.kubectlVault("recover-raft", "--dry-run"))
		return err
	})
	if !strings.Contains(plan, "is recovered from lostraft-0") || !strings.Contains(plan, "Lost for good") {
		t.Errorf("it says\n%s", plan)
	}
	a.run(t, 3, "other\n", "recover-raft")
	// Who has too few key shares runs it again with all of them: those that join need all.
	a.run(t, 2, "lostraft\n"+shares(f.keys.UnsealKeys[0]), "recover-raft")
	a.run(t, 0, shares(f.keys.UnsealKeys[:3]...), "recover-raft", "--yes")

	f.AwaitHA(t, 2)
	awaitReported(t, f.Vault, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	for key, want := range map[string]string{"foo": "bar", "kept": "kept"} {
		if got := f.Do(t, f.active(t), f.keys.RootToken, "vault read -field=value secret/"+key); got != want {
			t.Errorf("secret/%s is %q", key, got)
		}
	}
}
