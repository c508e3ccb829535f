package releases

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// collectEvery is how often records without a Vault are looked for.
	collectEvery = time.Hour
	// collectAfter is how old such a record has to be.
	collectAfter = 10 * time.Minute
)

// NeedLeaderElection makes the leader alone remove records.
func (s *Store) NeedLeaderElection() bool { return true }

// Start removes records whose Vault is gone, now and then. Helm removes them when
// a Vault is deleted; they stay when somebody takes its finalizer off by force.
func (s *Store) Start(ctx context.Context) error {
	wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) {
		if err := s.collect(ctx, s.Clock.Now()); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).WithName("releases").Error(err, "records without a Vault cannot be removed")
		}
	}, collectEvery)
	return nil
}

func (s *Store) collect(ctx context.Context, now time.Time) error {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := s.APIReader.List(ctx, &list, client.InNamespace(s.Namespace),
		client.MatchingLabels{ownerLabel: ownerHelm}, client.HasLabels{VaultNamespaceLabel, vaultNameLabel})
	if err != nil {
		return err
	}
	lives := map[types.UID]bool{}
	for i := range list.Items {
		meta := &list.Items[i].ObjectMeta
		if now.Sub(meta.CreationTimestamp.Time) < collectAfter {
			continue
		}
		uid := types.UID(meta.Labels[nameLabel])
		if _, known := lives[uid]; !known {
			if lives[uid], err = s.vaultLives(ctx, meta, uid); err != nil {
				return err
			}
		}
		if lives[uid] {
			continue
		}
		if err := s.remove(ctx, meta); err != nil {
			return err
		}
	}
	return nil
}

// vaultLives says whether the Vault of a record is there, or may be.
func (s *Store) vaultLives(ctx context.Context, meta *metav1.ObjectMeta, uid types.UID) (bool, error) {
	var vault v1alpha1.Vault
	key := client.ObjectKey{Namespace: meta.Labels[VaultNamespaceLabel], Name: meta.Labels[vaultNameLabel]}
	err := s.APIReader.Get(ctx, key, &vault)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsForbidden(err):
		return true, nil // of a namespace that is not served (any more)
	case err != nil:
		return true, err
	}
	return vault.UID == uid, nil
}
