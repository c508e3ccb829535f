package backupproof

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

var noon = time.Date(2026, 1, 4, 12, 0, 0, 0, time.UTC)

// at is a time as far from noon.
func at(d time.Duration) *metav1.Time {
	t := metav1.NewTime(noon.Add(d))
	return &t
}

// due are the facts of a schedule with a proof that is due, of a Vault that the operator unseals.
func due() *facts {
	s := &v1alpha1.VaultBackupSchedule{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nightly", UID: "s"}}
	s.Spec.Vault, s.Spec.Proof = "example", &v1alpha1.BackupProofPolicy{Schedule: "0 5 * * *"}
	s.Status.Proof = &v1alpha1.BackupProofStatus{LastScheduleTime: at(-24 * time.Hour)}
	origin := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "o"}}
	origin.Spec.Unseal = &v1alpha1.UnsealPolicy{KeysSecretName: "keys"}
	b := &v1alpha1.VaultBackup{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nightly-1"}}
	b.Status.Phase = v1alpha1.BackupSucceeded
	b.Status.Vault = &v1alpha1.BackedUpVault{UID: "o", SealType: "shamir", Shares: 5, Threshold: 3}
	return &facts{Schedule: s, Origin: origin, Backup: b, Now: noon}
}

// begun are those of a proof that has begun.
func begun() *facts {
	f := due()
	f.Schedule.Finalizers = []string{v1alpha1.ProofFinalizer}
	f.Schedule.Status.Proof = &v1alpha1.BackupProofStatus{
		Phase: v1alpha1.ProofRunning, Backup: "nightly-1", Vault: "nightly-proof", StartTime: at(-time.Minute),
		LastScheduleTime: at(-7 * time.Hour),
	}
	return f
}

// foundOut are those of one whose Jobs have ended, and said something.
func foundOut(isolated, control string) *facts {
	f := begun()
	f.Policy = newPolicy(f.Schedule, f.Origin)
	job := func(suffix, message string) *batchv1.Job {
		job := &batchv1.Job{ObjectMeta: objectMeta(f.Schedule, suffix, v1alpha1.ProofComponent)}
		job.UID = types.UID(suffix)
		job.Status.Conditions = []batchv1.JobCondition{{
			Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: *at(-time.Minute),
		}}
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job")),
		}}}
		pod.Spec.NodeName, pod.Status.Phase = "machine-1", corev1.PodSucceeded
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Message: message},
		}}}
		f.Pods = append(f.Pods, pod)
		return job
	}
	f.Isolated, f.Control = job(isolationSuffix, isolated), job(reachSuffix, control)
	return f
}

// What pods say that reach the API server, that do not meanwhile, and that do not any more.
const (
	yes  = `{"reached":true,"since":"2026-01-04T11:57:00Z","until":"2026-01-04T11:58:15Z"}`
	no   = `{"reached":false,"since":"2026-01-04T11:57:10Z","until":"2026-01-04T11:57:20Z"}`
	late = `{"reached":false,"late":true,"since":"2026-01-04T11:57:20Z","until":"2026-01-04T11:57:30Z"}`
)

// restored are those of one whose backup is restored, into a Vault with keys or without.
func restored(f *facts, keys bool) *facts {
	machine := ""
	if keys {
		machine = f.machine()
	}
	f.Vault = newVault(f.Schedule, f.Origin, machine)
	f.Restore = newRestore(f.Schedule, "nightly-1")
	f.Restore.Status.Phase, f.Restore.Status.CompletionTime = v1alpha1.RestoreSucceeded, at(-time.Second)
	f.Seal = &vaultclient.SealStatus{Type: "shamir", Initialized: true, Sealed: true, Shares: 5, Threshold: 3}
	return f
}

// with changes facts.
func with(f *facts, change func(*facts)) *facts {
	change(f)
	return f
}

// withKeys changes the facts of a backup that was restored into a Vault with keys, and withoutKeys of one
// that was restored into a Vault without.
func withKeys(change func(*facts)) *facts { return with(restored(foundOut(no, yes), true), change) }

func withoutKeys(change func(*facts)) *facts {
	return with(restored(foundOut(yes, yes), false), change)
}

// summary is a decision in short: what is made, deleted and told.
func summary(d decision) string {
	var words []string
	add := func(word string, is bool) {
		if is {
			words = append(words, word)
		}
	}
	for _, object := range d.Create {
		name := fmt.Sprintf("+%T", object)
		if vault, ok := object.(*v1alpha1.Vault); ok && vault.Spec.Unseal != nil {
			name += "(keys)"
		} else if ok && vault.Spec.Seal != nil {
			name += "(key service)"
		}
		words = append(words, strings.NewReplacer("*v1alpha1.", "", "*v1.", "").Replace(name))
	}
	if d.FindOut != nil {
		task := strings.NewReplacer(`{"action":"`, "", `"}`, "").Replace(d.Task)
		words = append(words, strings.TrimSpace("?"+d.FindOut.Name+" "+task+" "+d.Machine))
	}
	for _, object := range d.Delete {
		words = append(words, strings.NewReplacer("*v1alpha1.", "", "*v1.", "").Replace(fmt.Sprintf("-%T", object)))
	}
	add("finalizer", d.Finalizer)
	add("release", d.Release)
	add("forget", d.Forget)
	if d.Proof != nil {
		words = append(words, "="+string(d.Proof.Phase))
	}
	add("restored", d.Restored)
	add("unsealed", d.Unsealed)
	add("canary", d.Canary)
	if d.Condition != nil {
		words = append(words, string(d.Condition.Status), d.Condition.Reason)
	}
	return strings.Join(words, " ")
}

func deleting(object metav1.Object) { object.SetDeletionTimestamp(at(0)) }

func TestNext(t *testing.T) {
	for name, tt := range map[string]struct {
		facts *facts
		want  string
	}{
		"due": {due(), "finalizer =Running Unknown NotProvenYet"},
		"not due": {with(due(), func(f *facts) { f.Schedule.Status.Proof.LastScheduleTime = at(-time.Minute) }),
			"Unknown NotProvenYet"},
		"seen first": {with(due(), func(f *facts) { f.Schedule.Status.Proof = nil }), "= Unknown NotProvenYet"},
		"suspended, is skipped": {with(due(), func(f *facts) { f.Schedule.Spec.Suspend = true }),
			"= Unknown NotProvenYet"},
		"not wanted": {with(due(), func(f *facts) { f.Schedule.Spec.Proof = nil }), "forget"},
		"never due": {with(due(), func(f *facts) { f.Schedule.Spec.Proof.Schedule = "0 0 30 2 *" }),
			"False ScheduleInvalid"},
		"no Vault":  {with(due(), func(f *facts) { f.Origin = nil }), "False VaultNotFound"},
		"no backup": {with(due(), func(f *facts) { f.Backup = nil }), "False NoBackup"},
		"a key service, before it is due": {with(due(), func(f *facts) {
			f.Schedule.Status.Proof.LastScheduleTime = at(-time.Minute)
			f.Origin.Spec.Seal = &v1alpha1.SealPolicy{}
		}), "False SealNotProvable"},
		"a key service that is named": {withKeyService(due()), "finalizer =Running Unknown NotProvenYet"},
		"a key service that cannot be": {with(withKeyService(due()), func(f *facts) {
			f.Schedule.Spec.Proof.KeyService[0].CIDR = "10.1.2.300/32"
		}), "False KeyServiceInvalid"},
		"a seal that is migrated": {with(withKeyService(due()), func(f *facts) {
			f.Origin.Spec.SealMigration = &v1alpha1.SealMigrationPolicy{}
		}), "False SealNotProvable"},
		"a key service of the user's configuration": {with(due(), func(f *facts) {
			f.Origin.Status.Seal = &v1alpha1.SealStatus{Type: "awskms"}
		}), "False SealNotProvable"},
		"external storage": {with(due(), func(f *facts) {
			f.Origin.Spec.Storage.External = &v1alpha1.ExternalStorage{}
		}), "False StorageNotSupported"},
		"a key service, until now": {with(due(), func(f *facts) {
			f.Schedule.Status.Proof.LastScheduleTime = at(-time.Minute)
			f.Schedule.Status.Conditions = []metav1.Condition{{
				Type: v1alpha1.ProvenCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSealNotProvable,
			}}
		}), "Unknown NotProvenYet"},
		"the last result stays": {with(due(), func(f *facts) {
			f.Schedule.Status.Conditions = []metav1.Condition{{
				Type: v1alpha1.ProvenCondition, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProvenRestored,
			}}
		}), "finalizer =Running"},
		"a Vault of the name, with the label alone": {with(due(), func(f *facts) {
			f.Vault = newVault(f.Schedule, f.Origin, "")
			f.Vault.OwnerReferences = nil
		}), "False NameConflict"},
		"a Vault of the name, of an earlier schedule": {with(due(), func(f *facts) {
			f.Vault = newVault(f.Schedule, f.Origin, "")
			f.Schedule.UID = "another"
		}), "False NameConflict"},
		"a NetworkPolicy of the name": {with(due(), func(f *facts) {
			f.Policy = newPolicy(f.Schedule, f.Origin)
			f.Policy.Labels = nil
		}), "False NameConflict"},
		"a volume claim is left": {with(due(), func(f *facts) { f.Claims = make([]corev1.PersistentVolumeClaim, 1) }),
			"False VolumesLeft"},
		"a volume claim is going": {with(due(), func(f *facts) {
			f.Claims = make([]corev1.PersistentVolumeClaim, 1)
			deleting(&f.Claims[0])
		}), ""},
	} {
		if got := summary(decide(tt.facts)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestGoOn(t *testing.T) {
	for name, tt := range map[string]struct {
		facts *facts
		want  string
	}{
		"the policy is made first": {begun(), "+NetworkPolicy"},
		"and made again":           {withoutKeys(func(f *facts) { f.Policy = nil }), "+NetworkPolicy"},
		"it was deleted":           {withKeys(func(f *facts) { f.Policy = nil }), "=Failed False NotIsolated"},
		"it is being deleted":      {withKeys(func(f *facts) { deleting(f.Policy) }), "=Failed False NotIsolated"},
		"it was changed": {withKeys(func(f *facts) {
			f.Policy.Spec.Egress = append(f.Policy.Spec.Egress, networkingv1.NetworkPolicyEgressRule{})
		}), "=Failed False NotIsolated"},
		"another one was made": {withKeys(func(f *facts) { f.LetsOut = "x" }), "=Failed False NotIsolated"},
		"the policy is going":  {with(foundOut(no, yes), func(f *facts) { deleting(f.Policy) }), ""},
		"what pods reach is found out": {with(begun(), func(f *facts) { f.Policy = newPolicy(f.Schedule, f.Origin) }),
			"?nightly-proof-reach Reach"},
		"and on the same machine meanwhile": {with(foundOut(no, yes), func(f *facts) {
			f.Isolated, f.Control.Status.Conditions, f.Pods[1].Status.Phase = nil, nil, corev1.PodRunning
		}), "?nightly-proof-isolation Isolation machine-1"},
		"not before the first pod runs": {with(foundOut(no, yes), func(f *facts) {
			f.Isolated, f.Control.Status.Conditions, f.Pods[1].Status.Phase = nil, nil, corev1.PodPending
		}), ""},
		"the first pod has never run": {with(foundOut(no, ""), func(f *facts) {
			f.Isolated, f.Pods[1].Status.Phase = nil, corev1.PodPending
		}), "?nightly-proof-isolation Isolation"},
		"an outage meanwhile": {
			foundOut(no, `{"reached":true,"since":"2026-01-04T11:57:16Z","until":"2026-01-04T11:58:15Z"}`), "+Vault"},
		"nobody has looked to the end": {
			foundOut(no, `{"reached":true,"since":"2026-01-04T11:57:00Z","until":"2026-01-04T11:57:14Z"}`), "+Vault"},
		"a Job of the version before": {foundOut(`{"reached":false}`, `{"reached":true}`), "+Vault"},
		"an outage meanwhile, with a key service": {
			withKeyService(foundOut(no, `{"reached":true,"since":"2026-01-04T11:57:16Z","until":"2026-01-04T11:58:15Z"}`)),
			"=Failed False NotIsolated"},
		"isolated on a machine that is not known": {with(foundOut(no, yes), func(f *facts) {
			f.Pods[1].Spec.NodeName = ""
		}), "+Vault"},
		"a clock was ahead when it began": {with(foundOut(no, yes), func(f *facts) {
			f.Schedule.Status.Proof.StartTime = at(time.Hour)
			f.Isolated.Status.Conditions = nil
		}), "=Running"},
		"not without keys": {with(begun(), func(f *facts) {
			f.Policy, f.Origin.Spec.Unseal = newPolicy(f.Schedule, f.Origin), nil
		}), "+Vault"},
		"one Job runs": {with(foundOut(no, yes), func(f *facts) {
			f.Control.Status.Conditions = nil
		}), ""},
		"isolated":                                    {foundOut(no, yes), "+Vault(keys)"},
		"not isolated":                                {foundOut(yes, yes), "+Vault"},
		"nobody reaches the API server":               {foundOut(no, no), "+Vault"},
		"isolated after a moment":                     {foundOut(late, yes), "+Vault(keys)"},
		"isolated after a moment, with a key service": {withKeyService(foundOut(late, yes)), "=Failed False NotIsolated"},
		"isolated, with a key service":                {withKeyService(foundOut(no, yes)), "+Vault(key service)"},
		"not isolated, with a key service":            {withKeyService(foundOut(yes, yes)), "=Failed False NotIsolated"},
		"another policy lets it out, with a key service": {with(withKeyService(foundOut(no, yes)), func(f *facts) {
			f.LetsOut = "x"
		}), "=Failed False NotIsolated"},
		"unsealed by its key service": {unsealedByService(), "=Succeeded restored unsealed True Unsealed"},
		"not unsealed yet by its key service": {with(unsealedByService(), func(f *facts) {
			f.Seal.Sealed, f.Active = true, false
		}), ""},
		"another key service is named meanwhile": {with(unsealedByService(), func(f *facts) {
			f.Schedule.Spec.Proof.KeyService[0].Port = 1
		}), "=Failed False NotIsolated"},
		"the Job said nothing":         {foundOut("", yes), "+Vault"},
		"the Job said what cannot be":  {foundOut("{", yes), "+Vault"},
		"the other Job said nothing":   {foundOut(no, ""), "+Vault"},
		"the Job is of something else": {foundOut(`{"storedTime":"2026-01-01T00:00:00Z"}`, yes), "+Vault"},
		"another policy lets it out":   {with(foundOut(no, yes), func(f *facts) { f.LetsOut = "x" }), "+Vault"},
		"the Job is another's": {with(foundOut(no, yes), func(f *facts) {
			f.Isolated.OwnerReferences = nil
		}), "=Failed False NameConflict"},
		"the backup is restored into it": {withKeys(func(f *facts) { f.Restore = nil }), "+VaultRestore"},
		"it is being restored": {withKeys(func(f *facts) {
			f.Restore.Status = v1alpha1.VaultRestoreStatus{}
		}), ""},
		"the restore has failed":    {withKeys(failRestore), "=Failed False Incomplete"},
		"the node has told nothing": {withKeys(func(f *facts) { f.Seal = nil }), ""},
		"restored, without keys":    {restored(foundOut(yes, yes), false), "=Succeeded restored True Restored"},
		"restored, the Jobs are gone": {withoutKeys(func(f *facts) {
			f.Isolated = nil
		}), "=Succeeded restored True Restored"},
		"restored, with another number of keys": {withoutKeys(func(f *facts) {
			f.Seal.Threshold = 2
		}), "=Failed False SealDiffers"},
		"restored, with another seal": {withoutKeys(func(f *facts) {
			f.Seal.Type = "transit"
		}), "=Failed False SealDiffers"},
		"restored, and nothing was recorded": {withoutKeys(func(f *facts) {
			f.Backup.Status.Vault = nil
		}), "=Succeeded restored True Restored"},
		"restored, and the node has no data": {withoutKeys(func(f *facts) {
			f.Seal.Initialized = false
		}), "=Failed False SealDiffers"},
		"it is unsealed": {restored(foundOut(no, yes), true), ""},
		"unsealed":       {withKeys(unseal), "=Succeeded restored unsealed True Unsealed"},
		"unsealed, and its mounts are not readable": {withKeys(func(f *facts) {
			unseal(f)
			f.Mounts = false
		}), ""},
		"unsealed, and not active": {withKeys(func(f *facts) { f.Seal.Sealed = false }), ""},
		"unsealed, the same Vault": {withKeys(func(f *facts) {
			unseal(f)
			f.ClusterID = "c"
		}), "=Succeeded restored unsealed True Unsealed"},
		"unsealed, another Vault": {withKeys(func(f *facts) {
			unseal(f)
			f.ClusterID = "other"
		}), "=Failed restored False ClusterDiffers"},
		"unsealed, the canary is not read yet": {withCanary(canary{}), ""},
		"unsealed, the canary is read": {withCanary(canary{read: true, same: true}),
			"=Succeeded restored unsealed canary True Canary"},
		"unsealed, another value": {withCanary(canary{read: true}), "=Failed restored unsealed False CanaryDiffers"},
		"unsealed, it cannot be read": {withCanary(canary{unusable: "there is nothing"}),
			"=Failed restored unsealed False CanaryNotReadable"},
		"unsealed, it could not be read this time": {withCanary(canary{failure: "HTTP status 503"}), ""},
		"unsealed, another Vault, with the canary": {with(withCanary(canary{read: true, same: true}), func(f *facts) {
			f.ClusterID = "other"
		}), "=Failed restored False ClusterDiffers"},
		"restored, without keys, with a canary": {withoutKeys(func(f *facts) { f.Canary = &canary{} }),
			"=Succeeded restored True Restored"},
		"too late, the canary is not read": {with(withCanary(canary{}), func(f *facts) {
			f.Schedule.Status.Proof.StartTime = at(-time.Hour)
		}), "=Failed restored unsealed False TimedOut"},
		"too late, another Vault, while the policy is gone": {withKeys(func(f *facts) {
			unseal(f)
			f.ClusterID, f.Schedule.Status.Proof.StartTime = "other", at(-time.Hour)
			deleting(f.Policy)
		}), "=Failed False NotIsolated"},
		"too late, unsealed by hand": {withoutKeys(func(f *facts) {
			unseal(f)
			f.Schedule.Status.Proof.StartTime = at(-time.Hour)
			deleting(f.Policy)
		}), "=Failed restored False TimedOut"},
		"the keys are wrong": {withKeys(func(f *facts) {
			f.Vault.Status.Conditions = []metav1.Condition{{
				Type: v1alpha1.UnsealKeysValidCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonKeysWrong,
			}}
		}), "=Failed restored False KeysRefused"},
		"the backup is deleted": {with(begun(), func(f *facts) { deleting(f.Backup) }), "=Failed False BackupNotUsable"},
		"the Vault is deleted":  {with(begun(), func(f *facts) { f.Origin = nil }), "=Failed False VaultNotFound"},
		"somebody deletes what was made": {withKeys(func(f *facts) { deleting(f.Vault) }),
			"=Failed False VaultNotFound"},
		"a seal was set meanwhile": {with(begun(), func(f *facts) { f.Origin.Spec.Seal = &v1alpha1.SealPolicy{} }),
			"=Failed False SealNotProvable"},
		"too late, not restored": {withKeys(func(f *facts) {
			f.Restore, f.Seal = newRestore(f.Schedule, "nightly-1"), nil
			f.Schedule.Status.Proof.StartTime = at(-time.Hour)
		}), "=Failed False TimedOut"},
		"late, and large": {withKeys(func(f *facts) {
			f.Schedule.Status.Proof.StartTime, f.Backup.Status.Size = at(-time.Hour), 2<<30
		}), ""},
		"too late, and large": {withKeys(func(f *facts) {
			f.Schedule.Status.Proof.StartTime, f.Backup.Status.Size = at(-proveAtMost-time.Second), math.MaxInt64
		}), "=Failed restored False TimedOut"},
		"too late, not unsealed": {withKeys(func(f *facts) {
			f.Schedule.Status.Proof.StartTime = at(-time.Hour)
		}), "=Failed restored False TimedOut"},
		"late, and done": {withKeys(func(f *facts) {
			unseal(f)
			f.Schedule.Status.Proof.StartTime = at(-time.Hour)
		}), "=Succeeded restored unsealed True Unsealed"},
	} {
		if got := summary(decide(tt.facts)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func failRestore(f *facts) {
	f.Restore.Status.Phase = v1alpha1.RestoreFailed
	f.Restore.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.RestoredCondition, Status: metav1.ConditionFalse, Reason: "Incomplete",
	}}
}

func unseal(f *facts) { f.Seal.Sealed, f.Seal.ClusterID, f.Active, f.Mounts = false, "c", true, true }

// withKeyService changes facts into those of a Vault that a key service unseals.
func withKeyService(f *facts) *facts {
	f.Origin.Spec.Unseal, f.Origin.Spec.Seal = nil, &v1alpha1.SealPolicy{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "r"}}
	f.Origin.Status.Seal = &v1alpha1.SealStatus{Type: "awskms"}
	f.Backup.Status.Vault.SealType = "awskms"
	f.Schedule.Spec.Proof.KeyService = []v1alpha1.KeyServicePeer{{
		CIDR: "10.1.2.3/32", Port: 443,
	}}
	if f.Policy != nil {
		f.Policy = newPolicy(f.Schedule, f.Origin)
	}
	return f
}

// unsealedByService are the facts of a backup that was restored into a Vault which a key service has unsealed.
func unsealedByService() *facts {
	f := restored(withKeyService(foundOut(no, yes)), true)
	f.Seal.Type = "awskms"
	unseal(f)
	return f
}

// withCanary are the facts of a backup that was unsealed, of which the canary was asked for.
func withCanary(c canary) *facts {
	return withKeys(func(f *facts) {
		unseal(f)
		f.Canary = &c
	})
}

// What isolates an unsealed copy stays until its last pod is gone, whatever ends the proof.
func TestTidy(t *testing.T) {
	over := func(f *facts) *facts {
		f.Schedule.Status.Proof.Phase = v1alpha1.ProofFailed
		f.Account = &corev1.ServiceAccount{ObjectMeta: objectMeta(f.Schedule, "-backup", v1alpha1.ProofComponent)}
		return f
	}
	for name, tt := range map[string]struct {
		facts *facts
		want  string
	}{
		"all of it": {over(restored(foundOut(no, yes), true)), "-Vault -VaultRestore -Job -Job"},
		"proofs are not wanted any more": {with(over(restored(foundOut(no, yes), true)), func(f *facts) {
			f.Schedule.Spec.Proof, f.Schedule.Status.Proof.Phase = nil, v1alpha1.ProofRunning
		}), "-Vault -VaultRestore -Job -Job"},
		"the schedule is deleted": {with(over(restored(foundOut(no, yes), true)), func(f *facts) {
			deleting(f.Schedule)
			f.Schedule.Status.Proof.Phase = v1alpha1.ProofRunning
		}), "-Vault -VaultRestore -Job -Job"},
		"all is going": {with(over(restored(foundOut(no, yes), true)), func(f *facts) {
			deleting(f.Vault)
			deleting(f.Restore)
			deleting(f.Isolated)
			deleting(f.Control)
		}), ""},
		"a pod is left": {with(over(foundOut(no, yes)), func(f *facts) { f.Isolated, f.Control = nil, nil }), ""},
		"no pod is left": {with(over(foundOut(no, yes)), func(f *facts) {
			f.Isolated, f.Control, f.Pods = nil, nil, nil
		}), "-NetworkPolicy -ServiceAccount"},
		"nothing is left": {with(over(begun()), func(f *facts) { f.Account = nil }), "release"},
		"nothing is left of a schedule that is deleted": {with(over(begun()), func(f *facts) {
			deleting(f.Schedule)
			f.Account = nil
		}), "release"},
		"what is not ours stays": {with(over(restored(foundOut(no, yes), true)), func(f *facts) {
			f.Vault.OwnerReferences[0].UID, f.Restore.Labels, f.Account.OwnerReferences = "forged", nil, nil
			f.Isolated, f.Control, f.Policy = nil, nil, nil
		}), "release"},
	} {
		if got := summary(decide(tt.facts)); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// Whatever is missing of what is known, no keys are given.
func TestNoKeysWithoutIsolation(t *testing.T) {
	complete := func() *facts { return foundOut(no, yes) }
	if got := summary(decide(complete())); got != "+Vault(keys)" {
		t.Fatal(got)
	}
	for name, forget := range map[string]func(*facts){
		"policy": func(f *facts) { f.Policy = nil }, "isolated": func(f *facts) { f.Isolated = nil },
		"control": func(f *facts) { f.Control = nil }, "pods": func(f *facts) { f.Pods = nil },
		"origin": func(f *facts) { f.Origin = nil }, "backup": func(f *facts) { f.Backup = nil },
		"schedule":       func(f *facts) { f.Schedule.Status.Proof = nil },
		"owner of a pod": func(f *facts) { f.Pods[0].OwnerReferences = nil },
	} {
		if got := summary(decide(with(complete(), forget))); strings.Contains(got, "keys") {
			t.Errorf("without %s: %q", name, got)
		}
		if got := summary(decide(with(withKeyService(complete()), forget))); strings.Contains(got, "key service") {
			t.Errorf("without %s, with a key service: %q", name, got)
		}
	}
}

func TestMessagesTellWhy(t *testing.T) {
	for want, f := range map[string]*facts{
		"does not enforce NetworkPolicies": restored(foundOut(yes, yes), false),
		"not known on which machine": restored(with(foundOut(no, yes), func(f *facts) {
			f.Pods[1].Spec.NodeName = ""
		}), false),
		"in any case": restored(foundOut(no, no), false),
		"policy-x may let it out": restored(with(foundOut(no, yes), func(f *facts) {
			f.LetsOut = "policy-x"
		}), false),
		"its key service would unseal it: the cluster does not enforce": withKeyService(foundOut(yes, yes)),
		"or the API server is of what spec.proof.keyService allows":     withKeyService(foundOut(yes, yes)),
		"is being migrated": with(withKeyService(due()), func(f *facts) {
			f.Origin.Spec.SealMigration = &v1alpha1.SealMigrationPolicy{}
		}),
		"key service of its own configuration": with(due(), func(f *facts) {
			f.Origin.Status.Seal = &v1alpha1.SealStatus{Type: "awskms"}
		}),
		"what spec.proof.keyService allows, and be let in: refused": with(unsealedByService(), func(f *facts) {
			f.Restore.Status, f.Schedule.Status.Proof.StartTime = v1alpha1.VaultRestoreStatus{}, at(-time.Hour)
			f.Vault.Status.Conditions = []metav1.Condition{{
				Type: v1alpha1.SealReadyCondition, Status: metav1.ConditionFalse, Message: "refused",
			}}
		}),
		"nightly-proof-0 waits for a machine: 0/3 nodes": with(unsealedByService(), func(f *facts) {
			f.Restore.Status, f.Schedule.Status.Proof.StartTime = v1alpha1.VaultRestoreStatus{}, at(-time.Hour)
			pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "nightly-proof-0"}}
			pod.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes",
			}}
			f.Pods = append(f.Pods, pod)
		}),
		"for a moment after they have started": withKeyService(foundOut(late, yes)),
		"no spec.unseal": restored(with(foundOut(no, yes), func(f *facts) { f.Origin.Spec.Unseal = nil }),
			false),
	} {
		if d := decide(f); d.Condition == nil || !strings.Contains(d.Condition.Message, want) {
			t.Errorf("%+v, want %q", d.Condition, want)
		}
	}
}
