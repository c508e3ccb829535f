package unseal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

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
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/restore"
	"github.com/vault-operator/vault-operator/internal/statuspart"
)

const (
	// fieldOwner owns the fields of the status that this controller writes.
	fieldOwner = client.FieldOwner("vault-operator-unseal")
	// nodesFirst is for how long what nodes say waits for what is more urgent.
	nodesFirst = 200 * time.Millisecond
	// afterRestore is when a Vault is looked at again that is restored.
	afterRestore = 5 * time.Second
	// settleReserve is for how much longer than one of the same machine a pod may need until it is isolated.
	settleReserve = 15 * time.Second
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 2 * perNamespace
	// perNamespace is how many of these may be of one namespace.
	perNamespace = 8
)

// Reconciler unseals nodes. It runs on the leader, and is the only one that writes
// status.unseal and the condition UnsealKeysValid.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server and not from a cache.
	APIReader client.Reader
	Engine    *probe.Engine
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock

	mu sync.Mutex
	// memory is what this process knows of each Vault.
	memory map[types.NamespacedName]*memory
}

// memory is what is lost when the process ends.
type memory struct {
	vault types.UID
	// unsealed are the starts that this process has seen unsealed: the cache may be older.
	unsealed starts
	// version is that of the Secret whose keys were given last, and refusedBy are the starts of the nodes that they do
	// not unseal: they are not given to these again. One that starts later may have other data, restored from a backup.
	version   string
	refusedBy starts
	// wrong is what was told of that.
	wrong *problem.Error
	// condition is what this process has told last, since the cache may be older, and accepted
	// is the last one of keys that were accepted.
	condition, accepted *metav1.Condition
	// others is since when a node has had keys that others have given it, and how many.
	others map[types.UID]progress
	// joins is when nodes that may have got all keys, and are sealed, are given them again.
	joins map[types.UID]attempt
}

// namedIndex finds the Vaults that name a Secret with unseal keys.
const namedIndex = "unseal.keysSecretName"

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.Vault{}, namedIndex, func(obj client.Object) []string {
		if policy := obj.(*v1alpha1.Vault).Spec.Unseal; policy != nil {
			return []string{string(policy.KeysSecretName)}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("unseal").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WatchesMetadata(references.Secret(), references.Naming(r, namedIndex)).
		WatchesRawSource(r.Engine.Source(nodesFirst)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter:             pods.SlowRetries(),
		}), perNamespace, r)
}

// Reconcile unseals the nodes of one Vault that have to be.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	if vault.Spec.Unseal == nil {
		r.forget(req.NamespacedName)
		return reconcile.Result{}, r.write(ctx, &vault, nil, nil)
	}
	m := r.remember(&vault)
	list, err := pods.List(ctx, r, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := startsOf(vault.Status.Unseal)
	maps.Copy(before, m.unsealed)
	p := decide(list, r.observations(ctx, &vault, list, before), before)
	m.unsealed = p.unsealed
	condition := idle(&vault, m, p)
	// Before anything is unsealed it is written down what was.
	if err := r.tell(ctx, &vault, m, p.unsealed, condition); err != nil || len(p.sealed) == 0 {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if wait := isolating(&vault, p.sealed, r.Clock.Now()); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	// A node has other keys for a moment while it is restored, and keys that are wrong are not given again.
	if under, err := restore.Into(ctx, r.APIReader, &vault); err != nil || under != "" {
		return reconcile.Result{RequeueAfter: afterRestore}, err
	}
	return r.unsealAll(ctx, &vault, m, p)
}

// isolating is for how long no node of a Vault that proves a backup is given keys yet. When it is unsealed it must not
// reach anything, and its NetworkPolicy may take effect some time after its pod has started: less than was tried
// before.
func isolating(vault *v1alpha1.Vault, sealed []corev1.Pod, now time.Time) (wait time.Duration) {
	if !vault.OfProof() {
		return 0
	}
	for i := range sealed {
		started := pods.StartedAt(&sealed[i])
		if started.IsZero() {
			started = now
		}
		// The clock of a machine may be behind: no container has started before its pod was made.
		runs := max(0, min(now.Sub(started), now.Sub(sealed[i].CreationTimestamp.Time)))
		wait = max(wait, backup.SettleTime+settleReserve-runs)
	}
	return wait
}

// observations are what the nodes say. Whether one that was unsealed is sealed has to be newer
// than that it was unsealed, so such a node is probed now.
func (r *Reconciler) observations(
	ctx context.Context, vault *v1alpha1.Vault, list []corev1.Pod, before starts,
) map[types.UID]probe.Observation {
	key := client.ObjectKeyFromObject(vault)
	observations := r.Engine.Observations(key)
	for i := range list {
		pod := &list[i]
		if observations[pod.UID].State == probe.Sealed && before[pod.UID] == pods.Container(pod) && pods.Running(pod) {
			observations[pod.UID] = r.Engine.Confirm(ctx, key, pod.UID)
		}
	}
	return observations
}

// idle is the condition while no node has to be unsealed, and before it is known what comes
// of it.
func idle(vault *v1alpha1.Vault, m *memory, p plan) *metav1.Condition {
	old := m.condition
	if old == nil {
		old = meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.UnsealKeysValidCondition)
	}
	switch {
	case len(p.byHand) > 0 && len(p.sealed) == 0:
		return &metav1.Condition{
			Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSealedByHand,
			Message: "Sealed by somebody, and left so until the container is started again: " + message.Names(p.byHand),
		}
	case old != nil && old.Reason != v1alpha1.ReasonSealedByHand && old.ObservedGeneration == vault.Generation &&
		(old.Status != metav1.ConditionFalse || len(p.sealed) > 0):
		return old.DeepCopy()
	case len(p.unsealed) > 0 && m.accepted != nil && m.accepted.ObservedGeneration == vault.Generation:
		return m.accepted.DeepCopy()
	case len(p.unsealed) > 0:
		return &metav1.Condition{
			Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonKeysNotUsed,
			Message: "Nodes are unsealed, and have not needed the keys",
		}
	default:
		return &metav1.Condition{
			Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonKeysNotUsed,
			Message: "No node has needed the keys yet",
		}
	}
}

// unsealAll unseals the nodes that are sealed, and tells what comes of it.
func (r *Reconciler) unsealAll(
	ctx context.Context, vault *v1alpha1.Vault, m *memory, p plan,
) (reconcile.Result, error) {
	secret, keys, err := r.keys(ctx, vault)
	if err == nil && m.version == secret.ResourceVersion && m.refusedBy.all(p.sealed) {
		err = m.wrong // each further try would be in vain
	}
	if err != nil {
		return reconcile.Result{}, r.tellProblem(ctx, vault, m, p.unsealed, err)
	}
	if m.version != secret.ResourceVersion {
		m.version, m.refusedBy, m.wrong = secret.ResourceVersion, starts{}, nil
	}
	unsealed := maps.Clone(p.unsealed)
	given := r.give(ctx, vault, m, p.sealed, keys, unsealed)
	if given.opened {
		m.unsealed = unsealed
	}
	if given.opened && given.wrong == nil {
		accepted := &metav1.Condition{
			Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonKeysAccepted,
			Message: fmt.Sprintf("The keys of Secret %q have unsealed nodes of this Vault", secret.Name),
		}
		if err := r.tell(ctx, vault, m, unsealed, accepted); err != nil {
			return reconcile.Result{}, err
		}
		m.accepted = accepted
	}
	if given.wrong != nil {
		given.err = errors.Join(given.err, r.tellProblem(ctx, vault, m, unsealed, given.wrong))
	}
	return reconcile.Result{RequeueAfter: given.again}, given.err
}

// tellProblem tells of what a user has to fix. It returns any other error.
func (r *Reconciler) tellProblem(
	ctx context.Context, vault *v1alpha1.Vault, m *memory, unsealed starts, err error,
) error {
	wrong := problem.In(err)
	if wrong == nil {
		return err
	}
	m.accepted = nil
	refused := &metav1.Condition{Status: metav1.ConditionFalse, Reason: wrong.Reason, Message: wrong.Message}
	return r.tell(ctx, vault, m, unsealed, refused)
}

// given is what came of giving keys to nodes.
type given struct {
	// opened says that at least one is unsealed by them.
	opened bool
	// again is when to try again, unless it is zero.
	again time.Duration
	// wrong is what a user has to fix, and err what passes by itself.
	wrong *problem.Error
	err   error
}

// give unseals nodes one after the other, since the first one becomes active, and notes their starts.
// With integrated storage each node has a copy of the encrypted keys, and one that is older than a
// rekey needs other key shares: it keeps none of the others sealed.
func (r *Reconciler) give(ctx context.Context, vault *v1alpha1.Vault, m *memory, list []corev1.Pod, keys []string,
	unsealed starts,
) given {
	var g given
	for i := range list {
		pod := &list[i]
		target, known := r.Engine.Target(client.ObjectKeyFromObject(vault), pod.UID)
		if !known || target.Container != pods.Container(pod) {
			continue // the engine calls again
		}
		if vault.HasRaft() && m.refusedBy[pod.UID] == target.Container {
			g.wrong = cmp.Or(g.wrong, m.wrong)
			continue
		}
		outcome, err := leftAlone, error(nil)
		if m.joining(pod, target.Container, r.Clock.Now()) == 0 {
			outcome, err = r.giveTo(ctx, vault, m, pod, target, keys)
		}
		g.again = sooner(g.again, m.joining(pod, target.Container, r.Clock.Now()))
		switch wrong := problem.In(err); {
		case wrong != nil && !vault.HasRaft():
			m.refuse(wrong, list)
			g.wrong = wrong
			return g // it is the same for all of them
		case wrong != nil:
			m.refuse(wrong, list[i:i+1])
			g.wrong = cmp.Or(g.wrong, wrong)
		case err != nil:
			g.err = errors.Join(g.err, fmt.Errorf("unsealing pod %s: %w", pod.Name, err))
		case outcome == opened:
			g.opened, unsealed[pod.UID] = true, target.Container
			if !vault.HasRaft() {
				m.refusedBy, m.wrong = starts{}, nil // what was wrong with the storage is right again
			}
		case outcome == othersAreAtIt:
			g.again = sooner(g.again, othersPause)
		}
	}
	return g
}

// refuse notes the nodes that the keys do not unseal.
func (m *memory) refuse(wrong *problem.Error, list []corev1.Pod) {
	if wrong.Reason != v1alpha1.ReasonKeysWrong {
		return // more keys would do
	}
	m.wrong = wrong
	for i := range list {
		m.refusedBy[list[i].UID] = pods.Container(&list[i])
	}
}

// sooner is the shorter one of two pauses, of which zero is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

// keys reads the Secret with the keys.
func (r *Reconciler) keys(ctx context.Context, vault *v1alpha1.Vault) (*corev1.Secret, []string, error) {
	name := string(vault.Spec.Unseal.KeysSecretName)
	var secret corev1.Secret
	err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, &secret)
	if apierrors.IsNotFound(err) {
		return nil, nil, notUsable(v1alpha1.ReasonSecretNotFound,
			"spec.unseal.keysSecretName: Secret %q does not exist", name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading Secret %q: %w", name, err)
	}
	keys, err := keysOf(&secret)
	return &secret, keys, err
}

func (r *Reconciler) remember(vault *v1alpha1.Vault) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(vault)
	if m := r.memory[key]; m != nil && m.vault == vault.UID {
		return m
	}
	if r.memory == nil {
		r.memory = map[types.NamespacedName]*memory{}
	}
	r.memory[key] = &memory{vault: vault.UID, others: map[types.UID]progress{}, joins: map[types.UID]attempt{}}
	return r.memory[key]
}

func (r *Reconciler) forget(vault types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memory, vault)
}

// tell writes the status, and remembers what it has told.
func (r *Reconciler) tell(
	ctx context.Context, vault *v1alpha1.Vault, m *memory, unsealed starts, condition *metav1.Condition,
) error {
	err := r.write(ctx, vault, unsealed.status(), condition)
	if err == nil {
		m.condition = condition.DeepCopy()
	}
	return err
}

// write writes this controller's part of the status.
func (r *Reconciler) write(
	ctx context.Context, vault *v1alpha1.Vault, status *v1alpha1.UnsealStatus, condition *metav1.Condition,
) error {
	w := statuspart.Writer{
		Client: r.Client, Recorder: r.Recorder, Clock: r.Clock, Owner: fieldOwner,
		Condition: v1alpha1.UnsealKeysValidCondition, Field: "unseal",
	}
	if err := w.Write(ctx, vault, vault.Status.Unseal, status, condition, false); err != nil {
		return err
	}
	vault.Status.Unseal = status
	return nil
}
