package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VaultRestore restores a backup into a Vault that has no data yet. Nothing that exists is ever
// replaced by it.
//
// +operator-sdk:csv:customresourcedefinitions:displayName="Vault restore",order=4,resources={{Job,v1},{ServiceAccount,v1},{Pod,v1}}
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=vaultrestores,singular=vaultrestore,scope=Namespaced,shortName=vltr
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Vault",type=string,JSONPath=`.spec.vault`
// +kubebuilder:printcolumn:name="Backup",type=string,JSONPath=`.spec.backup`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Restored")].reason`
// +kubebuilder:printcolumn:name="Begun",type=date,JSONPath=`.status.startTime`
// +kubebuilder:printcolumn:name="Completed",type=date,JSONPath=`.status.completionTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Location",type=string,JSONPath=`.status.location`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Restored")].message`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 52",message="metadata.name: must be at most 52 characters, so that the name of the Job stays valid"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="metadata.name: must not contain a dot"
type VaultRestore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is restored, and into what.
	Spec VaultRestoreSpec `json:"spec"`

	// status is what came of it.
	// +optional
	Status VaultRestoreStatus `json:"status,omitempty"`
}

// VaultRestoreList is a list of VaultRestores.
//
// +kubebuilder:object:root=true
type VaultRestoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VaultRestore `json:"items"`
}

// VaultRestoreSpec is what is restored, and into what. It cannot be changed.
//
// +kubebuilder:validation:XValidation:rule="has(self.backup) != has(self.from)",message="exactly one of backup and from must be set"
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cannot be changed: make another VaultRestore"
type VaultRestoreSpec struct {
	// vault is the name of the Vault to restore into, in the same namespace. It has to be new: not
	// initialized, without spec.initialization, with the kind of storage and the seal of the Vault
	// that was backed up, and of no lower version. It may be created after the VaultRestore.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault to restore into",order=1,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	Vault ObjectName `json:"vault"`

	// backup is the name of the VaultBackup to restore, in the same namespace.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Backup",order=2,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	Backup ObjectName `json:"backup,omitempty"`

	// from is what is stored, for when its VaultBackup is gone, or of another cluster.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="What is stored",order=3,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	From *StoredBackup `json:"from,omitempty"`
}

// StoredBackup is a backup by where it is stored.
type StoredBackup struct {
	// name is that of the object or file, below the prefix or path of location and without
	// ".snapshot", such as "default/example/example-nightly-29412345-1a2b3c4d".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Name",order=4,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Name string `json:"name"`

	// location is where it is stored, as in the spec.destination of the VaultBackup.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Location",order=10,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	Location BackupDestination `json:"location"`
}

// RestorePhase is how far a restore has come.
// +kubebuilder:validation:Enum=Pending;Running;Succeeded;Failed
type RestorePhase string

const (
	// RestorePending means that nothing has begun: the condition Restored says what is waited for.
	RestorePending RestorePhase = "Pending"
	// RestoreRunning means that a Job writes into the storage of the Vault, or that the nodes are
	// waited for.
	RestoreRunning RestorePhase = "Running"
	// RestoreSucceeded means that the Vault has the data of the backup.
	RestoreSucceeded RestorePhase = "Succeeded"
	// RestoreFailed means that it has not. The condition Restored says why, and what to do.
	RestoreFailed RestorePhase = "Failed"
)

// VaultRestoreStatus is what came of a restore.
type VaultRestoreStatus struct {
	// phase is how far the restore has come.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Phase",order=1,xDescriptors={"urn:alm:descriptor:io.kubernetes.phase"}
	// +optional
	Phase RestorePhase `json:"phase,omitempty"`

	// startTime is when there was a Job that writes into the storage. Until then nothing is touched.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Begun at",order=2,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// completionTime is when it succeeded or failed.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Completed at",order=3,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// location is where the backup is stored, as a URL without credentials.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Stored at",order=4,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Location string `json:"location,omitempty"`

	// requires is what is needed to use the data: no lower version of Vault, the same kind of storage
	// and seal, and as many of the keys of the Vault that was backed up as the threshold says.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="What is needed to use the data",order=5
	// +optional
	Requires *BackedUpVault `json:"requires,omitempty"`

	// conditions: Restored is Unknown while it is waited for or restored, then True or False.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Conditions of the restore",order=25,xDescriptors={"urn:alm:descriptor:io.kubernetes.conditions"}
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// RestoredCondition of a VaultRestore is Unknown until it is completed.
const RestoredCondition = "Restored"

// Reasons of the condition Restored, beside those of a VaultBackup's Job.
const (
	// ReasonRestored: the nodes of the Vault say that it is initialized, with the data of the backup.
	ReasonRestored = "BackupRestored"
	// ReasonAwaitingVault: there is no such Vault, its nodes have not told that it has no data, or
	// another VaultRestore is at it.
	ReasonAwaitingVault = "AwaitingVault"
	// ReasonAwaitingNodes: the data is restored, and the nodes have not told so yet.
	ReasonAwaitingNodes = "AwaitingNodes"
	// ReasonNotBegun: what was waited for did not come in time.
	ReasonNotBegun = "NotBegun"
	// ReasonBackupNotUsable: there is no such VaultBackup, or it has failed.
	ReasonBackupNotUsable = "BackupNotUsable"
	// ReasonVaultInitialized: the Vault has data.
	ReasonVaultInitialized = "VaultInitialized"
	// ReasonInitializesItself: the operator would initialize the Vault, by spec.initialization.
	ReasonInitializesItself = "InitializesItself"
	// ReasonOriginUnsealed: a node with the data of a Vault that is active would follow that one.
	ReasonOriginUnsealed = "OriginUnsealed"
	// ReasonVaultReplaced: the Vault was deleted while it was restored, or another one has its name; or it was made anew
	// while it was backed up.
	ReasonVaultReplaced = "VaultReplaced"
	// ReasonStorageDiffers: the Vault has another kind of storage than the one that was backed up.
	ReasonStorageDiffers = "StorageDiffers"
	// ReasonVersionLower: the Vault has a lower version than the one that was backed up.
	ReasonVersionLower = "VersionLower"
	// ReasonSealDiffers: the Vault has another seal than the one that was backed up.
	ReasonSealDiffers = "SealDiffers"
)

// RestoreLabel is on the Jobs of a VaultRestore and on their pods: its name.
const RestoreLabel = "vault.security.coreos.com/restore"

// Completed says that the restore has succeeded, or failed.
func (r *VaultRestore) Completed() bool { return r.Status.CompletionTime != nil }
