//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	living := vaulttest.Vault{Namespace: newNamespace(t), Name: "living"}
	shell.Apply(t, manifest(living, `{nodes: 1, storage: {etcd: {nodes: 3, volumeSize: 1Gi, whenDeleted: Delete}}}`))
	living.AwaitSealed(t, 1)
	requireCondition(t, living, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	before := running(t, living)

	// test/integration has the whole list.
	t.Run("refused by the API server", func(t *testing.T) {
		fresh := vaulttest.Vault{Namespace: living.Namespace, Name: "fresh"}
		for _, test := range []struct {
			name     string
			vault    vaulttest.Vault
			spec     string
			mentions []string
		}{
			{"unknown field deep down", fresh, `{storage: {etcd: {size: 3}}}`, []string{`unknown field "spec.storage.etcd.size"`}},
			{"half of static TLS", fresh, `{tls: {static: {serverSecret: x}}}`, []string{"spec.tls.static.clientSecret"}},
			{"name with a dot", vaulttest.Vault{Namespace: living.Namespace, Name: "a.b"}, `{}`, []string{"metadata.name"}},
			{"shrinking etcd", living, `{storage: {etcd: {nodes: 1, volumeSize: 1Gi}}}`, []string{"spec.storage.etcd.nodes", "cannot be changed"}},
		} {
			t.Run(test.name, func(t *testing.T) {
				out, err := shell.TryApply(manifest(test.vault, test.spec))
				if err == nil {
					t.Fatalf("accepted: %s", out)
				}
				for _, text := range test.mentions {
					if !strings.Contains(out, text) {
						t.Errorf("the answer does not mention %q:\n%s", text, out)
					}
				}
			})
		}
	})

	t.Run("found by the operator", func(t *testing.T) { foundByOperator(t, living) })

	if after := running(t, living); after != before {
		t.Errorf("the living Vault was touched: %s, before %s", after, before)
	}
}

// foundByOperator gives the living Vault what only the cluster can tell is bad,
// and fixes it.
func foundByOperator(t *testing.T, living vaulttest.Vault) {
	shell.Apply(t, manifest(living, `{configMapName: settings, nodes: 1, storage: {etcd: {nodes: 3, volumeSize: 1Gi, whenDeleted: Delete}}}`))
	requireCondition(t, living, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotFound, `"settings" does not exist`)
	for _, test := range []struct{ data, message string }{
		{`other.hcl: "ui = true"`, `no key "vault.hcl"`},
		{`vault.hcl: "ui = {"`, "does not parse"},
		{`vault.hcl: 'listener "tcp" {}'`, "listener, which the operator owns"},
		{`vault.hcl: 'storage "file" { path = "/tmp" }'`, "storage, which the operator owns"},
	} {
		shell.Apply(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: %s}, data: {%s}}", living.Namespace, test.data))
		requireCondition(t, living, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigInvalid, test.message)
	}
	shell.Run(t, living.Kubectl("delete configmap settings"))
	shell.Apply(t, manifest(living, `{nodes: 1, tls: {static: {serverSecret: mine, clientSecret: my-ca}}, storage: {etcd: {nodes: 3, volumeSize: 1Gi, whenDeleted: Delete}}}`))
	requireCondition(t, living, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound, `"mine" does not exist`)
	shell.Run(t, living.Kubectl("create secret generic mine --from-literal=tls.crt=x"))
	requireCondition(t, living, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretInvalid, `"mine" has no key`)

	// Fixed: by what it was before.
	shell.Apply(t, manifest(living, `{nodes: 1, storage: {etcd: {nodes: 3, volumeSize: 1Gi, whenDeleted: Delete}}}`))
	requireCondition(t, living, v1alpha1.TLSReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonSecretsValid, "")
	requireCondition(t, living, v1alpha1.ConfigValidCondition, metav1.ConditionTrue, v1alpha1.ReasonConfigAccepted, "")
	requireCondition(t, living, "Irreconcilable", metav1.ConditionFalse, "Reconciled", "")
}

// A quota that demands limits lets no pod be created. What the spec lacks is told where a
// user looks, and is forgotten when it was added.
func TestQuotaThatDemandsLimits(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "limited"}
	shell.Run(t, v.Kubectl("create quota limits --hard=limits.cpu=4,limits.memory=4Gi"))
	shell.Apply(t, manifest(v, `{nodes: 1, `+smallEtcd+`}`))
	for _, conditionType := range []string{v1alpha1.AvailableCondition, v1alpha1.StorageReadyCondition} {
		v.Await(t, "names the limits in "+conditionType, func(s v1alpha1.VaultStatus) bool {
			c := meta.FindStatusCondition(s.Conditions, conditionType)
			return c != nil && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "must specify limits.cpu")
		})
	}
	shell.Apply(t, manifest(v, `{nodes: 1, pod: {resources: {limits: {cpu: "1", memory: 256Mi}}},
		storage: {etcd: {nodes: 1, whenDeleted: Delete, resources: {limits: {cpu: "1", memory: 256Mi}}}}}`))
	v.AwaitSealed(t, 1)
	requireCondition(t, v, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated, "")
	requireCondition(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "")
}

// requireCondition waits for a condition, and for its event when it is bad.
func requireCondition(t *testing.T, v vaulttest.Vault, conditionType string, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	shell.Eventually(t, fmt.Sprintf("%s is %s for %s %q", conditionType, status, reason, message), time.Minute, func() error {
		s, err := v.Status()
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(s.Conditions, conditionType)
		if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	if status != metav1.ConditionFalse || reason == "Reconciled" {
		return
	}
	shell.Eventually(t, "an event says so", 20*time.Second, func() error {
		out, err := shell.Try(v.Kubectl("get events --field-selector reason=%s,involvedObject.name=%s", reason, v.Name))
		if err == nil && !strings.Contains(out, message) {
			err = errors.New(out)
		}
		return err
	})
}

// running tells which containers run for a Vault and since when.
func running(t *testing.T, v vaulttest.Vault) string {
	t.Helper()
	return shell.Run(t, v.Kubectl(`get pods -l app.kubernetes.io/instance=%s -o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.uid}} {{range .status.containerStatuses}}{{.containerID}}{{end}}{{"\n"}}{{end}}{{end}}'`, v.Name))
}

func TestOwnTLSAndConfig(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "own"}
	makeCertificates(t, v)
	shell.Apply(t, manifest(v, `{nodes: 2, configMapName: settings, tls: {static: {serverSecret: mine, clientSecret: my-ca}}, `+
		`listener: {unauthenticatedMetricsAccess: true, xForwardedForAuthorizedAddrs: [127.0.0.1]}, `+smallEtcd+`}`))
	requireCondition(t, v, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotFound, "settings")
	// It comes up by itself once what it lacked is there.
	shell.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: %s}, data: {vault.hcl: "default_lease_ttl = \"1h\"\nmax_lease_ttl = \"10h\"\ntelemetry {\n  disable_hostname = true\n  prometheus_retention_time = \"1h\"\n}\n"}}`, v.Namespace))
	keys := v.InitAndUnseal(t, 2)

	active := v.AwaitHA(t, 1).VaultStatus.Active
	var config struct {
		Data struct {
			MaxLeaseTTL int64 `json:"max_lease_ttl"`
		} `json:"data"`
	}
	out := v.Do(t, active, keys.RootToken, "vault read -format=json sys/config/state/sanitized")
	if err := json.Unmarshal([]byte(out), &config); err != nil || config.Data.MaxLeaseTTL != int64((10*time.Hour).Seconds()) {
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
	if !strings.Contains(served, "made-by-the-user") {
		t.Errorf("the nodes serve another certificate: %s", served)
	}
}

// makeCertificates makes the Secrets that a user with an authority of his own
// would make.
func makeCertificates(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	shell.Run(t, `cd $(mktemp -d)
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 1 -subj "/CN=my CA" -addext basicConstraints=critical,CA:TRUE
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=made-by-the-user
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 1 -extfile <(echo subjectAltName=DNS:localhost,DNS:`+v.Name+"."+v.Namespace+`.svc)
kubectl -n `+v.Namespace+` create secret generic mine --from-file=server.crt --from-file=server.key
kubectl -n `+v.Namespace+` create secret generic my-ca --from-file=vault-client-ca.crt=ca.crt
rm -f *.key`)
}
