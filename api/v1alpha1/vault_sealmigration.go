package v1alpha1

// SealMigrationPolicy moves the data of an initialized Vault from one seal to another.
type SealMigrationPolicy struct {
	// from is the seal that Vault's data is bound to. Its credentials are needed until the
	// migration is over.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Old seal",order=53,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	From OldSeal `json:"from"`
}

// OldSeal is the seal that Vault's data is bound to: exactly one is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.shamir), has(self.transit), has(self.awskms), has(self.gcpckms), has(self.azurekeyvault), has(self.ocikms), has(self.alicloudkms)].filter(x, x).size() == 1",message="exactly one of shamir, transit, awskms, gcpckms, azurekeyvault, ocikms and alicloudkms must be set"
type OldSeal struct {
	// shamir says that administrators have unsealed the nodes, with Shamir's keys.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Shamir's keys",order=53,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Shamir *ShamirKeys `json:"shamir,omitempty"`

	// transit is what spec.seal.transit was.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Transit of another Vault",order=53,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Transit *TransitSeal `json:"transit,omitempty"`

	// awskms is what spec.seal.awskms was.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="AWS KMS",order=61,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AWSKMS *AWSKMSSeal `json:"awskms,omitempty"`

	// gcpckms is what spec.seal.gcpckms was.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Google Cloud KMS",order=66,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	GCPCKMS *GCPCKMSSeal `json:"gcpckms,omitempty"`

	// azurekeyvault is what spec.seal.azurekeyvault was.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Azure Key Vault",order=72,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AzureKeyVault *AzureKeyVaultSeal `json:"azurekeyvault,omitempty"`

	// ocikms is what spec.seal.ocikms was.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="OCI KMS",order=80,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	OCIKMS *OCIKMSSeal `json:"ocikms,omitempty"`

	// alicloudkms is what spec.seal.alicloudkms was.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Alibaba Cloud KMS",order=85,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AliCloudKMS *AliCloudKMSSeal `json:"alicloudkms,omitempty"`
}

// ShamirKeys are Shamir's keys, of which there is nothing to say: it is empty.
type ShamirKeys struct{}

// OldSeal is the key service that the data is moved away from, or nil: there is no
// migration, or it is away from Shamir's keys.
func (v *Vault) OldSeal() *SealPolicy {
	if v.Spec.SealMigration == nil {
		return nil
	}
	from := &v.Spec.SealMigration.From
	if from.Shamir != nil {
		return nil
	}
	return &SealPolicy{Transit: from.Transit, AWSKMS: from.AWSKMS, GCPCKMS: from.GCPCKMS,
		AzureKeyVault: from.AzureKeyVault, OCIKMS: from.OCIKMS, AliCloudKMS: from.AliCloudKMS}
}
