package backupproof

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// isolationSuffix ends the names of the NetworkPolicy and of the Job that finds out whether it is
	// enforced, and reachSuffix that of the Job that it does not select.
	isolationSuffix = "-isolation"
	reachSuffix     = "-reach"
	// licence is what a Vault Enterprise does not start without.
	// https://developer.hashicorp.com/vault/docs/license
	licence = "VAULT_LICENSE"
	// dnsPort is where DNS is served, and openshiftDNSPort where OpenShift's pods serve it.
	dnsPort          = 53
	openshiftDNSPort = 5353
)

// objectMeta is that of all objects of a proof. They go with the schedule.
func objectMeta(s *v1alpha1.VaultBackupSchedule, suffix, component string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: s.Namespace, Name: s.ProofName() + suffix,
		Labels: map[string]string{
			v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: s.ProofName(), v1alpha1.ComponentLabel: component,
			v1alpha1.ProofLabel: s.Name,
		},
		OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(s, v1alpha1.GroupVersion.WithKind("VaultBackupSchedule")),
		},
	}
}

// newVault is the Vault that a backup of another one is restored into. It has what that one needs to run its
// data: the same version and kind of storage, once. It has nothing by which it would be used, or reach what the
// other one reaches: no configuration or certificates of users, no annotations, labels or volumes of pods, no
// login of the operator.
func newVault(s *v1alpha1.VaultBackupSchedule, origin *v1alpha1.Vault, withKeys bool) *v1alpha1.Vault {
	from := &origin.Spec
	vault := &v1alpha1.Vault{ObjectMeta: objectMeta(s, "", v1alpha1.ProofComponent), Spec: v1alpha1.VaultSpec{
		Nodes: new(int32(1)), Version: from.Version, BaseImage: from.BaseImage, ImageDigest: from.ImageDigest,
		ImagePullSecrets: slices.Clone(from.ImagePullSecrets),
		Pod: v1alpha1.PodPolicy{
			Resources: *from.Pod.Resources.DeepCopy(), NodeSelector: from.Pod.NodeSelector,
			Tolerations: from.Pod.Tolerations, Affinity: nodeAffinity(from.Pod.Affinity),
		},
	}}
	for _, variable := range from.Pod.Env {
		if variable.Name == licence {
			vault.Spec.Pod.Env = append(vault.Spec.Pod.Env, variable)
		}
	}
	if withKeys {
		vault.Spec.Unseal = from.Unseal.DeepCopy()
	}
	if raft := from.Storage.Raft; raft != nil {
		vault.Spec.Storage.Raft = &v1alpha1.RaftStorage{
			VolumeSize: raft.VolumeSize, StorageClassName: raft.StorageClassName, WhenDeleted: v1alpha1.DeleteData,
		}
	} else {
		vault.Spec.Storage.Etcd = newEtcd(origin)
	}
	return vault.DeepCopy()
}

func newEtcd(origin *v1alpha1.Vault) *v1alpha1.EtcdStorage {
	from := origin.EtcdSpec()
	etcd := &v1alpha1.EtcdStorage{
		Nodes: new(int32(1)), Version: from.Version, BaseImage: from.BaseImage, ImageDigest: from.ImageDigest,
		Resources: from.Resources, VolumeSize: from.VolumeSize, StorageClassName: from.StorageClassName,
		WhenDeleted: v1alpha1.DeleteData,
	}
	if etcd.Version == "" && origin.Status.Storage != nil { // the version that an etcd keeps which runs
		etcd.Version = origin.Status.Storage.Version
	}
	if pod := from.Pod; pod != nil {
		etcd.Pod = &v1alpha1.EtcdPodPolicy{
			NodeSelector: pod.NodeSelector, Tolerations: pod.Tolerations, Affinity: nodeAffinity(pod.Affinity),
		}
	}
	return etcd
}

// nodeAffinity is what of an affinity is not about other pods.
func nodeAffinity(affinity *corev1.Affinity) *corev1.Affinity {
	if affinity == nil || affinity.NodeAffinity == nil {
		return nil
	}
	return &corev1.Affinity{NodeAffinity: affinity.NodeAffinity}
}

func newRestore(s *v1alpha1.VaultBackupSchedule, backup string) *v1alpha1.VaultRestore {
	return &v1alpha1.VaultRestore{
		ObjectMeta: objectMeta(s, "", v1alpha1.ProofComponent),
		Spec: v1alpha1.VaultRestoreSpec{
			Vault: v1alpha1.ObjectName(s.ProofName()), Backup: v1alpha1.ObjectName(backup),
		},
	}
}

// newPolicy keeps what is restored from reaching anything but itself and DNS: once it is unsealed it
// revokes leases and changes passwords, as the Vault that was backed up does. The Job that restores has to
// reach the store. Who may come in is limited by the chart.
func newPolicy(s *v1alpha1.VaultBackupSchedule) *networkingv1.NetworkPolicy {
	same := map[string]string{v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: s.ProofName()}
	var dns []networkingv1.NetworkPolicyPort
	for _, port := range []int{dnsPort, openshiftDNSPort} {
		for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
			dns = append(dns, networkingv1.NetworkPolicyPort{Protocol: new(protocol), Port: new(intstr.FromInt(port))})
		}
	}
	object := objectMeta(s, isolationSuffix, v1alpha1.ProofComponent)
	// When the schedule is deleted in the foreground it must not go before the pods.
	object.OwnerReferences[0].BlockOwnerDeletion = nil
	return &networkingv1.NetworkPolicy{
		ObjectMeta: object,
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{
				MatchLabels: same,
				MatchExpressions: []metav1.LabelSelectorRequirement{{
					Key: v1alpha1.ComponentLabel, Operator: metav1.LabelSelectorOpNotIn,
					Values: []string{v1alpha1.BackupComponent},
				}},
			},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: same}}}},
				{Ports: dns},
			},
		},
	}
}

// letsOut says that a NetworkPolicy may allow the nodes of a Vault to reach something: policies add up. Of the
// labels of a pod it is taken to match those that are not known before there is one.
func letsOut(policy *networkingv1.NetworkPolicy, vault string) bool {
	if len(policy.Spec.Egress) == 0 {
		return false
	}
	for _, component := range []string{v1alpha1.ServerComponent, v1alpha1.EtcdComponent} {
		if mayMatch(&policy.Spec.PodSelector, labels.Set{
			v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: vault, v1alpha1.ComponentLabel: component,
		}) {
			return true
		}
	}
	return false
}

func mayMatch(selector *metav1.LabelSelector, known labels.Set) bool {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return true
	}
	requirements, _ := parsed.Requirements()
	for i := range requirements {
		if known.Has(requirements[i].Key()) && !requirements[i].Matches(known) {
			return false
		}
	}
	return true
}
