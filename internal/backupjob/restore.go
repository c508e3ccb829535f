package backupjob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/restore"
)

// engine is what the probe engine tells of Vault nodes.
type engine interface {
	Observations(vault types.NamespacedName) map[types.UID]probe.Observation
}

// Restorer restores backups, each by a Job as those of a Reconciler are. It runs on the leader.
type Restorer struct {
	*Reconciler
	Engine engine
}

// SetupWithManager adds the controller to the manager.
func (r *Restorer) SetupWithManager(mgr ctrl.Manager) error {
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("restore").
		For(&v1alpha1.VaultRestore{}).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(namedBy(v1alpha1.RestoreLabel))).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency, RateLimiter: pods.SlowRetries()}),
		concurrency/2, r)
}

// Reconcile does the next step of one restore.
func (r *Restorer) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var x v1alpha1.VaultRestore
	if err := r.Get(ctx, req.NamespacedName, &x); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if x.DeletionTimestamp != nil || x.Completed() {
		return reconcile.Result{}, nil
	}
	f, err := r.facts(ctx, &x)
	if err != nil {
		return reconcile.Result{}, err
	}
	d := decideRestore(f)
	var job *batchv1.Job
	if d.Create {
		if job, err = r.jobOf(ctx, f); err == nil {
			err = r.check(ctx, job, f.Vault.Name, f.Vault)
		}
		switch {
		case err == nil:
		case errors.Is(err, errNoCA), apierrors.ReasonForError(err) != metav1.StatusReasonUnknown:
			d = refusedRestore(f, err.Error())
		default: // nobody has said anything
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: d.Again}, r.act(ctx, f, d, job)
}

func (r *Restorer) facts(ctx context.Context, x *v1alpha1.VaultRestore) (*restoreFacts, error) {
	f := &restoreFacts{Restore: x, Now: r.Clock.Now()}
	var err error
	if f.Vault, err = r.vault(ctx, x.Namespace, x.Spec.Vault); err != nil {
		return nil, err
	}
	if err := r.ofBackup(ctx, f); err != nil {
		return nil, err
	}
	if f.Job, err = r.JobNamed(ctx, x.Namespace, restoreJobName(x)); err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := r.List(ctx, &list, client.InNamespace(x.Namespace),
		client.MatchingLabels{v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.RestoreLabel: x.Name}); err != nil {
		return nil, fmt.Errorf("listing the pods of the restore: %w", err)
	}
	f.Pods = list.Items
	if f.Nodes, err = r.nodes(ctx, f.Vault); err != nil {
		return nil, err
	}
	if f.Job != nil || x.Status.StartTime != nil {
		return f, nil
	}
	if at := storedAt(f); at != nil {
		destination := &v1alpha1.VaultBackup{ObjectMeta: metav1.ObjectMeta{Namespace: x.Namespace}}
		destination.Spec.Destination = *at.destination
		if _, f.Missing, err = r.missing(ctx, destination, nil, true); err != nil {
			return nil, err
		}
	}
	f.Before, err = r.before(ctx, x)
	return f, err
}

// vault reads a Vault, or returns nil.
func (r *Restorer) vault(ctx context.Context, namespace string, name v1alpha1.ObjectName) (*v1alpha1.Vault, error) {
	vault := &v1alpha1.Vault{}
	err := r.Get(ctx, types.NamespacedName{Namespace: namespace, Name: string(name)}, vault)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return vault, nil
}

// ofBackup reads the backup of a restore, and the Vault that it is of.
func (r *Restorer) ofBackup(ctx context.Context, f *restoreFacts) error {
	x := f.Restore
	if x.Spec.Backup == "" {
		return r.originOf(ctx, f, x.Spec.From)
	}
	b := &v1alpha1.VaultBackup{}
	if err := r.Get(ctx, types.NamespacedName{Namespace: x.Namespace, Name: string(x.Spec.Backup)}, b); err != nil {
		return client.IgnoreNotFound(err)
	}
	f.Backup = b
	origin, err := r.vault(ctx, x.Namespace, b.Spec.Vault)
	if err == nil && origin != nil && b.Status.Vault != nil && origin.UID == b.Status.Vault.UID {
		f.Origin = origin
	}
	return err
}

// originOf takes the Vault of this namespace for the origin that has the name in the path of what is restored. It may
// have been made anew since, and its nodes have the addresses that the data names all the same.
func (r *Restorer) originOf(ctx context.Context, f *restoreFacts, from *v1alpha1.StoredBackup) (err error) {
	parts := strings.Split(from.Name, "/")
	if len(parts) < 3 || parts[len(parts)-3] != f.Restore.Namespace {
		return nil // of another namespace, or nothing tells
	}
	f.Origin, err = r.vault(ctx, f.Restore.Namespace, v1alpha1.ObjectName(parts[len(parts)-2]))
	return err
}

func (r *Restorer) nodes(ctx context.Context, vault *v1alpha1.Vault) ([]restoreNode, error) {
	if vault == nil {
		return nil, nil
	}
	list, err := pods.List(ctx, r, vault)
	if err != nil {
		return nil, err
	}
	observations := r.Engine.Observations(client.ObjectKeyFromObject(vault))
	var nodes []restoreNode
	for i := range list {
		pod := &list[i]
		nodes = append(nodes, restoreNode{
			Name: pod.Name, UID: pod.UID, Created: pod.CreationTimestamp.Time, State: observations[pod.UID].State,
			Terminating: pods.Terminating(pod), Version: observations[pod.UID].Version,
		})
	}
	return nodes, nil
}

// before is the name of another restore into the same Vault that has begun, or was made earlier.
func (r *Restorer) before(ctx context.Context, x *v1alpha1.VaultRestore) (string, error) {
	var list v1alpha1.VaultRestoreList
	// Nothing of them is changed, and there may be many.
	if err := r.List(ctx, &list, client.InNamespace(x.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return "", fmt.Errorf("listing VaultRestores: %w", err)
	}
	for i := range list.Items {
		other := &list.Items[i]
		if other.UID == x.UID || other.Spec.Vault != x.Spec.Vault || other.Completed() {
			continue
		}
		age := other.CreationTimestamp.Compare(x.CreationTimestamp.Time)
		if other.Status.StartTime != nil || age < 0 || age == 0 && other.UID < x.UID {
			return other.Name, nil
		}
	}
	return "", nil
}

func restoreJobName(x *v1alpha1.VaultRestore) string {
	return x.Name + "-" + strings.ToLower(string(backup.Restore))
}

// vaultAnnotation of a Job is the UID of the Vault that it was made for. It must not write into another one of this
// name, nor back that up.
const vaultAnnotation = "vault.security.coreos.com/vault-uid"

// storedBackup is where what is restored is stored.
type storedBackup struct {
	destination *v1alpha1.BackupDestination
	location    backup.Location
	name        string
	// digest is empty if it is not known.
	digest string
}

// storedAt is nil when there is no such VaultBackup.
func storedAt(f *restoreFacts) *storedBackup {
	if from := f.Restore.Spec.From; from != nil {
		return &storedBackup{
			destination: &from.Location, location: locationIn(&from.Location, path.Dir(from.Name)), name: path.Base(from.Name),
		}
	}
	if f.Backup == nil {
		return nil
	}
	return &storedBackup{
		destination: &f.Backup.Spec.Destination, location: location(f.Backup), name: objectName(f.Backup),
		digest: strings.TrimPrefix(f.Backup.Status.Digest, "sha256:"),
	}
}

// act does what was decided, and tells of it. The Job is the one to make, if one is.
func (r *Restorer) act(ctx context.Context, f *restoreFacts, d restoreDecision, job *batchv1.Job) error {
	x := f.Restore
	// Once the status tells that it is over, nothing looks at the Job any more.
	if d.Remove {
		if err := r.remove(ctx, f.Job); err != nil {
			return err
		}
	}
	before := x.DeepCopy()
	tellRestore(f, d)
	if !equality.Semantic.DeepEqual(before.Status, x.Status) {
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		if err := r.Status().Patch(ctx, x, patch); err != nil {
			return err
		}
		r.tellEvent(x)
	}
	for _, n := range d.Restart {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: x.Namespace, Name: n.Name}}
		if err := r.Delete(ctx, pod, client.Preconditions{UID: &n.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting pod %s: %w", n.Name, err)
		}
	}
	if d.Create {
		return r.create(ctx, job)
	}
	return nil
}

// tellRestore writes what was decided into the status.
func tellRestore(f *restoreFacts, d restoreDecision) {
	status, now := &f.Restore.Status, metav1.Time{Time: f.Now}.Rfc3339Copy()
	if d.Phase == "" {
		return
	}
	status.Phase = d.Phase
	if at := storedAt(f); at != nil {
		status.Location = urlOf(at.destination, at.location, at.name)
	}
	if known := requirements(f); known != nil {
		status.Requires = known.DeepCopy()
	}
	if status.StartTime == nil && f.Job != nil && metav1.IsControlledBy(f.Job, f.Restore) {
		status.StartTime = &now
	}
	condition := metav1.Condition{
		Type: v1alpha1.RestoredCondition, Status: metav1.ConditionUnknown, Reason: d.Reason,
		Message: message.Cut(d.Message), ObservedGeneration: f.Restore.Generation, LastTransitionTime: now,
	}
	if d.Result != nil {
		status.Requires = told(status.Requires, d.Result.Vault)
	}
	switch d.Phase {
	case v1alpha1.RestoreSucceeded:
		condition.Status, status.CompletionTime = metav1.ConditionTrue, &now
	case v1alpha1.RestoreFailed:
		condition.Status, status.CompletionTime = metav1.ConditionFalse, &now
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}

func (r *Restorer) tellEvent(x *v1alpha1.VaultRestore) {
	c := meta.FindStatusCondition(x.Status.Conditions, v1alpha1.RestoredCondition)
	if !x.Completed() || c == nil {
		return
	}
	kind := corev1.EventTypeNormal
	if c.Status != metav1.ConditionTrue {
		kind = corev1.EventTypeWarning
	}
	r.Recorder.Eventf(x, kind, c.Reason, "%s", c.Message)
}

// errNoCA says that the certificates of the Vault are not made yet.
var errNoCA = errors.New("the CA of Vault is missing")

// jobOf is the Job of a restore.
func (r *Restorer) jobOf(ctx context.Context, f *restoreFacts) (*batchv1.Job, error) {
	image, err := r.Image(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding out the image of the operator: %w", err)
	}
	caKey := ""
	if f.Vault.HasRaft() {
		var missing string
		if caKey, missing, err = r.caKey(ctx, f.Vault); err != nil {
			return nil, err
		}
		if missing != "" {
			return nil, fmt.Errorf("%w: %s", errNoCA, missing)
		}
	}
	return r.newRestoreJob(f, image, caKey)
}

// target is the storage to restore into, as a Job reaches it. Of integrated storage that is the first
// node, which the others join when it is unsealed.
func target(vault *v1alpha1.Vault) *backup.Storage {
	if !vault.HasRaft() {
		return source(vault)
	}
	host, _, _ := strings.Cut(vault.NodeAddress(0), ":")
	return &backup.Storage{Raft: &backup.RaftStorage{
		Address: "https://" + host + ":" + strconv.Itoa(v1alpha1.ClientPort), ServerName: vault.ServerName(),
	}}
}

func (r *Restorer) newRestoreJob(f *restoreFacts, image, caKey string) (*batchv1.Job, error) {
	x, vault, at := f.Restore, f.Vault, storedAt(f)
	task := backup.Task{
		Action: backup.Restore, Source: target(vault), Location: at.location, Name: at.name, Want: at.digest,
		Vault: backup.Description{
			Namespace: vault.Namespace, Name: vault.Name, UID: string(vault.UID), Version: vault.Spec.Version,
			SealType: restore.SealOf(vault), Storage: restore.StorageOf(vault),
		},
	}
	text, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	labels := v1alpha1.BackupLabels(vault.Name)
	labels[v1alpha1.RestoreLabel] = x.Name
	pod := r.podSpec(string(text), image, v1alpha1.BackupAccountName(vault.Name))
	asVault(&pod, &vault.Spec)
	mountDestination(&pod, at.destination)
	mountStorage(&pod, vault, task.Source, caKey)
	if task.Source.Etcd != nil { // the snapshot has to be unpacked
		mount(&pod, "scratch", backup.ScratchDirectory, false, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	}
	return jobFor(metav1.ObjectMeta{
		Namespace: x.Namespace, Name: restoreJobName(x), Labels: labels,
		Annotations: map[string]string{vaultAnnotation: string(vault.UID)},
		OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(x, v1alpha1.GroupVersion.WithKind("VaultRestore")),
		},
	}, pod), nil
}
