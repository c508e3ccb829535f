package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/notify"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/references"
)

const (
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 4
	// replaceCheck is how often it is checked whether a StatefulSet has been replaced.
	replaceCheck = time.Second
	// growCheck is how often it is checked whether volumes have become larger, or may now.
	growCheck = 5 * time.Second
	// renewCheck is how often the release is tried when they are, or when pods have no StatefulSet, for its own
	// retries may be far apart.
	renewCheck = 30 * time.Second
	// stateKey is read by the etcd pods, see the chart.
	stateKey = "initial-cluster-state"
)

// Reconciler keeps etcd from being founded a second time, replaces a StatefulSet
// whose volume claims have to be others while no volume is bound, and makes volumes larger.
//
// Empty etcd members may found a cluster unless the ConfigMap that their container
// reads when it starts says otherwise. What it should say was tried with etcd 3.6:
//
//   - Without it (etcd's "new") an empty member asks the others, and is refused when
//     one answers that knows it: "has already been bootstrapped". That is right for
//     one lost volume of three. But if most volumes are lost while the other members do
//     not respond, or all are lost, the empty members found a cluster, of the same ID, since etcd
//     derives that from the addresses; a member with data that comes back joins it.
//   - "existing" never founds. But a member that is empty joins under its old ID and
//     has forgotten what it has voted for: it panics until another leader is elected,
//     and may then elect one without the last writes.
//
// So there is no ConfigMap while less than a quorum of the known volumes is lost. When
// more are, it holds a value that etcd refuses: none starts any more, which costs
// nothing, since those with data are no quorum. A single member has no other to ask and
// nothing to join, so "existing" is right for it at all times.
type Reconciler struct {
	client.Client
	// APIReader reads ConfigMaps, and what must not be late.
	APIReader client.Reader

	// written is what the ConfigMap was brought up to, by UID of the Vault.
	written sync.Map
	// refused is why the volumes cannot be made larger, by UID of the Vault.
	refused sync.Map
	news    notify.Notifier
	due     notify.Notifier
}

// guarded is a value that a ConfigMap has to have, and the version of the ConfigMap that has it.
// Either is empty when there is to be none, or is none.
type guarded struct{ value, version string }

const (
	stateExisting = "existing"
	stateLost     = "volumes-lost"
)

// SetupWithManager adds the reconciler to the manager. The leader runs it.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("storage").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, volumesChanged))).
		Owns(&appsv1.StatefulSet{}).
		WatchesMetadata(references.ConfigMap(), handler.EnqueueRequestsFromMapFunc(guardOf)).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency, RateLimiter: pods.FastRetries()}).
		Complete(r)
}

// guardOf returns the Vault that a ConfigMap guards, by its name.
func guardOf(_ context.Context, guard client.Object) []reconcile.Request {
	name, is := strings.CutSuffix(guard.GetName(), (&v1alpha1.Vault{}).EtcdReplacementName())
	if !is || name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: guard.GetNamespace(), Name: name}}}
}

// Source makes a controller reconcile a Vault when its volumes cannot be made larger, or can.
func (r *Reconciler) Source() source.Source { return r.news.Source(0) }

// ReleaseDue makes a controller reconcile a Vault whose StatefulSet has to be made anew, because its volumes are as
// large as the spec wants, or made again, because its pods have none.
func (r *Reconciler) ReleaseDue() source.Source { return r.due.Source(0) }

// volumesChanged passes a Vault whose known volumes have changed.
var volumesChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.(*v1alpha1.Vault), e.ObjectNew.(*v1alpha1.Vault)
	return !slices.Equal(before.StorageVolumes(), after.StorageVolumes())
}}

// Reconcile guards the volume claims of one Vault.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil || !layoutOf(&vault).declared {
		r.written.Delete(vault.UID)
		r.refused.Delete(vault.UID)
		return reconcile.Result{}, nil
	}
	s, err := Load(ctx, r, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	if vault.HasEtcd() {
		if err := r.guard(ctx, s); err != nil {
			return reconcile.Result{}, err
		}
	}
	if err := r.markClaims(ctx, s); err != nil {
		return reconcile.Result{}, err
	}
	if s.grows() {
		return r.grow(ctx, s)
	}
	r.noteRefused(&vault, "")
	if s.Set == nil && len(s.Members) > 0 {
		r.due.Notify(req.NamespacedName)
		return reconcile.Result{RequeueAfter: renewCheck}, nil
	}
	if !s.mustReplace() {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: replaceCheck}, r.replace(ctx, &vault)
}

// KeepAnnotation on a volume claim keeps Argo CD from deleting it. Argo CD deletes what has
// its label app.kubernetes.io/instance and is in no manifest, unless another object owns
// it. The StatefulSet controller gives claims that label, and claims that are kept when
// the Vault is deleted have no owner.
// https://argo-cd.readthedocs.io/en/stable/user-guide/sync-options/
const (
	KeepAnnotation = "argocd.argoproj.io/sync-options"
	keep           = "Prune=false,Delete=false"
)

// markClaims keeps Argo CD from deleting the volume claims. What somebody else has set
// is left alone.
func (r *Reconciler) markClaims(ctx context.Context, s *State) error {
	for _, claim := range s.Claims {
		if _, marked := claim.Annotations[KeepAnnotation]; marked || claim.DeletionTimestamp != nil {
			continue
		}
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, claim.UID, KeepAnnotation, keep)
		err := r.Patch(ctx, claim.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch)))
		if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("marking volume claim %q: %w", claim.Name, err)
		}
	}
	return nil
}

// clusterState is what an etcd member of this Vault reads when it starts, or nothing.
func (s *State) clusterState() string {
	switch {
	case len(s.Vault.StorageVolumes()) == 0:
		return ""
	case s.Vault.WantedMembers() == 1:
		return stateExisting
	case s.MostLost():
		return stateLost
	default:
		return ""
	}
}

// guard brings the ConfigMap up to date. One that an administrator has made, to replace a
// member, is left alone, unless most volumes are lost.
func (r *Reconciler) guard(ctx context.Context, s *State) error {
	wanted := s.clusterState()
	key := types.NamespacedName{Namespace: s.Vault.Namespace, Name: s.Vault.EtcdReplacementName()}
	there := references.ConfigMap()
	if err := r.Get(ctx, key, there); client.IgnoreNotFound(err) != nil {
		return err
	}
	last, known := r.written.Load(s.Vault.UID)
	// An etcd that is not founded had no ConfigMap yet; one that has is looked at once, and when
	// somebody has changed it.
	if known && last == (guarded{wanted, there.GetResourceVersion()}) ||
		!known && len(s.Vault.StorageVolumes()) == 0 && there.GetResourceVersion() == "" {
		return nil
	}
	version, err := r.writeGuard(ctx, s.Vault, key, wanted)
	if err != nil {
		return fmt.Errorf("keeping ConfigMap %q: %w", key.Name, err)
	}
	r.written.Store(s.Vault.UID, guarded{wanted, version})
	return nil
}

// writeGuard brings the ConfigMap up to date, and returns its version.
func (r *Reconciler) writeGuard(
	ctx context.Context, vault *v1alpha1.Vault, key types.NamespacedName, wanted string,
) (string, error) {
	var current corev1.ConfigMap
	err := r.APIReader.Get(ctx, key, &current)
	switch {
	case apierrors.IsNotFound(err) && wanted != "":
		return r.createGuard(ctx, vault, wanted)
	case apierrors.IsNotFound(err):
		err = nil
	case err != nil:
	case wanted == "" && metav1.IsControlledBy(&current, vault):
		err = client.IgnoreNotFound(r.Delete(ctx, &current, client.Preconditions{UID: &current.UID}))
		current = corev1.ConfigMap{}
	case wanted != "" && current.Data[stateKey] != wanted:
		current.Data = map[string]string{stateKey: wanted}
		if err = controllerutil.SetControllerReference(vault, &current, r.Scheme()); err == nil {
			err = r.Update(ctx, &current)
		}
	}
	return current.ResourceVersion, err
}

// createGuard makes the ConfigMap, and returns its version.
func (r *Reconciler) createGuard(ctx context.Context, vault *v1alpha1.Vault, value string) (string, error) {
	guard := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: vault.EtcdReplacementName(), Labels: vault.EtcdLabels(),
		},
		Data: map[string]string{stateKey: value},
	}
	err := controllerutil.SetControllerReference(vault, guard, r.Scheme())
	if err == nil {
		err = r.Create(ctx, guard)
	}
	return guard.ResourceVersion, err
}

// replace deletes the StatefulSet together with its claims, none of which is bound:
// its own retention policy does that, so that no permission to delete claims is
// needed. The Helm reconciler makes it again.
func (r *Reconciler) replace(ctx context.Context, vault *v1alpha1.Vault) error {
	s, err := Load(ctx, r.APIReader, vault)
	if err != nil || !s.mustReplace() || s.Set.DeletionTimestamp != nil {
		return err
	}
	const wanted = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	if err := setRetention(ctx, r, s.Set, wanted); err != nil {
		return err
	}
	if len(notFollowed(s.Claims, s.Set, wanted)) > 0 {
		return nil // looked at again soon
	}
	ctrl.LoggerFrom(ctx).Info("Replacing a StatefulSet that has no volumes yet, for the spec wants others",
		"statefulSet", s.Set.Name)
	err = r.Delete(ctx, s.Set, client.Preconditions{UID: &s.Set.UID},
		client.PropagationPolicy(metav1.DeletePropagationBackground))
	return client.IgnoreNotFound(err)
}
