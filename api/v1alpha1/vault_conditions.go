package v1alpha1

// Types of the conditions that the controller of the status writes.
const (
	// ReadyCondition sums the others up, for tools that wait for one: it is True when
	// the spec is deployed, all nodes are unsealed and up to date, one is active and in
	// the Service, and certificates, configuration and storage are as they should be.
	// Otherwise it has the reason of the first condition that is not so.
	// https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus#the-ready-condition
	ReadyCondition = "Ready"
	// StalledCondition is there, and True, while nothing goes on before somebody changes
	// the spec or what it names. That nodes wait to be unsealed is not meant.
	// https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus#conditions
	StalledCondition = "Stalled"
	// AvailableCondition is True while a node is active and its pod is in the
	// Service, so that the Service reaches a Vault that serves requests.
	AvailableCondition = "Available"
	// InitializedCondition is True when "vault operator init" was run. It is not
	// named Initialized because the Helm reconciler has a condition of that name.
	InitializedCondition = "VaultInitialized"
	// UnsealedCondition is True when all nodes are unsealed, False when an administrator
	// has to unseal one (the message names them), Unknown when some do not answer.
	UnsealedCondition = "Unsealed"
	// UpdatedCondition is True when the spec is deployed and no node of an older
	// pod template is left, False while a rollout is on or refused (the reason
	// tells what it waits for, the message names the pods), Unknown when an updated
	// node does not answer.
	UpdatedCondition = "Updated"
	// TLSReadyCondition is True when the Secrets with the certificates of Vault and
	// etcd are there and valid, and the nodes serve what they hold.
	TLSReadyCondition = "TLSReady"
	// ConfigValidCondition is True when the configuration of configMapName and of
	// configSecretName is there and usable, or none was asked for.
	ConfigValidCondition = "ConfigValid"
	// SealReadyCondition is True when nodes can unseal themselves by the key service, as far
	// as is known, or administrators unseal them. It is False when the key service, or
	// what spec.seal says of it, keeps them from that.
	SealReadyCondition = "SealReady"
	// StorageReadyCondition is True when enough members of the storage are ready
	// to read and write: of etcd, or of the nodes with raft, which are when they are unsealed.
	// The message names the members that are not.
	StorageReadyCondition = "StorageReady"
	// SealMigratedCondition is there while spec.sealMigration is set: True when Vault's data
	// is of the new seal and no node of the old one is left, False before (the message
	// names the pods where somebody has to run "vault operator unseal -migrate").
	SealMigratedCondition = "SealMigrated"
)

// Conditions that the controllers write that initialize and unseal a Vault. They are there
// while spec.initialization and spec.unseal are.
const (
	// InitializationSucceededCondition is True when the operator has initialized Vault as
	// spec.initialization says, or had nothing to do.
	InitializationSucceededCondition = "InitializationSucceeded"
	// UnsealKeysValidCondition is True when the keys of spec.unseal have unsealed a node,
	// False when they cannot, and Unknown while they were not needed.
	UnsealKeysValidCondition = "UnsealKeysValid"
)

// AuthorizedCondition is there while spec.operatorLogin is, and is no part of Ready. It is True
// when the operator is logged in to Vault and may do what it needs, False when it is not (the
// message says what is missing), and Unknown while no node is active.
const AuthorizedCondition = "Authorized"

// Conditions that the Helm reconciler writes.
const (
	// DeployedCondition: the release of the chart is installed.
	DeployedCondition = "Deployed"
	// ReleaseFailedCondition: the last try to install or upgrade the release failed.
	ReleaseFailedCondition = "ReleaseFailed"
	// IrreconcilableCondition: something keeps the release from being reconciled; the
	// message says what.
	IrreconcilableCondition = "Irreconcilable"
)

// VaultConditions are all condition types that the controller of the status writes.
var VaultConditions = []string{
	ReadyCondition, StalledCondition, AvailableCondition, InitializedCondition, UnsealedCondition, UpdatedCondition,
	TLSReadyCondition, ConfigValidCondition, SealReadyCondition, StorageReadyCondition, SealMigratedCondition,
}

// Reasons of the conditions that the controller of the status writes.
const (
	// ReasonReady: all is as the spec wants it.
	ReasonReady = "Ready"
	// ReasonActive: a node is active.
	ReasonActive = "Active"
	// ReasonNoActiveNode: unsealed nodes are there, but none is active (yet).
	ReasonNoActiveNode = "NoActiveNode"
	// ReasonNotInService: a node is active, but the Service does not reach it; the
	// message says why.
	ReasonNotInService = "NotInService"
	// ReasonMultipleActiveNodes: more than one node says that it is active, and no majority
	// follows one of them, so that none is in the Service; the message names them.
	ReasonMultipleActiveNodes = "MultipleActiveNodes"
	// ReasonNodesUnverified: nodes serve with a certificate that cannot be verified
	// with the CA that their pod mounts; the message names one and says why.
	ReasonNodesUnverified = "NodesUnverified"
	// ReasonNotObserved: no node has answered since the operator started.
	ReasonNotObserved = "NotObserved"
	// ReasonAwaitingInit: Vault waits for "vault operator init".
	ReasonAwaitingInit = "AwaitingInit"
	// ReasonInitialized: Vault was initialized.
	ReasonInitialized = "Initialized"
	// ReasonDataFound: the storage holds the data of a Vault that was initialized
	// before this resource was created, and is unsealed with the keys of that one.
	ReasonDataFound = "DataFound"
	// ReasonAwaitingUnseal: nodes wait for "vault operator unseal".
	ReasonAwaitingUnseal = "AwaitingUnseal"
	// ReasonAwaitingAutoUnseal: nodes are sealed, and unseal themselves by the key service.
	ReasonAwaitingAutoUnseal = "AwaitingAutoUnseal"
	// ReasonUnsealed: all nodes are unsealed.
	ReasonUnsealed = "Unsealed"
	// ReasonNodesUnreachable: nodes do not answer.
	ReasonNodesUnreachable = "NodesUnreachable"
	// ReasonNodesStarting: nodes are not running yet.
	ReasonNodesStarting = "NodesStarting"
	// ReasonUpdated: all nodes are of the pod template that the spec asks for.
	ReasonUpdated = "Updated"
	// ReasonReleasePending: the spec is not deployed yet.
	ReasonReleasePending = "ReleasePending"
	// ReasonRollingOut: nodes are being replaced, and nobody has to do anything.
	ReasonRollingOut = "RollingOut"
	// ReasonNodeFailing: an updated node cannot start.
	ReasonNodeFailing = "NodeFailing"
	// ReasonRolloutStalled: the rollout of etcd has made no progress for ten minutes.
	ReasonRolloutStalled = "RolloutStalled"
	// ReasonExpansionRefused: volumeSize of the storage is larger than the volumes, which cannot be
	// made larger.
	ReasonExpansionRefused = "ExpansionRefused"
	// ReasonDowngradeRefused: spec.version is lower than status.dataVersion, or
	// spec.storage.etcd.version is lower than status.storage.version.
	ReasonDowngradeRefused = "DowngradeRefused"
	// ReasonSecretsValid: the Secrets with the certificates are usable.
	ReasonSecretsValid = "SecretsValid"
	// ReasonSecretsPending: the operator is making the certificates.
	ReasonSecretsPending = "SecretsPending"
	// ReasonSecretNotFound: a Secret with certificates or credentials is missing.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretInvalid: a Secret lacks a key, or a key's content is unusable.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonAuthorityLost: the Secret with a certificate authority that the operator
	// made is gone together with what it has signed, and pods still trust it.
	ReasonAuthorityLost = "AuthorityLost"
	// ReasonCertificateExpired: a certificate, or the CA that signed it, is
	// not valid any more.
	ReasonCertificateExpired = "CertificateExpired"
	// ReasonCertificateExpiring: a certificate is valid, and not for long.
	ReasonCertificateExpiring = "CertificateExpiring"
	// ReasonCertificatePending: nodes do not serve the certificate yet that the Secret
	// holds.
	ReasonCertificatePending = "CertificatePending"
	// ReasonCertificateNotServed: nodes should have served by now what the Secret holds.
	ReasonCertificateNotServed = "CertificateNotServed"
	// ReasonConfigAccepted: the configuration is usable.
	ReasonConfigAccepted = "ConfigAccepted"
	// ReasonConfigMapNotFound: the ConfigMap of configMapName is missing.
	ReasonConfigMapNotFound = "ConfigMapNotFound"
	// ReasonConfigSecretNotFound: the Secret of configSecretName is missing.
	ReasonConfigSecretNotFound = "ConfigSecretNotFound"
	// ReasonConfigInvalid: the configuration does not parse, or sets what the
	// operator owns.
	ReasonConfigInvalid = "ConfigInvalid"
	// ReasonShamir: no key service is needed, administrators unseal the nodes.
	ReasonShamir = "Shamir"
	// ReasonKeyServiceWorks: Vault could use the key service when it tried last.
	ReasonKeyServiceWorks = "KeyServiceWorks"
	// ReasonTokenExpiring: the key service works, and its token does not for long.
	ReasonTokenExpiring = "TokenExpiring"
	// ReasonTokenNotRenewable: the key service works, and its token ends however often it is
	// renewed.
	ReasonTokenNotRenewable = "TokenNotRenewable"
	// ReasonSealInvalid: spec.seal cannot work.
	ReasonSealInvalid = "SealInvalid"
	// ReasonSealChangeRefused: another kind of seal, or another key, than that which Vault's
	// data is bound to, and no migration from that.
	ReasonSealChangeRefused = "SealChangeRefused"
	// ReasonAwaitingSealMigration: nodes wait until somebody runs "vault operator unseal
	// -migrate" on them.
	ReasonAwaitingSealMigration = "AwaitingSealMigration"
	// ReasonMigrating: Vault's data is not of the new seal yet, or nodes of the old one are left.
	ReasonMigrating = "Migrating"
	// ReasonMigrated: Vault's data is of the new seal, and all nodes are.
	ReasonMigrated = "Migrated"
	// ReasonKeyServiceUnavailable: the key service cannot be reached, or does not serve.
	ReasonKeyServiceUnavailable = "KeyServiceUnavailable"
	// ReasonKeyServiceUnverified: the certificate of the key service cannot be verified.
	ReasonKeyServiceUnverified = "KeyServiceUnverified"
	// ReasonCredentialsRefused: the key service refuses the credentials, or what they may do.
	ReasonCredentialsRefused = "CredentialsRefused"
	// ReasonKeyNotUsable: the key does not exist, or is disabled.
	ReasonKeyNotUsable = "KeyNotUsable"
	// ReasonKeyServiceFailing: Vault cannot use the key service, and its log says why.
	ReasonKeyServiceFailing = "KeyServiceFailing"
	// ReasonKeysStored: Vault was initialized, and its keys are stored encrypted.
	ReasonKeysStored = "KeysStored"
	// ReasonKeysInPlaintext: Vault was initialized, and keys or the root token are stored
	// unencrypted.
	ReasonKeysInPlaintext = "KeysInPlaintext"
	// ReasonInitializedBefore: the operator did not initialize Vault.
	ReasonInitializedBefore = "InitializedBefore"
	// ReasonInitializing: a node was asked to initialize Vault.
	ReasonInitializing = "Initializing"
	// ReasonPGPKeysNotFound: the ConfigMap of pgpKeysConfigMapName, or the key in it that
	// rootTokenPGPKey names, is missing.
	ReasonPGPKeysNotFound = "PGPKeysNotFound"
	// ReasonPGPKeysInvalid: there are too few or too many public keys, or one is unusable.
	ReasonPGPKeysInvalid = "PGPKeysInvalid"
	// ReasonSecretExists: there is a Secret already where the keys would be stored.
	ReasonSecretExists = "SecretExists"
	// ReasonSecretRefused: the API server would not take the Secret with the keys.
	ReasonSecretRefused = "SecretRefused"
	// ReasonRevocationRefused: rootToken Revoke would leave no way to a token, or cannot be
	// done.
	ReasonRevocationRefused = "RevocationRefused"
	// ReasonInitializationRefused: Vault has refused to be initialized.
	ReasonInitializationRefused = "InitializationRefused"
	// ReasonStoringKeys: Vault was initialized, and the keys could not be stored yet. They are
	// in the memory of the operator.
	ReasonStoringKeys = "StoringKeys"
	// ReasonKeysLost: Vault was initialized, and its keys are lost. It has no data yet.
	ReasonKeysLost = "KeysLost"
	// ReasonDataLost: Vault was initialized before and is not any more.
	ReasonDataLost = "DataLost"
	// ReasonRevokingRootToken: the root token is revoked when a node is active.
	ReasonRevokingRootToken = "RevokingRootToken"
	// ReasonRootTokenNotRevoked: the root token was not stored, and was not revoked either.
	ReasonRootTokenNotRevoked = "RootTokenNotRevoked"
	// ReasonKeysAccepted: the keys have unsealed a node.
	ReasonKeysAccepted = "KeysAccepted"
	// ReasonKeysNotUsed: no node has needed the keys yet.
	ReasonKeysNotUsed = "KeysNotUsed"
	// ReasonKeysWrong: the keys do not unseal this Vault.
	ReasonKeysWrong = "KeysWrong"
	// ReasonTooFewKeys: there are fewer keys than unseal this Vault.
	ReasonTooFewKeys = "TooFewKeys"
	// ReasonKeysNotNeeded: nodes unseal themselves by a key service.
	ReasonKeysNotNeeded = "KeysNotNeeded"
	// ReasonSealedByHand: a node was unsealed and somebody has sealed it.
	ReasonSealedByHand = "SealedByHand"
	// ReasonAuthorized: the operator is logged in, and may do what it needs.
	ReasonAuthorized = "Authorized"
	// ReasonNotAuthorized: nobody has authorized the operator in this Vault.
	ReasonNotAuthorized = "NotAuthorized"
	// ReasonLoginRefused: Vault knows the operator and refuses its login.
	ReasonLoginRefused = "LoginRefused"
	// ReasonPolicyMissing: the operator can log in, and may not do what it needs.
	ReasonPolicyMissing = "PolicyMissing"
	// ReasonNoIdentity: the API server gives the operator no token to log in with.
	ReasonNoIdentity = "NoIdentity"
	// ReasonQuorum: all etcd members are ready, or all nodes with raft are unsealed.
	ReasonQuorum = "Quorum"
	// ReasonMembersNotReady: a majority of the etcd members is ready, or of the nodes with
	// raft unsealed, which is enough, and the message names those that are not.
	ReasonMembersNotReady = "MembersNotReady"
	// ReasonNoSpace: etcd's database has grown to what the volume allows, and
	// etcd writes no more.
	ReasonNoSpace = "NoSpace"
	// ReasonVolumesMismatch: volumes that exist do not fit the spec.
	ReasonVolumesMismatch = "VolumesMismatch"
	// ReasonVolumesLost: most volumes that the storage was ready with are gone. Members of
	// etcd are kept from founding an empty cluster.
	ReasonVolumesLost = "VolumesLost"
	// ReasonMembersFailing: members cannot start for the first time, and the
	// message says why.
	ReasonMembersFailing = "MembersFailing"
	// ReasonMembersDisagree: members are of different etcd clusters.
	ReasonMembersDisagree = "MembersDisagree"
	// ReasonStorageUsed: a node uses the external storage.
	ReasonStorageUsed = "StorageUsed"
	// ReasonStorageUnavailable: nodes end when they start, because they cannot reach the
	// external storage.
	ReasonStorageUnavailable = "StorageUnavailable"
	// ReasonStorageUnverified: nodes end when they start, because they cannot verify the
	// certificate of the external storage.
	ReasonStorageUnverified = "StorageUnverified"
	// ReasonStorageRefused: nodes end when they start, because the external storage refuses
	// their credentials.
	ReasonStorageRefused = "StorageRefused"
	// ReasonStorageFailing: nodes end when they start, because of the external storage.
	ReasonStorageFailing = "StorageFailing"
	// ReasonNoQuorum: fewer than a majority of the etcd members is ready, or of the nodes
	// with raft unsealed.
	ReasonNoQuorum = "NoQuorum"
)
