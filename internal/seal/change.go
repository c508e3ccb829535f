package seal

import (
	"context"
	"errors"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// CheckChange refuses another kind of seal, or another key, for a Vault that is initialized:
// its data could not be decrypted. To move the data to another seal is a procedure of its
// own, which the operator does not know.
// https://developer.hashicorp.com/vault/docs/concepts/seal#seal-migration
func CheckChange(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	if !vault.Status.Initialized {
		return nil
	}
	if refused := Refusal(vault, vault.Status.Seal); refused != nil {
		return refused
	}
	if vault.Status.Seal != nil && vault.Status.Seal.Type != "" {
		return nil
	}
	// No node has told its seal yet. Whether the spec's is another one can be told by what is
	// deployed, and only if it is not there is something to lose by going on.
	var deployment appsv1.Deployment
	if err := reader.Get(ctx, client.ObjectKeyFromObject(vault), &deployment); err != nil {
		return client.IgnoreNotFound(err) // nothing runs that could be harmed
	}
	if deployment.Spec.Template.Annotations[v1alpha1.SealAnnotation] == vault.Spec.Seal.Key() {
		return nil
	}
	return errors.New("spec.seal is not what is deployed, and Vault is initialized: waiting until a node tells by " +
		"which seal")
}

// Refusal is why spec.seal cannot take the place of the seal that an initialized Vault has,
// or nil. What it refuses is a *problem.Error.
func Refusal(vault *v1alpha1.Vault, has *v1alpha1.SealStatus) error {
	if has == nil || has.Type == "" {
		return nil
	}
	policy := vault.Spec.Seal
	const later = "Vault is initialized, and its data would have to be moved to another seal first, which the operator " +
		"cannot do yet: set it back"
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
