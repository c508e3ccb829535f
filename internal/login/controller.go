// Package login is the controller that logs in to Vaults with spec.operatorLogin, once an
// administrator of Vault has authorized the operator there (package authorization), and does
// what keeps them available: it has the active node step down right before a rollout deletes it.
//
// It runs on the leader, logs in to the active node alone, verified as probes verify it, and has
// tokens in its memory and nowhere else. In five minutes it makes four requests to a Vault that
// has authorized it, and one to a Vault that has not; in the first minutes one a minute.
package login

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/statuspart"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
	"github.com/vault-operator/vault-operator/internal/workload"
)

const (
	// fieldOwner owns the fields of the status that this controller writes.
	fieldOwner = client.FieldOwner("vault-operator-login")
	// nodesFirst is for how long what nodes say waits for what is more urgent.
	nodesFirst = 200 * time.Millisecond
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 2 * perNamespace
	// perNamespace is how many of these may be of one namespace.
	perNamespace = 8
	// keysEvery is how often the API server is asked for its public keys. It is less than what
	// is left of a token when another one is due, so that a Vault learns of a new key before
	// the operator needs it.
	keysEvery = time.Minute
	// fresh is how old its answer may be at a login.
	fresh = 10 * time.Second
	// stepDownEvery is between two step-downs of the same pod.
	stepDownEvery = 5 * time.Minute

	eventSteppedDown = "SteppedDown"
)

// Reconciler logs in to Vaults. It is the only one that writes status.operatorLogin and the
// condition Authorized, since what it knows is in the memory of the leader.
type Reconciler struct {
	client.Client
	Issuer   Issuer
	Engine   *probe.Engine
	Recorder record.EventRecorder
	Clock    clock.PassiveClock

	keys keyring

	mu       sync.Mutex
	subject  string
	sessions map[types.NamespacedName]*session
	grants   map[types.NamespacedName]*grant
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("login").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WatchesRawSource(r.Engine.Source(nodesFirst)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			RateLimiter:             pods.SlowRetries(),
		}), perNamespace, r)
}

// Reconcile logs in to one Vault when that is due, and does what has to be done there.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil {
		r.forget(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	if !vault.HasOperatorLogin() {
		r.forget(req.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(r.write(ctx, &vault, nil, nil))
	}
	s := r.session(&vault)
	if r.deniedSince(req.NamespacedName, s) {
		s.drop(r.Clock.Now())
	}
	who, err := r.identity(ctx, &vault)
	if wrong := problem.In(err); wrong != nil {
		condition := &metav1.Condition{Status: metav1.ConditionFalse, Reason: wrong.Reason, Message: wrong.Message}
		return reconcile.Result{RequeueAfter: soon}, client.IgnoreNotFound(r.write(ctx, &vault, who, condition))
	}
	if err != nil {
		return reconcile.Result{}, r.fail(ctx, &vault, s, vault.Status.OperatorLogin, err)
	}
	list, err := pods.List(ctx, r, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	observations := r.Engine.Observations(req.NamespacedName)
	node, _ := r.active(&vault, list, observations)
	if node == nil { // the engine calls again
		now := r.Clock.Now()
		condition := s.unobserved(&vault, now, "No node is active that the operator could log in to")
		return reconcile.Result{RequeueAfter: max(s.known.Sub(now), 0)},
			client.IgnoreNotFound(r.write(ctx, &vault, who, condition))
	}
	if err := r.work(ctx, &vault, s, node, who); err != nil {
		return reconcile.Result{}, r.fail(ctx, &vault, s, who, err)
	}
	r.share(req.NamespacedName, s, r.Clock.Now())
	if err := r.write(ctx, &vault, who, s.condition(&vault, r.Clock.Now())); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if err := r.stepDown(ctx, &vault, s, node, list, observations); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: s.again(r.Clock.Now())}, nil
}

// fail tells that requests fail when that has been so for long, and returns why.
func (r *Reconciler) fail(
	ctx context.Context, vault *v1alpha1.Vault, s *session, who *v1alpha1.OperatorLoginStatus, err error,
) error {
	condition := s.unobserved(vault, r.Clock.Now(), requestsFail)
	return errors.Join(err, client.IgnoreNotFound(r.write(ctx, vault, who, condition)))
}

// work keeps the session with a Vault. The keys go first, since the login may need them.
func (r *Reconciler) work(
	ctx context.Context, vault *v1alpha1.Vault, s *session, node *vaultclient.Client, who *v1alpha1.OperatorLoginStatus,
) error {
	if s.due(r.Clock.Now()) && r.keys.age(r.Clock.Now()) > fresh {
		if err := r.readKeys(ctx); err != nil {
			return err
		}
	}
	err := r.keepKeys(ctx, s, node)
	if !s.due(r.Clock.Now()) {
		return err
	}
	if err := r.login(ctx, vault, s, node, who); err != nil {
		return err
	}
	return r.keepKeys(ctx, s, node)
}

// identity is who logs in to the Vault, or as much of that as is known.
func (r *Reconciler) identity(ctx context.Context, vault *v1alpha1.Vault) (*v1alpha1.OperatorLoginStatus, error) {
	r.mu.Lock()
	subject := r.subject
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if subject == "" {
		var err error
		if subject, err = r.Issuer.Subject(ctx); err != nil {
			return nil, err
		}
		r.mu.Lock()
		r.subject = subject
		r.mu.Unlock()
	}
	if r.keys.age(r.Clock.Now()) >= keysEvery {
		if err := r.readKeys(ctx); err != nil {
			return nil, err
		}
	}
	return &v1alpha1.OperatorLoginStatus{
		Subject: subject, Audience: vault.LoginAudience(), PublicKeys: r.keys.current(),
	}, nil
}

func (r *Reconciler) readKeys(ctx context.Context) error {
	keys, err := r.Issuer.PublicKeys(ctx)
	if err != nil {
		return err
	}
	r.keys.observe(keys, r.Clock.Now())
	return nil
}

// active returns the node to log in to, and its pod: the only one that is active, and stays.
// Otherwise it returns nil.
func (r *Reconciler) active(
	vault *v1alpha1.Vault, list []corev1.Pod, observations map[types.UID]probe.Observation,
) (*vaultclient.Client, types.UID) {
	var active *corev1.Pod
	for i := range list {
		pod := &list[i]
		if !pods.Running(pod) || pods.Terminating(pod) || observations[pod.UID].State != probe.Active {
			continue
		}
		if active != nil {
			return nil, ""
		}
		active = pod
	}
	if active == nil {
		return nil, ""
	}
	target, known := r.Engine.Target(client.ObjectKeyFromObject(vault), active.UID)
	if !known || target.Container != pods.Container(active) {
		return nil, ""
	}
	return vaultclient.New(target), active.UID
}

// stepDown has the active node step down if it is about to be deleted, and another can take
// over.
func (r *Reconciler) stepDown(ctx context.Context, vault *v1alpha1.Vault, s *session, node *vaultclient.Client,
	list []corev1.Pod, observations map[types.UID]probe.Observation,
) error {
	now := r.Clock.Now()
	if !s.valid(now) || s.refusal != nil || len(s.missing) > 0 {
		return nil
	}
	living, err := workload.GetWithRevision(ctx, r, vault)
	if err != nil {
		return err
	}
	active, successor := handover(rollout{list, observations, living})
	if active == nil || active.UID == s.steppedDown && now.Sub(s.steppedDownAt) < stepDownEvery {
		return nil
	}
	key := client.ObjectKeyFromObject(vault)
	if r.Engine.Confirm(ctx, key, successor.UID).State != probe.Standby ||
		r.Engine.Confirm(ctx, key, active.UID).State != probe.Active {
		return nil // the engine calls again
	}
	s.steppedDown, s.steppedDownAt = active.UID, now
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := node.StepDown(ctx, s.token); err != nil {
		return s.denied(err, now, fmt.Sprintf("asking pod %s to step down", active.Name))
	}
	r.Recorder.Eventf(vault, corev1.EventTypeNormal, eventSteppedDown,
		"Pod %s was asked to step down, because the rollout replaces it next", active.Name)
	return nil
}

// session returns what is known of the login to the Vault.
func (r *Reconciler) session(vault *v1alpha1.Vault) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(vault)
	s := r.sessions[key]
	if s == nil || s.vault != vault.UID {
		// Another process may have logged in right before this one became the leader.
		s = &session{vault: vault.UID, generation: vault.Generation, known: r.Clock.Now().Add(later)}
		if r.sessions == nil {
			r.sessions = map[types.NamespacedName]*session{}
		}
		r.sessions[key] = s
	}
	s.follow(vault)
	return s
}

func (r *Reconciler) forget(vault types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, vault)
	delete(r.grants, vault)
}

// write writes this controller's part of the status.
func (r *Reconciler) write(
	ctx context.Context, vault *v1alpha1.Vault, status *v1alpha1.OperatorLoginStatus, condition *metav1.Condition,
) error {
	w := statuspart.Writer{
		Client: r.Client, Recorder: r.Recorder, Clock: r.Clock, Owner: fieldOwner,
		Condition: v1alpha1.AuthorizedCondition, Field: "operatorLogin",
	}
	return w.Write(ctx, vault, vault.Status.OperatorLogin, status, condition, false)
}
