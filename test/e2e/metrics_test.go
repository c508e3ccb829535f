//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/scrape"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestMetrics reads the metrics as docs/metrics.md tells an administrator to, of every
// replica of the operator.
func TestMetrics(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "measured"}
	shell.Apply(t, manifest(v, `{nodes: 1, `+anyStorage+`}`))
	v.InitAndUnseal(t, 1)
	shell.Run(t, v.Kubectl("create serviceaccount other"))
	reader := newMetricsReader(t, v.Namespace)
	other := shell.Run(t, v.Kubectl("create token other"))

	replicas := strings.Fields(shell.Run(t,
		"kubectl -n "+operatorNamespace+" get pods -l app.kubernetes.io/name=vault-operator -o name"))
	for _, target := range append(replicas, "service/vault-operator-controller-manager-metrics") {
		t.Run(target, func(t *testing.T) {
			// A port-forward ends when the server has closed a connection, so each request
			// has one of its own.
			forward := func() string {
				port := vaulttest.FreePort(t)
				process := shell.Start(t, fmt.Sprintf("kubectl -n %s port-forward %s %d:8443", operatorNamespace, target, port))
				vaulttest.AwaitPort(t, port, process)
				return fmt.Sprintf("localhost:%d", port)
			}
			address := forward()
			shell.Eventually(t, "the Vault is measured", 30*time.Second, func() error {
				status, text, err := scrape.Metrics(t.Context(), address, reader)
				if err != nil || status != http.StatusOK {
					return fmt.Errorf("status %d, error %w", status, err)
				}
				for _, want := range []string{
					fmt.Sprintf(`vault_operator_active_last_seen_timestamp_seconds{name="measured",namespace=%q}`, v.Namespace),
					`vault_operator_failover_duration_seconds_count`, `vault_operator_relabels_total{action="promote"}`,
					`vault_operator_probe_duration_seconds_count{state="active"}`,
				} {
					if !strings.Contains(text, want) {
						return fmt.Errorf("no %s in %d bytes of metrics", want, len(text))
					}
				}
				return nil
			})
			for token, want := range map[string]int{"": http.StatusUnauthorized, other: http.StatusForbidden} {
				address := forward()
				shell.Eventually(t, fmt.Sprintf("the response is %d", want), 10*time.Second, func() error {
					status, text, err := scrape.Metrics(t.Context(), address, token)
					if err == nil && (status != want || strings.Contains(text, "vault_operator_")) {
						t.Errorf("status %d, want %d and no metrics", status, want)
					}
					return err
				})
			}
		})
	}
}
