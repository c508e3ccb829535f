package backupjob

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

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

const restoredResult = `{"restoredTime": "2026-01-02T03:04:00Z", ` +
	`"vault": {"version": "1.21.0", "shares": 5, "threshold": 3}}`

const (
	pending   = v1alpha1.RestorePending
	runs      = v1alpha1.RestoreRunning
	refused   = v1alpha1.RestoreFailed
	succeeds  = v1alpha1.RestoreSucceeded
	threeNode = 3
)

func raftVault(v *v1alpha1.Vault) {
	v.Spec.Storage, v.Spec.Nodes = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}, new(int32(threeNode))
}

func raftBackup(b *v1alpha1.VaultBackup) { b.Status.Vault.Storage = "raft" }

// TestBeginRestore changes what would be begun with.
func TestBeginRestore(t *testing.T) {
	into := func(change func(*v1alpha1.Vault)) func(*restoreFacts) {
		return func(f *restoreFacts) { change(f.Vault) }
	}
	none := probe.Uninitialized
	raft := func(states ...probe.State) func(*restoreFacts) {
		return func(f *restoreFacts) {
			raftBackup(f.Backup)
			raftVault(f.Vault)
			f.Nodes = nodesOf(false, states...)
		}
	}
	for name, tt := range map[string]struct {
		change func(*restoreFacts)
		phase  v1alpha1.RestorePhase
		reason string
		says   string
	}{
		"begins": {func(*restoreFacts) {}, pending, v1alpha1.ReasonJobPending, ""},
		"begins from a store": {func(f *restoreFacts) {
			f.Backup, f.Restore.Spec = nil, v1alpha1.VaultRestoreSpec{From: &v1alpha1.StoredBackup{Name: "default/example/b"}}
		}, pending, v1alpha1.ReasonJobPending, ""},
		"is over": {func(f *restoreFacts) { f.Restore.Status.CompletionTime = &metav1.Time{Time: now} }, "", "", ""},
		"no backup": {func(f *restoreFacts) { f.Backup = nil },
			refused, v1alpha1.ReasonBackupNotUsable, "spec.from"},
		"a failed backup": {func(f *restoreFacts) { f.Backup.Status.Phase = v1alpha1.BackupFailed },
			refused, v1alpha1.ReasonBackupNotUsable, ""},
		"a backup that is made": {func(f *restoreFacts) { f.Backup = newBackup(nil) },
			pending, v1alpha1.ReasonAwaitingVault, ""},
		"no Secret": {func(f *restoreFacts) { f.Missing = "There is no Secret s" },
			refused, v1alpha1.ReasonDestinationMissing, "no Secret s. Nothing was changed"},
		"no Vault": {func(f *restoreFacts) { f.Vault, f.Nodes = nil, nil },
			pending, v1alpha1.ReasonAwaitingVault, "There is no Vault example yet"},
		"no Vault for long": {func(f *restoreFacts) {
			f.Vault, f.Nodes = nil, nil
			f.Restore.CreationTimestamp.Time = now.Add(-beginWithin - time.Second)
		}, refused, v1alpha1.ReasonNotBegun, "There is no Vault example yet"},
		"a Vault that goes": {into(func(v *v1alpha1.Vault) {
			v.DeletionTimestamp, v.Status.Initialized = &metav1.Time{Time: now}, true
		}), pending, v1alpha1.ReasonAwaitingVault, "is being deleted"},
		"no node": {func(f *restoreFacts) { f.Nodes = nodesOf(false, probe.Unknown, probe.Unreachable) },
			pending, v1alpha1.ReasonAwaitingVault, ""},
		"a Vault with data": {into(func(v *v1alpha1.Vault) { v.Status.Initialized = true }),
			refused, v1alpha1.ReasonVaultInitialized, "delete the Vault"},
		"a node with data": {func(f *restoreFacts) { f.Nodes = nodesOf(false, none, probe.Sealed) },
			refused, v1alpha1.ReasonVaultInitialized, "Pod example-1"},
		"would initialize": {into(func(v *v1alpha1.Vault) { v.Spec.Initialization = &v1alpha1.InitializationPolicy{} }),
			refused, v1alpha1.ReasonInitializesItself, ""},
		"another storage": {func(f *restoreFacts) { raftBackup(f.Backup) },
			refused, v1alpha1.ReasonStorageDiffers, "spec.storage.raft"},
		"storage of others": {into(func(v *v1alpha1.Vault) {
			v.Spec.Storage = v1alpha1.StorageSpec{External: &v1alpha1.ExternalStorage{}}
		}), refused, v1alpha1.ReasonStorageNotSupported, ""},
		"a lower version": {into(func(v *v1alpha1.Vault) { v.Spec.Version = "1.20.9" }),
			refused, v1alpha1.ReasonVersionLower, "1.21.0"},
		"a higher version": {into(func(v *v1alpha1.Vault) { v.Spec.Version = "1.21.1" }),
			pending, v1alpha1.ReasonJobPending, ""},
		"another seal": {into(func(v *v1alpha1.Vault) {
			v.Spec.Seal = &v1alpha1.SealPolicy{Transit: &v1alpha1.TransitSeal{}}
		}), refused, v1alpha1.ReasonSealDiffers, "shamir"},
		"a seal of its own configuration": {func(f *restoreFacts) {
			f.Backup.Status.Vault.SealType, f.Vault.Spec.ConfigSecretName = "awskms", "mine"
			f.Vault.Status.Seal = &v1alpha1.SealStatus{Type: "awskms"}
		}, pending, v1alpha1.ReasonJobPending, ""},
		"another seal of its own configuration": {func(f *restoreFacts) {
			f.Backup.Status.Vault.SealType, f.Vault.Spec.ConfigSecretName = "awskms", "mine"
			f.Vault.Status.Seal = &v1alpha1.SealStatus{Type: "transit"}
		}, refused, v1alpha1.ReasonSealDiffers, "has the seal transit"},
		"a seal that is not known": {func(f *restoreFacts) {
			f.Backup.Status.Vault.SealType, f.Vault.Spec.ConfigMapName = "awskms", "mine"
		}, pending, v1alpha1.ReasonJobPending, ""},
		"no configuration of its own": {func(f *restoreFacts) { f.Backup.Status.Vault.SealType = "awskms" },
			refused, v1alpha1.ReasonSealDiffers, "has the seal shamir"},
		"after another": {func(f *restoreFacts) { f.Before = "other" }, pending, v1alpha1.ReasonAwaitingVault, "other"},
		"a node of a lower version": {func(f *restoreFacts) { f.Nodes[0].Version = "1.20.9" },
			pending, v1alpha1.ReasonAwaitingVault, "delete the pod"},
		"a node of the same version": {func(f *restoreFacts) { f.Nodes[0].Version = "1.21.0" },
			pending, v1alpha1.ReasonJobPending, ""},
		"some raft nodes": {raft(none, none), pending, v1alpha1.ReasonAwaitingVault, "2 of 3"},
		"all raft nodes":  {raft(none, none, none), pending, v1alpha1.ReasonJobPending, ""},
		"the origin serves": {func(f *restoreFacts) {
			raft(none, none, none)(f)
			f.Origin = newVault(func(v *v1alpha1.Vault) { v.UID, v.Name, v.Status.VaultStatus.Active = "old", "old", "old-0" })
		}, refused, v1alpha1.ReasonOriginUnsealed, "seal old or delete it"},
	} {
		f := restoreFacts{
			Restore: newRestore(nil), Backup: succeededBackup(nil), Vault: emptyVault(nil), Nodes: nodesOf(false, none),
			Now: now,
		}
		tt.change(&f)
		d := decideRestore(&f)
		if d.Phase != tt.phase || d.Reason != tt.reason || !strings.Contains(d.Message, tt.says) ||
			d.Create != (tt.reason == v1alpha1.ReasonJobPending) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestDecideRestore goes on with one that has begun.
func TestDecideRestore(t *testing.T) {
	x := newRestore(func(r *v1alpha1.VaultRestore) { r.Status.StartTime = &metav1.Time{Time: now} })
	complete, broken := newRestoreJob(x, batchv1.JobComplete), newRestoreJob(x, batchv1.JobFailed)
	running, ofAnother := newRestoreJob(x, ""), newRestoreJob(x, batchv1.JobComplete)
	ofAnother.Annotations = map[string]string{vaultAnnotation: "before"}
	said := func(job *batchv1.Job, message string) []corev1.Pod {
		return []corev1.Pod{podOf(job, corev1.PodSucceeded, message)}
	}
	done := said(complete, restoredResult)
	endedLongAgo := newRestoreJob(x, batchv1.JobComplete)
	endedLongAgo.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
	endedLongAgo.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-tellWithin - time.Minute))
	long := newRestoreJob(x, "")
	long.CreationTimestamp = metav1.NewTime(now.Add(-startTime))
	none, sealed := probe.Uninitialized, probe.Sealed
	const nonsense = `{"restoredTime": "2026-01-02T03:04:00Z", "vault": {"threshold": 3, "shares": 2}}`
	lost := newRestoreJob(x, "")
	lost.CreationTimestamp = metav1.NewTime(now.Add(-giveUp - time.Second))
	behind := newRestoreJob(x, batchv1.JobComplete) // the clock of the controller of Jobs
	behind.Status.Conditions[0].LastTransitionTime = metav1.NewTime(behind.CreationTimestamp.Add(-time.Hour))
	for name, tt := range map[string]struct {
		change  func(*v1alpha1.Vault)
		job     *batchv1.Job
		pods    []corev1.Pod
		nodes   []restoreNode
		phase   v1alpha1.RestorePhase
		reason  string
		restart int
		says    string
	}{
		"the Job is gone": {phase: refused, reason: v1alpha1.ReasonJobFailed, says: "goes on with it"},
		"the Job of raft is gone": {change: raftVault,
			phase: refused, reason: v1alpha1.ReasonJobFailed, says: "delete pvc data-example-0"},
		"the Job of raft is gone, and Vault serves": {change: raftVault, nodes: nodesOf(false, probe.Active),
			phase: refused, reason: v1alpha1.ReasonJobFailed, says: "nothing is to be deleted"},
		"the Vault was made anew": {job: ofAnother, pods: said(ofAnother, restoredResult), nodes: nodesOf(false, sealed),
			phase: refused, reason: v1alpha1.ReasonVaultReplaced},
		"a Job of others": {job: newRestoreJob(nil, ""), phase: refused, reason: v1alpha1.ReasonJobConflict},
		"runs": {job: running, pods: []corev1.Pod{podOf(running, corev1.PodRunning, "")},
			phase: runs, reason: v1alpha1.ReasonJobRunning, says: "do not initialize"},
		"the machine is lost": {job: lost, pods: []corev1.Pod{podOf(lost, corev1.PodRunning, "")},
			phase: runs, reason: v1alpha1.ReasonJobRunning, says: "kubectl delete pod p --force"},
		"fails": {job: broken, pods: said(broken, `{"reason": "DigestMismatch", "message": "m"}`),
			phase: refused, reason: "DigestMismatch", says: "m. What"},
		"says nothing of it": {job: complete, pods: said(complete, "{}"),
			phase: refused, reason: v1alpha1.ReasonResultInvalid},
		"tells nonsense": {job: complete, pods: said(complete, nonsense),
			phase: refused, reason: v1alpha1.ReasonResultInvalid},
		"waits for nodes": {job: complete, pods: done, nodes: nodesOf(false, none),
			phase: runs, reason: v1alpha1.ReasonAwaitingNodes},
		"succeeds": {job: complete, pods: done, nodes: nodesOf(false, sealed, none),
			phase: succeeds, reason: v1alpha1.ReasonRestored, says: "3 of the 5 unseal keys"},
		"succeeds without a pod": {job: complete, nodes: nodesOf(false, sealed),
			phase: succeeds, reason: v1alpha1.ReasonRestored, says: "the unseal keys"},
		"unseals itself": {change: func(v *v1alpha1.Vault) { v.Spec.Seal = &v1alpha1.SealPolicy{} },
			job: complete, pods: done, nodes: nodesOf(false, probe.Active),
			phase: succeeds, reason: v1alpha1.ReasonRestored, says: "by the key service"},
		"raft starts again": {change: raftVault, job: complete, pods: done, nodes: nodesOf(false, sealed, sealed, none),
			phase: runs, reason: v1alpha1.ReasonAwaitingNodes, restart: threeNode},
		"raft starts again, by another clock": {change: raftVault, job: behind, pods: said(behind, restoredResult),
			nodes: nodesOf(false, sealed), phase: runs, reason: v1alpha1.ReasonAwaitingNodes, restart: 1},
		"raft has started again": {change: raftVault, job: complete, pods: done,
			nodes: nodesOf(true, sealed, none, probe.Unreachable), phase: succeeds, reason: v1alpha1.ReasonRestored},
		"raft starts again, late": {change: raftVault, job: endedLongAgo, nodes: nodesOf(false, sealed, none),
			phase: runs, reason: v1alpha1.ReasonAwaitingNodes, restart: 2},
		"no node tells for long": {job: endedLongAgo, nodes: nodesOf(false, none),
			phase: refused, reason: v1alpha1.ReasonAwaitingNodes},
		"the operator has just started": {job: endedLongAgo, nodes: nodesOf(false, probe.Unknown),
			phase: runs, reason: v1alpha1.ReasonAwaitingNodes},
		"has failed once": {job: long, pods: []corev1.Pod{podOf(long, corev1.PodFailed, "")},
			phase: runs, reason: v1alpha1.ReasonJobPending, says: "failed 1 times"},
		"raft starts": {change: raftVault, job: complete, pods: done, nodes: nodesOf(true, probe.Unreachable, sealed),
			phase: runs, reason: v1alpha1.ReasonAwaitingNodes},
	} {
		f := restoreFacts{Restore: x, Vault: emptyVault(tt.change), Job: tt.job, Pods: tt.pods, Nodes: tt.nodes, Now: now}
		d := decideRestore(&f)
		if d.Phase != tt.phase || d.Reason != tt.reason || d.Create || len(d.Restart) != tt.restart ||
			!strings.Contains(d.Message, tt.says) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// What is restored from a path may follow the Vault of this namespace that the path names.
func TestOriginOfAPath(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	r := Restorer{Reconciler: &Reconciler{Client: fake.NewClientBuilder().WithScheme(scheme).
		WithObjects(newVault(nil)).Build()}}
	for name, want := range map[string]bool{
		"default/example/b-1234": true, "p/default/example/b-1234": true, "other/example/b-1234": false,
		"default/gone/b-1234": false, "example/b-1234": false, "b-1234": false,
	} {
		f := restoreFacts{Restore: newRestore(func(x *v1alpha1.VaultRestore) {
			x.Spec.Backup, x.Spec.From = "", &v1alpha1.StoredBackup{Name: name}
		})}
		if err := r.ofBackup(t.Context(), &f); err != nil || (f.Origin != nil) != want {
			t.Errorf("%s: origin %v, %v", name, f.Origin, err)
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
	if err != nil || job.Name != "r-restore" {
		t.Errorf("%+v, %v", job, err)
	}
	if task := job.Spec.Template.Spec.Containers[0].Env[0].Value; !strings.Contains(task, `"etcd"`) {
		t.Errorf("the task is %s", task)
	}
	f.Vault = emptyVault(func(v *v1alpha1.Vault) {
		v.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}
		v.Spec.Pod.Tolerations = []corev1.Toleration{{Key: "dedicated"}}
		v.Spec.Pod.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")}
	})
	job, err = r.newRestoreJob(&f, "image", "ca.crt")
	const want = `"raft":{"address":"https://example-0.example-nodes.default.svc:8200","serverName":"example.default.svc"`
	if task := job.Spec.Template.Spec.Containers[0].Env[0].Value; err != nil || !strings.Contains(task, want) ||
		!strings.Contains(task, string(backup.Restore)) {
		t.Errorf("the task is %s, %v", task, err)
	}
	// A quota may want a limit, and the nodes of the cluster may be for Vault alone.
	pod := job.Spec.Template.Spec
	if resources := pod.Containers[0].Resources; len(pod.Tolerations) != 1 || resources.Limits.Cpu().String() != "20m" ||
		resources.Requests.Cpu().String() != "20m" || resources.Limits.Memory().String() != "128Mi" {
		t.Errorf("the pod is %+v", pod)
	}
}
