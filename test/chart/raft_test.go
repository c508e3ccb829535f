package chart

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// ofRaft are the values of a Vault with integrated storage, and more.
func ofRaft(more string) release {
	return release{values: `{operated: true, ownerUID: a, nodes: 3, storage: {raft: {}}` + more + `}`}
}

// The nodes have the data: there is no etcd, and nothing of it in the pods.
func TestRaft(t *testing.T) {
	out := ofRaft("").render(t)
	set, config := out.etcd, string(out.config.Data["operator.hcl"])
	if set.Name != "example" || out.vault.Name != "" || len(out.budgets) != 1 || out.etcdService.Name != "" {
		t.Fatalf("StatefulSet %q, Deployment %q, %d budgets", set.Name, out.vault.Name, len(out.budgets))
	}
	if set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType ||
		set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement || set.Spec.ServiceName != "example-nodes" ||
		*set.Spec.Replicas != 3 {
		t.Errorf("the StatefulSet is %+v", set.Spec)
	}
	// A StatefulSet that is made smaller by mistake must not take the data with it.
	if policy := set.Spec.PersistentVolumeClaimRetentionPolicy; policy.WhenScaled != appsv1.
		RetainPersistentVolumeClaimRetentionPolicyType {
		t.Errorf("the retention is %+v", policy)
	}
	pod := set.Spec.Template.Spec
	requireRestricted(t, &pod, false)
	for _, volume := range pod.Volumes {
		if volume.Name == "etcd-tls" {
			t.Error("the pods have certificates of etcd")
		}
	}
	mounted := slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.Name == set.Spec.VolumeClaimTemplates[0].Name && m.MountPath == "/vault/data"
	})
	if !mounted || pod.Affinity.PodAffinity != nil {
		t.Errorf("mounts %+v, affinity %+v", pod.Containers[0].VolumeMounts, pod.Affinity)
	}
	env := map[string]string{}
	for _, variable := range pod.Containers[0].Env {
		env[variable.Name] = variable.Value
	}
	// By an address that a restart changes the others would not find it again.
	if got := env["VAULT_CLUSTER_ADDR"]; got != "https://$(POD_NAME).example-nodes.default.svc:8201" {
		t.Errorf("VAULT_CLUSTER_ADDR is %q", got)
	}
	if !strings.Contains(config, `http_read_timeout = "1h"`) {
		t.Errorf("a snapshot has to be uploaded within 30 s:\n%s", config)
	}
	if strings.Contains(config, "node_id") || strings.Contains(config, "etcd") ||
		!strings.Contains(config, `path                   = "/vault/data"`) {
		t.Errorf("the configuration is\n%s", config)
	}
	for i := range 3 {
		if !strings.Contains(config, fmt.Sprintf(`"https://example-%d.example-nodes.default.svc:8200"`, i)) {
			t.Errorf("the node %d is not joined:\n%s", i, config)
		}
	}
	if strings.Count(config, `leader_ca_cert_file   = "/vault/tls-ca/vault-client-ca.crt"`) !=
		strings.Count(config, "retry_join {") {
		t.Errorf("a node is joined that is not verified:\n%s", config)
	}
	for _, annotation := range []string{v1alpha1.VersionAnnotation, v1alpha1.ConfigSecretsAnnotation} {
		if set.Annotations[annotation] == "" {
			t.Errorf("the StatefulSet has no annotation %s", annotation)
		}
	}
}

// More nodes replace none of those that are there.
func TestRaftPodsAreReplacedOnlyForAReason(t *testing.T) {
	template := func(r release) corev1.PodTemplateSpec { return r.render(t).etcd.Spec.Template }
	base := template(ofRaft(""))
	for values, replaced := range map[string]bool{
		`{operated: true, ownerUID: a, nodes: 5, storage: {raft: {}}}`:                         false,
		`{operated: true, ownerUID: a, nodes: 3, storage: {raft: {whenDeleted: Delete}}}`:      false,
		`{operated: true, ownerUID: a, nodes: 3, storage: {raft: {performanceMultiplier: 5}}}`: true,
	} {
		if got := !reflect.DeepEqual(template(release{values: values}), base); got != replaced {
			t.Errorf("%s: pods replaced %v, want %v", values, got, replaced)
		}
	}
}

// A majority has to stay, and a single node must not block a drain.
func TestRaftKeepsAMajority(t *testing.T) {
	for nodes, keeps := range map[int]int{1: 0, 3: 2, 5: 3, 7: 4} {
		values := fmt.Sprintf(`{operated: true, nodes: %d, storage: {raft: {}}}`, nodes)
		budget := release{values: values}.render(t).budgets[0].Spec
		if keeps == 0 && budget.MinAvailable != nil || keeps > 0 && budget.MinAvailable.IntValue() != keeps {
			t.Errorf("%d nodes: %+v", nodes, budget)
		}
	}
}

func TestRaftVolumes(t *testing.T) {
	spec := ofRaft(", pod: {volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /a}]}").render(t)
	if pod := spec.etcd.Spec.Template.Spec; pod.Volumes[0].Name != "a" || pod.Containers[0].VolumeMounts[0].Name != "a" {
		t.Errorf("the pod is %+v", pod)
	}
	claim := release{values: `{operated: true, nodes: 3, storage: {raft: {volumeSize: 20Gi,
		storageClassName: fast}}}`}.render(t).etcd.Spec.VolumeClaimTemplates[0].Spec
	size := claim.Resources.Requests[corev1.ResourceStorage]
	if size.String() != "20Gi" || *claim.StorageClassName != "fast" {
		t.Errorf("the claim is %+v", claim)
	}
}

func TestNodesOfRaftAreOdd(t *testing.T) {
	for _, values := range []string{
		`{storage: {raft: {}}}`, // of the default number of nodes
		`{nodes: 2, storage: {raft: {}}}`,
		`{nodes: 9, storage: {raft: {}}}`,
	} {
		if _, err := (release{values: values}).manifests(t); err == nil {
			t.Errorf("accepted: %s", values)
		}
	}
}

// Without an operator the chart makes the certificates of Vault alone.
func TestRaftWithoutAnOperator(t *testing.T) {
	out := release{values: `{nodes: 3, storage: {raft: {}}}`}.render(t)
	for _, secret := range out.secrets {
		if secret.Labels[v1alpha1.ComponentLabel] != v1alpha1.ServerComponent {
			t.Errorf("Secret %s", secret.Name)
		}
	}
	if len(out.secrets) != 2 {
		t.Errorf("%d Secrets with certificates, want 2", len(out.secrets))
	}
}
