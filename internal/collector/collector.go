// Package collector deletes the Secrets with configuration that no pod of a Vault
// can need any more.
package collector

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// grace is for how long an object has to be unused before it is deleted: one that
// was just made is named by the Deployment a moment later. It is measured by this
// process, and not by the object's age, so that clocks need not agree.
const grace = time.Minute

// Reconciler deletes what is unused. It runs on the leader.
type Reconciler struct {
	client.Client
	// Cache holds the metadata of Secrets, ConfigMaps and ReplicaSets.
	Cache client.Reader
	// APIReader reads from the API server.
	APIReader client.Reader
	Clock     clock.PassiveClock

	mu sync.Mutex
	// unusedSince is when the objects of each Vault were first found to be unused.
	unusedSince map[types.NamespacedName]map[types.UID]time.Time
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	toVault := handler.EnqueueRequestsFromMapFunc(pods.ToVault)
	gone := builder.WithPredicates(predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	})
	made := builder.WithPredicates(predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return e.Object.GetLabels()[v1alpha1.ConfigLabel] != "" },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("collector").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// Its annotations tell what is deployed.
		Owns(&appsv1.Deployment{}, builder.WithPredicates(predicate.AnnotationChangedPredicate{})).
		Owns(&appsv1.StatefulSet{}, builder.WithPredicates(predicate.AnnotationChangedPredicate{})).
		Watches(&corev1.Pod{}, toVault, gone).
		WatchesMetadata(&appsv1.ReplicaSet{}, toVault, gone).
		WatchesMetadata(&corev1.Secret{}, toVault, made).
		Complete(r)
}

// Reconcile deletes the configuration of one Vault that is unused.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	err := client.IgnoreNotFound(r.Get(ctx, req.NamespacedName, &vault))
	if err != nil {
		return reconcile.Result{}, err
	}
	if vault.UID == "" || vault.DeletionTimestamp != nil {
		r.due(req.NamespacedName, nil)
		return reconcile.Result{}, nil // all that it owns goes with it
	}
	candidates, err := r.candidates(ctx, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	unused, err := r.unused(ctx, r.Cache, &vault, candidates)
	if err != nil {
		return reconcile.Result{}, err
	}
	// The cache may be late. What is found here is deleted in the same moment.
	due, err := r.unused(ctx, r.APIReader, &vault, r.due(req.NamespacedName, unused))
	if err != nil {
		return reconcile.Result{}, err
	}
	for _, object := range due {
		if err := r.remove(ctx, object); err != nil {
			return reconcile.Result{}, err
		}
	}
	if len(unused) > len(due) {
		return reconcile.Result{RequeueAfter: grace}, nil
	}
	return reconcile.Result{}, nil
}

// candidates are the objects with configuration that belong to the Vault.
func (r *Reconciler) candidates(ctx context.Context, vault *v1alpha1.Vault) ([]*metav1.PartialObjectMetadata, error) {
	var secrets metav1.PartialObjectMetadataList
	secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	labels := client.MatchingLabels(vault.ConfigLabels())
	if err := r.Cache.List(ctx, &secrets, client.InNamespace(vault.Namespace), labels); err != nil {
		return nil, fmt.Errorf("listing the Secrets with configuration: %w", err)
	}
	var all []*metav1.PartialObjectMetadata
	for i := range secrets.Items {
		secrets.Items[i].SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		all = append(all, &secrets.Items[i])
	}
	if string(vault.Spec.ConfigMapName) != vault.OldConfigMapName() {
		old := &metav1.PartialObjectMetadata{}
		old.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
		err := r.Cache.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: vault.OldConfigMapName()}, old)
		switch {
		case err == nil:
			all = append(all, old)
		case client.IgnoreNotFound(err) != nil:
			return nil, fmt.Errorf("looking for ConfigMap %q: %w", vault.OldConfigMapName(), err)
		}
	}
	return slices.DeleteFunc(all, func(object *metav1.PartialObjectMetadata) bool {
		return !metav1.IsControlledBy(object, vault)
	}), nil
}

// unused returns those of the objects that no pod has mounted, and that neither what runs
// the nodes nor any of its ReplicaSets would mount into a new one.
func (r *Reconciler) unused(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, objects []*metav1.PartialObjectMetadata,
) ([]*metav1.PartialObjectMetadata, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	living, err := workload.Get(ctx, reader, vault)
	if err != nil || living == nil {
		// Without it nobody can tell what its pods will need.
		return nil, err
	}
	if living.Generation() != strconv.FormatInt(vault.Generation, 10) {
		// What was made for the new spec is not named yet; the release tells later.
		return nil, nil
	}
	sets, err := workload.ReplicaSets(ctx, reader, vault)
	if err != nil {
		return nil, err
	}
	list, err := pods.List(ctx, reader, vault)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	mark(used, vault, living)
	for i := range sets {
		mark(used, vault, &sets[i])
	}
	markMounted(used, &living.Template.Spec)
	for i := range list {
		markMounted(used, &list[i].Spec)
	}
	return slices.DeleteFunc(slices.Clone(objects), func(object *metav1.PartialObjectMetadata) bool {
		return used[key(object.Kind, object.Name)]
	}), nil
}

func key(kind, name string) string { return kind + "/" + name }

// mark notes what a workload or a ReplicaSet says that its pods mount. One that
// says nothing was made by version 0.1.0 of the operator, which had one ConfigMap.
func mark(used map[string]bool, vault *v1alpha1.Vault, object client.Object) {
	names := object.GetAnnotations()[v1alpha1.ConfigSecretsAnnotation]
	if names == "" {
		used[key("ConfigMap", vault.OldConfigMapName())] = true
		return
	}
	for name := range strings.SplitSeq(names, ",") {
		used[key("Secret", name)] = true
	}
}

func markMounted(used map[string]bool, spec *corev1.PodSpec) {
	for _, volume := range spec.Volumes {
		if volume.ConfigMap != nil {
			used[key("ConfigMap", volume.ConfigMap.Name)] = true
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.Secret != nil {
				used[key("Secret", source.Secret.Name)] = true
			}
		}
	}
}

// due returns those of the unused objects of a Vault that have been unused for long
// enough, and notes since when the others are.
func (r *Reconciler) due(
	vault types.NamespacedName, unused []*metav1.PartialObjectMetadata,
) []*metav1.PartialObjectMetadata {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Clock.Now()
	before := r.unusedSince[vault]
	since := map[types.UID]time.Time{}
	var due []*metav1.PartialObjectMetadata
	for _, object := range unused {
		since[object.UID] = now
		if first, known := before[object.UID]; known {
			since[object.UID] = first
		}
		if now.Sub(since[object.UID]) >= grace {
			due = append(due, object)
		}
	}
	if r.unusedSince == nil {
		r.unusedSince = map[types.NamespacedName]map[types.UID]time.Time{}
	}
	if len(since) > 0 {
		r.unusedSince[vault] = since
	} else {
		delete(r.unusedSince, vault)
	}
	return due
}

func (r *Reconciler) remove(ctx context.Context, object *metav1.PartialObjectMetadata) error {
	condition := client.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion}
	if err := r.Delete(ctx, object, condition); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting %s %q: %w", object.Kind, object.Name, err)
	}
	log.FromContext(ctx).Info("Deleted configuration that no pod can need", "kind", object.Kind, "name", object.Name)
	return nil
}
