package plugin

import (
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestRestore(t *testing.T) {
	h := newHarness(t)
	h.vault.UID, h.vault.Spec.Version = "new", "1.21.0"
	h.api.set("vaults", h.vault)
	then := metav1.NewTime(time.Now().Add(-time.Hour))
	backup := &v1alpha1.VaultBackup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultBackup"},
		ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default", CreationTimestamp: then},
		Spec:       v1alpha1.VaultBackupSpec{Vault: "example"},
		Status: v1alpha1.VaultBackupStatus{
			Phase: v1alpha1.BackupSucceeded, StartTime: &then, CompletionTime: &then, Location: "s3://backups/b.snapshot",
			Vault: &v1alpha1.BackedUpVault{
				UID: "old", Version: "1.20.1", Storage: "etcd", SealType: "shamir", Shares: 5, Threshold: 3,
			},
		},
	}
	h.run("", "restore", "b", "--into", "example").expect(t, exitError, "not found")
	h.api.set("vaultbackups", backup)
	h.run("", "restore", "b").expect(t, exitError, "into")
	h.run("", "restore", "b", "--into", "other").expect(t, exitError, "there is no Vault other")
	h.run("no\n", "restore", "b", "--into", "example").expect(t, exitRefused, "Vault 1.20.1 or higher; example has 1.21.0",
		"3 of the 5 keys", "the seal shamir", "(1h0m", "nothing was changed")

	phase := v1alpha1.RestoreSucceeded
	h.api.created = func(r io.Reader) any {
		var x v1alpha1.VaultRestore
		if err := json.NewDecoder(r).Decode(&x); err != nil || x.Spec.Backup != "b" || x.Spec.Vault != "example" {
			t.Errorf("made was %+v, %v", x, err)
		}
		x.Name, x.CreationTimestamp = x.GenerateName+"1", metav1.NewTime(then.Add(-90*time.Second))
		x.Status = v1alpha1.VaultRestoreStatus{
			Phase: phase, CompletionTime: &then, Location: backup.Status.Location,
			Conditions: []metav1.Condition{{Type: v1alpha1.RestoredCondition, Message: "that is why"}},
		}
		return &x
	}
	h.run("example\n", "restore", "b", "--into", "example").expect(t, 0,
		"example is restored from s3://backups/b.snapshot in 1m30s. that is why")
	phase = v1alpha1.RestoreFailed
	h.run("", "restore", "b", "--into", "example", "--yes").expect(t, exitError, "failed: that is why")

	for what, change := range map[string]func(*v1alpha1.Vault){
		"never replaces":      func(v *v1alpha1.Vault) { v.Status.Initialized = true },
		"spec.initialization": func(v *v1alpha1.Vault) { v.Spec.Initialization = &v1alpha1.InitializationPolicy{} },
		"set spec.version":    func(v *v1alpha1.Vault) { v.Spec.Version = "1.19.0" },
		"spec.storage.etcd":   func(v *v1alpha1.Vault) { v.Spec.Storage.Raft = &v1alpha1.RaftStorage{} },
	} {
		vault := h.vault.DeepCopy()
		change(vault)
		h.api.set("vaults", vault)
		h.run("example\n", "restore", "b", "--into", "example").expect(t, exitRefused, what)
		// What can be fixed by making the Vault anew is told beside what is needed, and the rest is refused.
		code := exitRefused
		if vault.Status.Initialized || vault.Spec.Initialization != nil {
			code = 0
		}
		h.run("", "restore", "b", "--into", "example", "--dry-run").expect(t, code, "3 of the 5 keys", what)
	}
}

// TestRestoreBesideTheOldVault warns of two Vaults with the same data.
func TestRestoreBesideTheOldVault(t *testing.T) {
	h := newHarness(t)
	old := h.vault.DeepCopy()
	old.Name, old.UID, old.Status.VaultStatus.Active = "old", "old", "old-0"
	h.vault.UID, h.vault.Spec.Version = "new", "1.21.0"
	backup := &v1alpha1.VaultBackup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultBackup"},
		ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"},
		Spec:       v1alpha1.VaultBackupSpec{Vault: "old"},
		Status:     v1alpha1.VaultBackupStatus{Phase: v1alpha1.BackupSucceeded, Vault: &v1alpha1.BackedUpVault{UID: "old"}},
	}
	h.api.set("vaultbackups", backup)
	h.api.set("vaults", h.vault, old)
	h.run("", "restore", "b", "--into", "example").expect(t, exitRefused, "Warning: Vault old", "Type example to go on")
	h.vault.Spec.Storage.Raft = &v1alpha1.RaftStorage{}
	h.api.set("vaults", h.vault, old)
	h.run("", "restore", "b", "--into", "example").expect(t, exitRefused, "seal old or delete it")
}

func TestInitWhileRestored(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": h.serve(&fakeNode{sealed: true})})
	x := &v1alpha1.VaultRestore{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultRestore"},
		ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "default"},
		Spec:       v1alpha1.VaultRestoreSpec{Vault: "example", Backup: "b"},
	}
	h.api.set("vaultrestores", x)
	h.run("", "init", "example").expect(t, exitRefused, "is restored by VaultRestore r")
	x.Status.CompletionTime = &metav1.Time{Time: time.Now()}
	h.run("", "init", "example").expect(t, 0, "Unseal Key 1")
}

// TestManyBackups lists the newest of more backups than the API server gives at a time.
func TestManyBackups(t *testing.T) {
	h := newHarness(t)
	var all []any
	for i := range pageLimit + 2 {
		all = append(all, &v1alpha1.VaultBackup{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultBackup"},
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("b-%04d", i), Namespace: "default",
				CreationTimestamp: metav1.NewTime(time.Unix(int64(i), 0))},
			Spec: v1alpha1.VaultBackupSpec{Vault: "example"},
		})
	}
	h.api.set("vaultbackups", all...)
	h.run("", "backups", "example").expect(t, 0, "b-0000", fmt.Sprintf("b-%04d", pageLimit+1))
}

// A flag that has no effect would store a backup elsewhere than somebody believes.
func TestBackupFlagsThatExcludeEachOther(t *testing.T) {
	h := newHarness(t)
	h.run("", "backup", "example", "--path", "here").expect(t, exitError, "--claim")
	h.run("", "backup", "example", "--claim", "backups", "--schedule", "nightly").expect(t, exitError, "schedule")
}
