package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/notify"
	"github.com/vault-operator/vault-operator/internal/probe"
)

// fakeEngine says of nodes what a test wants, by the UID of their pods.
type fakeEngine struct {
	observed  map[types.UID]probe.Observation
	confirmed map[types.UID]probe.Observation
	raft      map[types.UID]probe.Raft
}

func (e *fakeEngine) Observations(types.NamespacedName) map[types.UID]probe.Observation {
	return e.observed
}

func (e *fakeEngine) Confirm(_ context.Context, _ types.NamespacedName, uid types.UID) probe.Observation {
	if o, ok := e.confirmed[uid]; ok {
		return o
	}
	return e.observed[uid]
}

func (e *fakeEngine) Raft(_ context.Context, _ types.NamespacedName, uid types.UID) (probe.Raft, error) {
	if raft, ok := e.raft[uid]; ok {
		return raft, nil
	}
	return probe.Raft{}, errors.New("no answer")
}

type fixture struct {
	client.Client
	engine *fakeEngine
	vault  *v1alpha1.Vault
	set    *appsv1.StatefulSet
	events *record.FakeRecorder
	clock  *testclock.FakePassiveClock
	r      *Reconciler
}

// newFixture has three nodes: 0 is active, the others are standby, all of an older template
// and with all entries.
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
				Nodes: new(int32(3)), Storage: v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}},
			},
		},
		engine: &fakeEngine{observed: map[types.UID]probe.Observation{}, raft: map[types.UID]probe.Raft{}},
		events: record.NewFakeRecorder(10),
		clock:  testclock.NewFakePassiveClock(time.Now()),
	}
	f.set = &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "example", UID: "set-uid", Generation: 2,
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(f.vault, v1alpha1.GroupVersion.WithKind("Vault")),
			},
		},
		Spec: appsv1.StatefulSetSpec{
			Replicas:       new(int32(3)),
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
		},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdateRevision: "new"},
	}
	var objects []client.Object
	joined := map[types.UID]time.Time{}
	for i, state := range []probe.State{probe.Active, probe.Standby, probe.Standby} {
		pod := f.newPod(i, "old")
		f.engine.observed[pod.UID] = probe.Observation{State: state}
		f.engine.raft[pod.UID] = probe.Raft{Committed: 100, Applied: 100}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "data-" + pod.Name, UID: "claim-of-" + pod.UID, Labels: f.vault.PodLabels(),
		}}
		joined[claim.UID] = f.clock.Now().Add(-joinTime)
		objects = append(objects, pod, claim)
	}
	for _, change := range changes {
		change(f)
	}
	f.Client = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Vault{}).
		WithObjects(append(objects, f.vault, f.set)...).Build()
	f.r = &Reconciler{
		Client: f.Client, APIReader: f.Client, Engine: f.engine, Recorder: f.events, Clock: f.clock,
		Settle: time.Microsecond, Waits: &notify.Waits{}, joined: map[types.NamespacedName]map[types.UID]time.Time{
			client.ObjectKeyFromObject(f.vault): joined,
		},
	}
	return f
}

func (f *fixture) newPod(ordinal int, revision string) *corev1.Pod {
	labels := f.vault.PodLabels()
	labels[appsv1.StatefulSetRevisionLabel] = revision
	name := fmt.Sprintf("example-%d", ordinal)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(name), Labels: labels,
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(f.set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")),
			},
		},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}, ContainerStatuses: []corev1.ContainerStatus{{
			Name: v1alpha1.VaultContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
}

// reconcile returns the names of the pods that are left.
func (f *fixture) reconcile(t *testing.T) string {
	t.Helper()
	request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(f.vault)}
	if _, err := f.r.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	return f.reconcilePods(t)
}

// recreate makes the pod again, of the newest template.
func (f *fixture) recreate(t *testing.T, ordinal int, state probe.State) {
	t.Helper()
	pod := f.newPod(ordinal, "new")
	if err := f.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	f.engine.observed[pod.UID] = probe.Observation{State: state}
}

func TestARolloutReplacesOneAfterTheOther(t *testing.T) {
	f := newFixture(t)
	for _, step := range []struct {
		left string
		node int
	}{{"0 1", 2}, {"0 2", 1}, {"1 2", 0}} {
		if got := f.reconcile(t); got != step.left {
			t.Fatalf("pods %s are left, want %s", got, step.left)
		}
		if got := f.reconcile(t); got != step.left {
			t.Fatalf("while one is missing pods %s are left, want %s", got, step.left)
		}
		f.recreate(t, step.node, probe.Sealed)
		if got := f.reconcile(t); got != "0 1 2" {
			t.Fatalf("while %d is sealed pods %s are left", step.node, got)
		}
		f.engine.observed[types.UID(fmt.Sprintf("example-%d", step.node))] = probe.Observation{State: probe.Standby}
	}
	if got := f.reconcile(t); got != "0 1 2" {
		t.Errorf("when all are replaced pods %s are left", got)
	}
	for range 3 {
		if event := <-f.events.Events; !strings.Contains(event, eventReplaced) {
			t.Errorf("event %q", event)
		}
	}
}

func TestNothingIsDeleted(t *testing.T) {
	for name, change := range map[string]func(*fixture){
		"a node is behind": func(f *fixture) { f.engine.raft["example-1"] = probe.Raft{Committed: 100, Applied: 99} },
		"a node does not tell whether it is": func(f *fixture) {
			delete(f.engine.raft, "example-1")
		},
		"the active node does not tell what it has": func(f *fixture) { delete(f.engine.raft, "example-0") },
		"a node is silent since a moment ago": func(f *fixture) {
			f.engine.confirmed = map[types.UID]probe.Observation{"example-1": {State: probe.Unreachable}}
		},
		"the active node has changed a moment ago": func(f *fixture) {
			f.engine.confirmed = map[types.UID]probe.Observation{"example-0": {State: probe.Standby}}
		},
		"nothing is known of the nodes": func(f *fixture) { f.engine.observed = nil },
		"a node was asked to initialize Vault": func(f *fixture) {
			f.vault.Spec.Initialization = &v1alpha1.InitializationPolicy{}
			f.vault.Status.Initialization = &v1alpha1.InitializationStatus{Phase: v1alpha1.PhaseRequested}
		},
		"a node was asked to initialize Vault a moment ago": func(f *fixture) {
			f.vault.Status.Initialization = &v1alpha1.InitializationStatus{
				Phase: v1alpha1.PhaseRequested, Time: new(metav1.NewTime(f.clock.Now()))}
		},
		"another node could not unseal itself": func(f *fixture) {
			f.vault.Spec.Seal = &v1alpha1.SealPolicy{}
			f.vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.SealReadyCondition,
				Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonKeyServiceUnavailable}}
		},
		"a node has not joined and the seal is migrated": func(f *fixture) {
			f.vault.Spec.SealMigration = &v1alpha1.SealMigrationPolicy{}
			f.engine.observed["example-2"] = probe.Observation{State: probe.Uninitialized}
		},
		"the StatefulSet controller replaces pods": func(f *fixture) {
			f.set.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		},
		"the template has not been acted on": func(f *fixture) {
			f.set.Status.ObservedGeneration = 1
		},
		"the StatefulSet is of another Vault": func(f *fixture) { f.set.OwnerReferences[0].UID = "other" },
		"the storage is etcd":                 func(f *fixture) { f.vault.Spec.Storage.Raft = nil },
		"the template has not changed":        func(f *fixture) { f.set.Status.UpdateRevision = "old" },
	} {
		t.Run(name, func(t *testing.T) {
			if got := newFixture(t, change).reconcile(t); got != "0 1 2" {
				t.Errorf("pods %s are left", got)
			}
		})
	}
}

// What came of a request to initialize Vault is not found out without spec.initialization.
func TestARequestToInitializeOfLongAgo(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.vault.Status.Initialization = &v1alpha1.InitializationStatus{
			Phase: v1alpha1.PhaseRequested, Time: new(metav1.NewTime(f.clock.Now().Add(-requestTime)))}
	})
	if got := f.reconcile(t); got != "0 1" {
		t.Errorf("pods %s are left", got)
	}
}

// The credentials of a key service that fails are repaired by a rollout.
func TestANewSealIsRolledOutWhileTheKeyServiceFails(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.vault.Spec.Seal = &v1alpha1.SealPolicy{}
		f.vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.SealReadyCondition,
			Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonKeyServiceFailing}}
		f.set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "seal", VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: "new"}}}}
	})
	if got := f.reconcile(t); got != "0 1" {
		t.Errorf("pods %s are left", got)
	}
}

// A node that has joined counts when it votes.
func TestANodeThatHasJustJoined(t *testing.T) {
	f := newFixture(t)
	delete(f.r.joined[client.ObjectKeyFromObject(f.vault)], "claim-of-example-1")
	if got := f.reconcile(t); got != "0 1 2" {
		t.Errorf("pods %s are left", got)
	}
	f.clock.SetTime(f.clock.Now().Add(joinTime))
	if got := f.reconcile(t); got != "0 1" {
		t.Errorf("pods %s are left when it votes", got)
	}
}

// What has gone since it was decided is not taken twice.
func TestAPodThatIsNotReadyAnyMore(t *testing.T) {
	f := newFixture(t)
	nodes := []types.UID{"example-0", "example-1"}
	var pod corev1.Pod
	if err := f.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "example-1"}, &pod); err != nil {
		t.Fatal(err)
	}
	pod.Status.Conditions[0].Status = corev1.ConditionFalse
	if err := f.Status().Update(t.Context(), &pod); err != nil {
		t.Fatal(err)
	}
	if err := f.r.replace(t.Context(), f.vault, decision{Delete: "example-2", Without: nodes}); err != nil {
		t.Fatal(err)
	}
	if got := f.reconcile(t); !strings.Contains(got, "2") {
		t.Errorf("pods %s are left", got)
	}
}

// A pod that another has made with the labels of the nodes counts for nothing.
func TestForeignPodsAreLeftAlone(t *testing.T) {
	f := newFixture(t)
	foreign := f.newPod(7, "old")
	foreign.OwnerReferences = nil
	if err := f.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	if got := f.reconcile(t); got != "0 1 7" {
		t.Errorf("pods %s are left", got)
	}
}
