//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
	awaitReported(t, living, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
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
			{"unknown field deep down", fresh, `{storage: {etcd: {size: 3}}}`,
				[]string{`unknown field "spec.storage.etcd.size"`}},
			{"half of static TLS", fresh, `{tls: {static: {serverSecret: x}}}`, []string{"spec.tls.static.clientSecret"}},
			{"shrinking etcd", living, `{storage: {etcd: {nodes: 1, volumeSize: 1Gi}}}`,
				[]string{"spec.storage.etcd.nodes", "cannot be changed"}},
		} {
			t.Run(test.name, func(t *testing.T) {
				out, err := shell.TryApply(manifest(test.vault, test.spec))
				if err == nil {
					t.Fatalf("accepted: %s", out)
				}
				for _, text := range test.mentions {
					if !strings.Contains(out, text) {
						t.Errorf("kubectl does not mention %q:\n%s", text, out)
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
	shell.Apply(t, manifest(living,
		`{configMapName: settings, nodes: 1, storage: {etcd: {nodes: 3, volumeSize: 1Gi, whenDeleted: Delete}}}`))
	awaitReported(t, living, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotFound,
		`"settings" does not exist`)
	for _, test := range []struct{ data, message string }{
		{`other.hcl: "ui = true"`, `no key "vault.hcl"`},
		{`vault.hcl: "ui = {"`, "does not parse"},
		{`vault.hcl: 'listener "tcp" {}'`, "listener, which the operator owns"},
		{`vault.hcl: 'storage "file" { path = "/tmp" }'`, "storage, which the operator owns"},
	} {
		shell.Apply(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: %s}, data: {%s}}",
			living.Namespace, test.data))
		awaitReported(t, living, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigInvalid,
			test.message)
	}
	shell.Run(t, living.Kubectl("delete configmap settings"))
	shell.Apply(t, manifest(living,
		`{nodes: 1, tls: {static: {serverSecret: mine, clientSecret: my-ca}}, storage: {etcd: {nodes: 3, volumeSize: 1Gi, `+
			`whenDeleted: Delete}}}`))
	awaitReported(t, living, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound,
		`"mine" does not exist`)
	shell.Run(t, living.Kubectl("create secret generic mine --from-literal=tls.crt=x"))
	awaitReported(t, living, v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretInvalid,
		`"mine" has no key`)

	// Fixed: by what it was before.
	shell.Apply(t, manifest(living, `{nodes: 1, storage: {etcd: {nodes: 3, volumeSize: 1Gi, whenDeleted: Delete}}}`))
	awaitReported(t, living, v1alpha1.TLSReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonSecretsValid, "")
	awaitReported(t, living, v1alpha1.ConfigValidCondition, metav1.ConditionTrue, v1alpha1.ReasonConfigAccepted, "")
	awaitReported(t, living, "Irreconcilable", metav1.ConditionFalse, "Reconciled", "")
}

// A quota that demands limits lets no pod be created. What the spec lacks is told where a
// user looks, and is forgotten when it was added.
func TestQuotaThatDemandsLimits(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "limited"}
	shell.Run(t, v.Kubectl("create quota limits --hard=limits.cpu=4,limits.memory=4Gi"))
	shell.Apply(t, manifest(v, `{nodes: 1, `+smallEtcd+`}`))
	for _, conditionType := range []string{v1alpha1.AvailableCondition, v1alpha1.StorageReadyCondition} {
		awaitCondition(t, v, 3*time.Minute, conditionType, metav1.ConditionFalse, "", "must specify limits.cpu")
	}
	shell.Apply(t, manifest(v, `{nodes: 1, pod: {resources: {limits: {cpu: "1", memory: 256Mi}}},
		storage: {etcd: {nodes: 1, whenDeleted: Delete, resources: {limits: {cpu: "1", memory: 256Mi}}}}}`))
	v.AwaitSealed(t, 1)
	awaitReported(t, v, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated, "")
	awaitReported(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "")
}
