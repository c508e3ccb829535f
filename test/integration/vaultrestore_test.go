//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

const restoredMessage = `{"restoredTime":"2026-01-02T03:04:05Z","vault":{"version":"1.20.0","shares":5,"threshold":3}}`

func newRestore(namespace, name, vault, backup string) *v1alpha1.VaultRestore {
	return &v1alpha1.VaultRestore{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.VaultRestoreSpec{Vault: v1alpha1.ObjectName(vault), Backup: v1alpha1.ObjectName(backup)},
	}
}

func awaitRestore(t *testing.T, x *v1alpha1.VaultRestore, phase v1alpha1.RestorePhase, reason string) string {
	t.Helper()
	text := ""
	eventually(t, fmt.Sprintf("restore %s is %s %s", x.Name, phase, reason), func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(x), x); err != nil {
			return err
		}
		c := meta.FindStatusCondition(x.Status.Conditions, v1alpha1.RestoredCondition)
		if x.Status.Phase != phase || c == nil || c.Reason != reason {
			return fmt.Errorf("status %+v", x.Status)
		}
		text = c.Message
		return nil
	})
	return text
}

// makeBackup makes a VaultBackup that has succeeded, of a Vault that is gone.
func makeBackup(t *testing.T, namespace, name, storage string) {
	t.Helper()
	b := &v1alpha1.VaultBackup{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.VaultBackupSpec{Vault: "gone", Destination: s3Destination()},
	}
	if err := admin.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	awaitBackup(t, b, v1alpha1.BackupFailed, v1alpha1.ReasonBackupVaultNotFound)
	b.Status.Phase, b.Status.Digest = v1alpha1.BackupSucceeded, "sha256:"+strings.Repeat("0", 64)
	b.Status.Vault = &v1alpha1.BackedUpVault{UID: "1-2", Version: "1.20.0", Storage: storage, SealType: "shamir"}
	if err := admin.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, x *v1alpha1.VaultRestore) *v1alpha1.VaultRestore {
	t.Helper()
	if err := admin.Create(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	return x
}

// A backup is restored into a Vault without data, and into no other.
func TestVaultRestore(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t)
	makeBackup(t, namespace, "of-etcd", "etcd")
	makeBackup(t, namespace, "of-raft", "raft")
	both := newRestore(namespace, "both", "example", "of-etcd")
	both.Spec.From = &v1alpha1.StoredBackup{Name: "default/gone/b", Location: s3Destination()}
	neither := newRestore(namespace, "neither", "example", "")
	for _, wrong := range []*v1alpha1.VaultRestore{both, neither} {
		if err := admin.Create(t.Context(), wrong); !apierrors.IsInvalid(err) {
			t.Errorf("%s: error %v", wrong.Name, err)
		}
	}
	stored := newRestore(namespace, "stored", "example", "")
	stored.Spec.From = both.Spec.From
	awaitRestore(t, create(t, stored), v1alpha1.RestoreFailed, v1alpha1.ReasonDestinationMissing)
	createS3Credentials(t, namespace)
	// It waits for the Vault.
	early := create(t, newRestore(namespace, "early", "example", "of-etcd"))
	awaitRestore(t, early, v1alpha1.RestorePending, v1alpha1.ReasonAwaitingVault)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1}"))
	node := startPod(t, vault, "a", fakevault.Uninitialized)
	job := endJob(t, namespace, "early-restore", restoredMessage)
	pod := job.Spec.Template.Spec
	if pod.ServiceAccountName != "example-backup" || pod.Volumes[len(pod.Volumes)-1].EmptyDir == nil {
		t.Errorf("the pod is %+v", pod)
	}
	awaitRestore(t, early, v1alpha1.RestoreRunning, v1alpha1.ReasonAwaitingNodes)
	node.Set(fakevault.Sealed)
	text := awaitRestore(t, early, v1alpha1.RestoreSucceeded, v1alpha1.ReasonRestored)
	if !strings.Contains(text, "3 of the 5 unseal keys") || early.Status.StartTime == nil ||
		early.Status.Requires == nil || early.Status.Requires.Version != "1.20.0" || early.Status.Location == "" {
		t.Errorf("%s: status %+v", text, early.Status)
	}
	err := admin.Patch(t.Context(), early.DeepCopy(), client.RawPatch("application/merge-patch+json",
		[]byte(`{"spec":{"vault":"other"}}`)))
	if !apierrors.IsInvalid(err) {
		t.Errorf("another Vault: error %v", err)
	}
	awaitRestore(t, create(t, newRestore(namespace, "again", "example", "of-etcd")), v1alpha1.RestoreFailed,
		v1alpha1.ReasonVaultInitialized)
}

// The nodes with integrated storage start again when one of them has been restored.
func TestVaultRestoreIntoRaft(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t)
	createS3Credentials(t, namespace)
	makeBackup(t, namespace, "of-etcd", "etcd")
	makeBackup(t, namespace, "of-raft", "raft")
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1, storage: {raft: {volumeSize: 1Gi}}}"))
	awaitRestore(t, create(t, newRestore(namespace, "wrong", vault.Name, "of-etcd")), v1alpha1.RestoreFailed,
		v1alpha1.ReasonStorageDiffers)
	name := vault.NodeName(0)
	node := startPod(t, vault, name, fakevault.Uninitialized)
	// The operator deletes no pods but those that a StatefulSet makes again.
	set := get(t, namespace, vault.Name, &appsv1.StatefulSet{})
	pod := get(t, namespace, name, &corev1.Pod{})
	pod.OwnerReferences = []metav1.OwnerReference{
		*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")),
	}
	if err := admin.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	first := pod.UID
	x := create(t, newRestore(namespace, "r", vault.Name, "of-raft"))
	awaitJob(t, namespace, "r-restore")
	node.Set(fakevault.Sealed)
	time.Sleep(time.Second) // times are told in seconds
	endJob(t, namespace, "r-restore", restoredMessage)
	eventually(t, "the node is to start again", func() error {
		var pod corev1.Pod
		err := admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &pod)
		if err == nil && pod.UID == first {
			return fmt.Errorf("it is there")
		}
		return client.IgnoreNotFound(err)
	})
	time.Sleep(time.Second)
	startPod(t, vault, name, fakevault.Sealed)
	awaitRestore(t, x, v1alpha1.RestoreSucceeded, v1alpha1.ReasonRestored)
}
