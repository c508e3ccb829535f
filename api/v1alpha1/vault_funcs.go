package v1alpha1

import "strconv"

const (
	// ClientPort is the port on which Vault nodes and the Service serve clients.
	ClientPort = 8200

	// ActiveLabel is set to ActiveLabelValue on the pod of the active node, and
	// on no other but those that are being deleted. The Service selects it.
	ActiveLabel = "vault.security.coreos.com/active"
	// ActiveLabelValue is the value of ActiveLabel.
	ActiveLabelValue = "true"

	// GenerationAnnotation is on what runs the nodes, and not on its pods: the
	// metadata.generation of the Vault whose spec it was rendered from.
	GenerationAnnotation = "vault.security.coreos.com/generation"

	// VersionAnnotation is on what runs the nodes, and not on its pods: the spec.version
	// that it was rendered from. On the StatefulSet of etcd it is etcd's version. The
	// image's tag does not tell it when the image is named by a digest.
	VersionAnnotation = "vault.security.coreos.com/version"

	// FollowsVaultAnnotation is on the StatefulSet of an etcd whose pods run where
	// those of Vault may run. Its value is "true".
	FollowsVaultAnnotation = "vault.security.coreos.com/follows-vault"

	// SharableStorageAnnotation is on a Deployment whose storage is external: "true" if its
	// nodes agree on the active one by a lock of the storage.
	SharableStorageAnnotation = "vault.security.coreos.com/sharable-storage"

	// ConfigSecretsAnnotation is on what runs the nodes, and by a Deployment on its ReplicaSets: the
	// names, separated by commas, of the Secrets with configuration that their pods mount.
	ConfigSecretsAnnotation = "vault.security.coreos.com/config-secrets"

	// SealAnnotation is on the pods of a Vault with spec.seal: the key that they are unsealed
	// by.
	SealAnnotation = "vault.security.coreos.com/seal"

	// ConfigLabel is on Secrets with configuration.
	ConfigLabel = "vault.security.coreos.com/configuration"

	// DefaultBaseImage is the default of spec.baseImage.
	DefaultBaseImage = "hashicorp/vault"
	// DefaultEtcdBaseImage is the default of spec.storage.etcd.baseImage.
	DefaultEtcdBaseImage = "gcr.io/etcd-development/etcd"
	// DefaultEtcdVersion is the default of spec.storage.etcd.version for an etcd that does not
	// run yet. The chart has the same one.
	DefaultEtcdVersion = "3.6.16"
	// DefaultEtcdVolumeSize is the default of spec.storage.etcd.volumeSize, as in the chart.
	DefaultEtcdVolumeSize = "2Gi"
	// DefaultRaftVolumeSize is the default of spec.storage.raft.volumeSize, as in the chart.
	DefaultRaftVolumeSize = "10Gi"

	// NameLabel and its siblings are the recommended labels on all that is made
	// for a Vault.
	// https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
	NameLabel = "app.kubernetes.io/name"
	// InstanceLabel holds the name of the Vault.
	InstanceLabel = "app.kubernetes.io/instance"
	// ComponentLabel tells Vault nodes (ServerComponent) from storage (EtcdComponent).
	ComponentLabel = "app.kubernetes.io/component"

	// AppName is the value of NameLabel.
	AppName = "vault"
	// ServerComponent is the ComponentLabel of Vault nodes.
	ServerComponent = "server"
	// EtcdComponent is the ComponentLabel of etcd members.
	EtcdComponent = "etcd"

	// VaultContainer is the name of the container that runs Vault.
	VaultContainer = "vault"

	// EtcdClientPort is the port on which an etcd member serves clients with a certificate.
	EtcdClientPort = 2379
	// EtcdHealthPort is the port on which an etcd member tells anybody its health
	// and metrics.
	EtcdHealthPort = 2381

	// ConfigMapKey is the key of the user's ConfigMap and of the user's Secret that holds
	// the HCL.
	ConfigMapKey = "vault.hcl"

	// StorageKey is the key of the Secret of spec.storage.external that holds the HCL.
	StorageKey = "storage.hcl"

	// ServerCertKey holds the certificate of the nodes. It and the two keys
	// below are named as the CoreOS operator's.
	ServerCertKey = "server.crt"
	// ServerKeyKey holds the private key of the server certificate.
	ServerKeyKey = "server.key"
	// ClientCAKey holds the CA that clients verify the server certificate with.
	ClientCAKey = "vault-client-ca.crt"
)

// PodLabels select the pods of the Vault nodes.
func (v *Vault) PodLabels() map[string]string {
	return map[string]string{
		NameLabel:      AppName,
		InstanceLabel:  v.Name,
		ComponentLabel: ServerComponent,
	}
}

// ConfigLabels select the Secrets with configuration.
func (v *Vault) ConfigLabels() map[string]string {
	labels := v.PodLabels()
	labels[ConfigLabel] = "true"
	return labels
}

// OldConfigMapName is the name of the ConfigMap in which version 0.1.0 of the
// operator kept the configuration of the nodes.
func (v *Vault) OldConfigMapName() string {
	return v.Name + "-config"
}

// EtcdLabels select the pods of the etcd members.
func (v *Vault) EtcdLabels() map[string]string {
	labels := v.PodLabels()
	labels[ComponentLabel] = EtcdComponent
	return labels
}

// ServerName is the DNS name that the certificate of every node is valid for:
// the Service's.
func (v *Vault) ServerName() string {
	return v.Name + "." + v.Namespace + ".svc"
}

// ServerSecretName is the name of the Secret with the certificate of the nodes.
func (v *Vault) ServerSecretName() string {
	if v.HasStaticTLS() {
		return string(v.Spec.TLS.Static.ServerSecret)
	}
	return v.Name + "-default-vault-server-tls"
}

// ClientSecretName is the name of the Secret with the CA for Vault's clients.
func (v *Vault) ClientSecretName() string {
	if v.HasStaticTLS() {
		return string(v.Spec.TLS.Static.ClientSecret)
	}
	return v.Name + "-default-vault-client-tls"
}

// HasStaticTLS says that the user brings the certificates of the nodes.
func (v *Vault) HasStaticTLS() bool {
	return v.Spec.TLS != nil && v.Spec.TLS.Static != nil
}

// HasEtcd says that an etcd which is run for the Vault is the storage, as it is when none is
// named.
func (v *Vault) HasEtcd() bool { return !v.HasRaft() && !v.HasExternal() }

// HasRaft says that the nodes have the data on volumes of their own, and are pods of a
// StatefulSet.
func (v *Vault) HasRaft() bool { return v.Spec.Storage.Raft != nil }

// HasExternal says that the storage is none that the operator runs.
func (v *Vault) HasExternal() bool { return v.Spec.Storage.External != nil }

// EtcdName is the name of the etcd StatefulSet and of its headless Service.
func (v *Vault) EtcdName() string {
	return v.Name + "-etcd"
}

// EtcdMemberName is the name of the pod of an etcd member.
func (v *Vault) EtcdMemberName(index int) string {
	return v.EtcdName() + "-" + strconv.Itoa(index)
}

// EtcdClaimName is the name of the PersistentVolumeClaim of an etcd member.
func (v *Vault) EtcdClaimName(index int) string {
	return "data-" + v.EtcdMemberName(index)
}

// EtcdReplacementName is the name of the ConfigMap that says whether an etcd
// member whose volume is empty may found a cluster.
func (v *Vault) EtcdReplacementName() string {
	return v.EtcdName() + "-replacement"
}

// EtcdServerSecretName is the name of the Secret that etcd members serve with
// and authenticate to each other with.
func (v *Vault) EtcdServerSecretName() string {
	return v.EtcdName() + "-server-tls"
}

// EtcdClientSecretName is the name of the Secret that Vault authenticates to
// etcd with.
func (v *Vault) EtcdClientSecretName() string {
	return v.EtcdName() + "-client-tls"
}

// EtcdSpec is spec.storage.etcd, be it set or not.
func (v *Vault) EtcdSpec() EtcdStorage {
	if v.Spec.Storage.Etcd == nil {
		return EtcdStorage{}
	}
	return *v.Spec.Storage.Etcd
}

// WantedMembers is spec.storage.etcd.nodes, or its default.
func (v *Vault) WantedMembers() int {
	if etcd := v.Spec.Storage.Etcd; etcd != nil && etcd.Nodes != nil {
		return int(*etcd.Nodes)
	}
	return 3
}

// StorageVolumes are the volumes that the members of the storage were ready with.
func (v *Vault) StorageVolumes() []StorageVolume {
	if v.Status.Storage == nil {
		return nil
	}
	return v.Status.Storage.Volumes
}

// WantedNodes is spec.nodes, or its default.
func (v *Vault) WantedNodes() int32 {
	if v.Spec.Nodes == nil {
		return 2
	}
	return *v.Spec.Nodes
}
