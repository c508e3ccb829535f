package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Vault is a highly available HashiCorp Vault: its nodes (pods), their storage
// and certificates, and a Service of the same name that always points at the
// active node.
//
// +operator-sdk:csv:customresourcedefinitions:displayName="Vault",order=1,resources={{Deployment,v1},{StatefulSet,v1},{Service,v1},{Pod,v1},{Secret,v1},{ConfigMap,v1},{PersistentVolumeClaim,v1}}
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=vaults,singular=vault,scope=Namespaced,shortName=vlt,categories=all
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.nodes,statuspath=.status.nodes,selectorpath=.status.selector
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.spec.nodes`,description="Vault nodes asked for"
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.readyNodes`,description="Nodes that are unsealed"
// +kubebuilder:printcolumn:name="Active",type=string,JSONPath=`.status.vaultStatus.active`,description="The active node"
// +kubebuilder:printcolumn:name="Standby",type=integer,JSONPath=`.status.standbyNodes`,description="Nodes that are standby"
// +kubebuilder:printcolumn:name="Sealed",type=integer,JSONPath=`.status.sealedNodes`,description="Nodes that wait to be unsealed"
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`,description="Vault version that all nodes run"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`,priority=1
// +kubebuilder:printcolumn:name="Rollout",type=string,JSONPath=`.status.conditions[?(@.type=="Updated")].reason`,description="Whether all nodes are updated, or what that waits for",priority=1
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.status.serviceName`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why the Vault is not ready",priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="metadata.name: must be at most 40 characters, so that the names derived from it stay valid"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.storage) || !has(oldSelf.status.storage.volumes) || self.spec.storage.?etcd.?nodes.orValue(3) == oldSelf.spec.storage.?etcd.?nodes.orValue(3)",fieldPath=".spec.storage.etcd.nodes",message="cannot be changed: members of a living etcd cluster are not added or removed"
// +kubebuilder:validation:XValidation:rule="has(self.spec.storage.raft) || has(self.spec.storage.external) || !has(oldSelf.status) || !has(oldSelf.status.storage) || !has(oldSelf.status.storage.volumes) || quantity(has(self.spec.storage.etcd) && has(self.spec.storage.etcd.volumeSize) ? self.spec.storage.etcd.volumeSize : '2Gi').compareTo(quantity(has(oldSelf.spec.storage.etcd) && has(oldSelf.spec.storage.etcd.volumeSize) ? oldSelf.spec.storage.etcd.volumeSize : '2Gi')) >= 0 || has(oldSelf.status.storage.volumeSize) && quantity(has(self.spec.storage.etcd) && has(self.spec.storage.etcd.volumeSize) ? self.spec.storage.etcd.volumeSize : '2Gi').compareTo(quantity(oldSelf.status.storage.volumeSize)) >= 0",fieldPath=".spec.storage.etcd.volumeSize",message="cannot be made smaller: the volumes exist already"
// +kubebuilder:validation:XValidation:rule="has(self.spec.storage.raft) || has(self.spec.storage.external) || !has(oldSelf.status) || !has(oldSelf.status.storage) || !has(oldSelf.status.storage.volumes) || (has(self.spec.storage.etcd) && has(self.spec.storage.etcd.storageClassName)) == (has(oldSelf.spec.storage.etcd) && has(oldSelf.spec.storage.etcd.storageClassName)) && (!(has(self.spec.storage.etcd) && has(self.spec.storage.etcd.storageClassName)) || self.spec.storage.etcd.storageClassName == oldSelf.spec.storage.etcd.storageClassName)",fieldPath=".spec.storage.etcd.storageClassName",message="cannot be changed: the volumes exist already"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.storage.external) || has(self.spec.nodes) && self.spec.nodes == 1 || has(self.spec.storage.external.highAvailability) && self.spec.storage.external.highAvailability || self.spec.storage.external.type in ['cockroachdb', 'consul', 'dynamodb', 'etcd', 'foundationdb', 'gcs', 'mysql', 'oci', 'postgresql', 'spanner', 'zookeeper']",fieldPath=".spec.nodes",message="must be 1 with this type of storage.external: Vault has no lock there by which nodes agree on the active one"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.storage.raft) || has(self.spec.nodes) && self.spec.nodes in [1, 3, 5, 7]",fieldPath=".spec.nodes",message="must be 1, 3, 5 or 7 with storage.raft: a majority has to be unsealed, and an even number adds no safety"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.storage.raft) || !has(oldSelf.spec.storage.raft) || !has(oldSelf.status) || !has(oldSelf.status.storage) || !has(oldSelf.status.storage.volumes) || quantity(has(self.spec.storage.raft.volumeSize) ? self.spec.storage.raft.volumeSize : '10Gi').compareTo(quantity(has(oldSelf.spec.storage.raft.volumeSize) ? oldSelf.spec.storage.raft.volumeSize : '10Gi')) >= 0 || has(oldSelf.status.storage.volumeSize) && quantity(has(self.spec.storage.raft.volumeSize) ? self.spec.storage.raft.volumeSize : '10Gi').compareTo(quantity(oldSelf.status.storage.volumeSize)) >= 0",fieldPath=".spec.storage.raft.volumeSize",message="cannot be made smaller: the volumes exist already"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.storage.raft) || !has(oldSelf.spec.storage.raft) || !has(oldSelf.status) || !has(oldSelf.status.storage) || !has(oldSelf.status.storage.volumes) || has(self.spec.storage.raft.storageClassName) == has(oldSelf.spec.storage.raft.storageClassName) && (!has(self.spec.storage.raft.storageClassName) || self.spec.storage.raft.storageClassName == oldSelf.spec.storage.raft.storageClassName)",fieldPath=".spec.storage.raft.storageClassName",message="cannot be changed: the volumes exist already"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.storage.raft) || !has(self.spec.pod.volumes) || self.spec.pod.volumes.all(v, v.name != 'data')",fieldPath=".spec.pod.volumes",message="with storage.raft the volume data is the operator's"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.storage.raft) || !has(self.spec.pod.volumeMounts) || self.spec.pod.volumeMounts.all(m, m.mountPath != '/vault/data' && !m.mountPath.startsWith('/vault/data/'))",fieldPath=".spec.pod.volumeMounts",message="with storage.raft /vault/data is the operator's"
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name: must start with a letter and contain only lower case letters, digits and '-', because the Service has the same name"
// +kubebuilder:validation:XValidation:rule="oldSelf.hasValue() || self.metadata.name != 'default'",optionalOldSelf=true,message="metadata.name: must not be default, because each namespace has a ServiceAccount of that name"
type Vault struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the Vault that is wanted.
	// +kubebuilder:default={}
	// +optional
	Spec VaultSpec `json:"spec,omitempty"`

	// status is the Vault that was last observed.
	// +kubebuilder:default={}
	// +optional
	Status VaultStatus `json:"status,omitempty"`
}

// VaultList is a list of Vaults.
//
// +kubebuilder:object:root=true
type VaultList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Vault `json:"items"`
}

// VaultSpec is the Vault that is wanted.
//
// +kubebuilder:validation:XValidation:rule="!has(self.unseal) || !has(self.seal)",fieldPath=".unseal",message="must not be set together with seal, by which nodes unseal themselves"
// +kubebuilder:validation:XValidation:rule="!has(self.audit) || !has(self.pod) || !has(self.pod.volumes) || self.pod.volumes.all(v, v.name != 'audit')",fieldPath=".pod.volumes",message="the volume audit is the operator's while spec.audit is set"
// +kubebuilder:validation:XValidation:rule="!has(self.audit) || !has(self.pod) || !has(self.pod.volumeMounts) || self.pod.volumeMounts.all(m, !m.mountPath.matches('^/vault/audit(/.*)?$'))",fieldPath=".pod.volumeMounts",message="what is at or below /vault/audit is the operator's while spec.audit is set"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || has(self.seal) || !has(self.sealMigration.from.shamir)",fieldPath=".sealMigration.from",message="must be another seal than spec.seal, which is not set: that is Shamir's keys as well"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || self.nodes == oldSelf.nodes",fieldPath=".nodes",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || self.version == oldSelf.version",fieldPath=".version",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || self.baseImage == oldSelf.baseImage",fieldPath=".baseImage",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || has(self.imageDigest) == has(oldSelf.imageDigest) && (!has(self.imageDigest) || self.imageDigest == oldSelf.imageDigest)",fieldPath=".imageDigest",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || (has(self.storage.etcd) && has(self.storage.etcd.version)) == (has(oldSelf.storage.etcd) && has(oldSelf.storage.etcd.version)) && (!(has(self.storage.etcd) && has(self.storage.etcd.version)) || self.storage.etcd.version == oldSelf.storage.etcd.version)",fieldPath=".storage.etcd.version",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || (has(self.storage.etcd) && has(self.storage.etcd.baseImage) ? self.storage.etcd.baseImage : 'gcr.io/etcd-development/etcd') == (has(oldSelf.storage.etcd) && has(oldSelf.storage.etcd.baseImage) ? oldSelf.storage.etcd.baseImage : 'gcr.io/etcd-development/etcd')",fieldPath=".storage.etcd.baseImage",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || (has(self.storage.etcd) && has(self.storage.etcd.imageDigest)) == (has(oldSelf.storage.etcd) && has(oldSelf.storage.etcd.imageDigest)) && (!(has(self.storage.etcd) && has(self.storage.etcd.imageDigest)) || self.storage.etcd.imageDigest == oldSelf.storage.etcd.imageDigest)",fieldPath=".storage.etcd.imageDigest",message="cannot be changed while spec.sealMigration is set, nor together with it"
// +kubebuilder:validation:XValidation:rule="!has(self.sealMigration) || !has(self.unseal)",fieldPath=".unseal",message="must not be set together with sealMigration, in which people unseal the nodes"
type VaultSpec struct {
	// nodes is the number of Vault nodes (pods): one is active, the others are
	// standby and take over when it fails. Defaults to 2, the least that is
	// highly available with storage.etcd. With storage.raft a majority has to be
	// unsealed, so it has to be 1, 3, 5 or 7; 3 is the least that is highly available.
	// When it is lowered there, the cluster gets rid of one node after the other, for which
	// the operator has to be authorized in Vault (operatorLogin), or somebody removes them.
	// With storage.external it has to be 1 where nodes cannot share the storage.
	// https://developer.hashicorp.com/vault/docs/concepts/ha
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Nodes",order=1,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:podCount"}
	// +optional
	Nodes *int32 `json:"nodes,omitempty"`

	// version of Vault, the tag of baseImage, for example "1.21.0". Changing it
	// upgrades the nodes one by one; each new node has to be unsealed. A version
	// that is lower than status.dataVersion is refused, unless allowDowngrade is
	// set.
	// https://developer.hashicorp.com/vault/docs/upgrade
	// +kubebuilder:default="1.21.0"
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]+[.][0-9]+[.][0-9]+([-.][0-9A-Za-z.-]+)?$')",message="must be a full Vault version such as 1.21.0"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault version",order=2,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	Version string `json:"version,omitempty"`

	// allowDowngrade permits a version that is lower than status.dataVersion, and
	// a version of etcd that is lower than status.storage.version.
	// Defaults to false. A newer Vault may have changed its data into what an
	// older one misreads or cannot read: set it only together with data that was
	// restored from before the upgrade, or after trying it on a copy, and unset it
	// when the older version is active.
	// https://developer.hashicorp.com/vault/docs/upgrade/rollback
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Allow a downgrade",order=29,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AllowDowngrade bool `json:"allowDowngrade,omitempty"`

	// baseImage is the container image of Vault without its tag. It has to have
	// /bin/vault and /bin/sh, as HashiCorp's own images do; its entrypoint is not
	// used. Defaults to "hashicorp/vault".
	// +kubebuilder:default="hashicorp/vault"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-zA-Z0-9._/-]|:[0-9]+/)*$')",message="must be an image name without a tag or digest, such as hashicorp/vault; the tag is spec.version, the digest spec.imageDigest"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault image",order=27,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	BaseImage string `json:"baseImage,omitempty"`

	// imageDigest pins the image of Vault to its content, such as "sha256:" and 64 hexadecimal
	// digits: baseImage is pulled by it, whatever the tag points at. version still says which
	// version that is, so change both in an upgrade.
	// https://kubernetes.io/docs/concepts/containers/images/#image-names
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault image digest",order=40,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ImageDigest ImageDigest `json:"imageDigest,omitempty"`

	// imagePullSecrets are the names of Secrets in the namespace of the Vault
	// that hold the credentials for the images.
	// https://kubernetes.io/docs/concepts/containers/images/#specifying-imagepullsecrets-on-a-pod
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Image pull secrets",order=28,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// configMapName is the name of a ConfigMap in the namespace of the Vault
	// whose key "vault.hcl" holds more Vault configuration, for example ui,
	// telemetry or max_lease_ttl. What the operator owns must not be in it:
	// storage, ha_storage, listener, api_addr, cluster_addr, disable_clustering, disable_mlock and
	// service_registration. It may have at most 64 KiB and 32 levels of nesting. A
	// ConfigMap that is missing or wrong is reported by the condition ConfigValid and
	// changes nothing that runs; a changed one is rolled out as an upgrade is. Secrets,
	// such as the token of a seal, belong into the Secret of configSecretName: more
	// users may read ConfigMaps.
	// https://developer.hashicorp.com/vault/docs/configuration
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="ConfigMap with more configuration",order=3,xDescriptors={"urn:alm:descriptor:io.kubernetes:ConfigMap"}
	// +optional
	ConfigMapName ObjectName `json:"configMapName,omitempty"`

	// configSecretName is the name of a Secret in the namespace of the Vault whose
	// key "vault.hcl" holds more Vault configuration, for example a seal with its
	// token. It is used, checked and rolled out as the configuration of
	// configMapName is, and read by Vault after that. The operator copies both into
	// a Secret of its own, which the nodes mount; what is in them is in no other
	// object, condition, event or log.
	// https://developer.hashicorp.com/vault/docs/configuration
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with more configuration",order=36,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ConfigSecretName ObjectName `json:"configSecretName,omitempty"`

	// pod is the policy for the Vault pods.
	// +kubebuilder:default={}
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Pods",order=4
	// +optional
	Pod PodPolicy `json:"pod,omitempty"`

	// listener has what may be set of the listener that clients connect to. All else of
	// it is the operator's. A change restarts the nodes one by one, and each has to be
	// unsealed.
	// https://developer.hashicorp.com/vault/docs/configuration/listener/tcp
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Listener",order=49,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Listener *ListenerPolicy `json:"listener,omitempty"`

	// kubernetesAuth is for Vault's Kubernetes auth method, by which workloads log in with
	// the token of their ServiceAccount.
	// https://developer.hashicorp.com/vault/docs/auth/kubernetes
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Kubernetes auth method",order=47,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	KubernetesAuth *KubernetesAuthPolicy `json:"kubernetesAuth,omitempty"`

	// audit gives each Vault pod a volume at /vault/audit, for the files of audit devices,
	// which are rotated so that it does not fill up. Devices are enabled in Vault, and
	// always one that writes to stdout beside: Vault serves nothing while none of its
	// devices can write. The volume ends with its pod. A change restarts the nodes one by
	// one, and each has to be unsealed. See docs/audit.md.
	// https://developer.hashicorp.com/vault/docs/audit/file
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Audit volume",order=90,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Audit *AuditPolicy `json:"audit,omitempty"`

	// service is the policy for the Service that points at the active node.
	// +kubebuilder:default={}
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Service",order=37,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Service ServicePolicy `json:"service,omitempty"`

	// tls is the policy for certificates. When it is not set the operator makes
	// a certificate authority and a server certificate for this Vault.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Certificates",order=13
	// +optional
	TLS *TLSPolicy `json:"tls,omitempty"`

	// seal is a key service by which the nodes unseal themselves. When it is not set,
	// administrators unseal each node with Shamir's keys. Once Vault is initialized its kind
	// and its key can be changed, and it can be set or unset, only together with
	// sealMigration; what leads to the key can be changed at any time, such as an address
	// or credentials. A change restarts the nodes one by one. A Vault whose key is lost can
	// never be unsealed again, by nobody.
	// https://developer.hashicorp.com/vault/docs/concepts/seal#auto-unseal
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Auto-unseal",order=52,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Seal *SealPolicy `json:"seal,omitempty"`

	// initialization has the operator initialize this Vault, once, if it has no data yet. When
	// it is not set an administrator runs "vault operator init".
	// https://developer.hashicorp.com/vault/docs/commands/operator/init
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Initialization",order=90,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Initialization *InitializationPolicy `json:"initialization,omitempty"`

	// unseal has the operator unseal nodes with keys of a Secret, for development: whoever
	// may read that Secret can unseal Vault. When it is not set administrators do it, or the
	// key service of seal.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Unsealing by the operator",order=97,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Unseal *UnsealPolicy `json:"unseal,omitempty"`

	// operatorLogin has the operator log in to this Vault, by a token of its ServiceAccount,
	// once an administrator of Vault has authorized it ("kubectl vault authorize"). It may then
	// do what keeps Vault available, such as having the active node step down before it is
	// replaced, and reads no secret. Everything else works without it.
	// https://developer.hashicorp.com/vault/docs/auth/jwt
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Login of the operator",order=99,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	OperatorLogin *OperatorLoginPolicy `json:"operatorLogin,omitempty"`

	// sealMigration moves the data of an initialized Vault from the seal that it names to that
	// of seal, or to Shamir's keys when seal is not set. Administrators have to run "vault
	// operator unseal -migrate" on each new node, as the condition SealMigrated says; remove
	// it when that is True. Meanwhile version, nodes, and the images of Vault and etcd cannot be changed.
	// See docs/seal-migration.md.
	// https://developer.hashicorp.com/vault/docs/concepts/seal#seal-migration
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Seal migration",order=53,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	SealMigration *SealMigrationPolicy `json:"sealMigration,omitempty"`

	// storage is where Vault keeps its encrypted data: etcd, raft or external. Its kind
	// cannot be changed; docs/moving-storage.md tells how data is moved. Defaults to an etcd
	// cluster of three members.
	// https://developer.hashicorp.com/vault/docs/configuration/storage
	// +kubebuilder:default={}
	// +kubebuilder:validation:XValidation:rule="[has(self.etcd), has(self.raft), has(self.external)].filter(set, set).size() <= 1",message="only one kind of storage can be set: etcd, raft or external"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Storage",order=17
	// +optional
	Storage StorageSpec `json:"storage,omitempty"`
}

// ObjectName is the name of an object in the namespace of the Vault, or of one that is in
// no namespace.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of an object: lower case letters, digits, '-' and '.', with a letter or digit at both ends"
type ObjectName string

// ImageDigest is the digest of a container image.
//
// +kubebuilder:validation:MaxLength=71
// +kubebuilder:validation:XValidation:rule="self.matches('^sha256:[0-9a-f]{64}$')",message="must be sha256: and 64 hexadecimal digits"
type ImageDigest string

// ObjectAnnotations are annotations of an object that Helm applies. Its own are not for users.
//
// +kubebuilder:validation:MaxProperties=64
// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('helm.sh/') && !k.startsWith('meta.helm.sh/') && !k.startsWith('vault.security.coreos.com/') && k != 'kubernetes.io/enforce-mountable-secrets')",message="keys that start with helm.sh/, meta.helm.sh/ or vault.security.coreos.com/, and kubernetes.io/enforce-mountable-secrets, are refused: they change how the operator handles the object"
type ObjectAnnotations map[string]string

// PodPolicy is the policy for the Vault pods.
type PodPolicy struct {
	// resources of the Vault container.
	// Defaults to requests of 100m CPU and 256Mi memory, and no limits.
	// https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
	// +kubebuilder:validation:XValidation:rule="!has(self.limits) || self.limits.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || k.contains('/'))",message="limits are of cpu, memory, ephemeral-storage, hugepages-SIZE, or DOMAIN/NAME"
	// +kubebuilder:validation:XValidation:rule="!has(self.requests) || self.requests.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || k.contains('/'))",message="requests are of cpu, memory, ephemeral-storage, hugepages-SIZE, or DOMAIN/NAME"
	// +kubebuilder:default={requests: {cpu: "100m", memory: "256Mi"}}
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Resources",order=5,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:resourceRequirements"}
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`

	// nodeSelector restricts the Kubernetes nodes that the pods may run on.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodeselector
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Node selector",order=7,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// affinity of the pods. When it is not set, pods of one Vault prefer
	// different Kubernetes nodes. With a required podAntiAffinity an updated pod may
	// find no room beside the others, so a standby node is taken away before one is
	// added in a rollout. So it is when the spec does not require that any more, until
	// no pod runs that does.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#affinity-and-anti-affinity
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Affinity",order=8,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// tolerations of the pods.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(t, has(t.key) && t.key != '' || has(t.operator) && t.operator == 'Exists')",message="a toleration without a key needs the operator Exists"
	// +kubebuilder:validation:XValidation:rule="self.all(t, !has(t.effect) || t.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute'])",message="effect must be NoSchedule, PreferNoSchedule, NoExecute or empty"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Tolerations",order=9,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// topologySpreadConstraints of the pods.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Topology spread constraints",order=10,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// priorityClassName of the pods.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Priority class",order=6,xDescriptors={"urn:alm:descriptor:io.kubernetes:scheduling.k8s.io:v1:PriorityClass","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	PriorityClassName ObjectName `json:"priorityClassName,omitempty"`

	// annotations added to the pods. Keys that start with
	// "vault.security.coreos.com/" are the operator's own and refused, and so is
	// "controller.kubernetes.io/pod-deletion-cost": the operator sets it on the pod of
	// the active node, which has to be deleted last.
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, k != 'controller.kubernetes.io/pod-deletion-cost' && !k.startsWith('vault.security.coreos.com/'))",message="controller.kubernetes.io/pod-deletion-cost and keys that start with vault.security.coreos.com/ are set by the operator"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Annotations",order=11,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`

	// labels added to the pods. Keys that start with "app.kubernetes.io/" or
	// "vault.security.coreos.com/" are the operator's own and refused.
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('app.kubernetes.io/') && !k.startsWith('vault.security.coreos.com/'))",message="keys that start with app.kubernetes.io/ or vault.security.coreos.com/ are set by the operator"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Labels",order=12,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// serviceAccountAnnotations are annotations of the ServiceAccount of the pods, by
	// which clouds give workloads an identity, for a seal or a secrets engine. The name
	// of the ServiceAccount is that of the Vault; the etcd pods have the same. Changing
	// them restarts no pod. Keys that start with "helm.sh/", "meta.helm.sh/" or
	// "vault.security.coreos.com/", and "kubernetes.io/enforce-mountable-secrets", are
	// refused.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="ServiceAccount annotations",order=42,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ServiceAccountAnnotations ObjectAnnotations `json:"serviceAccountAnnotations,omitempty"`

	// env are environment variables of the Vault container, for example HTTPS_PROXY,
	// VAULT_LICENSE or what a seal needs. Take what is secret from a Secret by
	// valueFrom: a value is readable for everybody who may read the Vault. With a proxy
	// set NO_PROXY to ".svc,.cluster.local" as well: Vault's connection to etcd would go
	// through the proxy, too. Variables that the operator sets, or that Vault takes
	// instead of the operator's configuration, are refused: those that begin with ETCD_,
	// and HOME, PATH, POD_IP, POD_NAME, VAULT_ADDR, VAULT_API_ADDR, VAULT_CACERT,
	// VAULT_CLUSTER_ADDR, VAULT_DISABLE_MLOCK, VAULT_REDIRECT_ADDR and
	// VAULT_TLS_SERVER_NAME. In envFrom they have no effect, but for PATH, which must not be in it.
	// A change restarts the nodes one by one, and each has to be unsealed; a change of
	// a Secret or ConfigMap is read by the nodes that start after it.
	// https://developer.hashicorp.com/vault/docs/commands#configure-environment-variables
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(e, !e.name.startsWith('ETCD_') && !(e.name in ['HOME', 'PATH', 'POD_IP', 'POD_NAME', 'VAULT_ADDR', 'VAULT_API_ADDR', 'VAULT_CACERT', 'VAULT_CLUSTER_ADDR', 'VAULT_DISABLE_MLOCK', 'VAULT_REDIRECT_ADDR', 'VAULT_TLS_SERVER_NAME', 'stopping']))",message="ETCD_*, HOME, PATH, POD_IP, POD_NAME, VAULT_ADDR, VAULT_API_ADDR, VAULT_CACERT, VAULT_CLUSTER_ADDR, VAULT_DISABLE_MLOCK, VAULT_REDIRECT_ADDR, VAULT_TLS_SERVER_NAME and stopping are set by the operator, or would replace its configuration"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Environment",order=43,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`

	// envFrom are Secrets and ConfigMaps whose keys become environment variables of the
	// Vault container. What env or the operator sets takes precedence.
	// https://kubernetes.io/docs/tasks/inject-data-application/distribute-credentials-secure/
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(s, has(s.configMapRef) != has(s.secretRef))",message="exactly one of configMapRef and secretRef must be set"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Environment from Secrets and ConfigMaps",order=44,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`

	// volumes of the pods for volumeMounts, for example with plugins, a licence or CAs.
	// The names of the operator's own are refused: config, etcd-tls, tls, tls-ca and tmp.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(v, !(v.name in ['config', 'etcd-tls', 'tls', 'tls-ca', 'tmp']))",message="the volumes config, etcd-tls, tls, tls-ca and tmp are the operator's"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volumes",order=45,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Volumes []PodVolume `json:"volumes,omitempty"`

	// volumeMounts are where the Vault container has the volumes. Its root filesystem is
	// read-only. What the operator mounts cannot be covered: /tmp, /vault/config,
	// /vault/etcd-tls, /vault/tls, /vault/tls-ca, and what is above or below them.
	// +listType=map
	// +listMapKey=mountPath
	// +kubebuilder:validation:MaxItems=16
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volume mounts",order=46,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	VolumeMounts []PodVolumeMount `json:"volumeMounts,omitempty"`
}

// ServicePolicy is the policy for the Service that points at the active node.
type ServicePolicy struct {
	// type is how the Service is reached: ClusterIP (the default) from within the
	// cluster, NodePort at each Kubernetes node, LoadBalancer at an address of its own.
	// Clients verify the certificate of the nodes, and one that the operator has made is
	// valid within the cluster only: for other names bring your own in tls.static.
	// https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	// +kubebuilder:default=ClusterIP
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Service type",order=38,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:select:ClusterIP","urn:alm:descriptor:com.tectonic.ui:select:NodePort","urn:alm:descriptor:com.tectonic.ui:select:LoadBalancer","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Type corev1.ServiceType `json:"type,omitempty"`

	// annotations of the Service, for example those that a load balancer reads. Keys that
	// start with "helm.sh/", "meta.helm.sh/" or "vault.security.coreos.com/" are refused.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Service annotations",order=39,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Annotations ObjectAnnotations `json:"annotations,omitempty"`
}

// ListenerPolicy has what may be set of the listener that clients connect to.
type ListenerPolicy struct {
	// unauthenticatedMetricsAccess lets everybody who reaches a node read
	// /v1/sys/metrics without a token, as Prometheus does best: these tell how much
	// Vault is used for what, and no secrets. Defaults to false. Turn the metrics on in
	// the HCL of configMapName: telemetry { prometheus_retention_time = "1h" }.
	// https://developer.hashicorp.com/vault/docs/configuration/listener/tcp#telemetry-parameters
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Metrics without a token",order=50,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	UnauthenticatedMetricsAccess bool `json:"unauthenticatedMetricsAccess,omitempty"`

	// xForwardedForAuthorizedAddrs are the addresses, or CIDRs such as 10.0.0.0/8, of
	// proxies whose header X-Forwarded-For is believed, so that the audit log has the
	// address of the client. A request from anywhere else that has the header is
	// refused. Such a proxy ends the TLS of its clients and has to connect to Vault by
	// TLS; one that passes TLS through cannot set the header.
	// https://developer.hashicorp.com/vault/docs/configuration/listener/tcp#x_forwarded_for_authorized_addrs
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[0-9a-fA-F.:]+(/[0-9]{1,3})?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Proxies",order=51,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	XForwardedForAuthorizedAddrs []string `json:"xForwardedForAuthorizedAddrs,omitempty"`
}

// KubernetesAuthPolicy is what the Kubernetes auth method is given.
type KubernetesAuthPolicy struct {
	// enabled mounts the token of the pods' ServiceAccount, which has the name of the
	// Vault, and the CA of the API server into the Vault pods, where the auth method
	// looks for them. Defaults to false. The token has no rights: a cluster administrator
	// grants it the right to review the tokens of workloads, see docs/kubernetes-auth.md.
	// A change restarts the nodes one by one, and each has to be unsealed.
	// https://developer.hashicorp.com/vault/docs/auth/kubernetes#use-local-service-account-token-as-the-reviewer-jwt
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Mount the token",order=48,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Enabled bool `json:"enabled,omitempty"`
}

// AuditPolicy is the volume for the files of audit devices that each Vault pod has.
type AuditPolicy struct {
	// volumeSize is the size of the volume, such as "20Gi", at least 64Mi. Defaults to
	// 10Gi. A file that has more than a tenth of it is renamed, and of those that were
	// the oldest are deleted, so that a fifth stays free. That is looked at every five
	// seconds, so a fifth should hold what Vault writes in ten.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$`
	// +kubebuilder:validation:XValidation:rule="quantity(self).compareTo(quantity('64Mi')) >= 0",message="must be at least 64Mi: a fifth has to be enough for what is written between two rotations"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Audit volume size",order=91,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	VolumeSize *resource.Quantity `json:"volumeSize,omitempty"`

	// storageClassName is the StorageClass of the volume. When it is not set the cluster's
	// default class is used. Its volumes should have a size of their own, and not share
	// the disk of a Kubernetes node with others.
	// https://kubernetes.io/docs/concepts/storage/storage-classes/
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Audit storage class",order=92,xDescriptors={"urn:alm:descriptor:io.kubernetes:StorageClass","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	StorageClassName *ObjectName `json:"storageClassName,omitempty"`
}

// PodVolume is a volume of the Vault pods: one of those that the Pod Security Standards
// allow in the restricted level.
// https://kubernetes.io/docs/concepts/storage/volumes/
//
// +kubebuilder:validation:XValidation:rule="[has(self.configMap), has(self.secret), has(self.emptyDir), has(self.persistentVolumeClaim), has(self.csi)].filter(x, x).size() == 1",message="exactly one of configMap, secret, emptyDir, persistentVolumeClaim and csi must be set"
type PodVolume struct {
	// name of the volume, for volumeMounts.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must contain only lower case letters, digits and '-', with a letter or digit at both ends"
	Name string `json:"name"`

	// configMap is a ConfigMap in the namespace of the Vault.
	// +optional
	ConfigMap *corev1.ConfigMapVolumeSource `json:"configMap,omitempty"`

	// secret is a Secret in the namespace of the Vault.
	// +optional
	Secret *corev1.SecretVolumeSource `json:"secret,omitempty"`

	// emptyDir is a directory of each pod, which ends with it.
	// +optional
	EmptyDir *corev1.EmptyDirVolumeSource `json:"emptyDir,omitempty"`

	// persistentVolumeClaim is a claim in the namespace of the Vault, which all of its
	// pods share: it has to be ReadOnlyMany or ReadWriteMany.
	// +optional
	PersistentVolumeClaim *corev1.PersistentVolumeClaimVolumeSource `json:"persistentVolumeClaim,omitempty"`

	// csi is a volume of a CSI driver that ends with the pod, for example with
	// certificates or secrets.
	// +optional
	CSI *corev1.CSIVolumeSource `json:"csi,omitempty"`
}

// PodVolumeMount is where the Vault container has a volume.
// https://kubernetes.io/docs/concepts/storage/volumes/
type PodVolumeMount struct {
	// name of one of the volumes.
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// mountPath is the absolute path of the volume in the container.
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$')",message="must be an absolute path without '..', '//' or a '/' at its end"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^/(tmp|vault|vault/(config|etcd-tls|tls|tls-ca)(/.*)?|tmp/.*)$')",message="/vault, and what is at or below /tmp, /vault/config, /vault/etcd-tls, /vault/tls and /vault/tls-ca, is the operator's"
	MountPath string `json:"mountPath"`

	// subPath is the path within the volume that is mounted. Defaults to its root. What
	// is mounted so does not follow changes of a ConfigMap or Secret.
	// +kubebuilder:validation:MaxLength=255
	// +optional
	SubPath string `json:"subPath,omitempty"`

	// readOnly says that the volume is mounted read-only. Defaults to false.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
}

// TLSPolicy is the policy for certificates.
type TLSPolicy struct {
	// static names Secrets with certificates that the user made. Leave it empty to
	// let the operator make them.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Certificates of your own",order=14
	// +optional
	Static *StaticTLS `json:"static,omitempty"`
}

// StaticTLS names Secrets, in the namespace of the Vault, with certificates
// that the user made. The operator reads them and never writes them.
type StaticTLS struct {
	// serverSecret is the name of the Secret with the certificate of the Vault
	// nodes in the keys "server.crt" (PEM, with intermediates) and "server.key", or
	// "tls.crt" and "tls.key". The certificate has to be valid for the DNS name
	// NAME.NAMESPACE.svc, under which the operator and the applications reach Vault.
	// A new certificate in the Secret is served within two minutes, without a restart.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret of the server certificate",order=15,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret"}
	ServerSecret ObjectName `json:"serverSecret"`

	// clientSecret is the name of the Secret whose key "vault-client-ca.crt", or
	// "ca.crt", holds the certificate authority (PEM) that signed the server
	// certificate. It may be the same as serverSecret.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret of the certificate authority",order=16,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret"}
	ClientSecret ObjectName `json:"clientSecret"`
}

// StorageSpec is where Vault keeps its encrypted data: one kind at most is set, and etcd is the
// default.
//
// +kubebuilder:validation:XValidation:rule="has(self.external) == has(oldSelf.external) && has(self.raft) == has(oldSelf.raft)",message="the kind of storage cannot be changed; docs/moving-storage.md tells how data is moved to a Vault of another kind"
type StorageSpec struct {
	// etcd is an etcd cluster that is run for this Vault alone, with mutual TLS.
	// https://developer.hashicorp.com/vault/docs/configuration/storage/etcd
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd cluster",order=18
	// +optional
	Etcd *EtcdStorage `json:"etcd,omitempty"`

	// raft is Vault's integrated storage: each node has the data on a volume of its own.
	// A node that is sealed does not take part, so Vault serves while a majority of its
	// nodes is unsealed: with three nodes, two.
	// https://developer.hashicorp.com/vault/docs/configuration/storage/raft
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Integrated storage (Raft)",order=110,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Raft *RaftStorage `json:"raft,omitempty"`

	// external is a storage that the operator does not run, such as a PostgreSQL database:
	// any storage backend of Vault. See docs/external-storage.md.
	// https://developer.hashicorp.com/vault/docs/configuration/storage
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="External storage",order=120,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	External *ExternalStorage `json:"external,omitempty"`
}

// ExternalStorage is a storage that the operator does not run.
//
// +kubebuilder:validation:XValidation:rule="!has(self.highAvailability) || !self.highAvailability || !(self.type in ['aerospike', 'alicloudoss', 'azure', 'cassandra', 'couchdb', 'couchdb_transactional', 'file', 'file_transactional', 'manta', 'mssql', 's3', 'swift'])",fieldPath=".highAvailability",message="must not be set for a type of which Vault has no lock: several nodes cannot share it"
type ExternalStorage struct {
	// type of the storage, as in the stanza storage "TYPE" of Vault's configuration, such as
	// "postgresql". It cannot be changed: another one has other data. "raft" is
	// storage.raft, and what is kept in memory ends with a node.
	// https://developer.hashicorp.com/vault/docs/configuration/storage
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z][a-z0-9_-]*$')",message="must be the type of a storage in lower case, such as postgresql"
	// +kubebuilder:validation:XValidation:rule="!(self in ['raft', 'inmem', 'inmem_ha', 'inmem_transactional', 'inmem_transactional_ha'])",message="must be a storage outside of the nodes: raft is storage.raft, and what is kept in memory ends with a node"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: another storage has other data; docs/moving-storage.md tells how data is moved"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Type of the external storage",order=121,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Type string `json:"type"`

	// configSecretName is the name of a Secret in the namespace of the Vault whose key
	// "storage.hcl" holds the stanza storage "TYPE", with what is secret in it, such as a
	// password. api_addr, redirect_addr, advertise_addr, cluster_addr and disable_clustering
	// must not be in it: the operator sets them. Its other keys are files in /vault/config,
	// which the stanza can name: "ca.crt" is /vault/config/ca.crt. All of it may have at
	// most 256 KiB, and the stanza 64 KiB. What is missing or wrong is reported by the
	// condition ConfigValid, and what runs is not changed. A change restarts the nodes one by
	// one, and each has to be unsealed.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret of the external storage",order=122,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	ConfigSecretName ObjectName `json:"configSecretName"`

	// highAvailability says that several nodes can share a storage of a type that Vault itself
	// does not come with, as of an image of one's own. Of Vault's own types it is known:
	// nodes can be more than 1 with consul and zookeeper, and with cockroachdb, dynamodb,
	// etcd, foundationdb, gcs, mysql, oci, postgresql and spanner if the stanza has
	// ha_enabled = "true". Defaults to false.
	// https://developer.hashicorp.com/vault/docs/concepts/ha
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="High availability of another type",order=123,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	HighAvailability bool `json:"highAvailability,omitempty"`
}

// RaftStorage is Vault's integrated storage. The chart has its defaults: those of a schema
// would appear in forms beside the other kind of storage.
type RaftStorage struct {
	// volumeSize is the size of each node's volume, such as "20Gi", at least 1Gi. Defaults
	// to 10Gi. It can be corrected until a volume is bound, and be made larger afterwards,
	// where the StorageClass allows that:
	// https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
	// The data file of a node never becomes smaller, and a snapshot takes as much again.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$`
	// +kubebuilder:validation:XValidation:rule="quantity(self).compareTo(quantity('1Gi')) >= 0",message="must be at least 1Gi"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volume size of each node",order=111,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	VolumeSize *resource.Quantity `json:"volumeSize,omitempty"`

	// storageClassName is the StorageClass of the volumes. When it is not set
	// the cluster's default class is used. It can be corrected until a volume is
	// bound, and not be changed afterwards.
	// https://kubernetes.io/docs/concepts/storage/storage-classes/
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Storage class of the nodes",order=112,xDescriptors={"urn:alm:descriptor:io.kubernetes:StorageClass","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	StorageClassName *ObjectName `json:"storageClassName,omitempty"`

	// whenDeleted says what happens to the volumes when the Vault is deleted:
	// Retain (the default) keeps them, Delete deletes them. Deleting the whole
	// namespace deletes them in any case.
	// https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volumes when the Vault is deleted",order=113,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:select:Retain","urn:alm:descriptor:com.tectonic.ui:select:Delete","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	WhenDeleted DataRetention `json:"whenDeleted,omitempty"`

	// performanceMultiplier is by how much the times are longer after which nodes elect
	// another leader: with 1 another node is active two or three seconds after the active
	// one has died, with 5, which is Vault's own default, ten or twenty. Defaults to 1, as
	// HashiCorp recommends for production. Raise it where nodes stop to be active without
	// need, because they or their volumes are slow for longer than a second. A change
	// replaces the nodes, the active one last.
	// https://developer.hashicorp.com/vault/docs/configuration/storage/raft#performance_multiplier
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Performance multiplier",order=114,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	PerformanceMultiplier *int32 `json:"performanceMultiplier,omitempty"`
}

// DataRetention says what happens to data when its Vault is deleted.
// +kubebuilder:validation:Enum=Retain;Delete
type DataRetention string

const (
	// RetainData keeps the volumes: a Vault that is created again under the same
	// name and namespace finds its data, and is unsealed with the same keys.
	RetainData DataRetention = "Retain"
	// DeleteData deletes the volumes together with the Vault.
	DeleteData DataRetention = "Delete"
)

// EtcdStorage is an etcd cluster that is run for one Vault. The chart has its defaults: those of
// a schema would appear in forms beside the other kinds of storage.
type EtcdStorage struct {
	// nodes is the number of etcd members. Defaults to 3, which survives the
	// loss of one; 1 survives none. It is odd, because an even number adds
	// cost and no safety. It can be corrected until a volume is bound, and not be
	// changed afterwards.
	// https://etcd.io/docs/v3.6/faq/#why-an-odd-number-of-cluster-members
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=7
	// +kubebuilder:validation:XValidation:rule="self % 2 == 1",message="must be odd: 1, 3, 5 or 7"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd members",order=19,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number"}
	// +optional
	Nodes *int32 `json:"nodes,omitempty"`

	// version of etcd, the tag of baseImage without its "v", for example
	// "3.6.16". 3.6 or later. When it is not set, an etcd that runs keeps its version,
	// status.storage.version, and a new one has that of the operator: 3.6.16. A version that is
	// lower than status.storage.version is refused, unless allowDowngrade is set.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^3[.]([6-9]|[1-9][0-9]+)[.][0-9]+([-.][0-9A-Za-z.-]+)?$')",message="must be a full etcd version, 3.6 or later, such as 3.6.16"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd version",order=25,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Version string `json:"version,omitempty"`

	// baseImage is the container image of etcd without its tag. The binary has
	// to be /usr/local/bin/etcd, as in the etcd project's own image.
	// Defaults to "gcr.io/etcd-development/etcd".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-zA-Z0-9._/-]|:[0-9]+/)*$')",message="must be an image name without a tag or digest; the tag is version, the digest imageDigest"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd image",order=26,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	BaseImage string `json:"baseImage,omitempty"`

	// imageDigest pins the image of etcd to its content, such as "sha256:" and 64 hexadecimal
	// digits: baseImage is pulled by it, whatever the tag points at. version still says which
	// version that is, so change both in an upgrade.
	// https://kubernetes.io/docs/concepts/containers/images/#image-names
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd image digest",order=41,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ImageDigest ImageDigest `json:"imageDigest,omitempty"`

	// resources of the etcd container.
	// Defaults to requests of 100m CPU and 128Mi memory, and no limits.
	// +kubebuilder:validation:XValidation:rule="!has(self.limits) || self.limits.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || k.contains('/'))",message="limits are of cpu, memory, ephemeral-storage, hugepages-SIZE, or DOMAIN/NAME"
	// +kubebuilder:validation:XValidation:rule="!has(self.requests) || self.requests.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || k.contains('/'))",message="requests are of cpu, memory, ephemeral-storage, hugepages-SIZE, or DOMAIN/NAME"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd resources",order=23,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:resourceRequirements","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`

	// volumeSize is the size of each member's volume, such as "8Gi", at least 512Mi.
	// Defaults to 2Gi. It can be corrected until a volume is bound, and be made larger
	// afterwards, where the StorageClass allows that; the members are replaced one by one then, to
	// use it: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
	// The data of Vault may take up half of what is above 256Mi, and 8Gi at
	// most: then etcd refuses to write, and StorageReady is False. The rest is for
	// etcd's log, and for a second copy of the data while etcd is being repaired.
	// https://etcd.io/docs/v3.6/op-guide/maintenance/#space-quota
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$`
	// +kubebuilder:validation:XValidation:rule="quantity(self).compareTo(quantity('512Mi')) >= 0",message="must be at least 512Mi: etcd's log alone can take half of that"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volume size",order=20,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	VolumeSize *resource.Quantity `json:"volumeSize,omitempty"`

	// storageClassName is the StorageClass of the volumes. When it is not set
	// the cluster's default class is used. It can be corrected until a volume is
	// bound, and not be changed afterwards.
	// https://kubernetes.io/docs/concepts/storage/storage-classes/
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Storage class",order=21,xDescriptors={"urn:alm:descriptor:io.kubernetes:StorageClass"}
	// +optional
	StorageClassName *ObjectName `json:"storageClassName,omitempty"`

	// lockTimeoutSeconds is how many seconds after a crash of the active Vault node
	// its lock expires and another node takes over; nothing is served until then.
	// Defaults to 13. Lower is faster, but a healthy active node loses the lock when
	// a slow disk or a paused Kubernetes node keeps it from renewing it for that
	// long; below 13 the loss of etcd's leader alone can do that, see
	// docs/availability.md. It is lock_timeout in Vault's configuration; a change
	// replaces the nodes, the active one last.
	// https://developer.hashicorp.com/vault/docs/configuration/storage/etcd#lock_timeout
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=60
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Lock timeout in seconds",order=24,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	LockTimeoutSeconds *int32 `json:"lockTimeoutSeconds,omitempty"`

	// whenDeleted says what happens to the volumes when the Vault is deleted:
	// Retain (the default) keeps them, Delete deletes them. Deleting the whole
	// namespace deletes them in any case.
	// https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="When the Vault is deleted",order=22,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:select:Retain","urn:alm:descriptor:com.tectonic.ui:select:Delete"}
	// +optional
	WhenDeleted DataRetention `json:"whenDeleted,omitempty"`

	// pod is where the etcd pods may run. When it is not set they follow
	// spec.pod.nodeSelector, spec.pod.tolerations and spec.pod.priorityClassName;
	// when it is set, be it empty, nothing of spec.pod is followed. An etcd that was
	// made before this field existed follows nothing. A change replaces the etcd pods
	// one by one, and waits while a member is not ready.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd pods",order=30,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Pod *EtcdPodPolicy `json:"pod,omitempty"`
}

// EtcdPodPolicy is where etcd pods may run.
type EtcdPodPolicy struct {
	// nodeSelector restricts the Kubernetes nodes that the etcd pods may run on.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodeselector
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd node selector",order=31,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// affinity of the etcd pods. When it is not set, members prefer different
	// Kubernetes nodes.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#affinity-and-anti-affinity
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd affinity",order=32,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// tolerations of the etcd pods.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(t, has(t.key) && t.key != '' || has(t.operator) && t.operator == 'Exists')",message="a toleration without a key needs the operator Exists"
	// +kubebuilder:validation:XValidation:rule="self.all(t, !has(t.effect) || t.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute'])",message="effect must be NoSchedule, PreferNoSchedule, NoExecute or empty"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd tolerations",order=33,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// topologySpreadConstraints of the etcd pods.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd topology spread constraints",order=34,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// priorityClassName of the etcd pods.
	// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="etcd priority class",order=35,xDescriptors={"urn:alm:descriptor:io.kubernetes:scheduling.k8s.io:v1:PriorityClass","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	PriorityClassName ObjectName `json:"priorityClassName,omitempty"`
}

// Phase is a summary of a Vault for people; programs read the conditions.
// +kubebuilder:validation:Enum=Creating;Uninitialized;Sealed;Unavailable;Running
type Phase string

const (
	// PhaseCreating means that no node has answered yet.
	PhaseCreating Phase = "Creating"
	// PhaseUninitialized means that nodes run and wait for "vault operator init".
	PhaseUninitialized Phase = "Uninitialized"
	// PhaseSealed means that Vault is initialized and no node is unsealed.
	PhaseSealed Phase = "Sealed"
	// PhaseUnavailable means that Vault is initialized and no node is active,
	// although some are unsealed or none answers.
	PhaseUnavailable Phase = "Unavailable"
	// PhaseRunning means that a node is active.
	PhaseRunning Phase = "Running"
)

// VaultStatus is the Vault that was last observed.
type VaultStatus struct {
	// phase is a summary for people: Creating, Uninitialized, Sealed,
	// Unavailable or Running.
	// Programs should read the conditions instead.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Phase",order=1,xDescriptors={"urn:alm:descriptor:io.kubernetes.phase"}
	// +optional
	Phase Phase `json:"phase,omitempty"`

	// initialized says that "vault operator init" was run on this Vault.
	// https://developer.hashicorp.com/vault/docs/commands/operator/init
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Initialized",order=3,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Initialized bool `json:"initialized"`

	// serviceName is the name of the Service that points at the active node.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Service",order=4,xDescriptors={"urn:alm:descriptor:io.kubernetes:Service"}
	// +optional
	ServiceName string `json:"serviceName,omitempty"`

	// clientPort is the port of the Service.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Client port",order=5,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	ClientPort int32 `json:"clientPort,omitempty"`

	// vaultStatus names the pods by the state of their Vault node.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Nodes by state",order=6,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	VaultStatus NodesStatus `json:"vaultStatus,omitempty"`

	// nodes is the number of pods that there are for Vault nodes.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Nodes",order=13,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Nodes int32 `json:"nodes"`

	// selector selects the pods of the Vault nodes; "kubectl scale" and
	// autoscalers read it.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Selector of the pods",order=19,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Selector string `json:"selector,omitempty"`

	// readyNodes is the number of nodes that are unsealed: active or standby.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Unsealed nodes",order=14,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	ReadyNodes int32 `json:"readyNodes"`

	// standbyNodes is the length of vaultStatus.standby.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Number of standby nodes",order=15,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	StandbyNodes int32 `json:"standbyNodes"`

	// sealedNodes is the length of vaultStatus.sealed.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Number of sealed nodes",order=16,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	SealedNodes int32 `json:"sealedNodes"`

	// nodeStatuses are the nodes one by one, named by their pods. A pod that is
	// being deleted is among them only as long as its node is still active.
	// +listType=map
	// +listMapKey=name
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Nodes one by one",order=17,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	NodeStatuses []NodeStatus `json:"nodeStatuses,omitempty"`

	// podStatuses are the names of the pods by the state of their node, as
	// nodeStatuses, for consoles to draw.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Pods by state",order=2,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:podStatuses"}
	// +optional
	PodStatuses map[NodeState][]string `json:"podStatuses,omitempty"`

	// updatedNodes are the names of the pods that are of the newest pod template
	// that was deployed. The condition Updated says whether that is the spec's,
	// and all nodes are of it.
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Updated nodes",order=18,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	UpdatedNodes []string `json:"updatedNodes,omitempty"`

	// version is the Vault version that every node which answers reports; it is
	// empty while they differ.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Version",order=11,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Version string `json:"version,omitempty"`

	// dataVersion is the highest Vault version that a node has been active with:
	// Vault's data may be readable by no lower one. While spec.allowDowngrade is
	// set it is the version of the active node, be it lower.
	// https://developer.hashicorp.com/vault/docs/upgrade
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Highest version that was active",order=12,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	DataVersion string `json:"dataVersion,omitempty"`

	// seal is what is known of the seal.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Seal",order=27,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Seal *SealStatus `json:"seal,omitempty"`

	// initialization is what the operator has done to initialize this Vault.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Initialization",order=31,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Initialization *InitializationStatus `json:"initialization,omitempty"`

	// unseal is what the operator knows of the nodes that it unseals by spec.unseal.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Unsealing",order=39,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Unseal *UnsealStatus `json:"unseal,omitempty"`

	// operatorLogin is who logs in where spec.operatorLogin is set.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Login of the operator",order=41,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	OperatorLogin *OperatorLoginStatus `json:"operatorLogin,omitempty"`

	// raft is what is known of the integrated storage, where spec.storage.raft is set.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Integrated storage",order=45,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Raft *RaftStatus `json:"raft,omitempty"`

	// storage is what is known of the storage.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Storage",order=24,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Storage *StorageStatus `json:"storage,omitempty"`

	// observedGeneration is the metadata.generation that this status was
	// computed from, and -1 before there is one: tools such as kstatus then know that
	// the Vault is not looked at yet.
	// https://github.com/kubernetes-sigs/cli-utils/blob/v0.37.2/pkg/kstatus/README.md
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Observed generation",order=21,xDescriptors={"urn:alm:descriptor:text"}
	// +kubebuilder:default=-1
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions of the Vault. Ready, Stalled, Available, VaultInitialized, Unsealed, Updated,
	// TLSReady, ConfigValid, SealReady and StorageReady are about Vault, and so are
	// InitializationSucceeded and UnsealKeysValid, which are there when the operator initializes
	// and unseals it, SealMigrated, while its seal is migrated, Authorized, where the operator logs
	// in, and Resized, once another number of nodes with storage.raft was wanted; Initialized, Deployed,
	// ReleaseFailed and Irreconcilable are about the Helm release
	// that renders its objects.
	// +listType=map
	// +listMapKey=type
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Conditions",order=22,xDescriptors={"urn:alm:descriptor:io.kubernetes.conditions"}
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// deployedRelease is the Helm release that is deployed.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Helm release",order=20,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	DeployedRelease *DeployedRelease `json:"deployedRelease,omitempty"`
}

// NodesStatus names the pods by the state of their Vault node. A pod that has
// not answered yet is in none of the lists.
type NodesStatus struct {
	// active is the name of the pod whose node is active: it holds the lock of
	// the storage and serves requests. It is empty when no node is known to be, or
	// when more than one says so (activeClaims) and no majority follows one of them.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Active node",order=7,xDescriptors={"urn:alm:descriptor:io.kubernetes:Pod"}
	// +optional
	Active string `json:"active"`

	// standby are the names of the pods whose nodes are unsealed and take over
	// when the active one fails.
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Standby nodes",order=8,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Standby []string `json:"standby,omitempty"`

	// sealed are the names of the pods whose nodes have to be unsealed, or
	// belong to a Vault that has to be initialized.
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Sealed nodes",order=9,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Sealed []string `json:"sealed,omitempty"`

	// unreachable are the names of the pods whose Vault container runs but
	// whose node does not answer the operator, or with a certificate that cannot be
	// verified.
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Unreachable nodes",order=10,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Unreachable []string `json:"unreachable,omitempty"`

	// activeClaims are the names of the pods whose nodes say that they are active,
	// while more than one does. The lock of the storage has one holder, so that at
	// most one of them is right: the one that is a majority together with the standby
	// nodes that follow it. Without such a majority the Service points at none.
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Nodes that claim to be active",order=24,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	ActiveClaims []string `json:"activeClaims,omitempty"`
}

// NodeState is the state of a Vault node.
// +kubebuilder:validation:Enum=Active;Standby;Sealed;Uninitialized;Starting;Unreachable;Unverified
type NodeState string

const (
	// NodeActive means that the node says that it is active. While two say so
	// vaultStatus.active names neither.
	NodeActive NodeState = "Active"
	// NodeStandby means that the node is unsealed and not active.
	NodeStandby NodeState = "Standby"
	// NodeSealed means that the node has to be unsealed.
	NodeSealed NodeState = "Sealed"
	// NodeUninitialized means that the node waits for "vault operator init".
	NodeUninitialized NodeState = "Uninitialized"
	// NodeStarting means that the Vault container does not run, or not for long
	// enough that its node had to answer.
	NodeStarting NodeState = "Starting"
	// NodeUnreachable means that the Vault container runs and its node does not
	// answer the operator: whether it is sealed is not known.
	NodeUnreachable NodeState = "Unreachable"
	// NodeUnverified means that the node was reached, and that its certificate
	// cannot be verified with the CA that its pod mounts: what it says is not
	// believed. TLSReady has the reason.
	NodeUnverified NodeState = "Unverified"
)

// NodeStatus is one Vault node.
type NodeStatus struct {
	// name of the pod.
	Name string `json:"name"`

	// state of the node: Active, Standby, Sealed, Uninitialized, Starting,
	// Unreachable or Unverified.
	State NodeState `json:"state"`

	// version of Vault that the node reports; it is empty while it does not
	// answer.
	// +optional
	Version string `json:"version,omitempty"`

	// certificate that the node serves with; it is not set before the operator has
	// connected to the node.
	// +optional
	Certificate *NodeCertificate `json:"certificate,omitempty"`
}

// NodeCertificate is a certificate that a node serves with.
type NodeCertificate struct {
	// serial number, in hexadecimal.
	Serial string `json:"serial"`

	// notAfter is the end of its validity.
	NotAfter metav1.Time `json:"notAfter"`
}

// StorageStatus is what is known of the storage of a Vault.
type StorageStatus struct {
	// version is the highest etcd version that a member has been ready with. While
	// spec.allowDowngrade is set it is the version of the members that are ready,
	// be it lower.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Highest etcd version",order=25,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Version string `json:"version,omitempty"`

	// volumes are those that the members have been ready with: etcd's, or the nodes of
	// Vault with storage.raft. Once there are any an etcd cluster is founded: it is not
	// founded a second time when most of them are lost.
	// +listType=map
	// +listMapKey=claim
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Volumes",order=26,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Volumes []StorageVolume `json:"volumes,omitempty"`

	// volumeSize is the size of the smallest volume of a member. While volumes are made
	// larger it is less than that of the spec.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$`
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Volume size",order=27,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	VolumeSize *resource.Quantity `json:"volumeSize,omitempty"`
}

// StorageVolume is the volume of a member of the storage.
type StorageVolume struct {
	// claim is the name of the PersistentVolumeClaim.
	Claim string `json:"claim"`

	// uid of the PersistentVolumeClaim: one that was made again has another.
	UID types.UID `json:"uid"`
}

// DeployedRelease is a Helm release.
type DeployedRelease struct {
	// name of the release, which is that of the Vault. Its record is kept in the
	// namespace of the operator, by the UID of the Vault:
	// "helm -n vault-operator-system get manifest UID" shows it.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Name of the Helm release",order=23,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Name string `json:"name,omitempty"`
}
