package backupproof

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupjob"
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
	// auditDirectory is where the chart mounts the volume of spec.audit.
	auditDirectory = "/vault/audit"
	// roomName is the name of the empty directory that what was restored writes to, and maxMounts is how many mounts a
	// Vault may have.
	roomName  = "room"
	maxMounts = 16
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

// unseals says that a Vault is given what unseals it: keys, or its key service.
func unseals(vault *v1alpha1.Vault) bool { return vault.Spec.Unseal != nil || vault.Spec.Seal != nil }

// newVault is the Vault that a backup of another one is restored into. It has what that one needs to run its
// data: the same version and kind of storage, once, and what unseals it if it can be isolated. It has nothing by
// which it would be used, or reach what the other one reaches: no configuration or certificates of users, no
// annotations, labels or volumes of pods, no login of the operator. The machine is the one where pods were found to be
// isolated; empty when they were not, or that is not known.
func newVault(s *v1alpha1.VaultBackupSchedule, origin *v1alpha1.Vault, machine string) *v1alpha1.Vault {
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
	if machine != "" {
		vault.Spec.Unseal, vault.Spec.Seal = from.Unseal, from.Seal
		vault.Spec.Pod.Affinity = backupjob.OnMachine(machine)
		if from.Seal != nil { // the identity of the nodes for the key service
			vault.Spec.Pod.ServiceAccountAnnotations = from.Pod.ServiceAccountAnnotations
		}
		giveRoom(&vault.Spec.Pod, from)
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

// giveRoom mounts empty directories where the nodes of the other Vault may have files of audit devices: one of whose
// devices none can write does not become active.
// https://github.com/hashicorp/vault/blob/v1.21.1/vault/audit.go
func giveRoom(pod *v1alpha1.PodPolicy, of *v1alpha1.VaultSpec) {
	if of.Audit != nil {
		pod.VolumeMounts = append(pod.VolumeMounts, v1alpha1.PodVolumeMount{Name: roomName, MountPath: auditDirectory})
	}
	for _, mount := range of.Pod.VolumeMounts {
		i := slices.IndexFunc(of.Pod.Volumes, func(v v1alpha1.PodVolume) bool { return v.Name == mount.Name })
		if i < 0 || mount.ReadOnly || of.Pod.Volumes[i].EmptyDir == nil && of.Pod.Volumes[i].PersistentVolumeClaim == nil {
			continue
		}
		pod.VolumeMounts = append(pod.VolumeMounts, v1alpha1.PodVolumeMount{Name: roomName, MountPath: mount.MountPath})
	}
	if len(pod.VolumeMounts) == 0 {
		return
	}
	pod.VolumeMounts = pod.VolumeMounts[:min(len(pod.VolumeMounts), maxMounts)]
	pod.Volumes = []v1alpha1.PodVolume{{Name: roomName, EmptyDir: &corev1.EmptyDirVolumeSource{}}}
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

// newPolicy keeps what is restored from reaching anything but itself, DNS and the key service: once it is unsealed
// it revokes leases and changes passwords, as the Vault that was backed up does. The Job that restores has to
// reach the store. Who may come in is limited by the chart.
func newPolicy(s *v1alpha1.VaultBackupSchedule, origin *v1alpha1.Vault) *networkingv1.NetworkPolicy {
	same := map[string]string{v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: s.ProofName()}
	var dns []networkingv1.NetworkPolicyPort
	for _, port := range []int{dnsPort, openshiftDNSPort} {
		for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
			dns = append(dns, networkingv1.NetworkPolicyPort{Protocol: new(protocol), Port: new(intstr.FromInt(port))})
		}
	}
	egress := []networkingv1.NetworkPolicyEgressRule{
		{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: same}}}},
		{Ports: dns},
	}
	if origin.Spec.Seal != nil {
		for i := range s.Spec.Proof.KeyService {
			at := s.Spec.Proof.KeyService[i].DeepCopy()
			peer := networkingv1.NetworkPolicyPeer{PodSelector: at.PodSelector, NamespaceSelector: at.NamespaceSelector}
			if at.CIDR != "" {
				peer.IPBlock = &networkingv1.IPBlock{CIDR: at.CIDR}
			}
			egress = append(egress, networkingv1.NetworkPolicyEgressRule{
				To: []networkingv1.NetworkPolicyPeer{peer},
				Ports: []networkingv1.NetworkPolicyPort{{
					Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(at.Port)),
				}},
			})
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
			Egress:      egress,
		},
	}
}

// checkKeyService refuses what the API server would refuse in a NetworkPolicy, and the schema of a schedule does not.
// https://github.com/kubernetes/kubernetes/blob/v1.34.2/pkg/apis/networking/validation/validation.go
func checkKeyService(peers []v1alpha1.KeyServicePeer) error {
	for i := range peers {
		peer := &peers[i]
		var invalid []error
		if peer.CIDR != "" {
			invalid = append(invalid, checkCIDR(peer.CIDR))
		}
		for _, selector := range []*metav1.LabelSelector{peer.PodSelector, peer.NamespaceSelector} {
			_, err := metav1.LabelSelectorAsSelector(selector)
			invalid = append(invalid, err)
		}
		if err := errors.Join(invalid...); err != nil {
			return fmt.Errorf("spec.proof.keyService[%d]: %w", i, err)
		}
	}
	return nil
}

// nat64 are all addresses of IPv4.
// https://www.rfc-editor.org/rfc/rfc6052#section-2.1
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// checkCIDR refuses also what has more bits than its length, since API servers take it for one address or for a range.
// https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/4858-ip-cidr-validation
func checkCIDR(text string) error {
	cidr, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return err
	case cidr != cidr.Masked():
		return fmt.Errorf("%q is not a range of addresses: that is %s", text, cidr.Masked())
	case cidr.Addr().Is4In6():
		return fmt.Errorf("%q is to be written as a range of IPv4", text)
	case cidr.Overlaps(nat64) && cidr.Bits() < nat64.Bits()+16:
		return fmt.Errorf("%q has too many addresses of IPv4: it may be no wider than /%d", text, nat64.Bits()+16)
	}
	return nil
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
