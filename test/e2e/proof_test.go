//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestBackupProof has backups of a Vault on etcd and of one with integrated storage proven by restoring them, one
// that is lost, and one while the operator is killed. The cluster does not enforce NetworkPolicies, so that
// nothing is unsealed.
func TestBackupProof(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	both := startProofs(t, false, func(string) {})
	etcd, raft := both[0], both[1]
	for _, p := range both {
		p.await(t, metav1.ConditionTrue, v1alpha1.ReasonProvenRestored, "does not enforce NetworkPolicies")
		p.suspend(t, true)
	}
	for _, p := range both {
		p.requireTidy(t)
		b := p.backups(t, p.schedule())[0]
		if proof := b.Status.Proven; proof == nil || proof.Restored == nil || proof.Unsealed != nil {
			t.Errorf("the backup %s is proven %+v", b.Name, proof)
		}
	}
	list := newAdministrator(t, etcd.of).run(t, 0, "", "backups")
	if !strings.Contains(list, "stored, intact, restored") {
		t.Errorf("the backups are:\n%s", list)
	}

	t.Run("a backup that is lost", func(t *testing.T) {
		onlyInAll(t, "a test of internal/backupproof has a restore that fails")
		b := etcd.backups(t, etcd.schedule())[0]
		key := strings.TrimPrefix(b.Status.Location, "s3://"+s3Bucket+"/")
		etcd.reach(t, func(client *minio.Client) error {
			return client.RemoveObject(t.Context(), s3Bucket, key, minio.RemoveObjectOptions{})
		})
		etcd.suspend(t, false)
		etcd.await(t, metav1.ConditionFalse, "NotFound", "cannot be restored")
		etcd.suspend(t, true)
		etcd.requireTidy(t)
	})
	t.Run("the operator is killed", func(t *testing.T) {
		onlyInAll(t, "an integration test kills it at each step")
		before := raft.status(t).Status.Proof
		raft.suspend(t, false)
		for _, kind := range []string{"job " + raft.vault() + "-isolation", "vault " + raft.vault(),
			"job " + raft.vault() + "-restore"} {
			shell.Eventually(t, "there is "+kind, 4*time.Minute, func() error {
				_, err := shell.Try(raft.Kubectl("get %s", kind))
				return err
			})
			raft.suspend(t, true)
			killOperator(t)
		}
		shell.Eventually(t, "the proof ends", 6*time.Minute, func() error {
			after := raft.status(t).Status.Proof
			if after.Phase != v1alpha1.ProofSucceeded || !before.CompletionTime.Before(after.CompletionTime) {
				return fmt.Errorf("it is %+v", after)
			}
			return nil
		})
		raft.requireTidy(t)
	})
}

// TestBackupProofUnsealed has backups proven in a cluster that enforces the NetworkPolicies of the proofs. What
// was restored reaches nothing of what it was backed up from, is active all the same, and has the canary. It runs
// alone: pods that start meanwhile do not reach the API server.
func TestBackupProofUnsealed(t *testing.T) {
	requireLocalCluster(t)
	onlyInAll(t, "")
	both := startProofs(t, true, func(namespace string) {
		enforcePolicies(t, namespace)
	})
	for _, p := range both {
		p.await(t, metav1.ConditionTrue, v1alpha1.ReasonProvenCanary, "unsealed with the keys of Secret")
		p.suspend(t, true)
		p.requireTidy(t)
		b := p.backups(t, p.schedule())[0]
		if proof := b.Status.Proven; proof == nil || proof.Restored == nil || proof.Unsealed == nil || proof.Canary == nil {
			t.Errorf("the backup %s is proven %+v", b.Name, proof)
		}
		p.asRoot(t, "vault token lookup "+p.canaryToken(t)+" | grep last_renewal")
		if active := p.of.AwaitHA(t, 0).VaultStatus.Active; active == "" {
			t.Errorf("%s is not active any more", p.of.Name)
		}
	}
	etcd := both[0]
	shell.Run(t, etcd.Kubectl(`patch secret canary-of-%s --type=merge -p '{"stringData": {"value": "hawk"}}'`,
		etcd.of.Name))
	etcd.suspend(t, false)
	etcd.await(t, metav1.ConditionFalse, v1alpha1.ReasonCanaryDiffers, "has another value at secret/data/canary")
	etcd.suspend(t, true)
	etcd.requireTidy(t)
	out := shell.Run(t, etcd.Kubectl("get vaultbackupschedules,vaultbackups,events -o yaml"))
	for _, secret := range []string{"tweet", "hawk", etcd.canaryToken(t)} {
		if strings.Contains(out, secret) {
			t.Errorf("%s is told", secret)
		}
	}
}

// writeCanary writes a canary as docs/backup.md does.
func (p proven) writeCanary(t *testing.T) {
	t.Helper()
	out := p.asRoot(t, `set -e
vault secrets enable -path=secret -version=2 kv >/dev/null
until vault kv put secret/canary value=tweet >/dev/null 2>&1; do sleep 1; done
echo 'path "secret/data/canary" { capabilities = ["read"] }' | vault policy write canary - >/dev/null
vault token create -orphan -policy=canary -period=768h -field=token`)
	shell.Run(t, p.Kubectl("create secret generic canary-of-%s --from-literal=token=%s --from-literal=value=tweet",
		p.of.Name, strings.TrimSpace(out)))
}

// asRoot runs a vault command on the active node with the root token.
func (p proven) asRoot(t *testing.T, command string) string {
	t.Helper()
	return p.of.Do(t, p.of.AwaitHA(t, 0).VaultStatus.Active, string(keysOf(t, p.of)["root-token"]), command)
}

// canaryToken is the token of the Secret of the canary.
func (p proven) canaryToken(t *testing.T) string {
	t.Helper()
	return shell.Run(t, p.Kubectl("get secret canary-of-%s -o go-template='{{.data.token | base64decode}}'", p.of.Name))
}

// enforcePolicies plays the network plugin for the policies of proofs: on each node the pods that they select reach
// themselves and DNS. Pods that are not known yet do not reach the API server.
func enforcePolicies(t *testing.T, namespace string) {
	t.Helper()
	nodes := strings.Fields(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'"))
	ips := strings.Fields(shell.Run(t, "kubectl get pods -A -o jsonpath='{.items[*].status.podIP}'"))
	nft := func(commands string) {
		for _, node := range nodes {
			if out, err := shell.Try(inNode(t, node) + "nft -f - <<'EOF'\n" + commands + "\nEOF"); err != nil {
				t.Errorf("nft on %s: %v: %s", node, err, out)
			}
		}
	}
	nft(`table inet proof {
	set known { type ipv4_addr; elements = { ` + strings.Join(ips, ", ") + ` } }
	set inside { type ipv4_addr; }
	chain forward {
		type filter hook forward priority -10; policy accept;
		ct state established,related accept
		ip saddr @inside ip daddr @inside accept
		ip saddr @inside meta l4proto { tcp, udp } th dport 53 accept
		ip saddr @inside drop
		ip saddr != @known tcp dport 6443 drop
	}
}`)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
			// All pods of proofs: those of the Job that the policy does not select are known, the others inside.
			out, err := shell.Try("kubectl -n " + namespace + " get pods -l app.kubernetes.io/name=vault -o " +
				`jsonpath='{range .items[*]}{.metadata.labels.app\.kubernetes\.io/instance} ` +
				`{.metadata.labels.app\.kubernetes\.io/component} {.status.podIP}{"\n"}{end}'`)
			if err != nil {
				continue
			}
			commands := ""
			for line := range strings.Lines(out) {
				fields := strings.Fields(line)
				if len(fields) != 3 || !strings.HasSuffix(fields[0], "-proof") {
					continue
				}
				set := "inside"
				if fields[1] == v1alpha1.BackupComponent {
					set = "known"
				}
				commands += fmt.Sprintf("add element inet proof %s { %s }\n", set, fields[2])
			}
			if commands != "" {
				nft(commands)
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		nft("delete table inet proof")
	})
}

// startProofs makes a Vault on etcd and one with integrated storage, each with a backup and a proof of that in the
// next minute, with a canary or without.
func startProofs(t *testing.T, canary bool, before func(namespace string)) []proven {
	t.Helper()
	s3 := startS3(t, newNamespace(t))
	etcd := proven{objectStore: s3, of: vaulttest.Vault{Namespace: s3.Namespace, Name: "remote"}}
	raft := proven{objectStore: s3, of: vaulttest.Vault{Namespace: s3.Namespace, Name: "local"}}
	both := []proven{etcd, raft}
	const unattended = `, nodes: 1, initialization: {shares: 5, threshold: 2, rootToken: Secret, allowPlaintext: true}, ` +
		`unseal: {keysSecretName: `
	shell.Apply(t, manifest(etcd.of, `{`+smallEtcd+unattended+`remote-vault-keys}}`))
	shell.Apply(t, manifest(raft.of, `{storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}`+unattended+
		`local-vault-keys}}`))
	for _, p := range both {
		p.of.AwaitHA(t, 0)
	}
	before(s3.Namespace)
	for _, p := range both {
		of := ""
		if canary {
			p.writeCanary(t)
			of = ", canary: {path: secret/data/canary, secretName: canary-of-" + p.of.Name + "}"
		}
		shell.Run(t, s3.Kubectl("create secret generic token-%s --from-literal=token=%s", p.of.Name,
			keysOf(t, p.of)["root-token"]))
		shell.Apply(t, s3.schedule(p.schedule(), p.of.Name, fmt.Sprintf(`schedule: "0 3 1 1 *", immediate: true, `+
			`tokenSecretName: token-%s, proof: {schedule: "* * * * *"%s}`, p.of.Name, of)))
	}
	return both
}

// proven is a Vault whose backups are proven.
type proven struct {
	objectStore
	of vaulttest.Vault
}

func (p proven) schedule() string { return "of-" + p.of.Name }

// vault is the name of the Vault that is restored into.
func (p proven) vault() string { return p.schedule() + "-proof" }

func (p proven) status(t *testing.T) *v1alpha1.VaultBackupSchedule {
	t.Helper()
	s := &v1alpha1.VaultBackupSchedule{}
	if err := vaulttest.Get(p.Namespace, p.schedule(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (p proven) suspend(t *testing.T, suspend bool) {
	t.Helper()
	shell.Run(t, p.Kubectl(`patch vaultbackupschedule %s --type=merge -p '{"spec": {"suspend": %t}}'`, p.schedule(),
		suspend))
}

func (p proven) await(t *testing.T, is metav1.ConditionStatus, reason, text string) {
	t.Helper()
	shell.Eventually(t, p.of.Name+" is proven "+reason, 6*time.Minute, func() error {
		s := p.status(t)
		c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition)
		if c == nil || c.Status != is || c.Reason != reason || !strings.Contains(c.Message, text) {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})
}

// requireTidy waits until nothing is left of a proof.
func (p proven) requireTidy(t *testing.T) {
	t.Helper()
	shell.Eventually(t, "nothing is left of the proof of "+p.of.Name, 5*time.Minute, func() error {
		out := shell.Run(t, p.Kubectl("get vaults,vaultrestores,networkpolicies,jobs,pods,pvc,secrets,serviceaccounts,"+
			"services,deployments,statefulsets -o name -l app.kubernetes.io/instance=%s", p.vault()))
		out += shell.Run(t, p.Kubectl("get vaults,vaultrestores,networkpolicies,jobs,pods,serviceaccounts -o name "+
			"-l vault.security.coreos.com/proof-of=%s", p.schedule()))
		s := p.status(t)
		if out != "" || len(s.Finalizers) > 0 {
			return errors.New(out + strings.Join(s.Finalizers, " "))
		}
		return nil
	})
}
