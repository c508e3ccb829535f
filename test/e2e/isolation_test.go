//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// requireConfined asserts what an attacker reaches who runs commands in a pod of a Vault:
// not the API server, and no other Vault.
func requireConfined(t *testing.T, from, other vaulttest.Vault) {
	t.Run("a Vault pod cannot use the API server", func(t *testing.T) {
		for _, component := range []string{"server", "etcd"} {
			pod, pid := podOf(t, from, component)
			tokens := shell.Run(t, fmt.Sprintf("ls /proc/%s/root/var/run/secrets/kubernetes.io 2>/dev/null || true", pid))
			if tokens != "" {
				t.Errorf("%s has the token of a ServiceAccount: %s", pod, tokens)
			}
			for _, path := range []string{"/api/v1/namespaces/" + from.Namespace + "/secrets",
				"/apis/vault.security.coreos.com/v1alpha1/vaults"} {
				status := shell.Run(t, fmt.Sprintf("nsenter --net --target=%s curl -sk -o /dev/null -w '%%{http_code}' "+
					"https://10.96.0.1%s", pid, path))
				if status != "401" && status != "403" {
					t.Errorf("%s gets %s from the API server: %s", pod, path, status)
				}
			}
		}
	})
	t.Run("a Vault pod cannot use the storage of another Vault", func(t *testing.T) {
		_, pid := podOf(t, from, "server")
		if out, err := tryEtcd(t, pid, from, from); err != nil {
			t.Fatalf("its own storage does not respond: %s", out)
		}
		if out, err := tryEtcd(t, pid, other, other); err == nil {
			t.Errorf("the storage of %s/%s can be reached: %s", other.Namespace, other.Name, out)
		}
		// Where the network allows it, it is the certificate that is refused: by TLS 1.3 a client may see no more of
		// that than a connection that is closed.
		_, there := podOf(t, other, "server")
		if out, err := tryEtcd(t, there, from, other); err == nil {
			t.Errorf("the storage of %s/%s responds: %s", other.Namespace, other.Name, out)
		}
		if out, err := tryEtcd(t, there, other, other); err != nil {
			t.Errorf("the storage of another Vault does not accept its own certificate either: %s", out)
		}
	})
	t.Run("NetworkPolicies keep others out", func(t *testing.T) {
		_, pid := podOf(t, from, "server")
		for component, ports := range map[string]map[int]bool{
			"server": {v1alpha1.ClientPort: true, 8201: false}, "etcd": {2379: false, 2380: true, 2381: true},
		} {
			pod, _ := podOf(t, other, component)
			ip := shell.Run(t, other.Kubectl("get pod %s -o jsonpath='{.status.podIP}'", pod))
			for port, want := range ports {
				_, err := shell.Try(fmt.Sprintf("nsenter --net --target=%s timeout 3 bash -c '</dev/tcp/%s/%d'", pid, ip, port))
				if open := err == nil; open != want {
					t.Errorf("port %d of %s: open %t, want %t: %v", port, pod, open, want, err)
				}
			}
		}
	})
}

// podOf is a pod of a component of a Vault, and the process id of its container.
func podOf(t *testing.T, v vaulttest.Vault, component string) (pod, pid string) {
	t.Helper()
	pod = shell.Run(t, v.Kubectl("get pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=%s -o "+
		"jsonpath='{.items[0].metadata.name}'",
		v.Name, component))
	container := map[string]string{"server": "vault", "etcd": "etcd"}[component]
	return pod, shell.Run(t, "$LOCAL_CLUSTER pid "+v.Namespace+"/"+pod+" "+container)
}

// tryEtcd reads from the storage of a Vault in the network of a pod, with the
// certificates that the pods of another have.
func tryEtcd(t *testing.T, pid string, from, to vaulttest.Vault) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, key := range []string{"client.crt", "client.key"} {
		shell.Run(t, from.Kubectl(`get secret %s-etcd-client-tls -o jsonpath='{.data.%s}' | base64 -d >%s`,
			from.Name, strings.ReplaceAll(key, ".", `\.`), filepath.Join(dir, key)))
	}
	address := shell.Run(t, to.Kubectl("get pod %s-etcd-0 -o jsonpath='{.status.podIP}'", to.Name))
	return shell.Try(fmt.Sprintf("nsenter --net --target=%s etcdctl --endpoints=https://%s:2379 "+
		"--insecure-skip-tls-verify "+
		"--cert=%[3]s/client.crt --key=%[3]s/client.key --command-timeout=5s get --keys-only --limit=1 /", pid, address, dir))
}

// TestOperatorPermissions asserts what an attacker cannot do who has the token of the
// operator, installed for all namespaces.
func TestOperatorPermissions(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	operatorUser := "system:serviceaccount:" + operatorNamespace + ":vault-operator-controller-manager"
	for _, request := range []string{
		"create pods", "create pods --subresource=exec", "create pods --subresource=eviction",
		"create serviceaccounts --subresource=token", "impersonate serviceaccounts",
		"create roles", "create rolebindings", "create clusterrolebindings", "bind clusterroles", "escalate clusterroles",
		"get nodes", "get persistentvolumes", "delete namespaces",
		"patch customresourcedefinitions", "patch validatingadmissionpolicies",
	} {
		if out, err := shell.Try("kubectl auth can-i " + request + " -n " + namespace + " --as=" + operatorUser); err == nil {
			t.Errorf("kubectl auth can-i %s: %s", request, out)
		}
	}
	shell.Apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: foreign, namespace: `+namespace+`}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: main
    image: hashicorp/vault:1.21.0
    command: [sleep, "3600"]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  terminationGracePeriodSeconds: 0
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: foreign, namespace: `+namespace+`}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: vault.security.coreos.com/v1alpha1
kind: Vault
metadata: {name: foreign, namespace: `+namespace+`}
spec: {configMapName: none}
---
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultRestore
metadata: {name: foreign, namespace: `+namespace+`}
spec: {vault: foreign, backup: none}
`)
	// It may delete those of its own proofs of backups.
	for _, kind := range []string{"vault", "vaultrestore"} {
		out, err := shell.Try("kubectl delete " + kind + " foreign -n " + namespace + " --as=" + operatorUser)
		if err == nil || !strings.Contains(out, "ValidatingAdmissionPolicy") {
			t.Errorf("the deletion of a %s is not denied by a policy: %s", kind, out)
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate.UserName = operatorUser
	operator, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{
		`{"metadata": {"labels": {"app": "other"}}}`,
		`{"metadata": {"labels": {"vault.security.coreos.com/active": "true"}}}`,
		`{"metadata": {"annotations": {"a": "b"}}}`,
		`{"spec": {"containers": [{"name": "main", "image": "hashicorp/vault:1.21.1"}]}}`,
	} {
		_, err := operator.CoreV1().Pods(namespace).Patch(t.Context(), "foreign", types.StrategicMergePatchType,
			[]byte(change), metav1.PatchOptions{})
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			t.Errorf("the patch %s is not denied by the policy: %v", change, err)
		}
	}
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: namespace},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "hashicorp/vault:1.21.0"}},
		}}},
	}
	_, created := operator.BatchV1().Jobs(namespace).Create(t.Context(), job, metav1.CreateOptions{})
	core := operator.CoreV1()
	for what, err := range map[string]error{
		"deletion of a pod":   core.Pods(namespace).Delete(t.Context(), "foreign", metav1.DeleteOptions{}),
		"deletion of a claim": core.PersistentVolumeClaims(namespace).Delete(t.Context(), "foreign", metav1.DeleteOptions{}),
		"Job":                 created,
	} {
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			t.Errorf("the %s is not denied by a policy: %v", what, err)
		}
	}
}
