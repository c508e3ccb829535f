// Package backupproof proves backups of VaultBackupSchedules: at its times the newest one is restored into a Vault
// that is made for that, and deleted afterwards. It is the only writer of that Vault and of all that belongs to
// it, of status.proof and the condition Proven of schedules, and of the levels restored and unsealed of backups.
//
// What was restored and unsealed is a live copy: it would revoke leases that have expired, and change the
// passwords of the databases that it manages, beside the Vault that does. So it is given keys only where it was
// shown before that it can reach nothing, and what isolates it goes after its last pod.
package backupproof

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupjob"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	concurrency = 4
	// pageSize is how many NetworkPolicies of a namespace are in memory at once.
	pageSize = 25
	// refusedLong is for how long the API server has to refuse something until the proof ends.
	refusedLong = time.Minute

	eventBegun     = "ProofBegun"
	eventSucceeded = "ProofSucceeded"
	eventFailed    = "ProofFailed"
	// eventNotRenewed: the token of the canary could not be renewed.
	eventNotRenewed = "CanaryTokenNotRenewed"
)

// Reconciler proves backups. It runs on the leader.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server.
	APIReader client.Reader
	// Jobs makes the Jobs that find out what pods can reach.
	Jobs     *backupjob.Reconciler
	Engine   *probe.Engine
	Recorder record.EventRecorder
	Clock    clock.PassiveClock

	started backupschedule.Start

	mu sync.Mutex
	// refused is since when the API server has refused what the proof of a schedule needs, by its UID.
	refused map[types.UID]time.Time
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("backupproof").
		For(&v1alpha1.VaultBackupSchedule{}).
		Owns(&v1alpha1.VaultRestore{}).
		Owns(&batchv1.Job{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency, RateLimiter: pods.SlowRetries()}),
		concurrency/2, r)
}

// Reconcile does the next step of the proof of one schedule.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var s v1alpha1.VaultBackupSchedule
	if err := r.Get(ctx, req.NamespacedName, &s); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	condition := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition)
	if s.Spec.Proof == nil && s.Status.Proof == nil && condition == nil && !hasFinalizer(&s) {
		return reconcile.Result{}, nil
	}
	f, err := r.facts(ctx, &s)
	if err != nil {
		return reconcile.Result{}, err
	}
	d := decide(f)
	err = r.act(ctx, f, d)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) { // what was decided on is old
		return reconcile.Result{RequeueAfter: look}, nil
	}
	return reconcile.Result{RequeueAfter: d.Again}, err
}

// facts reads what is known of a schedule and its proof.
func (r *Reconciler) facts(ctx context.Context, s *v1alpha1.VaultBackupSchedule) (*facts, error) {
	f := &facts{Schedule: s, Now: r.Clock.Now()}
	f.Started = r.started.At(f.Now)
	var err error
	if f.Origin, err = read(ctx, r, s.Namespace, string(s.Spec.Vault), &v1alpha1.Vault{}); err != nil {
		return nil, err
	}
	if err := r.ofBackup(ctx, f); err != nil {
		return nil, err
	}
	name := s.ProofName()
	if f.Vault, err = read(ctx, r, s.Namespace, name, &v1alpha1.Vault{}); err != nil {
		return nil, err
	}
	if f.Restore, err = read(ctx, r, s.Namespace, name, &v1alpha1.VaultRestore{}); err != nil {
		return nil, err
	}
	if err := r.around(ctx, f); err != nil {
		return nil, err
	}
	if !wanted(s) || !s.Proving() || f.Origin == nil {
		return f, nil
	}
	if unseals(f.Origin) || f.Vault != nil && unseals(f.Vault) {
		if f.LetsOut, err = r.letsOut(ctx, f); err != nil {
			return nil, err
		}
	}
	return f, r.readNodes(ctx, f)
}

// readNodes reads what the nodes tell, once the backup is restored.
func (r *Reconciler) readNodes(ctx context.Context, f *facts) error {
	if f.Vault == nil || f.Restore == nil || !f.Restore.Completed() {
		return nil
	}
	node, active, err := r.node(ctx, f.Vault)
	if node == nil || err != nil {
		return err
	}
	if f.Seal = sealOf(ctx, node); f.Seal == nil || !active {
		return nil
	}
	f.Active, f.Mounts = true, node.Mounts(ctx) == nil
	// What the Vault of this name is now is nothing to compare with if it is another one.
	if f.ofOrigin() {
		origin, _, err := r.node(ctx, f.Origin)
		if err != nil {
			return err
		}
		if origin != nil {
			if seal := sealOf(ctx, origin); seal != nil {
				f.ClusterID = seal.ClusterID
			}
		}
	}
	f.Canary = r.canary(ctx, f, node)
	return nil
}

// read returns an object of the cache, or nil.
func read[T client.Object](ctx context.Context, reader client.Reader, namespace, name string, object T) (T, error) {
	err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, object)
	if err == nil {
		return object, nil
	}
	var none T
	if apierrors.IsNotFound(err) {
		return none, nil
	}
	return none, fmt.Errorf("reading %s: %w", name, err)
}

// ofBackup reads the backup that is being proven, or the newest that has succeeded.
func (r *Reconciler) ofBackup(ctx context.Context, f *facts) error {
	s := f.Schedule
	var list v1alpha1.VaultBackupList
	err := r.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingLabels{v1alpha1.ScheduleLabel: s.Name})
	if err != nil {
		return fmt.Errorf("listing the backups of the schedule: %w", err)
	}
	for i := range list.Items {
		b := &list.Items[i]
		if b.Spec.Vault != s.Spec.Vault || !b.Succeeded() {
			continue
		}
		if s.Proving() && b.Name == s.Status.Proof.Backup || !s.Proving() && b.DeletionTimestamp == nil &&
			(f.Backup == nil || f.Backup.CreationTimestamp.Before(&b.CreationTimestamp)) {
			f.Backup = b
		}
	}
	return nil
}

// around reads what there is around the Vault of a proof.
func (r *Reconciler) around(ctx context.Context, f *facts) (err error) {
	s := f.Schedule
	namespace, name := s.Namespace, s.ProofName()
	// The cache leaves out what others have made, and may be behind. While nothing runs it is good enough.
	var policies client.Reader = r.Client
	job := func(suffix string) (*batchv1.Job, error) { return read(ctx, r, namespace, name+suffix, &batchv1.Job{}) }
	if s.Proving() {
		policies = r.APIReader
		if f.Vault == nil {
			job = func(suffix string) (*batchv1.Job, error) { return r.Jobs.JobNamed(ctx, namespace, name+suffix) }
		}
	}
	f.Policy, err = read(ctx, policies, namespace, name+isolationSuffix, &networkingv1.NetworkPolicy{})
	if err != nil {
		return err
	}
	if f.Isolated, err = job(isolationSuffix); err != nil {
		return err
	}
	if f.Control, err = job(reachSuffix); err != nil {
		return err
	}
	f.Account, err = read(ctx, r, namespace, v1alpha1.BackupAccountName(name), &corev1.ServiceAccount{})
	if err != nil {
		return err
	}
	ofVault := client.MatchingLabels{v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: name}
	var list corev1.PodList
	if err := r.List(ctx, &list, client.InNamespace(namespace), ofVault); err != nil {
		return fmt.Errorf("listing the pods of the proof: %w", err)
	}
	f.Pods = list.Items
	var claims corev1.PersistentVolumeClaimList
	if err := r.List(ctx, &claims, client.InNamespace(namespace), ofVault); err != nil {
		return fmt.Errorf("listing the volume claims of the proof: %w", err)
	}
	f.Claims = claims.Items
	return nil
}

// letsOut is the name of a NetworkPolicy that may let the nodes out, or nothing.
func (r *Reconciler) letsOut(ctx context.Context, f *facts) (string, error) {
	s, next := f.Schedule, ""
	for {
		var list networkingv1.NetworkPolicyList
		err := r.APIReader.List(ctx, &list, client.InNamespace(s.Namespace), client.Limit(pageSize), client.Continue(next))
		if err != nil {
			return "", fmt.Errorf("listing the NetworkPolicies of the namespace: %w", err)
		}
		for i := range list.Items {
			if policy := &list.Items[i]; !s.IsOf(policy) && letsOut(policy, s.ProofName()) {
				return policy.Name, nil
			}
		}
		if next = list.Continue; next == "" {
			return "", nil
		}
	}
}

// sealOf is what a node says of its seal now, or nil when it does not say: it is asked again.
func sealOf(ctx context.Context, node *vaultclient.Client) *vaultclient.SealStatus {
	status, err := node.SealStatus(ctx)
	if err != nil {
		return nil
	}
	return status
}

// node is a client of a node of the Vault that responds, the active one if there is one, and whether it is that.
// It is nil when none responds.
func (r *Reconciler) node(ctx context.Context, vault *v1alpha1.Vault) (*vaultclient.Client, bool, error) {
	list, err := pods.List(ctx, r, vault)
	if err != nil {
		return nil, false, err
	}
	key := client.ObjectKeyFromObject(vault)
	observations := r.Engine.Observations(key)
	var responding *corev1.Pod
	for i := range list {
		pod := &list[i]
		if !pods.Running(pod) || pods.Terminating(pod) || !observations[pod.UID].State.Responded() {
			continue
		}
		if responding == nil || observations[pod.UID].State == probe.Active {
			responding = pod
		}
	}
	if responding == nil {
		return nil, false, nil
	}
	target, known := r.Engine.Target(key, responding.UID)
	if !known {
		return nil, false, nil
	}
	return vaultclient.New(target), observations[responding.UID].State == probe.Active, nil
}

// act does what was decided, and tells of it. What is told is told of the version of the schedule that was decided
// on, so that a cache which is behind begins nothing twice.
func (r *Reconciler) act(ctx context.Context, f *facts, d decision) error {
	s := f.Schedule
	if d.Finalizer {
		before := s.DeepCopy()
		if controllerutil.AddFinalizer(s, v1alpha1.ProofFinalizer) {
			if err := r.patch(ctx, s, before); err != nil {
				return err
			}
		}
	}
	if err := r.prove(ctx, f, d); err != nil {
		return err
	}
	if err := r.tell(ctx, s, d); err != nil {
		return err
	}
	for _, object := range d.Delete {
		uid := object.GetUID()
		err := r.Delete(ctx, object, client.Preconditions{UID: &uid},
			client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s of a proof: %w", object.GetName(), err)
		}
	}
	if d.Release {
		before := s.DeepCopy()
		if controllerutil.RemoveFinalizer(s, v1alpha1.ProofFinalizer) {
			return r.patch(ctx, s, before)
		}
	}
	if len(d.Create) == 0 && d.FindOut == nil {
		return nil
	}
	err := r.create(ctx, f, d)
	if r.isRefused(s, err, f.Now) {
		return errors.Join(err, r.tell(ctx, s, failed(f, v1alpha1.ReasonProofRefused, "%v", err)))
	}
	return err
}

// isRefused says that the API server has refused for a while what a proof needs. What it refuses while it starts, it
// takes soon after.
func (r *Reconciler) isRefused(s *v1alpha1.VaultBackupSchedule, err error, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, before := r.refused[s.UID]
	switch {
	case problem.Refused(err) && !before:
		if r.refused == nil {
			r.refused = map[types.UID]time.Time{}
		}
		r.refused[s.UID] = now
		return false
	case problem.Refused(err) && now.Sub(since) < refusedLong:
		return false
	}
	delete(r.refused, s.UID) // the next refusal, or proof, begins anew
	return problem.Refused(err)
}

func (r *Reconciler) patch(ctx context.Context, s, before *v1alpha1.VaultBackupSchedule) error {
	return r.Patch(ctx, s, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// create makes what was decided, unless the proof has ended meanwhile.
func (r *Reconciler) create(ctx context.Context, f *facts, d decision) error {
	s := f.Schedule
	var list v1alpha1.VaultBackupScheduleList
	err := r.APIReader.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingFields{"metadata.name": s.Name})
	if err != nil {
		return fmt.Errorf("reading the schedule: %w", err)
	}
	if len(list.Items) != 1 || list.Items[0].UID != s.UID || list.Items[0].DeletionTimestamp != nil ||
		!equality.Semantic.DeepEqual(list.Items[0].Status.Proof, s.Status.Proof) {
		return nil // it is looked at when the cache has it
	}
	if d.FindOut != nil {
		if err := r.Jobs.FindOut(ctx, *d.FindOut, d.Task, &newVault(s, f.Origin, "").Spec, d.Machine); err != nil {
			return fmt.Errorf("finding out whether NetworkPolicies are enforced: %w", err)
		}
	}
	for _, object := range d.Create {
		if err := r.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making %s for a proof: %w", object.GetName(), err)
		}
	}
	return nil
}

// prove writes the levels that were shown into the status of the backup.
func (r *Reconciler) prove(ctx context.Context, f *facts, d decision) error {
	if !d.Restored || f.Backup == nil {
		return nil
	}
	b, before := f.Backup.DeepCopy(), f.Backup
	if b.Status.Proven == nil {
		b.Status.Proven = &v1alpha1.BackupProof{}
	}
	// The Job that restored it has read it again, compared its digest and checked that it is complete.
	b.Status.Proven.Stored, b.Status.Proven.Intact, b.Status.Proven.Restored = now(f), now(f), now(f)
	if d.Unsealed {
		b.Status.Proven.Unsealed = now(f)
	}
	if d.Canary {
		b.Status.Proven.Canary = now(f)
	}
	if f.Canary != nil && f.Canary.read {
		r.renewCanary(ctx, f)
	}
	return r.Status().Patch(ctx, b, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// tell writes the status of the schedule, and the events. The controller of schedules writes conditions as well,
// so that each writes only what it has read.
func (r *Reconciler) tell(ctx context.Context, s *v1alpha1.VaultBackupSchedule, d decision) error {
	before := s.DeepCopy()
	if d.Proof != nil {
		s.Status.Proof = d.Proof
	}
	if c := d.Condition; c != nil {
		c.Type, c.Message, c.ObservedGeneration = v1alpha1.ProvenCondition, message.Cut(c.Message), s.Generation
		c.LastTransitionTime = metav1.Time{Time: r.Clock.Now()}.Rfc3339Copy()
		meta.SetStatusCondition(&s.Status.Conditions, *c)
	}
	if d.Forget {
		s.Status.Proof = nil
		meta.RemoveStatusCondition(&s.Status.Conditions, v1alpha1.ProvenCondition)
	}
	if equality.Semantic.DeepEqual(before.Status, s.Status) {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Status().Patch(ctx, s, patch); err != nil {
		return err
	}
	r.event(s, d, meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ProvenCondition))
	return nil
}

func (r *Reconciler) event(s *v1alpha1.VaultBackupSchedule, d decision, old *metav1.Condition) {
	switch {
	case d.Proof != nil && d.Proof.Phase == v1alpha1.ProofRunning:
		r.Recorder.Eventf(s, corev1.EventTypeNormal, eventBegun, "The backup %s is restored into the Vault %s, which is "+
			"deleted afterwards", d.Proof.Backup, d.Proof.Vault)
	case d.Proof != nil && d.Condition != nil && d.Condition.Status == metav1.ConditionTrue:
		r.Recorder.Event(s, corev1.EventTypeNormal, eventSucceeded, d.Condition.Message)
	case d.Condition != nil && d.Condition.Status == metav1.ConditionFalse &&
		(d.Proof != nil || old == nil || old.Reason != d.Condition.Reason):
		r.Recorder.Eventf(s, corev1.EventTypeWarning, eventFailed, "%s: %s", d.Condition.Reason, d.Condition.Message)
	}
}
