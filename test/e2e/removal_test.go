//go:build e2e

package e2e

import (
	"regexp"
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/test/internal/docs"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestRemovalOfTheOperatorAlone removes what was applied while there is a Vault. The deletion of the
// CustomResourceDefinition is stuck then, the Vault serves, and the way out is that of docs/install.md.
func TestRemovalOfTheOperatorAlone(t *testing.T) {
	onlyInAll(t, "TestOperatorUpgrade removes all in the right order.")
	requireLocalCluster(t)
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "example"}
	crd := "crd/vaults.vault.security.coreos.com"
	t.Cleanup(func() {
		// Where the test has failed, what it left has to be gone before the CustomResourceDefinition comes again.
		_, _ = shell.Try(v.Kubectl("patch vault %s --type=merge -p '{\"metadata\": {\"finalizers\": null}}'", v.Name))
		_, _ = shell.Try("kubectl delete --ignore-not-found --timeout=1m " + crd)
		shell.Run(t, "../../hack/deploy.sh")
	})
	shell.Apply(t, manifest(v, `{nodes: 1, storage: {etcd: {nodes: 1}}}`))
	v.InitAndUnseal(t, 1)
	pods := shell.Run(t, v.Kubectl("get pods -o name"))

	// One that still runs may remove the Vault before it goes.
	scaleOperator(t, 0)
	shell.Run(t, "kubectl delete -k ../../config/default --wait=false")
	shell.Run(t, "kubectl wait --for=delete --timeout=2m namespace/"+operatorNamespace)
	if out, err := shell.Try("kubectl wait --for=delete --timeout=10s " + crd); err == nil {
		t.Errorf("the CustomResourceDefinition is gone, although there was a Vault: %s", out)
	}
	if now := shell.Run(t, v.Kubectl("get pods -o name")); now != pods {
		t.Errorf("the pods are %s, and were %s", now, pods)
	}
	shell.Run(t, v.Kubectl("exec deploy/example -- vault status"))

	command := docs.Find(t, "../../docs/install.md", regexp.MustCompile(`(?m)^    (kubectl -n default patch vault .*)$`))
	shell.Run(t, strings.Replace(command, "-n default", "-n "+v.Namespace, 1))
	shell.Run(t, "kubectl wait --for=delete --timeout=1m "+crd)
	shell.Run(t, "../../hack/deploy.sh") // with the CRD
	awaitNothingLeft(t, v, 1)
}
