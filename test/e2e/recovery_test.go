//go:build e2e

package e2e

import (
	crand "crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// recovery is a Vault that loses things, whose administrator has docs/recovery.md.
type recovery struct {
	*fixture
	// page are the blocks of command lines of docs/recovery.md by their heading.
	page map[string][]string
	// env is where these lines find the Vault, and dir where they leave files.
	env []string
	dir string
	// written is how many secrets have to be there.
	written int
	// began is when the last loss did.
	began time.Time
}

// TestRecovery makes each loss of docs/recovery.md happen, and does what the
// page says, in the words of the page.
func TestRecovery(t *testing.T) {
	t.Parallel()
	page := docs.Commands(t, "../../docs/recovery.md")
	// Of the smallest volumes, so that they are full soon.
	r := &recovery{fixture: newFixtureOf(t, "example", 2, `{storage: {etcd: {volumeSize: 512Mi, whenDeleted: Delete}}}`),
		page: page}
	r.dir = t.TempDir()
	config := filepath.Join(r.dir, "kubeconfig")
	shell.Run(t, "kubectl config view --raw --flatten >"+config+
		" && kubectl --kubeconfig="+config+" config set-context --current --namespace="+r.Namespace)
	r.env = []string{"KUBECONFIG=" + config, "PATH=" + pathWithPlugin(t)}

	const vaultPods = "-l app.kubernetes.io/instance=example,app.kubernetes.io/component=server"
	const etcdPods = "-l app.kubernetes.io/instance=example,app.kubernetes.io/component=etcd"
	const lossOfAll = "both are killed further below"
	const allPods = "-l app.kubernetes.io/instance=example"
	kill := func(t *testing.T, pods string) {
		r.began = time.Now()
		shell.Run(t, r.Kubectl("delete pods --force --grace-period=0 %s", pods))
	}

	r.survives(t, "All Vault pods are killed", func(t *testing.T) {
		onlyInAll(t, lossOfAll)
		kill(t, vaultPods)
		r.AwaitSealed(t, 2)
		r.awaitCondition(t, v1alpha1.AvailableCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal,
			"vault operator unseal")
		r.awaitEvent(t, "NoActiveNode")
		r.look(t)
		r.unseal(t)
		r.follow(t, "All Vault pods are killed")
	})
	r.survives(t, "All etcd pods are killed", func(t *testing.T) {
		onlyInAll(t, lossOfAll)
		kill(t, etcdPods)
		r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum,
			"not ready: example-etcd-0")
		r.awaitEvent(t, v1alpha1.ReasonNoQuorum)
		r.look(t)
		r.follow(t, "All etcd pods are killed")
	})
	r.survives(t, "An etcd member has lost its volume", func(t *testing.T) {
		shell.Run(t, r.Kubectl("delete pvc data-example-etcd-1 --wait=false"))
		kill(t, "example-etcd-1")
		r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonMembersNotReady,
			"has already been bootstrapped")
		r.awaitEvent(t, v1alpha1.ReasonMembersNotReady)
		r.awaitCondition(t, v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive, "")
		r.look(t)
		r.follow(t, "An etcd member has lost its volume")
		// Again it finds nothing to do.
		r.run(t, "kubectl vault replace-etcd-member example example-etcd-1 --yes\n")
	})
	r.survives(t, "Most etcd members are away", func(t *testing.T) {
		// Nothing can be started in the namespace, as on a cluster without worker nodes.
		shell.Run(t, r.Kubectl("create quota nothing --hard=pods=0"))
		kill(t, "example-etcd-0 example-etcd-2")
		r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum,
			"not ready: example-etcd-0 (it has no pod")
		r.Await(t, "has no active node", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active == "" })
		available := r.condition(t, v1alpha1.AvailableCondition)
		if available.Status == metav1.ConditionTrue || !strings.Contains(available.Message, v1alpha1.StorageReadyCondition) {
			t.Errorf("Available does not say that it is for the storage: %+v", available)
		}
		r.look(t)
		shell.Run(t, r.Kubectl("delete quota nothing"))
		r.follow(t, "Most etcd members are away")
	})
	r.survives(t, "Everything is restarted at once", func(t *testing.T) {
		kill(t, allPods)
		r.awaitEvent(t, v1alpha1.ReasonNoQuorum)
		r.look(t)
		r.AwaitSealed(t, 2)
		r.unseal(t)
		r.follow(t, "Everything is restarted at once")
		r.follow(t, "All etcd pods are killed")
		r.follow(t, "All Vault pods are killed")
	})
	t.Run("The storage is full", func(t *testing.T) { r.full(t) })
	if everything() {
		r.survives(t, "The CAs are lost", func(t *testing.T) { r.loseCAs(t) })
		t.Run("Most volumes are lost", func(t *testing.T) { r.loseVolumes(t) })
	}
}

// follow runs the command lines of a section of the page.
func (r *recovery) follow(t *testing.T, heading string) {
	t.Helper()
	if len(r.page[heading]) == 0 {
		t.Fatalf("the page has no commands under %q", heading)
	}
	r.run(t, r.page[heading]...)
}

// run runs blocks of command lines as an administrator would.
func (r *recovery) run(t *testing.T, blocks ...string) {
	t.Helper()
	t.Logf("%s", shell.Run(t, "set -ex\ncd "+r.dir+"\n"+strings.Join(blocks, ""), r.env...))
}

// look logs what an administrator sees.
func (r *recovery) look(t *testing.T) {
	t.Helper()
	t.Logf("%s", shell.Run(t, "set -x\n"+strings.Join(r.page["See what is wrong"], ""), r.env...))
}

// survives runs fn, which ends with a Vault that works again, and checks that
// nothing that was written is lost.
func (r *recovery) survives(t *testing.T, what string, fn func(t *testing.T)) {
	t.Run(what, func(t *testing.T) {
		r.write(t)
		node := shell.Run(t, "kubectl get nodes -o jsonpath='{.items[0].metadata.name}'")
		clients := r.start(t, node, 10*time.Minute)
		fn(t)
		r.unseal(t)
		r.AwaitHA(t, 1)
		r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
		if report := clients.stop(t); report.Writes.Requests == report.Writes.Failed {
			t.Errorf("nothing was written: %+v", report.Writes)
		}
		r.readBack(t)
	})
}

func (r *recovery) do(t *testing.T, command string) string {
	t.Helper()
	return r.Do(t, r.AwaitHA(t, 1).VaultStatus.Active, r.keys.RootToken, command)
}

func (r *recovery) write(t *testing.T) {
	t.Helper()
	r.written++
	r.do(t, fmt.Sprintf("vault write secret/before-%[1]d value=%[1]d", r.written))
}

// readBack checks that everything that was written is there, and that more can be.
func (r *recovery) readBack(t *testing.T) {
	t.Helper()
	numbers := fmt.Sprintf("seq %d", r.written)
	got := r.do(t, "for n in $("+numbers+"); do vault read -field=value secret/before-$n; echo; done")
	if got != shell.Run(t, numbers) {
		t.Errorf("of %d secrets there are %q", r.written, got)
	}
	r.write(t)
}

// unseal unseals what the status says is sealed, until all nodes are unsealed.
func (r *recovery) unseal(t *testing.T) {
	t.Helper()
	r.Await(t, "is unsealed", func(s v1alpha1.VaultStatus) bool {
		r.TryUnsealAll(t, s.VaultStatus.Sealed, r.keys)
		return s.VaultStatus.Active != "" && len(s.VaultStatus.Standby) == 1
	})
}

func (r *recovery) condition(t *testing.T, conditionType string) metav1.Condition {
	t.Helper()
	s, err := r.Status()
	if err != nil {
		t.Fatal(err)
	}
	if c := meta.FindStatusCondition(s.Conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// awaitCondition is awaitCondition of the Vault, for as long as a recovery may take.
func (r *recovery) awaitCondition(t *testing.T, conditionType string, status metav1.ConditionStatus,
	reason, text string) {
	t.Helper()
	awaitCondition(t, r.Vault, 2*time.Minute, conditionType, status, reason, text)
}

// awaitEvent waits for an event since the loss began.
func (r *recovery) awaitEvent(t *testing.T, reason string) {
	t.Helper()
	awaitEvent(t, r.Vault, reason, "", r.began)
}

// full fills the storage up, and has it emptied.
func (r *recovery) full(t *testing.T) {
	r.write(t)
	active := r.fill(t)
	r.awaitCondition(t, v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive,
		v1alpha1.StorageReadyCondition)
	r.awaitEvent(t, v1alpha1.ReasonNoSpace)
	r.look(t)
	if _, err := r.inPod(active, "vault write secret/small value=x"); err == nil {
		t.Error("a full storage has taken a write")
	}
	if out, err := r.inPod(active, "vault read secret/foo"); err != nil {
		t.Errorf("a full storage cannot be read: %s", out)
	}
	r.empty(t, active)
	r.follow(t, "The storage is full")
	r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	r.readBack(t)
}

// fill fills the storage of 128 MiB up by what the active node, which it returns, writes.
func (r *recovery) fill(t *testing.T) (active string) {
	t.Helper()
	active = r.AwaitHA(t, 1).VaultStatus.Active
	r.began = time.Now()
	node := nodeClient(t, r.Vault, active, r.keys.RootToken)
	var err error
	isFull := func() bool { return err != nil && strings.Contains(err.Error(), "database space exceeded") }
	for n, others := 0, 0; n < 400 && others < 10 && !isFull(); n++ {
		if err != nil { // of members that do not get to write in time
			others++
			time.Sleep(time.Second)
		}
		value := make([]byte, 500_000) // 1 MB in the storage
		_, _ = crand.Read(value)       // it never fails
		_, err = node.Logical().Write(fmt.Sprint("secret/fill-", n), map[string]any{"value": hex.EncodeToString(value)})
	}
	if !isFull() {
		t.Fatalf("it was not filled up: %v", err)
	}
	r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonNoSpace,
		"compacted, defragmented")
	return active
}

// empty deletes what fill has written.
func (r *recovery) empty(t *testing.T, active string) {
	t.Helper()
	node := nodeClient(t, r.Vault, active, r.keys.RootToken)
	list, err := node.Logical().List("secret")
	if err != nil || list == nil {
		t.Fatalf("a full storage cannot be listed: %v, error %v", list, err)
	}
	for _, key := range list.Data["keys"].([]any) {
		if name := key.(string); strings.HasPrefix(name, "fill-") {
			shell.Eventually(t, name+" is deleted", time.Minute, func() error {
				_, err := node.Logical().Delete("secret/" + name)
				return err
			})
		}
	}
}

// loseCAs deletes all Secrets with certificates, and makes them again without a backup.
func (r *recovery) loseCAs(t *testing.T) {
	const heading = "When a certificate authority is lost"
	blocks := docs.Commands(t, "../../docs/tls.md")[heading]
	if len(blocks) != 5 {
		t.Fatalf("docs/tls.md has %d blocks of commands under %q", len(blocks), heading)
	}
	take, vaultSecrets, newCA, give, restart := blocks[0], blocks[1], blocks[2], blocks[3], blocks[4]
	shell.Run(t, r.Kubectl("delete secret %[1]s-default-vault-ca %[1]s-default-vault-server-tls "+
		"%[1]s-default-vault-client-tls %[1]s-etcd-ca %[1]s-etcd-server-tls %[1]s-etcd-client-tls", r.Name))
	r.awaitCondition(t, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAuthorityLost, "-etcd-ca")
	status := r.AwaitHA(t, 1).VaultStatus
	r.run(t, take, vaultSecrets, newCA)
	for _, pod := range append(status.Standby, status.Active) {
		shell.Run(t, r.Kubectl("delete pod %s", pod))
		r.AwaitSealed(t, 1)
		r.unseal(t)
	}
	r.run(t, give, restart)
}

// loseVolumes deletes most volumes of etcd for good, and begins with empty ones.
func (r *recovery) loseVolumes(t *testing.T) {
	r.began = time.Now()
	shell.Run(t, r.Kubectl("delete pvc data-example-etcd-0 data-example-etcd-1 --wait=false"))
	shell.Run(t, r.Kubectl("delete pods --force --grace-period=0 example-etcd-0 example-etcd-1"))
	r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonVolumesLost,
		"data-example-etcd-0")
	r.awaitEvent(t, v1alpha1.ReasonVolumesLost)
	r.look(t)
	// Longer than new members would need to found a cluster.
	time.Sleep(20 * time.Second)
	r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonVolumesLost,
		"data-example-etcd-1")
	r.follow(t, "Most volumes are lost")
	r.awaitCondition(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	r.AwaitSealed(t, 2)
	r.awaitCondition(t, v1alpha1.InitializedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingInit, "")
	r.InitAndUnseal(t, 2)
	r.AwaitHA(t, 1)
}

// inPod runs a script in the pod of a node, with a token.
func (r *recovery) inPod(pod, script string) (string, error) {
	return shell.TryInput(r.keys.RootToken, r.Kubectl(`exec -i %s -- sh -c 'export VAULT_TOKEN=$(cat); %s'`, pod,
		strings.ReplaceAll(script, "'", `'\''`)))
}
