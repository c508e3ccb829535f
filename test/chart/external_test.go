package chart

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// A storage that is not run for the Vault has nothing in the release but the nodes.
func TestExternal(t *testing.T) {
	for name, test := range map[string]struct {
		external string
		want     appsv1.DeploymentStrategyType
	}{
		"with a lock":    {`{type: postgresql, highAvailability: true}`, appsv1.RollingUpdateDeploymentStrategyType},
		"without a lock": {`{type: s3, highAvailability: false}`, appsv1.RecreateDeploymentStrategyType},
		"a lock that is new": {`{type: mysql, highAvailability: true, recreate: true}`,
			appsv1.RecreateDeploymentStrategyType},
		"nothing is known of": {`{type: mine}`, appsv1.RecreateDeploymentStrategyType},
	} {
		t.Run(name, func(t *testing.T) {
			out := release{values: `{operated: true, ownerUID: a, storage: {external: ` + test.external + `}, ` +
				`configSecret: {name: example-vault-config-1, keys: [storage.hcl]}}`}.render(t)
			if got := out.vault.Spec.Strategy.Type; got != test.want {
				t.Errorf("the strategy is %s, want %s", got, test.want)
			}
			if out.etcd.Name != "" || out.etcdService.Name != "" || len(out.budgets) != 1 {
				t.Errorf("StatefulSet %q, Service %q, %d budgets", out.etcd.Name, out.etcdService.Name, len(out.budgets))
			}
			if config := string(out.config.Data["operator.hcl"]); strings.Contains(config, "storage ") {
				t.Errorf("the configuration has a storage:\n%s", config)
			}
			pod := out.vault.Spec.Template.Spec
			requireRestricted(t, &pod, false)
			container := pod.Containers[0]
			if !slices.Contains(container.Args, "-config=/vault/config/storage.hcl") {
				t.Errorf("the arguments are %q", container.Args)
			}
			if container.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Error("a node that cannot use its storage does not say why")
			}
			for _, volume := range pod.Volumes {
				if volume.Name == "etcd-tls" {
					t.Error("the pods have certificates of etcd")
				}
			}
			if script := strings.Join(container.Command, "\n"); !strings.Contains(script, "DYNAMODB_HA_ENABLED") {
				t.Error("variables that turn the lock off are left to the nodes")
			}
		})
	}
}
