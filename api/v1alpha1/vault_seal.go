package v1alpha1

import (
	"path"
	"strings"
)

// SealPolicy is the key service by which the nodes unseal themselves: exactly one is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.transit), has(self.awskms), has(self.gcpckms), has(self.azurekeyvault), has(self.ocikms), has(self.alicloudkms)].filter(x, x).size() == 1",message="exactly one of transit, awskms, gcpckms, azurekeyvault, ocikms and alicloudkms must be set"
type SealPolicy struct {
	// transit is a key of the transit secrets engine of another Vault. docs/auto-unseal.md has
	// the commands for one that this operator runs.
	// https://developer.hashicorp.com/vault/docs/configuration/seal/transit
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Transit of another Vault",order=53,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Transit *TransitSeal `json:"transit,omitempty"`

	// awskms is a key of AWS KMS.
	// https://developer.hashicorp.com/vault/docs/configuration/seal/awskms
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="AWS KMS",order=61,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AWSKMS *AWSKMSSeal `json:"awskms,omitempty"`

	// gcpckms is a key of Google Cloud KMS.
	// https://developer.hashicorp.com/vault/docs/configuration/seal/gcpckms
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Google Cloud KMS",order=66,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	GCPCKMS *GCPCKMSSeal `json:"gcpckms,omitempty"`

	// azurekeyvault is a key of Azure Key Vault.
	// https://developer.hashicorp.com/vault/docs/configuration/seal/azurekeyvault
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Azure Key Vault",order=72,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AzureKeyVault *AzureKeyVaultSeal `json:"azurekeyvault,omitempty"`

	// ocikms is a key of Oracle Cloud Infrastructure KMS.
	// https://developer.hashicorp.com/vault/docs/configuration/seal/ocikms
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="OCI KMS",order=80,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	OCIKMS *OCIKMSSeal `json:"ocikms,omitempty"`

	// alicloudkms is a key of Alibaba Cloud KMS.
	// https://developer.hashicorp.com/vault/docs/configuration/seal/alicloudkms
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Alibaba Cloud KMS",order=85,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AliCloudKMS *AliCloudKMSSeal `json:"alicloudkms,omitempty"`
}

// TransitSeal is a key of the transit secrets engine of another Vault.
// https://developer.hashicorp.com/vault/docs/configuration/seal/transit
type TransitSeal struct {
	// address of the other Vault, such as "https://root.security.svc:8200". It must not be
	// this Vault itself, which could not be unsealed any more.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:Pattern=`^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Address",order=54,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Address string `json:"address"`

	// keyName is the name of the key. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key",order=55,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KeyName string `json:"keyName"`

	// mountPath is where the secrets engine is mounted. Defaults to "transit". It cannot be
	// changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Mount path",order=56,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	MountPath string `json:"mountPath,omitempty"`

	// namespace of Vault Enterprise that the secrets engine is in. It cannot be changed once
	// Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Vault namespace",order=57,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// tlsServerName is the name that the certificate of the other Vault has to be valid for,
	// when it is not that of address.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9.])?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Name in the certificate",order=58,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	TLSServerName string `json:"tlsServerName,omitempty"`

	// credentialsSecretName is the name of a Secret in the namespace of the Vault whose key
	// "token" holds the token, without a newline at its end. It should be periodic and an
	// orphan, with a policy that may update transit/encrypt/KEY and transit/decrypt/KEY and
	// nothing else. Nodes read it when they start, and renew it while they run.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the token",order=59,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	CredentialsSecretName ObjectName `json:"credentialsSecretName"`

	// caSecretName is the name of a Secret in the namespace of the Vault whose key "vault-
	// client-ca.crt", or "ca.crt", holds the CA (PEM) that the certificate of the other Vault
	// is verified with. Defaults to the CAs of the image.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the CA",order=60,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CASecretName ObjectName `json:"caSecretName,omitempty"`
}

// AWSKMSSeal is a key of AWS KMS.
// https://developer.hashicorp.com/vault/docs/configuration/seal/awskms
type AWSKMSSeal struct {
	// region of the key, such as "eu-central-1". Nodes take it for their AWS_REGION as well.
	// It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Region",order=62,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Region string `json:"region"`

	// kmsKeyID is the ID, the ARN or the alias of the key. It cannot be changed once Vault is
	// initialized, not even to another of these for the same key.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9:/_-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key",order=63,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KMSKeyID string `json:"kmsKeyID"`

	// endpoint of KMS, such as that of a VPC endpoint. Defaults to that of the region.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:Pattern=`^https://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9.])?(:[0-9]{1,5})?/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Endpoint",order=64,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// credentialsSecretName is the name of a Secret in the namespace of the Vault with the
	// keys "access_key" and "secret_key". Without it nodes use the identity of their
	// ServiceAccount or of their machine.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the access key",order=65,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CredentialsSecretName ObjectName `json:"credentialsSecretName,omitempty"`
}

// GCPCKMSSeal is a key of Google Cloud KMS.
// https://developer.hashicorp.com/vault/docs/configuration/seal/gcpckms
type GCPCKMSSeal struct {
	// project of the key. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[a-z0-9:.-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Project",order=67,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Project string `json:"project"`

	// region is the location of the key ring, such as "europe-west3" or "global". It cannot be
	// changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Location",order=68,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Region string `json:"region"`

	// keyRing is the name of the key ring. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key ring",order=69,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KeyRing string `json:"keyRing"`

	// cryptoKey is the name of the key. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key",order=70,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	CryptoKey string `json:"cryptoKey"`

	// credentialsSecretName is the name of a Secret in the namespace of the Vault whose key
	// "credentials.json" holds the key file of a service account. Without it nodes use the
	// identity of their ServiceAccount or of their machine.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the credentials",order=71,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CredentialsSecretName ObjectName `json:"credentialsSecretName,omitempty"`
}

// AzureKeyVaultSeal is a key of Azure Key Vault.
// https://developer.hashicorp.com/vault/docs/configuration/seal/azurekeyvault
//
// +kubebuilder:validation:XValidation:rule="!has(self.credentialsSecretName) || has(self.tenantID) && has(self.clientID)",message="credentialsSecretName needs tenantID and clientID, whose secret it names"
type AzureKeyVaultSeal struct {
	// vaultName is the name of the key vault. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key vault",order=73,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	VaultName string `json:"vaultName"`

	// keyName is the name of the key. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key",order=74,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KeyName string `json:"keyName"`

	// tenantID is the ID of the tenant, of the application of clientID.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Tenant",order=75,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	TenantID string `json:"tenantID,omitempty"`

	// clientID is the ID of an application, or of a managed identity. Workload identity brings
	// its own.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Client",order=76,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	ClientID string `json:"clientID,omitempty"`

	// environment is the cloud. Defaults to "AzurePublicCloud". It cannot be changed once Vault
	// is initialized, unless resource says where the key vault is.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Environment",order=77,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Environment string `json:"environment,omitempty"`

	// resource is the domain of the key vault, such as "managedhsm.azure.net". Defaults to
	// that of the environment. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Resource",order=78,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Resource string `json:"resource,omitempty"`

	// credentialsSecretName is the name of a Secret in the namespace of the Vault whose key
	// "client_secret" holds the secret of the application of clientID. Without it nodes use
	// the identity of their ServiceAccount or of their machine.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the client secret",order=79,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CredentialsSecretName ObjectName `json:"credentialsSecretName,omitempty"`
}

// OCIKMSSeal is a key of Oracle Cloud Infrastructure KMS.
// https://developer.hashicorp.com/vault/docs/configuration/seal/ocikms
type OCIKMSSeal struct {
	// keyID is the OCID of the key. It cannot be changed once Vault is initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key",order=81,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KeyID string `json:"keyID"`

	// cryptoEndpoint is the cryptographic endpoint of the OCI vault.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:Pattern=`^https://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9.])?(:[0-9]{1,5})?/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Cryptographic endpoint",order=82,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	CryptoEndpoint string `json:"cryptoEndpoint"`

	// managementEndpoint is the management endpoint of the OCI vault.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:Pattern=`^https://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9.])?(:[0-9]{1,5})?/?$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Management endpoint",order=83,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	ManagementEndpoint string `json:"managementEndpoint"`

	// credentialsSecretName is the name of a Secret in the namespace of the Vault with the
	// keys "config", an OCI configuration file that has key_file=/vault/seal/key.pem, and
	// "key.pem", the API key. Without it nodes use the instance principal of their machine.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the configuration",order=84,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CredentialsSecretName ObjectName `json:"credentialsSecretName,omitempty"`
}

// AliCloudKMSSeal is a key of Alibaba Cloud KMS.
// https://developer.hashicorp.com/vault/docs/configuration/seal/alicloudkms
type AliCloudKMSSeal struct {
	// region of the key, such as "eu-central-1". It cannot be changed once Vault is
	// initialized.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Region",order=86,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	Region string `json:"region"`

	// kmsKeyID is the ID or the alias of the key. It cannot be changed once Vault is
	// initialized, not even to the other of these for the same key.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9:/_-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key",order=87,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KMSKeyID string `json:"kmsKeyID"`

	// domain of KMS. Defaults to that of the region.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.-]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Domain",order=88,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Domain string `json:"domain,omitempty"`

	// credentialsSecretName is the name of a Secret in the namespace of the Vault with the
	// keys "access_key" and "secret_key". Without it nodes use the RAM role of their machine.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with the access key",order=89,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	CredentialsSecretName ObjectName `json:"credentialsSecretName,omitempty"`
}

// SealStatus is what is known of the seal.
type SealStatus struct {
	// type of the seal, as the nodes report it: shamir when administrators unseal them, else
	// the key service.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Type of the seal",order=28,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Type string `json:"type,omitempty"`

	// key of spec.seal that a node has been unsealed by. Only a migration changes it from then on.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Key of the seal",order=29,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Key string `json:"key,omitempty"`

	// healthy says what Vault has found when it used the key service last, which it tries
	// every ten minutes. It is not set while no node tells it, and for Shamir's keys.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Key service works",order=30,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Healthy *bool `json:"healthy,omitempty"`
}

// Types of seals, as Vault names them.
const (
	// ShamirSeal is unsealed by administrators.
	ShamirSeal = "shamir"
	// TransitSealType is the type of a TransitSeal.
	TransitSealType = "transit"
	// AWSKMSSealType is the type of an AWSKMSSeal.
	AWSKMSSealType = "awskms"
	// GCPCKMSSealType is the type of a GCPCKMSSeal.
	GCPCKMSSealType = "gcpckms"
	// AzureKeyVaultSealType is the type of an AzureKeyVaultSeal.
	AzureKeyVaultSealType = "azurekeyvault"
	// OCIKMSSealType is the type of an OCIKMSSeal.
	OCIKMSSealType = "ocikms"
	// AliCloudKMSSealType is the type of an AliCloudKMSSeal.
	AliCloudKMSSealType = "alicloudkms"
)

// Type is the type of the seal, as Vault reports it.
func (s *SealPolicy) Type() string {
	switch {
	case s == nil:
		return ShamirSeal
	case s.Transit != nil:
		return TransitSealType
	case s.AWSKMS != nil:
		return AWSKMSSealType
	case s.GCPCKMS != nil:
		return GCPCKMSSealType
	case s.AzureKeyVault != nil:
		return AzureKeyVaultSealType
	case s.OCIKMS != nil:
		return OCIKMSSealType
	default:
		return AliCloudKMSSealType
	}
}

// Key names the key, by all that would be another key if it were changed. It is empty
// without a key service.
func (s *SealPolicy) Key() string {
	var parts []string
	switch {
	case s == nil:
		return ""
	case s.Transit != nil:
		mount := s.Transit.MountPath
		if mount == "" {
			mount = "transit"
		}
		parts = []string{s.Transit.Namespace, mount, "keys", s.Transit.KeyName}
	case s.AWSKMS != nil:
		parts = []string{s.AWSKMS.Region, s.AWSKMS.KMSKeyID}
	case s.GCPCKMS != nil:
		parts = []string{"projects", s.GCPCKMS.Project, "locations", s.GCPCKMS.Region, "keyRings", s.GCPCKMS.KeyRing,
			"cryptoKeys", s.GCPCKMS.CryptoKey}
	case s.AzureKeyVault != nil:
		parts = []string{s.AzureKeyVault.domain(), s.AzureKeyVault.VaultName, s.AzureKeyVault.KeyName}
	case s.OCIKMS != nil:
		parts = []string{s.OCIKMS.KeyID}
	case s.AliCloudKMS != nil:
		parts = []string{s.AliCloudKMS.Region, s.AliCloudKMS.KMSKeyID}
	}
	return s.Type() + ":" + strings.TrimPrefix(path.Join(parts...), "/")
}

// azureDomains are those of the key vaults of each environment.
// https://github.com/Azure/go-autorest/blob/main/autorest/azure/environments.go
var azureDomains = map[string]string{
	"":                       "vault.azure.net",
	"AZURECLOUD":             "vault.azure.net",
	"AZUREPUBLICCLOUD":       "vault.azure.net",
	"AZURECHINACLOUD":        "vault.azure.cn",
	"AZUREGERMANCLOUD":       "vault.microsoftazure.de",
	"AZUREUSGOVERNMENT":      "vault.usgovcloudapi.net",
	"AZUREUSGOVERNMENTCLOUD": "vault.usgovcloudapi.net",
}

// domain of the key vault, as Vault finds it.
func (s *AzureKeyVaultSeal) domain() string {
	if s.Resource != "" {
		return s.Resource
	}
	if domain, known := azureDomains[strings.ToUpper(s.Environment)]; known {
		return domain
	}
	return s.Environment
}

// CredentialsSecretName is the name of the Secret with the credentials for the key
// service, or empty.
func (s *SealPolicy) CredentialsSecretName() string {
	switch {
	case s == nil:
		return ""
	case s.Transit != nil:
		return string(s.Transit.CredentialsSecretName)
	case s.AWSKMS != nil:
		return string(s.AWSKMS.CredentialsSecretName)
	case s.GCPCKMS != nil:
		return string(s.GCPCKMS.CredentialsSecretName)
	case s.AzureKeyVault != nil:
		return string(s.AzureKeyVault.CredentialsSecretName)
	case s.OCIKMS != nil:
		return string(s.OCIKMS.CredentialsSecretName)
	case s.AliCloudKMS != nil:
		return string(s.AliCloudKMS.CredentialsSecretName)
	}
	return ""
}

// CASecretName is the name of the Secret with the CA of the key service, or empty.
func (s *SealPolicy) CASecretName() string {
	if s == nil || s.Transit == nil {
		return ""
	}
	return string(s.Transit.CASecretName)
}

// CredentialsKeys are the keys of the Secret with the credentials.
func (s *SealPolicy) CredentialsKeys() []string {
	switch s.Type() {
	case TransitSealType:
		return []string{"token"}
	case GCPCKMSSealType:
		return []string{"credentials.json"}
	case AzureKeyVaultSealType:
		return []string{"client_secret"}
	case OCIKMSSealType:
		return []string{"config", "key.pem"}
	default:
		return []string{"access_key", "secret_key"}
	}
}
