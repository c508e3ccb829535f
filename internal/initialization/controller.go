package initialization

import (
	"context"
	"slices"
	"strings"
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
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/statuspart"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// fieldOwner owns the fields of the status that this controller writes.
	fieldOwner = client.FieldOwner("vault-operator-initialization")
	// nodesFirst is for how long what nodes say waits for what is more urgent.
	nodesFirst = 500 * time.Millisecond
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 2 * perNamespace
	// perNamespace is how many of these may be of one namespace.
	perNamespace = 8
)

// Reconciler initializes Vaults. It runs on the leader.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server and not from a cache.
	APIReader client.Reader
	Engine    *probe.Engine
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	// Authorize authorizes the operator in a Vault, by the root token, before that is revoked.
	Authorize func(ctx context.Context, vault *v1alpha1.Vault, node *vaultclient.Client, token string) error

	mu sync.Mutex
	// memory is what this process knows of each Vault beside what is written down.
	memory map[types.NamespacedName]*memory
}

// memory is what is lost when the process ends.
type memory struct {
	vault types.UID
	// attempt is the one that it is about, first seen at the time.
	attempt types.UID
	seen    time.Time
	// keys is what has to be stored of the attempt; nil when it is, or when this process has
	// not made it.
	keys map[string][]byte
	// token is the root token, when it is to be revoked.
	token string
	// authorized says that the operator was authorized by that token, or cannot be, and tries
	// is how often that has failed.
	authorized bool
	tries      int
	// refusal is why Vault has refused to be initialized, when, and of what generation of the spec.
	refusal    string
	refused    time.Time
	generation int64
	// failed is how many attempts in a row, this one included, had no response that counts.
	failed int
	// holders is what came of reading the public keys last.
	holders checkedHolders
}

// unfinished says that there is something to be stored or revoked.
func (m *memory) unfinished() bool { return m.keys != nil || m.token != "" }

// configMapIndex finds the Vaults that name a ConfigMap with public keys.
const configMapIndex = "initialization.pgpKeysConfigMapName"

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.Vault{}, configMapIndex, func(obj client.Object) []string {
		if policy := obj.(*v1alpha1.Vault).Spec.Initialization; policy != nil && policy.PGPKeysConfigMapName != "" {
			return []string{string(policy.PGPKeysConfigMapName)}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("initialization").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		WatchesMetadata(references.ConfigMap(), references.Naming(r, configMapIndex)).
		WatchesMetadata(references.Secret(), handler.EnqueueRequestsFromMapFunc(keysOf)).
		WatchesRawSource(r.Engine.Source(nodesFirst)).
		// One that waits for a node that hangs delays few others.
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			// Keys may wait to be stored.
			RateLimiter: pods.SlowRetries(),
		}), perNamespace, r)
}

// keysOf returns the Vault whose keys are, by its name, in the Secret.
func keysOf(_ context.Context, secret client.Object) []reconcile.Request {
	suffix := (&v1alpha1.Vault{}).KeysSecretName()
	at := strings.LastIndex(secret.GetName(), suffix)
	if at <= 0 {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{
		Namespace: secret.GetNamespace(), Name: secret.GetName()[:at],
	}}}
}

// Reconcile does the next step for one Vault.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.Spec.Initialization == nil && vault.Status.Initialization == nil &&
		meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.InitializationSucceededCondition) == nil {
		return reconcile.Result{}, nil
	}
	if !settled(&vault) {
		// The cache may be as old as an attempt that it does not have.
		var live v1alpha1.Vault
		if err := r.APIReader.Get(ctx, req.NamespacedName, &live); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		vault = live
	}
	if vault.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	m := r.remember(&vault)
	if vault.Spec.Initialization == nil && !m.unfinished() {
		return reconcile.Result{}, m.conflictIsFine(r.write(ctx, &vault, vault.Status.Initialization, nil))
	}
	f, list, err := r.gather(ctx, &vault, m)
	if err != nil {
		return reconcile.Result{}, err
	}
	d := decide(f)
	if err := r.do(ctx, &vault, m, d, list); err != nil {
		return reconcile.Result{}, m.conflictIsFine(err)
	}
	return reconcile.Result{RequeueAfter: d.recheck}, nil
}

// conflictIsFine drops the error of a write that was made of what is not current any more:
// the event of what has changed calls again. Keys that are not stored do not wait for one.
func (m *memory) conflictIsFine(err error) error {
	if apierrors.IsConflict(err) && m.keys == nil {
		return nil
	}
	return err
}

// settled says that nothing is done any more for a Vault, but to tell of it.
func settled(vault *v1alpha1.Vault) bool {
	if vault.Spec.Initialization == nil && vault.Status.Initialization == nil {
		return true
	}
	status := vault.Status.Initialization
	return status != nil && (status.Phase == v1alpha1.PhaseInitializedBefore ||
		status.Phase == v1alpha1.PhaseRootTokenRevoked ||
		status.Phase == v1alpha1.PhaseInitialized && status.RootToken != v1alpha1.RevokeRootToken)
}

// remember returns the memory of the Vault, without what was of another attempt.
func (r *Reconciler) remember(vault *v1alpha1.Vault) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(vault)
	m := r.memory[key]
	if m == nil || m.vault != vault.UID {
		m = &memory{vault: vault.UID, seen: r.Clock.Now()}
		if r.memory == nil {
			r.memory = map[types.NamespacedName]*memory{}
		}
		r.memory[key] = m
	}
	if status := vault.Status.Initialization; status != nil && status.Attempt != m.attempt {
		*m = memory{vault: vault.UID, attempt: status.Attempt, seen: r.Clock.Now(), failed: m.failed}
	}
	if m.generation != vault.Generation || r.Clock.Now().Sub(m.refused) >= tryAgain {
		m.refusal, m.generation = "", vault.Generation
	}
	return m
}

func (r *Reconciler) forget(vault types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memory, vault)
}

// gather collects the facts, and the pods that can be asked.
func (r *Reconciler) gather(
	ctx context.Context, vault *v1alpha1.Vault, m *memory,
) (*facts, []corev1.Pod, error) {
	f := &facts{
		vault: vault, refusal: m.refusal, holdsKeys: m.keys != nil, holdsToken: m.token != "",
		since: r.Clock.Now().Sub(m.seen), failed: m.failed,
		storageReady: meta.IsStatusConditionTrue(vault.Status.Conditions, v1alpha1.StorageReadyCondition),
	}
	all, err := pods.List(ctx, r, vault)
	if err != nil {
		return nil, nil, err
	}
	var list []corev1.Pod
	observations := r.Engine.Observations(client.ObjectKeyFromObject(vault))
	list, f.nodes, f.active = nodesOf(all, observations)
	f.unsealed = unsealed(all, observations)
	if vault.HasExternal() {
		// A node that says that there is no data has read the storage.
		f.storageReady = true
	}
	if vault.HasRaft() {
		// The nodes are the storage: whether there is data is known when all have told.
		f.storageReady = true
		if f.nodes == nodesUninitialized && !f.allUninitialized(all, observations) {
			f.nodes = nodesUnknown
		}
	}
	if settled(vault) {
		return f, list, nil
	}
	f.pending = pending(vault.Status.Initialization, all, observations)
	if f.secret, f.stored, err = r.secrets(ctx, vault, m); err != nil {
		return nil, nil, err
	}
	if f.nodes == nodesUninitialized && vault.Spec.Initialization != nil {
		f.problem, err = r.check(ctx, vault, m)
	}
	return f, list, err
}

// unsealed says that a node is unsealed which does not unseal itself.
func unsealed(all []corev1.Pod, observations map[types.UID]probe.Observation) bool {
	return slices.ContainsFunc(all, func(pod corev1.Pod) bool {
		o := observations[pod.UID]
		return pods.Running(&pod) && !pods.Terminating(&pod) && o.Seal.Type == v1alpha1.ShamirSeal &&
			(o.State == probe.Active || o.State == probe.Standby)
	})
}

// allUninitialized says that every node which may run says that it has no data. While fewer are wanted that is more of
// them: another one may have the data.
func (f *facts) allUninitialized(all []corev1.Pod, observations map[types.UID]probe.Observation) bool {
	var count int32
	for i := range all {
		if pods.Running(&all[i]) && observations[all[i].UID].State == probe.Uninitialized {
			count++
		}
	}
	return count >= f.vault.RunningNodes()
}

// pending says that the node which was asked may still be at it: it has not ended, and does not
// say that Vault is not initialized, which a node cannot say while it initializes Vault. Its
// clock may be off.
func pending(
	status *v1alpha1.InitializationStatus, all []corev1.Pod, observations map[types.UID]probe.Observation,
) bool {
	if status == nil || status.Time == nil {
		return false
	}
	for i := range all {
		pod := &all[i]
		if pod.Name != status.Pod || pod.CreationTimestamp.After(status.Time.Time) || !pods.Running(pod) {
			continue
		}
		if observations[pod.UID].State == probe.Uninitialized {
			return false
		}
		return !pods.StartedAt(pod).After(status.Time.Add(settle))
	}
	return false
}

// nodesOf is what the nodes say together, and the pods whose nodes can be asked to initialize
// Vault, by name.
func nodesOf(
	all []corev1.Pod, observations map[types.UID]probe.Observation,
) (list []corev1.Pod, sum nodes, active bool) {
	leaving := false
	for i := range all {
		pod := &all[i]
		o := observations[pod.UID]
		if !pods.Running(pod) {
			continue
		}
		state := o.State
		if o.Lost() {
			state = o.Last // silence does not make a Vault uninitialized
		}
		switch {
		case state > probe.Uninitialized && pods.Terminating(pod):
			leaving = true
			continue
		case state > probe.Uninitialized:
			sum = nodesInitialized
		case o.State == probe.Uninitialized:
			sum = max(sum, nodesUninitialized)
			if !pods.Terminating(pod) && first(pod) {
				list = append(list, *pod)
			}
		}
		active = active || o.State == probe.Active
	}
	if leaving && sum != nodesInitialized {
		// They may be of a Vault that was deleted, and take its data with them, or not.
		return nil, nodesUnknown, active
	}
	return list, sum, active
}

// first says that the node of the pod may be asked. With storage of its own each node could
// be initialized for itself, and others join the first one of a StatefulSet.
func first(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner == nil || owner.Kind != "StatefulSet" || pod.Name == owner.Name+"-0"
}

// do does a step, and writes the condition.
func (r *Reconciler) do(
	ctx context.Context, vault *v1alpha1.Vault, m *memory, d decision, list []corev1.Pod,
) error {
	status := vault.Status.Initialization.DeepCopy()
	switch d.step {
	case begin:
		if len(list) == 0 || vault.Spec.Initialization == nil {
			return nil // the engine or the Vault calls again
		}
		return r.begin(ctx, vault, m, &list[0])
	case store:
		return r.store(ctx, vault, m)
	case noteStored:
		_, stored, err := r.secrets(ctx, vault, m)
		if err != nil || stored == "" {
			return err
		}
		return r.note(ctx, vault, v1alpha1.PhaseInitialized, stored)
	case noteLost:
		return r.note(ctx, vault, v1alpha1.PhaseKeysLost, "")
	case noteBefore:
		return r.note(ctx, vault, v1alpha1.PhaseInitializedBefore, "")
	case noteRefused:
		return r.noteRefused(ctx, vault, m)
	case revoke:
		if err := r.write(ctx, vault, status, &d.condition); err != nil {
			return err
		}
		return r.revoke(ctx, vault, m)
	}
	return r.write(ctx, vault, status, &d.condition)
}

// note writes how far it has come, and what is to be told then.
func (r *Reconciler) note(
	ctx context.Context, vault *v1alpha1.Vault, phase v1alpha1.InitializationPhase, secret string,
) error {
	after := vault.DeepCopy()
	if after.Status.Initialization == nil {
		after.Status.Initialization = &v1alpha1.InitializationStatus{}
	}
	after.Status.Initialization.Phase, after.Status.Initialization.SecretName = phase, secret
	m := r.remember(after)
	d := decide(&facts{vault: after, nodes: nodesInitialized, holdsToken: m.token != ""})
	return r.write(ctx, vault, after.Status.Initialization, &d.condition)
}

// write writes this controller's part of the status, on the version of the Vault that it was
// made of. Without a condition there is none.
func (r *Reconciler) write(
	ctx context.Context, vault *v1alpha1.Vault, status *v1alpha1.InitializationStatus, condition *metav1.Condition,
) error {
	w := statuspart.Writer{
		Client: r.Client, Recorder: r.Recorder, Clock: r.Clock, Owner: fieldOwner,
		Condition: v1alpha1.InitializationSucceededCondition, Field: "initialization",
		Notable: []string{v1alpha1.ReasonInitializing}, Alarming: []string{v1alpha1.ReasonKeysInPlaintext},
	}
	if err := w.Write(ctx, vault, vault.Status.Initialization, status, condition, true); err != nil {
		return err
	}
	vault.Status.Initialization = status
	return nil
}
