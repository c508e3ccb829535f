//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const (
	// auditVolume is the size of the volume, where the page has a larger one.
	auditVolume = 64 << 20
	// auditRequests are so many that the files of their audit log are rotated twice. Each
	// takes up some 170 KB of it.
	auditRequests = 120
)

// TestAudit follows docs/audit.md: Vault writes its audit log to the log of its pod and to a
// volume, which does not fill up, and a class of volumes that does not exist is told.
func TestAudit(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	page := docs.Commands(t, "../../docs/audit.md")
	give, enable, look, disable := page["Give the pods a volume"], page["Enable two devices"], page["What has to be kept"],
		page["Without the volume"]
	if len(give) != 1 || len(enable) != 1 || len(look) != 1 || len(disable) != 1 {
		t.Fatalf("docs/audit.md has other blocks of commands: %q", page)
	}
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	typo := vaulttest.Vault{Namespace: v.Namespace, Name: "typo"}
	shell.Apply(t, manifest(v, `{nodes: 1, `+anyStorage+`}`))
	shell.Apply(t, manifest(typo, `{nodes: 1, audit: {volumeSize: 64Mi, storageClassName: fast-typo}, `+anyStorage+`}`))
	inContext := fmt.Sprintf("kubectl() { command kubectl --namespace=%s \"$@\"; }\n", v.Namespace)

	keys := v.InitAndUnseal(t, 1)
	shell.Run(t, inContext+strings.Replace(give[0], "10Gi", "64Mi", 1))
	pod := v.AwaitSealed(t, 1).VaultStatus.Sealed[0]
	v.Unseal(t, pod, keys)
	v.Await(t, "has been replaced", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active == pod })
	v.Do(t, pod, keys.RootToken, "set -ex\nvault secrets enable -path=secret -version=1 kv\n"+enable[0])

	t.Run("a first start says which class is missing", func(t *testing.T) { startWithoutClass(t, typo) })
	t.Run("files are rotated", func(t *testing.T) {
		rotateAudit(t, v, pod, keys)
		// Until the next request, nothing is in a file that has just been rotated.
		shell.Run(t, v.Kubectl(`exec %s -- sh -c 'cd /vault/audit &&
			mv audit.log audit.log.$(date -u +%%Y%%m%%dT%%H%%M%%SZ) && kill -HUP $(pidof vault)'`, pod))
		if said := shell.Run(t, inContext+look[0]); !strings.Contains(said, "/vault/audit/audit.log") ||
			!strings.Contains(said, `"type":"`) {
			t.Errorf("the files are %.1000s", said)
		}
	})
	t.Run("a rollout says which class is missing", func(t *testing.T) {
		setSpec(t, v, `{"audit": {"storageClassName": "fast-typo"}}`)
		awaitCondition(t, v, 90*time.Second, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonNodeFailing,
			"-audit: StorageClass fast-typo not found")
		setSpec(t, v, `{"audit": {"storageClassName": null}}`)
		awaitCondition(t, v, 90*time.Second, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated)
		if anyStorage != smallEtcd { // of which the only node is replaced
			v.Unseal(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], keys)
		}
		if active := v.AwaitHA(t, 0).VaultStatus.Active; active != pod {
			t.Errorf("active is %s, and was %s", active, pod)
		}
	})
	v.Do(t, pod, keys.RootToken, disable[0])
	t.Run("volumes end with their pods", func(t *testing.T) {
		shell.Run(t, v.Kubectl("delete vault example typo --timeout=120s"))
		awaitNothingLeft(t, v, 0)
	})
}

// startWithoutClass corrects a Vault whose pods never got a volume.
func startWithoutClass(t *testing.T, v vaulttest.Vault) {
	awaitCondition(t, v, 90*time.Second, v1alpha1.AvailableCondition, metav1.ConditionFalse, v1alpha1.ReasonNodesStarting,
		"-audit: StorageClass fast-typo not found")
	setSpec(t, v, `{"audit": {"storageClassName": null}}`)
	v.InitAndUnseal(t, 1)
	awaitCondition(t, v, time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated)
}

// rotateAudit has so many requests logged that the files are rotated, and an older one has to
// go.
func rotateAudit(t *testing.T, v vaulttest.Vault, pod string, keys vaulttest.Keys) {
	const older = "/vault/audit/audit.log.20260101T000000Z"
	shell.Run(t, v.Kubectl(`exec %s -- sh -c 'umask 077; head -c %d /dev/zero > %[3]s && touch -t 202601010000 %[3]s'`,
		pod, auditVolume*7/10, older))
	// Vault logs a hash of each of the values.
	many := map[string]any{}
	for i := range 1000 {
		many[fmt.Sprint("key", i)] = "value"
	}
	node := nodeClient(t, v, pod, keys.RootToken)
	for range auditRequests {
		if _, err := node.Logical().Write("secret/many", many); err != nil {
			t.Fatalf("a request has failed: %.1000s", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	shell.Eventually(t, "the older file is gone", time.Minute, func() error {
		_, err := shell.Try(v.Kubectl("exec %s -- test ! -e %s", pod, older))
		return err
	})

	files := shell.Run(t, v.Kubectl(`exec %s -- sh -c 'stat -c "%%a %%s %%n" /vault/audit/*'`, pod))
	total, renamed := 0, 0
	for line := range strings.Lines(files) {
		var mode, size int
		var name string
		if _, err := fmt.Sscan(line, &mode, &size, &name); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		total += size
		if regexp.MustCompile(`^/vault/audit/audit\.log\.[0-9]{8}T[0-9]{6}Z$`).MatchString(name) {
			renamed++
		}
		if strings.HasPrefix(name, "/vault/audit/audit.log") && mode != 600 {
			t.Errorf("the mode of %s is %d", name, mode)
		}
	}
	if renamed == 0 || total > auditVolume*9/10 {
		t.Errorf("of %d bytes %d are used by\n%s", auditVolume, total, files)
	}
	logged := shell.Run(t, v.Kubectl(`exec %s -- sh -c 'cat /vault/audit/audit.log* | grep -c "\"path\":\"secret/many\""'`,
		pod))
	if want := fmt.Sprint(2 * auditRequests); logged != want {
		t.Errorf("%s requests and responses are in the files, want %s", logged, want)
	}
	// The kubelet rotates the log of the container meanwhile, and only the newest file of it is shown.
	shell.Eventually(t, "the log of the pod has a request", time.Minute, func() error {
		v.Do(t, pod, keys.RootToken, "vault read secret/many >/dev/null")
		_, err := shell.Try(v.Kubectl(`logs %s | grep -c '"path":"secret/many"'`, pod))
		return err
	})
	if out := shell.Run(t, v.Kubectl(`logs %s | grep -v '^{' | grep '\[\(ERROR\|WARN\)\].*\(audit\|sink\)' || true`,
		pod)); out != "" {
		t.Errorf("Vault says %.2000s", out)
	}
}
