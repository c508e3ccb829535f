package initialization

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

var errKilled = errors.New("the API server is away")

// vaultServer is what a fake node does when it is asked.
type vaultServer struct {
	node *fakevault.Node

	mu sync.Mutex
	// requests to initialize.
	requests []map[string]any
	// recovery says that there is a key service.
	recovery bool
	// before is called before Vault is initialized, and after when it is; an error ends the
	// connection.
	before, after func() error
	// response is what is said in place of the keys.
	response map[string]any
	// refuse makes Vault refuse.
	refuse string
	// valid says that the root token is, and loseRevocation that a response is lost once.
	valid, loseRevocation bool
}

const rootToken = "hvs.MARKER-root-token"

func (v *vaultServer) handle(w http.ResponseWriter, r *http.Request) bool {
	reply := func(code int, body any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/sys/seal-status":
		sealType := "shamir"
		if v.recovery {
			sealType = "transit"
		}
		reply(http.StatusOK, map[string]any{"type": sealType, "initialized": v.node.State().Initialized,
			"sealed": v.node.State().Sealed, "recovery_seal": v.recovery})
	case "PUT /v1/sys/init":
		v.init(r, reply)
	case "PUT /v1/auth/token/revoke-self":
		valid := v.valid && r.Header.Get("X-Vault-Token") == rootToken
		v.valid = false
		if v.loseRevocation {
			v.loseRevocation = false
			panic(http.ErrAbortHandler)
		}
		if !valid {
			reply(http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
			return true
		}
		w.WriteHeader(http.StatusNoContent)
	case "GET /v1/auth/token/lookup-self":
		if !v.valid || r.Header.Get("X-Vault-Token") != rootToken {
			reply(http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
			return true
		}
		reply(http.StatusOK, map[string]any{})
	default:
		return false
	}
	return true
}

func (v *vaultServer) init(r *http.Request, reply func(int, any)) {
	var request map[string]any
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		panic(err)
	}
	v.requests = append(v.requests, request)
	if v.before != nil && v.before() != nil {
		panic(http.ErrAbortHandler)
	}
	if v.refuse != "" || v.node.State().Initialized {
		reply(http.StatusBadRequest, map[string]any{"errors": []string{v.refuse + "Vault is already initialized"}})
		return
	}
	v.valid = true
	state := fakevault.Sealed
	if v.recovery {
		state = fakevault.Active
	}
	v.node.Set(state)
	if v.after != nil && v.after() != nil {
		panic(http.ErrAbortHandler)
	}
	name, shares := "keys_base64", request["secret_shares"]
	if v.recovery {
		name, shares = "recovery_keys_base64", request["recovery_shares"]
	}
	var keys []string
	for i := range int(shares.(float64)) {
		keys = append(keys, fmt.Sprintf("MARKER-key-%d", i+1))
	}
	response := map[string]any{name: keys, "root_token": rootToken}
	if v.response != nil {
		response = v.response
	}
	reply(http.StatusOK, response)
}

// set changes what it does, for the engine probes it meanwhile.
func (v *vaultServer) set(change func(*vaultServer)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(v)
}

func (v *vaultServer) requestCount() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.requests)
}

// fixture is a Vault with one fake node, and an API server that outlives operators.
type fixture struct {
	*Reconciler
	t        *testing.T
	api      client.WithWatch
	vault    *vaultServer
	clock    *testclock.FakePassiveClock
	recorder *record.FakeRecorder
	engine   *probe.Engine
	// create and apply are called instead of what makes Secrets and writes statuses.
	create func(context.Context, client.Client, *corev1.Secret) error
	apply  func() error
}

var key = types.NamespacedName{Namespace: "default", Name: "example"}

func newFixture(t *testing.T, policy v1alpha1.InitializationPolicy, objects ...client.Object) *fixture {
	t.Helper()
	storeTimeout = 100 * time.Millisecond
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	ca := fakevault.NewCA(t)
	f := &fixture{t: t, clock: testclock.NewFakePassiveClock(time.Now()), recorder: record.NewFakeRecorder(100)}
	node := fakevault.Start(t, ca.Certificate(t, "example.default.svc"), fakevault.Uninitialized)
	f.vault = &vaultServer{node: node}
	node.Handle(f.vault.handle)
	vault := &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 1},
		Spec:       v1alpha1.VaultSpec{Version: "1.21.0", Initialization: &policy},
		Status: v1alpha1.VaultStatus{Conditions: []metav1.Condition{{
			Type: v1alpha1.StorageReadyCondition, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonQuorum,
			LastTransitionTime: metav1.Now(),
		}}},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-x", UID: "pod-uid", Labels: vault.PodLabels()},
		Status: corev1.PodStatus{PodIP: node.IP, ContainerStatuses: []corev1.ContainerStatus{{
			Name: v1alpha1.VaultContainer, ContainerID: "c1",
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
	f.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Vault{}).
		WithObjects(append(objects, vault, pod)...).Build()
	f.engine = probe.NewEngine()
	f.engine.SetTargets(key, []probe.Target{{
		UID: "pod-uid", Address: node.Address, ServerName: "example.default.svc", CA: ca.PEM, Container: "c1#0",
	}}, false)
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		_ = f.engine.Start(ended) // stops all probes
	})
	f.restart()
	return f
}

// restart makes a new process, which remembers nothing.
func (f *fixture) restart() {
	f.create, f.apply = nil, nil
	intercepted := interceptor.NewClient(f.api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			var options client.CreateOptions
			options.ApplyOptions(opts)
			if secret, ok := obj.(*corev1.Secret); ok && f.create != nil && len(options.DryRun) == 0 {
				return f.create(ctx, c, secret)
			}
			return c.Create(ctx, obj, opts...)
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration,
			opts ...client.SubResourceApplyOption) error {
			if f.apply != nil {
				if err := f.apply(); err != nil {
					return err
				}
			}
			// The API server compares the version.
			versioned := obj.(interface {
				GetResourceVersion() string
				SetResourceVersion(string)
			})
			if now := f.get(); versioned.GetResourceVersion() != now.ResourceVersion {
				return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("vaults").GroupResource(), key.Name,
					errors.New("another version"))
			}
			versioned.SetResourceVersion("")
			before := f.get()
			// The answer is written into the object.
			applied := obj.(interface{ UnstructuredContent() map[string]any }).UnstructuredContent()
			_, set, _ := unstructured.NestedSlice(applied, "status", "conditions")
			if err := c.SubResource(sub).Apply(ctx, obj, opts...); err != nil {
				return err
			}
			// The fake one knows of no lists that several own.
			after := f.get()
			if !set {
				after.Status.Conditions = nil
			}
			for _, condition := range before.Status.Conditions {
				if condition.Type != v1alpha1.InitializationSucceededCondition {
					meta.SetStatusCondition(&after.Status.Conditions, condition)
				}
			}
			if err := f.api.Status().Update(ctx, after); err != nil {
				return err
			}
			versioned.SetResourceVersion(after.ResourceVersion)
			return nil
		},
	})
	f.Reconciler = &Reconciler{
		Client: intercepted, APIReader: intercepted, Engine: f.engine, Recorder: f.recorder, Clock: f.clock,
	}
}

func (f *fixture) get() *v1alpha1.Vault {
	f.t.Helper()
	var vault v1alpha1.Vault
	if err := f.api.Get(f.t.Context(), key, &vault); err != nil {
		f.t.Fatal(err)
	}
	return &vault
}

// reconcile reconciles once, with what the node says now.
func (f *fixture) reconcile(ctx context.Context) error {
	f.t.Helper()
	f.engine.Confirm(f.t.Context(), key, "pod-uid")
	_, err := f.Reconcile(ctx, reconcile.Request{NamespacedName: key})
	return err
}

// settle reconciles for as long as that changes something, and lets attempts grow old.
func (f *fixture) settle() {
	f.t.Helper()
	for range 8 {
		if err := f.reconcile(f.t.Context()); err != nil {
			f.t.Log(err)
		}
		f.clock.SetTime(f.clock.Now().Add(settle / 2))
	}
}

// expect checks the condition, the phase, and how often Vault was asked.
func (f *fixture) expect(reason string, phase v1alpha1.InitializationPhase, requests int) *metav1.Condition {
	f.t.Helper()
	vault := f.get()
	condition := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.InitializationSucceededCondition)
	if condition == nil || condition.Reason != reason {
		f.t.Errorf("the condition is %+v, want the reason %s", condition, reason)
		condition = &metav1.Condition{}
	}
	got := v1alpha1.InitializationPhase("")
	if vault.Status.Initialization != nil {
		got = vault.Status.Initialization.Phase
	}
	if got != phase {
		f.t.Errorf("the phase is %q, want %q", got, phase)
	}
	if got := f.vault.requestCount(); got != requests {
		f.t.Errorf("Vault was asked %d times, want %d", got, requests)
	}
	text, err := json.Marshal(vault)
	if err != nil || bytes.Contains(text, []byte("MARKER")) {
		f.t.Errorf("the Vault has something secret: %s (%v)", text, err)
	}
	for {
		select {
		case event := <-f.recorder.Events:
			if strings.Contains(event, "MARKER") {
				f.t.Errorf("an event has something secret: %s", event)
			}
			continue
		default:
		}
		return condition
	}
}

// secrets are the names of the Secrets with keys, and requires that all have all keys.
func (f *fixture) stored(want ...string) {
	f.t.Helper()
	var list corev1.SecretList
	if err := f.api.List(f.t.Context(), &list); err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		secret := &list.Items[i]
		if secret.Annotations[v1alpha1.AttemptAnnotation] == "" {
			continue
		}
		names = append(names, secret.Name)
		keys := 0
		for name := range secret.Data {
			if strings.Contains(name, "-key-") {
				keys++
			}
		}
		if keys != 3 || secret.Immutable == nil || !*secret.Immutable || len(secret.OwnerReferences) > 0 ||
			secret.Labels[v1alpha1.NameLabel] != v1alpha1.AppName {
			f.t.Errorf("Secret %s has %d keys, and is %+v", secret.Name, keys, secret.ObjectMeta)
		}
	}
	if !slices.Equal(names, want) {
		f.t.Errorf("Secrets with keys are %q, want %q", names, want)
	}
}

func plainPolicy(token v1alpha1.RootTokenPolicy) v1alpha1.InitializationPolicy {
	return v1alpha1.InitializationPolicy{Shares: 3, Threshold: 2, RootToken: token, AllowPlaintext: true}
}

func TestInitialize(t *testing.T) {
	f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
	if err := f.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	condition := f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
	if !strings.Contains(condition.Message, "unencrypted") || condition.Status != metav1.ConditionTrue {
		t.Errorf("the condition is %+v", condition)
	}
	f.stored("example-vault-keys")
	f.settle()
	f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
	if request := f.vault.requests[0]; request["secret_shares"] != 3.0 || request["secret_threshold"] != 2.0 ||
		len(request) != 2 {
		t.Errorf("asked for %v", request)
	}
	var secret corev1.Secret
	if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "example-vault-keys"},
		&secret); err != nil {
		t.Fatal(err)
	}
	if string(secret.Data["unseal-key-1"]) != "MARKER-key-1" || string(secret.Data["root-token"]) != rootToken {
		t.Errorf("the Secret holds %v", secret.Data)
	}
	// Without spec.initialization there is no condition, and what was done is not forgotten.
	vault := f.get()
	vault.Spec.Initialization = nil
	if err := f.api.Update(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	f.settle()
	if status := f.get().Status; meta.FindStatusCondition(status.Conditions,
		v1alpha1.InitializationSucceededCondition) != nil || status.Initialization == nil ||
		meta.FindStatusCondition(status.Conditions, v1alpha1.StorageReadyCondition) == nil {
		t.Errorf("the status is %+v", status)
	}
}

// The operator ends at each step, and another one goes on.
func TestKilledAtEachStep(t *testing.T) {
	const name = "example-vault-keys"
	kill := errors.New("killed")
	for what, tt := range map[string]struct {
		// fault prepares the first operator, which is dead after one reconcile; restore makes
		// everything work again.
		fault    func(f *fixture)
		reason   string
		phase    v1alpha1.InitializationPhase
		requests int
		stored   []string
	}{
		"before the attempt is written down": {
			fault:  func(f *fixture) { f.apply = func() error { return errKilled } },
			reason: v1alpha1.ReasonKeysInPlaintext, phase: v1alpha1.PhaseInitialized, requests: 1, stored: []string{name},
		},
		"before Vault does what it is asked": {
			fault:  func(f *fixture) { f.vault.set(func(v *vaultServer) { v.before = func() error { return kill } }) },
			reason: v1alpha1.ReasonKeysInPlaintext, phase: v1alpha1.PhaseInitialized, requests: 2, stored: []string{name},
		},
		"before the response": {
			fault:  func(f *fixture) { f.vault.set(func(v *vaultServer) { v.after = func() error { return kill } }) },
			reason: v1alpha1.ReasonKeysLost, phase: v1alpha1.PhaseKeysLost, requests: 1,
		},
		"before the keys are stored": {
			fault: func(f *fixture) {
				f.create = func(context.Context, client.Client, *corev1.Secret) error { return errKilled }
			},
			reason: v1alpha1.ReasonKeysLost, phase: v1alpha1.PhaseKeysLost, requests: 1,
		},
		"after the keys are stored": {
			fault: func(f *fixture) {
				f.create = func(ctx context.Context, c client.Client, secret *corev1.Secret) error {
					f.apply = func() error { return errKilled }
					return c.Create(ctx, secret)
				}
			},
			reason: v1alpha1.ReasonKeysInPlaintext, phase: v1alpha1.PhaseInitialized, requests: 1, stored: []string{name},
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
			tt.fault(f)
			if err := f.reconcile(t.Context()); err == nil {
				t.Error("the fault did no harm")
			}
			f.vault.set(func(v *vaultServer) { v.before, v.after = nil, nil })
			f.restart()
			f.settle()
			f.expect(tt.reason, tt.phase, tt.requests)
			f.stored(tt.stored...)
			f.restart()
			f.settle()
			f.expect(tt.reason, tt.phase, tt.requests)
			f.stored(tt.stored...)
		})
	}
}

// What the process that has asked can save is saved.
func TestKeysAreStoredNevertheless(t *testing.T) {
	const name = "example-vault-keys"
	t.Run("the process is to end while Vault is asked", func(t *testing.T) {
		f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
		ctx, cancel := context.WithCancel(t.Context())
		f.vault.set(func(v *vaultServer) { v.after = func() error { cancel(); return nil } })
		if err := f.reconcile(ctx); err != nil {
			t.Fatal(err)
		}
		f.stored(name)
		f.restart()
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
	})
	t.Run("the API server is away for long", func(t *testing.T) {
		f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
		f.create = func(context.Context, client.Client, *corev1.Secret) error { return errKilled }
		for range 3 {
			if err := f.reconcile(t.Context()); err == nil {
				t.Error("the keys are stored")
			}
			f.clock.SetTime(f.clock.Now().Add(settle))
		}
		f.expect(v1alpha1.ReasonStoringKeys, v1alpha1.PhaseRequested, 1)
		f.stored()
		f.create = nil
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
		f.stored(name)
	})
	t.Run("the response of the API server is lost", func(t *testing.T) {
		f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
		f.create = func(ctx context.Context, c client.Client, secret *corev1.Secret) error {
			f.create = nil
			return errors.Join(c.Create(ctx, secret), errKilled)
		}
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
		f.stored(name)
	})
	t.Run("the status cannot be written either", func(t *testing.T) {
		f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
		conflict := apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("vaults").GroupResource(), key.Name, errKilled)
		f.create = func(context.Context, client.Client, *corev1.Secret) error {
			f.apply = func() error { return conflict }
			return errKilled
		}
		// No event may come: the error is what leads to another try.
		for range 2 {
			if err := f.reconcile(t.Context()); err == nil {
				t.Error("the keys are stored")
			}
		}
		f.create = nil
		_ = f.reconcile(t.Context()) // the status still cannot be written
		f.stored(name)
		f.apply = nil
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
	})
	t.Run("somebody makes a Secret that looks like it", func(t *testing.T) {
		for what, change := range map[string]func(*corev1.Secret){
			"other keys":     func(secret *corev1.Secret) { secret.Data["unseal-key-1"] = []byte("another") },
			"can be changed": func(secret *corev1.Secret) { secret.Immutable = nil },
		} {
			t.Run(what, func(t *testing.T) {
				f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
				f.create = func(ctx context.Context, c client.Client, secret *corev1.Secret) error {
					f.create = nil
					other := secret.DeepCopy()
					change(other)
					return errors.Join(c.Create(ctx, other), errKilled)
				}
				f.settle()
				f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
				status := f.get().Status.Initialization
				if status.SecretName != name+"-"+string(status.Attempt) {
					t.Errorf("the status is %+v", status)
				}
			})
		}
	})
	t.Run("somebody has taken the name meanwhile", func(t *testing.T) {
		f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
		f.create = func(ctx context.Context, c client.Client, secret *corev1.Secret) error {
			f.create = nil
			other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
			return errors.Join(c.Create(ctx, other), c.Create(ctx, secret))
		}
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
		status := f.get().Status.Initialization
		f.stored(name + "-" + string(status.Attempt))
		if status.SecretName != name+"-"+string(status.Attempt) {
			t.Errorf("the status is %+v", status)
		}
	})
}

// What has no answer time and again is tried less and less often.
func TestNoResponseAgain(t *testing.T) {
	f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
	f.vault.set(func(v *vaultServer) { v.before = func() error { return errKilled } })
	var requests []int
	for range 8 {
		_ = f.reconcile(t.Context())
		f.clock.SetTime(f.clock.Now().Add(settle))
		requests = append(requests, f.vault.requestCount())
	}
	if want := []int{1, 2, 2, 3, 3, 3, 3, 4}; !slices.Equal(requests, want) {
		t.Errorf("Vault was asked %v times, want %v", requests, want)
	}
}

// Of a response without the keys that were asked for nothing is kept.
func TestOtherKeysThanRequested(t *testing.T) {
	for name, keys := range map[string][]string{
		"fewer":     {"MARKER-1", "MARKER-2"},
		"more":      {"MARKER-1", "MARKER-2", "MARKER-3", "MARKER-4"},
		"too large": {"MARKER-1", "MARKER-2", strings.Repeat("x", maxKeys)},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
			f.vault.set(func(v *vaultServer) { v.response = map[string]any{"keys_base64": keys, "root_token": rootToken} })
			if err := f.reconcile(t.Context()); err == nil || strings.Contains(err.Error(), "MARKER") {
				t.Errorf("error %v", err)
			}
			f.expect(v1alpha1.ReasonInitializing, v1alpha1.PhaseRequested, 1)
			f.settle()
			f.expect(v1alpha1.ReasonKeysLost, v1alpha1.PhaseKeysLost, 1)
			f.stored()
		})
	}
}

// Of two processes one asks.
func TestTwoProcesses(t *testing.T) {
	f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
	// While the second one is about to write its attempt down, the first one does all of it.
	first := f.Reconciler
	f.restart()
	second := f.Reconciler
	f.apply = func() error {
		f.apply = nil
		_, err := first.Reconcile(t.Context(), reconcile.Request{NamespacedName: key})
		return err
	}
	f.engine.Confirm(t.Context(), key, "pod-uid")
	if _, err := second.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
	f.stored("example-vault-keys")
	f.settle()
	f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 1)
}

// A Vault with data is never initialized, and neither is one whose data is gone.
func TestVaultFromBefore(t *testing.T) {
	f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
	f.vault.node.Set(fakevault.Sealed)
	f.settle()
	f.expect(v1alpha1.ReasonInitializedBefore, v1alpha1.PhaseInitializedBefore, 0)
	f.vault.node.Set(fakevault.Uninitialized)
	f.settle()
	f.restart()
	f.settle()
	f.expect(v1alpha1.ReasonDataLost, v1alpha1.PhaseInitializedBefore, 0)
	f.stored()
}

func TestRevocationNeedsKeysThatTheOperatorCanUse(t *testing.T) {
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "example"}, Spec: v1alpha1.VaultSpec{
		Version:        "1.21.0",
		Initialization: &v1alpha1.InitializationPolicy{RootToken: v1alpha1.RevokeRootToken, AllowPlaintext: true},
		Unseal:         &v1alpha1.UnsealPolicy{KeysSecretName: "example-vault-keys"},
	}}
	if err := checkRevocation(vault, &vaultclient.SealStatus{}); err != nil {
		t.Error(err)
	}
	vault.Spec.Initialization.PGPKeysConfigMapName = "keepers"
	if err := checkRevocation(vault, &vaultclient.SealStatus{}); err == nil {
		t.Error("the keys have to be decrypted first")
	}
	if err := checkRevocation(vault, &vaultclient.SealStatus{RecoverySeal: true}); err != nil {
		t.Error(err)
	}
}

func TestNotBegun(t *testing.T) {
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example-vault-keys"}}
	revoke := v1alpha1.InitializationPolicy{Shares: 3, Threshold: 2, RootToken: v1alpha1.RevokeRootToken,
		AllowPlaintext: true}
	encrypted := v1alpha1.InitializationPolicy{Shares: 3, Threshold: 2, RootToken: v1alpha1.EncryptRootToken,
		PGPKeysConfigMapName: "keepers", RootTokenPGPKey: "ann.asc"}
	for name, tt := range map[string]struct {
		policy  v1alpha1.InitializationPolicy
		objects []client.Object
		change  func(*fixture, *v1alpha1.Vault)
		reason  string
	}{
		"a Secret of its name": {policy: plainPolicy(v1alpha1.StoreRootToken), objects: []client.Object{other},
			reason: v1alpha1.ReasonSecretExists},
		"no public keys":           {policy: encrypted, reason: v1alpha1.ReasonPGPKeysNotFound},
		"a token without way back": {policy: revoke, reason: v1alpha1.ReasonRevocationRefused},
		"a token until keys are copied": {policy: revoke, reason: v1alpha1.ReasonRevocationRefused,
			change: func(_ *fixture, vault *v1alpha1.Vault) {
				vault.Spec.Unseal = &v1alpha1.UnsealPolicy{KeysSecretName: "other"}
			}},
		"a version without way back": {policy: revoke, reason: v1alpha1.ReasonRevocationRefused,
			change: func(f *fixture, vault *v1alpha1.Vault) {
				f.vault.set(func(v *vaultServer) { v.recovery = true })
				vault.Spec.Version = "2.0.4"
			}},
		"it had data": {policy: plainPolicy(v1alpha1.StoreRootToken), reason: v1alpha1.ReasonDataLost,
			change: func(_ *fixture, vault *v1alpha1.Vault) { vault.Status.DataVersion = "1.21.0" }},
		"the storage is not ready": {policy: plainPolicy(v1alpha1.StoreRootToken), reason: v1alpha1.ReasonNotObserved,
			change: func(_ *fixture, vault *v1alpha1.Vault) { vault.Status.Conditions = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.policy, tt.objects...)
			if tt.change != nil {
				vault := f.get()
				tt.change(f, vault)
				status := vault.Status
				if err := f.api.Update(t.Context(), vault); err != nil {
					t.Fatal(err)
				}
				vault.Status = status
				if err := f.api.Status().Update(t.Context(), vault); err != nil {
					t.Fatal(err)
				}
			}
			f.settle()
			f.expect(tt.reason, "", 0)
			f.stored()
		})
	}
}

// What Vault refuses is told, and tried again after a while, and when the spec has changed.
func TestRefused(t *testing.T) {
	f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
	f.vault.set(func(v *vaultServer) { v.refuse = "a reason: " })
	for range 3 {
		if err := f.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.expect(v1alpha1.ReasonInitializationRefused, "", 1)
	again, err := f.Reconcile(t.Context(), reconcile.Request{NamespacedName: key})
	if err != nil || again.RequeueAfter != tryAgain {
		t.Errorf("tries again after %s, want %s: %v", again.RequeueAfter, tryAgain, err)
	}
	f.clock.SetTime(f.clock.Now().Add(tryAgain))
	if err := f.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	condition := f.expect(v1alpha1.ReasonInitializationRefused, "", 2)
	if !strings.Contains(condition.Message, "a reason") {
		t.Errorf("the condition is %+v", condition)
	}
	f.vault.set(func(v *vaultServer) { v.refuse = "" })
	vault := f.get()
	vault.Generation = 2
	if err := f.api.Update(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	f.settle()
	f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseInitialized, 3)
	f.stored("example-vault-keys")
}

// That Vault has refused is told also when somebody else has changed the Vault at that moment.
func TestRefusedAtAConflict(t *testing.T) {
	f := newFixture(t, plainPolicy(v1alpha1.StoreRootToken))
	f.vault.set(func(v *vaultServer) { v.refuse = "a reason: " })
	writes := 0
	f.apply = func() error {
		if writes++; writes == 2 { // the first one is of the attempt
			return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("vaults").GroupResource(), key.Name,
				errors.New("another version"))
		}
		return nil
	}
	for range 3 {
		if err := f.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if writes < 3 {
		t.Fatalf("%d writes", writes)
	}
	condition := f.expect(v1alpha1.ReasonInitializationRefused, "", 1)
	if !strings.Contains(condition.Message, "a reason") {
		t.Errorf("the condition is %+v", condition)
	}
}

// Public keys that have not changed are not checked again at once, since that costs CPU. They may expire.
func TestPublicKeysAreCheckedOnce(t *testing.T) {
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"},
		Spec: v1alpha1.VaultSpec{Initialization: &v1alpha1.InitializationPolicy{PGPKeysConfigMapName: "holders"}}}
	wrong := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "holders"}}
	f := newFixture(t, *vault.Spec.Initialization, wrong)
	m := &memory{}
	if err := f.checkHolders(t.Context(), vault, m); problem.In(err) == nil {
		t.Fatalf("without a public key: %v", err)
	}
	checked := m.holders.when
	f.clock.SetTime(f.clock.Now().Add(time.Second))
	if err := f.checkHolders(t.Context(), vault, m); problem.In(err) == nil || !m.holders.when.Equal(checked) {
		t.Errorf("the same again: %v, checked at %s", err, m.holders.when)
	}
	f.clock.SetTime(f.clock.Now().Add(tryAgain))
	if err := f.checkHolders(t.Context(), vault, m); problem.In(err) == nil || m.holders.when.Equal(checked) {
		t.Errorf("the same after a while: %v, checked at %s", err, m.holders.when)
	}
}

// valid tells whether the root token is. The Vault responds beside the test.
func valid(f *fixture) bool {
	f.vault.mu.Lock()
	defer f.vault.mu.Unlock()
	return f.vault.valid
}

func TestRevoke(t *testing.T) {
	newRevoking := func(t *testing.T) *fixture {
		f := newFixture(t, plainPolicy(v1alpha1.RevokeRootToken))
		f.vault.set(func(v *vaultServer) { v.recovery = true })
		return f
	}
	withoutToken := func(t *testing.T, f *fixture) {
		t.Helper()
		var secret corev1.Secret
		if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "example-vault-keys"},
			&secret); err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("%s", secret.Data); strings.Contains(text, rootToken) {
			t.Error("the root token is stored")
		}
		if len(secret.Data["recovery-key-3"]) == 0 {
			t.Errorf("the Secret holds %d keys", len(secret.Data))
		}
	}
	t.Run("at once", func(t *testing.T) {
		f := newRevoking(t)
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseRootTokenRevoked, 1)
		withoutToken(t, f)
		if valid(f) {
			t.Error("the root token is valid")
		}
		f.restart()
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseRootTokenRevoked, 1)
	})
	t.Run("the response is lost", func(t *testing.T) {
		f := newRevoking(t)
		f.vault.set(func(v *vaultServer) { v.loseRevocation = true })
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseRootTokenRevoked, 1)
	})
	t.Run("when a node is active", func(t *testing.T) {
		f := newRevoking(t)
		f.vault.set(func(v *vaultServer) { v.after = func() error { f.vault.node.Set(fakevault.Sealed); return nil } })
		f.settle()
		f.expect(v1alpha1.ReasonRevokingRootToken, v1alpha1.PhaseInitialized, 1)
		withoutToken(t, f)
		f.vault.node.Set(fakevault.Active)
		f.settle()
		f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseRootTokenRevoked, 1)
	})
	t.Run("spec.initialization is removed before", func(t *testing.T) {
		f := newRevoking(t)
		f.vault.set(func(v *vaultServer) { v.after = func() error { f.vault.node.Set(fakevault.Sealed); return nil } })
		f.settle()
		vault := f.get()
		vault.Spec.Initialization = nil
		if err := f.api.Update(t.Context(), vault); err != nil {
			t.Fatal(err)
		}
		f.settle()
		f.vault.node.Set(fakevault.Active)
		f.settle()
		status := f.get().Status
		if valid(f) || status.Initialization.Phase != v1alpha1.PhaseRootTokenRevoked ||
			meta.FindStatusCondition(status.Conditions, v1alpha1.InitializationSucceededCondition) != nil {
			t.Errorf("the root token is valid: %v, the status %+v", valid(f), status)
		}
	})
	t.Run("the operator ends before", func(t *testing.T) {
		f := newRevoking(t)
		f.vault.set(func(v *vaultServer) { v.after = func() error { f.vault.node.Set(fakevault.Sealed); return nil } })
		f.settle()
		f.restart()
		f.vault.node.Set(fakevault.Active)
		f.settle()
		f.expect(v1alpha1.ReasonRootTokenNotRevoked, v1alpha1.PhaseInitialized, 1)
	})
}

// The root token authorizes the operator before it is revoked, and is revoked whatever comes
// of that.
func TestRevokeAuthorizesFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		requested bool
		err       error
		calls     int
	}{
		"the spec asks for it":         {requested: true, calls: 1},
		"it does not":                  {},
		"Vault refuses it":             {requested: true, err: &vaultclient.Error{Status: http.StatusForbidden}, calls: 1},
		"the API server tells no keys": {requested: true, err: errors.New("no keys"), calls: 1 + authorizeTries},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, plainPolicy(v1alpha1.RevokeRootToken))
			f.vault.set(func(v *vaultServer) { v.recovery = true })
			if tt.requested {
				vault := f.get()
				vault.Spec.OperatorLogin = &v1alpha1.OperatorLoginPolicy{Enabled: true}
				if err := f.api.Update(t.Context(), vault); err != nil {
					t.Fatal(err)
				}
			}
			calls := 0
			f.Authorize = func(_ context.Context, _ *v1alpha1.Vault, _ *vaultclient.Client, token string) error {
				f.vault.mu.Lock()
				defer f.vault.mu.Unlock()
				if calls++; token != rootToken || !f.vault.valid {
					t.Errorf("it is authorized by %q, valid: %v", token, f.vault.valid)
				}
				return tt.err
			}
			f.settle()
			f.expect(v1alpha1.ReasonKeysInPlaintext, v1alpha1.PhaseRootTokenRevoked, 1)
			if calls != tt.calls || valid(f) {
				t.Errorf("it was tried %d times, want %d; the root token is valid: %v", calls, tt.calls, valid(f))
			}
		})
	}
}

// entity makes a PGP key for a test.
func entity(t *testing.T, name string) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity(name, "", name+"@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func armored(t *testing.T, blockType string, write func(io.Writer) error) string {
	t.Helper()
	var text bytes.Buffer
	w, err := armor.Encode(&text, blockType, nil)
	if err == nil {
		err = errors.Join(write(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// publicKeyPacket is a public key with numbers of as many bits.
func publicKeyPacket(algorithm packet.PublicKeyAlgorithm, bits ...int) []byte {
	content := []byte{4, 0, 0, 0, 1, byte(algorithm)}
	for _, count := range bits {
		number := make([]byte, (count+7)/8)
		number[0], number[len(number)-1] = 1<<((count-1)%8), 1
		content = append(append(content, byte(count>>8), byte(count)), number...)
	}
	header := []byte{0xc0 | 6, 0xff, 0, byte(len(content) >> 16), byte(len(content) >> 8), byte(len(content))}
	return append(header, content...)
}

func TestHolders(t *testing.T) {
	ann, ben, cleo := entity(t, "ann"), entity(t, "ben"), entity(t, "cleo")
	var binary bytes.Buffer
	if err := ben.Serialize(&binary); err != nil {
		t.Fatal(err)
	}
	var third bytes.Buffer
	if err := cleo.Serialize(&third); err != nil {
		t.Fatal(err)
	}
	annText := armored(t, openpgp.PublicKeyType, ann.Serialize)
	cleoText := base64.StdEncoding.EncodeToString(third.Bytes())
	private := armored(t, openpgp.PrivateKeyType, func(w io.Writer) error { return ann.SerializePrivate(w, nil) })
	var unarmored bytes.Buffer
	if err := ann.SerializePrivate(&unarmored, nil); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		shares int32
		root   string
		data   map[string]string
		binary map[string][]byte
		reason string
		says   string
	}{
		"all forms": {shares: 3, root: "ann.asc", data: map[string]string{"ann.asc": annText, "cleo.b64": cleoText},
			binary: map[string][]byte{"ben.gpg": binary.Bytes()}},
		"one for the root token alone": {shares: 2, root: "ann.asc",
			data:   map[string]string{"ann.asc": annText, "cleo.b64": cleoText},
			binary: map[string][]byte{"ben.gpg": binary.Bytes()}},
		"too few": {shares: 3, data: map[string]string{"ann.asc": annText}, reason: v1alpha1.ReasonPGPKeysInvalid,
			says: "1 public keys for 3 shares"},
		"too many": {shares: 1, data: map[string]string{"ann.asc": annText, "cleo.b64": cleoText},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "2 public keys for 1 shares"},
		"no such root": {shares: 1, root: "dora.asc", data: map[string]string{"ann.asc": annText},
			reason: v1alpha1.ReasonPGPKeysNotFound, says: "dora.asc"},
		"a private key": {shares: 1, data: map[string]string{"ann.asc": private}, reason: v1alpha1.ReasonPGPKeysInvalid,
			says: "private"},
		"a private key without armor": {shares: 1, binary: map[string][]byte{"ann.gpg": unarmored.Bytes()},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "private"},
		"two in one": {shares: 1, binary: map[string][]byte{"x": slices.Concat(binary.Bytes(), third.Bytes())},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "2 public PGP keys"},
		"garbage": {shares: 1, data: map[string]string{"x": "hello"}, reason: v1alpha1.ReasonPGPKeysInvalid,
			says: "not a public PGP key"},
		"far too many, of which none is read": {shares: 1, data: map[string]string{"x": "hello", "y": "", "z": ""},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "3 public keys for 1 shares"},
		"far too large": {shares: 1, data: map[string]string{"x": annText + strings.Repeat("\n", maxPublicKey)},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "larger than 64 KiB"},
		"a DSA key": {shares: 1, binary: map[string][]byte{"x": publicKeyPacket(packet.PubKeyAlgoDSA, 2048, 256, 2048, 2048)},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "DSA"},
		"a large ElGamal key beside": {shares: 1, binary: map[string][]byte{
			"x": slices.Concat(binary.Bytes(), publicKeyPacket(packet.PubKeyAlgoElGamal, 4097, 8, 4097))},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "ElGamal key of 4097 bits"},
		"a large RSA key": {shares: 1, binary: map[string][]byte{"x": publicKeyPacket(packet.PubKeyAlgoRSA, 65000, 17)},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "RSA key of 65000 bits"},
		"many signatures": {shares: 1, binary: map[string][]byte{"x": manySignatures(t, binary.Bytes())},
			reason: v1alpha1.ReasonPGPKeysInvalid, says: "export-minimal"},
		"empty": {shares: 1, data: map[string]string{"x": ""}, reason: v1alpha1.ReasonPGPKeysInvalid,
			says: "not a public PGP key"},
	} {
		t.Run(name, func(t *testing.T) {
			token := v1alpha1.RevokeRootToken
			if tt.root != "" {
				token = v1alpha1.EncryptRootToken
			}
			f := newFixture(t, v1alpha1.InitializationPolicy{
				Shares: tt.shares, Threshold: 1, RootToken: token, PGPKeysConfigMapName: "keepers", RootTokenPGPKey: tt.root,
			}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keepers"}, Data: tt.data,
				BinaryData: tt.binary})
			f.settle()
			if tt.reason != "" {
				condition := f.expect(tt.reason, "", 0)
				if !strings.Contains(condition.Message, tt.says) {
					t.Errorf("the condition is %+v", condition)
				}
				return
			}
			condition := f.expect(v1alpha1.ReasonKeysStored, v1alpha1.PhaseInitialized, 1)
			if !strings.Contains(condition.Message, "Nobody else can read them") {
				t.Errorf("the condition is %+v", condition)
			}
			request := f.vault.requests[0]
			if keys := request["pgp_keys"].([]any); len(keys) != int(tt.shares) || request["root_token_pgp_key"] == nil {
				t.Errorf("asked for %v", request)
			}
			var secret corev1.Secret
			if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "example-vault-keys"},
				&secret); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("root-token %X ann.asc\n", ann.PrimaryKey.Fingerprint)
			if got := string(secret.Data[v1alpha1.PGPKeysKey]); strings.Count(got, "\n") != int(tt.shares)+1 ||
				!strings.HasSuffix(got, want) {
				t.Errorf("the holders are\n%s", got)
			}
		})
	}
}

// With storage of their own nodes have no data only when all of them say so: one may have
// lost its volume while the others do not answer yet.
func TestNodesWithStorageOfTheirOwn(t *testing.T) {
	f := &facts{vault: &v1alpha1.Vault{Spec: v1alpha1.VaultSpec{Nodes: new(int32(3))}}}
	var all []corev1.Pod
	observations := map[types.UID]probe.Observation{}
	for _, uid := range []types.UID{"a", "b", "c"} {
		if f.allUninitialized(all, observations) {
			t.Errorf("%d of 3 nodes are enough", len(all))
		}
		all = append(all, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{UID: uid},
			Status: corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{
				Name: v1alpha1.VaultContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}}},
		})
		observations[uid] = probe.Observation{State: probe.Uninitialized}
	}
	if !f.allUninitialized(all, observations) {
		t.Error("all nodes are not enough")
	}
	// While fewer are wanted all that may run count.
	f.vault.Spec.Nodes, f.vault.Spec.Storage.Raft = new(int32(1)), &v1alpha1.RaftStorage{}
	f.vault.Status.Raft = &v1alpha1.RaftStatus{Nodes: 3}
	if f.allUninitialized(all[:1], observations) {
		t.Error("one of 3 nodes is enough, because one is wanted")
	}
	observations["b"] = probe.Observation{State: probe.Unreachable}
	if f.allUninitialized(all, observations) {
		t.Error("one that does not answer is taken for one without data")
	}
}

// manySignatures repeats the last signature of a key.
func manySignatures(t *testing.T, key []byte) []byte {
	t.Helper()
	var last *packet.Signature
	for packets := packet.NewReader(bytes.NewReader(key)); ; {
		next, err := packets.Next()
		if err != nil {
			break
		}
		if signature, is := next.(*packet.Signature); is {
			last = signature
		}
	}
	if last == nil {
		t.Fatal("the key has no signature")
	}
	all := bytes.NewBuffer(bytes.Clone(key))
	for range maxSignatures {
		if err := last.Serialize(all); err != nil {
			t.Fatal(err)
		}
	}
	return all.Bytes()
}
