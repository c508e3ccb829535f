package storage

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// followFor is how long one attempt waits for the StatefulSet controller.
	followFor = 10 * time.Second
	// followEvery is how often the claims are looked at meanwhile.
	followEvery = 100 * time.Millisecond
	// deleteAnyway is how long after its deletion began a Vault stops to wait for
	// claims to be marked for deletion: they are kept then, which harms nobody.
	deleteAnyway = time.Minute
)

// ApplyRetention makes whenDeleted of the storage as it is now count for the
// volumes of a Vault that is being deleted. The StatefulSet may still have an older
// value, because the release was refused since. It returns when the StatefulSet
// controller has taken the value over, by the owner references of the claims, after
// which the StatefulSet can be deleted. The reader must not be a cache.
func ApplyRetention(ctx context.Context, apiReader client.Reader, writer client.Writer, vault *v1alpha1.Vault) error {
	layout := layoutOf(vault)
	if !layout.declared {
		return nil
	}
	s, err := Load(ctx, apiReader, vault)
	if err != nil || s.Set == nil || s.Set.DeletionTimestamp != nil {
		return err
	}
	wanted := retention(layout.whenDeleted)
	if err := setRetention(ctx, writer, s.Set, wanted); err != nil {
		return err
	}
	for deadline := time.Now().Add(followFor); ; {
		current, err := Claims(ctx, apiReader, vault)
		if err != nil {
			return err
		}
		differ := notFollowed(current, s.Set, wanted)
		if len(differ) == 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			deleted := vault.DeletionTimestamp
			if wanted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && deleted != nil &&
				time.Since(deleted.Time) > deleteAnyway {
				return nil
			}
			return fmt.Errorf("waiting until the StatefulSet controller has taken over whenDeleted %s for the volume claims %v",
				wanted, differ)
		}
		time.Sleep(followEvery)
	}
}

func retention(when v1alpha1.DataRetention) appsv1.PersistentVolumeClaimRetentionPolicyType {
	if when == v1alpha1.DeleteData {
		return appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	}
	return appsv1.RetainPersistentVolumeClaimRetentionPolicyType
}

func setRetention(
	ctx context.Context, writer client.Writer, set *appsv1.StatefulSet,
	wanted appsv1.PersistentVolumeClaimRetentionPolicyType,
) error {
	if hasRetention(set, wanted) {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":%q}}}`,
		set.UID, wanted)
	// A copy, since the answer is written to it.
	if err := writer.Patch(ctx, set.DeepCopy(), client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("setting whenDeleted of StatefulSet %q: %w", set.Name, err)
	}
	return nil
}

// hasRetention says that the policy is that of a StatefulSet.
func hasRetention(set *appsv1.StatefulSet, wanted appsv1.PersistentVolumeClaimRetentionPolicyType) bool {
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	return policy != nil && policy.WhenDeleted == wanted
}

// notFollowed are the claims that would not do as the policy says when the
// StatefulSet is deleted: those that it owns are deleted with it. Its controller looks at no
// claim without a replica.
func notFollowed(
	claims map[int]*corev1.PersistentVolumeClaim, set *appsv1.StatefulSet,
	wanted appsv1.PersistentVolumeClaimRetentionPolicyType,
) []string {
	var differ []string
	for ordinal, claim := range claims {
		if set.Spec.Replicas != nil && ordinal >= int(*set.Spec.Replicas) {
			continue
		}
		owned := slices.ContainsFunc(claim.OwnerReferences, func(owner metav1.OwnerReference) bool {
			return owner.UID == set.UID
		})
		if claim.DeletionTimestamp == nil && owned != (wanted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType) {
			differ = append(differ, claim.Name)
		}
	}
	slices.Sort(differ)
	return differ
}
