//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// disaster is a Vault that things happen to, whose person has docs/recovery.md.
type disaster struct {
	*fixture
	// page are the blocks of command lines of docs/recovery.md by their heading.
	page map[string][]string
	// env is where these lines find the Vault, and dir where they leave files.
	env []string
	dir string
	// written is how many secrets have to be there.
	written int
	// began is when the last disaster did.
	began time.Time
}

// TestRecovery makes each disaster of docs/recovery.md happen, and does what the
// page says, in the words of the page.
func TestRecovery(t *testing.T) {
	page := commandsOf(t, "../../docs/recovery.md")
	// Of the smallest volumes, so that they are full soon.
	d := &disaster{fixture: newFixtureOf(t, "example", 2, `{storage: {etcd: {volumeSize: 512Mi, whenDeleted: Delete}}}`), page: page}
	d.dir = t.TempDir()
	config := filepath.Join(d.dir, "kubeconfig")
	shell.Run(t, "kubectl config view --raw --flatten >"+config+" && kubectl --kubeconfig="+config+" config set-context --current --namespace="+d.Namespace)
	d.env = []string{"KUBECONFIG=" + config}

	const vaultPods = "-l app.kubernetes.io/instance=example,app.kubernetes.io/component=server"
	const etcdPods = "-l app.kubernetes.io/instance=example,app.kubernetes.io/component=etcd"
	const allPods = "-l app.kubernetes.io/instance=example"
	kill := func(t *testing.T, pods string) {
		d.began = time.Now()
		shell.Run(t, d.Kubectl("delete pods --force --grace-period=0 %s", pods))
	}

	d.survives(t, "All Vault pods are killed", func(t *testing.T) {
		kill(t, vaultPods)
		d.AwaitSealed(t, 2)
		d.expect(t, v1alpha1.AvailableCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal, "vault operator unseal")
		d.expectEvent(t, "NoActiveNode")
		d.look(t)
		d.unseal(t)
		d.follow(t, "All Vault pods are killed")
	})
	d.survives(t, "All etcd pods are killed", func(t *testing.T) {
		kill(t, etcdPods)
		d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum, "not ready: example-etcd-0")
		d.expectEvent(t, v1alpha1.ReasonNoQuorum)
		d.look(t)
		d.follow(t, "All etcd pods are killed")
	})
	d.survives(t, "An etcd member has lost its volume", func(t *testing.T) {
		shell.Run(t, d.Kubectl("delete pvc data-example-etcd-1 --wait=false"))
		kill(t, "example-etcd-1")
		d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonMembersNotReady, "has already been bootstrapped")
		d.expectEvent(t, v1alpha1.ReasonMembersNotReady)
		d.expect(t, v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive, "")
		d.look(t)
		d.follow(t, "An etcd member has lost its volume")
	})
	d.survives(t, "Most etcd members are away", func(t *testing.T) {
		// Nothing can be started in the namespace, as on a cluster without machines.
		shell.Run(t, d.Kubectl("create quota nothing --hard=pods=0"))
		kill(t, "example-etcd-0 example-etcd-2")
		d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum, "not ready: example-etcd-0 (it has no pod")
		d.Await(t, "has no active node", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active == "" })
		available := d.condition(t, v1alpha1.AvailableCondition)
		if available.Status == metav1.ConditionTrue || !strings.Contains(available.Message, v1alpha1.StorageReadyCondition) {
			t.Errorf("Available does not say that it is for the storage: %+v", available)
		}
		d.look(t)
		shell.Run(t, d.Kubectl("delete quota nothing"))
		d.follow(t, "Most etcd members are away")
	})
	d.survives(t, "Everything is restarted at once", func(t *testing.T) {
		kill(t, allPods)
		d.expectEvent(t, v1alpha1.ReasonNoQuorum)
		d.look(t)
		d.AwaitSealed(t, 2)
		d.unseal(t)
		d.follow(t, "Everything is restarted at once")
	})
	t.Run("The storage is full", func(t *testing.T) { d.full(t) })
	if everything() {
		d.survives(t, "The CAs are lost", func(t *testing.T) { d.loseCAs(t) })
		t.Run("Most volumes are lost", func(t *testing.T) { d.loseVolumes(t) })
	}
}

// commandsOf returns the blocks of command lines of a page, those that are indented by
// four spaces, by the heading that they are under.
func commandsOf(t *testing.T, file string) map[string][]string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	commands, heading, inBlock := map[string][]string{}, "", false
	for line := range strings.Lines(string(content)) {
		if text, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(text)
		}
		command, ok := strings.CutPrefix(line, "    ")
		switch blocks := commands[heading]; {
		case ok && inBlock:
			blocks[len(blocks)-1] += command
		case ok:
			commands[heading] = append(blocks, command)
		}
		inBlock = ok
	}
	return commands
}

// follow runs the command lines of a section of the page.
func (d *disaster) follow(t *testing.T, heading string) {
	t.Helper()
	if len(d.page[heading]) == 0 {
		t.Fatalf("the page has no commands under %q", heading)
	}
	d.run(t, d.page[heading]...)
}

// run runs blocks of command lines as an administrator would.
func (d *disaster) run(t *testing.T, blocks ...string) {
	t.Helper()
	t.Logf("%s", shell.Run(t, "set -ex\ncd "+d.dir+"\n"+strings.Join(blocks, ""), d.env...))
}

// look logs what an administrator sees.
func (d *disaster) look(t *testing.T) {
	t.Helper()
	t.Logf("%s", shell.Run(t, "set -x\n"+strings.Join(d.page["See what is wrong"], ""), d.env...))
}

// survives runs fn, which ends with a Vault that works again, and checks that
// nothing that was written is lost.
func (d *disaster) survives(t *testing.T, what string, fn func(t *testing.T)) {
	t.Run(what, func(t *testing.T) {
		d.write(t)
		node := shell.Run(t, "kubectl get nodes -o jsonpath='{.items[0].metadata.name}'")
		clients := d.start(t, node, 10*time.Minute)
		fn(t)
		d.unseal(t)
		d.AwaitHA(t, 1)
		d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
		if r := clients.stop(t); r.Writes.Requests == r.Writes.Failed {
			t.Errorf("nothing was written: %+v", r.Writes)
		}
		d.readBack(t)
	})
}

func (d *disaster) do(t *testing.T, command string) string {
	t.Helper()
	return d.Do(t, d.AwaitHA(t, 1).VaultStatus.Active, d.keys.RootToken, command)
}

func (d *disaster) write(t *testing.T) {
	t.Helper()
	d.written++
	d.do(t, fmt.Sprintf("vault write secret/before-%[1]d value=%[1]d", d.written))
}

// readBack checks that everything that was written is there, and that more can be.
func (d *disaster) readBack(t *testing.T) {
	t.Helper()
	numbers := fmt.Sprintf("seq %d", d.written)
	if got := d.do(t, "for n in $("+numbers+"); do vault read -field=value secret/before-$n; echo; done"); got != shell.Run(t, numbers) {
		t.Errorf("of %d secrets there are %q", d.written, got)
	}
	d.write(t)
}

// unseal does what the status asks for, until all nodes are unsealed.
func (d *disaster) unseal(t *testing.T) {
	t.Helper()
	d.Await(t, "is unsealed", func(s v1alpha1.VaultStatus) bool {
		for _, pod := range s.VaultStatus.Sealed {
			if err := d.TryUnseal(pod, d.keys); err != nil {
				t.Log(err)
			}
		}
		return s.VaultStatus.Active != "" && len(s.VaultStatus.Standby) == 1
	})
}

func (d *disaster) condition(t *testing.T, conditionType string) metav1.Condition {
	t.Helper()
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	if c := meta.FindStatusCondition(s.Conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// expect waits until a condition says so.
func (d *disaster) expect(t *testing.T, conditionType string, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	shell.Eventually(t, fmt.Sprintf("%s is %s for %s %q", conditionType, status, reason, message), 2*time.Minute, func() error {
		c := d.condition(t, conditionType)
		if c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// expectEvent waits for an event since the disaster began.
func (d *disaster) expectEvent(t *testing.T, reason string) {
	t.Helper()
	shell.Eventually(t, "an event tells of "+reason, 20*time.Second, func() error {
		out, err := shell.Try(d.Kubectl("get events --field-selector reason=%s,involvedObject.name=%s -o jsonpath='{range .items[*]}{.lastTimestamp}{\"\\n\"}{end}'", reason, d.Name))
		for line := range strings.Lines(out) {
			if at, e := time.Parse(time.RFC3339, strings.TrimSpace(line)); e == nil && !at.Before(d.began.Truncate(time.Second)) {
				return nil
			}
		}
		return fmt.Errorf("events: %q (%w)", out, err)
	})
}

// full fills the storage up, and has it emptied.
func (d *disaster) full(t *testing.T) {
	d.write(t)
	active := d.AwaitHA(t, 1).VaultStatus.Active
	d.began = time.Now()
	// 1 MB each, into 128 MiB.
	var out string
	var err error
	for n := 0; n < 200 && err == nil; n += 20 {
		out, err = d.inPod(active, fmt.Sprintf(`
n=%d
for i in $(seq 20); do
	head -c 750000 /dev/urandom | base64 | tr -d '\n' >/tmp/value
	vault write secret/fill-$((n+i)) value=@/tmp/value >/dev/null || exit 1
done`, n))
	}
	if err == nil || !strings.Contains(out, "database space exceeded") {
		t.Fatalf("it was not filled up: %s", out)
	}
	d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonNoSpace, "compacted, defragmented")
	d.expect(t, v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive, v1alpha1.StorageReadyCondition)
	d.expectEvent(t, v1alpha1.ReasonNoSpace)
	d.look(t)
	if _, err := d.inPod(active, "vault write secret/small value=x"); err == nil {
		t.Error("a full storage has taken a write")
	}
	if out, err := d.inPod(active, "vault read secret/foo"); err != nil {
		t.Errorf("a full storage cannot be read: %s", out)
	}
	if out, err := d.inPod(active, "for key in $(vault list secret | grep fill-); do vault delete secret/$key || exit 1; done"); err != nil {
		t.Fatalf("a full storage cannot be emptied: %s", out)
	}
	d.follow(t, "The storage is full")
	d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	d.readBack(t)
}

// loseCAs deletes all Secrets with certificates, and makes them again without a backup.
func (d *disaster) loseCAs(t *testing.T) {
	const heading = "When a certificate authority is lost"
	blocks := commandsOf(t, "../../docs/tls.md")[heading]
	if len(blocks) != 5 {
		t.Fatalf("docs/tls.md has %d blocks of commands under %q", len(blocks), heading)
	}
	take, vaultSecrets, newCA, give, restart := blocks[0], blocks[1], blocks[2], blocks[3], blocks[4]
	shell.Run(t, d.Kubectl("delete secret %[1]s-default-vault-ca %[1]s-default-vault-server-tls %[1]s-default-vault-client-tls %[1]s-etcd-ca %[1]s-etcd-server-tls %[1]s-etcd-client-tls", d.Name))
	d.expect(t, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAuthorityLost, "-etcd-ca")
	status := d.AwaitHA(t, 1).VaultStatus
	d.run(t, take, vaultSecrets, newCA)
	for _, pod := range append(status.Standby, status.Active) {
		shell.Run(t, d.Kubectl("delete pod %s", pod))
		d.AwaitSealed(t, 1)
		d.unseal(t)
	}
	d.run(t, give, restart)
}

// loseVolumes deletes most volumes of etcd for good, and begins with empty ones.
func (d *disaster) loseVolumes(t *testing.T) {
	d.began = time.Now()
	shell.Run(t, d.Kubectl("delete pvc data-example-etcd-0 data-example-etcd-1 --wait=false"))
	shell.Run(t, d.Kubectl("delete pods --force --grace-period=0 example-etcd-0 example-etcd-1"))
	d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonVolumesLost, "data-example-etcd-0")
	d.expectEvent(t, v1alpha1.ReasonVolumesLost)
	d.look(t)
	// Longer than new members would need to found a cluster.
	time.Sleep(20 * time.Second)
	d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonVolumesLost, "data-example-etcd-1")
	d.follow(t, "Most volumes are lost")
	d.expect(t, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	d.AwaitSealed(t, 2)
	d.expect(t, v1alpha1.InitializedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingInit, "")
	d.InitAndUnseal(t, 2)
	d.AwaitHA(t, 1)
}

// inPod runs a script in the pod of a node, with a token.
func (d *disaster) inPod(pod, script string) (string, error) {
	return shell.TryInput(d.keys.RootToken, d.Kubectl(`exec -i %s -- sh -c 'export VAULT_TOKEN=$(cat); %s'`, pod, strings.ReplaceAll(script, "'", `'\''`)))
}
