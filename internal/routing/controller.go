package routing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/references"
)

const (
	// burstCheck is how often it is looked at whether a burst is still needed.
	burstCheck = 10 * time.Second
	// silenceCheck is how often it is looked at whether the silence of a labelled
	// node counts by now, and whom nodes follow: no event tells that.
	silenceCheck = 500 * time.Millisecond
	// lastChanceTimeout is how long a silent node has to answer once more.
	lastChanceTimeout = 200 * time.Millisecond
	// activeDeletionCost is more than that of other pods, which have none. Sealed
	// pods go before standby ones by themselves: they are not ready.
	// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost
	activeDeletionCost = "100"
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 2 * perNamespace
	// perNamespace is how many of these may be of one namespace.
	perNamespace = 16
	// reconcileTimeout is how long one reconciliation may take, so that requests that
	// hang hold no worker up, and no pod is promoted long after its node was probed. It
	// is several times what one request takes in a healthy cluster. It does not end
	// watches.
	// https://github.com/kubernetes/community/blob/master/sig-scalability/slos/api_call_latency.md
	reconcileTimeout = 5 * time.Second
)

// Reconciler points the probe engine at the pods of each Vault and patches the
// active label by what the engine finds. It runs on every replica of the
// operator: what it does follows from the observations alone, and a patch that
// another replica has made already is a no-op.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server and not from a cache.
	APIReader client.Reader
	Engine    *probe.Engine
	Clock     clock.PassiveClock
	// Confirm probes a node right before it is promoted; the engine does, if not set.
	Confirm func(ctx context.Context, vault types.NamespacedName, uid types.UID) probe.Observation
	// SilenceCounts says that it is the node's fault when one of the namespace does not answer; the
	// engine does, if not set.
	SilenceCounts func(namespace string) bool
	// Leader requests what a node says of the active one; the engine does, if not set.
	Leader func(ctx context.Context, vault types.NamespacedName, uid types.UID) (probe.Leader, error)

	trust      trust
	vouchers   vouchers
	contested  vouchers // of pods whose nodes say that they are active beside others
	lastActive lastActiveTracker
	starts     pods.Starts
	followed   sync.Map // types.NamespacedName of a Vault to the followed node of several that are active
	problems   sync.Map // types.NamespacedName of a Vault to the error of the last change of a label
	// changing is how many Vaults have labels changed at the moment.
	changing atomic.Int32
}

// many is how many Vaults have labels changed at a time when more than a few fail over
// at once, as when a Kubernetes node is lost.
const many = 4

// Busy says that many labels are being changed. Clients wait for these, so that what is
// less urgent should leave the API server to them.
func (r *Reconciler) Busy() bool { return r.changing.Load() >= many }

// caSecretIndex finds the pods that mount a Secret with the CA of their node.
const caSecretIndex = "routing.caSecret"

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	r.useEngine()
	if err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, caSecretIndex, mountedCA); err != nil {
		return err
	}
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("routing").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WatchesMetadata(references.Secret(), references.SecretHandler(r)).
		// Pods may mount another Secret than the one that the spec names by now.
		WatchesMetadata(references.Secret(), handler.EnqueueRequestsFromMapFunc(r.mounting)).
		WatchesRawSource(r.Engine.Source(0)).
		WithOptions(options()), perNamespace, r)
}

func (r *Reconciler) useEngine() {
	if r.Confirm == nil {
		r.Confirm = r.Engine.Confirm
	}
	if r.SilenceCounts == nil {
		r.SilenceCounts = r.Engine.SilenceCounts
	}
	if r.Leader == nil {
		r.Leader = r.Engine.Leader
	}
}

// mountedCA is the name of the Secret with the CA that the pod mounts.
func mountedCA(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Labels[v1alpha1.ComponentLabel] != v1alpha1.ServerComponent {
		return nil
	}
	if source := caSourceOf(nil, pod); source.secret != "" {
		return []string{source.secret}
	}
	return nil
}

// mounting returns the Vaults with a pod that mounts the Secret.
func (r *Reconciler) mounting(ctx context.Context, secret client.Object) []reconcile.Request {
	var list corev1.PodList
	mounts := client.MatchingFields{caSecretIndex: secret.GetName()}
	if err := r.List(ctx, &list, client.InNamespace(secret.GetNamespace()), mounts); err != nil {
		return nil // the cache does not fail once it is synced
	}
	var requests []reconcile.Request
	for i := range list.Items {
		requests = append(requests, pods.ToVault(ctx, &list.Items[i])...)
	}
	return requests
}

func options() controller.Options {
	return controller.Options{
		NeedLeaderElection:      new(false), // every replica
		MaxConcurrentReconciles: concurrency,
		// A failed patch is an outage: it is tried again soon, and not in minutes.
		RateLimiter:           pods.FastRetries(),
		ReconciliationTimeout: reconcileTimeout,
	}
}

// Reconcile brings the targets of the engine and the labels of the pods of one
// Vault up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	list, err := pods.List(ctx, r, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	// The CAs that are known are good enough to go on with; the error is returned in
	// the end, so that the right ones are looked for soon.
	cas, caErr := r.trust.cas(ctx, r, r.APIReader, &vault, list)
	targets := targetsOf(&vault, list, cas)
	observations := r.Engine.Observations(req.NamespacedName)
	nodes := nodesOf(list, observations)
	r.complete(req.NamespacedName, nodes, list, observations)
	r.lastActive.observe(req.NamespacedName, nodes, observations)
	silenceCounts := r.recheck(ctx, req.NamespacedName, nodes)
	contested := r.settleClaims(ctx, req.NamespacedName, nodes, list)
	decision := decide(nodes, silenceCounts)
	r.Engine.SetTargets(req.NamespacedName, targets, decision.ExpectChange)
	if err = r.apply(ctx, &vault, list, observations, decision); err != nil {
		r.problems.Store(req.NamespacedName, err)
	} else {
		r.problems.Delete(req.NamespacedName)
	}
	if err = errors.Join(err, caErr); err != nil {
		return reconcile.Result{}, err
	}
	switch {
	case contested, slices.ContainsFunc(nodes, isSilent):
		return reconcile.Result{RequeueAfter: silenceCheck}, nil
	case decision.ExpectChange:
		// No event tells that a starting pod is not young any more.
		return reconcile.Result{RequeueAfter: burstCheck}, nil
	}
	return reconcile.Result{}, nil
}

func (r *Reconciler) forget(vault types.NamespacedName) {
	r.Engine.Forget(vault)
	r.trust.forget(vault)
	r.vouchers.forget(vault)
	r.lastActive.forget(vault)
	r.followed.Delete(vault)
	r.contested.forget(vault)
	r.starts.Observe(vault, nil, r.Clock.Now())
	r.problems.Delete(vault)
}

// LabelProblem says why the last change of an active label of the Vault failed; it
// is empty when it did not.
func (r *Reconciler) LabelProblem(vault types.NamespacedName) string {
	if err, failed := r.problems.Load(vault); failed {
		return fmt.Sprint(err)
	}
	return ""
}

// complete adds to the nodes what this replica remembers of them.
func (r *Reconciler) complete(
	vault types.NamespacedName, nodes []vaultNode, list []corev1.Pod, observations map[types.UID]probe.Observation,
) {
	starting := r.starts.Observe(vault, list, r.Clock.Now())
	vouched := r.vouchers.vouched(vault, list, func(uid types.UID) bool {
		return observations[uid].State <= probe.Unreachable // this replica has not reached the node since
	})
	for i := range nodes {
		nodes[i].Starting = starting[nodes[i].UID]
		nodes[i].Vouched = vouched[nodes[i].UID] && nodes[i].State == probe.Unreachable
	}
}

// recheck probes nodes again whose answers may be a pause old, and would be used
// against another one: those that say they are active, when more than one does; one
// with the label that said that it is not active, since another replica may have
// heard it say that it is; and a silent one together with those that could take over
// from it, since a storage that goes or comes back silences or wakes one after the
// other. It says whether silence counts.
func (r *Reconciler) recheck(ctx context.Context, vault types.NamespacedName, nodes []vaultNode) bool {
	var silent []*vaultNode
	for i := range nodes {
		if isSilent(nodes[i]) {
			silent = append(silent, &nodes[i])
		}
	}
	silenceCounts := len(silent) == 0 || r.SilenceCounts(vault.Namespace)
	claims, followed := count(nodes).claims, r.lastFollowed(vault)
	var wait sync.WaitGroup
	for i := range nodes {
		switch node := &nodes[i]; {
		case node.Terminating:
		case contradicts(node, claims, len(silent) > 0 && silenceCounts):
			wait.Go(func() {
				// One that most nodes follow is late: the regular probes tell when it is lost.
				if o := r.Confirm(ctx, vault, node.UID); o.State != probe.Unreachable || node.UID != followed {
					node.observe(o)
				}
			})
		case node.Labelled && node.State.Responded() && node.State != probe.Active:
			wait.Go(func() { r.lastChance(ctx, vault, node) })
		}
	}
	wait.Wait()
	if silenceCounts {
		// Only now: what wakes all of them may have come while the others were probed.
		for _, node := range silent {
			wait.Go(func() { r.lastChance(ctx, vault, node) })
		}
		wait.Wait()
	}
	return silenceCounts
}

// contradicts says that what the node said is used against another one: a second that is active, or
// a silent one.
func contradicts(node *vaultNode, claims int, silence bool) bool {
	switch node.State {
	case probe.Active:
		return claims > 1 || silence
	case probe.Standby:
		return silence
	default:
		return false
	}
}

// lastChance probes a node that is about to lose the label again, briefly, so that one
// which hangs is not in the Service for longer than before.
func (r *Reconciler) lastChance(ctx context.Context, vault types.NamespacedName, node *vaultNode) {
	ctx, cancel := context.WithTimeout(ctx, lastChanceTimeout)
	defer cancel()
	if o := r.Confirm(ctx, vault, node.UID); o.State != probe.Unreachable {
		node.observe(o)
	}
}

// isSilent says that a labelled pod does not answer.
func isSilent(node vaultNode) bool {
	return node.Labelled && !node.Terminating && node.State == probe.Unreachable && !node.Ended
}

// apply demotes before it promotes: an error in between leaves no pod labelled,
// which is an outage, and never two.
func (r *Reconciler) apply(
	ctx context.Context, vault *v1alpha1.Vault, list []corev1.Pod, observations map[types.UID]probe.Observation,
	decision decision,
) error {
	if len(decision.Demote) > 0 || decision.Promote != "" {
		r.changing.Add(1)
		defer r.changing.Add(-1)
	}
	byUID := map[types.UID]*corev1.Pod{}
	for i := range list {
		byUID[list[i].UID] = &list[i]
	}
	for _, uid := range decision.Demote {
		pod := byUID[uid].DeepCopy()
		if o := observations[uid]; o.State == probe.Unreachable && o.Err != nil {
			log.FromContext(ctx).Info("The labelled node does not respond",
				"pod", pod.Name, "error", message.Cut(o.Err.Error()), "lastActive", o.LastActive)
		}
		if err := r.setActive(ctx, pod, false); err != nil {
			return fmt.Errorf("taking pod %s out of the Service: %w", pod.Name, err)
		}
		taken := &r.vouchers
		if observations[uid].State == probe.Active {
			taken = &r.contested
		}
		taken.take(client.ObjectKeyFromObject(vault), pod)
	}
	if decision.Promote == "" {
		return nil
	}
	r.contested.give(client.ObjectKeyFromObject(vault), decision.Promote)
	if err := r.promote(ctx, vault, byUID[decision.Promote].DeepCopy()); err != nil {
		return fmt.Errorf("putting pod %s into the Service: %w", byUID[decision.Promote].Name, err)
	}
	return nil
}

// promote labels a pod, after it has looked at what it knows only from a cache
// or from a moment ago: another replica of the operator may have acted on newer
// facts. It does nothing when the node is not active any more, and first takes
// the label from every other pod that has it and is not being deleted.
func (r *Reconciler) promote(ctx context.Context, vault *v1alpha1.Vault, pod *corev1.Pod) error {
	if o := r.Confirm(ctx, client.ObjectKeyFromObject(vault), pod.UID); o.State != probe.Active {
		return nil // the regular probes will find the same, and decide anew
	}
	var labelled corev1.PodList
	selector := client.MatchingLabels(vault.PodLabels())
	selector[v1alpha1.ActiveLabel] = v1alpha1.ActiveLabelValue
	if err := r.APIReader.List(ctx, &labelled, client.InNamespace(vault.Namespace), selector); err != nil {
		return err
	}
	done := false
	for i := range labelled.Items {
		other := &labelled.Items[i]
		switch {
		case other.UID == pod.UID:
			done = true // by another replica
		case pods.Terminating(other):
		default:
			if err := r.setActive(ctx, other, false); err != nil {
				return err
			}
		}
	}
	if done {
		return nil
	}
	if err := r.setActive(ctx, pod, true); err != nil {
		return err
	}
	if took, failedOver := r.lastActive.promoted(client.ObjectKeyFromObject(vault), pod.UID, r.Clock.Now()); failedOver {
		failoverDuration.Observe(took.Seconds())
		log.FromContext(ctx).Info("Failed over", "pod", pod.Name, "seconds", took.Seconds())
	}
	return nil
}

// setActive sets the active label, or removes it, and with it the
// cost of deleting the pod: when there are pods to choose from, in an upgrade or
// when the Vault is made smaller, the active one goes last. The pod becomes what
// the API server made of it.
func (r *Reconciler) setActive(ctx context.Context, pod *corev1.Pod, active bool) error {
	action := demoteAction
	var label, cost any // null removes them
	if active {
		action, label, cost = promoteAction, v1alpha1.ActiveLabelValue, activeDeletionCost
	}
	// The UID makes the API server refuse the patch if the pod was replaced by
	// another one of the same name.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         pod.UID,
		"labels":      map[string]any{v1alpha1.ActiveLabel: label},
		"annotations": map[string]any{corev1.PodDeletionCost: cost},
	}})
	if err != nil {
		return err
	}
	err = r.Patch(ctx, pod, client.RawPatch(types.MergePatchType, patch))
	if !active && apierrors.IsNotFound(err) {
		// The pod is gone, and its label with it. No other error proves that: the
		// API server reports a conflict as well when others write too fast.
		return nil
	}
	if err == nil {
		relabels.WithLabelValues(action).Inc()
		log.FromContext(ctx).Info("Active label patched", "pod", pod.Name, "active", active)
	}
	return err
}

func targetsOf(vault *v1alpha1.Vault, list []corev1.Pod, cas map[types.UID]caSet) []probe.Target {
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
			CA:         cas[pod.UID].newest,
			EarlierCAs: cas[pod.UID].earlier,
			Container:  pods.Container(pod),
			InService:  pods.Labelled(pod) && !pods.Terminating(pod),
			Unmeasured: vault.OfProof(),
		})
	}
	return targets
}

func nodesOf(list []corev1.Pod, observations map[types.UID]probe.Observation) []vaultNode {
	nodes := make([]vaultNode, 0, len(list))
	for i := range list {
		pod := &list[i]
		node := vaultNode{UID: pod.UID, Labelled: pods.Labelled(pod), Terminating: pods.Terminating(pod)}
		if pods.Running(pod) {
			node.observe(observations[pod.UID])
		} else {
			// Nothing runs in it, so nothing answers: this is a fact, not a gap.
			node.State, node.Ended = probe.Unreachable, true
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// observe takes over what a probe of the node has found.
func (n *vaultNode) observe(o probe.Observation) {
	n.State, n.Silent, n.Connected, n.Refused = o.State, o.Silent, o.Connected, o.Refused
	n.Standby = o.State == probe.Unreachable && o.Last == probe.Standby
}
