package backupjob

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newBackup(change func(*v1alpha1.VaultBackup)) *v1alpha1.VaultBackup {
	b := &v1alpha1.VaultBackup{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "1234-5"}}
	b.Spec.Vault = "example"
	b.Spec.Destination.S3 = &v1alpha1.S3Destination{Endpoint: "https://s3", Bucket: "bucket", Prefix: "p"}
	if change != nil {
		change(b)
	}
	return b
}

func newVault(change func(*v1alpha1.Vault)) *v1alpha1.Vault {
	v := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "v"}}
	v.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{}
	v.Status.Initialized = true
	if change != nil {
		change(v)
	}
	return v
}

func newJob(b *v1alpha1.VaultBackup, kind batchv1.JobConditionType) *batchv1.Job {
	return newJobSince(b, kind, now.Add(-time.Minute))
}

func newJobSince(b *v1alpha1.VaultBackup, kind batchv1.JobConditionType, since time.Time) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Name: "b-backup", UID: "job", CreationTimestamp: metav1.NewTime(now.Add(-time.Minute)),
	}}
	if b != nil {
		job.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(b, v1alpha1.GroupVersion.WithKind("VaultBackup")),
		}
	}
	if kind != "" {
		job.Status.Conditions = []batchv1.JobCondition{{
			Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since),
		}}
	}
	return job
}

func podOf(job *batchv1.Job, phase corev1.PodPhase, message string) corev1.Pod {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "p", Labels: map[string]string{batchv1.JobNameLabel: job.Name},
		OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job")),
		},
	}}
	pod.Status.Phase = phase
	if message != "" {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Message: message},
		}}}
	}
	return pod
}

const stored = `{"size": 10, "sha256": "` + "0123456789012345678901234567890123456789012345678901234567890123" +
	`", "revision": 7, "storedTime": "2026-01-02T03:04:00Z", "intactTime": "2026-01-02T03:04:01Z"}`

func TestDecide(t *testing.T) {
	b := newBackup(nil)
	external := func(v *v1alpha1.Vault) {
		v.Spec.Storage = v1alpha1.StorageSpec{External: &v1alpha1.ExternalStorage{}}
	}
	empty := func(v *v1alpha1.Vault) { v.Status.Initialized = false }
	raft := func(v *v1alpha1.Vault) { v.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}} }
	complete, broken := newJob(b, batchv1.JobComplete), newJob(b, batchv1.JobFailed)
	running, old := newJob(b, ""), newJob(b, "")
	old.CreationTimestamp = metav1.NewTime(now.Add(-startTime))
	uncounted := old.DeepCopy()
	uncounted.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"p"}}
	lost := newJob(b, "")
	lost.CreationTimestamp = metav1.NewTime(now.Add(-giveUp - time.Second))
	tried := func(b *v1alpha1.VaultBackup) { b.Status.Attempts = maxAttempts }
	ofAnother := func(job *batchv1.Job) *batchv1.Job {
		job = job.DeepCopy()
		job.Annotations = map[string]string{vaultAnnotation: "before"}
		return job
	}
	madeAgo := func(ago time.Duration) func(*v1alpha1.Vault) {
		return func(v *v1alpha1.Vault) { v.CreationTimestamp = metav1.NewTime(now.Add(-ago)) }
	}
	again := newBackup(func(b *v1alpha1.VaultBackup) { b.UID, b.CreationTimestamp = "6-7", metav1.NewTime(now) })
	longAgain := again.DeepCopy()
	longAgain.CreationTimestamp = metav1.NewTime(now.Add(-leaveTime - time.Second))
	going := newJob(nil, "")
	going.DeletionTimestamp = &metav1.Time{Time: now}
	begun := newBackup(func(b *v1alpha1.VaultBackup) { b.Status.StartTime = &metav1.Time{Time: now} })
	done := func(b *v1alpha1.VaultBackup) { b.Status.CompletionTime = &metav1.Time{Time: now} }
	for name, tt := range map[string]struct {
		facts  facts
		phase  v1alpha1.BackupPhase
		reason string
		create bool
		remove int
	}{
		"begins": {facts{Backup: b, Vault: newVault(nil)},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, true, 0},
		"the pod of a Job that was deleted": {facts{Backup: b, Vault: newVault(nil),
			Pods: []corev1.Pod{podOf(newJob(b, ""), corev1.PodRunning, "")}},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, false, 0},
		"it has ended": {facts{Backup: b, Vault: newVault(nil),
			Pods: []corev1.Pod{podOf(newJob(b, ""), corev1.PodFailed, "")}},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, true, 0},
		"is over":  {facts{Backup: newBackup(done)}, "", "", false, 0},
		"no Vault": {facts{Backup: b}, v1alpha1.BackupFailed, v1alpha1.ReasonBackupVaultNotFound, false, 0},
		"no Secret": {facts{Backup: b, Vault: newVault(nil), Missing: "m"},
			v1alpha1.BackupFailed, v1alpha1.ReasonDestinationMissing, false, 0},
		"other storage": {facts{Backup: b, Vault: newVault(external)},
			v1alpha1.BackupFailed, v1alpha1.ReasonStorageNotSupported, false, 0},
		"no data": {facts{Backup: b, Vault: newVault(empty)},
			v1alpha1.BackupFailed, v1alpha1.ReasonNotInitialized, false, 0},
		"no login": {facts{Backup: b, Vault: newVault(raft)},
			v1alpha1.BackupFailed, v1alpha1.ReasonLoginMissing, false, 0},
		"Jobs deleted": {facts{Backup: newBackup(tried), Vault: newVault(nil)},
			v1alpha1.BackupFailed, v1alpha1.ReasonJobFailed, false, 0},
		"foreign Job": {facts{Backup: b, Vault: newVault(nil), Job: newJob(nil, "")},
			v1alpha1.BackupFailed, v1alpha1.ReasonJobConflict, false, 0},
		"Job of one that had its name": {facts{Backup: again, Vault: newVault(nil), Job: running},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, false, 0},
		"Job that stays": {facts{Backup: longAgain, Vault: newVault(nil), Job: running},
			v1alpha1.BackupFailed, v1alpha1.ReasonJobConflict, false, 0},
		"foreign Job that goes": {facts{Backup: again, Vault: newVault(nil), Job: going},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, false, 0},
		"the Vault was made anew": {facts{Backup: b, Vault: newVault(nil), Job: ofAnother(running)},
			v1alpha1.BackupFailed, v1alpha1.ReasonVaultReplaced, false, 1},
		"the Vault was made anew before its end": {facts{Backup: b, Vault: newVault(madeAgo(time.Hour)),
			Job: ofAnother(complete)}, v1alpha1.BackupFailed, v1alpha1.ReasonVaultReplaced, false, 1},
		"the Vault was made anew after its end": {facts{Backup: b, Vault: newVault(madeAgo(time.Second)),
			Job: ofAnother(complete), Pods: []corev1.Pod{podOf(complete, corev1.PodSucceeded, stored)}},
			v1alpha1.BackupSucceeded, v1alpha1.ReasonBackupStored, false, 0},
		"the machine is lost": {facts{Backup: b, Job: lost, Pods: []corev1.Pod{podOf(lost, corev1.PodRunning, "")}},
			v1alpha1.BackupFailed, v1alpha1.ReasonJobFailed, false, 1},
		"the machine is lost, and the Job was deleted": {facts{Backup: b, Vault: newVault(nil),
			Began: &lost.CreationTimestamp, Pods: []corev1.Pod{podOf(newJob(b, ""), corev1.PodRunning, "")}},
			v1alpha1.BackupFailed, v1alpha1.ReasonJobFailed, false, 0},
		"the Vault was made anew after it had failed": {facts{Backup: b, Vault: newVault(madeAgo(time.Second)),
			Job: ofAnother(broken), Pods: []corev1.Pod{podOf(broken, corev1.PodFailed, `{"reason": "Denied"}`)}},
			v1alpha1.BackupFailed, "Denied", false, 0},
		"the clock is ahead": {facts{Backup: begun, Job: old, Began: begun.Status.StartTime},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, false, 0},
		"runs": {facts{Backup: b, Job: running, Pods: []corev1.Pod{podOf(running, corev1.PodRunning, "")}},
			v1alpha1.BackupRunning, v1alpha1.ReasonJobRunning, false, 0},
		"waits": {facts{Backup: b, Job: running, Pods: []corev1.Pod{podOf(running, corev1.PodPending, "")}},
			v1alpha1.BackupPending, v1alpha1.ReasonJobPending, false, 0},
		"never starts": {facts{Backup: b, Job: old}, v1alpha1.BackupFailed, v1alpha1.ReasonJobNotStarted, false, 1},
		"fails late": {facts{Backup: b, Job: old, Pods: []corev1.Pod{podOf(old, corev1.PodFailed, "")}},
			v1alpha1.BackupRunning, v1alpha1.ReasonJobPending, false, 0},
		"fails late, and the pod is gone": {facts{Backup: b, Job: uncounted},
			v1alpha1.BackupRunning, v1alpha1.ReasonJobPending, false, 0},
		"succeeds": {facts{Backup: b, Job: complete, Pods: []corev1.Pod{podOf(complete, corev1.PodSucceeded, stored)}},
			v1alpha1.BackupSucceeded, v1alpha1.ReasonBackupStored, false, 0},
		"result is gone": {facts{Backup: b, Job: complete}, "", "", false, 1},
		"result is late": {facts{Backup: b, Job: newJobSince(b, batchv1.JobComplete, now.Add(-time.Second))},
			"", "", false, 0},
		"reason is late": {facts{Backup: b, Job: newJobSince(b, batchv1.JobFailed, now.Add(-time.Second))}, "", "", false, 0},
		"result is empty": {facts{Backup: b, Job: complete, Pods: []corev1.Pod{podOf(complete, corev1.PodSucceeded, "{}")}},
			v1alpha1.BackupFailed, v1alpha1.ReasonResultInvalid, false, 0},
		"result is forged": {facts{Backup: b, Job: complete, Pods: []corev1.Pod{podOf(complete, corev1.PodSucceeded,
			strings.Replace(stored, "0123", "<b>!", 1))}}, v1alpha1.BackupFailed, v1alpha1.ReasonResultInvalid, false, 0},
		"result of another pod": {facts{Backup: b, Job: complete, Pods: []corev1.Pod{podOf(&batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{UID: "other"}}, corev1.PodSucceeded, stored)}}, "", "", false, 1},
		"fails": {facts{Backup: b, Job: broken, Pods: []corev1.Pod{podOf(broken, corev1.PodFailed,
			`{"reason": "Denied", "message": "m"}`)}}, v1alpha1.BackupFailed, "Denied", false, 0},
		"fails silently": {facts{Backup: b, Job: broken}, v1alpha1.BackupFailed, v1alpha1.ReasonJobFailed, false, 0},
	} {
		tt.facts.Now = now
		d := decide(&tt.facts)
		if d.Phase != tt.phase || d.Reason != tt.reason || (d.Create == backup.Backup) != tt.create ||
			len(d.Remove) != tt.remove {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestRefusedJob has the API server refuse the Job.
func TestRefusedJob(t *testing.T) {
	why := errors.New("exceeded quota")
	created := func(ago time.Duration) *v1alpha1.VaultBackup {
		return newBackup(func(b *v1alpha1.VaultBackup) { b.CreationTimestamp = metav1.NewTime(now.Add(-ago)) })
	}
	for name, tt := range map[string]struct {
		age    time.Duration
		action backup.Action
		phase  v1alpha1.BackupPhase
		again  bool
	}{
		"just now":    {time.Minute, backup.Backup, v1alpha1.BackupPending, true},
		"for long":    {startTime + time.Second, backup.Backup, v1alpha1.BackupFailed, false},
		"of deletion": {24 * time.Hour, backup.Delete, v1alpha1.BackupDeleting, true},
	} {
		d := refusedJob(&facts{Backup: created(tt.age), Now: now}, tt.action, why)
		if d.Phase != tt.phase || d.Again > 0 != tt.again || d.Create != "" || !strings.Contains(d.Message, why.Error()) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestTimeOfAnotherClock has a Job on a machine whose clock is ahead.
func TestTimeOfAnotherClock(t *testing.T) {
	early := now.Add(-time.Hour)
	result, err := parse(stored, early)
	if err != nil || !result.StoredTime.Equal(early) || !result.IntactTime.Equal(early) {
		t.Errorf("%+v, error %v", result, err)
	}
}

func TestDecideDeletion(t *testing.T) {
	deleted := func(b *v1alpha1.VaultBackup) {
		b.Spec.DeletionPolicy, b.Status.Attempts = v1alpha1.DeleteData, 1
	}
	b := newBackup(deleted)
	made, broken := newJob(b, batchv1.JobComplete), newJob(b, batchv1.JobFailed)
	old := newJob(b, batchv1.JobFailed)
	old.CreationTimestamp = metav1.NewTime(now.Add(-deleteAgain))
	lost := newJob(b, "")
	lost.Name, lost.CreationTimestamp = "b-delete", metav1.NewTime(now.Add(-giveUp-time.Second))
	remover := newJob(b, "")
	remover.Name = "b-delete"
	fresh := newBackup(func(b *v1alpha1.VaultBackup) { deleted(b); b.Status.Attempts = 0 })
	kept := newBackup(func(b *v1alpha1.VaultBackup) { b.Status.Attempts = 1 })
	for name, tt := range map[string]struct {
		facts           facts
		release, create bool
		remove          int
		says            string
	}{
		"is kept":            {facts{Backup: kept}, true, false, 0, ""},
		"was never begun":    {facts{Backup: fresh}, true, false, 0, ""},
		"the Job goes first": {facts{Backup: b, Job: newJob(b, "")}, false, false, 1, ""},
		"its pod as well": {facts{Backup: b, Pods: []corev1.Pod{podOf(newJob(b, ""), corev1.PodRunning, "")}},
			false, false, 0, "The pod p has to end"},
		"is deleted":    {facts{Backup: b}, false, true, 0, "A Job deletes"},
		"has no Secret": {facts{Backup: b, Missing: "m"}, false, false, 0, "Retain"},
		"is gone":       {facts{Backup: b, Remover: made}, true, false, 0, ""},
		"does not start": {facts{Backup: b, Remover: remover, Pods: []corev1.Pod{podOf(remover,
			corev1.PodPending, "")}}, false, false, 0, "pod p is being started"},
		"has no pod": {facts{Backup: b, Remover: remover}, false, false, 0, "kubectl describe job b-delete"},
		"runs": {facts{Backup: b, Remover: remover, Pods: []corev1.Pod{podOf(remover,
			corev1.PodRunning, "")}}, false, false, 0, "A Job deletes"},
		"is on a machine that is lost": {facts{Backup: b, Remover: lost, Pods: []corev1.Pod{podOf(lost,
			corev1.PodRunning, "")}}, false, false, 0, "kubectl delete pod p --force"},
		"fails":               {facts{Backup: b, Remover: broken}, false, false, 0, "Retain"},
		"is tried once again": {facts{Backup: b, Remover: old}, false, false, 1, ""},
	} {
		tt.facts.Now = now
		d := decideDeletion(&tt.facts)
		if d.Release != tt.release || (d.Create == backup.Delete) != tt.create || len(d.Remove) != tt.remove ||
			!strings.Contains(d.Message, tt.says) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestJobEndsBefore has the Job deleted before the status tells that it is over: nothing looks at it afterwards.
func TestJobEndsBefore(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), batchv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	b, x := newBackup(nil), newRestore(nil)
	b.Namespace, x.Namespace = "default", "default"
	job := newJob(b, "")
	job.Namespace = b.Namespace
	refuse := true
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(b, x, job).WithStatusSubresource(b, x).
		WithInterceptorFuncs(interceptor.Funcs{Delete: func(
			ctx context.Context, c client.WithWatch, obj client.Object, options ...client.DeleteOption,
		) error {
			if refuse {
				return errors.New("away")
			}
			return c.Delete(ctx, obj, options...)
		}}).Build()
	r := &Reconciler{Client: c, Recorder: record.NewFakeRecorder(10)}
	over := failed(v1alpha1.ReasonJobNotStarted, "late")
	over.Remove = []*batchv1.Job{job}
	restoreOver := restoreFailed(v1alpha1.ReasonJobNotStarted, "late")
	restoreOver.Remove = true
	for _, refuse = range []bool{true, false} {
		err := r.act(t.Context(), &facts{Backup: b, Now: now}, over, nil)
		var got v1alpha1.VaultBackup
		if failed := c.Get(t.Context(), client.ObjectKeyFromObject(b), &got); failed != nil {
			t.Fatal(failed)
		}
		if (err != nil) != refuse || got.Completed() == refuse {
			t.Errorf("refused %t: error %v, status %+v", refuse, err, got.Status)
		}
		restorer := &Restorer{Reconciler: r}
		err = restorer.act(t.Context(), &restoreFacts{Restore: x, Job: job, Now: now}, restoreOver, nil)
		var restore v1alpha1.VaultRestore
		if failed := c.Get(t.Context(), client.ObjectKeyFromObject(x), &restore); failed != nil {
			t.Fatal(failed)
		}
		if (err != nil) != refuse || restore.Completed() == refuse {
			t.Errorf("refused %t: error %v, status %+v", refuse, err, restore.Status)
		}
	}
}

func TestLocation(t *testing.T) {
	if at := Location(newBackup(nil)); at != "s3://bucket/p/default/example/b-1234.snapshot" {
		t.Error(at)
	}
	claim := newBackup(func(b *v1alpha1.VaultBackup) {
		b.Spec.Destination = v1alpha1.BackupDestination{
			PersistentVolumeClaim: &v1alpha1.ClaimDestination{ClaimName: "c"},
		}
	})
	if at := Location(claim); at != "pvc://c/default/example/b-1234.snapshot" {
		t.Error(at)
	}
}
