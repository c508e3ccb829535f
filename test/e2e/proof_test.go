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

// TestBackupProof has backups of a Vault on etcd and of one with integrated storage proven by restoring them: what was
// restored reaches nothing, is active all the same, and has the canary. And by one that is lost, one while the operator
// is killed, and one whose keys the operator has not any more.
func TestBackupProof(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	both := startProofs(t)
	etcd, raft := both[0], both[1]
	for _, p := range both {
		p.await(t, metav1.ConditionTrue, v1alpha1.ReasonProvenCanary, "unsealed with the keys of Secret")
		p.suspend(t, true)
	}
	for _, p := range both {
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
	list := newAdministrator(t, etcd.of).run(t, 0, "", "backups")
	if !strings.Contains(list, "stored, intact, restored, unsealed, canary") {
		t.Errorf("the backups are:\n%s", list)
	}

	t.Run("another canary", func(t *testing.T) {
		onlyInAll(t, "a test of internal/backupproof has another value")
		shell.Run(t, etcd.Kubectl(`patch secret canary-of-%s --type=merge -p '{"stringData": {"value": "hawk"}}'`,
			etcd.of.Name))
		etcd.again(t, metav1.ConditionFalse, v1alpha1.ReasonCanaryDiffers, "has another value at secret/data/canary")
		out := shell.Run(t, etcd.Kubectl("get vaultbackupschedules,vaultbackups,events -o yaml"))
		for _, secret := range []string{"tweet", "hawk", etcd.canaryToken(t)} {
			if strings.Contains(out, secret) {
				t.Errorf("%s is told", secret)
			}
		}
	})
	t.Run("without keys", func(t *testing.T) {
		onlyInAll(t, "an integration test ends at Restored")
		setSpec(t, etcd.of, `{"unseal": null}`)
		etcd.again(t, metav1.ConditionTrue, v1alpha1.ReasonProvenRestored, "the Vault has no spec.unseal")
	})
	t.Run("a backup that is lost", func(t *testing.T) {
		onlyInAll(t, "a test of internal/backupproof has a restore that fails")
		b := etcd.backups(t, etcd.schedule())[0]
		key := strings.TrimPrefix(b.Status.Location, "s3://"+s3Bucket+"/")
		etcd.reach(t, func(client *minio.Client) error {
			return client.RemoveObject(t.Context(), s3Bucket, key, minio.RemoveObjectOptions{})
		})
		etcd.again(t, metav1.ConditionFalse, "NotFound", "cannot be restored")
	})
	t.Run("the operator is killed", func(t *testing.T) {
		onlyInAll(t, "an integration test kills it at each step")
		before, err := raft.get()
		if err != nil {
			t.Fatal(err)
		}
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
		shell.Eventually(t, "the proof ends", 8*time.Minute, func() error {
			after, err := raft.get()
			if err != nil {
				return err
			}
			old, now := before.Status.Proof, after.Status.Proof
			if now.Phase != v1alpha1.ProofSucceeded || !old.CompletionTime.Before(now.CompletionTime) {
				return fmt.Errorf("it is %+v", now)
			}
			return nil
		})
		raft.requireTidy(t)
	})
}

// again awaits what comes of another proof.
func (p proven) again(t *testing.T, is metav1.ConditionStatus, reason, text string) {
	t.Helper()
	p.suspend(t, false)
	p.await(t, is, reason, text)
	p.suspend(t, true)
	p.requireTidy(t)
}

// TestBackupProofByKeyService has a backup of a Vault proven that another one unseals: what was restored reaches that
// and no other. It runs alone, since it holds up what pods send that start.
func TestBackupProofByKeyService(t *testing.T) {
	requireLocalCluster(t)
	s3 := startS3(t, newNamespace(t))
	namespace := s3.Namespace
	p := proven{objectStore: s3, of: vaulttest.Vault{Namespace: namespace, Name: "example"}}
	newKeyService(t, namespace, fmt.Sprintf("set -e\nnamespace=%[1]s\nroot=%[1]s\n", namespace))
	shell.Apply(t, manifest(p.of, `{nodes: 1, storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}, seal: {transit: {`+
		`address: "https://root.`+namespace+`.svc:8200", keyName: example, caSecretName: transit-ca, `+
		`credentialsSecretName: transit-token}}, initialization: {shares: 1, threshold: 1, rootToken: Secret, `+
		`allowPlaintext: true}}`))
	p.of.AwaitHA(t, 0)
	p.prove(t)
	p.await(t, metav1.ConditionFalse, v1alpha1.ReasonSealNotProvable, "spec.proof.keyService")

	holdBack(t)
	keyService := `{"keyService": [{"port": 8200, "podSelector": {"matchLabels": {"app.kubernetes.io/instance": "root", ` +
		`"app.kubernetes.io/component": "server"}}}]}`
	shell.Run(t, p.Kubectl(`patch vaultbackupschedule %s --type=merge -p '{"spec": {"proof": %s}}'`, p.schedule(),
		keyService))
	p.await(t, metav1.ConditionTrue, v1alpha1.ReasonProvenCanary, "unsealed by its key service")
	p.suspend(t, true)
	p.requireTidy(t)
	if proof := p.backups(t, p.schedule())[0].Status.Proven; proof.Unsealed == nil || proof.Canary == nil {
		t.Errorf("the backup is proven %+v", proof)
	}
	if active := p.of.AwaitHA(t, 0).VaultStatus.Active; active == "" {
		t.Errorf("%s is not active any more", p.of.Name)
	}
}

// holdBack has nothing of what a pod sends pass in its first seconds, as network plugins do that let pods start only
// when they have their policies: kube-router is not always in time. What pods of one machine send each other passes by
// the same chain.
func holdBack(t *testing.T) {
	t.Helper()
	known := strings.Fields(shell.Run(t, "kubectl get pods -A -o jsonpath='{.items[*].status.podIP}'"))
	nft := func(commands string) {
		for node := range strings.FieldsSeq(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'")) {
			if out, err := shell.Try(inNode(t, node) + "nft -f - <<'EOF'\n" + commands + "\nEOF"); err != nil {
				t.Errorf("nft on %s: %v: %s", node, err, out)
			}
		}
	}
	t.Cleanup(func() { nft("delete table inet hold_back") })
	nft(`table inet hold_back {
	set known { type ipv4_addr; flags dynamic; elements = { ` + strings.Join(known, ", ") + ` } }
	set young { type ipv4_addr; flags dynamic, timeout; timeout 5s; }
	chain forward {
		type filter hook forward priority -10; policy accept;
		ip saddr != 10.244.0.0/16 accept
		ip saddr @young drop
		ip saddr @known accept
		add @known { ip saddr } add @young { ip saddr } drop
	}
}`)
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

// startProofs makes a Vault on etcd and one with integrated storage, each with files of an audit device, a canary, a
// backup, and a proof of that in the next minute.
func startProofs(t *testing.T) []proven {
	t.Helper()
	s3 := startS3(t, newNamespace(t))
	etcd := proven{objectStore: s3, of: vaulttest.Vault{Namespace: s3.Namespace, Name: "remote"}}
	raft := proven{objectStore: s3, of: vaulttest.Vault{Namespace: s3.Namespace, Name: "local"}}
	both := []proven{etcd, raft}
	const unattended = `, nodes: 1, audit: {volumeSize: 64Mi}, initialization: {shares: 5, threshold: 2, ` +
		`rootToken: Secret, allowPlaintext: true}, unseal: {keysSecretName: `
	shell.Apply(t, manifest(etcd.of, `{`+smallEtcd+unattended+`remote-vault-keys}}`))
	shell.Apply(t, manifest(raft.of, `{storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}`+unattended+
		`local-vault-keys}}`))
	for _, p := range both {
		p.of.AwaitHA(t, 0)
		p.asRoot(t, "vault audit enable file file_path=/vault/audit/audit.log")
	}
	for _, p := range both {
		p.prove(t)
	}
	return both
}

// prove writes a canary, and makes a schedule with a backup at once, and a proof of that in the next minute.
func (p proven) prove(t *testing.T) {
	t.Helper()
	p.writeCanary(t)
	shell.Run(t, p.Kubectl("create secret generic token-%s --from-literal=token=%s", p.of.Name,
		keysOf(t, p.of)["root-token"]))
	shell.Apply(t, p.objectStore.schedule(p.schedule(), p.of.Name, fmt.Sprintf(`schedule: "0 3 1 1 *", immediate: true, `+
		`tokenSecretName: token-%[1]s, proof: {schedule: "* * * * *", canary: {path: secret/data/canary, `+
		`secretName: canary-of-%[1]s}}`, p.of.Name)))
}

// proven is a Vault whose backups are proven.
type proven struct {
	objectStore
	of vaulttest.Vault
}

func (p proven) schedule() string { return "of-" + p.of.Name }

// vault is the name of the Vault that is restored into.
func (p proven) vault() string { return p.schedule() + "-proof" }

func (p proven) get() (*v1alpha1.VaultBackupSchedule, error) {
	s := &v1alpha1.VaultBackupSchedule{}
	return s, vaulttest.Get(p.Namespace, p.schedule(), s)
}

func (p proven) suspend(t *testing.T, suspend bool) {
	t.Helper()
	shell.Run(t, p.Kubectl(`patch vaultbackupschedule %s --type=merge -p '{"spec": {"suspend": %t}}'`, p.schedule(),
		suspend))
}

func (p proven) await(t *testing.T, is metav1.ConditionStatus, reason, text string) {
	t.Helper()
	shell.Eventually(t, p.of.Name+" is proven "+reason, 8*time.Minute, func() error {
		s, err := p.get()
		if err != nil {
			return err
		}
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
		left, failed := shell.Try(p.Kubectl("get vaults,vaultrestores,networkpolicies,jobs,pods,pvc,secrets,serviceaccounts,"+
			"services,deployments,statefulsets -o name -l app.kubernetes.io/instance=%s", p.vault()))
		also, err := shell.Try(p.Kubectl("get vaults,vaultrestores,networkpolicies,jobs,pods,serviceaccounts -o name "+
			"-l vault.security.coreos.com/proof-of=%s", p.schedule()))
		s, missing := p.get()
		if err := errors.Join(failed, err, missing); err != nil {
			return err
		}
		if left+also != "" || len(s.Finalizers) > 0 {
			return errors.New(left + also + strings.Join(s.Finalizers, " "))
		}
		return nil
	})
}
