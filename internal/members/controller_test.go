package members

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/notify"
)

type fixture struct {
	client.Client
	vault   *v1alpha1.Vault
	set     *appsv1.StatefulSet
	reports map[types.UID]etcd.Report
	events  *record.FakeRecorder
	r       *Reconciler
}

// newFixture has three members of an older template, all ready, of which 0 leads.
func newFixture(t *testing.T, changes ...func(*fixture)) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	f := &fixture{
		vault: &v1alpha1.Vault{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 1},
			Spec: v1alpha1.VaultSpec{
				Storage: v1alpha1.StorageSpec{Etcd: &v1alpha1.EtcdStorage{Nodes: new(int32(3))}},
			},
		},
		reports: map[types.UID]etcd.Report{}, events: record.NewFakeRecorder(10),
	}
	f.set = &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "example-etcd", UID: "set-uid", Generation: 2,
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(f.vault, v1alpha1.GroupVersion.WithKind("Vault")),
			},
		},
		Spec: appsv1.StatefulSetSpec{
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
		},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, CurrentRevision: "old", UpdateRevision: "new"},
	}
	var objects []client.Object
	for i := range 3 {
		pod := f.newPod(i, "old", true)
		f.reports[pod.UID] = report(i == 0)
		objects = append(objects, pod)
	}
	for _, change := range changes {
		change(f)
	}
	f.Client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(objects, f.vault, f.set)...).Build()
	f.r = &Reconciler{
		Waits:  &notify.Waits{},
		Client: f.Client, APIReader: f.Client, Recorder: f.events,
		Look: func(_ context.Context, pod *corev1.Pod) (etcd.Report, error) {
			if r, known := f.reports[pod.UID]; known {
				return r, nil
			}
			return etcd.Report{}, errors.New("no answer")
		},
	}
	return f
}

func report(leader bool) etcd.Report {
	return etcd.Report{Members: []string{"a", "b", "c"}, Voter: true, HasLeader: true, Leader: leader}
}

func (f *fixture) newPod(ordinal int, revision string, ready bool) *corev1.Pod {
	labels := f.vault.EtcdLabels()
	labels[appsv1.StatefulSetRevisionLabel] = revision
	name := fmt.Sprintf("example-etcd-%d", ordinal)
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(name), Labels: labels,
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(f.set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")),
			},
		},
		Status: corev1.PodStatus{
			PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "etcd", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
}

// reconcile returns the numbers of the pods that are left.
func (f *fixture) reconcile(t *testing.T) string {
	t.Helper()
	request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(f.vault)}
	if _, err := f.r.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	var list corev1.PodList
	if err := f.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, strings.TrimPrefix(list.Items[i].Name, "example-etcd-"))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (f *fixture) waits() string { return f.r.Waits.Of(client.ObjectKeyFromObject(f.vault)) }

func TestARolloutReplacesOneAfterTheOther(t *testing.T) {
	f := newFixture(t)
	for _, step := range []struct {
		left   string
		member int
	}{{"0 1", 2}, {"0 2", 1}, {"1 2", 0}} {
		if got := f.reconcile(t); got != step.left {
			t.Fatalf("pods %s are left, want %s", got, step.left)
		}
		if got := f.reconcile(t); got != step.left || step.member > 0 && f.waits() != "2 of 3 pods are there" {
			t.Fatalf("while one is missing pods %s are left, want %s; it waits for %q", got, step.left, f.waits())
		}
		pod := f.newPod(step.member, "new", false)
		if err := f.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if got := f.reconcile(t); got != "0 1 2" || step.member > 0 && !strings.Contains(f.waits(), "is not ready") {
			t.Fatalf("while %d starts pods %s are left, and it waits for %q", step.member, got, f.waits())
		}
		pod.Status = f.newPod(step.member, "new", true).Status
		if err := f.Status().Update(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.reconcile(t); got != "0 1 2" || f.waits() != "" {
		t.Errorf("when all are replaced pods %s are left, and it waits for %q", got, f.waits())
	}
	for range 3 {
		if event := <-f.events.Events; !strings.Contains(event, eventReplaced) {
			t.Errorf("event %q", event)
		}
	}
}

func TestNothingIsDeleted(t *testing.T) {
	of := func(uid types.UID, change func(*etcd.Report)) func(*fixture) {
		return func(f *fixture) {
			r := f.reports[uid]
			change(&r)
			f.reports[uid] = r
		}
	}
	for name, change := range map[string]func(*fixture){
		"a member does not answer":      func(f *fixture) { delete(f.reports, "example-etcd-1") },
		"a member is a learner":         of("example-etcd-1", func(r *etcd.Report) { r.Voter = false }),
		"a member has no leader":        of("example-etcd-1", func(r *etcd.Report) { r.HasLeader = false }),
		"a member is being added":       of("example-etcd-0", func(r *etcd.Report) { r.Members = append(r.Members, "d") }),
		"a member was removed":          of("example-etcd-0", func(r *etcd.Report) { r.Members = r.Members[1:] }),
		"a member has found other data": of("example-etcd-0", func(r *etcd.Report) { r.Alarm = etcd.Corrupt }),
		"two say that they lead":        of("example-etcd-1", func(r *etcd.Report) { r.Leader = true }),
		"nobody says so":                of("example-etcd-0", func(r *etcd.Report) { r.Leader = false }),
		"the template has not changed":  func(f *fixture) { f.set.Status.UpdateRevision = "old" },
		"the change is not seen yet":    func(f *fixture) { f.set.Generation = 3 },
		"the controller replaces pods":  func(f *fixture) { f.set.Spec.UpdateStrategy.Type = "RollingUpdate" },
		"the StatefulSet is of another": func(f *fixture) { f.set.OwnerReferences[0].UID = "other" },
		"the pods are of another set":   func(f *fixture) { f.set.UID = "other" },
		"the Vault has other storage": func(f *fixture) {
			f.vault.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}
		},
		"there should be more of them":   func(f *fixture) { f.vault.Spec.Storage.Etcd.Nodes = new(int32(5)) },
		"the pods of a Vault in the way": func(f *fixture) { f.vault.Spec.Storage.Etcd.Nodes = new(int32(1)) },
	} {
		if got := newFixture(t, change).reconcile(t); got != "0 1 2" {
			t.Errorf("%s: pods %s are left", name, got)
		}
	}
}

// A database that is full is helped by a larger quota, which is a change of the template.
func TestAFullDatabaseHoldsNothingBack(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		for uid, r := range f.reports {
			r.Alarm = etcd.NoSpace
			f.reports[uid] = r
		}
	})
	if got := f.reconcile(t); got != "0 1" {
		t.Errorf("pods %s are left", got)
	}
}
