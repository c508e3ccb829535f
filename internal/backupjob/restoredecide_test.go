package backupjob

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/probe"
)

func newRestore(change func(*v1alpha1.VaultRestore)) *v1alpha1.VaultRestore {
	r := &v1alpha1.VaultRestore{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "r", UID: "6789-0", CreationTimestamp: metav1.NewTime(now.Add(-time.Minute)),
	}}
	r.Spec = v1alpha1.VaultRestoreSpec{Vault: "example", Backup: "b"}
	if change != nil {
		change(r)
	}
	return r
}

// newRestoreJob is the Job of a restore that has ended a while ago, if it has.
func newRestoreJob(r *v1alpha1.VaultRestore, kind batchv1.JobConditionType) *batchv1.Job {
	job := newJob(nil, kind)
	job.Name = "r-restore"
	if r != nil {
		job.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(r, v1alpha1.GroupVersion.WithKind("VaultRestore")),
		}
	}
	return job
}

func succeededBackup(change func(*v1alpha1.VaultBackup)) *v1alpha1.VaultBackup {
	return newBackup(func(b *v1alpha1.VaultBackup) {
		b.Status.Phase, b.Status.CompletionTime = v1alpha1.BackupSucceeded, &metav1.Time{Time: now}
		b.Status.Vault = &v1alpha1.BackedUpVault{Version: "1.21.0", Storage: "etcd", SealType: "shamir"}
		if change != nil {
			change(b)
		}
	})
}

func emptyVault(change func(*v1alpha1.Vault)) *v1alpha1.Vault {
	return newVault(func(v *v1alpha1.Vault) {
		v.Status.Initialized, v.Spec.Version = false, "1.21.0"
		if change != nil {
			change(v)
		}
	})
}

// nodesOf are nodes in states, made before the Job has ended, or after.
func nodesOf(after bool, states ...probe.State) []restoreNode {
	var nodes []restoreNode
	for i, state := range states {
		created := now.Add(-time.Hour)
		if after {
			created = now
		}
		nodes = append(nodes, restoreNode{Name: "example-" + string(rune('0'+i)), State: state, Created: created})
	}
	return nodes
}

const restoredResult = `{"restoredTime": "2026-01-02T03:04:00Z", "vault": {"version": "1.21.0", "shares": 5, "threshold": 3}}`

func TestDecideRestore(t *testing.T) {
	raft := func(v *v1alpha1.Vault) {
		v.Spec.Storage, v.Spec.Nodes = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}, new(int32(3))
	}
	ofRaft := func(b *v1alpha1.VaultBackup) { b.Status.Vault.Storage = "raft" }
	from := func(r *v1alpha1.VaultRestore) {
		r.Spec.Backup, r.Spec.From = "", &v1alpha1.StoredBackup{Name: "default/example/b"}
	}
	begun := func(r *v1alpha1.VaultRestore) { r.Status.StartTime = &metav1.Time{Time: now} }
	x := newRestore(begun)
	complete, broken, running := newRestoreJob(x, batchv1.JobComplete), newRestoreJob(x, batchv1.JobFailed), newRestoreJob(x, "")
	said := func(job *batchv1.Job, message string) []corev1.Pod {
		return []corev1.Pod{podOf(job, corev1.PodSucceeded, message)}
	}
	old := newRestore(func(r *v1alpha1.VaultRestore) { r.CreationTimestamp.Time = now.Add(-beginWithin - time.Second) })
	none := nodesOf(false, probe.Uninitialized)
	const (
		pending   = v1alpha1.RestorePending
		runs      = v1alpha1.RestoreRunning
		failed    = v1alpha1.RestoreFailed
		succeeded = v1alpha1.RestoreSucceeded
	)
	for name, tt := range map[string]struct {
		facts   restoreFacts
		phase   v1alpha1.RestorePhase
		reason  string
		create  bool
		restart int
		says    string
	}{
		"is over": {facts: restoreFacts{Restore: newRestore(func(r *v1alpha1.VaultRestore) {
			r.Status.CompletionTime = &metav1.Time{Time: now}
		})}},
		"begins":              {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(nil), Nodes: none}, pending, v1alpha1.ReasonJobPending, true, 0, ""},
		"begins from a store": {restoreFacts{Restore: newRestore(from), Vault: emptyVault(nil), Nodes: none}, pending, v1alpha1.ReasonJobPending, true, 0, ""},
		"no backup":           {restoreFacts{Vault: emptyVault(nil), Nodes: none}, failed, v1alpha1.ReasonBackupNotUsable, false, 0, "spec.from"},
		"a failed backup": {restoreFacts{Backup: newBackup(func(b *v1alpha1.VaultBackup) {
			b.Status.Phase, b.Status.CompletionTime = v1alpha1.BackupFailed, &metav1.Time{Time: now}
		}), Vault: emptyVault(nil), Nodes: none}, failed, v1alpha1.ReasonBackupNotUsable, false, 0, ""},
		"a backup that is made": {restoreFacts{Backup: newBackup(nil), Vault: emptyVault(nil), Nodes: none}, pending, v1alpha1.ReasonAwaitingVault, false, 0, ""},
		"no Secret":             {restoreFacts{Backup: succeededBackup(nil), Missing: "There is no Secret s"}, failed, v1alpha1.ReasonDestinationMissing, false, 0, "no Secret s. Nothing was changed"},
		"no Vault":              {restoreFacts{Backup: succeededBackup(nil)}, pending, v1alpha1.ReasonAwaitingVault, false, 0, "There is no Vault example yet"},
		"no Vault for long":     {restoreFacts{Restore: old, Backup: succeededBackup(nil)}, failed, v1alpha1.ReasonNotBegun, false, 0, "There is no Vault example yet"},
		"a Vault that goes": {restoreFacts{Backup: succeededBackup(nil), Vault: newVault(func(v *v1alpha1.Vault) {
			v.DeletionTimestamp = &metav1.Time{Time: now}
		}), Nodes: nodesOf(false, probe.Active)}, pending, v1alpha1.ReasonAwaitingVault, false, 0, ""},
		"no node":           {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(nil), Nodes: nodesOf(false, probe.Unknown, probe.Unreachable)}, pending, v1alpha1.ReasonAwaitingVault, false, 0, ""},
		"a Vault with data": {restoreFacts{Backup: succeededBackup(nil), Vault: newVault(func(v *v1alpha1.Vault) { v.Spec.Version = "1.21.0" })}, failed, v1alpha1.ReasonVaultInitialized, false, 0, "delete the Vault"},
		"a node with data":  {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(nil), Nodes: nodesOf(false, probe.Uninitialized, probe.Sealed)}, failed, v1alpha1.ReasonVaultInitialized, false, 0, "Pod example-1"},
		"would initialize":  {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(func(v *v1alpha1.Vault) { v.Spec.Initialization = &v1alpha1.InitializationPolicy{} }), Nodes: none}, failed, v1alpha1.ReasonInitializesItself, false, 0, ""},
		"another storage":   {restoreFacts{Backup: succeededBackup(ofRaft), Vault: emptyVault(nil), Nodes: none}, failed, v1alpha1.ReasonStorageDiffers, false, 0, "spec.storage.raft"},
		"storage of others": {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(func(v *v1alpha1.Vault) { v.Spec.Storage = v1alpha1.StorageSpec{External: &v1alpha1.ExternalStorage{}} }), Nodes: none}, failed, v1alpha1.ReasonStorageNotSupported, false, 0, ""},
		"a lower version":   {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(func(v *v1alpha1.Vault) { v.Spec.Version = "1.20.9" }), Nodes: none}, failed, v1alpha1.ReasonVersionLower, false, 0, "1.21.0"},
		"a higher version":  {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(func(v *v1alpha1.Vault) { v.Spec.Version = "1.21.1" }), Nodes: none}, pending, v1alpha1.ReasonJobPending, true, 0, ""},
		"another seal":      {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(func(v *v1alpha1.Vault) { v.Spec.Seal = &v1alpha1.SealPolicy{Transit: &v1alpha1.TransitSeal{}} }), Nodes: none}, failed, v1alpha1.ReasonSealDiffers, false, 0, "shamir"},
		"after another":     {restoreFacts{Backup: succeededBackup(nil), Vault: emptyVault(nil), Nodes: none, Before: "other"}, pending, v1alpha1.ReasonAwaitingVault, false, 0, "other"},
		"some raft nodes":   {restoreFacts{Backup: succeededBackup(ofRaft), Vault: emptyVault(raft), Nodes: nodesOf(false, probe.Uninitialized, probe.Uninitialized)}, pending, v1alpha1.ReasonAwaitingVault, false, 0, "2 of 3"},
		"all raft nodes":    {restoreFacts{Backup: succeededBackup(ofRaft), Vault: emptyVault(raft), Nodes: nodesOf(false, probe.Uninitialized, probe.Uninitialized, probe.Uninitialized)}, pending, v1alpha1.ReasonJobPending, true, 0, ""},
		"the origin serves": {restoreFacts{Backup: succeededBackup(ofRaft), Vault: emptyVault(raft), Nodes: none, Origin: newVault(func(v *v1alpha1.Vault) {
			v.UID, v.Name, v.Status.VaultStatus.Active = "old", "old", "old-0"
		})}, failed, v1alpha1.ReasonOriginUnsealed, false, 0, "seal old or delete it"},
		"the Job is gone":         {restoreFacts{Restore: x, Vault: emptyVault(nil)}, failed, v1alpha1.ReasonJobFailed, false, 0, "goes on with it"},
		"the Job of raft is gone": {restoreFacts{Restore: x, Vault: emptyVault(raft)}, failed, v1alpha1.ReasonJobFailed, false, 0, "delete pvc data-example-0"},
		"a Job of others":         {restoreFacts{Vault: emptyVault(nil), Job: newRestoreJob(nil, "")}, failed, v1alpha1.ReasonJobConflict, false, 0, ""},
		"runs":                    {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: running, Pods: []corev1.Pod{podOf(running, corev1.PodRunning, "")}}, runs, v1alpha1.ReasonJobRunning, false, 0, "do not initialize"},
		"fails":                   {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: broken, Pods: said(broken, `{"reason": "DigestMismatch", "message": "m"}`)}, failed, "DigestMismatch", false, 0, "m. What"},
		"says nothing of it":      {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: complete, Pods: said(complete, "{}")}, failed, v1alpha1.ReasonResultInvalid, false, 0, ""},
		"tells nonsense":          {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: complete, Pods: said(complete, `{"restoredTime": "2026-01-02T03:04:00Z", "vault": {"threshold": 3, "shares": 2}}`)}, failed, v1alpha1.ReasonResultInvalid, false, 0, ""},
		"waits for nodes":         {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: complete, Pods: said(complete, restoredResult), Nodes: none}, runs, v1alpha1.ReasonAwaitingNodes, false, 0, ""},
		"succeeds":                {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: complete, Pods: said(complete, restoredResult), Nodes: nodesOf(false, probe.Sealed, probe.Uninitialized)}, succeeded, v1alpha1.ReasonRestored, false, 0, "3 of the 5 unseal keys"},
		"succeeds without a pod":  {restoreFacts{Restore: x, Vault: emptyVault(nil), Job: complete, Nodes: nodesOf(false, probe.Sealed)}, succeeded, v1alpha1.ReasonRestored, false, 0, "the unseal keys"},
		"unseals itself": {restoreFacts{Restore: x, Vault: emptyVault(func(v *v1alpha1.Vault) { v.Spec.Seal = &v1alpha1.SealPolicy{} }), Job: complete, Pods: said(complete, restoredResult),
			Nodes: nodesOf(false, probe.Active)}, succeeded, v1alpha1.ReasonRestored, false, 0, "by the key service"},
		"raft starts again":      {restoreFacts{Restore: x, Vault: emptyVault(raft), Job: complete, Pods: said(complete, restoredResult), Nodes: nodesOf(false, probe.Sealed, probe.Sealed, probe.Uninitialized)}, runs, v1alpha1.ReasonAwaitingNodes, false, 3, ""},
		"raft has started again": {restoreFacts{Restore: x, Vault: emptyVault(raft), Job: complete, Pods: said(complete, restoredResult), Nodes: nodesOf(true, probe.Sealed, probe.Uninitialized, probe.Unreachable)}, succeeded, v1alpha1.ReasonRestored, false, 0, ""},
		"raft starts":            {restoreFacts{Restore: x, Vault: emptyVault(raft), Job: complete, Pods: said(complete, restoredResult), Nodes: nodesOf(true, probe.Unreachable, probe.Sealed)}, runs, v1alpha1.ReasonAwaitingNodes, false, 0, ""},
	} {
		if tt.facts.Restore == nil {
			tt.facts.Restore = newRestore(nil)
		}
		tt.facts.Now = now
		d := decideRestore(&tt.facts)
		if d.Phase != tt.phase || d.Reason != tt.reason || d.Create != tt.create || len(d.Restart) != tt.restart ||
			!strings.Contains(d.Message, tt.says) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestStoredAt(t *testing.T) {
	x := newRestore(func(r *v1alpha1.VaultRestore) {
		r.Spec.Backup = ""
		r.Spec.From = &v1alpha1.StoredBackup{Name: "default/example/b-1234", Location: newBackup(nil).Spec.Destination}
	})
	var urls []string
	b := succeededBackup(func(b *v1alpha1.VaultBackup) { b.Status.Digest = "sha256:abc" })
	for _, f := range []restoreFacts{{Restore: newRestore(nil), Backup: b}, {Restore: x}} {
		at := storedAt(&f)
		urls = append(urls, urlOf(at.destination, at.location, at.name)+" "+at.digest)
	}
	if urls[0] != "s3://bucket/p/default/example/b-1234.snapshot abc" ||
		urls[1] != "s3://bucket/p/default/example/b-1234.snapshot " {
		t.Errorf("they are at %q", urls)
	}
}

func TestRestoreJob(t *testing.T) {
	r := Restorer{Reconciler: &Reconciler{}}
	f := restoreFacts{Restore: newRestore(nil), Backup: succeededBackup(nil), Vault: emptyVault(nil)}
	job, err := r.newRestoreJob(&f, "image", "")
	if err != nil || job.Name != "r-restore" || !strings.Contains(job.Spec.Template.Spec.Containers[0].Env[0].Value, `"etcd"`) {
		t.Errorf("%+v, %v", job, err)
	}
	f.Vault = emptyVault(func(v *v1alpha1.Vault) { v.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}} })
	job, err = r.newRestoreJob(&f, "image", "ca.crt")
	const want = `"raft":{"address":"https://example-0.example-nodes.default.svc:8200","serverName":"example.default.svc"`
	if task := job.Spec.Template.Spec.Containers[0].Env[0].Value; err != nil || !strings.Contains(task, want) ||
		!strings.Contains(task, string(backup.Restore)) {
		t.Errorf("the task is %s, %v", task, err)
	}
}
