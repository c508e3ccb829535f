package backupproof

import (
	"cmp"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/backupjob"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// proveWithin is how long a proof may take, and perMiB how much longer for each MiB of the backup, up to
	// proveAtMost. Afterwards all of it is deleted.
	proveWithin = 30 * time.Minute
	perMiB      = time.Second
	proveAtMost = 6 * time.Hour
	// look is how often what a proof waits for is looked at.
	look = 2 * time.Second
	// lookAgain is how often it is looked whether a proof is due, so that a clock that was set is noticed, and
	// waitAgain how often while one is due and cannot begin.
	lookAgain = 5 * time.Minute
	waitAgain = 20 * time.Second
	// minTogether is for how long one pod has to reach at least what the other one does not: several tries of each.
	minTogether = 5 * time.Second
)

// facts are what is known of a schedule and of its proof.
type facts struct {
	Schedule *v1alpha1.VaultBackupSchedule
	// Origin is the Vault that is backed up; nil when there is none.
	Origin *v1alpha1.Vault
	// Backup is the one that is being proven, or the newest that has succeeded; nil when there is none.
	Backup *v1alpha1.VaultBackup

	// What there is of the names that a proof needs; nil while there is nothing.
	Vault   *v1alpha1.Vault
	Restore *v1alpha1.VaultRestore
	Policy  *networkingv1.NetworkPolicy
	// Isolated is the Job that the policy selects, and Control the one that it does not.
	Isolated, Control *batchv1.Job
	// Account is the ServiceAccount of the Jobs.
	Account *corev1.ServiceAccount

	// Pods are those of the Vault and of the Jobs, and Claims the volume claims of the Vault.
	Pods   []corev1.Pod
	Claims []corev1.PersistentVolumeClaim
	// LetsOut is the name of a NetworkPolicy of somebody else that may let the nodes out.
	LetsOut string
	// Seal is what the node of the Vault says of its seal; nil when it did not say, or was not asked.
	Seal *vaultclient.SealStatus
	// Active says that the node is active, and Mounts that it reads what is mounted in it.
	Active, Mounts bool
	// ClusterID is what the Vault that was backed up says that it is; empty when that is not known.
	ClusterID string
	// Canary is what is known of the canary; nil where none is wanted.
	Canary *canary

	Now time.Time
	// Started is when the operator began to look.
	Started time.Time
}

// decision is what to do next, and what to tell. One with nothing in it waits.
type decision struct {
	// Create are objects to make, and FindOut is a Job that finds out by Task what its pod can reach, on Machine if that
	// is not empty; nil when there is none to make.
	Create        []client.Object
	FindOut       *metav1.ObjectMeta
	Task, Machine string
	// Delete are objects to delete.
	Delete []client.Object
	// Finalizer has the finalizer put on the schedule, and Release has it taken away.
	Finalizer, Release bool
	// Restored, Unsealed and Canary are the levels that were shown.
	Restored, Unsealed, Canary bool
	// Proof is the new status, if it is another one, and Forget removes it with the condition.
	Proof  *v1alpha1.BackupProofStatus
	Forget bool
	// Condition is the new one, if it is another one.
	Condition *metav1.Condition
	// Again is when to look again though nothing happens; zero for never.
	Again time.Duration
}

func told(is metav1.ConditionStatus, reason, format string, args ...any) *metav1.Condition {
	return &metav1.Condition{Status: is, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// decide says how the proofs of a schedule go on. It is a function of what there is: whoever goes on after a
// process that was killed does what that one would have done.
func decide(f *facts) decision {
	s := f.Schedule
	if wanted(s) && s.Proving() {
		return goOn(f)
	}
	if d := tidy(f); len(d.Delete) > 0 || d.Again > 0 || d.Release {
		return d
	}
	if !wanted(s) {
		return decision{Forget: s.DeletionTimestamp == nil}
	}
	return next(f)
}

// wanted says that backups of the schedule are to be proven.
func wanted(s *v1alpha1.VaultBackupSchedule) bool {
	return s.Spec.Proof != nil && s.DeletionTimestamp == nil
}

// within is how long the proof may take.
func (f *facts) within() time.Duration {
	if f.Backup == nil {
		return proveWithin
	}
	more := perMiB * time.Duration(min(f.Backup.Status.Size>>20, int64(proveAtMost/perMiB)))
	return min(proveWithin+more, proveAtMost)
}

// tidy deletes what is left of a proof: at last what isolates it, when no pod is left, and then the
// finalizer.
func tidy(f *facts) decision {
	var d decision
	left := false
	remove := func(objects ...client.Object) {
		for _, object := range objects {
			left = true
			if object.GetDeletionTimestamp() == nil {
				d.Delete = append(d.Delete, object)
			}
		}
	}
	remove(f.parts()...)
	// Of a Vault of somebody else that has the name meanwhile nothing is waited for.
	foreign := f.Vault != nil && !f.Schedule.IsOf(f.Vault)
	left = left || len(f.Pods) > 0 && hasFinalizer(f.Schedule) && !foreign
	if !left {
		remove(f.shells()...)
	}
	switch {
	case left:
		d.Again = look
	case hasFinalizer(f.Schedule):
		d.Release = true
	}
	return d
}

func hasFinalizer(s *v1alpha1.VaultBackupSchedule) bool {
	return controllerutil.ContainsFinalizer(s, v1alpha1.ProofFinalizer)
}

// parts are what is there of the proof, but for what has to go last.
func (f *facts) parts() (objects []client.Object) {
	if f.Vault != nil && f.Schedule.IsOf(f.Vault) {
		objects = append(objects, f.Vault)
	}
	if f.Restore != nil && f.Schedule.IsOf(f.Restore) {
		objects = append(objects, f.Restore)
	}
	for _, job := range []*batchv1.Job{f.Isolated, f.Control} {
		if job != nil && f.Schedule.IsOf(job) {
			objects = append(objects, job)
		}
	}
	return objects
}

// shells are what has to go last.
func (f *facts) shells() (objects []client.Object) {
	if f.Policy != nil && f.Schedule.IsOf(f.Policy) {
		objects = append(objects, f.Policy)
	}
	if f.Account != nil && f.Schedule.IsOf(f.Account) {
		objects = append(objects, f.Account)
	}
	return objects
}

// conflict is what somebody else has of the names that a proof needs, or nothing.
func (f *facts) conflict() string {
	s := f.Schedule
	var kind string
	name := s.ProofName()
	switch {
	case f.Vault != nil && !s.IsOf(f.Vault):
		kind = "Vault"
	case f.Restore != nil && !s.IsOf(f.Restore):
		kind = "VaultRestore"
	case f.Policy != nil && !s.IsOf(f.Policy):
		kind, name = "NetworkPolicy", f.Policy.Name
	case f.Isolated != nil && !s.IsOf(f.Isolated):
		kind, name = "Job", f.Isolated.Name
	case f.Control != nil && !s.IsOf(f.Control):
		kind, name = "Job", f.Control.Name
	default:
		return ""
	}
	return fmt.Sprintf("There is a %s %s that was not made for a proof of this schedule: delete it, or make a "+
		"schedule of another name", kind, name)
}

// refusal is why the Vault's backups cannot be proven however often it is tried, or nothing.
func refusal(s *v1alpha1.VaultBackupSchedule, origin *v1alpha1.Vault) (reason, message string) {
	switch {
	case origin == nil:
		return "", ""
	case origin.HasExternal():
		return v1alpha1.ReasonStorageNotSupported, "The storage of the Vault is not run by the operator: prove its " +
			"backups with its own tools, and remove spec.proof"
	case origin.Spec.SealMigration != nil:
		return v1alpha1.ReasonSealNotProvable, "The seal of the Vault is being migrated: backups are proven again when " +
			"spec.sealMigration is removed"
	case origin.Spec.Seal == nil && hasKeyService(origin.Status.Seal):
		return v1alpha1.ReasonSealNotProvable, "The Vault is unsealed by a key service of its own configuration, which a " +
			"copy of it does not have: name it in spec.seal, as docs/auto-unseal.md says, and in spec.proof.keyService; or " +
			"remove spec.proof"
	case origin.Spec.Seal == nil:
		return "", ""
	case len(s.Spec.Proof.KeyService) == 0:
		return v1alpha1.ReasonSealNotProvable, "The Vault is unsealed by a key service, which a copy of it would reach: " +
			"say in spec.proof.keyService where that is; or restore a backup by hand now and then, as docs/restore.md says, " +
			"and remove spec.proof"
	}
	if err := checkKeyService(s.Spec.Proof.KeyService); err != nil {
		return v1alpha1.ReasonKeyServiceInvalid, err.Error()
	}
	return "", ""
}

func hasKeyService(seal *v1alpha1.SealStatus) bool {
	return seal != nil && seal.Type != "" && seal.Type != v1alpha1.ShamirSeal
}

// next says whether a proof begins.
func next(f *facts) decision {
	s := f.Schedule
	if reason, message := refusal(s, f.Origin); reason != "" {
		return decision{Condition: told(metav1.ConditionFalse, reason, "%s", message), Again: lookAgain}
	}
	plan, err := backupschedule.NewPlan(s.Spec.Proof.Schedule, s.Spec.TimeZone, s.UID)
	if err != nil {
		return decision{Condition: told(metav1.ConditionFalse, v1alpha1.ReasonScheduleInvalid, "spec.proof: %v", err)}
	}
	d := decision{Condition: unknown(s), Again: lookAgain}
	if s.Status.Proof == nil || s.Status.Proof.LastScheduleTime == nil {
		// What was due before spec.proof was set is not made up.
		d.Proof = &v1alpha1.BackupProofStatus{LastScheduleTime: now(f)}
		d.Again = look
		return d
	}
	last := backupschedule.NotAfter(*s.Status.Proof.LastScheduleTime, f.Now)
	if !last.Equal(s.Status.Proof.LastScheduleTime) {
		d.Proof = s.Status.Proof.DeepCopy()
		d.Proof.LastScheduleTime, d.Again = &last, look
		return d
	}
	latest, after := plan.Due(last.Time, f.Now)
	if late := plan.Late(latest, f.Started); late.After(f.Now) && !s.Spec.Suspend {
		d.Again = min(late.Sub(f.Now), lookAgain)
		return d
	}
	if latest.IsZero() {
		d.Again = min(max(plan.Begins(after).Sub(f.Now), time.Second), lookAgain)
		return d
	}
	due := metav1.NewTime(latest).Rfc3339Copy()
	if s.Spec.Suspend {
		d.Proof = s.Status.Proof.DeepCopy()
		d.Proof.LastScheduleTime = &due
		return d
	}
	if c, again := cannotBegin(f); c != nil || again > 0 {
		return decision{Condition: c, Again: again}
	}
	d.Finalizer, d.Again = true, look
	d.Proof = &v1alpha1.BackupProofStatus{
		Phase: v1alpha1.ProofRunning, Backup: f.Backup.Name, Vault: s.ProofName(), StartTime: now(f), LastScheduleTime: &due,
	}
	return d
}

func now(f *facts) *metav1.Time {
	at := metav1.NewTime(f.Now).Rfc3339Copy()
	return &at
}

// unknown is the condition before the first proof, and after what kept one from ever beginning is fixed.
func unknown(s *v1alpha1.VaultBackupSchedule) *metav1.Condition {
	c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition)
	if c != nil {
		switch c.Reason {
		case v1alpha1.ReasonSealNotProvable, v1alpha1.ReasonKeyServiceInvalid, v1alpha1.ReasonStorageNotSupported,
			v1alpha1.ReasonScheduleInvalid:
		default:
			return nil
		}
	}
	return told(metav1.ConditionUnknown, v1alpha1.ReasonNotProvenYet, "The next proof is made at its time")
}

// cannotBegin is why a proof that is due does not begin, if somebody has to do something about it, and when to
// look again.
func cannotBegin(f *facts) (*metav1.Condition, time.Duration) {
	is := metav1.ConditionFalse
	if f.Origin == nil || f.Origin.DeletionTimestamp != nil {
		return told(is, v1alpha1.ReasonBackupVaultNotFound, "A proof is due, and there is no Vault %s in this namespace "+
			"whose version and storage it needs", f.Schedule.Spec.Vault), waitAgain
	}
	if f.Backup == nil {
		return told(is, v1alpha1.ReasonNoBackup, "A proof is due, and no backup of this schedule has succeeded: see its "+
			"condition Ready"), waitAgain
	}
	if conflict := f.conflict(); conflict != "" {
		return told(is, v1alpha1.ReasonNameConflict, "%s", conflict), waitAgain
	}
	for i := range f.Claims {
		if f.Claims[i].DeletionTimestamp == nil {
			return told(is, v1alpha1.ReasonVolumesLeft, "The volume claim %[1]s of an earlier proof is still there: "+
				"kubectl delete pvc %[1]s", f.Claims[i].Name), waitAgain
		}
	}
	if len(f.Claims) > 0 {
		return nil, look
	}
	return nil, 0
}

// goOn does the next step of a proof that has begun.
func goOn(f *facts) decision {
	s := f.Schedule
	if conflict := f.conflict(); conflict != "" {
		return failed(f, v1alpha1.ReasonNameConflict, "%s", conflict)
	}
	reason, message := refusal(s, f.Origin)
	switch {
	case f.Origin == nil || f.Origin.DeletionTimestamp != nil:
		return failed(f, v1alpha1.ReasonBackupVaultNotFound, "The Vault %s was deleted meanwhile", s.Spec.Vault)
	case reason != "":
		return failed(f, reason, "%s", message)
	case f.Backup == nil || f.Backup.DeletionTimestamp != nil:
		return failed(f, v1alpha1.ReasonBackupNotUsable, "The backup %s was deleted meanwhile", s.Status.Proof.Backup)
	}
	d := step(f)
	if d.Proof != nil {
		return d
	}
	begun := s.Status.Proof.StartTime
	if begun != nil && begun.After(f.Now) { // a clock that was ahead would let it run on
		d.Proof, d.Again = s.Status.Proof.DeepCopy(), look
		d.Proof.StartTime = now(f)
		return d
	}
	if within := f.within(); begun == nil || f.Now.Sub(begun.Time) > within {
		late := failed(f, v1alpha1.ReasonProofTimedOut, "The backup %s was not proven within %s: %s. Try it by hand, "+
			"as docs/restore.md says", s.Status.Proof.Backup, within.Round(time.Minute), awaited(f))
		// Only what was waited for at last is missing.
		_, late.Restored = sealed(f)
		late.Unsealed = late.Restored && f.unsealed() && f.sameCluster()
		return late
	}
	d.Again = look
	return d
}

// step is what is to be done now, and nothing while something is waited for.
func step(f *facts) decision {
	s := f.Schedule
	if why := f.letOut(); why != "" {
		return failed(f, v1alpha1.ReasonNotIsolated, "The Vault %s, which is unsealed to prove the backup, may reach "+
			"something: %s", f.Vault.Name, why)
	}
	switch {
	// What isolates the Vault is there before it, and is made again if somebody deletes it.
	case f.Policy == nil:
		return decision{Create: []client.Object{newPolicy(s, f.Origin)}}
	case f.Policy.DeletionTimestamp != nil:
		return decision{}
	case f.Vault == nil:
		return begin(f)
	case f.Vault.DeletionTimestamp != nil:
		return failed(f, v1alpha1.ReasonBackupVaultNotFound, "Somebody has deleted the Vault %s into which the backup was "+
			"restored", f.Vault.Name)
	case f.Restore == nil:
		return decision{Create: []client.Object{newRestore(s, f.Backup.Name)}}
	case f.Restore.Completed() && f.Restore.Status.Phase != v1alpha1.RestoreSucceeded:
		reason, why := v1alpha1.ReasonJobFailed, "it does not say why"
		if c := meta.FindStatusCondition(f.Restore.Status.Conditions, v1alpha1.RestoredCondition); c != nil {
			reason, why = c.Reason, c.Message
		}
		return failed(f, reason, "The backup %s cannot be restored: %s", f.Backup.Name, why)
	case !f.Restore.Completed():
		return decision{}
	}
	return judge(f)
}

// letOut is why a Vault that was given what unseals it is not isolated any more, or nothing.
func (f *facts) letOut() string {
	switch {
	case f.Vault == nil || !unseals(f.Vault):
		return ""
	case f.Policy == nil || f.Policy.DeletionTimestamp != nil:
		return "somebody has deleted the NetworkPolicy that isolates it"
	case !equality.Semantic.DeepEqual(f.Policy.Spec, newPolicy(f.Schedule, f.Origin).Spec):
		return fmt.Sprintf("somebody has changed spec.proof, spec.seal of the Vault, or the NetworkPolicy %s, which "+
			"isolates it", f.Policy.Name)
	case f.LetsOut != "":
		return fmt.Sprintf("there is a NetworkPolicy %s now", f.LetsOut)
	}
	return ""
}

// begin makes the Vault, and before that finds out whether it can be given what unseals it. The pod that can reach the
// API server comes first, and while it tries, the other one on its machine.
func begin(f *facts) decision {
	s := f.Schedule
	if !unseals(f.Origin) {
		return decision{Create: []client.Object{newVault(s, f.Origin, "")}}
	}
	var d decision
	switch {
	case f.Control == nil:
		d.FindOut, d.Task = new(objectMeta(s, reachSuffix, v1alpha1.BackupComponent)), backup.ReachTask
		return d
	case f.machine() == "" && !backupjob.IsolationOf(f.Control, f.Pods, f.Now).Done:
		return d
	case f.Isolated == nil:
		d.FindOut, d.Task = new(objectMeta(s, isolationSuffix, v1alpha1.ProofComponent)), backup.IsolationTask
		d.Machine = f.machine()
		return d
	}
	isolated, why, known := f.isolation()
	switch {
	case known && !isolated && f.Origin.Spec.Seal != nil:
		return failed(f, v1alpha1.ReasonNotIsolated, "The backup %s is not restored, since its key service would unseal it: "+
			"%s", f.Backup.Name, why)
	case known && !isolated:
		d.Create = []client.Object{newVault(s, f.Origin, "")}
	case known:
		d.Create = []client.Object{newVault(s, f.Origin, f.machine())}
	}
	return d
}

// machine is where the Job runs, or has run, that reaches the API server; empty when it has not begun.
func (f *facts) machine() string {
	for i := range f.Pods {
		pod := &f.Pods[i]
		if metav1.IsControlledBy(pod, f.Control) && pod.Status.Phase != corev1.PodPending {
			return pod.Spec.NodeName
		}
	}
	return ""
}

// isolation says whether it was shown that what is restored can reach nothing, or why it was not.
func (f *facts) isolation() (isolated bool, why string, known bool) {
	inside := backupjob.IsolationOf(f.Isolated, f.Pods, f.Now)
	outside := backupjob.IsolationOf(f.Control, f.Pods, f.Now)
	switch {
	case !outside.Done:
		return false, outside.Why, false
	case !inside.Done:
		return false, inside.Why, false
	}
	if why = f.reaches(&inside); why == "" {
		why = unknownBecause(&inside, &outside)
	}
	return why == "", why, true
}

// reaches is why what is restored can, or may, reach something, or nothing.
func (f *facts) reaches(inside *backupjob.Isolation) string {
	reached, keyService := inside.Reached != nil && *inside.Reached, f.Origin.Spec.Seal != nil
	switch {
	case reached && keyService:
		return "the cluster does not enforce NetworkPolicies, or the API server is of what spec.proof.keyService allows"
	case reached:
		return "the cluster does not enforce NetworkPolicies"
	case inside.Late && keyService: // nobody waits with the keys
		return "pods reach the API server for a moment after they have started, before their NetworkPolicies take effect"
	case f.LetsOut != "":
		return fmt.Sprintf("the NetworkPolicy %s may let it out", f.LetsOut)
	case f.machine() == "":
		return "it is not known on which machine the cluster enforces NetworkPolicies"
	}
	return ""
}

// unknownBecause is why what the pods say shows nothing, or nothing. A pod that the policy does not select has to reach
// at the same time what the other does not: else that could have any cause.
func unknownBecause(inside, outside *backupjob.Isolation) string {
	const unknown = "it is not known whether the cluster enforces NetworkPolicies: "
	switch {
	case inside.Reached == nil:
		return unknown + inside.Why
	case outside.Reached == nil:
		return unknown + outside.Why
	case !*outside.Reached:
		return unknown + "pods of this namespace do not reach the API server in any case"
	case together(inside, outside) < minTogether:
		return unknown + "no pod of this namespace has reached the API server meanwhile"
	}
	return ""
}

// together is for how long the one pod has reached the API server while the other one has not.
func together(inside, outside *backupjob.Isolation) time.Duration {
	since, until := inside.Since, inside.Until
	if outside.Since.After(since) {
		since = outside.Since
	}
	if outside.Until.Before(until) {
		until = outside.Until
	}
	return until.Sub(since)
}

// sealed says whether the node with the restored data has told its seal, and that it is that of the backup, as far
// as that was recorded.
func sealed(f *facts) (told, same bool) {
	if f.Seal == nil || f.Backup == nil {
		return false, false
	}
	want := f.Backup.Status.Vault
	same = f.Seal.Initialized && (want == nil || (want.SealType == "" || want.SealType == f.Seal.Type) &&
		(want.Threshold == 0 || int(want.Threshold) == f.Seal.Threshold && int(want.Shares) == f.Seal.Shares))
	return true, same
}

// judge says what a restored Vault shows.
func judge(f *facts) decision {
	b := f.Backup
	toldSeal, same := sealed(f)
	switch {
	case !toldSeal:
		return decision{}
	case !same:
		want := b.Status.Vault
		if want == nil {
			want = &v1alpha1.BackedUpVault{}
		}
		return failed(f, v1alpha1.ReasonSealDiffers, "The node that has the data of backup %s tells another seal than was "+
			"recorded: %s, with %d of %d keys", b.Name, cmp.Or(want.SealType, "any"), want.Threshold, want.Shares)
	case !unseals(f.Vault):
		d := ended(f, v1alpha1.ProofSucceeded, told(metav1.ConditionTrue, v1alpha1.ReasonProvenRestored,
			"The backup %s was restored into another Vault, whose node tells the seal that was recorded. It was not "+
				"unsealed: %s", b.Name, whySealed(f)))
		d.Restored = true
		return d
	}
	d := decision{}
	keys := meta.FindStatusCondition(f.Vault.Status.Conditions, v1alpha1.UnsealKeysValidCondition)
	switch {
	case f.unsealed() && !f.sameCluster():
		d = failed(f, v1alpha1.ReasonClusterDiffers, "The backup %s was restored and unsealed, and says that it is another "+
			"Vault than %s", b.Name, b.Spec.Vault)
	case f.unsealed():
		if d = judgeUnsealed(f); d.Proof == nil {
			return d
		}
	case keys != nil && keys.Status == metav1.ConditionFalse:
		d = failed(f, v1alpha1.ReasonKeysRefused, "The backup %s was restored, and cannot be unsealed: %s", b.Name,
			keys.Message)
	default:
		return d
	}
	d.Restored = true
	return d
}

// ofOrigin says that the backup is of the Vault that is there now, and not of an earlier one of the name.
func (f *facts) ofOrigin() bool {
	return f.Backup != nil && f.Backup.Status.Vault != nil && f.Backup.Status.Vault.UID == f.Origin.UID
}

// unsealed says that what was restored is active and reads its mounts, by keys that the operator has given it, or by
// its key service.
func (f *facts) unsealed() bool {
	return f.Vault != nil && unseals(f.Vault) && f.Active && f.Mounts && f.Seal != nil && !f.Seal.Sealed
}

// sameCluster says that what was unsealed is, as far as that is known, the Vault that was backed up.
func (f *facts) sameCluster() bool { return f.ClusterID == "" || f.Seal.ClusterID == f.ClusterID }

// judgeUnsealed says what a Vault shows that was restored and unsealed, and nothing while its canary is to be read.
func judgeUnsealed(f *facts) decision {
	d, c := decision{}, f.Canary
	by := "by its key service"
	if keys := f.Vault.Spec.Unseal; keys != nil {
		by = fmt.Sprintf("with the keys of Secret %s", keys.KeysSecretName)
	}
	shown := fmt.Sprintf("The backup %s was restored into another Vault, and unsealed %s", f.Backup.Name, by)
	if f.ClusterID == "" {
		shown += fmt.Sprintf(" (its cluster ID is compared with nothing, since Vault %s told none)", f.Backup.Spec.Vault)
	}
	switch {
	case c == nil:
		d = ended(f, v1alpha1.ProofSucceeded, told(metav1.ConditionTrue, v1alpha1.ReasonProvenUnsealed, "%s", shown))
	case c.read && c.same:
		d = ended(f, v1alpha1.ProofSucceeded, told(metav1.ConditionTrue, v1alpha1.ReasonProvenCanary,
			"%s, and has the canary of Secret %s at %s", shown, c.spec.SecretName, c.spec.Path))
		d.Canary = true
	case c.read:
		d = failed(f, v1alpha1.ReasonCanaryDiffers, "%s, and has another value at %s than Secret %s", shown, c.spec.Path,
			c.spec.SecretName)
	case c.unusable != "":
		d = failed(f, v1alpha1.ReasonCanaryNotReadable, "%s, and the canary at %s cannot be read with the Secret %s: %s",
			shown, c.spec.Path, c.spec.SecretName, c.unusable)
	default: // the node has not responded yet
		return d
	}
	d.Unsealed = true
	return d
}

// whySealed is why a Vault was not given keys.
func whySealed(f *facts) string {
	if f.Origin.Spec.Unseal == nil {
		return "the operator has no keys, since the Vault has no spec.unseal"
	}
	_, why, known := f.isolation()
	if !known || why == "" {
		return "it was not known whether the cluster enforces NetworkPolicies"
	}
	return why
}

// awaited is what a proof waits for.
func awaited(f *facts) string {
	if f.Vault == nil {
		_, why, _ := f.isolation()
		return cmp.Or(why, "there is no Vault to restore into")
	}
	if why := unscheduled(f.Pods); why != "" {
		return why
	}
	seal := meta.FindStatusCondition(f.Vault.Status.Conditions, v1alpha1.SealReadyCondition)
	switch {
	case f.Vault.Spec.Seal != nil && seal != nil && seal.Status == metav1.ConditionFalse:
		return "the copy has to reach its key service, by what spec.proof.keyService allows, and be let in: " + seal.Message
	case f.Restore == nil:
		return "there is no VaultRestore"
	case !f.Restore.Completed():
		if c := meta.FindStatusCondition(f.Restore.Status.Conditions, v1alpha1.RestoredCondition); c != nil {
			return c.Message
		}
		return "the VaultRestore has not begun"
	case f.Seal == nil:
		return "the node with the restored data does not tell its seal"
	case f.unsealed() && f.Canary != nil:
		return "the canary could not be read: " + cmp.Or(f.Canary.failure, "no node was active any more")
	case f.Active:
		return "the Vault with the restored data was active, and did not say what is mounted in it"
	}
	return "the Vault with the restored data was not active"
}

// unscheduled is why a pod has no machine to run on, or nothing.
func unscheduled(list []corev1.Pod) string {
	for i := range list {
		for _, c := range list[i].Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return fmt.Sprintf("the pod %s waits for a machine: %s", list[i].Name, c.Message)
			}
		}
	}
	return ""
}

// ended is the end of a proof.
func ended(f *facts, phase v1alpha1.ProofPhase, condition *metav1.Condition) decision {
	proof := f.Schedule.Status.Proof.DeepCopy()
	proof.Phase, proof.CompletionTime = phase, now(f)
	return decision{Proof: proof, Condition: condition, Again: time.Second}
}

func failed(f *facts, reason, format string, args ...any) decision {
	return ended(f, v1alpha1.ProofFailed, told(metav1.ConditionFalse, reason, format, args...))
}
