//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestAlerts loads the alerts of docs/metrics.md and docs/audit.md into a real Prometheus, and
// makes each of them fire by the fault that it is for, and end.
func TestAlerts(t *testing.T) {
	onlyInAll(t, "")
	requireLocalCluster(t)
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "watched"}
	// A failover takes longer than the alert allows: a lock has two thirds of its time to live at least when its
	// node is killed.
	shell.Apply(t, manifest(v, `{nodes: 2, storage: {etcd: {lockTimeoutSeconds: 35, whenDeleted: Delete}}}`))
	f := fixtureOf(t, v, 2)
	p := startPrometheus(t, v.Namespace)
	mine := fmt.Sprintf("%s/%s", v.Namespace, v.Name)

	if firing := p.firing(t); len(firing) > 0 {
		t.Errorf("%q fire at rest", firing)
	}
	t.Run("a sealed node", func(t *testing.T) {
		standby := f.AwaitHA(t, 1).VaultStatus.Standby[0]
		f.signal(t, standby, syscall.SIGKILL)
		p.awaitFiring(t, "VaultNodeSealed", mine)
		p.awaitFiring(t, "VaultNotReady", mine)
		p.requireNotFiring(t, "VaultWithoutActiveNode")
		f.restore(t)
		p.awaitEnd(t, "VaultNodeSealed", "VaultNotReady")
	})
	t.Run("a slow failover", func(t *testing.T) {
		active := f.AwaitHA(t, 1).VaultStatus.Active
		f.signal(t, active, syscall.SIGKILL)
		f.awaitOther(t, active)
		p.awaitFiring(t, "VaultFailoverSlow", "")
		f.restore(t)
		p.awaitEnd(t, "VaultFailoverSlow")
	})
	t.Run("no active node", func(t *testing.T) {
		status := f.AwaitHA(t, 1).VaultStatus
		for _, pod := range append(status.Standby, status.Active) {
			f.signal(t, pod, syscall.SIGKILL)
		}
		p.awaitFiring(t, "VaultWithoutActiveNode", mine)
		f.restore(t)
		p.awaitEnd(t, "VaultWithoutActiveNode", "VaultNodeSealed", "VaultNotReady")
	})
	t.Run("a node that does not notice that another one leads", func(t *testing.T) {
		stale := vaulttest.Vault{Namespace: v.Namespace, Name: "stale"}
		startWithStaleNode(t, stale)
		p.awaitFiring(t, "VaultSeveralActiveNodes", stale.Namespace+"/"+stale.Name)
		shell.Run(t, stale.Kubectl("delete vault %s", stale.Name))
		p.awaitEnd(t, "VaultSeveralActiveNodes", "VaultNotReady")
	})
	t.Run("a key service that is away", func(t *testing.T) {
		keyless := vaulttest.Vault{Namespace: v.Namespace, Name: "keyless"}
		shell.Run(t, v.Kubectl("create secret generic nothing --from-literal=token=hvs.none"))
		shell.Apply(t, manifest(keyless, `{nodes: 1, seal: {transit: {address: "https://nowhere.invalid:8200", keyName: `+
			`a, credentialsSecretName: nothing}}, `+smallEtcd+`}`))
		p.awaitFiring(t, "VaultKeyServiceFailing", keyless.Namespace+"/"+keyless.Name)
		shell.Run(t, keyless.Kubectl("delete vault %s", keyless.Name))
		p.awaitEnd(t, "VaultKeyServiceFailing", "VaultNotReady")
	})
	t.Run("a token that ends", func(t *testing.T) {
		root := vaulttest.Vault{Namespace: v.Namespace, Name: "root"}
		shell.Apply(t, manifest(root, `{nodes: 1, `+smallEtcd+`}`))
		keys := root.InitAndUnseal(t, 1)
		shell.Run(t, v.Kubectl("create secret generic ending --from-literal=token=hvs.unknown"))
		ending := vaulttest.Vault{Namespace: v.Namespace, Name: "ending"}
		shell.Apply(t, manifest(ending, `{nodes: 1, seal: {transit: {address: "https://root.`+v.Namespace+`.svc:8200", `+
			`keyName: a, caSecretName: root-default-vault-client-tls, credentialsSecretName: ending}}, `+smallEtcd+`}`))
		p.awaitFiring(t, "VaultSealTokenExpires", ending.Namespace+"/"+ending.Name)
		root.Do(t, root.AwaitHA(t, 0).VaultStatus.Active, keys.RootToken, "vault token create -orphan "+
			"-period=1h -field=token | "+v.Kubectl("create secret generic ending --from-file=token=/dev/stdin "+
			"--dry-run=client -o yaml")+" | "+v.Kubectl("replace -f -"))
		p.awaitEnd(t, "VaultSealTokenExpires")
		shell.Run(t, v.Kubectl("delete vault %s %s", ending.Name, root.Name))
		p.awaitEnd(t, "VaultKeyServiceFailing", "VaultNotReady", "VaultNodeSealed")
	})
	t.Run("an unsteady label", func(t *testing.T) {
		active := f.AwaitHA(t, 1).VaultStatus.Active
		for range 15 {
			shell.Run(t, f.Kubectl("label pod %s %s-", active, v1alpha1.ActiveLabel))
			time.Sleep(time.Second)
		}
		p.awaitFiring(t, "VaultActiveLabelUnsteady", "")
		p.awaitEnd(t, "VaultActiveLabelUnsteady")
	})
	t.Run("a certificate that ends soon", func(t *testing.T) {
		ca := newUserCA(t, v)
		ca.issue(t, 24*time.Hour)
		setSpec(t, v, `{"tls": {"static": {"serverSecret": "mine", "clientSecret": "my-ca"}}}`)
		p.awaitFiring(t, "VaultCertificateExpires", mine)
		ca.issue(t, 90*24*time.Hour)
		p.awaitEnd(t, "VaultCertificateExpires")
	})
	t.Run("a backup that fails", func(t *testing.T) {
		s3 := startS3(t, v.Namespace)
		s3.secret(t, "wrong", "wrong")
		schedule := s3.schedule("often", v.Name, `schedule: "* * * * *", immediate: true, proof: {schedule: "0 5 1 1 *"}`)
		shell.Apply(t, strings.Replace(schedule, "Name: right", "Name: wrong", 1))
		p.awaitFiring(t, "VaultBackupFailing", mine)
		p.awaitFiring(t, "VaultBackupNotProven", mine)
		p.awaitFiring(t, "VaultBackupNotRestored", mine)
		shell.Apply(t, schedule)
		p.awaitEnd(t, "VaultBackupNotProven", "VaultBackupFailing")
		shell.Run(t, v.Kubectl("delete vaultbackupschedule often"))
		p.awaitEnd(t, "VaultBackupNotRestored")
	})
	t.Run("an audit volume that is full", func(t *testing.T) { fillAuditVolume(t, p, v.Namespace) })
}

// volumeStats is for how long the kubelet may take until it tells how full a volume is: it looks for pods that
// are new each minute, and at the volumes of each every one or two.
const volumeStats = 4 * time.Minute

// fillAuditVolume fills one by what is in a folder: what is beside the files of the audit devices is rotated away.
func fillAuditVolume(t *testing.T, p prometheus, namespace string) {
	v := vaulttest.Vault{Namespace: namespace, Name: "audited"}
	shell.Apply(t, manifest(v, fmt.Sprintf(`{nodes: 1, audit: {volumeSize: 64Mi, storageClassName: %s}, %s}`,
		newSizedVolume(t, namespace), smallEtcd)))
	pod := v.AwaitSealed(t, 1).VaultStatus.Sealed[0]
	shell.Run(t, v.Kubectl("exec %s -- sh -c 'mkdir /vault/audit/folder && head -c %d /dev/zero "+
		">/vault/audit/folder/another'", pod, auditVolume*95/100))
	p.awaitFiringWithin(t, volumeStats, "VaultAuditVolumeFull", namespace+"/"+pod+"-audit")
	shell.Run(t, v.Kubectl("exec %s -- rm -r /vault/audit/folder", pod))
	p.awaitEnd(t, "VaultAuditVolumeFull")
	shell.Run(t, v.Kubectl("delete vault %s", v.Name))
	p.awaitEnd(t, "VaultNotReady", "VaultNodeSealed")
}

// newSizedVolume makes a volume with a size of its own, and a StorageClass of that name for it alone. The other
// volumes of the local cluster are directories, of which the kubelet tells how full the machine's disk is.
func newSizedVolume(t *testing.T, name string) (class string) {
	t.Helper()
	dir := t.TempDir()
	shell.Run(t, fmt.Sprintf("mount -t tmpfs -o size=%d tmpfs %s", auditVolume, dir))
	t.Cleanup(func() { shell.Run(t, "umount "+dir) })
	node := shell.Run(t, "kubectl get nodes -o jsonpath='{.items[0].metadata.name}'")
	shell.Apply(t, fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %[1]s}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  storageClassName: %[1]s
  capacity: {storage: 64Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {path: %[2]s}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%[3]s]}]
`, name, dir, node))
	t.Cleanup(func() { shell.Run(t, "kubectl delete --wait=false storageclass,persistentvolume "+name) })
	return name
}

// prometheus is one that scrapes the operator from a node of the cluster.
type prometheus struct {
	// inNode is the start of a command line that runs it in the network of that node.
	inNode string
}

// startPrometheus starts a Prometheus with the alerts of docs/metrics.md and docs/audit.md, which
// wait for seconds where these wait for minutes. It scrapes the operator, and kubelets.
func startPrometheus(t *testing.T, namespace string) prometheus {
	t.Helper()
	dir, token := t.TempDir(), newMetricsReader(t, namespace)
	// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
	shell.Run(t, fmt.Sprintf("kubectl create clusterrole %[1]s-kubelet --verb=get --resource=nodes/metrics && kubectl "+
		"create clusterrolebinding %[1]s-kubelet --clusterrole=%[1]s-kubelet --serviceaccount=%[1]s:metrics-reader",
		namespace))
	t.Cleanup(func() { shell.Run(t, "kubectl delete clusterrole,clusterrolebinding "+namespace+"-kubelet") })
	kubelets := strings.Fields(shell.Run(t, `kubectl get nodes -o jsonpath='{range .items[*]}{.status.addresses`+
		`[?(@.type=="InternalIP")].address}:10250 {end}'`))
	var targets strings.Builder
	replicas := shell.Run(t,
		"kubectl -n "+operatorNamespace+` get pods -l app.kubernetes.io/name=vault-operator -o jsonpath='{range `+
			`.items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}'`)
	for line := range strings.Lines(replicas) {
		name, address, _ := strings.Cut(strings.TrimSpace(line), " ")
		fmt.Fprintf(&targets, "  - {targets: ['%s:8443'], labels: {pod: %s}}\n", address, name)
	}
	for name, content := range map[string]string{
		"rules.yaml": documentedAlerts(t),
		"token":      token,
		"prometheus.yaml": fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%[1]s/rules.yaml]
scrape_configs:
- job_name: vault-operator
  scheme: https
  authorization: {credentials_file: %[1]s/token}
  tls_config: {insecure_skip_verify: true}
  honor_labels: true
  static_configs:
%[2]s
- job_name: kubelet
  scheme: https
  authorization: {credentials_file: %[1]s/token}
  tls_config: {insecure_skip_verify: true}
  scrape_interval: 10s
  scrape_timeout: 10s
  static_configs:
  - {targets: ['%[3]s']}
  metric_relabel_configs:
  - {source_labels: [__name__], regex: kubelet_volume_stats_.*, action: keep}
`, dir, targets.String(), strings.Join(kubelets, "', '")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := shell.Run(t, "../prometheus/install.sh 2>/dev/null")
	t.Logf("%s", shell.Run(t, bin+"/promtool check rules "+dir+"/rules.yaml"))
	p := prometheus{inNode: inNode(t, shell.Run(t, "kubectl get nodes -o jsonpath='{.items[0].metadata.name}'"))}
	process := shell.Start(t,
		"exec "+p.inNode+bin+"/prometheus --config.file="+dir+"/prometheus.yaml --storage.tsdb.path="+dir+"/data "+
			"--web.listen-address=127.0.0.1:9090")
	shell.Eventually(t, "Prometheus has scraped the operator", time.Minute, func() error {
		if out, ended := process.Ended(); ended {
			t.Fatalf("Prometheus: %s", out)
		}
		out, err := p.get("query?query=count(vault_operator_nodes)")
		if err == nil && strings.Contains(out, `"result":[]`) {
			err = fmt.Errorf("it responds %s", out)
		}
		return err
	})
	return p
}

// documentedAlerts are the alerts of the pages, as a file for Prometheus.
func documentedAlerts(t *testing.T) string {
	t.Helper()
	var rules strings.Builder
	rules.WriteString("groups:\n- name: vault\n  rules:\n")
	for _, file := range []string{"../../docs/metrics.md", "../../docs/audit.md"} {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```yaml\n(- alert: .*?)```").FindAllStringSubmatch(string(page), -1)
		if len(blocks) == 0 {
			t.Fatalf("%s has no alert", file)
		}
		for _, block := range blocks {
			text := regexp.MustCompile(`for: \w+`).ReplaceAllString(block[1], "for: 5s")
			for line := range strings.Lines(strings.ReplaceAll(text, "[10m]", "[1m]")) {
				rules.WriteString("  " + line)
			}
		}
	}
	return rules.String()
}

func (p prometheus) get(path string) (string, error) {
	return shell.Try(p.inNode + "curl --silent --fail --max-time 5 'http://127.0.0.1:9090/api/v1/" + path + "'")
}

// firing are the alerts that fire: the name, and the Vault or the volume where it is of one.
func (p prometheus) firing(t *testing.T) []string {
	t.Helper()
	out, err := p.get("alerts")
	var response struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &response)
	}
	if err != nil {
		t.Fatal(err)
	}
	var firing []string
	for _, alert := range response.Data.Alerts {
		if alert.State != "firing" {
			continue
		}
		name := alert.Labels["alertname"]
		if of := alert.Labels["name"] + alert.Labels["persistentvolumeclaim"]; of != "" {
			name += " " + alert.Labels["namespace"] + "/" + of
		}
		firing = append(firing, name)
	}
	return firing
}

// awaitFiring waits until an alert fires, for the Vault if one is given.
func (p prometheus) awaitFiring(t *testing.T, alert, vault string) {
	t.Helper()
	p.awaitFiringWithin(t, 2*time.Minute, alert, vault)
}

func (p prometheus) awaitFiringWithin(t *testing.T, timeout time.Duration, alert, of string) {
	t.Helper()
	want := strings.TrimSpace(alert + " " + of)
	shell.Eventually(t, want+" fires", timeout, func() error {
		if firing := p.firing(t); !slices.Contains(firing, want) {
			return fmt.Errorf("%q fire", firing)
		}
		return nil
	})
}

func (p prometheus) requireNotFiring(t *testing.T, alert string) {
	t.Helper()
	for _, firing := range p.firing(t) {
		if strings.HasPrefix(firing, alert) {
			t.Errorf("%s fires", firing)
		}
	}
}

// awaitEnd waits until none of the alerts fires.
func (p prometheus) awaitEnd(t *testing.T, alerts ...string) {
	t.Helper()
	for _, alert := range alerts {
		shell.Eventually(t, alert+" has ended", renewal+time.Minute, func() error {
			for _, firing := range p.firing(t) {
				if strings.HasPrefix(firing, alert) {
					return fmt.Errorf("%s fires", firing)
				}
			}
			return nil
		})
	}
}
