package vaultstatus

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

var errAPI = errors.New("the API server is unavailable")

// fixture is the status controller over a fake API server.
type fixture struct {
	*Reconciler
	api      client.WithWatch
	recorder *record.FakeRecorder
	vault    *v1alpha1.Vault
	clock    *testclock.FakePassiveClock
	// writes counts those of the status; fail makes them fail.
	writes int
	fail   error
	// stale, when it is set, is what the cache has of the Vault.
	stale *v1alpha1.Vault
}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{recorder: record.NewFakeRecorder(100), clock: testclock.NewFakePassiveClock(time.Now())}
	f.vault = &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 1},
		Spec:       v1alpha1.VaultSpec{Version: "1.21.0"},
	}
	f.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Vault{}).
		WithIndex(&corev1.Event{}, "involvedObject.uid", func(obj client.Object) []string {
			return []string{string(obj.(*corev1.Event).InvolvedObject.UID)}
		}).
		WithObjects(append(objects, f.vault)...).Build()
	clients := certs.Clients{Client: f.api, Cache: f.api, APIReader: f.api, Clock: f.clock}
	if _, err := certs.Ensure(t.Context(), clients, f.vault); err != nil {
		t.Fatal(err)
	}
	intercepted := interceptor.NewClient(f.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			if vault, ok := obj.(*v1alpha1.Vault); ok && f.stale != nil {
				f.stale.DeepCopyInto(vault)
				return nil
			}
			return c.Get(ctx, key, obj, opts...)
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration,
			opts ...client.SubResourceApplyOption) error {
			if f.fail != nil {
				return f.fail
			}
			f.writes++
			if err := c.SubResource(sub).Apply(ctx, obj, opts...); err != nil {
				return err
			}
			// The API server answers with the object, and the fake one does not.
			var now v1alpha1.Vault
			if err := c.Get(ctx, client.ObjectKeyFromObject(f.vault), &now); err != nil {
				return err
			}
			obj.(interface{ SetResourceVersion(string) }).SetResourceVersion(now.ResourceVersion)
			return nil
		},
	})
	f.Reconciler = &Reconciler{
		Client: intercepted, Engine: probe.NewEngine(), Alarms: etcd.NewAlarms(intercepted), Tokens: &seal.Tokens{},
		Causes: &storage.Causes{APIReader: intercepted, Clock: f.clock}, Recorder: f.recorder, Clock: f.clock,
		Inputs: &references.Inputs{Cache: intercepted, APIReader: intercepted},
	}
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		_ = f.Engine.Start(ended) // stops all probes
	})
	return f
}

// wait lets time pass.
func (f *fixture) wait(d time.Duration) { f.clock.SetTime(f.clock.Now().Add(d)) }

// reconcile reconciles once and returns the result and the events.
func (f *fixture) reconcile(t *testing.T) (reconcile.Result, []string, error) {
	t.Helper()
	result, err := f.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(f.vault)})
	var events []string
	for {
		select {
		case e := <-f.recorder.Events:
			events = append(events, e)
		default:
			return result, events, err
		}
	}
}

func (f *fixture) mustReconcile(t *testing.T) []string {
	t.Helper()
	_, events, err := f.reconcile(t)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func (f *fixture) status(t *testing.T) v1alpha1.VaultStatus {
	t.Helper()
	var vault v1alpha1.Vault
	if err := f.api.Get(t.Context(), client.ObjectKeyFromObject(f.vault), &vault); err != nil {
		t.Fatal(err)
	}
	return vault.Status
}

func (f *fixture) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, obj := range objects {
		if err := f.api.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

// run makes a pod whose node answers, and lets the engine ask it.
func (f *fixture) run(t *testing.T, name string, state fakevault.State) *fakevault.Node {
	t.Helper()
	var server, ca corev1.Secret
	for secret, key := range map[*corev1.Secret]string{&server: f.vault.ServerSecretName(),
		&ca: f.vault.ClientSecretName()} {
		if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: key}, secret); err != nil {
			t.Fatal(err)
		}
	}
	node := fakevault.Start(t, fakevault.Pair(t, server.Data["server.crt"], server.Data["server.key"]), state)
	f.create(t, newPod(f.vault, name, node.IP))
	f.probe(t, probe.Target{
		UID: types.UID(name + "-uid"), Address: node.Address, ServerName: f.vault.ServerName(),
		CA: string(ca.Data["vault-client-ca.crt"]),
	})
	return node
}

func (f *fixture) probe(t *testing.T, target probe.Target) {
	t.Helper()
	key := client.ObjectKeyFromObject(f.vault)
	f.Engine.SetTargets(key, []probe.Target{target}, true)
	f.waitFor(t, func(o probe.Observation) bool {
		return o.State != probe.Unknown && (o.Seal.Read || !o.State.Responded())
	})
}

func (f *fixture) waitFor(t *testing.T, ok func(probe.Observation) bool) {
	t.Helper()
	poll.Eventually(t, "the node is seen in that state", 20*time.Second, 2*time.Millisecond, func() error {
		for _, o := range f.Engine.Observations(client.ObjectKeyFromObject(f.vault)) {
			if ok(o) {
				return nil
			}
		}
		return errors.New("it is in another one")
	})
}

// newPod returns a pod that runs, with the active label: routing is not at work here.
func newPod(vault *v1alpha1.Vault, name, ip string) *corev1.Pod {
	labels := vault.PodLabels()
	labels[v1alpha1.ActiveLabel] = v1alpha1.ActiveLabelValue
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: name, UID: types.UID(name + "-uid"), Labels: labels},
		Status: corev1.PodStatus{PodIP: ip, ContainerStatuses: []corev1.ContainerStatus{{
			Name: v1alpha1.VaultContainer, Started: new(true),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func TestReconcileWritesOnceAndTellsOnce(t *testing.T) {
	f := newFixture(t)
	if events := f.mustReconcile(t); len(events) != 0 {
		t.Errorf("events of a Vault without pods: %q", events)
	}
	if f.writes != 1 || f.status(t).Phase != v1alpha1.PhaseCreating {
		t.Errorf("%d writes, phase %s", f.writes, f.status(t).Phase)
	}

	node := f.run(t, "a", fakevault.Sealed)
	// Nobody has initialized it since it was created.
	want := []string{"Normal DataFound The storage holds the data of a Vault that was initialized before: it is " +
		"unsealed with the keys of that one", "Normal Sealed Pod a is sealed"}
	if events := f.mustReconcile(t); !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
	node.Set(fakevault.Active)
	f.waitFor(t, func(o probe.Observation) bool { return o.State == probe.Active })
	if events := f.mustReconcile(t); !slices.Equal(events, []string{"Normal BecameActive Pod a became active"}) {
		t.Errorf("events %q", events)
	}
	if status := f.status(t); status.VaultStatus.Active != "a" || status.Phase != v1alpha1.PhaseRunning ||
		status.Version != "1.21.0" || status.DataVersion != "1.21.0" {
		t.Errorf("status %+v", status)
	}
	writes := f.writes
	for range 3 {
		if events := f.mustReconcile(t); len(events) > 0 || f.writes != writes {
			t.Errorf("%d writes and events %q at rest", f.writes-writes, events)
		}
	}
}

// A node that says something else in each response has the status written now and then.
func TestWritesAreFew(t *testing.T) {
	var w writes
	now := time.Now()
	count := 0
	for range 600 { // ten minutes
		for range 10 {
			if w.wait("hostile", now) == 0 {
				count++
			}
		}
		now = now.Add(time.Second)
	}
	if want := writesAtOnce + int(10*time.Minute/writeEvery); count > want || count < want-1 {
		t.Errorf("%d writes in ten minutes, want %d", count, want)
	}
	if wait := w.wait("other", now); wait > 0 {
		t.Errorf("another Vault waits for %s", wait)
	}
}

// The cache follows the API server with a delay. What was written a moment ago
// must not be taken for news.
func TestReconcileRepeatsNothingOnAStaleCache(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	f.stale = &v1alpha1.Vault{}
	if err := f.api.Get(t.Context(), client.ObjectKeyFromObject(f.vault), f.stale); err != nil {
		t.Fatal(err)
	}
	if events := f.mustReconcile(t); len(events) != 1 || f.writes != 1 {
		t.Fatalf("%d writes, events %q", f.writes, events)
	}
	if events := f.mustReconcile(t); len(events) != 0 || f.writes != 1 {
		t.Errorf("%d writes, events %q", f.writes, events)
	}
}

// The leader may be lost together with the node that there is news about.
func TestReconcileStandsInForASilentLeader(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	beats := true
	f.Elected = make(chan struct{})
	f.LeaderAlive = func(time.Time) bool { return beats }
	result, events, err := f.reconcile(t)
	if err != nil || f.writes != 0 || len(events) != 0 || result.RequeueAfter != recheckInterval {
		t.Errorf("while the leader lives: %d writes, events %q, result %+v, error %v", f.writes, events, result, err)
	}
	beats = false
	if events := f.mustReconcile(t); f.writes != 1 || len(events) != 1 {
		t.Errorf("while the leader is silent: %d writes, events %q", f.writes, events)
	}
	// The leader comes back and has done so already.
	beats = true
	if result, _, err := f.reconcile(t); err != nil || f.writes != 1 || result.RequeueAfter == recheckInterval {
		t.Errorf("with nothing to write: %d writes, result %+v, error %v", f.writes, result, err)
	}
}

// What the one knows that stands in may be older than what the leader wrote before it was lost: it must not take
// back which version the data is of.
func TestReconcileTakesNothingBackFromTheLeader(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	f.Elected = make(chan struct{})
	f.LeaderAlive = func(time.Time) bool { return false }
	f.stale = &v1alpha1.Vault{}
	if err := f.api.Get(t.Context(), client.ObjectKeyFromObject(f.vault), f.stale); err != nil {
		t.Fatal(err)
	}
	written := f.stale.DeepCopy()
	written.Status.DataVersion = "1.22.0"
	if err := f.api.Status().Update(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	if result, events, err := f.reconcile(t); err != nil || len(events) != 0 || result.RequeueAfter != recheckInterval {
		t.Errorf("result %+v, events %q, error %v", result, events, err)
	}
	if status := f.status(t); status.DataVersion != "1.22.0" {
		t.Errorf("the data is of version %s", status.DataVersion)
	}
	f.stale = nil
	if f.mustReconcile(t); f.status(t).VaultStatus.Active != "a" {
		t.Errorf("status %+v", f.status(t))
	}
}

// Clients wait for labels, and not for the status.
func TestStatusWaitsWhileManyFailOver(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	busy := true
	f.Busy = func() bool { return busy }
	if result, events, err := f.reconcile(t); err != nil || f.writes != 0 || len(events) != 0 ||
		result.RequeueAfter != busyCheck {
		t.Errorf("while many fail over: %d writes, events %q, result %+v, error %v", f.writes, events, result, err)
	}
	f.wait(postponeFor)
	if f.mustReconcile(t); f.writes != 1 {
		t.Errorf("after %s: %d writes", postponeFor, f.writes)
	}
	busy = false
	if result, _, err := f.reconcile(t); err != nil || result.RequeueAfter == busyCheck {
		t.Errorf("at rest: result %+v, error %v", result, err)
	}
}

// What another replica wrote meanwhile is newer than what this one wrote.
func TestReconcileBuildsOnWhatAnotherReplicaWrote(t *testing.T) {
	f := newFixture(t)
	node := f.run(t, "a", fakevault.Active)
	f.mustReconcile(t)
	other := &Reconciler{
		Client: f.Client, Engine: f.Engine, Alarms: f.Alarms, Tokens: f.Tokens, Recorder: f.recorder, Inputs: f.Inputs,
		Clock: f.Clock,
	}
	node.Set(fakevault.Standby)
	f.waitFor(t, func(o probe.Observation) bool { return o.State == probe.Standby })
	request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(f.vault)}
	if _, err := other.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	for len(f.recorder.Events) > 0 {
		<-f.recorder.Events
	}
	writes := f.writes
	if events := f.mustReconcile(t); f.writes != writes || len(events) != 0 {
		t.Errorf("%d more writes, events %q", f.writes-writes, events)
	}
}

// That a label is not where it belongs is written when routing does not put it right.
func TestStatusWaitsUntilLabelsAreSettled(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	label := func(labels map[string]string) {
		t.Helper()
		var pod corev1.Pod
		if err := f.api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "a"}, &pod); err != nil {
			t.Fatal(err)
		}
		pod.Labels = labels
		if err := f.api.Update(t.Context(), &pod); err != nil {
			t.Fatal(err)
		}
	}
	available := func() string {
		return meta.FindStatusCondition(f.status(t).Conditions, v1alpha1.AvailableCondition).Reason
	}
	f.mustReconcile(t)
	label(f.vault.PodLabels())
	result, events, err := f.reconcile(t)
	if err != nil || f.writes != 1 || len(events) != 0 || result.RequeueAfter != settleTime {
		t.Errorf("at once: %d writes, events %q, result %+v, error %v", f.writes, events, result, err)
	}
	f.wait(settleTime - time.Millisecond)
	if result, _, err := f.reconcile(t); err != nil || f.writes != 1 || result.RequeueAfter != time.Millisecond {
		t.Errorf("before its time: %d writes, result %+v, error %v", f.writes, result, err)
	}
	f.wait(time.Millisecond)
	result, _, err = f.reconcile(t)
	if err != nil || available() != v1alpha1.ReasonNotInService || result.RequeueAfter != unsettledCheck {
		t.Errorf("Available is %s, result %+v, error %v", available(), result, err)
	}
	label(newPod(f.vault, "a", "").Labels)
	if f.mustReconcile(t); available() != v1alpha1.ReasonActive {
		t.Errorf("Available is %s when the label is there", available())
	}
}

func TestReconcileTellsNothingThatIsNotWritten(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	f.fail = errAPI
	if _, events, err := f.reconcile(t); !errors.Is(err, errAPI) || len(events) != 0 {
		t.Errorf("error %v, events %q", err, events)
	}
	f.fail = nil
	if events := f.mustReconcile(t); len(events) != 1 || f.writes != 1 {
		t.Errorf("%d writes, events %q after the API server was back", f.writes, events)
	}
}

// Just after a start the operator knows of pods that it has not asked.
func TestReconcileWaitsUntilAllWereProbed(t *testing.T) {
	f := newFixture(t)
	f.create(t, newPod(f.vault, "a", "127.0.0.1"))
	if events := f.mustReconcile(t); f.writes != 0 || len(events) != 0 {
		t.Errorf("%d writes, events %q", f.writes, events)
	}
}

// Nothing tells when a pod has been starting for too long.
func TestReconcileLooksAgainAtStartingPods(t *testing.T) {
	f := newFixture(t)
	pod := newPod(f.vault, "a", "127.0.0.1")
	pod.Status.ContainerStatuses[0].Started = new(false)
	f.create(t, pod)
	f.probe(t, probe.Target{UID: pod.UID}) // without a CA it cannot answer
	result, _, err := f.reconcile(t)
	if err != nil || result.RequeueAfter == 0 || result.RequeueAfter > time.Minute {
		t.Errorf("result %+v, error %v", result, err)
	}
	if status := f.status(t); len(status.VaultStatus.Unreachable) != 0 || status.Phase != v1alpha1.PhaseCreating {
		t.Errorf("status %+v", status)
	}
	f.wait(time.Hour)
	if f.mustReconcile(t); !slices.Equal(f.status(t).VaultStatus.Unreachable, []string{"a"}) {
		t.Errorf("status %+v after an hour", f.status(t))
	}
}

// A field of another controller that were compared with what this one computes would make each
// reconcile write.
func TestOwnedIsWhatThisControllerWrites(t *testing.T) {
	var status v1alpha1.VaultStatus
	fields := reflect.ValueOf(&status).Elem()
	for i := range fields.NumField() {
		fill(t, fields.Field(i))
	}
	status.Conditions = []metav1.Condition{
		{Type: v1alpha1.DeployedCondition}, {Type: v1alpha1.AvailableCondition}, {Type: v1alpha1.ResizedCondition},
		{Type: v1alpha1.IrreconcilableCondition}, {Type: v1alpha1.UnsealedCondition},
	}
	before := status.DeepCopy()
	got := owned(status)
	var names []string
	for i := range fields.NumField() {
		if !reflect.ValueOf(got).Field(i).IsZero() {
			names = append(names, fields.Type().Field(i).Name)
		}
	}
	if want := strings.Fields("Phase Initialized ServiceName ClientPort VaultStatus Nodes Selector ReadyNodes " +
		"StandbyNodes SealedNodes NodeStatuses PodStatuses UpdatedNodes Version DataVersion Seal Storage " +
		"ObservedGeneration Conditions"); !slices.Equal(names, want) {
		t.Errorf("owned are %q, want %q", names, want)
	}
	if len(got.Conditions) != 2 || got.Conditions[0].Type != v1alpha1.AvailableCondition ||
		got.Conditions[1].Type != v1alpha1.UnsealedCondition {
		t.Errorf("owned are the conditions %+v", got.Conditions)
	}
	if !reflect.DeepEqual(&status, before) {
		t.Errorf("the status itself was changed: %+v, and was %+v", status, before)
	}
}

// fill gives a field a value that is not zero.
func fill(t *testing.T, field reflect.Value) {
	t.Helper()
	switch field.Kind() {
	case reflect.Pointer:
		field.Set(reflect.New(field.Type().Elem()))
	case reflect.Slice:
		field.Set(reflect.MakeSlice(field.Type(), 1, 1))
	case reflect.Map:
		field.Set(reflect.MakeMap(field.Type()))
	case reflect.String:
		field.SetString("x")
	case reflect.Int32, reflect.Int64:
		field.SetInt(1)
	case reflect.Bool:
		field.SetBool(true)
	case reflect.Struct:
		fill(t, field.Field(0))
	default:
		t.Fatalf("a field is a %s", field.Kind())
	}
}

func TestReconcileOfAVaultThatIsGone(t *testing.T) {
	f := newFixture(t)
	if err := f.api.Delete(t.Context(), f.vault); err != nil {
		t.Fatal(err)
	}
	if events := f.mustReconcile(t); f.writes != 0 || len(events) != 0 {
		t.Errorf("%d writes, events %q", f.writes, events)
	}
}

func TestReconcileOfAVaultThatIsBeingDeleted(t *testing.T) {
	f := newFixture(t)
	f.mustReconcile(t)
	held := client.MergeFrom(f.vault.DeepCopy())
	f.vault.Finalizers = []string{"example.com/hold"}
	if err := f.api.Patch(t.Context(), f.vault, held); err != nil {
		t.Fatal(err)
	}
	if err := f.api.Delete(t.Context(), f.vault); err != nil {
		t.Fatal(err)
	}
	if events := f.mustReconcile(t); f.writes != 1 || len(events) != 0 {
		t.Errorf("%d writes, events %q", f.writes, events)
	}
	if _, kept := f.written.Load(f.vault.UID); kept {
		t.Error("its status is kept in memory")
	}
}

func TestReconcileReportsErrorsOfTheAPIServer(t *testing.T) {
	f := newFixture(t)
	f.Client = interceptor.NewClient(f.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			if _, ok := obj.(*appsv1.StatefulSet); ok {
				return errAPI
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	if _, _, err := f.reconcile(t); !errors.Is(err, errAPI) || !strings.Contains(err.Error(), "example-etcd") {
		t.Errorf("error %v", err)
	}
}
