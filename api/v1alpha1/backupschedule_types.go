package v1alpha1

import (
	"crypto/sha256"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VaultBackupSchedule has backups of a Vault made at times, and before its upgrades.
//
// +operator-sdk:csv:customresourcedefinitions:displayName="Vault backup schedule",order=3,resources={{VaultBackup,v1alpha1},{Vault,v1alpha1},{VaultRestore,v1alpha1},{NetworkPolicy,v1}}
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=vaultbackupschedules,singular=vaultbackupschedule,scope=Namespaced,shortName=vltbs
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Vault",type=string,JSONPath=`.spec.vault`
// +kubebuilder:printcolumn:name="Schedule",type=string,JSONPath=`.spec.schedule`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.spec.timeZone`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspend`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Last success",type=date,JSONPath=`.status.lastSuccessfulTime`
// +kubebuilder:printcolumn:name="Proven",type=string,JSONPath=`.status.conditions[?(@.type=="Proven")].status`,description="Whether the newest proof has succeeded"
// +kubebuilder:printcolumn:name="Next",type=string,JSONPath=`.status.nextScheduleTime`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40",message="metadata.name: must be at most 40 characters, so that the names of its backups stay valid"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="metadata.name: must not contain a dot"
type VaultBackupSchedule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the schedule that is wanted.
	Spec VaultBackupScheduleSpec `json:"spec"`

	// status is what was last observed.
	// +optional
	Status VaultBackupScheduleStatus `json:"status,omitempty"`
}

// VaultBackupScheduleList is a list of VaultBackupSchedules.
//
// +kubebuilder:object:root=true
type VaultBackupScheduleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VaultBackupSchedule `json:"items"`
}

// VaultBackupScheduleSpec is the schedule that is wanted.
//
// +kubebuilder:validation:XValidation:rule="self.vault == oldSelf.vault",fieldPath=".vault",message="cannot be changed: make another VaultBackupSchedule"
type VaultBackupScheduleSpec struct {
	// vault is the name of the Vault, in the same namespace.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault",order=1,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	Vault ObjectName `json:"vault"`

	// schedule is when backups are made, in the format of cron, such as "0 3 * * *" for each day
	// at three o'clock, or "@hourly". A backup begins up to ten minutes later, and at most a tenth
	// of the time to the next one, by the UID of the schedule, so that many schedules of the same
	// time do not begin at once. When times were missed, one backup is made for all of them.
	// https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="!self.contains('TZ=')",message="must not name a time zone: that is timeZone"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Schedule",order=2,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	Schedule string `json:"schedule"`

	// timeZone is the zone of schedule, by its name in the IANA database, such as "Europe/Berlin".
	// Defaults to UTC.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_+/-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Time zone",order=3,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	TimeZone string `json:"timeZone,omitempty"`

	// suspend has no further backups begun, neither at times nor before upgrades, and no proofs.
	// Defaults to false.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Suspended",order=4,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// immediate has a first backup made as soon as Vault is initialized, and not only at the first
	// time of schedule. Defaults to false.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Begin at once",order=5,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch"}
	// +optional
	Immediate bool `json:"immediate,omitempty"`

	// beforeUpgrade has a backup made before the image of Vault or of its etcd changes. The
	// change waits for it, and does not begin when it fails. Defaults to true.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Before upgrades",order=6,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	BeforeUpgrade *bool `json:"beforeUpgrade,omitempty"`

	// retention says which backups of this schedule are deleted, with what is stored. By default
	// none are. The last one that is proven at each level is kept in any case. Backups of a Vault that
	// was deleted and made again are counted apart from those of its successor.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Retention",order=7
	// +optional
	Retention *BackupRetention `json:"retention,omitempty"`

	// proof has the newest backup restored now and then, into another Vault that is made for that and
	// deleted afterwards. By default none is.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Proof",order=26,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Proof *BackupProofPolicy `json:"proof,omitempty"`

	// destination is where the backups are stored. A change is for further ones.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Destination",order=10
	Destination BackupDestination `json:"destination"`

	// tokenSecretName is the name of a Secret in the same namespace whose key "token" holds a
	// token of Vault that may read sys/storage/raft/snapshot, as in a VaultBackup.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with a token of Vault",order=30,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	TokenSecretName ObjectName `json:"tokenSecretName,omitempty"`
}

// BackupProofPolicy says when backups are proven by restoring them.
type BackupProofPolicy struct {
	// schedule is when the newest backup is restored, in the format and the time zone of the
	// schedule of backups, such as "0 5 * * 0" for each Sunday at five o'clock, and later as these
	// are. When times were missed, one proof is made for all of them.
	// https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="!self.contains('TZ=')",message="must not name a time zone: that is timeZone"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Schedule of proofs",order=27,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Schedule string `json:"schedule"`

	// canary is a value in Vault that is read from what was restored, where that could be unsealed.
	// By default none is.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Canary",order=28,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Canary *BackupCanary `json:"canary,omitempty"`

	// keyService is where what was restored may reach the key service of a Vault that has spec.seal, and
	// that alone: a NetworkPolicy allows it nothing else but DNS. Name nothing that Vault manages, such as
	// a database. Without it the backups of such a Vault are not proven. A Vault without spec.seal needs
	// none.
	// https://kubernetes.io/docs/concepts/services-networking/network-policies/#networkpolicy-resource
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key service",order=29,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	KeyService []KeyServicePeer `json:"keyService,omitempty"`
}

// KeyServicePeer is a port of the addresses, or of the pods, of a key service. The addresses are those that pods
// connect to after the cluster has replaced that of a Service, so that a key service in the cluster is named by its
// pods.
// https://kubernetes.io/docs/concepts/services-networking/network-policies/#behavior-of-to-and-from-selectors
//
// +kubebuilder:validation:XValidation:rule="has(self.cidr) != has(self.podSelector)",message="exactly one of cidr and podSelector must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || !has(self.namespaceSelector)",message="namespaceSelector is for podSelector only"
// +kubebuilder:validation:XValidation:rule="!has(self.podSelector) || has(self.podSelector.matchLabels) && self.podSelector.matchLabels.size() > 0",message="podSelector.matchLabels must not be empty: what was restored would reach all pods"
type KeyServicePeer struct {
	// cidr is a range of addresses, such as "10.1.2.3/32", and no wider than /16 (IPv4) or /48 (IPv6).
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+/(1[6-9]|2[0-9]|3[0-2])|[0-9a-fA-F:.]+:[0-9a-fA-F:.]*/(4[89]|[5-9][0-9]|1[01][0-9]|12[0-8]))$')",message="must be a range of addresses, such as 10.1.2.3/32, and no wider than /16 (IPv4) or /48 (IPv6)"
	// +optional
	CIDR string `json:"cidr,omitempty"`

	// podSelector selects pods by their labels, in the namespace of the schedule.
	// +optional
	PodSelector *metav1.LabelSelector `json:"podSelector,omitempty"`

	// namespaceSelector has podSelector select pods of the namespaces that it selects.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`

	// port of the key service, by TCP, where its pods or addresses serve it.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// BackupCanary is a value that was written into Vault before it was backed up.
type BackupCanary struct {
	// path is that of Vault's API, without "/v1/", such as "secret/data/canary" for the key "canary"
	// of a key/value store of version 2 at "secret". What is there must have a field "value".
	// https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('v1/')",message="must not begin with v1/"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Path of the canary",order=28,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Path string `json:"path"`

	// secretName is the name of a Secret in the same namespace with the keys "token", a token of
	// Vault that may read the path, and "value", what the field "value" has to be, but for white space
	// at its ends. The token has to be in the backup, and valid: the operator renews it in the Vault
	// that is backed up each time that it has read the canary.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret of the canary",order=28,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	SecretName ObjectName `json:"secretName"`
}

// Keys of the Secret of a canary.
const (
	CanaryTokenKey = "token"
	CanaryValueKey = "value"
)

// BackupRetention says which backups are deleted. With both, a backup goes that is beyond the
// count or beyond the age.
//
// +kubebuilder:validation:XValidation:rule="has(self.count) || has(self.age)",message="count or age must be set"
type BackupRetention struct {
	// count is how many backups are kept, the newest ones.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Number of backups",order=8,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number"}
	// +optional
	Count *int32 `json:"count,omitempty"`

	// age is for how long backups are kept, in hours and minutes, such as "720h" for 30 days. It is
	// counted up to the newest one that succeeded: while none succeeds, none gets too old.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+h)?([0-9]+m)?([0-9]+s)?$') && duration(self) >= duration('1m')",message="must be hours and minutes such as 720h or 12h30m, and at least a minute"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Age",order=9,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	Age *metav1.Duration `json:"age,omitempty"`
}

// VaultBackupScheduleStatus is what was last observed of a schedule.
type VaultBackupScheduleStatus struct {
	// observedGeneration is the metadata.generation that the status is of.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Generation that was observed",order=1,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// lastScheduleTime is the latest time of schedule that a backup was made for, or skipped.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Last due at",order=2,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	LastScheduleTime *metav1.Time `json:"lastScheduleTime,omitempty"`

	// nextScheduleTime is when the next backup begins, its delay included.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="The next one begins at",order=3,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	NextScheduleTime *metav1.Time `json:"nextScheduleTime,omitempty"`

	// lastSuccessfulTime is when the newest backup of this schedule succeeded.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Last success at",order=4,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	LastSuccessfulTime *metav1.Time `json:"lastSuccessfulTime,omitempty"`

	// lastBackup is the name of the newest VaultBackup of this schedule.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Newest backup",order=5,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	LastBackup string `json:"lastBackup,omitempty"`

	// proof is the newest proof, where spec.proof is set.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Newest proof",order=7
	// +optional
	Proof *BackupProofStatus `json:"proof,omitempty"`

	// conditions: Ready is True while the schedule is valid and its newest backup did not fail.
	// Proven is there where spec.proof is set: it is True while the newest proof has succeeded.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Conditions of the schedule",order=6,xDescriptors={"urn:alm:descriptor:io.kubernetes.conditions"}
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ProofPhase is how far a proof has come.
// +kubebuilder:validation:Enum=Running;Succeeded;Failed
type ProofPhase string

const (
	// ProofRunning means that there is, or will be, a Vault that the backup is restored into.
	ProofRunning ProofPhase = "Running"
	// ProofSucceeded means that the backup was restored.
	ProofSucceeded ProofPhase = "Succeeded"
	// ProofFailed means that it was not proven as far as it could have been. The condition Proven
	// says why.
	ProofFailed ProofPhase = "Failed"
)

// BackupProofStatus is a proof of a backup.
type BackupProofStatus struct {
	// phase is how far the proof has come.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Phase of the proof",order=8,xDescriptors={"urn:alm:descriptor:io.kubernetes.phase"}
	// +optional
	Phase ProofPhase `json:"phase,omitempty"`

	// backup is the name of the VaultBackup that is proven.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Backup that is proven",order=9,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Backup string `json:"backup,omitempty"`

	// vault is the name of the Vault that it is restored into, and of the VaultRestore.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Vault that it is restored into",order=10,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Vault string `json:"vault,omitempty"`

	// startTime is when the operator began with the proof.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Proof begun at",order=11,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// completionTime is when it succeeded or failed.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Proof completed at",order=12,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// lastScheduleTime is the latest time of spec.proof.schedule that a proof was made for, or
	// skipped. Before the first one it is when the operator has seen spec.proof first.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Proof last due at",order=13,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	LastScheduleTime *metav1.Time `json:"lastScheduleTime,omitempty"`
}

// ProvenCondition of a VaultBackupSchedule is True while its newest proof has succeeded, and Unknown
// before the first one.
const ProvenCondition = "Proven"

// Reasons of the condition Proven. One that a VaultRestore has failed for is there as well, and
// ReasonBackupVaultNotFound, ReasonStorageNotSupported, ReasonScheduleInvalid, ReasonBackupNotUsable
// and ReasonSealDiffers.
const (
	// ReasonProvenRestored: the backup was restored, and was not unsealed; the message says why.
	ReasonProvenRestored = "Restored"
	// ReasonProvenUnsealed: the backup was restored, and unsealed by the keys or the key service of its Vault.
	ReasonProvenUnsealed = "Unsealed"
	// ReasonProvenCanary: the backup was restored and unsealed, and the canary was read.
	ReasonProvenCanary = "Canary"
	// ReasonNotProvenYet: no proof has ended yet.
	ReasonNotProvenYet = "NotProvenYet"
	// ReasonNoBackup: a proof is due, and there is no backup that has succeeded.
	ReasonNoBackup = "NoBackup"
	// ReasonSealNotProvable: the Vault is unsealed by a key service, and spec.proof does not say where that
	// is, or its seal is being migrated.
	ReasonSealNotProvable = "SealNotProvable"
	// ReasonKeyServiceInvalid: spec.proof.keyService cannot be a part of a NetworkPolicy.
	ReasonKeyServiceInvalid = "KeyServiceInvalid"
	// ReasonNotIsolated: what was restored and given keys is not isolated any more, or what a key service
	// would unseal cannot be isolated.
	ReasonNotIsolated = "NotIsolated"
	// ReasonProofRefused: the API server refuses what the proof needs, as a quota or a webhook does.
	ReasonProofRefused = "Refused"
	// ReasonNameConflict: somebody else has an object of a name that the proof needs.
	ReasonNameConflict = "NameConflict"
	// ReasonVolumesLeft: volumes of an earlier proof are still there.
	ReasonVolumesLeft = "VolumesLeft"
	// ReasonProofTimedOut: the proof has taken too long.
	ReasonProofTimedOut = "TimedOut"
	// ReasonKeysRefused: what was restored cannot be unsealed by the keys of its Vault.
	ReasonKeysRefused = "KeysRefused"
	// ReasonClusterDiffers: what was restored says that it is another Vault.
	ReasonClusterDiffers = "ClusterDiffers"
	// ReasonCanaryNotReadable: the canary cannot be read from what was restored, or its Secret is
	// not usable.
	ReasonCanaryNotReadable = "CanaryNotReadable"
	// ReasonCanaryDiffers: what was restored has another value than the Secret of the canary.
	ReasonCanaryDiffers = "CanaryDiffers"
)

const (
	// ProofFinalizer is on a VaultBackupSchedule while there is something of a proof: what was
	// restored ends before what isolates it.
	ProofFinalizer = "vault.security.coreos.com/proof"
	// ProofLabel is on all that is made for a proof: the name of the VaultBackupSchedule, which is
	// its controller.
	ProofLabel = "vault.security.coreos.com/proof-of"
	// ProofComponent is the ComponentLabel of the Job that finds out whether it is isolated.
	ProofComponent = "proof"
)

// proofSuffix ends the name of the Vault of a proof, and maxVaultName is how long that may be.
const (
	proofSuffix  = "-proof"
	maxVaultName = 40
)

// ProofName is the name of the Vault that the backups of a schedule are restored into for a proof,
// and of all that is made for that.
func (s *VaultBackupSchedule) ProofName() string {
	name := s.Name + proofSuffix
	if len(name) <= maxVaultName && 'a' <= name[0] && name[0] <= 'z' {
		return name
	}
	sum := sha256.Sum256([]byte(s.Name))
	cut := s.Name[:min(len(s.Name), maxVaultName-len("proof--12345678"))]
	return fmt.Sprintf("proof-%s-%x", strings.TrimRight(cut, "-"), sum[:4])
}

// IsOf says that an object was made for a proof of the schedule. The label alone says nothing: who may
// make Vaults may set any.
func (s *VaultBackupSchedule) IsOf(object metav1.Object) bool {
	return object.GetLabels()[ProofLabel] == s.Name && metav1.IsControlledBy(object, s)
}

// OfProof says that a Vault was made for a proof of a backup, and is deleted soon. Who may make Vaults
// can make one that looks so: it says nothing of who has made it.
func (v *Vault) OfProof() bool {
	owner := metav1.GetControllerOf(v)
	return owner != nil && owner.Kind == "VaultBackupSchedule" && v.Labels[ProofLabel] == owner.Name &&
		strings.HasPrefix(owner.APIVersion, GroupVersion.Group+"/")
}

// Reasons of the condition Ready of a VaultBackupSchedule.
const (
	// ReasonScheduled: the next backup is made at its time.
	ReasonScheduled = "Scheduled"
	// ReasonSuspended: spec.suspend is set.
	ReasonSuspended = "Suspended"
	// ReasonScheduleInvalid: schedule or timeZone cannot be parsed.
	ReasonScheduleInvalid = "ScheduleInvalid"
	// ReasonLastBackupFailed: the newest backup failed.
	ReasonLastBackupFailed = "LastBackupFailed"
	// ReasonBackupRefused: the API server refuses to make the backup that is due, or to delete one that has expired,
	// for a quota or by a webhook.
	ReasonBackupRefused = "BackupRefused"
)

// BacksUpBeforeUpgrade says that a backup is made before upgrades of the Vault.
func (s *VaultBackupSchedule) BacksUpBeforeUpgrade() bool {
	return !s.Spec.Suspend && s.DeletionTimestamp == nil && (s.Spec.BeforeUpgrade == nil || *s.Spec.BeforeUpgrade)
}

// Proving says that a backup is being proven: the one that status.proof names.
func (s *VaultBackupSchedule) Proving() bool {
	return s.Status.Proof != nil && s.Status.Proof.Phase == ProofRunning
}
