package unseal

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// encoded is a key of 33 bytes.
func encoded(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 33)))
}

func secretWith(data map[string]string) *corev1.Secret {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keys"}, Data: map[string][]byte{}}
	for name, value := range data {
		secret.Data[name] = []byte(value)
	}
	return secret
}

func TestKeysOf(t *testing.T) {
	hexadecimal := strings.Repeat("ab", 33)
	many := map[string]string{}
	for i := range maxKeys + 1 {
		many[fmt.Sprintf("unseal-key-%03d", i)] = encoded(fmt.Sprintf("%03d", i))[:44]
	}
	for name, tt := range map[string]struct {
		data map[string]string
		want []string
		says string
	}{
		"in order, each once": {data: map[string]string{"unseal-key-2": encoded("b") + "\n", "unseal-key-1": encoded("a"),
			"unseal-key-3": encoded("a"), "root-token": "x", "pgp-keys": ""}, want: []string{encoded("a"), encoded("b")}},
		"hexadecimal": {data: map[string]string{"unseal-key-1": hexadecimal}, want: []string{hexadecimal}},
		"none":        {data: map[string]string{"recovery-key-1": encoded("a")}, says: "has no unseal keys"},
		"too many":    {data: many, says: "255 at most"},
		"garbage":     {data: map[string]string{"unseal-key-1": "MARKER"}, says: "is not an unseal key"},
		"encrypted": {data: map[string]string{"unseal-key-1": base64.StdEncoding.EncodeToString(make([]byte, 300))},
			says: "encrypted by PGP"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := keysOf(secretWith(tt.data))
			if !slices.Equal(keys, tt.want) || (err != nil) != (tt.says != "") {
				t.Fatalf("keys %q, error %v", keys, err)
			}
			if wrong := problem.In(err); err != nil && (wrong == nil || !strings.Contains(wrong.Message, tt.says) ||
				strings.Contains(wrong.Message, "MARKER")) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func podOf(name, container string, change func(*corev1.Pod)) corev1.Pod {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{
			Name: v1alpha1.VaultContainer, ContainerID: container,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
	if change != nil {
		change(&pod)
	}
	return pod
}

func TestDecide(t *testing.T) {
	for name, tt := range map[string]struct {
		state                    probe.State
		before                   starts
		change                   func(*corev1.Pod)
		sealed, byHand, unsealed bool
	}{
		"it has started":           {state: probe.Sealed, sealed: true},
		"it was unsealed":          {state: probe.Standby, unsealed: true},
		"it is active":             {state: probe.Active, unsealed: true},
		"somebody has sealed it":   {state: probe.Sealed, before: starts{"x": "c1#0"}, byHand: true, unsealed: true},
		"it has started again":     {state: probe.Sealed, before: starts{"x": "c0#0"}, sealed: true},
		"it is restarted":          {state: probe.Sealed, before: starts{"x": "c1#1"}, sealed: true},
		"another pod was unsealed": {state: probe.Sealed, before: starts{"y": "c1#0"}, sealed: true},
		"it does not respond":      {state: probe.Unreachable, before: starts{"x": "c1#0"}, unsealed: true},
		"it cannot be verified":    {state: probe.Unverified},
		"Vault is not initialized": {state: probe.Uninitialized},
		"it was not probed":        {state: probe.Unknown},
		"it is being deleted": {state: probe.Sealed, change: func(pod *corev1.Pod) {
			pod.DeletionTimestamp = &metav1.Time{}
		}},
		"it does not run": {state: probe.Sealed, change: func(pod *corev1.Pod) { pod.Status.PodIP = "" }},
		"it has ended":    {state: probe.Active, change: func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodFailed }},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide([]corev1.Pod{podOf("x", "c1", tt.change)},
				map[types.UID]probe.Observation{"x": {State: tt.state}}, tt.before)
			if len(p.sealed) > 0 != tt.sealed || len(p.byHand) > 0 != tt.byHand || len(p.unsealed) > 0 != tt.unsealed {
				t.Errorf("decided on %+v", p)
			}
		})
	}
}

// server is what a fake node does with keys: two of a, b and c unseal it.
type server struct {
	node *fakevault.Node

	mu       sync.Mutex
	given    []string
	attempts int
	resets   int
	// fails is how many requests with a key fail.
	fails int
	// joins says that the node joins the others before it is unsealed, as with integrated storage.
	joins bool
	// rekeyed says that other keys unseal it.
	rekeyed bool
	// seal is what is said of the seal in place of the truth.
	seal map[string]any
}

func (s *server) handle(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	respond := func() {
		state := s.node.State()
		if s.seal != nil {
			_ = json.NewEncoder(w).Encode(s.seal)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "shamir", "initialized": state.Initialized,
			"sealed": state.Sealed, "t": 2, "n": 3, "progress": len(s.given)})
	}
	fail := func(code int, reason string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{reason}})
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/sys/seal-status":
		respond()
	case "PUT /v1/sys/unseal":
		var request struct {
			Key   string
			Reset bool
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			panic(err)
		}
		switch {
		case request.Reset:
			s.resets++
			s.given = nil
			respond()
		case s.fails > 0 && len(s.given) > 0:
			s.fails--
			fail(http.StatusInternalServerError, "the storage does not respond")
		default:
			s.attempts++
			if !slices.Contains(s.given, request.Key) {
				s.given = append(s.given, request.Key)
			}
			if len(s.given) == 2 {
				given := s.given
				s.given = nil
				if s.rekeyed || slices.ContainsFunc(given, func(key string) bool {
					return key != encoded("a") && key != encoded("b") && key != encoded("c")
				}) {
					fail(http.StatusBadRequest, "failed to decrypt keys from storage: cipher: message authentication failed")
					return true
				}
				if !s.joins {
					s.node.Set(fakevault.Active)
				}
			}
			respond()
		}
	default:
		return false
	}
	return true
}

type fixture struct {
	*Reconciler
	t        *testing.T
	api      client.WithWatch
	server   *server
	clock    *testclock.FakePassiveClock
	recorder *record.FakeRecorder
	ca       fakevault.CA
	// others are further nodes.
	others []probe.Target
}

var key = types.NamespacedName{Namespace: "default", Name: "example"}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, ca: fakevault.NewCA(t), clock: testclock.NewFakePassiveClock(time.Now()),
		recorder: record.NewFakeRecorder(100)}
	f.server = &server{node: fakevault.Start(t, f.ca.Certificate(t, "example.default.svc"), fakevault.Sealed)}
	f.server.node.Handle(f.server.handle)
	vault := &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 1},
		Spec:       v1alpha1.VaultSpec{Unseal: &v1alpha1.UnsealPolicy{KeysSecretName: "keys"}},
	}
	pod := podOf("x", "c1", func(pod *corev1.Pod) {
		pod.Labels, pod.Status.PodIP = vault.PodLabels(), f.server.node.IP
	})
	f.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Vault{}).
		WithObjects(append(objects, vault, &pod)...).Build()
	engine := probe.NewEngine()
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		_ = engine.Start(ended) // stops all probes
	})
	f.Reconciler = &Reconciler{
		Client: f.api, APIReader: f.api, Engine: engine, Recorder: f.recorder, Clock: f.clock,
	}
	f.start("c1")
	return f
}

// addRekeyed adds a node that other keys unseal, and that comes before the other one.
func (f *fixture) addRekeyed() *server {
	f.t.Helper()
	node := fakevault.Start(f.t, f.ca.Certificate(f.t, "example.default.svc"), fakevault.Sealed)
	added := &server{node: node, rekeyed: true}
	node.Handle(added.handle)
	pod := podOf("a", "c1", func(pod *corev1.Pod) {
		pod.Labels = (&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: key.Name}}).PodLabels()
		pod.Status.PodIP = node.IP
	})
	if err := f.api.Create(f.t.Context(), &pod); err != nil {
		f.t.Fatal(err)
	}
	f.others = append(f.others, probe.Target{UID: pod.UID, Address: node.Address, ServerName: "example.default.svc",
		CA: f.ca.PEM, Container: "c1#0"})
	return added
}

// start starts the container of the node anew.
func (f *fixture) start(container string) {
	f.t.Helper()
	var pod corev1.Pod
	if err := f.api.Get(f.t.Context(), types.NamespacedName{Namespace: "default", Name: "x"}, &pod); err != nil {
		f.t.Fatal(err)
	}
	pod.Status.ContainerStatuses[0].ContainerID = container
	if err := f.api.Status().Update(f.t.Context(), &pod); err != nil {
		f.t.Fatal(err)
	}
	f.server.node.Set(fakevault.Sealed)
	f.Engine.SetTargets(key, append(f.others, probe.Target{
		UID: "x", Address: f.server.node.Address, ServerName: "example.default.svc", CA: f.ca.PEM,
		Container: container + "#0",
	}), false)
}

// restart makes a new process.
func (f *fixture) restart() {
	f.Reconciler = &Reconciler{
		Client: f.api, APIReader: f.api, Engine: f.Engine, Recorder: f.recorder, Clock: f.clock,
	}
}

// settle reconciles a few times, with what the node says then.
func (f *fixture) settle() {
	f.t.Helper()
	for range 3 {
		f.Engine.Confirm(f.t.Context(), key, "x")
		for _, other := range f.others {
			f.Engine.Confirm(f.t.Context(), key, other.UID)
		}
		if _, err := f.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
			f.t.Log(err)
			if strings.Contains(err.Error(), encoded("a")) {
				f.t.Error("the error has a key")
			}
		}
	}
}

// expect checks the condition and the state of the node, and returns the events.
func (f *fixture) expect(reason string, state fakevault.State) []string {
	f.t.Helper()
	var vault v1alpha1.Vault
	if err := f.api.Get(f.t.Context(), key, &vault); err != nil {
		f.t.Fatal(err)
	}
	condition := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.UnsealKeysValidCondition)
	if condition == nil || condition.Reason != reason {
		f.t.Errorf("the condition is %+v, want the reason %s", condition, reason)
	}
	if got := f.server.node.State(); got != state {
		f.t.Errorf("the node is %+v, want %+v", got, state)
	}
	var events []string
	for len(f.recorder.Events) > 0 {
		events = append(events, <-f.recorder.Events)
	}
	if text := fmt.Sprint(vault, events); strings.Contains(text, encoded("a")) {
		f.t.Errorf("a key is in %s", text)
	}
	return events
}

func good() *corev1.Secret {
	return secretWith(map[string]string{"unseal-key-1": encoded("a"), "unseal-key-2": encoded("b")})
}

func TestUnseal(t *testing.T) {
	f := newFixture(t, good())
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)

	// Somebody seals it: it stays so, whatever happens to the operator.
	f.server.node.Set(fakevault.Sealed)
	f.settle()
	f.expect(v1alpha1.ReasonSealedByHand, fakevault.Sealed)
	f.restart()
	f.settle()
	f.expect(v1alpha1.ReasonSealedByHand, fakevault.Sealed)

	// Until it is started again.
	f.start("c2")
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
}

// One that others have unsealed counts as well.
func TestSealedAfterOthersHaveUnsealedIt(t *testing.T) {
	f := newFixture(t, good())
	f.server.node.Set(fakevault.Standby)
	f.settle()
	f.expect(v1alpha1.ReasonKeysNotUsed, fakevault.Standby)
	f.server.node.Set(fakevault.Sealed)
	f.settle()
	f.expect(v1alpha1.ReasonSealedByHand, fakevault.Sealed)
}

// A cache that is older than what was told does not undo it.
func TestOldCache(t *testing.T) {
	f := newFixture(t, good())
	var old v1alpha1.Vault
	if err := f.api.Get(t.Context(), key, &old); err != nil {
		t.Fatal(err)
	}
	f.Client = interceptor.NewClient(f.api, interceptor.Funcs{Get: func(
		ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption,
	) error {
		if vault, ok := obj.(*v1alpha1.Vault); ok {
			old.DeepCopyInto(vault)
			return nil
		}
		return c.Get(ctx, key, obj, opts...)
	}})
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
}

// What a node said before it was unsealed does not make it one that somebody has sealed.
func TestOldObservation(t *testing.T) {
	f := newFixture(t, good())
	f.Engine.Confirm(t.Context(), key, "x")
	for range 3 {
		if _, err := f.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
	}
	for _, event := range f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active) {
		if strings.Contains(event, v1alpha1.ReasonSealedByHand) {
			t.Error(event)
		}
	}
}

func TestWrongKeys(t *testing.T) {
	f := newFixture(t, secretWith(map[string]string{"unseal-key-1": encoded("a"), "unseal-key-2": encoded("z")}))
	f.settle()
	events := f.expect(v1alpha1.ReasonKeysWrong, fakevault.Sealed)
	if len(events) != 1 || !strings.Contains(events[0], "Warning KeysWrong") {
		t.Errorf("events %q", events)
	}
	if f.server.attempts != 2 || f.server.resets == 0 {
		t.Errorf("%d keys given, %d resets", f.server.attempts, f.server.resets)
	}
	// Another start may have other data: they are given once more.
	f.start("c2")
	f.settle()
	f.settle()
	if f.server.attempts != 4 {
		t.Errorf("%d keys given, want two to each start", f.server.attempts)
	}
	// It is told again after any change of the spec, and they are not given for it.
	var vault v1alpha1.Vault
	if err := f.api.Get(t.Context(), key, &vault); err != nil {
		t.Fatal(err)
	}
	vault.Generation = 2
	if err := f.api.Update(t.Context(), &vault); err != nil {
		t.Fatal(err)
	}
	f.settle()
	f.expect(v1alpha1.ReasonKeysWrong, fakevault.Sealed)
	if f.server.attempts != 4 {
		t.Errorf("%d keys given after a change of the spec", f.server.attempts)
	}
	var secret corev1.Secret
	if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "keys"}, &secret); err != nil {
		t.Fatal(err)
	}
	secret.Data["unseal-key-2"] = []byte(encoded("b"))
	if err := f.api.Update(t.Context(), &secret); err != nil {
		t.Fatal(err)
	}
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
}

// A node whose data is older than a rekey, as with integrated storage, keeps no other sealed.
func TestWrongKeysOfOneNode(t *testing.T) {
	f := newFixture(t, good())
	var vault v1alpha1.Vault
	if err := f.api.Get(t.Context(), key, &vault); err != nil {
		t.Fatal(err)
	}
	vault.Spec.Storage.Raft = &v1alpha1.RaftStorage{}
	if err := f.api.Update(t.Context(), &vault); err != nil {
		t.Fatal(err)
	}
	rekeyed := f.addRekeyed()
	f.start("c1")
	f.settle()
	events := f.expect(v1alpha1.ReasonKeysWrong, fakevault.Active)
	if len(events) != 1 || !strings.Contains(events[0], "as pod a says") {
		t.Errorf("events %q", events)
	}

	// The other one starts again, and the condition stays as it is.
	f.start("c2")
	f.settle()
	if events := f.expect(v1alpha1.ReasonKeysWrong, fakevault.Active); len(events) > 0 {
		t.Errorf("events %q", events)
	}
	if rekeyed.attempts != 2 {
		t.Errorf("%d keys given to the node with other ones, want two", rekeyed.attempts)
	}

	// It gets the data of the others.
	rekeyed.node.Set(fakevault.Standby)
	f.start("c3")
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
}

// That the keys are wrong is told in the end, when the status could not be written at first.
func TestWrongKeysAreToldInTheEnd(t *testing.T) {
	f := newFixture(t, secretWith(map[string]string{"unseal-key-1": encoded("a"), "unseal-key-2": encoded("z")}))
	writes := 0
	f.Client = interceptor.NewClient(f.api, interceptor.Funcs{SubResourceApply: func(ctx context.Context, c client.Client,
		sub string, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
		if writes++; writes == 2 { // the first one is that no keys were needed yet
			return errors.New("the API server does not respond")
		}
		return c.SubResource(sub).Apply(ctx, obj, opts...)
	}})
	f.settle()
	f.expect(v1alpha1.ReasonKeysWrong, fakevault.Sealed)
}

// Nodes with one storage are unsealed again when that is right again, whichever of them was started anew.
func TestStorageIsRightAgain(t *testing.T) {
	f := newFixture(t, good())
	other := f.addRekeyed()
	f.start("c1")
	f.settle()
	f.expect(v1alpha1.ReasonKeysWrong, fakevault.Sealed)
	other.mu.Lock()
	other.rekeyed = false
	other.mu.Unlock()
	f.start("c2")
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
	if state := other.node.State(); state != fakevault.Active {
		t.Errorf("the other node is %+v", state)
	}
}

func TestNotUnsealed(t *testing.T) {
	for name, tt := range map[string]struct {
		objects []client.Object
		reason  string
	}{
		"no Secret": {reason: v1alpha1.ReasonSecretNotFound},
		"too few keys": {objects: []client.Object{secretWith(map[string]string{"unseal-key-1": encoded("a"),
			"unseal-key-2": encoded("a")})}, reason: v1alpha1.ReasonTooFewKeys},
		"no keys": {objects: []client.Object{secretWith(nil)}, reason: v1alpha1.ReasonSecretInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.objects...)
			f.settle()
			f.expect(tt.reason, fakevault.Sealed)
			if f.server.attempts > 0 {
				t.Errorf("%d keys were given", f.server.attempts)
			}
		})
	}
}

// What fails in the middle leaves no keys at the node, and is tried again.
func TestPartialProgressIsCleared(t *testing.T) {
	f := newFixture(t, good())
	f.server.fails = 1
	f.Engine.Confirm(t.Context(), key, "x")
	if _, err := f.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err == nil {
		t.Error("it did not fail")
	}
	if len(f.server.given) > 0 || f.server.resets != 1 {
		t.Errorf("the node has %d keys, after %d resets", len(f.server.given), f.server.resets)
	}
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
}

// A node that has all keys and joins the others is not given them again meanwhile.
func TestJoiningNode(t *testing.T) {
	f := newFixture(t, good())
	f.server.joins = true
	reconcile := func() time.Duration {
		t.Helper()
		f.Engine.Confirm(t.Context(), key, "x")
		result, err := f.Reconcile(t.Context(), reconcile.Request{NamespacedName: key})
		if err != nil {
			t.Fatal(err)
		}
		return result.RequeueAfter
	}
	expect := func(attempts int, again time.Duration) {
		t.Helper()
		if got := reconcile(); got != again || f.server.attempts != attempts {
			t.Errorf("%d keys were given, again after %s, want %d and %s", f.server.attempts, got, attempts, again)
		}
	}
	expect(2, joinPause)
	f.clock.SetTime(f.clock.Now().Add(joinPause - time.Second))
	expect(2, time.Second)
	// It did not join.
	f.clock.SetTime(f.clock.Now().Add(time.Second))
	expect(4, 2*joinPause)
	// Another container has none.
	f.start("c2")
	expect(6, joinPause)
	// It has joined.
	f.server.node.Set(fakevault.Standby)
	expect(6, 0)
}

// No key is given to a node whose seal cannot be one of Vault.
func TestImpossibleSeals(t *testing.T) {
	for name, numbers := range map[string][2]int{
		"a negative threshold": {-1, 0}, "no threshold": {0, 0}, "more than there can be": {256, 0},
		"a negative progress": {2, -1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, good())
			f.server.seal = map[string]any{"type": "shamir", "initialized": true, "sealed": true,
				"t": numbers[0], "progress": numbers[1]}
			f.Engine.Confirm(t.Context(), key, "x")
			if _, err := f.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err == nil {
				t.Error("it did not fail")
			}
			if f.server.attempts > 0 || f.server.resets > 0 {
				t.Errorf("%d keys were given, %d resets", f.server.attempts, f.server.resets)
			}
		})
	}
}

// Keys that administrators give are not taken away from under their hands.
func TestOthersAreAtIt(t *testing.T) {
	f := newFixture(t, good())
	f.server.given = []string{encoded("c")}
	f.settle()
	f.expect(v1alpha1.ReasonKeysNotUsed, fakevault.Sealed)
	if f.server.resets > 0 || len(f.server.given) != 1 {
		t.Errorf("%d resets, %d keys", f.server.resets, len(f.server.given))
	}
	f.clock.SetTime(f.clock.Now().Add(othersTurn))
	f.settle()
	f.expect(v1alpha1.ReasonKeysAccepted, fakevault.Active)
}

// Without spec.unseal nothing is left in the status.
func TestUnsealIsRemoved(t *testing.T) {
	f := newFixture(t, good())
	f.settle()
	var vault v1alpha1.Vault
	if err := f.api.Get(t.Context(), key, &vault); err != nil {
		t.Fatal(err)
	}
	vault.Spec.Unseal = nil
	if err := f.api.Update(t.Context(), &vault); err != nil {
		t.Fatal(err)
	}
	f.settle()
	if err := f.api.Get(t.Context(), key, &vault); err != nil || vault.Status.Unseal != nil ||
		len(vault.Status.Conditions) > 0 {
		t.Errorf("the status is %+v, %v", vault.Status, err)
	}
}

// A node of a Vault that proves a backup is not given keys before its NetworkPolicy has surely taken effect.
func TestIsolating(t *testing.T) {
	now := time.Date(2026, 1, 4, 12, 0, 0, 0, time.UTC)
	started := func(ago time.Duration) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: "vault", State: corev1.ContainerState{
				Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-ago))},
			},
		}}}}
	}
	made := func(ago time.Duration, pod corev1.Pod) corev1.Pod {
		pod.CreationTimestamp = metav1.NewTime(now.Add(-ago))
		return pod
	}
	proof := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{
		Labels: map[string]string{v1alpha1.ProofLabel: "nightly"},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultBackupSchedule", Name: "nightly", Controller: new(true),
		}},
	}}
	for name, tt := range map[string]struct {
		vault *v1alpha1.Vault
		pods  []corev1.Pod
		want  time.Duration
	}{
		"any other Vault":           {&v1alpha1.Vault{}, []corev1.Pod{started(0)}, 0},
		"just started":              {proof, []corev1.Pod{started(0)}, 45 * time.Second},
		"started a while ago":       {proof, []corev1.Pod{started(44 * time.Second)}, time.Second},
		"started long ago":          {proof, []corev1.Pod{started(time.Hour)}, 0},
		"of a clock that is ahead":  {proof, []corev1.Pod{started(-time.Hour)}, 45 * time.Second},
		"of a clock that is behind": {proof, []corev1.Pod{made(10*time.Second, started(time.Hour))}, 35 * time.Second},
		"not told when it started":  {proof, []corev1.Pod{{}}, 45 * time.Second},
		"the one that started last": {proof, []corev1.Pod{started(time.Hour), started(5 * time.Second)}, 40 * time.Second},
		"none that is sealed":       {proof, nil, 0},
	} {
		if got := isolating(tt.vault, tt.pods, now); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}
