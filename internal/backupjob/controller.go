// Package backupjob makes the backups that VaultBackups ask for and the restores that VaultRestores
// ask for, each by a Job with the operator's own image that runs package backup, and deletes what is
// stored of backups that are deleted. Into which Vault a backup can be restored is in package restore.
package backupjob

import (
	"context"
	"errors"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
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
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
)

const (
	concurrency = 4
	// eventDeleted is the reason of the event of a backup whose content was deleted.
	eventDeleted = "BackupDeleted"
	// eventKept is that of a backup that went without.
	eventKept = "BackupKept"
)

// Reconciler makes and deletes backups. It runs on the leader.
type Reconciler struct {
	client.Client
	// APIReader reads from the API server.
	APIReader client.Reader
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	// Image returns the image of the operator, which the Jobs run.
	Image func(context.Context) (string, error)
	// OpenShift says that security context constraints choose users.
	OpenShift bool
}

// SetupWithManager adds the reconciler to the manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("backup").
		For(&v1alpha1.VaultBackup{}).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(namedBy(v1alpha1.BackupLabel))).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency, RateLimiter: pods.SlowRetries()}),
		concurrency/2, r)
}

// namedBy maps the pod of a Job to what a label of it names.
func namedBy(label string) handler.MapFunc {
	return func(_ context.Context, object client.Object) []reconcile.Request {
		name := object.GetLabels()[label]
		if name == "" {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name}}}
	}
}

// Reconcile does the next step of one backup.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var b v1alpha1.VaultBackup
	if err := r.Get(ctx, req.NamespacedName, &b); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if b.DeletionTimestamp != nil && !controllerutil.ContainsFinalizer(&b, v1alpha1.BackupFinalizer) {
		return reconcile.Result{}, nil
	}
	if b.DeletionTimestamp == nil {
		if err := r.keepFinalizer(ctx, &b); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	f, caKey, err := r.facts(ctx, &b)
	if err != nil {
		return reconcile.Result{}, err
	}
	d := next(f)
	var job *batchv1.Job
	if action := toMake(f, d); action != "" {
		job, err = r.tryOut(ctx, f, action, caKey)
		switch {
		case err == nil:
		case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown: // nobody has said anything
			return reconcile.Result{}, err
		case b.DeletionTimestamp != nil && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return reconcile.Result{}, r.release(ctx, &b, false)
		case d.Create != "":
			d = refusedJob(f, action, err)
		}
	}
	return reconcile.Result{RequeueAfter: d.Again}, r.act(ctx, f, d, job)
}

// toMake is the action of the Job to make. It is also that of one that would have to be made and cannot, because a
// Secret is gone: with a whole namespace everything may go in any order.
func toMake(f *facts, d decision) backup.Action {
	if f.Backup.DeletionTimestamp != nil && d.Reason == v1alpha1.ReasonDestinationMissing {
		return backup.Delete
	}
	return d.Create
}

// tryOut returns a Job for a backup, which the API server has checked before it is counted and made: a quota or a
// policy may refuse it.
func (r *Reconciler) tryOut(
	ctx context.Context, f *facts, action backup.Action, caKey string,
) (*batchv1.Job, error) {
	image, err := r.Image(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding out the image of the operator: %w", err)
	}
	job, err := r.newJob(f.Backup, f.Vault, action, image, caKey)
	if err != nil {
		return nil, err
	}
	return job, r.check(ctx, job, string(f.Backup.Spec.Vault), f.Vault)
}

// check makes the ServiceAccount of a Job for a Vault with a name, and has the API server check the Job.
func (r *Reconciler) check(ctx context.Context, job *batchv1.Job, name string, vault *v1alpha1.Vault) error {
	if err := r.account(ctx, job.Namespace, name, vault); err != nil {
		return err
	}
	return r.create(ctx, job.DeepCopy(), client.DryRunAll)
}

// create makes a Job, if there is none yet: the cache may be behind.
func (r *Reconciler) create(ctx context.Context, job *batchv1.Job, options ...client.CreateOption) error {
	if err := r.Create(ctx, job, options...); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// next decides what to do with a backup, be it deleted or not.
func next(f *facts) decision {
	if f.Backup.DeletionTimestamp != nil {
		return decideDeletion(f)
	}
	return decide(f)
}

// keepFinalizer has the finalizer on a backup whose content is deleted with it, and on no other.
func (r *Reconciler) keepFinalizer(ctx context.Context, b *v1alpha1.VaultBackup) error {
	before := b.DeepCopy()
	var changed bool
	if b.Spec.DeletionPolicy == v1alpha1.DeleteData {
		changed = controllerutil.AddFinalizer(b, v1alpha1.BackupFinalizer)
	} else {
		changed = controllerutil.RemoveFinalizer(b, v1alpha1.BackupFinalizer)
	}
	if !changed {
		return nil
	}
	return r.Patch(ctx, b, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// facts reads what is known of a backup, and the key of the Secret that has the CA of Vault.
func (r *Reconciler) facts(ctx context.Context, b *v1alpha1.VaultBackup) (f *facts, caKey string, err error) {
	f = &facts{Backup: b, Began: b.Status.StartTime, Now: r.Clock.Now()}
	deleting := b.DeletionTimestamp != nil
	if b.Completed() && !deleting {
		return f, "", nil
	}
	vault := &v1alpha1.Vault{}
	err = r.Get(ctx, types.NamespacedName{Namespace: b.Namespace, Name: string(b.Spec.Vault)}, vault)
	if client.IgnoreNotFound(err) != nil {
		return nil, "", err
	}
	if err == nil {
		f.Vault = vault
	}
	if f.Job, err = r.job(ctx, b, backup.Backup); err != nil {
		return nil, "", err
	}
	if f.Remover, err = r.job(ctx, b, backup.Delete); err != nil {
		return nil, "", err
	}
	var list corev1.PodList
	if err := r.List(ctx, &list, client.InNamespace(b.Namespace),
		client.MatchingLabels{v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.BackupLabel: b.Name}); err != nil {
		return nil, "", fmt.Errorf("listing the pods of the backup: %w", err)
	}
	f.Pods = list.Items
	if f.Job == nil || deleting {
		caKey, f.Missing, err = r.missing(ctx, b, f.Vault, deleting)
	}
	return f, caKey, err
}

// job reads the Job that does something with a backup, or returns nil.
func (r *Reconciler) job(ctx context.Context, b *v1alpha1.VaultBackup, action backup.Action) (*batchv1.Job, error) {
	return r.JobNamed(ctx, b.Namespace, jobName(b, action))
}

// JobNamed reads a Job, or returns nil.
func (r *Reconciler) JobNamed(ctx context.Context, namespace, name string) (*batchv1.Job, error) {
	job := &batchv1.Job{}
	err := r.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, job)
	if err == nil {
		return job, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading Job %s: %w", name, err)
	}
	// The cache may be behind what was made, or leave out one of somebody else; the operator may
	// not get one.
	var list batchv1.JobList
	err = r.APIReader.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"metadata.name": name})
	if err != nil {
		return nil, fmt.Errorf("looking for Job %s: %w", name, err)
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	return &list.Items[0], nil
}

// missing says what the pod of a Job would wait for in vain.
func (r *Reconciler) missing(
	ctx context.Context, b *v1alpha1.VaultBackup, vault *v1alpha1.Vault, deleting bool,
) (caKey, missing string, err error) {
	for _, want := range wanted(b, deleting) {
		if missing, err = r.missingKeys(ctx, b.Namespace, want[0], want[1:]); missing != "" || err != nil {
			return "", missing, err
		}
	}
	if claim := b.Spec.Destination.PersistentVolumeClaim; claim != nil {
		if missing, err = r.missingClaim(ctx, b.Namespace, string(claim.ClaimName), !deleting); missing != "" || err != nil {
			return "", missing, err
		}
	}
	if deleting || vault == nil || !vault.HasRaft() {
		return "", "", nil
	}
	return r.caKey(ctx, vault)
}

// caKey is the key of the Secret with the CA of Vault that has it.
func (r *Reconciler) caKey(ctx context.Context, vault *v1alpha1.Vault) (key, missing string, err error) {
	for _, key := range []string{v1alpha1.ClientCAKey, corev1.ServiceAccountRootCAKey} {
		missing, err = r.missingKeys(ctx, vault.Namespace, vault.ClientSecretName(), []string{key})
		if missing == "" || err != nil {
			return key, missing, err
		}
	}
	return "", missing, nil
}

// wanted are the Secrets that the spec of a backup names: each name, and the keys.
func wanted(b *v1alpha1.VaultBackup, deleting bool) (secrets [][]string) {
	if s3 := b.Spec.Destination.S3; s3 != nil {
		if s3.CredentialsSecretName != "" {
			secrets = append(secrets, []string{string(s3.CredentialsSecretName), "accessKeyID", "secretAccessKey"})
		}
		if s3.CASecretName != "" {
			secrets = append(secrets, []string{string(s3.CASecretName), "ca.crt"})
		}
	}
	if b.Spec.TokenSecretName != "" && !deleting {
		secrets = append(secrets, []string{string(b.Spec.TokenSecretName), "token"})
	}
	return secrets
}

func (r *Reconciler) missingKeys(ctx context.Context, namespace, name string, keys []string) (string, error) {
	var secret corev1.Secret
	err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &secret)
	if apierrors.IsNotFound(err) {
		return fmt.Sprintf("There is no Secret %s", name), nil
	}
	if err != nil {
		return "", fmt.Errorf("reading Secret %s: %w", name, err)
	}
	for _, key := range keys {
		if len(secret.Data[key]) == 0 {
			return fmt.Sprintf("The Secret %s has no key %s", name, key), nil
		}
	}
	return "", nil
}

func (r *Reconciler) missingClaim(ctx context.Context, namespace, name string, write bool) (string, error) {
	var list corev1.PersistentVolumeClaimList
	// Another than those of Vaults is not cached, and the operator may not get one.
	err := r.APIReader.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"metadata.name": name})
	if err != nil {
		return "", fmt.Errorf("looking for the volume claim %s: %w", name, err)
	}
	if !slices.ContainsFunc(list.Items, func(c corev1.PersistentVolumeClaim) bool { return c.DeletionTimestamp == nil }) {
		return fmt.Sprintf("There is no PersistentVolumeClaim %s", name), nil
	}
	// The pod of a Job would give the files of that to its own group.
	labels := list.Items[0].Labels
	component := labels[v1alpha1.ComponentLabel]
	if write && labels[v1alpha1.NameLabel] == v1alpha1.AppName &&
		(component == v1alpha1.ServerComponent || component == v1alpha1.EtcdComponent) {
		return fmt.Sprintf("The PersistentVolumeClaim %s is of a Vault itself, and there is none for backups", name), nil
	}
	return "", nil
}

// act does what was decided, and tells of it. The Job is the one to make, if one is.
func (r *Reconciler) act(ctx context.Context, f *facts, d decision, job *batchv1.Job) error {
	b := f.Backup
	if d.Release {
		return r.release(ctx, b, b.Spec.DeletionPolicy == v1alpha1.DeleteData && b.Status.Attempts > 0)
	}
	// Once the status tells that it is over, nothing looks at the Job any more.
	for _, job := range d.Remove {
		if err := r.remove(ctx, job); err != nil {
			return err
		}
	}
	before := b.DeepCopy()
	r.tell(f, d)
	// What is counted is written before the Job is made, so that there are never more.
	if !equality.Semantic.DeepEqual(before.Status, b.Status) {
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if err := r.Status().Patch(ctx, b, patch); err != nil {
			return err
		}
		r.event(before, b)
	}
	if d.Create != "" {
		return r.create(ctx, job)
	}
	return nil
}

func (r *Reconciler) remove(ctx context.Context, job *batchv1.Job) error {
	err := r.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground),
		client.Preconditions{UID: &job.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting Job %s: %w", job.Name, err)
	}
	return nil
}

// tell writes what was decided into the status.
func (r *Reconciler) tell(f *facts, d decision) {
	status, now := &f.Backup.Status, metav1.Time{Time: f.Now}.Rfc3339Copy()
	if d.Phase == "" {
		return
	}
	status.Phase = d.Phase
	if status.StartTime == nil {
		status.StartTime = &now
	}
	if d.Create == backup.Backup {
		status.Attempts++
		status.Location, status.Vault = Location(f.Backup), describe(f.Vault)
	}
	condition := metav1.Condition{
		Type: v1alpha1.BackupSucceededCondition, Status: metav1.ConditionUnknown, Reason: d.Reason,
		Message: message.Cut(d.Message), ObservedGeneration: f.Backup.Generation, LastTransitionTime: now,
	}
	switch d.Phase {
	case v1alpha1.BackupSucceeded:
		condition.Status, status.CompletionTime = metav1.ConditionTrue, &now
		status.Vault = told(status.Vault, d.Result.Vault)
		status.Size, status.Digest, status.Revision = d.Result.Size, "sha256:"+d.Result.SHA256, d.Result.Revision
		stored := metav1.NewTime(*d.Result.StoredTime).Rfc3339Copy()
		status.Proven = &v1alpha1.BackupProof{Stored: &stored}
		if d.Result.IntactTime != nil {
			intact := metav1.NewTime(*d.Result.IntactTime).Rfc3339Copy()
			status.Proven.Intact = &intact
		}
	case v1alpha1.BackupFailed:
		condition.Status, status.CompletionTime = metav1.ConditionFalse, &now
	case v1alpha1.BackupDeleting:
		condition.Type, condition.Status = v1alpha1.BackupDeletedCondition, metav1.ConditionFalse
	}
	if d.Reason != "" {
		meta.SetStatusCondition(&status.Conditions, condition)
	}
}

// event tells of a backup that has ended.
func (r *Reconciler) event(before, b *v1alpha1.VaultBackup) {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.BackupSucceededCondition)
	if before.Completed() || !b.Completed() || c == nil {
		return
	}
	kind := corev1.EventTypeNormal
	if c.Status != metav1.ConditionTrue {
		kind = corev1.EventTypeWarning
	}
	r.Recorder.Eventf(b, kind, c.Reason, "%s", c.Message)
}

// account makes the ServiceAccount of the Jobs, which has no rights. One that is there is left as it
// is: its annotations may give it a workload identity.
func (r *Reconciler) account(ctx context.Context, namespace, name string, vault *v1alpha1.Vault) error {
	account := &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: v1alpha1.BackupAccountName(name), Labels: v1alpha1.BackupLabels(name),
		},
		AutomountServiceAccountToken: new(false),
	}
	if vault != nil {
		account.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(vault, v1alpha1.GroupVersion.WithKind("Vault")),
		}
	}
	err := r.Create(ctx, account)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// release takes the finalizer away.
func (r *Reconciler) release(ctx context.Context, b *v1alpha1.VaultBackup, deleted bool) error {
	before := b.DeepCopy()
	if !controllerutil.RemoveFinalizer(b, v1alpha1.BackupFinalizer) {
		return nil
	}
	err := r.Patch(ctx, b, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	if deleted {
		r.Recorder.Eventf(b, corev1.EventTypeNormal, eventDeleted, "What was stored at %s was deleted", b.Status.Location)
	} else if b.Succeeded() {
		r.Recorder.Eventf(b, corev1.EventTypeNormal, eventKept, "What is stored at %s was kept", b.Status.Location)
	}
	return nil
}
