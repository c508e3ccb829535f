//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// tenant may do in one namespace what the ClusterRole "edit" allows, and nothing else.
type tenant struct{ namespace, user string }

func newTenant(t *testing.T) tenant {
	t.Helper()
	namespace := newNamespace(t)
	shell.Run(t, fmt.Sprintf("kubectl -n %[1]s create serviceaccount tenant && "+
		"kubectl -n %[1]s create rolebinding tenant --clusterrole=edit --serviceaccount=%[1]s:tenant", namespace))
	return tenant{namespace: namespace, user: "system:serviceaccount:" + namespace + ":tenant"}
}

func (n tenant) vault(name string) vaulttest.Vault {
	return vaulttest.Vault{Namespace: n.namespace, Name: name}
}

// create creates an object as the tenant. It may be too large for the annotation of
// "kubectl apply".
func (n tenant) create(t *testing.T, manifest string) {
	t.Helper()
	if out, err := shell.TryInput(manifest, "kubectl create --as="+n.user+" -f -"); err != nil {
		t.Fatalf("the tenant: %v", out)
	}
}

// record creates a Secret that looks like the record of a Helm release.
func (n tenant) record(t *testing.T, release, content string) string {
	t.Helper()
	name := "sh.helm.release.v1." + release + ".v1"
	n.create(t, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata:
  name: %s
  namespace: %s
  labels: {owner: helm, name: %s, version: "1", status: deployed}
type: helm.sh/release.v1
data: {release: %s}`, name, n.namespace, release, base64.StdEncoding.EncodeToString([]byte(content))))
	return name
}

// otherTenants attack the operator from a namespace of their own.
func otherTenants(t *testing.T, f *fixture) {
	other := newTenant(t)
	t.Run("a forged release record reaches nothing outside", func(t *testing.T) { other.forge(t, f) })
	t.Run("an attack delays nobody's failover", func(t *testing.T) { other.attack(t, f) })
	t.Run("the operator's memory does not follow what others store", func(t *testing.T) { other.flood(t) })
}

// forge has a record name objects of another namespace, to be deleted with the release
// and to be made by its hook.
func (n tenant) forge(t *testing.T, f *fixture) {
	shell.Run(t, f.Kubectl("create secret generic precious"))
	object := func(kind, name string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\n", kind, name, f.Namespace)
	}
	text, err := json.Marshal(map[string]any{
		"name": "forged", "namespace": n.namespace, "version": 1,
		"info":     map[string]any{"status": "deployed"},
		"chart":    map[string]any{"metadata": map[string]any{"name": "c", "version": "0.1.0", "apiVersion": "v2"}},
		"manifest": "---\n" + object("Secret", "precious"),
		"hooks": []any{map[string]any{
			"name": "h", "kind": "ConfigMap", "path": "h.yaml", "events": []string{"pre-delete"},
			"delete_policies": []string{"hook-failed"}, "manifest": object("ConfigMap", "made"),
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	record := n.record(t, "forged", base64.StdEncoding.EncodeToString(text))
	v := n.vault("forged")
	n.create(t, manifest(v, `{configMapName: none}`))
	awaitMention(t, v, record)
	shell.Run(t, v.Kubectl("delete vault forged --timeout=60s --as=%s", n.user))
	if out, err := shell.Try(f.Kubectl("get secret precious")); err != nil {
		t.Errorf("a Secret of another namespace was deleted: %s", out)
	}
	if out := shell.Run(t, f.Kubectl("get configmap made --ignore-not-found")); out != "" {
		t.Errorf("a hook was run in another namespace: %s", out)
	}
	if out, err := shell.Try(v.Kubectl("get secret %s", record)); err != nil {
		t.Errorf("what is not the operator's was deleted: %s", out)
	}
}

// attack gives the operator what ends a process that reads it: a record that is hundreds
// of megabytes when it is decompressed, and a million brackets.
func (n tenant) attack(t *testing.T, f *fixture) {
	before := operatorProcesses(t)
	r := f.underLoad(t, func(active string) {
		n.record(t, "bomb", compressedZeros(t, 700<<20))
		n.create(t, manifest(n.vault("bomb"), `{configMapName: none}`))
		n.create(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: brackets, namespace: %s}, data: "+
			"{vault.hcl: %q}}",
			n.namespace, "x = "+strings.Repeat("[", 1_000_000)))
		n.create(t, manifest(n.vault("brackets"), `{configMapName: brackets}`))
		shell.Run(t, f.Kubectl("delete pod %s", active))
		f.awaitOther(t, active)
		awaitReported(t, n.vault("brackets"), v1alpha1.ConfigValidCondition, metav1.ConditionFalse,
			v1alpha1.ReasonConfigInvalid, "64 KiB")
	}, longTimeout)
	// No later than when nobody attacks.
	requireOneHandover(t, r)
	requireProcesses(t, before)
	for _, name := range []string{"bomb", "brackets"} {
		shell.Run(t, n.vault(name).Kubectl("delete vault %s --timeout=60s --as=%s", name, n.user))
	}
}

// compressedZeros is how Helm encodes a record, of so many zeros.
func compressedZeros(t *testing.T, size int) string {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for ; size > 0; size -= len(zeros) {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes())
}

const (
	// foreignObjects have foreignBytes of annotations each, 150 MB in all.
	foreignObjects, foreignBytes = 600, 250_000
	// foreignMemory is how much of it the operator may have at a time, in bytes.
	foreignMemory = 64 << 20
)

// flood stores large annotations that are none of the operator's business.
func (n tenant) flood(t *testing.T) {
	onlyInAll(t, "TestAnnotationsOfOthersTakeNoMemory does so without a cluster")
	client := n.client(t)
	processes, before := operatorProcesses(t), operatorMemory(t)
	annotations := map[string]string{"example.com/content": strings.Repeat("x", foreignBytes)}
	for i := range foreignObjects {
		_, err := client.CoreV1().ConfigMaps(n.namespace).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("foreign-%d", i), Annotations: annotations},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	requireProcesses(t, processes)
	for pod, peak := range operatorMemory(t) {
		if grown := peak - before[pod]; grown > foreignMemory {
			t.Errorf("%s has grown by %d MiB while others stored %d MB", pod, grown>>20, foreignObjects*foreignBytes/1_000_000)
		}
	}
	// The list at the start is another way to them than a watch.
	shell.Run(t, "kubectl -n "+operatorNamespace+" rollout restart deployment/vault-operator-controller-manager && "+
		"kubectl -n "+operatorNamespace+" rollout status --timeout=180s deployment/vault-operator-controller-manager")
	for pod, peak := range operatorMemory(t) {
		t.Logf("%s has had %d MiB at the most since it started", pod, peak>>20)
		if peak > 2*foreignMemory {
			t.Errorf("%s has had %d MiB since it started, beside %d MB of others", pod, peak>>20,
				foreignObjects*foreignBytes/1_000_000)
		}
	}
	if err := client.CoreV1().ConfigMaps(n.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{},
		metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

// client makes requests as the tenant, no more of them than leave the machine time for
// others.
func (n tenant) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: n.user}
	config.QPS, config.Burst = 30, 1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
