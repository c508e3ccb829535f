package backupschedule

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// A schedule that is to begin at once waits until Vault has data, whatever time of it comes before.
func TestFirstBackupWaitsForData(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	now := at(t, "2026-01-02T10:20:30Z")
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "example"}}
	schedule := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "minutely", UID: "uid",
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: v1alpha1.VaultBackupScheduleSpec{Vault: "example", Schedule: "* * * * *", Immediate: true},
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(vault, schedule).
		WithStatusSubresource(vault, schedule).Build()
	r := &Reconciler{Client: c, Recorder: record.NewFakeRecorder(10), Clock: testclock.NewFakePassiveClock(now)}
	r.started.At(now.Add(-time.Hour))
	for _, initialized := range []bool{false, true} {
		vault.Status.Initialized = initialized
		if err := c.Status().Update(t.Context(), vault); err != nil {
			t.Fatal(err)
		}
		req := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(schedule)}
		if _, err := r.Reconcile(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		var backups v1alpha1.VaultBackupList
		if err := c.List(t.Context(), &backups); err != nil {
			t.Fatal(err)
		}
		if made := len(backups.Items) == 1; made != initialized {
			t.Errorf("%d backups, where Vault is initialized: %t", len(backups.Items), initialized)
		}
	}
}
