// Package members replaces the pods of etcd, one by one, when their template has changed. The
// StatefulSet controller could not: it begins with the member of the highest number, ready or
// not, and could take the quorum away.
// https://github.com/kubernetes/kubernetes/issues/67250
//
// It also defragments the members.
package members

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/notify"
	"github.com/vault-operator/vault-operator/internal/pods"
)

const (
	// concurrency is how many Vaults are worked on at the same time. Each waits for a moment.
	concurrency = 2 * perNamespace
	// perNamespace is how many of these may be of one namespace.
	perNamespace = 8
	// check is how often it is looked whether a rollout can go on. No event tells that a member
	// votes again.
	check = 5 * time.Second
	// reconcileTimeout is how long one reconciliation may take, so that requests that hang
	// hold no worker up.
	reconcileTimeout = 30 * time.Second
)

// eventReplaced is the reason of the event of a pod that is deleted.
const eventReplaced = "MemberReplaced"

// Reconciler deletes etcd pods of an older template. It runs on the leader.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server.
	APIReader client.Reader
	// Look asks a member what it says of itself.
	Look     func(ctx context.Context, pod *corev1.Pod) (etcd.Report, error)
	Recorder record.EventRecorder
	// Waits is told what rollouts wait for.
	Waits *notify.Waits

	mu sync.Mutex
	// busy are the Vaults of which a member is being replaced or defragmented.
	busy map[types.NamespacedName]bool
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("members").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&appsv1.StatefulSet{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency, RateLimiter: pods.FastRetries(), ReconciliationTimeout: reconcileTimeout,
		}), perNamespace, r)
}

// take keeps others from disturbing members of the Vault's etcd until it is given back, and says
// whether nobody else does so.
func (r *Reconciler) take(vault types.NamespacedName) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[vault] {
		return false
	}
	if r.busy == nil {
		r.busy = map[types.NamespacedName]bool{}
	}
	r.busy[vault] = true
	return true
}

func (r *Reconciler) giveBack(vault types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, vault)
}

// Reconcile deletes one pod of one etcd, if there is one to replace and it may go.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.Waits.Note(req.NamespacedName, "")
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil || !vault.HasEtcd() {
		return reconcile.Result{}, nil
	}
	// What the caches have, as if all members that are ready were sound.
	list, _, err := membersOf(ctx, r, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	for i := range list {
		list[i].Sound, list[i].Leader = true, i == 0
	}
	d := decide(list, vault.WantedMembers())
	if d.Delete != "" && !r.take(req.NamespacedName) {
		r.Waits.Note(req.NamespacedName, "a member is being defragmented")
		return reconcile.Result{RequeueAfter: check}, nil
	}
	if d.Delete != "" {
		defer r.giveBack(req.NamespacedName)
		d, err = r.look(ctx, &vault)
	}
	if err != nil || d.Done {
		r.Waits.Note(req.NamespacedName, "")
		return reconcile.Result{}, err
	}
	r.Waits.Note(req.NamespacedName, d.Why)
	if d.Delete != "" {
		err = r.replace(ctx, &vault, d)
	}
	return reconcile.Result{RequeueAfter: check}, err
}

// membersOf are the members whose pods the StatefulSet has made, and the pods. There are none
// while its controller has not acted on the newest template, or replaces pods by itself, as it
// was told by an older operator.
func membersOf(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) ([]member, []*corev1.Pod, error) {
	var set appsv1.StatefulSet
	err := reader.Get(ctx, client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdName()}, &set)
	if err != nil {
		return nil, nil, client.IgnoreNotFound(err)
	}
	if !metav1.IsControlledBy(&set, vault) || set.Status.ObservedGeneration != set.Generation ||
		set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		return nil, nil, nil
	}
	list, err := pods.Members(ctx, reader, vault)
	if err != nil {
		return nil, nil, err
	}
	var members []member
	var found []*corev1.Pod
	for i := range list {
		pod := &list[i]
		ordinal, err := strconv.Atoi(strings.TrimPrefix(pod.Name, set.Name+"-"))
		if err != nil || !metav1.IsControlledBy(pod, &set) {
			continue
		}
		members = append(members, member{
			Name: pod.Name, UID: pod.UID, Ordinal: ordinal, Terminating: pods.Terminating(pod),
			Updated: pod.Labels[appsv1.StatefulSetRevisionLabel] == set.Status.UpdateRevision,
			Down:    !runs(pod), Ready: pods.Ready(pod),
		})
		found = append(found, pod)
	}
	return members, found, nil
}

// runs says that an etcd runs in the pod, as far as Kubernetes knows.
func runs(pod *corev1.Pod) bool {
	return !pods.Ended(pod) && slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil
	})
}

// look decides by what the API server and the members say now: caches may be late, such as a
// moment after another pod was deleted.
func (r *Reconciler) look(ctx context.Context, vault *v1alpha1.Vault) (decision, error) {
	members, found, err := membersOf(ctx, r.APIReader, vault)
	if err != nil {
		return decision{}, err
	}
	wanted := vault.WantedMembers()
	readReports(ctx, r.Look, members, found, wanted)
	return decide(members, wanted), nil
}

// readReports reads what the members say of themselves.
func readReports(
	ctx context.Context, look func(context.Context, *corev1.Pod) (etcd.Report, error),
	members []member, found []*corev1.Pod, wanted int,
) {
	var wait sync.WaitGroup
	for i := range members {
		wait.Go(func() {
			report, err := look(ctx, found[i])
			if err != nil {
				return
			}
			members[i].Sound = report.Voter && report.HasLeader && len(report.Members) == wanted &&
				report.Alarm != etcd.Corrupt
			members[i].Leader, members[i].Report = report.Leader, report
		})
	}
	wait.Wait()
}

// replace deletes a pod, unless another one that the cluster relies on has gone meanwhile. The
// StatefulSet controller makes another one, of the newest template.
func (r *Reconciler) replace(ctx context.Context, vault *v1alpha1.Vault, d decision) error {
	list, err := pods.Members(ctx, r.APIReader, vault)
	if err != nil {
		return err
	}
	replaced, err := pods.Replace(ctx, r, list, d.Delete, d.Without)
	if replaced == nil || err != nil {
		return err
	}
	log.FromContext(ctx).Info("Deleted an etcd pod of an older template", "pod", replaced.Name)
	r.Recorder.Eventf(vault, corev1.EventTypeNormal, eventReplaced,
		"Pod %s is replaced by one of the newest template", replaced.Name)
	return nil
}
