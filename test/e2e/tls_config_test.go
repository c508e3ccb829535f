//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

func TestOwnTLSAndConfig(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "own"}
	ca := newUserCA(t, v)
	ca.issue(t, 90*24*time.Hour)
	shell.Apply(t, manifest(v, fmt.Sprintf(
		`{nodes: %d, configMapName: settings, tls: {static: {serverSecret: mine, clientSecret: my-ca}}, `+
			`listener: {unauthenticatedMetricsAccess: true, xForwardedForAuthorizedAddrs: [127.0.0.1]}, %s}`,
		several, anyStorage)))
	awaitReported(t, v, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotFound, "settings")
	// It comes up by itself once what it lacked is there.
	shell.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: %s}, data: `+
		`{vault.hcl: "default_lease_ttl = \"1h\"\nmax_lease_ttl = \"10h\"\ntelemetry {\n  disable_hostname = true\n  `+
		`prometheus_retention_time = \"1h\"\n}\n"}}`, v.Namespace))
	keys := v.InitAndUnseal(t, several)

	active := v.AwaitHA(t, several-1).VaultStatus.Active
	var config struct {
		Data struct {
			MaxLeaseTTL int64 `json:"max_lease_ttl"`
		} `json:"data"`
	}
	out := v.Do(t, active, keys.RootToken, "vault read -format=json sys/config/state/sanitized")
	if err := json.Unmarshal([]byte(out), &config); err != nil ||
		config.Data.MaxLeaseTTL != int64((10*time.Hour).Seconds()) {
		t.Errorf("the configuration is not in effect (%v):\n%s", err, out)
	}
	env, stop := v.Forward(t, active)
	defer stop()
	address := strings.TrimPrefix(env[0], "VAULT_ADDR=https://")
	metrics := shell.Run(t, "curl --silent --insecure 'https://"+address+"/v1/sys/metrics?format=prometheus'")
	if !strings.Contains(metrics, "vault_core_unsealed") {
		t.Errorf("without a token the metrics are %s", metrics)
	}
	served := shell.Run(t, "openssl s_client -connect "+address+" </dev/null 2>/dev/null | openssl x509 -noout -subject")
	if !strings.Contains(served, "made by the user") {
		t.Errorf("the nodes serve another certificate: %s", served)
	}

	usePod(t, v, active, keys)
	t.Run("a renewed certificate is served and its end is told", func(t *testing.T) {
		requireLocalCluster(t)
		(&fixture{Vault: v, nodes: several, keys: keys}).renewCertificate(t, ca)
	})
}

// usePod runs vault commands in a pod, whose certificate is not for localhost, and looks for
// probes in its log that look like clients which fail.
func usePod(t *testing.T, v vaulttest.Vault, pod string, keys vaulttest.Keys) {
	t.Helper()
	shell.Run(t, v.Kubectl("exec %s -- vault status", pod))
	if out, err := shell.TryInput(keys.RootToken, v.Kubectl("exec -i %s -- vault login -no-print -", pod)); err != nil {
		t.Errorf("vault login in the pod: %s", out)
	}
	if out, err := shell.Try(v.Kubectl("exec %s -- vault read auth/token/lookup-self", pod)); err != nil {
		t.Errorf("the token of vault login is not there: %s", out)
	}
	failing := 0
	for line := range strings.Lines(shell.Run(t, v.Kubectl("logs %s", pod))) {
		// A port-forward of this test comes from within the pod.
		if strings.Contains(line, "TLS handshake error") && !strings.Contains(line, "from 127.0.0.1:") {
			failing++
		}
	}
	// Once, when the startup probe finds the port open, and when a node was too busy to respond in time.
	if failing > 3 {
		t.Errorf("the log has %d clients that fail", failing)
	}
}
