package backupschedule

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return scheme
}

// A schedule that is to begin at once waits until Vault has data, whatever time of it comes before.
func TestFirstBackupWaitsForData(t *testing.T) {
	now := at(t, "2026-01-02T10:20:30Z")
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "example"}}
	schedule := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "minutely", UID: "uid",
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: v1alpha1.VaultBackupScheduleSpec{Vault: "example", Schedule: "* * * * *", Immediate: true},
	}
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(vault, schedule).
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

// TestBackupsThatAreRefused checks that a schedule says when the API server refuses its backups, and makes room
// nevertheless: a quota may be why. What is restored from is kept.
func TestBackupsThatAreRefused(t *testing.T) {
	now := at(t, "2026-01-02T10:20:30Z")
	schedule := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "minutely", UID: "uid",
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: v1alpha1.VaultBackupScheduleSpec{
			Vault: "example", Schedule: "* * * * *", Retention: &v1alpha1.BackupRetention{Count: new(int32(1))},
		},
	}
	objects := []client.Object{schedule}
	for i, name := range []string{"by-name", "by-path", "old", "new"} {
		made := metav1.NewTime(now.Add(time.Duration(i-10) * time.Minute))
		b := &v1alpha1.VaultBackup{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, CreationTimestamp: made,
			Labels: map[string]string{v1alpha1.ScheduleLabel: schedule.Name},
		}}
		b.Spec.Vault = "example"
		b.Status.Phase, b.Status.CompletionTime = v1alpha1.BackupSucceeded, &made
		b.Status.Location = "s3://bucket/ns/example/" + name + "-1234.snapshot"
		objects = append(objects, b)
	}
	restore := func(name string) *v1alpha1.VaultRestore {
		return &v1alpha1.VaultRestore{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	}
	byName, byPath := restore("by-name"), restore("by-path")
	byName.Spec.Backup = "by-name"
	byPath.Spec.From = &v1alpha1.StoredBackup{Name: "ns/example/by-path-1234"}
	objects = append(objects, byName, byPath)
	refused := apierrors.NewForbidden(schema.GroupResource{Resource: "vaultbackups"}, "x", errors.New("exceeded quota"))
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(objects...).WithStatusSubresource(schedule).
		WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error { return refused },
		}).Build()
	recorder := record.NewFakeRecorder(10)
	r := &Reconciler{Client: c, Recorder: recorder, Clock: testclock.NewFakePassiveClock(now)}
	r.started.At(now.Add(-time.Hour))
	req := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(schedule)}
	result, err := r.Reconcile(t.Context(), req)
	if err != nil || result.RequeueAfter != waitAgain {
		t.Errorf("%+v, %v", result, err)
	}
	if err := c.Get(t.Context(), req.NamespacedName, schedule); err != nil {
		t.Fatal(err)
	}
	ready := meta.FindStatusCondition(schedule.Status.Conditions, v1alpha1.ReadyCondition)
	if ready == nil || ready.Status != metav1.ConditionFalse || ready.Reason != v1alpha1.ReasonBackupRefused ||
		!strings.Contains(ready.Message, "exceeded quota") || schedule.Status.LastScheduleTime != nil {
		t.Errorf("Ready is %+v", ready)
	}
	close(recorder.Events)
	var events []string
	for event := range recorder.Events {
		events = append(events, event)
	}
	told := func(e string) bool { return strings.HasPrefix(e, "Normal BackupExpired Backup old ") }
	if !slices.ContainsFunc(events, told) {
		t.Errorf("the events are %q", events)
	}
	var backups v1alpha1.VaultBackupList
	if err := c.List(t.Context(), &backups); err != nil {
		t.Fatal(err)
	}
	for i := range backups.Items {
		if b := &backups.Items[i]; (b.DeletionTimestamp != nil) != (b.Name == "old") {
			t.Errorf("%s is deleted at %v", b.Name, b.DeletionTimestamp)
		}
	}
}
