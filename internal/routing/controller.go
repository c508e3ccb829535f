package routing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/references"
)

const (
	// burstCheck is how often it is looked at whether a burst is still needed.
	burstCheck = 10 * time.Second
	// activeDeletionCost is more than that of other pods, which have none. Sealed
	// pods go before standby ones by themselves: they are not ready.
	// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost
	activeDeletionCost = "100"
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 16
	// limit is how long one reconciliation may take, so that requests that hang
	// hold no worker up, and no pod is promoted long after its node was asked. It
	// is several times what one request takes in a cluster that is well. Watches
	// are not cut by it.
	// https://github.com/kubernetes/community/blob/master/sig-scalability/slos/api_call_latency.md
	limit = 5 * time.Second
)

// Reconciler points the probe engine at the pods of each Vault and patches the
// active label by what the engine finds. It runs on every replica of the
// operator: what it does follows from the observations alone, and a patch that
// another replica has made already is a no-op.
type Reconciler struct {
	client.Client
	// Live reads from the API server and not from a cache.
	Live   client.Reader
	Engine *probe.Engine
	// Confirm asks a node right before it is promoted; the engine does, if not set.
	Confirm func(ctx context.Context, vault types.NamespacedName, uid types.UID) probe.Observation

	authorities authorityCache
	sightings   sightings
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.Confirm == nil {
		r.Confirm = r.Engine.Confirm
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("routing").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WatchesMetadata(references.Secret(), references.SecretHandler(r)).
		WatchesRawSource(r.Engine.Source()).
		WithOptions(options()).
		Complete(r)
}

func options() controller.Options {
	everyReplica := false
	return controller.Options{
		NeedLeaderElection:      &everyReplica,
		MaxConcurrentReconciles: concurrency,
		// A failed patch is an outage: it is tried again soon, and not in minutes.
		RateLimiter:           pods.FastRetries(),
		ReconciliationTimeout: limit,
	}
}

// Reconcile brings the targets of the engine and the labels of the pods of one
// Vault up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.Engine.Forget(req.NamespacedName)
			r.authorities.forget(req.NamespacedName)
			r.sightings.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	list, err := pods.List(ctx, r, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	// The last authority that is known is good enough to go on with; the error is
	// returned in the end, so that the right one is looked for soon.
	ca, caErr := r.authorities.get(ctx, r, r.Live, &vault)
	targets := targetsOf(&vault, list, ca)
	observations := r.Engine.Observations(req.NamespacedName)
	nodes := nodesOf(list, observations, time.Now())
	r.sightings.look(req.NamespacedName, nodes, observations)
	decision := Decide(nodes)
	r.Engine.SetTargets(req.NamespacedName, targets, decision.ExpectChange)
	err = r.apply(ctx, &vault, list, decision)
	// The event of a Secret tells that it is there.
	if err = errors.Join(err, client.IgnoreNotFound(caErr)); err != nil {
		return reconcile.Result{}, err
	}
	if decision.ExpectChange {
		// No event tells that a starting pod is not young any more.
		return reconcile.Result{RequeueAfter: burstCheck}, nil
	}
	return reconcile.Result{}, nil
}

// apply demotes before it promotes: an error in between leaves no pod labelled,
// which is an outage, and never two.
func (r *Reconciler) apply(ctx context.Context, vault *v1alpha1.Vault, list []corev1.Pod, decision Decision) error {
	byUID := map[types.UID]*corev1.Pod{}
	for i := range list {
		byUID[list[i].UID] = &list[i]
	}
	for _, uid := range decision.Demote {
		if err := r.label(ctx, byUID[uid], nil); err != nil {
			return fmt.Errorf("taking pod %s out of the Service: %w", byUID[uid].Name, err)
		}
	}
	if decision.Promote == "" {
		return nil
	}
	if err := r.promote(ctx, vault, byUID[decision.Promote]); err != nil {
		return fmt.Errorf("putting pod %s into the Service: %w", byUID[decision.Promote].Name, err)
	}
	return nil
}

// promote labels a pod, after it has looked at what it knows only from a cache
// or from a moment ago: another replica of the operator may have acted on newer
// facts. It does nothing when the node is not active any more, and first takes
// the label from any other pod that has it and is not being deleted.
func (r *Reconciler) promote(ctx context.Context, vault *v1alpha1.Vault, pod *corev1.Pod) error {
	if o := r.Confirm(ctx, client.ObjectKeyFromObject(vault), pod.UID); o.State != probe.Active {
		return nil // the regular questions will find the same, and decide anew
	}
	var labelled corev1.PodList
	selector := client.MatchingLabels(vault.PodLabels())
	selector[v1alpha1.ActiveLabel] = v1alpha1.ActiveLabelValue
	if err := r.Live.List(ctx, &labelled, client.InNamespace(vault.Namespace), selector); err != nil {
		return err
	}
	for i := range labelled.Items {
		other := &labelled.Items[i]
		if other.UID == pod.UID {
			return nil
		}
		if pods.Terminating(other) {
			continue
		}
		if err := r.label(ctx, other, nil); err != nil {
			return err
		}
	}
	value := v1alpha1.ActiveLabelValue
	if err := r.label(ctx, pod, &value); err != nil {
		return err
	}
	if took, failedOver := r.sightings.moved(client.ObjectKeyFromObject(vault), pod.UID, time.Now()); failedOver {
		failoverDuration.Observe(took.Seconds())
		log.FromContext(ctx).Info("Failed over", "pod", pod.Name, "seconds", took.Seconds())
	}
	return nil
}

// label sets the active label, or removes it when value is nil, and with it the
// cost of deleting the pod: when there are pods to choose from, in an upgrade or
// when the Vault is made smaller, the active one goes last.
func (r *Reconciler) label(ctx context.Context, pod *corev1.Pod, value *string) error {
	action := demoteAction
	var cost *string
	if value != nil {
		action = promoteAction
		high := activeDeletionCost
		cost = &high
	}
	// The UID makes the API server refuse the patch if the pod was replaced by
	// another one of the same name.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         pod.UID,
		"labels":      map[string]*string{v1alpha1.ActiveLabel: value},
		"annotations": map[string]*string{corev1.PodDeletionCost: cost},
	}})
	if err != nil {
		return err
	}
	err = r.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
	if value == nil && apierrors.IsNotFound(err) {
		// The pod is gone, and its label with it. No other error proves that: the
		// API server reports a conflict as well when others write too fast.
		return nil
	}
	if err == nil {
		relabels.WithLabelValues(action).Inc()
		log.FromContext(ctx).Info("Active label patched", "pod", pod.Name, "active", value != nil)
	}
	return err
}

func targetsOf(vault *v1alpha1.Vault, list []corev1.Pod, ca string) []probe.Target {
	var targets []probe.Target
	for i := range list {
		pod := &list[i]
		if !pods.Running(pod) {
			continue
		}
		targets = append(targets, probe.Target{
			UID:        pod.UID,
			Address:    net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(v1alpha1.ClientPort)),
			ServerName: vault.ServerName(),
			CA:         ca,
		})
	}
	return targets
}

func nodesOf(list []corev1.Pod, observations map[types.UID]probe.Observation, now time.Time) []Node {
	nodes := make([]Node, 0, len(list))
	for i := range list {
		pod := &list[i]
		node := Node{
			UID:       pod.UID,
			Labelled:  pod.Labels[v1alpha1.ActiveLabel] == v1alpha1.ActiveLabelValue,
			State:     observations[pod.UID].State,
			Connected: observations[pod.UID].Connected,
		}
		if !pods.Running(pod) {
			// Nothing runs in it, so nothing answers: this is a fact, not a gap.
			node.State, node.Connected = probe.Unreachable, false
		}
		node.Starting = pods.Starting(pod, now)
		node.Leaving = pods.Terminating(pod)
		nodes = append(nodes, node)
	}
	return nodes
}
