// Package backupschedule has the backups of VaultBackupSchedules made, at their times and before
// upgrades, and deletes those that are not to be kept any more.
package backupschedule

import (
	"context"
	"fmt"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/problem"
)

const (
	concurrency = 4
	// lookAgain is how often it is looked whether a backup is due, so that a clock that was set
	// is noticed.
	lookAgain = 5 * time.Minute
	// waitAgain is how often it is looked whether a Vault has data, for a first backup.
	waitAgain = 20 * time.Second
	// eventExpired is the reason of the event of a backup that retention deletes.
	eventExpired = "BackupExpired"
)

// Reconciler follows schedules. It runs on the leader.
type Reconciler struct {
	client.Client
	Recorder record.EventRecorder
	Clock    clock.PassiveClock

	started Start
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("backupschedule").
		For(&v1alpha1.VaultBackupSchedule{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.VaultBackup{}, handler.EnqueueRequestsFromMapFunc(ofSchedule)).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency, RateLimiter: pods.SlowRetries()}),
		concurrency/2, r)
}

// ofSchedule maps a backup to its schedule.
func ofSchedule(_ context.Context, object client.Object) []reconcile.Request {
	name := object.GetLabels()[v1alpha1.ScheduleLabel]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name}}}
}

// Reconcile has a backup of one schedule made if one is due, and deletes those that have expired.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var s v1alpha1.VaultBackupSchedule
	if err := r.Get(ctx, req.NamespacedName, &s); err != nil {
		if apierrors.IsNotFound(err) {
			forget(req.Namespace, req.Name)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if s.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	backups, err := r.backups(ctx, &s)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := s.DeepCopy()
	// A quota may refuse a backup because none has been deleted.
	retained := r.retain(ctx, &s, backups)
	again, err := r.follow(ctx, &s, backups)
	if err == nil {
		err = retained
	}
	if problem.Refused(err) {
		r.condition(&s, metav1.ConditionFalse, v1alpha1.ReasonBackupRefused, err.Error())
		again, err = waitAgain, nil
	}
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	observe(&s, backups)
	measure(&s, backups)
	if equality.Semantic.DeepEqual(before.Status, s.Status) {
		return reconcile.Result{RequeueAfter: again}, nil
	}
	// Conditions are replaced as a whole, and one of them is that of proofs.
	err = r.Status().Patch(ctx, &s, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{RequeueAfter: again}, client.IgnoreNotFound(err)
}

// retain deletes the backups that are not to be kept any more. What is suspended is left as it is, and so are
// backups that are being proven or restored.
func (r *Reconciler) retain(
	ctx context.Context, s *v1alpha1.VaultBackupSchedule, backups []*v1alpha1.VaultBackup,
) error {
	gone := expired(backups, s.Spec.Retention)
	if len(gone) == 0 || s.Spec.Suspend {
		return nil
	}
	inUse := map[string]bool{}
	if s.Proving() {
		inUse[s.Status.Proof.Backup] = true
	}
	var restores v1alpha1.VaultRestoreList
	if err := r.List(ctx, &restores, client.InNamespace(s.Namespace)); err != nil {
		return fmt.Errorf("listing VaultRestores: %w", err)
	}
	for i := range restores.Items {
		if x := &restores.Items[i]; !x.Completed() {
			inUse[string(x.Spec.Backup)] = true
			if x.Spec.From != nil {
				inUse[path.Base(x.Spec.From.Name)+backup.SnapshotSuffix] = true
			}
		}
	}
	for _, b := range gone {
		if inUse[b.Name] || inUse[path.Base(b.Status.Location)] {
			continue
		}
		if err := r.expire(ctx, s, b); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// backups are those of the schedule.
func (r *Reconciler) backups(ctx context.Context, s *v1alpha1.VaultBackupSchedule) ([]*v1alpha1.VaultBackup, error) {
	var list v1alpha1.VaultBackupList
	err := r.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingLabels{v1alpha1.ScheduleLabel: s.Name})
	if err != nil {
		return nil, fmt.Errorf("listing the backups of the schedule: %w", err)
	}
	var backups []*v1alpha1.VaultBackup
	for i := range list.Items {
		// Of another Vault are those of an earlier schedule of this name.
		if b := &list.Items[i]; b.Spec.Vault == s.Spec.Vault {
			backups = append(backups, b)
		}
	}
	return backups, nil
}

// follow has a backup made if one is due, and says when to look again.
func (r *Reconciler) follow(
	ctx context.Context, s *v1alpha1.VaultBackupSchedule, backups []*v1alpha1.VaultBackup,
) (time.Duration, error) {
	s.Status.NextScheduleTime = nil
	p, err := NewPlan(s.Spec.Schedule, s.Spec.TimeZone, s.UID)
	if err != nil {
		r.condition(s, metav1.ConditionFalse, v1alpha1.ReasonScheduleInvalid, err.Error())
		return 0, nil
	}
	now := r.Clock.Now()
	latest, next := p.Due(lastTime(s, now), now)
	if s.Spec.Suspend {
		if !latest.IsZero() {
			s.Status.LastScheduleTime = &metav1.Time{Time: latest}
		}
		r.condition(s, metav1.ConditionFalse, v1alpha1.ReasonSuspended, "No backups are begun: spec.suspend is set")
		return lookAgain, nil
	}
	at := p.Begins(next)
	if late := p.Late(latest, r.started.At(now)); late.After(now) {
		at, latest = late, time.Time{}
	}
	begins := metav1.NewTime(at).Rfc3339Copy()
	s.Status.NextScheduleTime = &begins
	again := min(max(begins.Sub(now), time.Second), lookAgain)
	if s.Spec.Immediate && s.Status.LastScheduleTime == nil && len(backups) == 0 {
		// There is nothing to copy before, even if a time of the schedule comes.
		if ready, err := r.initialized(ctx, s); err != nil || !ready {
			r.judge(s, backups)
			return min(again, waitAgain), err
		}
		if latest.IsZero() {
			latest = s.CreationTimestamp.Time
		}
	}
	if !latest.IsZero() && !underWay(backups) {
		if err := r.Create(ctx, newBackup(s, nameAt(s.Name, latest))); err != nil && !apierrors.IsAlreadyExists(err) {
			return 0, fmt.Errorf("making the backup that is due: %w", err)
		}
		s.Status.LastScheduleTime = &metav1.Time{Time: latest}
	}
	r.judge(s, backups)
	return again, nil
}

// lastTime is the last time of which a backup was made, or skipped.
func lastTime(s *v1alpha1.VaultBackupSchedule, now time.Time) time.Time {
	if s.Status.LastScheduleTime == nil {
		return s.CreationTimestamp.Time
	}
	*s.Status.LastScheduleTime = NotAfter(*s.Status.LastScheduleTime, now)
	return s.Status.LastScheduleTime.Time
}

// underWay says that a backup is being made: the next one waits.
func underWay(backups []*v1alpha1.VaultBackup) bool {
	for _, b := range backups {
		if !b.Completed() && b.DeletionTimestamp == nil {
			return true
		}
	}
	return false
}

func (r *Reconciler) initialized(ctx context.Context, s *v1alpha1.VaultBackupSchedule) (bool, error) {
	var vault v1alpha1.Vault
	err := r.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: string(s.Spec.Vault)}, &vault)
	return err == nil && vault.Status.Initialized, client.IgnoreNotFound(err)
}

// newBackup is a backup of a schedule.
func newBackup(s *v1alpha1.VaultBackupSchedule, name string) *v1alpha1.VaultBackup {
	return &v1alpha1.VaultBackup{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: name, Labels: map[string]string{v1alpha1.ScheduleLabel: s.Name},
		},
		Spec: v1alpha1.VaultBackupSpec{
			Vault: s.Spec.Vault, Destination: *s.Spec.Destination.DeepCopy(), TokenSecretName: s.Spec.TokenSecretName,
		},
	}
}

// expire deletes a backup with what is stored. Until here deleting it would keep that.
func (r *Reconciler) expire(ctx context.Context, s *v1alpha1.VaultBackupSchedule, b *v1alpha1.VaultBackup) error {
	before := b.DeepCopy()
	b.Spec.DeletionPolicy = v1alpha1.DeleteData
	controllerutil.AddFinalizer(b, v1alpha1.BackupFinalizer)
	if err := r.Patch(ctx, b, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	version := b.ResourceVersion
	err := r.Delete(ctx, b, client.Preconditions{UID: &b.UID, ResourceVersion: &version})
	if err != nil {
		return err
	}
	r.Recorder.Eventf(s, corev1.EventTypeNormal, eventExpired, "Backup %s is deleted, as spec.retention says", b.Name)
	return nil
}

// judge says whether the newest backup did not fail.
func (r *Reconciler) judge(s *v1alpha1.VaultBackupSchedule, backups []*v1alpha1.VaultBackup) {
	var newest *v1alpha1.VaultBackup
	for _, b := range backups {
		if b.Completed() && b.DeletionTimestamp == nil && (newest == nil || newestFirst(b, newest) < 0) {
			newest = b
		}
	}
	if newest == nil || newest.Succeeded() {
		r.condition(s, metav1.ConditionTrue, v1alpha1.ReasonScheduled, "The next backup is made at its time")
		return
	}
	why := ""
	if c := meta.FindStatusCondition(newest.Status.Conditions, v1alpha1.BackupSucceededCondition); c != nil {
		why = fmt.Sprintf(" (%s): %s", c.Reason, c.Message)
	}
	r.condition(s, metav1.ConditionFalse, v1alpha1.ReasonLastBackupFailed, "The backup "+newest.Name+" failed"+why)
}

func (r *Reconciler) condition(s *v1alpha1.VaultBackupSchedule, is metav1.ConditionStatus, reason, text string) {
	old := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ReadyCondition)
	if is == metav1.ConditionFalse && reason != v1alpha1.ReasonSuspended && (old == nil || old.Reason != reason) {
		r.Recorder.Event(s, corev1.EventTypeWarning, reason, text)
	}
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ReadyCondition, Status: is, Reason: reason, Message: message.Cut(text),
		ObservedGeneration: s.Generation, LastTransitionTime: metav1.Time{Time: r.Clock.Now()}.Rfc3339Copy(),
	})
}

// observe writes what its backups tell into the status of a schedule.
func observe(s *v1alpha1.VaultBackupSchedule, backups []*v1alpha1.VaultBackup) {
	s.Status.ObservedGeneration = s.Generation
	var newest *v1alpha1.VaultBackup
	for _, b := range backups {
		if newest == nil || newestFirst(b, newest) < 0 {
			newest = b
		}
		// The time stays when the backup is gone.
		if at := b.Status.CompletionTime; b.Succeeded() &&
			(s.Status.LastSuccessfulTime == nil || s.Status.LastSuccessfulTime.Before(at)) {
			s.Status.LastSuccessfulTime = at.DeepCopy()
		}
	}
	if newest != nil {
		s.Status.LastBackup = newest.Name
	}
}
