package backupjob

import (
	"cmp"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
)

const (
	// maxAttempts is how many Jobs are made for one backup: another one when a Job, or what it
	// said, is gone.
	maxAttempts = 3
	// startTime is how long the pod of a Job may take to start.
	startTime = 10 * time.Minute
	// settle is how long the cache of pods may be behind that of Jobs.
	settle = 15 * time.Second
	// refusedAgain is when a Job is tried again that the API server has refused to make.
	refusedAgain = 30 * time.Second
	// leaveTime is how long the Job of an object may take to go that was deleted and made again.
	leaveTime = time.Minute
	// giveUp is when a Job does not end that has had its deadline: its node may be lost.
	giveUp = (deadline+grace)*time.Second + 10*time.Minute
	// deleteAgain is when a Job that could not delete what is stored is followed by another one.
	deleteAgain = 10 * time.Minute
)

// facts are what is known of a backup.
type facts struct {
	Backup *v1alpha1.VaultBackup
	// Vault is nil when there is none.
	Vault *v1alpha1.Vault
	// Missing is what the spec names and is not there.
	Missing string
	// Job of the backup, and Remover, the one that deletes what is stored; nil while there is none.
	Job, Remover *batchv1.Job
	// Pods are those of both Jobs.
	Pods []corev1.Pod
	// Began is when the first Job was made, by the clock of the operator.
	Began *metav1.Time
	Now   time.Time
}

// decision is what to do next, and what to tell.
type decision struct {
	// Create is the action of a Job to make; empty if there is none.
	Create backup.Action
	// Remove are Jobs to delete.
	Remove []*batchv1.Job
	// Release takes the finalizer away.
	Release bool
	// Phase, Reason and Message are what is told; an empty Phase leaves it as it is.
	Phase           v1alpha1.BackupPhase
	Reason, Message string
	// Result is that of a Job that has succeeded.
	Result *backup.Result
	// Again is when to look again though nothing happens; zero for never.
	Again time.Duration
}

func failed(reason, format string, args ...any) decision {
	return decision{Phase: v1alpha1.BackupFailed, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// decide says how a backup goes on that is not being deleted.
func decide(f *facts) decision {
	b := f.Backup
	switch {
	case b.Completed():
		return decision{}
	case f.Job == nil:
		return begin(f)
	case !metav1.IsControlledBy(f.Job, b) && leaves(f.Job, b, f.Now):
		return decision{
			Phase: v1alpha1.BackupPending, Reason: v1alpha1.ReasonJobPending, Again: time.Second,
			Message: fmt.Sprintf("The Job %s of the VaultBackup that had this name is being deleted", f.Job.Name),
		}
	case !metav1.IsControlledBy(f.Job, b):
		return failed(v1alpha1.ReasonJobConflict, "There is a Job %s that is not of this backup: delete it, and make "+
			"another VaultBackup", f.Job.Name)
	case f.Job.DeletionTimestamp != nil:
		return decision{}
	case replaced(f.Job, f.Vault):
		d := failed(v1alpha1.ReasonVaultReplaced, "The Vault %s was made anew meanwhile. Do not restore what may be stored "+
			"at %s, and make another VaultBackup", f.Vault.Name, b.Status.Location)
		d.Remove = []*batchv1.Job{f.Job}
		return d
	case awaitsResult(f):
		return decision{Again: time.Second}
	case ended(f.Job, batchv1.JobComplete):
		return succeeded(f)
	case ended(f.Job, batchv1.JobFailed):
		reason, message := whyFailed(f.Job, f.Pods, f.Now)
		return failed(reason, "%s", message)
	}
	if pod := unended(f); pod != "" && overdue(f.Job, f.Now) {
		d := neverEnds(pod)
		d.Remove = []*batchv1.Job{f.Job}
		return d
	}
	return underWay(f)
}

// neverEnds tells of a pod that runs long after its Job has had its deadline.
func neverEnds(pod string) decision {
	return failed(v1alpha1.ReasonJobFailed, "%s. Then make another VaultBackup", lostPod(pod))
}

// overdue says that a Job should have ended long ago, by its deadline.
func overdue(job *batchv1.Job, now time.Time) bool {
	return now.Sub(job.CreationTimestamp.Time) > giveUp
}

// lostPod is what to do about a pod that does not end.
func lostPod(pod string) string {
	return fmt.Sprintf("The pod %[1]s does not end. If its Kubernetes node is gone for good: "+
		"kubectl delete pod %[1]s --force", pod)
}

// replaced says that the Vault was made anew before the Job had ended, whose pod may have read from that.
func replaced(job *batchv1.Job, vault *v1alpha1.Vault) bool {
	if vault == nil || ofVault(job, vault) {
		return false
	}
	c := end(job)
	return c == nil || !c.LastTransitionTime.Before(&vault.CreationTimestamp)
}

// leaves says that a Job is about to go: it is being deleted, or has lost an object that had the name of this one.
func leaves(job *batchv1.Job, owner client.Object, now time.Time) bool {
	if now.Sub(owner.GetCreationTimestamp().Time) > leaveTime {
		return false
	}
	of := metav1.GetControllerOf(job)
	return job.DeletionTimestamp != nil || of != nil && of.APIVersion == v1alpha1.GroupVersion.String() &&
		of.Name == owner.GetName() && of.UID != owner.GetUID()
}

// begin says whether a Job is made.
func begin(f *facts) decision {
	if f.Backup.Status.Attempts >= maxAttempts {
		return failed(v1alpha1.ReasonJobFailed, "The Job was deleted before it had ended, or before its result was read, "+
			"%d times: make another VaultBackup", maxAttempts)
	}
	if reason, message := refusal(f.Backup, f.Vault); reason != "" {
		return failed(reason, "%s", message)
	}
	if pod := unended(f); pod != "" {
		if f.Began != nil && f.Now.Sub(f.Began.Time) > giveUp {
			return neverEnds(pod)
		}
		return decision{
			Phase: v1alpha1.BackupPending, Reason: v1alpha1.ReasonJobPending, Again: time.Minute,
			Message: fmt.Sprintf("The pod %s of a Job that was deleted has not ended", pod),
		}
	}
	if f.Missing != "" {
		return failed(v1alpha1.ReasonDestinationMissing, "%s. Make it, and then another VaultBackup", f.Missing)
	}
	return decision{
		Create: backup.Backup, Phase: v1alpha1.BackupPending, Reason: v1alpha1.ReasonJobPending,
		Message: "A Job is made that copies the data",
	}
}

// unended is the name of a pod of the Job of the backup that has not ended, or nothing. It may still store something.
func unended(f *facts) string {
	for i := range f.Pods {
		pod := &f.Pods[i]
		if pod.Labels[batchv1.JobNameLabel] == jobName(f.Backup, backup.Backup) &&
			pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			return pod.Name
		}
	}
	return ""
}

// refusal is why there can be no backup of the Vault, or nothing.
func refusal(b *v1alpha1.VaultBackup, vault *v1alpha1.Vault) (reason, message string) {
	switch {
	case vault == nil:
		return v1alpha1.ReasonBackupVaultNotFound, fmt.Sprintf("There is no Vault %s in this namespace", b.Spec.Vault)
	case vault.DeletionTimestamp != nil:
		return v1alpha1.ReasonBackupVaultNotFound, fmt.Sprintf("The Vault %s is being deleted", b.Spec.Vault)
	case source(vault) == nil:
		return v1alpha1.ReasonStorageNotSupported, "The storage of the Vault is not run by the operator: back it up with " +
			"its own tools"
	case !vault.Status.Initialized:
		return v1alpha1.ReasonNotInitialized, "The Vault has no data yet: initialize it, and then make another VaultBackup"
	case vault.HasRaft() && b.Spec.TokenSecretName == "" && !vault.HasOperatorLogin():
		return v1alpha1.ReasonLoginMissing, fmt.Sprintf("A backup of integrated storage needs a token of Vault: set "+
			"operatorLogin.enabled in the spec of the Vault and run 'kubectl vault authorize %s', or name a Secret in "+
			"tokenSecretName", vault.Name)
	}
	return "", ""
}

// awaitsResult says that a Job has ended just now, and that what its pod said is not known yet.
func awaitsResult(f *facts) bool {
	c := end(f.Job)
	if c == nil || f.Now.Sub(c.LastTransitionTime.Time) >= settle {
		return false
	}
	result, err := resultOf(f.Job, f.Pods, f.Now)
	return result == nil && err == nil
}

func succeeded(f *facts) decision {
	result, err := resultOf(f.Job, f.Pods, f.Now)
	switch {
	case err != nil:
		return failed(v1alpha1.ReasonResultInvalid, "What the Job %s said cannot be used: %v", f.Job.Name, err)
	case result == nil:
		// Its pod is gone, and what it said with it. The next Job replaces what it has stored.
		return decision{Remove: []*batchv1.Job{f.Job}}
	case result.StoredTime == nil || result.SHA256 == "" || result.Reason != "":
		return failed(v1alpha1.ReasonResultInvalid, "The Job %s ended without an error, and did not say that it had stored "+
			"anything", f.Job.Name)
	}
	text := "The backup was stored, read back and found to be as it was sent"
	if f.Backup.Spec.Destination.PersistentVolumeClaim != nil {
		text += ". It is on a volume of this cluster, and is lost with it"
	}
	return decision{
		Phase: v1alpha1.BackupSucceeded, Reason: v1alpha1.ReasonBackupStored, Message: text, Result: result,
	}
}

// whyFailed is what the last pod of a Job said, or what Kubernetes says of the Job.
func whyFailed(job *batchv1.Job, pods []corev1.Pod, now time.Time) (reason, message string) {
	result, err := resultOf(job, pods, now)
	if err == nil && result != nil && result.Reason != "" {
		return string(result.Reason), cmp.Or(result.Message, "The Job failed")
	}
	message = "The Job failed and did not say why"
	if c := condition(job, batchv1.JobFailed); c != nil && c.Message != "" {
		message = c.Message
	}
	return v1alpha1.ReasonJobFailed, fmt.Sprintf("%s: kubectl logs -l %s=%s", message, batchv1.JobNameLabel, job.Name)
}

// progress is how far a Job is that has not ended: its pod that runs, or what it waits for, and how many pods have
// failed.
func progress(job *batchv1.Job, pods []corev1.Pod) (runs, why string, failures int32) {
	why = fmt.Sprintf("The pod of the Job is not there yet; if that lasts: kubectl describe job %s", job.Name)
	// The Job counts a pod that has failed later than the pod is seen.
	failures = job.Status.Failed
	if uncounted := job.Status.UncountedTerminatedPods; uncounted != nil {
		failures += int32(len(uncounted.Failed))
	}
	for i := range pods {
		pod := &pods[i]
		if !controlledBy(pod, job) {
			continue
		}
		switch pod.Status.Phase {
		case corev1.PodFailed:
			failures = max(failures, 1)
		case corev1.PodRunning, corev1.PodSucceeded:
			return pod.Name, "", failures
		default:
			why = waits(pod)
		}
	}
	if failures > 0 {
		why = fmt.Sprintf("The Job tries again, and has failed %d times", failures)
	}
	return "", why, failures
}

// underWay tells of a Job that has not ended.
func underWay(f *facts) decision {
	pod, why, failures := progress(f.Job, f.Pods)
	if pod != "" {
		return decision{
			Phase: v1alpha1.BackupRunning, Reason: v1alpha1.ReasonJobRunning, Message: "The Job copies the data: pod " + pod,
		}
	}
	// One that had begun is tried again by its Job.
	began := f.Job.CreationTimestamp.Time
	if f.Began != nil && f.Began.After(began) { // by another clock, which may be ahead
		began = f.Began.Time
	}
	late := began.Add(startTime).Sub(f.Now)
	if late <= 0 && failures == 0 {
		d := failed(v1alpha1.ReasonJobNotStarted, "The Job could not begin within %s: %s", startTime, why)
		d.Remove = []*batchv1.Job{f.Job}
		return d
	}
	phase := v1alpha1.BackupPending
	if failures > 0 {
		phase = v1alpha1.BackupRunning
	}
	return decision{
		Phase: phase, Reason: v1alpha1.ReasonJobPending, Message: why, Again: max(late, time.Second),
	}
}

// waits says what a pod waits for that does not run.
func waits(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return fmt.Sprintf("pod %s cannot be scheduled: %s", pod.Name, c.Message)
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" {
			return fmt.Sprintf("pod %s waits (%s): %s", pod.Name, w.Reason, w.Message)
		}
	}
	return fmt.Sprintf("pod %s is being started; if that lasts: kubectl describe pod %s", pod.Name, pod.Name)
}

// decideDeletion says how a backup goes that is being deleted and has the finalizer.
func decideDeletion(f *facts) decision {
	b := f.Backup
	if b.Spec.DeletionPolicy != v1alpha1.DeleteData || b.Status.Attempts == 0 {
		return decision{Release: true}
	}
	// Nothing may be stored after what was stored is deleted.
	if f.Job != nil && metav1.IsControlledBy(f.Job, b) {
		if f.Job.DeletionTimestamp != nil {
			return decision{Phase: v1alpha1.BackupDeleting, Again: time.Second}
		}
		return decision{Phase: v1alpha1.BackupDeleting, Remove: []*batchv1.Job{f.Job}, Again: time.Second}
	}
	if pod := unended(f); pod != "" {
		return decision{
			Phase: v1alpha1.BackupDeleting, Reason: v1alpha1.ReasonJobPending, Again: time.Second,
			Message: fmt.Sprintf("The pod %s has to end before: it may still store something", pod),
		}
	}
	return decideRemoval(f)
}

// goOn is what to do about a backup whose content cannot be deleted.
const goOn = ". It is tried again; to let the VaultBackup go and keep what is stored set spec.deletionPolicy to Retain"

// refusedJob says how a backup goes on whose Job the API server refuses to make.
func refusedJob(f *facts, action backup.Action, why error) decision {
	text := fmt.Sprintf("The Job cannot be made: %v", why)
	switch {
	case action == backup.Delete:
		return decision{
			Phase: v1alpha1.BackupDeleting, Reason: v1alpha1.ReasonJobNotStarted, Message: text + goOn, Again: refusedAgain,
		}
	case f.Now.Sub(f.Backup.CreationTimestamp.Time) > startTime:
		return failed(v1alpha1.ReasonJobNotStarted, "%s. It was tried for %s", text, startTime)
	}
	return decision{
		Phase: v1alpha1.BackupPending, Reason: v1alpha1.ReasonJobPending, Message: text, Again: refusedAgain,
	}
}

// decideRemoval says how what is stored is deleted, once nothing stores any more.
func decideRemoval(f *facts) decision {
	deleting := decision{Phase: v1alpha1.BackupDeleting, Reason: v1alpha1.ReasonJobRunning}
	switch {
	case f.Remover == nil && f.Missing != "":
		deleting.Reason, deleting.Again = v1alpha1.ReasonDestinationMissing, time.Minute
		deleting.Message = f.Missing + goOn
	case f.Remover == nil:
		deleting.Create, deleting.Message = backup.Delete, "A Job deletes what is stored"
	case !metav1.IsControlledBy(f.Remover, f.Backup):
		deleting.Reason, deleting.Again = v1alpha1.ReasonJobConflict, time.Minute
		deleting.Message = fmt.Sprintf("There is a Job %s that is not of this backup: delete it", f.Remover.Name)
	case f.Remover.DeletionTimestamp != nil:
		deleting.Again = time.Second
	case ended(f.Remover, batchv1.JobComplete):
		return decision{Release: true}
	case ended(f.Remover, batchv1.JobFailed):
		reason, message := whyFailed(f.Remover, f.Pods, f.Now)
		deleting.Reason, deleting.Message = reason, message+goOn
		if deleting.Again = f.Remover.CreationTimestamp.Add(deleteAgain).Sub(f.Now); deleting.Again <= 0 {
			deleting.Remove, deleting.Again = []*batchv1.Job{f.Remover}, time.Second
		}
	default:
		deleting.Message = "A Job deletes what is stored"
		runs, why, _ := progress(f.Remover, f.Pods)
		switch {
		case runs == "":
			deleting.Message = why + goOn
		case overdue(f.Remover, f.Now):
			deleting.Message = lostPod(runs) + goOn
		}
	}
	return deleting
}

// end is the condition by which a Job has ended, or nil.
func end(job *batchv1.Job) *batchv1.JobCondition {
	return cmp.Or(condition(job, batchv1.JobComplete), condition(job, batchv1.JobFailed))
}

func ended(job *batchv1.Job, kind batchv1.JobConditionType) bool { return condition(job, kind) != nil }

// condition returns one of a Job that is True, or nil.
func condition(job *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if c := &job.Status.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

func controlledBy(pod *corev1.Pod, job *batchv1.Job) bool { return metav1.IsControlledBy(pod, job) }
