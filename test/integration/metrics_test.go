//go:build integration

package integration

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
	"github.com/vault-operator/vault-operator/test/internal/scrape"
)

// TestMetrics reads the metrics as Prometheus would, while a Vault fails over.
func TestMetrics(t *testing.T) {
	address := freeAddress(t)
	t.Setenv(metricsAddress, address)
	namespace := newNamespace(t)
	startOperator(t)
	vault := deployVault(t, namespace)
	reader, other := newToken(t, namespace, "reader"), newToken(t, namespace, "other")
	bindRole(t, "metrics_reader_role.yaml", namespace, "reader")
	has := func(lines ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("the metrics have %q", lines), func() error {
			status, text, err := scrape.Metrics(t.Context(), address, reader)
			if err != nil || status != http.StatusOK {
				return fmt.Errorf("status %d, error %w", status, err)
			}
			for _, line := range lines {
				if !strings.Contains(text, "\n"+line) {
					return fmt.Errorf("no %q in:\n%s", line, grep(text, "vault_operator_"))
				}
			}
			return nil
		})
	}
	lastSeen := fmt.Sprintf(`vault_operator_active_last_seen_timestamp_seconds{name="example",namespace=%q}`, namespace)

	has(`vault_operator_failover_duration_seconds_count 0`, `vault_operator_relabels_total{action="promote"} 0`)
	a := startPod(t, vault, "a", fakevault.Active)
	b := startPod(t, vault, "b", fakevault.Standby)
	awaitLabel(t, namespace, "a")
	has(lastSeen, `vault_operator_relabels_total{action="promote"} 1`, `vault_operator_failover_duration_seconds_count 0`)

	a.Kill()
	awaitLabel(t, namespace)
	b.Set(fakevault.Active)
	awaitLabel(t, namespace, "b")
	has(
		`vault_operator_failover_duration_seconds_count 1`, `vault_operator_failover_duration_seconds_bucket{le="60"} 1`,
		`vault_operator_relabels_total{action="promote"} 2`, `vault_operator_relabels_total{action="demote"} 1`,
		`vault_operator_probe_duration_seconds_count{state="active"}`,
		`vault_operator_probe_duration_seconds_count{state="unreachable"}`,
	)

	for name, who := range map[string]struct {
		token string
		want  int
	}{
		"no token": {"", http.StatusUnauthorized},
		// So says controller-runtime of a token that the API server does not know.
		"a bad token":               {"bad", http.StatusInternalServerError},
		"a token without the right": {other, http.StatusForbidden},
	} {
		status, text, err := scrape.Metrics(t.Context(), address, who.token)
		if err != nil || status != who.want || strings.Contains(text, "vault_operator_") {
			t.Errorf("%s: status %d, error %v, want %d and no metrics", name, status, err, who.want)
		}
	}

	remove(t, vault)
	eventually(t, "the Vault is gone", func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(vault), vault); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%w)", err)
		}
		return nil
	})
	eventually(t, "its series is gone", func() error {
		if _, text, err := scrape.Metrics(t.Context(), address, reader); err != nil || strings.Contains(text, lastSeen) {
			return fmt.Errorf("error %w in:\n%s", err, grep(text, lastSeen))
		}
		return nil
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// newToken makes a ServiceAccount and returns a token of it.
func newToken(t *testing.T, namespace, name string) string {
	t.Helper()
	if err := admin.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
		Name: name}}); err != nil {
		t.Fatal(err)
	}
	request, err := clientset.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name,
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// grep returns the lines with the text.
func grep(text, wanted string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, wanted) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// The label is patched with the pod's UID so that a pod which has replaced
// another one of the same name is not hit.
func TestPatchOfAReplacedPodIsRefused(t *testing.T) {
	namespace := newNamespace(t)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "a"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "vault", Image: "hashicorp/vault:1.21.0"}}},
	}
	if err := admin.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	patch := `{"metadata": {"uid": "uid-of-its-predecessor", "labels": {"vault.security.coreos.com/active": "true"}}}`
	err := admin.Patch(t.Context(), pod.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch)))
	t.Logf("refused: %v", err)
	if err == nil || apierrors.IsNotFound(err) {
		t.Errorf("error %v, want one that does not say that the pod is gone", err)
	}
	if got := labelled(t, namespace); len(got) > 0 {
		t.Errorf("%v has the active label", got)
	}
}
