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

const (
	kmsRegion = "eu-west-2"
	kmsKey    = "bc436485-5092-42b8-92a3-0aa8b93536dc"
)

// TestAWSKMS unseals a Vault by a server that speaks the protocol of AWS KMS.
func TestAWSKMS(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	kms := startKMS(t, newNamespace(t))
	spec := func(key string) string {
		return `{nodes: 1, ` + anyStorage + `, pod: {env: [{name: SSL_CERT_DIR, value: /kms-ca}], ` +
			`volumes: [{name: kms-ca, secret: {secretName: my-ca}}], ` +
			`volumeMounts: [{name: kms-ca, mountPath: /kms-ca, readOnly: true}]}, ` +
			`seal: {awskms: {region: ` + kmsRegion + `, kmsKeyID: ` + key + `, endpoint: "https://kms.` + kms.Namespace +
			`.svc", credentialsSecretName: aws}}}`
	}
	shell.Run(t, kms.Kubectl("create secret generic aws --from-literal=access_key=AKIAEXAMPLE "+
		"--from-literal=secret_key=example"))
	v := &autoUnsealed{Vault: vaulttest.Vault{Namespace: kms.Namespace, Name: "example"}}
	shell.Apply(t, manifest(v.Vault, spec(kmsKey)))
	v.init(t, v.AwaitSealed(t, 1).VaultStatus.Sealed[0], "vault operator init -recovery-shares=5 -recovery-threshold=3")
	v.AwaitHA(t, 0)
	works := func() {
		t.Helper()
		awaitCondition(t, v.Vault, 2*time.Minute, v1alpha1.SealReadyCondition, metav1.ConditionTrue,
			v1alpha1.ReasonKeyServiceWorks, "awskms")
	}
	works()
	v.Await(t, "knows its key", func(s v1alpha1.VaultStatus) bool {
		return s.Seal != nil && s.Seal.Type == v1alpha1.AWSKMSSealType && strings.HasSuffix(s.Seal.Key, kmsKey)
	})
	replace := func() {
		t.Helper()
		shell.Run(t, v.Kubectl("delete pod -l app.kubernetes.io/instance=example,app.kubernetes.io/component=server"))
	}

	t.Run("the node is lost", func(t *testing.T) {
		replace()
		v.AwaitHA(t, 0)
		works()
	})
	t.Run("the key is disabled", func(t *testing.T) {
		kms.do(t, "DisableKey")
		replace()
		// The fake calls the key by another name than that in the data, so that Vault does not call
		// the key service unhealthy.
		awaitCondition(t, v.Vault, time.Minute, v1alpha1.SealReadyCondition, metav1.ConditionUnknown,
			v1alpha1.ReasonNotObserved, "cannot use the key")
		kms.do(t, "EnableKey")
		v.AwaitHA(t, 0)
		works()
	})
	t.Run("another region is refused", func(t *testing.T) {
		setSpec(t, v.Vault, `{"seal": {"awskms": {"region": "eu-west-1"}}}`)
		awaitReported(t, v.Vault, v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSealChangeRefused,
			"set it back")
		setSpec(t, v.Vault, `{"seal": {"awskms": {"region": "`+kmsRegion+`"}}}`)
		works()
	})
	t.Run("there is no such key", func(t *testing.T) {
		keyless := vaulttest.Vault{Namespace: kms.Namespace, Name: "keyless"}
		shell.Apply(t, manifest(keyless, spec("00000000-0000-0000-0000-000000000000")))
		awaitCondition(t, keyless, 3*time.Minute, v1alpha1.SealReadyCondition, metav1.ConditionFalse,
			v1alpha1.ReasonKeyNotUsable)
		shell.Run(t, keyless.Kubectl("delete vault %s", keyless.Name))
	})
}

// keyManagement is a pod that serves as AWS KMS does.
type keyManagement struct{ vaulttest.Vault }

// startKMS starts one with a key, and puts the CA of its certificate into the Secret "my-ca".
func startKMS(t *testing.T, namespace string) keyManagement {
	t.Helper()
	// The Service is called as a Vault's would be, and so is its certificate.
	k := keyManagement{vaulttest.Vault{Namespace: namespace, Name: "kms"}}
	newUserCA(t, k.Vault).issue(t, 24*time.Hour)
	shell.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: kms, namespace: %[1]s}
data:
  seed.yaml: |
    Keys:
      Symmetric:
        Aes:
        - Metadata: {KeyId: %[2]s}
          BackingKeys: [5cdaead27fe7da2de47945d73cd6d79e36494e73802f3cd3869f1d2cb0b5d7a9]
---
apiVersion: v1
kind: Service
metadata: {name: kms, namespace: %[1]s}
spec:
  selector: {app: kms}
  ports: [{port: 443, targetPort: 8443}]
---
apiVersion: v1
kind: Pod
metadata: {name: kms, namespace: %[1]s, labels: {app: kms}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: kms
    image: localhost/local-kms:1
    imagePullPolicy: Never
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    env:
    - {name: KMS_REGION, value: %[3]s}
    - {name: KMS_SEED_PATH, value: /seed/seed.yaml}
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts:
    - {name: seed, mountPath: /seed}
    - {name: tls, mountPath: /tls}
  volumes:
  - {name: seed, configMap: {name: kms}}
  - name: tls
    secret:
      secretName: mine
      items: [{key: server.crt, path: tls.crt}, {key: server.key, path: tls.key}]
`, namespace, kmsKey, kmsRegion))
	shell.Run(t, k.Kubectl("wait --for=condition=Ready --timeout=1m pod/kms"))
	return k
}

// do has it do something with its key.
func (k keyManagement) do(t *testing.T, action string) {
	t.Helper()
	place := strings.Fields(shell.Run(t, k.Kubectl("get pod kms -o jsonpath='{.spec.nodeName} {.status.podIP}'")))
	shell.Run(t, inNode(t, place[0])+`curl --silent --show-error --fail --max-time 5 -H 'X-Amz-Target: TrentService.`+
		action+`' -H 'Content-Type: application/x-amz-json-1.1' -d '{"KeyId": "`+kmsKey+`"}' http://`+place[1]+`:8080/`)
}
