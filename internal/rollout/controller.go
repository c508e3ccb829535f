// Package rollout replaces the pods of Vaults with integrated storage, one by one, when
// their template has changed. The StatefulSet controller could not: it knows neither
// which node is active nor which has caught up.
//
// It also takes nodes out of the cluster when fewer are wanted, and gives those that the
// cluster has lost an empty volume (members.go). One controller does all of it, so that it
// relies on no node that it is about to end for something else.
package rollout

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
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
	"github.com/vault-operator/vault-operator/internal/login"
	"github.com/vault-operator/vault-operator/internal/notify"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/restore"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
	"github.com/vault-operator/vault-operator/internal/workload"
)

const (
	// concurrency is how many Vaults are worked on at the same time. Each waits for a moment.
	concurrency = 2 * perNamespace
	// perNamespace is how many of these may be of one namespace.
	perNamespace = 8
	// check is how often it is looked whether a rollout can go on. No event tells that a
	// node has caught up.
	check = 5 * time.Second
	// joinTime is how long a node that has joined is taken for one that does not vote.
	// Autopilot promotes it when it was stable for ten seconds by default, and has then been
	// looked at again. Nothing tells without a token who votes.
	// https://developer.hashicorp.com/vault/docs/concepts/integrated-storage/autopilot
	joinTime = 45 * time.Second
	// requestTime is how long a request to initialize Vault may still be worked on.
	requestTime = 2 * time.Minute
	// settle is how long nodes have to apply what the leader has committed. The leader tells
	// them with its next heartbeat.
	settle = time.Second
	// reconcileTimeout is how long one reconciliation may take, so that requests that hang
	// hold no worker up.
	reconcileTimeout = 15 * time.Second
)

// eventReplaced is the reason of the event of a pod that is deleted.
const eventReplaced = "NodeReplaced"

// engine is what the probe engine tells of Vault nodes.
type engine interface {
	Observations(vault types.NamespacedName) map[types.UID]probe.Observation
	Confirm(ctx context.Context, vault types.NamespacedName, uid types.UID) probe.Observation
	Raft(ctx context.Context, vault types.NamespacedName, uid types.UID) (probe.Raft, error)
}

// Reconciler deletes pods of an older template. It runs on the leader.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server.
	APIReader client.Reader
	Engine    engine
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	// Access is the operator's login; nil is none.
	Access login.Access
	// Waits is told what rollouts wait for.
	Waits *notify.Waits
	// Settle is how long nodes have to catch up while it is looked at; by default a second.
	Settle time.Duration

	mu sync.Mutex
	// joined is when nodes were first seen unsealed, by the volume that they have. One that
	// starts again with its volume votes as before.
	joined map[types.NamespacedName]map[types.UID]time.Time
	// views are the peers as they were read last, and stepDowns are the nodes that were asked
	// to step down.
	views     map[types.NamespacedName]*view
	stepDowns map[types.NamespacedName]request
}

// SetupWithManager adds the reconciler to the manager. The source tells of nodes whose state
// has changed.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, probes *probe.Engine) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("rollout").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&appsv1.StatefulSet{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WatchesRawSource(probes.Source(0)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency, RateLimiter: pods.FastRetries(), ReconciliationTimeout: reconcileTimeout,
		}), perNamespace, r)
}

// Reconcile deletes one pod of one Vault, if there is one to replace and it may go.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil || !vault.HasRaft() {
		return reconcile.Result{}, nil
	}
	c, err := r.cluster(ctx, r, &vault, r.Engine.Observations(req.NamespacedName))
	if err != nil || c == nil {
		return reconcile.Result{}, err
	}
	for i := range c.nodes {
		c.nodes[i].CaughtUp = true // which is looked at before anything is done
	}
	did, err := r.keepMembers(ctx, &vault, c)
	if err != nil {
		return reconcile.Result{}, err
	}
	if did.Do != "" {
		return reconcile.Result{RequeueAfter: followUp}, nil
	}
	return r.roll(ctx, &vault, c, r.pause(did))
}

// roll replaces the next pod, if it may go. When there is none it looks again after a pause.
func (r *Reconciler) roll(
	ctx context.Context, vault *v1alpha1.Vault, c *cluster, pause time.Duration,
) (reconcile.Result, error) {
	// What the caches have, and that all nodes have caught up, which is looked at below.
	d := decide(c.nodes, int(vault.RunningNodes()), 0)
	if d.Done {
		r.Waits.Note(client.ObjectKeyFromObject(vault), "")
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	var err error
	if d.Delete != "" {
		if d, err = r.look(ctx, vault, c); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	r.Waits.Note(client.ObjectKeyFromObject(vault), d.Why)
	if d.Delete != "" && !r.handsOver(ctx, vault, c, d) {
		err = r.replace(ctx, vault, d)
	}
	return reconcile.Result{RequeueAfter: check}, err
}

// cluster is what exists of the nodes of a Vault.
type cluster struct {
	set    *workload.Workload
	nodes  []node
	claims map[int]*corev1.PersistentVolumeClaim
}

// cluster reads the pods that the StatefulSet has made, and what they have. It is nil while its
// controller has not acted on the newest template, or while it replaces pods by itself, as
// somebody may have told it.
func (r *Reconciler) cluster(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, observations map[types.UID]probe.Observation,
) (*cluster, error) {
	set, err := workload.GetWithRevision(ctx, reader, vault)
	if err != nil || set == nil || set.Revision == "" || !metav1.IsControlledBy(set, vault) || !onDelete(set) {
		return nil, err
	}
	claims, err := storage.Claims(ctx, reader, vault)
	if err != nil {
		return nil, err
	}
	list, err := pods.List(ctx, reader, vault)
	if err != nil {
		return nil, err
	}
	var nodes []node
	for i := range list {
		pod := &list[i]
		ordinal, err := strconv.Atoi(strings.TrimPrefix(pod.Name, vault.Name+"-"))
		if err != nil || !metav1.IsControlledBy(pod, set) {
			continue
		}
		o, claim := observations[pod.UID], claims[ordinal]
		nodes = append(nodes, node{
			Name: pod.Name, UID: pod.UID, Ordinal: ordinal, Updated: set.Updated(pod), Terminating: pods.Terminating(pod),
			NewSeal: seal.Differs(&pod.Spec, &set.Template.Spec),
			Down:    !pods.Running(pod), State: o.State, Removed: o.Removed,
			VolumeLost: claim != nil && claim.Status.Phase == corev1.ClaimLost,
			Ready:      pods.Ready(pod),
			Old:        claim != nil && r.Clock.Now().Sub(claim.CreationTimestamp.Time) >= healAfter,
		})
	}
	r.noteJoined(client.ObjectKeyFromObject(vault), nodes, claims)
	return &cluster{set, nodes, claims}, nil
}

// onDelete says that the StatefulSet replaces a pod only when that is deleted.
func onDelete(set *workload.Workload) bool {
	object, ok := set.Object.(*appsv1.StatefulSet)
	return ok && object.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
}

// noteJoined notes which volumes nodes were seen unsealed with, and says which nodes were
// seen so for long.
func (r *Reconciler) noteJoined(
	vault types.NamespacedName, nodes []node, claims map[int]*corev1.PersistentVolumeClaim,
) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, now := r.joined[vault], r.Clock.Now()
	joined := map[types.UID]time.Time{}
	for _, claim := range claims {
		if since, seen := before[claim.UID]; seen {
			joined[claim.UID] = since // also while its pod is being replaced
		}
	}
	for i := range nodes {
		n := &nodes[i]
		claim, found := claims[n.Ordinal]
		if !found {
			continue
		}
		since, seen := joined[claim.UID]
		if !seen && n.unsealed() {
			since, seen = now, true
			joined[claim.UID] = now
		}
		n.Settled = seen && now.Sub(since) >= joinTime
	}
	if r.joined == nil {
		r.joined = map[types.NamespacedName]map[types.UID]time.Time{}
	}
	r.joined[vault] = joined
}

func (r *Reconciler) forget(vault types.NamespacedName) {
	r.Waits.Note(vault, "")
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.joined, vault)
	delete(r.views, vault)
	delete(r.stepDowns, vault)
}

// live reads what the API server and the nodes say now: caches and observations may be late,
// such as a moment after another pod was deleted.
func (r *Reconciler) live(ctx context.Context, vault *v1alpha1.Vault, known *cluster) (*cluster, error) {
	c, err := r.cluster(ctx, r.APIReader, vault, r.confirm(ctx, vault, known.nodes))
	if err != nil || c == nil {
		return &cluster{}, err
	}
	nodes, key := c.nodes, client.ObjectKeyFromObject(vault)
	for i := range nodes {
		if nodes[i].State != probe.Active {
			continue
		}
		leader, err := r.Engine.Raft(ctx, key, nodes[i].UID)
		if err != nil {
			continue // none has caught up then, as far as is known
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(r.settle()):
		}
		for j := range nodes {
			if nodes[j].State == probe.Standby {
				raft, err := r.Engine.Raft(ctx, key, nodes[j].UID)
				nodes[j].CaughtUp = err == nil && raft.Applied >= leader.Committed
			}
		}
	}
	return c, nil
}

// look decides by what is so now.
func (r *Reconciler) look(ctx context.Context, vault *v1alpha1.Vault, known *cluster) (decision, error) {
	var live v1alpha1.Vault
	if err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(vault), &live); err != nil {
		return decision{}, err
	}
	c, err := r.live(ctx, vault, known)
	if err != nil {
		return decision{}, err
	}
	d := decide(c.nodes, int(live.RunningNodes()), 0)
	if len(d.Without) > 0 {
		// Whom the cluster can rely on the active node knows best.
		switch m := r.membership(&live, c, r.peers(ctx, &live, c, 0)); {
		case m.led:
			d = decide(m.nodes, int(live.RunningNodes()), m.voters)
		case !m.refused:
			d = decision{Why: "the active node has not told its peers"}
		}
	}
	if why := r.holdsBack(&live, c.nodes, d.Delete, true); why != "" {
		return decision{Why: why}, nil
	}
	if d.Delete == "" {
		return d, nil
	}
	// A node that takes the snapshot has keys that nobody else has.
	if into, err := restore.Into(ctx, r.APIReader, &live); err != nil {
		return decision{}, err
	} else if into != "" {
		return decision{Why: "VaultRestore " + into + " restores a backup into it"}, nil
	}
	return d, nil
}

// holdsBack is why a pod must not be deleted now although the cluster could do without it, or
// nothing. One that comes again with another seal may be what repairs that.
func (r *Reconciler) holdsBack(vault *v1alpha1.Vault, nodes []node, deleted types.UID, comesAgain bool) string {
	if deleted == "" {
		return ""
	}
	if r.initializing(vault) {
		return "a node was asked to initialize Vault"
	}
	sealReady := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.SealReadyCondition)
	for _, n := range nodes {
		switch {
		case vault.Spec.SealMigration != nil && n.State == probe.Uninitialized:
			// https://github.com/hashicorp/vault/blob/v1.21.0/vault/core.go#L1725
			return n.Name + " has not joined, and cannot while the seal is migrated: unseal it, or undo the migration"
		case n.UID == deleted && n.votes() && vault.Spec.Seal != nil && seal.Fails(sealReady) &&
			(!comesAgain || !n.NewSeal):
			return "the key service fails, so that another node could not unseal itself"
		}
	}
	return ""
}

// initializing says that a request to initialize Vault may still be worked on. Without
// spec.initialization nobody finds out what came of it.
func (r *Reconciler) initializing(vault *v1alpha1.Vault) bool {
	status := vault.Status.Initialization
	return status != nil && status.Phase == v1alpha1.PhaseRequested &&
		(vault.Spec.Initialization != nil || status.Time != nil && r.Clock.Since(status.Time.Time) < requestTime)
}

func (r *Reconciler) settle() time.Duration {
	if r.Settle == 0 {
		return settle
	}
	return r.Settle
}

// confirm probes the nodes now.
func (r *Reconciler) confirm(
	ctx context.Context, vault *v1alpha1.Vault, nodes []node,
) map[types.UID]probe.Observation {
	var mu sync.Mutex
	var wait sync.WaitGroup
	observations := map[types.UID]probe.Observation{}
	for _, n := range nodes {
		wait.Go(func() {
			o := r.Engine.Confirm(ctx, client.ObjectKeyFromObject(vault), n.UID)
			mu.Lock()
			defer mu.Unlock()
			observations[n.UID] = o
		})
	}
	wait.Wait()
	return observations
}

// replace deletes a pod, unless another one that the cluster relies on has gone meanwhile. The
// StatefulSet controller makes another one, of the newest template.
func (r *Reconciler) replace(ctx context.Context, vault *v1alpha1.Vault, d decision) error {
	list, err := pods.List(ctx, r.APIReader, vault)
	if err != nil {
		return err
	}
	replaced, err := pods.Replace(ctx, r, list, d.Delete, d.Without)
	if replaced == nil || err != nil {
		return err
	}
	log.FromContext(ctx).Info("Deleted a pod of an older template", "pod", replaced.Name)
	r.Recorder.Eventf(vault, corev1.EventTypeNormal, eventReplaced,
		"Pod %s is replaced by one of the newest template", replaced.Name)
	return nil
}
