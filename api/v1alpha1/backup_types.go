package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// VaultBackup is one backup of a Vault: a snapshot of its storage, which Vault has encrypted, in
// an object store or on a volume. Its status tells where that is, and how far it is proven.
//
// +operator-sdk:csv:customresourcedefinitions:displayName="Vault backup",order=2,resources={{Job,v1},{ServiceAccount,v1},{Pod,v1}}
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=vaultbackups,singular=vaultbackup,scope=Namespaced,shortName=vltb
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Vault",type=string,JSONPath=`.spec.vault`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Completed",type=date,JSONPath=`.status.completionTime`
// +kubebuilder:printcolumn:name="Bytes",type=integer,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="Stored",type=date,JSONPath=`.status.proven.stored`,description="Since when it is known that the store has what was sent"
// +kubebuilder:printcolumn:name="Intact",type=date,JSONPath=`.status.proven.intact`,description="Since when it is known that the snapshot is complete"
// +kubebuilder:printcolumn:name="Restored",type=date,JSONPath=`.status.proven.restored`,description="Since when it is known that it can be restored"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Unsealed",type=date,JSONPath=`.status.proven.unsealed`,description="Since when it is known that the keys unseal what was restored",priority=1
// +kubebuilder:printcolumn:name="Canary",type=date,JSONPath=`.status.proven.canary`,description="Since when it is known that a value is read from what was restored",priority=1
// +kubebuilder:printcolumn:name="Location",type=string,JSONPath=`.status.location`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Succeeded")].reason`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Succeeded")].message`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 52",message="metadata.name: must be at most 52 characters, so that the name of the Job stays valid"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.contains('.')",message="metadata.name: must not contain a dot"
type VaultBackup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the backup that is wanted.
	Spec VaultBackupSpec `json:"spec"`

	// status is what came of it.
	// +optional
	Status VaultBackupStatus `json:"status,omitempty"`
}

// VaultBackupList is a list of VaultBackups.
//
// +kubebuilder:object:root=true
type VaultBackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VaultBackup `json:"items"`
}

// VaultBackupSpec is the backup that is wanted. It is made once; of the spec only deletionPolicy
// can be changed.
//
// +kubebuilder:validation:XValidation:rule="self.vault == oldSelf.vault",fieldPath=".vault",message="cannot be changed: make another VaultBackup"
// +kubebuilder:validation:XValidation:rule="self.destination == oldSelf.destination",fieldPath=".destination",message="cannot be changed: make another VaultBackup"
// +kubebuilder:validation:XValidation:rule="has(self.tokenSecretName) == has(oldSelf.tokenSecretName) && (!has(self.tokenSecretName) || self.tokenSecretName == oldSelf.tokenSecretName)",fieldPath=".tokenSecretName",message="cannot be changed: make another VaultBackup"
type VaultBackupSpec struct {
	// vault is the name of the Vault, in the same namespace.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault",order=1,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	Vault ObjectName `json:"vault"`

	// destination is where the backup is stored.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Destination",order=10
	Destination BackupDestination `json:"destination"`

	// tokenSecretName is the name of a Secret in the same namespace whose key "token" holds a
	// token of Vault that may read sys/storage/raft/snapshot. It is for a Vault with storage.raft
	// that does not let the operator log in; otherwise the Job logs in by the role
	// vault-operator-backup, which 'kubectl vault authorize' makes. A backup of etcd needs none.
	// https://developer.hashicorp.com/vault/api-docs/system/storage/raft#take-a-snapshot-of-the-raft-cluster
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with a token of Vault",order=30,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	TokenSecretName ObjectName `json:"tokenSecretName,omitempty"`

	// deletionPolicy says what happens to what is stored when this VaultBackup is deleted: Retain
	// (the default) keeps it, Delete deletes it, for which a Job runs before the VaultBackup goes.
	// Deleting the whole namespace keeps it in an object store in any case.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="What is stored, when this is deleted",order=31,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:select:Retain","urn:alm:descriptor:com.tectonic.ui:select:Delete","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	DeletionPolicy DataRetention `json:"deletionPolicy,omitempty"`
}

// BackupDestination is where backups are stored: exactly one kind is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.s3) != has(self.persistentVolumeClaim)",message="exactly one of s3 and persistentVolumeClaim must be set"
type BackupDestination struct {
	// s3 is a bucket of an object store that speaks the API of Amazon S3. Backups are
	// the objects PREFIX/NAMESPACE/VAULT/NAME-ID.snapshot, each with a .json beside it.
	// https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="S3",order=11
	// +optional
	S3 *S3Destination `json:"s3,omitempty"`

	// persistentVolumeClaim is a volume. Backups are files in it, named as the objects of s3 are.
	// One that is on the machines of the Vault, or in its namespace only, is lost with them.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volume",order=21,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	PersistentVolumeClaim *ClaimDestination `json:"persistentVolumeClaim,omitempty"`
}

// S3Destination is a bucket of an object store that speaks the API of Amazon S3.
//
// +kubebuilder:validation:XValidation:rule="!has(self.kmsKeyID) || has(self.serverSideEncryption) && self.serverSideEncryption == 'aws:kms'",fieldPath=".kmsKeyID",message="needs serverSideEncryption aws:kms"
type S3Destination struct {
	// endpoint is the address of the object store, such as "https://s3.eu-central-1.amazonaws.com".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:Pattern=`^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Endpoint",order=12,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	Endpoint string `json:"endpoint"`

	// region of the bucket, such as "eu-central-1". By default the object store is asked.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Region",order=13,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	Region string `json:"region,omitempty"`

	// bucket is the name of the bucket. It has to exist.
	// https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9][a-z0-9.-]+[a-z0-9]$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Bucket",order=14,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	Bucket string `json:"bucket"`

	// prefix of the names of the objects, such as "vault/production", without a "/" at its ends.
	// Give each cluster that stores in the bucket another one.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Prefix",order=15,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text"}
	// +optional
	Prefix string `json:"prefix,omitempty"`

	// pathStyle has the bucket in the path of a URL, and not in the name of its host, as most
	// object stores but Amazon's need it. Defaults to false.
	// https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Bucket in the path",order=16,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch"}
	// +optional
	PathStyle bool `json:"pathStyle,omitempty"`

	// credentialsSecretName is the name of a Secret in the same namespace with the keys
	// "accessKeyID" and "secretAccessKey", and "sessionToken" if there is one. It needs to
	// put, get, list and delete objects below the prefix, their versions where the bucket keeps
	// some, and to list and abort multipart uploads. Without it the Job uses the workload
	// identity of its ServiceAccount, VAULT-backup, whose annotations are yours to make.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the credentials",order=17,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret"}
	// +optional
	CredentialsSecretName ObjectName `json:"credentialsSecretName,omitempty"`

	// caSecretName is the name of a Secret in the same namespace whose key "ca.crt" holds the CA
	// (PEM) that the certificate of the object store is verified with. Defaults to public CAs.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the CA",order=18,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CASecretName ObjectName `json:"caSecretName,omitempty"`

	// serverSideEncryption is how the object store encrypts what it keeps: AES256 or aws:kms. By
	// default it does as the bucket says. Vault has encrypted the data in any case.
	// https://docs.aws.amazon.com/AmazonS3/latest/userguide/serv-side-encryption.html
	// +kubebuilder:validation:Enum="AES256";"aws:kms"
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Encryption by the object store",order=19,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:select:AES256","urn:alm:descriptor:com.tectonic.ui:select:aws:kms","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ServerSideEncryption string `json:"serverSideEncryption,omitempty"`

	// kmsKeyID is the key of serverSideEncryption aws:kms. Defaults to the bucket's.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9:/_-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key of the encryption",order=20,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	KMSKeyID string `json:"kmsKeyID,omitempty"`
}

// ClaimDestination is a PersistentVolumeClaim, as a place for backups.
type ClaimDestination struct {
	// claimName is the name of a PersistentVolumeClaim in the same namespace.
	// https://kubernetes.io/docs/concepts/storage/persistent-volumes/
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Volume claim",order=22,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	ClaimName ObjectName `json:"claimName"`

	// path is the directory in the volume, without a "/" at its ends. Defaults to its root.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Directory",order=23,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Path string `json:"path,omitempty"`
}

// BackupPhase is how far a backup has come.
// +kubebuilder:validation:Enum=Pending;Running;Succeeded;Failed;Deleting
type BackupPhase string

const (
	// BackupPending means that the Job has not begun.
	BackupPending BackupPhase = "Pending"
	// BackupRunning means that a Job makes the backup.
	BackupRunning BackupPhase = "Running"
	// BackupSucceeded means that there is a backup: it was stored and read back.
	BackupSucceeded BackupPhase = "Succeeded"
	// BackupFailed means that there is none. The condition Succeeded says why.
	BackupFailed BackupPhase = "Failed"
	// BackupDeleting means that a Job deletes what is stored.
	BackupDeleting BackupPhase = "Deleting"
)

// VaultBackupStatus is what came of a backup.
type VaultBackupStatus struct {
	// phase is how far the backup has come.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Phase",order=1,xDescriptors={"urn:alm:descriptor:io.kubernetes.phase"}
	// +optional
	Phase BackupPhase `json:"phase,omitempty"`

	// startTime is when the operator began with it.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Begun at",order=2,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// completionTime is when it succeeded or failed.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Completed at",order=3,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// attempts is how many Jobs were made for it. A Job tries up to four times itself.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Jobs that were made",order=4,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Attempts int32 `json:"attempts,omitempty"`

	// location is where the backup is, as a URL without credentials: s3://BUCKET/KEY, or
	// pvc://CLAIM/FILE.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Stored at",order=5,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Location string `json:"location,omitempty"`

	// size of what is stored, in bytes.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Size in bytes",order=6,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Size int64 `json:"size,omitempty"`

	// digest is "sha256:" and the SHA-256 of what is stored, in hexadecimal digits.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Digest of the content",order=7,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Digest string `json:"digest,omitempty"`

	// revision of etcd's data, or the index of the snapshot of integrated storage.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Revision of the data",order=8,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Revision int64 `json:"revision,omitempty"`

	// proven tells how far it is proven that Vault can be restored from it.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="How far it is proven",order=9
	// +optional
	Proven *BackupProof `json:"proven,omitempty"`

	// vault is what whoever restores the backup has to know of the Vault.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="The Vault at that time",order=15
	// +optional
	Vault *BackedUpVault `json:"vault,omitempty"`

	// conditions: Succeeded is Unknown while the backup is made, then True or False; Deleted is
	// there while what is stored is deleted.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Conditions of the backup",order=25,xDescriptors={"urn:alm:descriptor:io.kubernetes.conditions"}
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BackupProof tells how far a backup is proven. Each level has the time at which it was last
// shown, and what was not shown has none.
type BackupProof struct {
	// stored is when what is stored was read back and found to be what was sent.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Stored as it was sent",order=10,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Stored *metav1.Time `json:"stored,omitempty"`

	// intact is when the snapshot was found to be complete, by the sums that are in it.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Complete by its own sums",order=11,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Intact *metav1.Time `json:"intact,omitempty"`

	// restored is when it was restored into another Vault, whose nodes told the seal of the one that
	// was backed up. A VaultBackupSchedule with spec.proof has that done.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Restored into another Vault",order=12,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Restored *metav1.Time `json:"restored,omitempty"`

	// unsealed is when that other Vault was active: the keys of the one that was backed up had
	// unsealed it, and it had read its mounts.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Unsealed by its keys",order=13,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Unsealed *metav1.Time `json:"unsealed,omitempty"`

	// canary is when the value of spec.proof.canary was read from that other Vault.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Canary read",order=13,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Canary *metav1.Time `json:"canary,omitempty"`
}

// BackedUpVault is what whoever restores a backup has to know of the Vault that it is of.
type BackedUpVault struct {
	// uid of the Vault resource.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="UID of the Vault resource",order=16,xDescriptors={"urn:alm:descriptor:text"}
	UID types.UID `json:"uid"`

	// version of Vault that the data is of: no lower one can use it.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Version of Vault",order=17,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Version string `json:"version,omitempty"`

	// storage is the kind of storage: etcd or raft.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Kind of storage",order=18,xDescriptors={"urn:alm:descriptor:text"}
	Storage string `json:"storage"`

	// sealType is the seal by which the data is unsealed, such as shamir or transit.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Type of the seal",order=19,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	SealType string `json:"sealType,omitempty"`

	// shares is how many keys there were, where the operator initialized Vault.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Number of key shares",order=20,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Shares int32 `json:"shares,omitempty"`

	// threshold is how many of the keys are needed, where the operator initialized Vault.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Keys that are needed",order=21,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Threshold int32 `json:"threshold,omitempty"`
}

// Conditions of a VaultBackup.
const (
	// BackupSucceededCondition is Unknown while the backup is made.
	BackupSucceededCondition = "Succeeded"
	// BackupDeletedCondition is there while what is stored is deleted.
	BackupDeletedCondition = "Deleted"
)

// Reasons of the conditions of a VaultBackup. Those of a Job that failed are among internal/backup's.
const (
	// ReasonJobPending: the Job's pod does not run yet.
	ReasonJobPending = "JobPending"
	// ReasonJobRunning: the Job runs.
	ReasonJobRunning = "JobRunning"
	// ReasonBackupStored: there is a backup.
	ReasonBackupStored = "BackupStored"
	// ReasonBackupVaultNotFound: there is no such Vault, or it is being deleted.
	ReasonBackupVaultNotFound = "VaultNotFound"
	// ReasonNotInitialized: the Vault has no data yet.
	ReasonNotInitialized = "NotInitialized"
	// ReasonStorageNotSupported: the storage is not the operator's.
	ReasonStorageNotSupported = "StorageNotSupported"
	// ReasonLoginMissing: the Job could not log in to Vault.
	ReasonLoginMissing = "LoginMissing"
	// ReasonDestinationMissing: a Secret or a volume claim of the spec is missing.
	ReasonDestinationMissing = "DestinationMissing"
	// ReasonJobConflict: somebody else has an object of the Job's name.
	ReasonJobConflict = "JobConflict"
	// ReasonJobNotStarted: the Job's pod could not be started for long.
	ReasonJobNotStarted = "JobNotStarted"
	// ReasonJobFailed: the Job ended, and did not say why.
	ReasonJobFailed = "JobFailed"
	// ReasonResultInvalid: what the Job said is no result.
	ReasonResultInvalid = "ResultInvalid"
)

const (
	// BackupFinalizer is on a VaultBackup whose objects are deleted before it goes.
	BackupFinalizer = "vault.security.coreos.com/backup"
	// ScheduleLabel is on VaultBackups that a VaultBackupSchedule has made: its name.
	ScheduleLabel = "vault.security.coreos.com/backup-schedule"
	// BackupLabel is on the Jobs of a VaultBackup and on their pods: its name.
	BackupLabel = "vault.security.coreos.com/backup"
	// BackupComponent is the ComponentLabel of Jobs that read the storage of a Vault, or a store.
	BackupComponent = "backup"
)

// BackupAccountName is the name of the ServiceAccount that the Jobs of a Vault's backups run as.
func BackupAccountName(vault string) string { return vault + "-backup" }

// BackupLabels are on the Jobs of backups of a Vault, and on their pods.
func BackupLabels(vault string) map[string]string {
	return map[string]string{NameLabel: AppName, InstanceLabel: vault, ComponentLabel: BackupComponent}
}

// Completed says that the backup was made, or that it will not be.
func (b *VaultBackup) Completed() bool { return b.Status.CompletionTime != nil }

// Succeeded says that there is a backup. It is being deleted in a phase of its own.
func (b *VaultBackup) Succeeded() bool { return b.Status.Phase == BackupSucceeded }

// ProofLevel is one of the levels at which a backup is proven, each of which is more than the one before.
type ProofLevel struct {
	// Name of the level, as in the status.
	Name string
	// Time at which it was shown; nil if it was not.
	Time *metav1.Time
}

// Levels are all levels, the least first.
func (p *BackupProof) Levels() []ProofLevel {
	return []ProofLevel{
		{"stored", p.Stored}, {"intact", p.Intact}, {"restored", p.Restored}, {"unsealed", p.Unsealed}, {"canary", p.Canary},
	}
}
