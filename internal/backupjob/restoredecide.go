package backupjob

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/restore"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

const (
	// beginWithin is how long a restore waits for a Vault. One that was forgotten must not find a Vault of
	// this name some day.
	beginWithin = time.Hour
	// tellWithin is how long the nodes may take to tell that they have the data.
	tellWithin = 15 * time.Minute
	// look is how often what a restore waits for is looked at.
	look = 2 * time.Second
)

// restoreNode is a node of the Vault to restore into.
type restoreNode struct {
	Name        string
	UID         types.UID
	State       probe.State
	Created     time.Time
	Terminating bool
	// Version that it runs; empty while it is not known.
	Version string
}

// restoreFacts are what is known of a restore.
type restoreFacts struct {
	Restore *v1alpha1.VaultRestore
	// Vault to restore into; nil when there is none.
	Vault *v1alpha1.Vault
	// Backup that spec.backup names; nil when there is none.
	Backup *v1alpha1.VaultBackup
	// Origin is the Vault that was backed up; nil when it is gone.
	Origin *v1alpha1.Vault
	// Missing is what the spec names and is not there.
	Missing string
	// Before is the name of another restore into the Vault that has to end first.
	Before string
	// Job of the restore; nil while there is none.
	Job *batchv1.Job
	// Pods are those of the Job.
	Pods []corev1.Pod
	// Nodes are those of the Vault.
	Nodes []restoreNode
	Now   time.Time
}

// restoreDecision is what to do next, and what to tell.
type restoreDecision struct {
	// Create has the Job made.
	Create bool
	// Restart are nodes whose pods are deleted, so that others take their place.
	Restart []restoreNode
	// Remove has the Job deleted.
	Remove bool
	// Phase, Reason and Message are what is told; an empty Phase leaves it as it is.
	Phase           v1alpha1.RestorePhase
	Reason, Message string
	// Result is that of a Job that has succeeded.
	Result *backup.Result
	// Again is when to look again though nothing happens; zero for never.
	Again time.Duration
}

func restoreFailed(reason, format string, args ...any) restoreDecision {
	return restoreDecision{Phase: v1alpha1.RestoreFailed, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// decideRestore says how a restore goes on.
func decideRestore(f *restoreFacts) restoreDecision {
	r := f.Restore
	switch {
	case r.Completed():
		return restoreDecision{}
	case f.Job == nil && r.Status.StartTime != nil:
		return restoreFailed(v1alpha1.ReasonJobFailed, "The Job was deleted before it had ended, or before its result was "+
			"read.%s", afterwards(f))
	case f.Job == nil:
		return beginRestore(f)
	case !metav1.IsControlledBy(f.Job, r) && leaves(f.Job, r, f.Now):
		return restoreDecision{
			Phase: v1alpha1.RestorePending, Reason: v1alpha1.ReasonJobPending, Again: time.Second,
			Message: fmt.Sprintf("The Job %s of the VaultRestore that had this name is being deleted", f.Job.Name),
		}
	case !metav1.IsControlledBy(f.Job, r):
		return restoreFailed(v1alpha1.ReasonJobConflict, "There is a Job %s that is not of this restore: delete it, and "+
			"make another VaultRestore", f.Job.Name)
	case f.Job.DeletionTimestamp != nil:
		return restoreDecision{Again: look}
	case f.Vault == nil || !ofVault(f.Job, f.Vault):
		d := restoreFailed(v1alpha1.ReasonVaultReplaced, "The Vault %s was deleted meanwhile, or made anew. Make another "+
			"VaultRestore", r.Spec.Vault)
		d.Remove = true
		return d
	case awaitsResult(&facts{Job: f.Job, Pods: f.Pods, Now: f.Now}):
		return restoreDecision{Again: time.Second}
	case ended(f.Job, batchv1.JobComplete):
		return restored(f)
	case ended(f.Job, batchv1.JobFailed):
		reason, message := whyFailed(f.Job, f.Pods, f.Now)
		return restoreFailed(reason, "%s.%s", message, afterwards(f))
	}
	return restoring(f)
}

// ofVault says that the Job was made for that Vault, and not for one before it of its name. One of an older operator
// does not tell.
func ofVault(job *batchv1.Job, vault *v1alpha1.Vault) bool {
	uid, told := job.Annotations[vaultAnnotation]
	return !told || uid == string(vault.UID)
}

// afterwards is what to do after a Job that has failed, or is gone.
func afterwards(f *restoreFacts) string {
	if f.Vault == nil || !f.Vault.HasRaft() {
		return " What it may have written Vault does not use: make another VaultRestore, which goes on with it"
	}
	node := f.Vault.NodeName(0)
	for _, n := range f.Nodes {
		if n.State == probe.Active || n.State == probe.Standby {
			return fmt.Sprintf(" Pod %s is unsealed: if tokens of the Vault that was backed up work it has the data, and "+
				"nothing is to be deleted", n.Name)
		}
	}
	return fmt.Sprintf(" If pod %[1]s is initialized now, try to unseal it with the keys of the Vault that was backed "+
		"up: it has the data if they are right. If they are not it has keys that nobody has, and no data: "+
		"'kubectl delete pvc data-%[1]s -n %[2]s --wait=false && kubectl delete pod %[1]s -n %[2]s', and make another "+
		"VaultRestore", node, f.Vault.Namespace)
}

// beginRestore says whether the Job is made.
func beginRestore(f *restoreFacts) restoreDecision {
	reason, message := refuseRestore(f)
	if reason != "" {
		return restoreFailed(reason, "%s. Nothing was changed. When it is fixed make another VaultRestore", message)
	}
	wait := awaited(f)
	if wait == "" {
		return restoreDecision{
			Create: true, Phase: v1alpha1.RestorePending, Reason: v1alpha1.ReasonJobPending,
			Message: "A Job is made that restores the data", Again: look,
		}
	}
	if f.Now.Sub(f.Restore.CreationTimestamp.Time) > beginWithin {
		return restoreFailed(v1alpha1.ReasonNotBegun, "It has waited for %s: %s. Nothing was changed. When it is fixed "+
			"make another VaultRestore", beginWithin, wait)
	}
	return restoreDecision{
		Phase: v1alpha1.RestorePending, Reason: v1alpha1.ReasonAwaitingVault, Message: wait, Again: look,
	}
}

// refuseRestore is why a restore cannot begin however long it waits, or nothing.
func refuseRestore(f *restoreFacts) (reason, message string) {
	b := f.Backup
	switch {
	case f.Restore.Spec.From == nil && b == nil:
		return v1alpha1.ReasonBackupNotUsable, fmt.Sprintf("There is no VaultBackup %s in this namespace. If it is gone, "+
			"say in spec.from where it is stored", f.Restore.Spec.Backup)
	case b != nil && (b.DeletionTimestamp != nil || b.Completed() && !b.Succeeded()):
		return v1alpha1.ReasonBackupNotUsable, fmt.Sprintf("The VaultBackup %s has failed, or is being deleted: choose "+
			"another one", b.Name)
	case f.Missing != "":
		return v1alpha1.ReasonDestinationMissing, f.Missing
	case f.Vault == nil || f.Vault.DeletionTimestamp != nil:
		return "", ""
	}
	if reason, message = restore.Refusal(requirements(f), f.Vault); reason != "" {
		return reason, message
	}
	if message = restore.Follows(f.Origin, f.Vault); message != "" {
		return v1alpha1.ReasonOriginUnsealed, message
	}
	for _, n := range f.Nodes {
		if initialized(n.State) {
			return v1alpha1.ReasonVaultInitialized, fmt.Sprintf("Pod %s says that the Vault is initialized, and a restore "+
				"never replaces data: to lose what it has, %s", n.Name, restore.Anew)
		}
	}
	return "", ""
}

// requirements are what is known of the Vault that was backed up, or nil.
func requirements(f *restoreFacts) *v1alpha1.BackedUpVault {
	if f.Backup == nil {
		return f.Restore.Status.Requires
	}
	return f.Backup.Status.Vault
}

func initialized(state probe.State) bool {
	return state == probe.Active || state == probe.Standby || state == probe.Sealed
}

// awaited is what a restore waits for, or nothing.
func awaited(f *restoreFacts) string {
	switch {
	case f.Backup != nil && !f.Backup.Completed():
		return fmt.Sprintf("The VaultBackup %s is not made yet", f.Backup.Name)
	case f.Vault == nil:
		return fmt.Sprintf("There is no Vault %s yet: create it, without spec.initialization", f.Restore.Spec.Vault)
	case f.Vault.DeletionTimestamp != nil:
		return fmt.Sprintf("The Vault %s is being deleted: create it again, without spec.initialization", f.Vault.Name)
	case f.Before != "":
		return fmt.Sprintf("The VaultRestore %s into this Vault has to end first", f.Before)
	}
	return awaitedNodes(f)
}

// awaitedNodes is what a restore waits for of the nodes of the Vault, or nothing.
func awaitedNodes(f *restoreFacts) string {
	told, of := 0, requirements(f)
	for _, n := range f.Nodes {
		if of != nil && of.Version != "" && n.Version != "" && !n.Terminating &&
			vaultversion.Lower(n.Version, of.Version) {
			return fmt.Sprintf("Pod %s runs Vault %s, and the data is of %s: delete the pod, if it is not replaced",
				n.Name, n.Version, of.Version)
		}
		if n.State == probe.Uninitialized && !n.Terminating {
			told++
		}
	}
	// Any node with integrated storage may be the one that has data.
	if wanted := int(f.Vault.RunningNodes()); f.Vault.HasRaft() && told < wanted {
		return fmt.Sprintf("%d of %d nodes have told that they have no data", told, wanted)
	}
	if told == 0 {
		return "No Vault node has told yet that there is no data"
	}
	return ""
}

// refusedRestore says how a restore goes on whose Job cannot be made.
func refusedRestore(f *restoreFacts, why string) restoreDecision {
	text := "The Job cannot be made: " + why
	if f.Now.Sub(f.Restore.CreationTimestamp.Time) > beginWithin {
		return restoreFailed(v1alpha1.ReasonNotBegun, "%s. It was tried for %s. Nothing was changed. When it is fixed make "+
			"another VaultRestore", text, beginWithin)
	}
	return restoreDecision{
		Phase: v1alpha1.RestorePending, Reason: v1alpha1.ReasonJobPending, Message: text, Again: refusedAgain,
	}
}

// restoring tells of a Job that has not ended.
func restoring(f *restoreFacts) restoreDecision {
	d := underWay(&facts{Job: f.Job, Pods: f.Pods, Began: f.Restore.Status.StartTime, Now: f.Now})
	result := restoreDecision{
		Phase: v1alpha1.RestoreRunning, Reason: d.Reason, Message: d.Message, Again: max(d.Again, look),
	}
	switch d.Phase {
	case v1alpha1.BackupFailed:
		result.Phase, result.Remove = v1alpha1.RestoreFailed, len(d.Remove) > 0
		result.Message += ". Nothing was changed: make another VaultRestore"
	case v1alpha1.BackupRunning:
		if d.Reason == v1alpha1.ReasonJobRunning {
			result.Message = "The Job restores the data; do not initialize Vault meanwhile"
			// It may still write, so that nothing else begins.
			if overdue(f.Job, f.Now) {
				pod, _, _ := progress(f.Job, f.Pods)
				result.Message = lostPod(pod)
			}
		}
	}
	return result
}

// restored waits until the nodes tell that Vault has the data. Those with integrated storage have to
// start again: they know how many keys are needed only from when they started, or were initialized.
func restored(f *restoreFacts) restoreDecision {
	result, failed := restoreResult(f)
	if failed != nil {
		return *failed
	}
	ended := condition(f.Job, batchv1.JobComplete).LastTransitionTime.Time
	// It is of another clock than the time of pods, which may be behind.
	if made := f.Job.CreationTimestamp.Time; ended.Before(made) {
		ended = made
	}
	d := restoreDecision{Phase: v1alpha1.RestoreRunning, Reason: v1alpha1.ReasonAwaitingNodes, Again: look, Result: result}
	var told bool
	var since time.Time
	d.Restart, since, told = afterRestore(f, ended)
	switch {
	case len(d.Restart) == 0 && told:
		d.Phase, d.Reason, d.Message, d.Again = v1alpha1.RestoreSucceeded, v1alpha1.ReasonRestored, unsealText(f, result), 0
	case len(d.Restart) == 0 && f.Now.Sub(since) > tellWithin:
		return restoreFailed(v1alpha1.ReasonAwaitingNodes, "The data is restored, and no node tells that it has it: see "+
			"'kubectl vault logs %s -n %s'", f.Vault.Name, f.Vault.Namespace)
	default:
		d.Message = "The data is restored; the nodes have not told yet that they have it"
	}
	return d
}

// afterRestore looks at the nodes after the Job has ended: those that have to start again, since when none does, and
// whether one tells that it has the data.
func afterRestore(f *restoreFacts, ended time.Time) (restart []restoreNode, since time.Time, told bool) {
	since = ended
	for _, n := range f.Nodes {
		if n.Created.After(since) {
			since = n.Created
		}
		switch {
		case n.Terminating:
		case f.Vault.HasRaft() && !n.Created.After(ended):
			restart = append(restart, n)
		case n.State == probe.Unknown: // the operator has just started
			since = f.Now
		case initialized(n.State) && (!f.Vault.HasRaft() || n.Name == f.Vault.NodeName(0)):
			told = true
		}
	}
	return restart, since, told
}

// restoreResult is what the Job said, or how the restore has failed.
func restoreResult(f *restoreFacts) (*backup.Result, *restoreDecision) {
	result, err := resultOf(f.Job, f.Pods, f.Now)
	var failed restoreDecision
	switch {
	case err != nil:
		failed = restoreFailed(v1alpha1.ReasonResultInvalid, "What the Job %s said cannot be used: %v.%s", f.Job.Name, err,
			afterwards(f))
	case result == nil: // its pod is gone, and what it said with it
		return &backup.Result{}, nil
	case result.RestoredTime == nil || result.Reason != "":
		failed = restoreFailed(v1alpha1.ReasonResultInvalid, "The Job %s ended without an error, and did not say that it "+
			"had restored anything.%s", f.Job.Name, afterwards(f))
	default:
		return result, nil
	}
	return nil, &failed
}

// unsealText is what is told of a Vault that was restored.
func unsealText(f *restoreFacts, result *backup.Result) string {
	if seal := restore.SealOf(f.Vault); seal != "" && seal != v1alpha1.ShamirSeal {
		return "The Vault has the data of the backup, and unseals itself by the key service. Its recovery keys, tokens and " +
			"users are those of the Vault that was backed up"
	}
	keys := "the unseal keys"
	if v := result.Vault; v != nil && v.Threshold > 0 {
		keys = fmt.Sprintf("%d of the %d unseal keys", v.Threshold, v.Shares)
	}
	return fmt.Sprintf("The Vault has the data of the backup, and is sealed: unseal it with %s of the Vault that was "+
		"backed up, by 'kubectl vault unseal %s -n %s'. Its tokens and users are those of that Vault as well", keys,
		f.Vault.Name, f.Vault.Namespace)
}
