package seal

import (
	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Progress is how far a seal migration has come.
type Progress int

const (
	// NoMigration means that spec.seal is what Vault's data is bound to, as far as is known,
	// and that nothing else is asked for.
	NoMigration Progress = iota
	// Unknown means that no node has told yet what Vault's data is bound to.
	Unknown
	// Refused means that spec.seal, or the seal that the data is to be moved from, does not
	// fit what the data is bound to.
	Refused
	// Migrating means that the data is bound to the old seal.
	Migrating
	// Migrated means that it is bound to that of spec.seal.
	Migrated
)

// ProgressOf decides what may be done, from what the data of the Vault is bound to and from
// nothing else: so a process that dies forgets nothing. Refused comes with a *problem.Error.
//
// Vault moves the data when a node of the migration becomes active. Until then the migration
// can be given up, and from then on the old seal is as good as any other that the data is not
// bound to.
// https://developer.hashicorp.com/vault/docs/concepts/seal#seal-migration
func ProgressOf(vault *v1alpha1.Vault, initialized bool, has *v1alpha1.SealStatus) (Progress, error) {
	known := initialized && has != nil && has.Type != ""
	if vault.Spec.SealMigration == nil {
		if !known {
			return NoMigration, nil
		}
		if err := refusal(vault.Spec.Seal, has); err != nil {
			return Refused, err
		}
		return NoMigration, nil
	}
	from, to := vault.OldSeal(), vault.Spec.Seal
	switch {
	case !initialized:
		return Refused, refuse("spec.sealMigration: Vault is not initialized, so that there is nothing to migrate: " +
			"remove it")
	case from.Key() == to.Key():
		return Refused, refuse("spec.sealMigration.from names the key of spec.seal, %s: name the old one there, and "+
			"give a new key another name than the old one has", to.Key())
	case !known:
		return Unknown, nil
	case bound(to, has):
		return Migrated, nil
	case bound(from, has):
		return Migrating, nil
	case has.Type != v1alpha1.ShamirSeal && has.Key == "":
		return Refused, refuse("spec.sealMigration: Vault's seal is one of the kind %s of your own HCL, whose key the "+
			"operator does not know: move it to spec.seal first, or migrate in the HCL", has.Type)
	default:
		return Refused, refuse("spec.sealMigration moves Vault's data from %s to %s, and it is bound to %s: name that in "+
			"spec.sealMigration.from, or in spec.seal", name(from.Type(), from.Key()), name(to.Type(), to.Key()),
			name(has.Type, has.Key))
	}
}

// bound says that the data is bound to the seal of a policy, by its kind and its key.
func bound(policy *v1alpha1.SealPolicy, has *v1alpha1.SealStatus) bool {
	return policy.Type() == has.Type && policy.Key() == has.Key
}

func name(kind, key string) string {
	switch {
	case kind == v1alpha1.ShamirSeal:
		return "Shamir's keys"
	case key == "":
		return "a key of the kind " + kind
	default:
		return "the key " + key
	}
}

// checkPair refuses two seals of one kind that Vault could not keep apart: it takes their
// credentials from one environment.
func checkPair(from, to *v1alpha1.SealPolicy) error {
	old, now := from.CredentialsSecretName(), to.CredentialsSecretName()
	switch {
	case from == nil || to == nil || from.Type() != to.Type():
	case from.OCIKMS != nil && old != now:
		return invalid("spec.sealMigration.from.ocikms.credentialsSecretName must be that of spec.seal while both are "+
			"used: Vault reads one configuration file of OCI, and it is %q here and %q there", old, now)
	case from.AzureKeyVault != nil && (old == "") != (now == ""):
		return invalid("spec.sealMigration.from.azurekeyvault and spec.seal.azurekeyvault must both have a " +
			"credentialsSecretName, or none: the identity of the pods would take the place of the other's")
	}
	return nil
}
