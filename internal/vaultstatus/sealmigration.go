package vaultstatus

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/seal"
)

// awaitingMigrate are the pods where somebody has to run "vault operator unseal -migrate":
// Vault says there that it waits for it. While spec.sealMigration is set no node of an older
// pod template is among them. One of the old seal that is started after the data was moved
// would move it back.
func awaitingMigrate(f *facts) []string {
	var names []string
	for i := range f.pods {
		pod := &f.pods[i]
		o := f.observations[pod.UID]
		if !o.Seal.Migration || o.State != probe.Sealed || !pods.Running(pod) || pods.Terminating(pod) {
			continue
		}
		if f.vault.Spec.SealMigration == nil || templateKnown(f) && f.workload.Updated(pod) {
			names = append(names, pod.Name)
		}
	}
	return names
}

// migrateHint is what to do about these pods.
func migrateHint(f *facts, names []string) string {
	return "run 'vault operator unseal -migrate' on each, with the " + oldShares(f.vault) + ": " + join(names)
}

// oldShares are the key shares that a migration needs.
func oldShares(vault *v1alpha1.Vault) string {
	switch {
	case vault.Spec.SealMigration == nil:
		return "key shares of the old seal"
	case vault.OldSeal() == nil:
		return "unseal key shares"
	default:
		return "recovery key shares"
	}
}

// administratorsUnseal is the reason and what administrators have to do about those of the named nodes that
// are sealed although the Vault has a key service, or is to get one; empty when they have to do
// nothing. A Vault that was started with two seals does not unseal itself, not even after
// the data was moved.
// https://github.com/hashicorp/vault/blob/v1.21.0/command/server.go#L1517
func administratorsUnseal(f *facts, status *v1alpha1.VaultStatus, names []string) (reason, hint string) {
	if waiting := within(names, awaitingMigrate(f)); len(waiting) > 0 {
		return v1alpha1.ReasonAwaitingSealMigration, migrateHint(f, waiting)
	}
	if f.vault.Spec.SealMigration == nil {
		return "", ""
	}
	updated, _ := byTemplate(f)
	ours := within(names, namesOf(updated))
	progress, _ := seal.ProgressOf(f.vault, status.Initialized, status.Seal)
	switch {
	case progress == seal.Migrated && len(ours) > 0 && f.vault.Spec.Seal != nil:
		return v1alpha1.ReasonAwaitingUnseal, "run 'vault operator unseal' on each, without -migrate and with the recovery " +
			"key shares: " + join(ours)
	case progress == seal.Migrated && len(ours) > 0:
		return v1alpha1.ReasonAwaitingUnseal, "run 'vault operator unseal' on each, without -migrate and with the key " +
			"shares that were the recovery key's: " + join(ours)
	case allOfShamir(f, names):
		return v1alpha1.ReasonAwaitingUnseal, "run 'vault operator unseal' on each: " + join(names)
	}
	return "", ""
}

// allOfShamir says that the named nodes are of Shamir's keys.
func allOfShamir(f *facts, names []string) bool {
	for i := range f.pods {
		pod := &f.pods[i]
		if slices.Contains(names, pod.Name) && f.observations[pod.UID].Seal.Type != v1alpha1.ShamirSeal {
			return false
		}
	}
	return true
}

// notFollowing says how many nodes with integrated storage may have data of the old seal although the active one has
// moved it, or nothing: a node that is not unsealed has what it had before. When all had it moved once that stays.
// https://github.com/hashicorp/vault/blob/v1.21.0/vault/core.go#L1962
func notFollowing(f *facts) string {
	if !f.vault.HasRaft() || meta.IsStatusConditionTrue(f.previous.Conditions, v1alpha1.SealMigratedCondition) {
		return ""
	}
	wanted := int(f.vault.RunningNodes())
	updated, _ := byTemplate(f)
	unsealed := len(slices.DeleteFunc(updated, func(pod *corev1.Pod) bool {
		state := f.observations[pod.UID].State
		return state != probe.Active && state != probe.Standby
	}))
	if unsealed >= wanted {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes are unsealed and follow it, and the condition %s says what the others wait for",
		unsealed, wanted, v1alpha1.UnsealedCondition)
}

// sealMigrated is about spec.sealMigration, which has to be set.
func sealMigrated(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	progress, err := seal.ProgressOf(f.vault, status.Initialized, status.Seal)
	_, old := byTemplate(f)
	waiting := awaitingMigrate(f)
	switch {
	case err != nil:
		return isFalse(v1alpha1.ReasonSealChangeRefused, "%v", err)
	case progress == seal.Migrated && f.vault.HasRaft() && len(waiting) > 0:
		return isFalse(v1alpha1.ReasonMigrating, "Vault's data is of the new seal, and that of nodes which are sealed since "+
			"before is not: %s", migrateHint(f, waiting))
	case progress == seal.Migrated && deployed(f) && templateKnown(f) && len(old) == 0:
		if behind := notFollowing(f); behind != "" {
			return isFalse(v1alpha1.ReasonMigrating, "Vault's data is of the new seal; %s", behind)
		}
		return isTrue(v1alpha1.ReasonMigrated, "Vault's data is of the new seal, and so are all nodes: remove "+
			"spec.sealMigration, since nodes that start with both seals do not unseal themselves. Backups from before need "+
			"the old seal")
	case progress == seal.Migrated && len(old) == 0:
		return isFalse(v1alpha1.ReasonMigrating, "Vault's data is of the new seal; the condition %s says how far the "+
			"rollout is", v1alpha1.UpdatedCondition)
	case progress == seal.Migrated:
		return isFalse(v1alpha1.ReasonMigrating, "Vault's data is of the new seal; still to be replaced: %s",
			join(namesOf(old)))
	case len(waiting) > 0:
		return isFalse(v1alpha1.ReasonMigrating, "Vault's data is of the old seal until a node of the new one becomes "+
			"active: %s", migrateHint(f, waiting))
	default:
		return isFalse(v1alpha1.ReasonMigrating, "Vault's data is of the old seal until a node of the new one becomes "+
			"active, and no node waits for 'vault operator unseal -migrate' now: the condition %s says how far the "+
			"rollout is", v1alpha1.UpdatedCondition)
	}
}
