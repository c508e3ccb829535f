// Package restore says into which Vault a backup can be restored.
package restore

import (
	"fmt"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

// Anew is how a Vault becomes one without data.
const Anew = "delete the Vault together with its volumes, create it again without spec.initialization, and restore then"

// StorageOf is the kind of storage of a Vault as backups name it.
func StorageOf(vault *v1alpha1.Vault) string {
	if vault.HasRaft() {
		return "raft"
	}
	return "etcd"
}

// Unsealed says that a node of the Vault serves, or may soon.
func Unsealed(vault *v1alpha1.Vault) bool {
	nodes := &vault.Status.VaultStatus
	return nodes.Active != "" || len(nodes.Standby) > 0
}

// Follows is why a backup of integrated storage is not restored while the Vault that was backed up is
// unsealed, or nothing. The data names its active node. A node that has been unsealed with the data asks that
// one, which does not know it, and takes itself to be removed from the cluster for good.
// One that is made to prove the backup stays sealed, or reaches no other Vault.
// https://github.com/hashicorp/vault/issues/31933
func Follows(origin, into *v1alpha1.Vault) string {
	if origin == nil || origin.UID == into.UID || !into.HasRaft() || into.OfProof() || !Unsealed(origin) {
		return ""
	}
	return fmt.Sprintf("Vault %[1]s, which was backed up, is unsealed. Nodes with its data would ask its active node, "+
		"and end as removed from its cluster: seal %[1]s or delete it", origin.Name)
}

// SealOf is the type of the seal of a Vault, or nothing while that is not known: one in configuration of its own is
// told by its nodes.
func SealOf(vault *v1alpha1.Vault) string {
	switch {
	case vault.Spec.Seal != nil:
		return vault.Spec.Seal.Type()
	case vault.Status.Seal != nil && vault.Status.Seal.Type != "":
		return vault.Status.Seal.Type
	case vault.Spec.ConfigMapName != "" || vault.Spec.ConfigSecretName != "":
		return ""
	}
	return vault.Spec.Seal.Type() // Shamir's
}

// Refusal is why a backup cannot be restored into a Vault before somebody changes that, or nothing. What
// is not known of the Vault that was backed up, which is nil if nothing is, is not compared: the Job reads
// it beside the backup, and compares it before it writes.
func Refusal(of *v1alpha1.BackedUpVault, into *v1alpha1.Vault) (reason, message string) {
	if of == nil {
		of = &v1alpha1.BackedUpVault{}
	}
	storage, seal := StorageOf(into), SealOf(into)
	switch {
	case into.HasExternal():
		return v1alpha1.ReasonStorageNotSupported, "The storage of the Vault is not run by the operator: restore it with " +
			"its own tools"
	case of.Storage != "" && of.Storage != storage:
		return v1alpha1.ReasonStorageDiffers, fmt.Sprintf("The backup is of a Vault with the storage %s, and this one has "+
			"%s: create one with spec.storage.%[1]s", of.Storage, storage)
	case into.Status.Initialized:
		return v1alpha1.ReasonVaultInitialized, "The Vault has data, which a restore never replaces: to lose what it " +
			"has, " + Anew
	case into.Spec.Initialization != nil:
		return v1alpha1.ReasonInitializesItself, "The operator would initialize the Vault by its spec.initialization: " +
			"remove that. The Vault has the keys of the one that was backed up"
	case of.Version != "" && vaultversion.Lower(into.Spec.Version, of.Version):
		return v1alpha1.ReasonVersionLower, fmt.Sprintf("The data is of Vault %s, which the version %s may not be able to "+
			"read: set spec.version of the Vault to %[1]s or a higher one", of.Version, into.Spec.Version)
	case of.SealType != "" && seal != "" && of.SealType != seal:
		return v1alpha1.ReasonSealDiffers, fmt.Sprintf("The data is sealed by %s, and the Vault has the seal %s: set its "+
			"spec.seal to the key service of the Vault that was backed up, or leave it out for Shamir's keys", of.SealType, seal)
	}
	return "", ""
}
