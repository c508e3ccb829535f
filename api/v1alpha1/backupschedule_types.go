package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VaultBackupSchedule has backups of a Vault made at times, and before its upgrades.
//
// +operator-sdk:csv:customresourcedefinitions:displayName="Vault backup schedule",order=3,resources={{VaultBackup,v1alpha1}}
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=vaultbackupschedules,singular=vaultbackupschedule,scope=Namespaced,shortName=vltbs,categories=all
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Vault",type=string,JSONPath=`.spec.vault`
// +kubebuilder:printcolumn:name="Schedule",type=string,JSONPath=`.spec.schedule`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.spec.timeZone`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspend`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Last success",type=date,JSONPath=`.status.lastSuccessfulTime`
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

	// suspend has no further backups begun, neither at times nor before upgrades. Defaults to false.
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
	// none are. The newest one that is proven best is kept in any case.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Retention",order=7
	// +optional
	Retention *BackupRetention `json:"retention,omitempty"`

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

	// age is for how long backups are kept, in hours and minutes, such as "720h" for 30 days.
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

	// conditions: Ready is True while the schedule is valid and its newest backup did not fail.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Conditions of the schedule",order=6,xDescriptors={"urn:alm:descriptor:io.kubernetes.conditions"}
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
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
)

// BacksUpBeforeUpgrade says that a backup is made before upgrades of the Vault.
func (s *VaultBackupSchedule) BacksUpBeforeUpgrade() bool {
	return !s.Spec.Suspend && s.DeletionTimestamp == nil && (s.Spec.BeforeUpgrade == nil || *s.Spec.BeforeUpgrade)
}
