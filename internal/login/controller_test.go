package login

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
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
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/authorization"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// secretToken is a token that must be nowhere but in requests to Vault.
const secretToken = "hvb.MARKER"

// issuer is an API server that signs tokens with the last of its keys.
type issuer struct {
	mu    sync.Mutex
	keys  []string
	fails error
}

func (i *issuer) Subject(context.Context) (string, error) {
	return "system:serviceaccount:operators:manager", nil
}

func (i *issuer) Token(_ context.Context, _, audience string) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return audience + " signed by " + i.keys[len(i.keys)-1], i.fails
}

func (i *issuer) PublicKeys(context.Context) ([]string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.keys), nil
}

func (i *issuer) rotate(keys ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// vault is what a fake node knows of the operator.
type vault struct {
	node *fakevault.Node

	mu sync.Mutex
	// mounted and policy are what an administrator has granted.
	mounted, policy bool
	config          map[string]any
	valid           bool
	requests        []string
	down            bool
	// unreadable says that it cannot read its configuration of the auth method.
	unreadable bool
	// lifetime is what it says of tokens in seconds, if it is not 300.
	lifetime int64
}

func (v *vault) authorize(keys ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mounted, v.policy = true, true
	v.config = map[string]any{authorization.KeysField: keys, "bound_issuer": "https://kubernetes.default.svc"}
}

// took returns the requests so far, and forgets them.
func (v *vault) took() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	requests := v.requests
	v.requests = nil
	return requests
}

func (v *vault) handle(w http.ResponseWriter, r *http.Request) bool {
	if strings.HasPrefix(r.URL.Path, "/v1/sys/seal-") {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.requests = append(v.requests, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/"))
	w.Header().Set("Content-Type", "application/json")
	reply := func(value any) { _ = json.NewEncoder(w).Encode(value) }
	refuse := func(code int, reason string) {
		w.WriteHeader(code)
		reply(map[string]any{"errors": []string{reason}})
	}
	var body map[string]any
	if r.Method == http.MethodPut {
		_ = json.NewDecoder(r.Body).Decode(&body) // a step-down has none
	}
	if v.down || v.unreadable && strings.HasSuffix(r.URL.Path, authorization.ConfigPath) {
		refuse(http.StatusInternalServerError, "the storage does not respond")
		return true
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	switch token := r.Header.Get("X-Vault-Token"); {
	case path == "auth/vault-operator/login" && !v.mounted:
		refuse(http.StatusForbidden, "permission denied")
	case path == "auth/vault-operator/login":
		jwt, _ := body["jwt"].(string)
		audience, key, _ := strings.Cut(jwt, " signed by ")
		keys, _ := v.config[authorization.KeysField].([]any)
		if audience != "vault-operator/default/example" || !slices.Contains(keys, any(key)) {
			refuse(http.StatusBadRequest, "error validating token: invalid signature")
			return true
		}
		v.valid = true
		reply(map[string]any{"auth": map[string]any{"client_token": secretToken, "lease_duration": cmp.Or(v.lifetime, 300)}})
	case token != secretToken || !v.valid || !v.policy:
		refuse(http.StatusForbidden, "permission denied")
	case path == "sys/capabilities-self":
		reply(map[string]any{"data": map[string]any{
			"capabilities": []string{"deny"}, "sys/step-down": []string{"sudo", "update"},
			authorization.ConfigPath: []string{"read", "update"},
		}})
	case path == authorization.ConfigPath && r.Method == http.MethodGet:
		reply(map[string]any{"data": v.config})
	case path == authorization.ConfigPath:
		v.config = body
		w.WriteHeader(http.StatusNoContent)
	case path == "sys/step-down":
		v.node.Set(fakevault.Standby)
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(http.StatusNotFound, "no such path")
	}
	return true
}

type fixture struct {
	*Reconciler
	t        *testing.T
	api      client.Client
	issuer   *issuer
	vault    *vault
	clock    *testclock.FakePassiveClock
	recorder *record.FakeRecorder
	ca       fakevault.CA
	targets  []probe.Target
}

var key = types.NamespacedName{Namespace: "default", Name: "example"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		t: t, ca: fakevault.NewCA(t), clock: testclock.NewFakePassiveClock(time.Now()), issuer: &issuer{keys: []string{"a"}},
		recorder: record.NewFakeRecorder(100),
	}
	object := &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 1},
		Spec:       v1alpha1.VaultSpec{OperatorLogin: &v1alpha1.OperatorLoginPolicy{Enabled: true}},
	}
	f.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Vault{}).WithObjects(object).Build()
	engine := probe.NewEngine()
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		_ = engine.Start(ended) // stops all probes
	})
	f.Reconciler = &Reconciler{Client: f.api, Issuer: f.issuer, Engine: engine, Recorder: f.recorder, Clock: f.clock}
	f.vault = &vault{node: f.start("x", "old", fakevault.Active)}
	f.vault.node.Handle(f.vault.handle)
	return f
}

// start starts a node in a pod of a template.
func (f *fixture) start(name, hash string, state fakevault.State) *fakevault.Node {
	f.t.Helper()
	node := fakevault.Start(f.t, f.ca.Certificate(f.t, "example.default.svc"), state)
	labels := (&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "example"}}).PodLabels()
	labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: labels},
		Status: corev1.PodStatus{
			PodIP:      node.IP,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: v1alpha1.VaultContainer, ContainerID: name,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
	if err := f.api.Create(f.t.Context(), pod); err != nil {
		f.t.Fatal(err)
	}
	f.targets = append(f.targets, probe.Target{
		UID: pod.UID, Address: node.Address, ServerName: "example.default.svc", CA: f.ca.PEM, Container: pods.Container(pod),
	})
	f.Engine.SetTargets(key, f.targets, false)
	poll.Eventually(f.t, "the node is probed", 10*time.Second, 20*time.Millisecond, func() error {
		if f.Engine.Observations(key)[pod.UID].State == probe.Unknown {
			return errors.New("not yet")
		}
		return nil
	})
	return node
}

// pass lets time pass, and reconciles.
func (f *fixture) pass(after time.Duration) (reconcile.Result, error) {
	f.t.Helper()
	f.clock.SetTime(f.clock.Now().Add(after))
	return f.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: key})
}

// expect lets time pass, and asserts what the condition says then.
func (f *fixture) expect(after time.Duration, reason string, texts ...string) reconcile.Result {
	f.t.Helper()
	result, err := f.pass(after)
	if err != nil {
		f.t.Fatal(err)
	}
	condition := meta.FindStatusCondition(f.object().Status.Conditions, v1alpha1.AuthorizedCondition)
	if condition == nil || condition.Reason != reason {
		f.t.Fatalf("the condition is %+v, want %s", condition, reason)
	}
	for _, text := range texts {
		if !strings.Contains(condition.Message, text) {
			f.t.Errorf("message %q does not contain %q", condition.Message, text)
		}
	}
	if encoded, _ := json.Marshal(f.object()); strings.Contains(string(encoded), "MARKER") {
		f.t.Errorf("the token is in %s", encoded)
	}
	return result
}

func (f *fixture) object() *v1alpha1.Vault {
	f.t.Helper()
	var object v1alpha1.Vault
	if err := f.api.Get(f.t.Context(), key, &object); err != nil {
		f.t.Fatal(err)
	}
	return &object
}

func TestAuthorized(t *testing.T) {
	f := newFixture(t)
	f.expect(0, v1alpha1.ReasonNotAuthorized, "kubectl vault authorize example")
	status := f.object().Status.OperatorLogin
	if status == nil || status.Audience != "vault-operator/default/example" ||
		!slices.Equal(status.PublicKeys, []string{"a"}) ||
		status.Subject != "system:serviceaccount:operators:manager" {
		t.Errorf("status is %+v", status)
	}
	f.vault.authorize("a")
	f.expect(time.Minute-time.Second, v1alpha1.ReasonNotAuthorized) // not tried again yet
	if result := f.expect(time.Second, v1alpha1.ReasonAuthorized); result.RequeueAfter != keysEvery {
		t.Errorf("it looks again after %s", result.RequeueAfter)
	}
	f.vault.took()
	// In the lifetime of a token a Vault is left alone.
	for range 3 {
		f.expect(time.Minute, v1alpha1.ReasonAuthorized)
	}
	if took := f.vault.took(); len(took) > 0 {
		t.Errorf("Vault got %q", took)
	}
	f.expect(20*time.Second, v1alpha1.ReasonAuthorized)
	want := []string{"PUT auth/vault-operator/login", "PUT sys/capabilities-self", "GET auth/vault-operator/config"}
	if took := f.vault.took(); !slices.Equal(took, want) {
		t.Errorf("renewing made the requests %q, want %q", took, want)
	}
	// Taken back.
	f.vault.mu.Lock()
	f.vault.mounted, f.vault.policy = false, false
	f.vault.mu.Unlock()
	f.expect(4*time.Minute, v1alpha1.ReasonNotAuthorized)
}

// Vault records each login that is refused.
func TestRefusedLoginsAreFew(t *testing.T) {
	f := newFixture(t)
	for range 60 {
		f.expect(time.Minute, v1alpha1.ReasonNotAuthorized)
	}
	if took := len(f.vault.took()); took < 15 || took > 21 {
		t.Errorf("in an hour Vault got %d requests", took)
	}
	f.expect(0, v1alpha1.ReasonNotAuthorized)
	f.vault.took()
	object := f.object()
	object.Generation++
	if err := f.api.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	f.expect(time.Second, v1alpha1.ReasonNotAuthorized)
	if took := len(f.vault.took()); took != 1 {
		t.Errorf("when the spec has changed Vault got %d requests", took)
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	f.vault.authorize("another")
	f.expect(0, v1alpha1.ReasonLoginRefused, "invalid signature", "kubectl vault authorize example")
	f.vault.authorize("a")
	f.vault.policy = false
	f.expect(time.Minute, v1alpha1.ReasonPolicyMissing, "update and sudo on sys/step-down", "read and update on auth/")
	f.vault.authorize("a")
	f.expect(4*time.Minute, v1alpha1.ReasonAuthorized)
	f.issuer.fails = noIdentity("no")
	f.expect(4*time.Minute, v1alpha1.ReasonNoIdentity, "no")
	f.issuer.fails = nil
	f.expect(time.Minute, v1alpha1.ReasonAuthorized)
	// What passes by itself changes no condition.
	f.vault.down = true
	if _, err := f.pass(4 * time.Minute); err == nil {
		t.Error("no error while Vault does not respond")
	}
	f.vault.down = false
	f.expect(time.Minute, v1alpha1.ReasonAuthorized)
	f.expect(4*time.Minute, v1alpha1.ReasonAuthorized)
	f.vault.node.Set(fakevault.Sealed)
	poll.Eventually(t, "the node is known to be sealed", 10*time.Second, 50*time.Millisecond, func() error {
		if f.Engine.Observations(key)["x"].State != probe.Sealed {
			return errors.New("not yet")
		}
		return nil
	})
	f.vault.took()
	// What was known stays for as long as the token is valid.
	if result := f.expect(5*time.Minute-time.Second, v1alpha1.ReasonAuthorized); result.RequeueAfter != time.Second {
		t.Errorf("it looks again after %s", result.RequeueAfter)
	}
	f.expect(time.Second, v1alpha1.ReasonNotObserved, "No node is active")
	if took := f.vault.took(); len(took) > 0 {
		t.Errorf("a sealed node got %q", took)
	}
}

// However short tokens are valid, and whatever else a node responds, there is a login a minute.
func TestLoginsAreFewWhateverANodeResponds(t *testing.T) {
	for what, change := range map[string]func(*vault){
		"short tokens":           func(v *vault) { v.lifetime = 60 },
		"tokens of a second":     func(v *vault) { v.lifetime = 1 },
		"tokens of a century":    func(v *vault) { v.lifetime = 1 << 40 },
		"errors":                 func(v *vault) { v.down = true },
		"no rights, each time":   func(v *vault) { v.policy = false },
		"no such login any more": func(v *vault) { v.mounted = false },
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			f.vault.authorize("a")
			change(f.vault)
			for range 10 * 60 {
				_, _ = f.pass(time.Second)
			}
			logins := 0
			for _, request := range f.vault.took() {
				if request == "PUT auth/vault-operator/login" {
					logins++
				}
			}
			if logins == 0 || logins > 10 {
				t.Errorf("%d logins in ten minutes", logins)
			}
		})
	}
}

// A Vault where no login comes to an end is not said to be authorized.
func TestNoLoginIsNoAuthorization(t *testing.T) {
	f := newFixture(t)
	f.vault.authorize("a")
	f.vault.lifetime = 1
	if _, err := f.pass(0); err == nil {
		t.Error("no error for a token of a second")
	}
	f.expect(time.Second, v1alpha1.ReasonNotObserved, "it tries again")
	f.vault.lifetime = 0
	f.expect(time.Minute, v1alpha1.ReasonAuthorized)
}

// What a node responds does not fill the memory of the operator.
func TestLargeResponses(t *testing.T) {
	long := strings.Repeat("x", maxValue+1)
	for what, c := range map[string]*config{
		"many keys":        {Keys: make([]string, maxValues+1)},
		"a long key":       {Keys: []string{"a", long}},
		"a long issuer":    {Issuer: long},
		"many algorithms":  {Algorithms: make([]string, maxValues+1)},
		"a long algorithm": {Algorithms: []string{long}},
	} {
		if c.bounded() {
			t.Errorf("%s: taken", what)
		}
	}
	if c := (&config{Keys: []string{"a"}, Issuer: "b", Algorithms: []string{"RS256"}}); !c.bounded() {
		t.Error("an ordinary configuration is refused")
	}
	f := newFixture(t)
	f.vault.authorize("a", long)
	if _, err := f.pass(0); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("error %v", err)
	}
	if s := f.sessions[key]; s.config != nil {
		t.Error("the configuration is kept")
	}
	err := &vaultclient.Error{Status: http.StatusBadRequest, Reasons: []string{long}}
	reason, text := refusalOf(err, f.object())
	s := &session{}
	s.refuse(reason, text, time.Now())
	if len(s.refusal.Message) > message.Max || !strings.Contains(s.refusal.Message, "kubectl vault authorize example") {
		t.Errorf("%d bytes are kept: %s", len(s.refusal.Message), s.refusal.Message)
	}
}

func TestKeysAreFollowed(t *testing.T) {
	f := newFixture(t)
	f.vault.authorize("a")
	f.expect(0, v1alpha1.ReasonAuthorized)
	// A token of the new key is refused before Vault has it, so it gets it by the last one.
	f.issuer.rotate("a", "b")
	f.expect(time.Minute, v1alpha1.ReasonAuthorized)
	f.vault.mu.Lock()
	config := f.vault.config
	f.vault.mu.Unlock()
	if keys, _ := json.Marshal(config[authorization.KeysField]); string(keys) != `["a","b"]` ||
		config["bound_issuer"] != "https://kubernetes.default.svc" {
		t.Errorf("the configuration is %v", config)
	}
	f.expect(3*time.Minute, v1alpha1.ReasonAuthorized)
	// In the moment of a login as well.
	f.issuer.rotate("a", "b", "c")
	f.expect(3*time.Minute+21*time.Second, v1alpha1.ReasonAuthorized)
}

// An operator that cannot keep the public keys in Vault is not said to be authorized for ever.
func TestKeysCannotBeFollowed(t *testing.T) {
	f := newFixture(t)
	f.vault.authorize("a")
	f.expect(0, v1alpha1.ReasonAuthorized)
	f.vault.mu.Lock()
	f.vault.unreadable = true
	f.vault.mu.Unlock()
	f.expect(3*time.Minute, v1alpha1.ReasonAuthorized) // what is known is good enough
	reason := func() string {
		return meta.FindStatusCondition(f.object().Status.Conditions, v1alpha1.AuthorizedCondition).Reason
	}
	for range 3 {
		if _, err := f.pass(time.Minute); err == nil {
			t.Error("no error while the configuration cannot be read")
		}
	}
	f.clock.SetTime(f.clock.Now().Add(time.Minute))
	version := f.object().ResourceVersion
	for range 10 {
		_, _ = f.pass(7 * time.Second)
	}
	if got := f.object().ResourceVersion; got != version {
		t.Errorf("the status was written from version %s to %s while nothing changed", version, got)
	}
	if got := reason(); got != v1alpha1.ReasonNotObserved {
		t.Errorf("after the token has expired the reason is %s", got)
	}
	f.vault.mu.Lock()
	f.vault.unreadable = false
	f.vault.mu.Unlock()
	f.expect(time.Minute, v1alpha1.ReasonAuthorized)
}

func TestNotRequested(t *testing.T) {
	f := newFixture(t)
	f.vault.authorize("a")
	f.expect(0, v1alpha1.ReasonAuthorized)
	object := f.object()
	object.Spec.OperatorLogin = nil
	if err := f.api.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	f.vault.took()
	if result, err := f.pass(time.Hour); err != nil || result.RequeueAfter != 0 {
		t.Errorf("result %+v, %v", result, err)
	}
	status := f.object().Status
	if meta.FindStatusCondition(status.Conditions, v1alpha1.AuthorizedCondition) != nil || status.OperatorLogin != nil {
		t.Errorf("status %+v", status)
	}
	if took := f.vault.took(); len(took) > 0 {
		t.Errorf("Vault got %q", took)
	}
}

func TestStepDown(t *testing.T) {
	f := newFixture(t)
	f.vault.authorize("a")
	deployment := rolloutOf(1, 0).workload.Object.(*appsv1.Deployment)
	deployment.Namespace, deployment.Name, deployment.UID = "default", "example", "deployment-uid"
	deployment.Annotations = map[string]string{workload.RevisionAnnotation: "2"}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "example-new", Annotations: deployment.Annotations,
		Labels: (&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "example"}}).PodLabels(),
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "Deployment", Name: "example", UID: "deployment-uid", Controller: new(true),
		}},
	}}
	set.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "new"
	if err := errors.Join(f.api.Create(t.Context(), deployment), f.api.Create(t.Context(), set)); err != nil {
		t.Fatal(err)
	}
	f.expect(0, v1alpha1.ReasonAuthorized)
	f.vault.took()
	f.start("y", "new", fakevault.Standby)
	f.expect(time.Second, v1alpha1.ReasonAuthorized)
	if took := f.vault.took(); !slices.Equal(took, []string{"PUT sys/step-down"}) {
		t.Errorf("Vault got %q", took)
	}
	select {
	case event := <-f.recorder.Events:
		for !strings.Contains(event, eventSteppedDown) {
			event = <-f.recorder.Events
		}
	case <-time.After(time.Second):
		t.Error("no event")
	}
	// If it becomes active again it is not asked again at once.
	f.vault.node.Set(fakevault.Active)
	poll.Eventually(t, "it is active again", 10*time.Second, 50*time.Millisecond, func() error {
		if f.Engine.Observations(key)["x"].State != probe.Active {
			return errors.New("not yet")
		}
		return nil
	})
	f.expect(time.Second, v1alpha1.ReasonAuthorized)
	if took := f.vault.took(); len(took) > 0 {
		t.Errorf("Vault got %q", took)
	}
}

func TestGrant(t *testing.T) {
	f := newFixture(t)
	var paths []string
	mounted := false
	f.vault.node.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Vault-Token") != "hvs.root" {
			return false
		}
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		paths = append(paths, path)
		if path == authorization.MountPath && mounted {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"errors":["path is already in use at vault-operator/"]}`))
			return true
		}
		w.WriteHeader(http.StatusNoContent)
		return true
	})
	node := vaultclient.New(f.targets[0])
	for _, mounted = range []bool{false, true} {
		paths = nil
		if err := f.Grant(t.Context(), f.object(), node, "hvs.root"); err != nil {
			t.Fatal(err)
		}
		want := []string{
			authorization.PolicyPath, authorization.MountPath, authorization.ConfigPath, authorization.RolePath,
			authorization.BackupPolicyPath, authorization.BackupRolePath,
		}
		if !slices.Equal(paths, want) {
			t.Errorf("Vault got %q, want %q", paths, want)
		}
	}
	if err := f.Grant(t.Context(), f.object(), node, "hvs.other"); vaultclient.StatusOf(err) != http.StatusNotFound {
		t.Errorf("error %v", err)
	}
}
