package v1alpha1

import (
	"cmp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// InitializationPolicy is how the operator initializes a Vault that has no data yet.
// https://developer.hashicorp.com/vault/api-docs/system/init
//
// +kubebuilder:validation:XValidation:rule="(has(self.threshold) ? self.threshold : 3) <= (has(self.shares) ? self.shares : 5)",fieldPath=".threshold",message="must not be higher than shares"
// +kubebuilder:validation:XValidation:rule="(has(self.shares) ? self.shares : 5) == 1 || (has(self.threshold) ? self.threshold : 3) > 1",fieldPath=".threshold",message="must be at least 2 when there is more than one share"
// +kubebuilder:validation:XValidation:rule="has(self.pgpKeysConfigMapName) || has(self.allowPlaintext) && self.allowPlaintext",message="pgpKeysConfigMapName must be set, so that only the holders of keys can read them; to have the keys stored unencrypted set allowPlaintext"
// +kubebuilder:validation:XValidation:rule="self.rootToken != 'Secret' || has(self.allowPlaintext) && self.allowPlaintext",fieldPath=".rootToken",message="Secret stores the root token unencrypted, which needs allowPlaintext"
// +kubebuilder:validation:XValidation:rule="(self.rootToken == 'PGP') == has(self.rootTokenPGPKey)",message="rootToken PGP needs rootTokenPGPKey, and nothing else does"
// +kubebuilder:validation:XValidation:rule="!has(self.rootTokenPGPKey) || has(self.pgpKeysConfigMapName)",message="rootTokenPGPKey needs pgpKeysConfigMapName, which has the public key"
type InitializationPolicy struct {
	// shares is the number of keys that are made: unseal keys, or recovery keys when Vault
	// unseals itself by a key service. Defaults to 5.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=255
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key shares",order=91,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Shares int32 `json:"shares,omitempty"`

	// threshold is how many of the keys unseal Vault, or authorize what needs recovery keys.
	// Defaults to 3.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=255
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Key threshold",order=92,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:number","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	Threshold int32 `json:"threshold,omitempty"`

	// pgpKeysConfigMapName is the name of a ConfigMap in the namespace of the Vault that has
	// one public PGP key for each share, each under a key of its own such as "ann.asc",
	// armored, binary or base64. Vault encrypts each share to one of them, so that nobody but
	// its holder can read it, the operator included. The shares are in the order of the names.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="ConfigMap with PGP keys",order=93,xDescriptors={"urn:alm:descriptor:io.kubernetes:ConfigMap","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	PGPKeysConfigMapName ObjectName `json:"pgpKeysConfigMapName,omitempty"`

	// rootToken says what becomes of the root token. PGP stores it encrypted to
	// rootTokenPGPKey. Revoke has the operator revoke it as soon as Vault is unsealed, and
	// stores it nowhere; whoever has enough keys can generate another one. Secret stores it
	// unencrypted.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Root token",order=94,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:select:PGP","urn:alm:descriptor:com.tectonic.ui:select:Revoke","urn:alm:descriptor:com.tectonic.ui:select:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	RootToken RootTokenPolicy `json:"rootToken"`

	// rootTokenPGPKey is the key of the ConfigMap of pgpKeysConfigMapName with the public PGP
	// key that the root token is encrypted to. Its holder has a share as well, unless the
	// ConfigMap has one public key more than there are shares.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="PGP key for the root token",order=95,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:text","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	RootTokenPGPKey string `json:"rootTokenPGPKey,omitempty"`

	// allowPlaintext accepts that keys, or the root token, are stored unencrypted in a Secret:
	// whoever may read Secrets in the namespace, or a backup of them, can unseal Vault and
	// read all that is in it. Defaults to false. It is for development.
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Allow unencrypted keys",order=96,xDescriptors={"urn:alm:descriptor:com.tectonic.ui:booleanSwitch","urn:alm:descriptor:com.tectonic.ui:advanced"}
	// +optional
	AllowPlaintext bool `json:"allowPlaintext,omitempty"`
}

// A default of the schema would fill an initialization in that nobody asked for: the console's
// form sends whatever it has a default of.
const (
	defaultShares    int32 = 5
	defaultThreshold int32 = 3
)

// WantedShares is how many keys are made.
func (p *InitializationPolicy) WantedShares() int32 {
	return cmp.Or(p.Shares, defaultShares)
}

// WantedThreshold is how many of the keys are needed.
func (p *InitializationPolicy) WantedThreshold() int32 {
	return cmp.Or(p.Threshold, defaultThreshold)
}

// RootTokenPolicy says what becomes of the root token.
// +kubebuilder:validation:Enum=PGP;Revoke;Secret
type RootTokenPolicy string

const (
	// EncryptRootToken stores the root token encrypted.
	EncryptRootToken RootTokenPolicy = "PGP"
	// RevokeRootToken revokes the root token, and stores it nowhere.
	RevokeRootToken RootTokenPolicy = "Revoke"
	// StoreRootToken stores the root token unencrypted.
	StoreRootToken RootTokenPolicy = "Secret"
)

// UnsealPolicy is how the operator unseals nodes.
type UnsealPolicy struct {
	// keysSecretName is the name of a Secret in the namespace of the Vault that has unseal
	// keys under keys that begin with "unseal-key-", as the Secret of a Vault that the
	// operator has initialized. With them the operator unseals nodes that have started. One
	// that somebody has sealed stays so until its container is started again.
	// +kubebuilder:validation:MinLength=1
	// +operator-sdk:csv:customresourcedefinitions:type=spec,displayName="Secret with unseal keys",order=98,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret","urn:alm:descriptor:com.tectonic.ui:advanced"}
	KeysSecretName ObjectName `json:"keysSecretName"`
}

// InitializationPhase is how far the operator has come with initializing a Vault.
// +kubebuilder:validation:Enum=Requested;Initialized;RootTokenRevoked;KeysLost;InitializedBefore
type InitializationPhase string

const (
	// PhaseRequested means that a node was asked to initialize Vault, or is about to be, and
	// that it is not known yet whether it did.
	PhaseRequested InitializationPhase = "Requested"
	// PhaseInitialized means that Vault was initialized, and that the keys are stored.
	PhaseInitialized InitializationPhase = "Initialized"
	// PhaseRootTokenRevoked means that the root token was also revoked.
	PhaseRootTokenRevoked InitializationPhase = "RootTokenRevoked"
	// PhaseKeysLost means that Vault was initialized, and that the response with its keys was
	// lost.
	PhaseKeysLost InitializationPhase = "KeysLost"
	// PhaseInitializedBefore means that the operator has not initialized Vault: somebody
	// else did, or it has the data of a Vault from before.
	PhaseInitializedBefore InitializationPhase = "InitializedBefore"
)

// InitializationStatus is what the operator has done to initialize a Vault. Once it is
// there Vault is not initialized again, whatever becomes of its data, unless nothing came
// of the attempt.
type InitializationStatus struct {
	// phase is how far it has come: Requested, Initialized, RootTokenRevoked, KeysLost or
	// InitializedBefore.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Phase of the initialization",order=32,xDescriptors={"urn:alm:descriptor:text"}
	Phase InitializationPhase `json:"phase"`

	// attempt identifies the attempt. It is written down before a node is asked, and the
	// Secret with the keys has it as an annotation.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Attempt",order=33,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Attempt types.UID `json:"attempt,omitempty"`

	// pod is the name of the pod whose node was asked.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Pod that was asked",order=34,xDescriptors={"urn:alm:descriptor:io.kubernetes:Pod"}
	// +optional
	Pod string `json:"pod,omitempty"`

	// time of the attempt.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Time of the attempt",order=35,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Time *metav1.Time `json:"time,omitempty"`

	// rootToken is spec.initialization.rootToken at that time.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Root token",order=36,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	RootToken RootTokenPolicy `json:"rootToken,omitempty"`

	// encrypted says that all keys were encrypted to public PGP keys.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Keys are encrypted",order=37,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Encrypted bool `json:"encrypted,omitempty"`

	// secretName is the name of the Secret with the keys. It is not deleted with the Vault,
	// since volumes may outlive it too.
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Secret with the keys",order=38,xDescriptors={"urn:alm:descriptor:io.kubernetes:Secret"}
	// +optional
	SecretName string `json:"secretName,omitempty"`
}

// UnsealStatus is what the operator knows of the nodes that it unseals.
type UnsealStatus struct {
	// unsealed are the starts of containers whose node was seen unsealed: when one of them is
	// sealed somebody has done that, and the operator leaves it alone.
	// +listType=map
	// +listMapKey=pod
	// +operator-sdk:csv:customresourcedefinitions:type=status,displayName="Starts that were unsealed",order=40,xDescriptors={"urn:alm:descriptor:text"}
	// +optional
	Unsealed []UnsealedStart `json:"unsealed,omitempty"`
}

// UnsealedStart is a start of a container whose node was seen unsealed.
type UnsealedStart struct {
	// pod is the UID of the pod.
	Pod types.UID `json:"pod"`

	// container is the ID of the container and how often it was restarted.
	Container string `json:"container"`
}

const (
	// AttemptAnnotation is on a Secret with the keys of a Vault: the attempt to initialize
	// Vault that has made them.
	AttemptAnnotation = "vault.security.coreos.com/initialization-attempt"
	// UnsealKeyPrefix begins the keys of a Secret that hold unseal keys of a Vault.
	UnsealKeyPrefix = "unseal-key-"
	// RecoveryKeyPrefix begins those that hold recovery keys.
	RecoveryKeyPrefix = "recovery-key-"
	// RootTokenKey is the key of such a Secret that holds the root token.
	RootTokenKey = "root-token"
	// PGPKeysKey is the key of such a Secret that tells which key is encrypted to which
	// public key.
	PGPKeysKey = "pgp-keys"
)

// KeysSecretName is the name of the Secret with the keys of a Vault that the operator
// initializes.
func (v *Vault) KeysSecretName() string {
	return v.Name + "-vault-keys"
}
