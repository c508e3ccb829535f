//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestWhatBelongsToAPod changes the configuration and the certificates under pods that
// run, and asserts that each keeps what it was made with. In "make e2e-all" it counts the requests that fail, so
// that it runs alone.
func TestWhatBelongsToAPod(t *testing.T) {
	if !everything() {
		t.Parallel()
	}
	requireLocalCluster(t)
	// The names of the user guide.
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	watchInvariants(t, v)
	shell.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: example-config, namespace: %s}, `+
		`data: {vault.hcl: "default_lease_ttl = \"1h\"\nmax_lease_ttl = \"10h\""}}`, v.Namespace))
	shell.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: cloud, namespace: %s}, stringData: `+
		`{CLOUD_TOKEN: secret, ca.pem: CA, ETCD_HA_ENABLED: "false", ETCD_ADDR: "https://elsewhere:2379"}}`, v.Namespace))
	shell.Apply(t, manifest(v, `{nodes: 2, configMapName: example-config, storage: {etcd: {whenDeleted: Delete}}, pod: {
		env: [{name: HTTPS_PROXY, value: "http://proxy.invalid"}, {name: NO_PROXY, value: ".svc,.cluster.local"},
			{name: TOKEN, valueFrom: {secretKeyRef: {name: cloud, key: CLOUD_TOKEN}}}],
		envFrom: [{secretRef: {name: cloud}}, {prefix: FROM_, secretRef: {name: cloud}}],
		volumes: [{name: audit, emptyDir: {}},
			{name: cas, secret: {secretName: cloud, items: [{key: ca.pem, path: corporate.pem}]}}],
		volumeMounts: [{name: audit, mountPath: /vault/audit}, {name: cas, mountPath: /etc/ssl/corporate, readOnly: true}],
		serviceAccountAnnotations: {iam.example.com/role: vault}}}`))
	f := fixtureOf(t, v, 2)

	t.Run("it has what the user adds", func(t *testing.T) { f.hasAdditions(t) })
	t.Run("a CA that vanishes is not made again", func(t *testing.T) { f.loseCAs(t) })
	t.Run("an old pod restarts with its own configuration", func(t *testing.T) {
		onlyInAll(t, "an integration test has the configuration of each pod")
		f.restartOld(t)
	})
	ca := newUserCA(t, v)
	t.Run("other certificates cost one handover", func(t *testing.T) { f.changeCertificates(t, ca) })
}

// hasAdditions looks for the environment, the volume and the identity that spec.pod has.
func (f *fixture) hasAdditions(t *testing.T) {
	const script = `echo $HTTPS_PROXY $TOKEN $FROM_CLOUD_TOKEN $(cat /etc/ssl/corporate/corporate.pem)`
	pod := f.AwaitHA(t, f.nodes-1).VaultStatus.Active
	got := shell.Run(t, f.Kubectl("exec %s -- sh -c '%s'", pod, script))
	if got != "http://proxy.invalid secret secret CA" {
		t.Errorf("the pod has %q", got)
	}
	const role = `'{.metadata.annotations.iam\.example\.com/role}'`
	if got := shell.Run(t, f.Kubectl("get serviceaccount %s -o jsonpath=%s", f.Name, role)); got != "vault" {
		t.Errorf("the ServiceAccount has the role %q", got)
	}
	// An audit log in a volume of the user's, and its rotation, as docs/audit.md has it.
	f.Do(t, pod, f.keys.RootToken,
		"vault audit enable file file_path=stdout && vault audit enable -path=audit-file file "+
			"file_path=/vault/audit/audit.log")
	shell.Run(t, f.Kubectl(`exec %s -- sh -c 'mv /vault/audit/audit.log /vault/audit/audit-$(date +%%s).log && kill `+
		`-HUP 1'`, pod))
	shell.Eventually(t, "another audit log is written", 20*time.Second, func() error {
		f.Do(t, pod, f.keys.RootToken, "vault read secret/foo")
		_, err := shell.Try(f.Kubectl("exec %s -- grep secret/foo /vault/audit/audit.log", pod))
		return err
	})
	f.Do(t, pod, f.keys.RootToken, "vault audit disable audit-file")
}

// loseCAs deletes all Secrets of a Vault that runs, and restores them from a backup that
// has no owners, as backup tools do.
func (f *fixture) loseCAs(t *testing.T) {
	all := "-l app.kubernetes.io/instance=" + f.Name
	backup := withoutOwners(t, shell.Run(t, f.Kubectl("get secrets %s -o json", all)))
	before := running(t, f.Vault)
	shell.Run(t, f.Kubectl("delete secrets %s", all))
	awaitReported(t, f.Vault, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAuthorityLost,
		fmt.Sprintf(`"%[1]s-etcd-ca", "%[1]s-default-vault-ca"`, f.Name))
	time.Sleep(5 * time.Second)
	if made := shell.Run(t, f.Kubectl("get secrets %s -o name | grep -e -ca$ || true", all)); made != "" {
		t.Errorf("other CAs were made while pods trust the old ones: %s", made)
	}
	f.AwaitHA(t, f.nodes-1)
	if out, err := shell.TryInput(backup, "kubectl apply --server-side --force-conflicts -f -"); err != nil {
		t.Fatal(out)
	}
	awaitReported(t, f.Vault, v1alpha1.TLSReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonSecretsValid, "")
	if now := running(t, f.Vault); now != before {
		t.Errorf("the pods are\n%s\nand were\n%s", now, before)
	}
	shell.Eventually(t, "what was restored belongs to the Vault again", time.Minute, func() error {
		owners, err := shell.Try(f.Kubectl(`get secrets %s -o jsonpath='{range `+
			`.items[*]}{.metadata.name}={.metadata.ownerReferences[*].name}{"\n"}{end}'`, all))
		for line := range strings.Lines(owners) {
			if name, owner, _ := strings.Cut(strings.TrimSpace(line), "="); err == nil && owner != f.Name {
				err = fmt.Errorf("%s belongs to %q", name, owner)
			}
		}
		return err
	})
	// A member that starts has to be one that the others trust.
	shell.Run(t, f.Kubectl("delete pod %s-etcd-0", f.Name))
	awaitReported(t, f.Vault, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	f.AwaitHA(t, f.nodes-1)
}

// withoutOwners is a list of objects as a backup tool restores it.
func withoutOwners(t *testing.T, list string) string {
	t.Helper()
	var objects struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Items      []map[string]any `json:"items"`
	}
	if err := json.Unmarshal([]byte(list), &objects); err != nil || len(objects.Items) == 0 {
		t.Fatalf("the Secrets of a Vault: %v", err)
	}
	for _, object := range objects.Items {
		metadata, _ := object["metadata"].(map[string]any)
		for _, field := range []string{"ownerReferences", "uid", "resourceVersion", "creationTimestamp", "managedFields"} {
			delete(metadata, field)
		}
	}
	text, err := json.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// restartOld takes the user's configuration out of the spec, and ends the Vault process
// of a pod that was made with it while the rollout waits.
func (f *fixture) restartOld(t *testing.T) {
	old := f.AwaitHA(t, f.nodes-1).VaultStatus.Standby[0]
	setSpec(t, f.Vault, `{"configMapName": null}`)
	shell.Run(t, f.Kubectl("delete configmap example-config"))
	f.AwaitSealed(t, 1)
	// A file of a volume that was changed would have reached the pod by then.
	time.Sleep(70 * time.Second)
	f.signal(t, old, syscall.SIGKILL)
	f.Await(t, "has the old pod sealed", func(s v1alpha1.VaultStatus) bool {
		return slices.Contains(s.VaultStatus.Sealed, old)
	})
	time.Sleep(5 * time.Second)
	restarts := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.status.containerStatuses[0].restartCount}'", old))
	if restarts != "1" {
		t.Errorf("%s was restarted %s times", old, restarts)
	}
	out := shell.Run(t, f.Kubectl("exec %s -- sh -c 'cat /vault/config/*'", old))
	if !strings.Contains(out, "max_lease_ttl") {
		t.Errorf("the old pod has restarted with another configuration:\n%s", out)
	}
	f.Unseal(t, old, f.keys)
	f.finishRollout(t)
}

// changeCertificates has all nodes replaced by such that another CA has signed.
func (f *fixture) changeCertificates(t *testing.T, ca *userCA) {
	onlyInAll(t, "TestChangedCertificatesCostOneHandover does so without a cluster")
	ca.issue(t, 90*24*time.Hour)
	trusted := filepath.Join(t.TempDir(), "both.crt")
	shell.Run(t, "cat "+f.ca+" "+ca.file+" >"+trusted)
	f.ca = trusted
	label := f.watchLabel(t)
	r := f.underLoad(t, func(string) {
		setSpec(t, f.Vault, `{"tls": {"static": {"serverSecret": "mine", "clientSecret": "my-ca"}}}`)
		f.AwaitSealed(t, 1)
		// The old nodes serve on, until the new one is unsealed.
		time.Sleep(15 * time.Second)
		if gaps := label.absences(); len(gaps) > 0 {
			t.Errorf("no pod was labelled for %s before there was another to take over", gaps)
		}
		f.finishRollout(t)
	}, longTimeout)
	requireOneHandover(t, r)
	if gaps := label.absences(); len(gaps) > 1 {
		t.Errorf("no pod was labelled for %s, want one handover", gaps)
	}
}
