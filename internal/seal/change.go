package seal

import (
	"context"
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// CheckChange refuses another kind of seal, or another key, for a Vault that is initialized:
// its data could not be decrypted. It can be moved to another seal by spec.sealMigration, and
// that is refused unless the data is bound to the seal that it names.
func CheckChange(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	initialized, has := vault.Status.Initialized, vault.Status.Seal
	progress, err := ProgressOf(vault, initialized, has)
	if err != nil || !initialized {
		return err
	}
	known := has != nil && has.Type != ""
	if known && vault.Status.ObservedGeneration == vault.Generation {
		return nil
	}
	// Whether the spec's seal is another one can be told by what is deployed, and only if it
	// is not there is something to lose by going on.
	living, err := workload.Get(ctx, reader, vault)
	if err != nil || living == nil {
		return err // nothing runs that could be harmed
	}
	same := living.Template.Annotations[v1alpha1.SealAnnotation] == vault.Spec.Seal.Key()
	switch {
	case !known && (!same || progress == Unknown):
		return errors.New("spec.seal is not what is deployed, and Vault is initialized: waiting until a node tells by " +
			"which seal")
	case !same:
		// On the way back from a migration an older status does not tell whether a node of
		// that has become active.
		return errors.New("spec.seal is not what is deployed: waiting until the status tells which seal Vault has now")
	}
	return nil
}

// refusal is why spec.seal cannot take the place of the seal that an initialized Vault has,
// or nil. What it refuses is a *problem.Error.
func refusal(policy *v1alpha1.SealPolicy, has *v1alpha1.SealStatus) error {
	const later = "Vault is initialized, and its data would have to be moved to another seal first: set it back, or " +
		"name the old seal in spec.sealMigration.from"
	switch kind := policy.Type(); {
	case policy == nil && has.Key != "":
		return refuse("spec.seal was removed, by whose key %s Vault unseals itself. %s", has.Key, later)
	case policy == nil:
		return nil // a seal of the user's own configuration, or none
	case kind != has.Type:
		return refuse("spec.seal is of the kind %s, and Vault's seal is of the kind %s. %s", kind, has.Type, later)
	case has.Key != "" && has.Key != policy.Key():
		return refuse("spec.seal names the key %s, and Vault unseals itself by the key %s. %s", policy.Key(), has.Key, later)
	}
	return nil
}

func refuse(format string, args ...any) error {
	return problem.New(v1alpha1.SealReadyCondition, v1alpha1.ReasonSealChangeRefused, format, args...)
}
