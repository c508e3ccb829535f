// Package v1alpha1 is the API of the Vault Operator: the Vault resource of the
// group vault.security.coreos.com. The field names of the CoreOS Vault operator
// are kept where they exist.
//
// +kubebuilder:object:generate=true
// +groupName=vault.security.coreos.com
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the group and version of the types in this package.
	GroupVersion = schema.GroupVersion{Group: "vault.security.coreos.com", Version: "v1alpha1"}

	// SchemeBuilder registers the types of this package.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the types of this package to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &Vault{}, &VaultList{}, &VaultBackup{}, &VaultBackupList{},
		&VaultBackupSchedule{}, &VaultBackupScheduleList{}, &VaultRestore{}, &VaultRestoreList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
