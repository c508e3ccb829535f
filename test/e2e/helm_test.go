//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/cli"

	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// TestPlainHelmInstall installs the chart without the operator, which ignores
// it: there is no Vault resource.
func TestPlainHelmInstall(t *testing.T) {
	t.Parallel()
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: "plain"}
	settings := cli.New()
	settings.SetNamespace(v.Namespace)
	var config action.Configuration
	if err := config.Init(settings.RESTClientGetter(), v.Namespace, "secret", t.Logf); err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load("../../helm-charts/vault")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{"storage": map[string]any{"etcd": map[string]any{"nodes": 1, "whenDeleted": "Delete"}}}
	install := action.NewInstall(&config)
	install.ReleaseName, install.Namespace = v.Name, v.Namespace
	if _, err := install.Run(chart, values); err != nil {
		t.Fatal(err)
	}
	// An upgrade must not make the certificates anew.
	certificate := v.Kubectl(`get secret plain-default-vault-server-tls -o jsonpath='{.data.server\.crt}'`)
	made := shell.Run(t, certificate)
	upgrade := action.NewUpgrade(&config)
	upgrade.Namespace = v.Namespace
	if _, err := upgrade.Run(v.Name, chart, values); err != nil {
		t.Fatal(err)
	}
	if shell.Run(t, certificate) != made {
		t.Error("the upgrade made another certificate")
	}

	shell.Run(t, v.Kubectl("wait --for=create --timeout=60s pods -l app.kubernetes.io/component=server"))
	pods := shell.Run(t, v.Kubectl("get pods -l app.kubernetes.io/component=server "+
		"-o jsonpath='{.items[0].metadata.name}'"))
	shell.Run(t, v.Kubectl("wait --for=jsonpath='{.status.phase}'=Running --timeout=60s pod/%s", pods))
	shell.Eventually(t, "a node responds", time.Minute, func() error {
		// It exits with 2 when the node is sealed.
		out, err := shell.Try(v.Kubectl("exec %s -- vault status -format=json", pods))
		if !strings.Contains(out, `"initialized": false`) {
			return fmt.Errorf("%s (%w)", out, err)
		}
		return nil
	})
	v.Unseal(t, pods, v.Init(t, pods))
	shell.Run(t, v.Kubectl("wait --for=condition=Ready --timeout=30s pod/%s", pods))
	shell.Eventually(t, "the Service reaches it", 30*time.Second, func() error {
		endpoints, err := v.Endpoints()
		if err == nil && (len(endpoints) != 1 || endpoints[0] != pods) {
			err = errors.New("it does not")
		}
		return err
	})
	if _, err := action.NewUninstall(&config).Run(v.Name); err != nil {
		t.Fatal(err)
	}
	awaitNothingLeft(t, v, 0)
}
