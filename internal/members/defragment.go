package members

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/pods"
)

const (
	// defragmentations is how many members of different Vaults are defragmented at the same time.
	defragmentations = 2
	// every is how often the databases of a Vault are looked at, and often when nothing can be
	// written.
	every = 5 * time.Minute
	often = 20 * time.Second
	// pause is for how long an etcd is left alone after something was done to it, and after an
	// operator has begun to lead, which does not know what another one has done.
	pause = 2 * time.Minute
	// pauseFailed is for how long it is after that has failed.
	pauseFailed = time.Hour
	// recent is for how long a member that was defragmented is not defragmented again.
	recent = 24 * time.Hour
	// defragmentTime is how long one reconciliation may take.
	defragmentTime = 3 * time.Minute
)

// Reasons of events.
const (
	eventDefragmented = "Defragmented"
	eventFailed       = "DefragmentationFailed"
	eventDisarmed     = "AlarmDisarmed"
)

// Defragmenter has etcd give back what is free within its databases: etcd uses that space again,
// but the file never becomes smaller by itself, and counts against the quota as it is. It runs on
// the leader.
type Defragmenter struct {
	client.Client
	// APIReader reads from the API server.
	APIReader client.Reader
	// Look asks a member what it says of itself.
	Look     func(ctx context.Context, pod *corev1.Pod) (etcd.Report, error)
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	// Members replaces pods, one of them at a time, and nothing is defragmented meanwhile.
	Members *Reconciler

	mu sync.Mutex
	// after is when each Vault may be touched again, and done when each pod's member was
	// defragmented.
	after map[types.NamespacedName]time.Time
	done  map[types.UID]time.Time
}

// SetupWithManager adds the controller to the manager. alarms tells of an alarm.
func (d *Defragmenter) SetupWithManager(mgr ctrl.Manager, alarms source.Source) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("defragmentation").
		For(&v1alpha1.Vault{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(alarms).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: defragmentations, RateLimiter: pods.FastRetries(), ReconciliationTimeout: defragmentTime,
		}), defragmentations/2, d)
}

// Reconcile does one step for one Vault, if there is one to do.
func (d *Defragmenter) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var vault v1alpha1.Vault
	if err := d.Get(ctx, req.NamespacedName, &vault); err != nil {
		if apierrors.IsNotFound(err) {
			d.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if vault.DeletionTimestamp != nil || !vault.HasEtcd() {
		return reconcile.Result{}, nil
	}
	if wait := d.wait(req.NamespacedName); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	// What the caches have tells nearly always that there is nothing to do.
	members, _, err := d.look(ctx, d, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	wanted := vault.WantedMembers()
	if nextStep(members, wanted) == (step{}) {
		return reconcile.Result{RequeueAfter: again(members)}, nil
	}
	if !d.Members.take(req.NamespacedName) {
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	defer d.Members.giveBack(req.NamespacedName)
	members, found, err := d.look(ctx, d.APIReader, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	next := nextStep(members, wanted)
	if next == (step{}) {
		return reconcile.Result{RequeueAfter: again(members)}, nil
	}
	config, err := certs.EtcdClient(ctx, d.APIReader, &vault)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := d.do(ctx, &vault, next, found, config); err != nil {
		if next.CountAgain != "" { // nothing was touched
			d.leave(req.NamespacedName, pause)
			return reconcile.Result{}, err
		}
		d.leave(req.NamespacedName, pauseFailed)
		if errors.Is(err, context.Canceled) {
			return reconcile.Result{}, err // the operator ends
		}
		log.FromContext(ctx).Error(err, "A step of the defragmentation failed")
		d.Recorder.Event(&vault, corev1.EventTypeWarning, eventFailed, err.Error())
		return reconcile.Result{RequeueAfter: pauseFailed}, nil
	}
	d.leave(req.NamespacedName, pause)
	return reconcile.Result{RequeueAfter: pause}, nil
}

// again is when to look again.
func again(members []member) time.Duration {
	if slices.ContainsFunc(members, func(m member) bool { return m.Report.Alarm == etcd.NoSpace }) {
		return often
	}
	return every
}

// look returns the members by what the reader has, and by what they say now, and their pods.
func (d *Defragmenter) look(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) ([]member, map[types.UID]*corev1.Pod, error) {
	members, found, err := membersOf(ctx, reader, vault)
	if err != nil {
		return nil, nil, err
	}
	readReports(ctx, d.Look, members, found, vault.WantedMembers())
	byUID := map[types.UID]*corev1.Pod{}
	for i, pod := range found {
		byUID[pod.UID] = pod
		members[i].Recent = d.isRecent(pod.UID)
	}
	return members, byUID, nil
}

// do does a step.
func (d *Defragmenter) do(
	ctx context.Context, vault *v1alpha1.Vault, next step, found map[types.UID]*corev1.Pod, config *tls.Config,
) error {
	pod := found[cmp.Or(next.Defragment, next.From, next.Disarm, next.CountAgain)]
	member, err := etcd.NewMember(pod, config)
	if err != nil {
		return err
	}
	switch {
	case next.Defragment != "":
		return d.defragment(ctx, vault, pod, member)
	case next.From != "":
		log.FromContext(ctx).Info("The leader of etcd hands over, to be defragmented", "pod", pod.Name)
		if err := member.MoveLeader(ctx, next.To); err != nil {
			return fmt.Errorf("the leader %s could not hand over before it is defragmented: %w", pod.Name, err)
		}
	case next.CountAgain != "":
		log.FromContext(ctx).Info("Having etcd, which has no room, count again what is in use")
		if err := member.CountAgain(ctx); err != nil {
			return fmt.Errorf("etcd has no room, and could not be asked to count again what is in use: %w", err)
		}
	default:
		log.FromContext(ctx).Info("Taking an alarm of etcd back, for there is room again")
		if err := member.Disarm(ctx); err != nil {
			return fmt.Errorf("etcd has room again, but its alarm could not be disarmed: %w", err)
		}
		d.Recorder.Event(vault, corev1.EventTypeNormal, eventDisarmed,
			"The storage has room again and can be written to: the alarm of etcd was disarmed")
	}
	return nil
}

func (d *Defragmenter) defragment(
	ctx context.Context, vault *v1alpha1.Vault, pod *corev1.Pod, member *etcd.Member,
) error {
	before, err := d.Look(ctx, pod)
	if err != nil {
		return fmt.Errorf("member %s does not respond: %w", pod.Name, err)
	}
	log.FromContext(ctx).Info("Defragmenting an etcd member", "pod", pod.Name, "bytes", before.Size, "inUse", before.InUse)
	if err := member.Defragment(ctx); err != nil {
		return fmt.Errorf("member %s could not be defragmented, which is tried again in an hour: %w", pod.Name, err)
	}
	d.note(pod.UID)
	after, err := d.Look(ctx, pod)
	if err != nil {
		return fmt.Errorf("member %s does not respond after it was defragmented: %w", pod.Name, err)
	}
	d.Recorder.Eventf(vault, corev1.EventTypeNormal, eventDefragmented,
		"The database of member %s was defragmented, from %d MiB to %d MiB", pod.Name,
		before.Size/mebibyte, after.Size/mebibyte)
	return nil
}

// wait is for how long the Vault is left alone. One that is seen for the first time is for a while.
func (d *Defragmenter) wait(vault types.NamespacedName) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.after == nil {
		d.after = map[types.NamespacedName]time.Time{}
	}
	after, seen := d.after[vault]
	if !seen {
		after = d.Clock.Now().Add(pause)
		d.after[vault] = after
	}
	return after.Sub(d.Clock.Now())
}

func (d *Defragmenter) leave(vault types.NamespacedName, pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.after[vault] = d.Clock.Now().Add(pause)
}

func (d *Defragmenter) forget(vault types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.after, vault)
}

func (d *Defragmenter) isRecent(pod types.UID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, done := d.done[pod]
	return done && d.Clock.Since(at) < recent
}

// note notes that the member of a pod was defragmented, and forgets what is not recent anymore.
func (d *Defragmenter) note(pod types.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = map[types.UID]time.Time{}
	}
	for uid, at := range d.done {
		if d.Clock.Since(at) >= recent {
			delete(d.done, uid)
		}
	}
	d.done[pod] = d.Clock.Now()
}
