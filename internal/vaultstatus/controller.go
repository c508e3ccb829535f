package vaultstatus

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
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
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/notify"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
	"github.com/vault-operator/vault-operator/internal/workload"
)

const (
	// fieldOwner owns the fields of the status that this controller writes.
	fieldOwner = client.FieldOwner("vault-operator")
	// concurrency is how many Vaults are worked on at the same time.
	concurrency = 8
	// reconcileTimeout is how long one reconciliation may take, so that requests that
	// hang hold no worker up. It does not end watches.
	reconcileTimeout = 5 * time.Second
	// startingCheck is how often a pod that is starting is looked at: no event
	// tells that it has been starting for too long.
	startingCheck = 10 * time.Second
	// settleTime is how long routing may take to put a label right before the status
	// says that it is wrong, and unsettledCheck how often it is looked at after that.
	settleTime     = time.Second
	unsettledCheck = 5 * time.Second
	// routingFirst is how long the status of nodes waits for routing, which clients
	// wait for. What happens meanwhile is written at once.
	routingFirst = 150 * time.Millisecond
	// postponeFor is how long the status of a Vault waits at most while many Vaults fail
	// over at once, and busyCheck is how often it looks whether they still do.
	postponeFor = 5 * time.Second
	busyCheck   = 250 * time.Millisecond
	// writeEvery is how often the status of a Vault may be written in the long run, and writesAtOnce
	// how often in a short time: a failover takes half a dozen, and a rollout
	// ten for each node. What is not written has no event.
	writeEvery   = time.Second
	writesAtOnce = 60
	// recheckInterval is how often a replica that does not lead looks whether the
	// leader has written what it found as well.
	recheckInterval = 500 * time.Millisecond
)

// Reconciler writes the status of Vaults, all but what the Helm reconciler
// owns, and records events. Nothing is written when nothing has changed.
//
// There is one writer: the leader. It may be lost together with the node that
// its users want to know about, and its lease runs out late. So every replica
// computes the status, and while the leader renews no lease, any replica
// writes what differs.
type Reconciler struct {
	client.Client
	Engine *probe.Engine
	Alarms *etcd.Alarms
	// Storage makes volumes larger. It may be nil.
	Storage *storage.Reconciler
	// Waits is what rollouts wait for.
	Waits  *notify.Waits
	Causes *storage.Causes
	Tokens *seal.Tokens
	// Inputs checks what users bring, and certificates.
	Inputs   *references.Inputs
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	// Elected is closed when this replica leads.
	Elected <-chan struct{}
	// LeaderAlive says that the leader renewed its lease a moment ago. It is nil when
	// there is no election.
	LeaderAlive func(now time.Time) bool

	// LabelProblem says why routing could not set or remove an active label of the
	// Vault the last time; it is empty when it could. It may be nil.
	LabelProblem func(vault types.NamespacedName) string
	// Busy says that routing has many labels to change. It may be nil.
	Busy func() bool

	starts    pods.Starts
	unsettled sync.Map // types.UID of a Vault to the time.Time since which it is unsettled
	written   sync.Map // types.UID of a Vault to the writtenStatus
	postponed sync.Map // types.UID of a Vault to the time.Time since which routing goes first
	renewals  renewals
	writes    writes
}

// writes bounds how often the status of each Vault is written: a node could say something else in
// each response, or show another certificate on each connection. The zero value is ready for use.
type writes struct{ limiters sync.Map } // types.UID to *rate.Limiter

// wait is for how long the status may not be written; zero if it may be.
func (w *writes) wait(vault types.UID, now time.Time) time.Duration {
	limiter, _ := w.limiters.LoadOrStore(vault, rate.NewLimiter(rate.Every(writeEvery), writesAtOnce))
	if limiter.(*rate.Limiter).AllowN(now, 1) {
		return 0
	}
	return writeEvery
}

func (w *writes) forget(vault types.UID) { w.limiters.Delete(vault) }

// writtenStatus is a status that was written, and the version of the Vault with it.
type writtenStatus struct {
	status  v1alpha1.VaultStatus
	version string
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("vaultstatus").
		// A status that another replica wrote is looked at as well.
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		Owns(&appsv1.Deployment{}).
		Owns(&appsv1.StatefulSet{}).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		Watches(&corev1.Pod{}, later{handler.EnqueueRequestsFromMapFunc(pods.ToVault)}).
		WatchesMetadata(&appsv1.ReplicaSet{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault)).
		WatchesMetadata(references.Secret(), references.SecretHandler(r)).
		WatchesMetadata(references.ConfigMap(), references.ConfigMapHandler(r)).
		WatchesRawSource(r.Engine.Source(routingFirst)).
		WatchesRawSource(r.Alarms.Source()).
		WatchesRawSource(r.Waits.Source()).
		WatchesRawSource(r.Storage.Source()).
		WatchesRawSource(r.Tokens.Source()).
		WithOptions(controller.Options{
			NeedLeaderElection:      new(false), // every replica
			MaxConcurrentReconciles: concurrency,
			RateLimiter:             pods.FastRetries(),
			ReconciliationTimeout:   reconcileTimeout,
		}).
		Complete(r)
}

// Reconcile brings the status of one Vault up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := r.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			r.Inputs.Forget(req.NamespacedName)
			forgetMetrics(req.Namespace, req.Name)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil {
		r.written.Delete(vault.UID)
		r.unsettled.Delete(vault.UID)
		r.postponed.Delete(vault.UID)
		r.starts.Observe(req.NamespacedName, nil, r.Clock.Now())
		r.renewals.forget(vault.UID)
		r.writes.forget(vault.UID)
		forgetMetrics(vault.Namespace, vault.Name)
		return reconcile.Result{}, nil
	}
	if r.postpone(&vault, r.Clock.Now()) {
		return reconcile.Result{RequeueAfter: busyCheck}, nil
	}
	f, err := r.gather(ctx, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !f.complete() {
		return reconcile.Result{}, nil // the engine calls again when it knows more
	}
	measureCertificates(f)
	measureToken(f)
	status := compute(f)
	measure(&vault, &status)
	if wait := r.settling(&vault, &status, f.now); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	if !equality.Semantic.DeepEqual(f.previous, status) {
		if !r.mayWrite(f.now) {
			return reconcile.Result{RequeueAfter: recheckInterval}, nil
		}
		if wait := r.writes.wait(vault.UID, f.now); wait > 0 {
			return reconcile.Result{RequeueAfter: wait}, nil
		}
		if again, err := r.tell(ctx, f, status); again > 0 || err != nil {
			// A Vault that was deleted meanwhile has no status.
			return reconcile.Result{RequeueAfter: again}, client.IgnoreNotFound(err)
		}
	}
	if err := f.unread(); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: f.nextCheck(&status)}, nil
}

// tell writes the status, and events of what is new in it. It returns when to try again.
func (r *Reconciler) tell(ctx context.Context, f *facts, status v1alpha1.VaultStatus) (time.Duration, error) {
	err := r.write(ctx, f.vault, status)
	if apierrors.IsConflict(err) && r.standsIn() {
		return recheckInterval, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range transitions(&f.previous, &status) {
		r.Recorder.Event(f.vault, e.kind, e.reason, e.message)
	}
	return 0, nil
}

// postpone says that routing goes first, because many Vaults fail over at once.
func (r *Reconciler) postpone(vault *v1alpha1.Vault, now time.Time) bool {
	if r.Busy != nil && r.Busy() {
		since, _ := r.postponed.LoadOrStore(vault.UID, now)
		if now.Sub(since.(time.Time)) < postponeFor {
			return true
		}
	}
	r.postponed.Delete(vault.UID)
	return false
}

// nextCheck is how long to wait until time alone changes the status, or what is not
// watched; zero if never.
func (f *facts) nextCheck(status *v1alpha1.VaultStatus) time.Duration {
	if unsettled(status) {
		return unsettledCheck // why a label could not be set
	}
	next := nextCertificateCheck(f)
	// Events say why a member is missing.
	soon := f.storage.changes
	for _, starting := range f.starting {
		soon = soon || starting
	}
	// They also say why a volume of a pod is missing.
	for i := range f.pods {
		soon = soon || unscheduled(&f.pods[i]) != nil && len(claims(&f.pods[i])) > 0
	}
	if soon && (next == 0 || next > startingCheck) {
		return startingCheck
	}
	return next
}

// settling returns for how long to wait before a status is written that tells of a
// label which is not where it belongs: routing is about to put that right.
func (r *Reconciler) settling(vault *v1alpha1.Vault, status *v1alpha1.VaultStatus, now time.Time) time.Duration {
	if !unsettled(status) {
		r.unsettled.Delete(vault.UID)
		return 0
	}
	since, _ := r.unsettled.LoadOrStore(vault.UID, now)
	return settleTime - now.Sub(since.(time.Time))
}

// unsettled says that more than one node claims to be active, or the active one is
// not in the Service.
func unsettled(status *v1alpha1.VaultStatus) bool {
	available := meta.FindStatusCondition(status.Conditions, v1alpha1.AvailableCondition)
	return len(status.VaultStatus.ActiveClaims) > 0 || available != nil && available.Reason == v1alpha1.ReasonNotInService
}

// mayWrite says that this replica leads, or that the one that does is silent.
func (r *Reconciler) mayWrite(now time.Time) bool {
	return !r.standsIn() || !r.LeaderAlive(now)
}

// standsIn says that another replica may lead.
func (r *Reconciler) standsIn() bool {
	if r.LeaderAlive == nil {
		return false
	}
	select {
	case <-r.Elected:
		return false
	default:
		return true
	}
}

// gather collects the facts of a Vault.
func (r *Reconciler) gather(ctx context.Context, vault *v1alpha1.Vault) (*facts, error) {
	f := &facts{vault: vault, previous: r.previous(vault), now: r.Clock.Now()}
	var err error
	if f.pods, err = pods.List(ctx, r, vault); err != nil {
		return nil, err
	}
	f.observations = r.Engine.Observations(client.ObjectKeyFromObject(vault))
	if r.LabelProblem != nil {
		if problem := r.LabelProblem(client.ObjectKeyFromObject(vault)); problem != "" {
			f.labelProblem = ": " + problem
		}
	}
	f.starting = r.starts.Observe(client.ObjectKeyFromObject(vault), f.pods, f.now)
	if f.workload, err = workload.GetWithRevision(ctx, r, vault); err != nil {
		return nil, err
	}
	if err := r.gatherStorage(ctx, f); err != nil {
		return nil, err
	}
	r.gatherClaims(ctx, f)
	f.token, f.tokenLooked = r.Tokens.Of(vault)
	if f.workload != nil && f.set != nil && f.set.UID == f.workload.GetUID() {
		f.workload.Causes = f.causes[f.set.UID]
	}
	f.inputs = maps.Clone(r.Inputs.Check(ctx, vault))
	f.certificates, f.inputs[v1alpha1.TLSReadyCondition] = r.certificates(ctx, vault, f.now)
	return f, nil
}

// gatherStorage collects what is known of the storage.
func (r *Reconciler) gatherStorage(ctx context.Context, f *facts) error {
	state, err := storage.Load(ctx, r, f.vault)
	if err != nil {
		return err
	}
	f.set, f.members, f.claims = state.Set, state.Members, state.Claims
	f.alarm = r.Alarms.Raised(client.ObjectKeyFromObject(f.vault))
	f.disagree = r.Alarms.Disagreement(f.vault)
	if r.Storage != nil {
		f.notGrown = r.Storage.Expansion(f.vault)
	}
	f.waits = r.Waits.Of(client.ObjectKeyFromObject(f.vault))
	f.causes = map[types.UID][]string{}
	for _, uid := range state.Unexplained() {
		// A status without the cause is better than none.
		if f.causes[uid], err = r.Causes.Of(ctx, f.vault.Namespace, uid); err != nil {
			log.FromContext(ctx).V(1).Info("No cause is known of what the storage lacks", "error", err.Error())
		}
	}
	return nil
}

// previous is the status that was written last. The one in the cache may be older
// than what this replica wrote, and would make the same events happen twice.
func (r *Reconciler) previous(vault *v1alpha1.Vault) v1alpha1.VaultStatus {
	if last, ok := r.written.Load(vault.UID); ok {
		last := last.(writtenStatus)
		order, err := resourceversion.CompareResourceVersion(vault.ResourceVersion, last.version)
		if err == nil && order < 0 {
			return last.status
		}
	}
	return owned(vault.Status)
}

// owned is the part of the status that this controller writes.
func owned(status v1alpha1.VaultStatus) v1alpha1.VaultStatus {
	result := *status.DeepCopy()
	result.DeployedRelease, result.Initialization, result.Unseal, result.OperatorLogin = nil, nil, nil, nil
	result.Raft, result.Conditions = nil, nil
	types := map[string]bool{}
	for _, t := range v1alpha1.VaultConditions {
		types[t] = true
	}
	for _, condition := range status.Conditions {
		if types[condition.Type] {
			result.Conditions = append(result.Conditions, condition)
		}
	}
	return result
}

// write applies the status: only the fields that this controller owns.
func (r *Reconciler) write(ctx context.Context, vault *v1alpha1.Vault, status v1alpha1.VaultStatus) error {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err
	}
	applied := &unstructured.Unstructured{Object: map[string]any{"status": object}}
	applied.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	applied.SetNamespace(vault.Namespace)
	applied.SetName(vault.Name)
	applied.SetUID(vault.UID)
	if r.standsIn() {
		// What it knows may be old: the leader may have written since, such as the version of the data.
		applied.SetResourceVersion(vault.ResourceVersion)
	}
	configuration := client.ApplyConfigurationFromUnstructured(applied)
	if err := r.Status().Apply(ctx, configuration, fieldOwner, client.ForceOwnership); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	r.written.Store(vault.UID, writtenStatus{status, applied.GetResourceVersion()})
	return nil
}
