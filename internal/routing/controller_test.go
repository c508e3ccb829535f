package routing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

var podResource = schema.GroupResource{Resource: "pods"}

// fixture is a router over a fake API server that records label patches.
type fixture struct {
	*Reconciler
	api client.Client

	mu sync.Mutex
	// patches are "+name" for a pod that got the label, "-name" for one that lost it.
	patches []string
	// uids are those in the patches.
	uids []types.UID
	// fail is called before each patch, and failAfter when its effect has happened.
	fail, failAfter func(patch string) error
	// failRead is called before each read.
	failRead func(ctx context.Context, what string) error
	// secretReads counts how often the content of a Secret was read.
	secretReads int
}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{}
	f.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	recorded := interceptor.NewClient(f.api.(client.WithWatch), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch,
			opts ...client.PatchOption) error {
			text, err := f.record(t, obj, patch)
			if err != nil {
				return err
			}
			if err := c.Patch(ctx, obj, patch, opts...); err != nil {
				return err
			}
			return call(f, &f.failAfter, text)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := f.read(ctx, whatIsListed(opts)); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			if err := f.read(ctx, fmt.Sprintf("get %T %s", obj, key.Namespace)); err != nil {
				return err
			}
			if _, content := obj.(*corev1.Secret); content {
				f.mu.Lock()
				f.secretReads++
				f.mu.Unlock()
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	f.Reconciler = &Reconciler{
		Client: recorded, APIReader: recorded, Engine: probe.NewEngine(), Clock: clock.RealClock{},
	}
	f.useEngine()
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		_ = f.Engine.Start(ended) // stops all probes
	})
	return f
}

// call calls one of the fixture's functions, if it is set.
func call(f *fixture, fail *func(string) error, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *fail == nil {
		return nil
	}
	return (*fail)(text)
}

func (f *fixture) read(ctx context.Context, what string) error {
	if f.failRead == nil {
		return nil
	}
	return f.failRead(ctx, what)
}

// whatIsListed tells the live list of labelled pods from the cached one of all.
func whatIsListed(opts []client.ListOption) string {
	var options client.ListOptions
	options.ApplyOptions(opts)
	if strings.Contains(options.LabelSelector.String(), v1alpha1.ActiveLabel) {
		return "list labelled " + options.Namespace
	}
	return "list " + options.Namespace
}

func (f *fixture) record(t *testing.T, obj client.Object, patch client.Patch) (string, error) {
	data, err := patch.Data(obj)
	if err != nil {
		t.Error(err)
	}
	var content struct {
		Metadata struct {
			UID    types.UID
			Labels map[string]*string
		}
	}
	if err := json.Unmarshal(data, &content); err != nil {
		t.Error(err)
	}
	text := "-" + obj.GetName()
	if content.Metadata.Labels[v1alpha1.ActiveLabel] != nil {
		text = "+" + obj.GetName()
	}
	if err := call(f, &f.fail, text); err != nil {
		return text, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.patches = append(f.patches, text)
	f.uids = append(f.uids, content.Metadata.UID)
	return text, nil
}

func (f *fixture) patched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.patches)
}

func (f *fixture) reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secretReads
}

// labelled returns the names of the pods with the active label.
func (f *fixture) labelled(t *testing.T) []string {
	t.Helper()
	var list corev1.PodList
	if err := f.api.List(context.Background(), &list,
		client.MatchingLabels{v1alpha1.ActiveLabel: v1alpha1.ActiveLabelValue}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pod := range list.Items {
		names = append(names, pod.Name)
	}
	return names
}

// run reconciles the Vault whenever the engine asks for it, or the function that it
// returns is called, as a manager does: never twice at the same time.
func (f *fixture) run(t *testing.T, vault *v1alpha1.Vault) (enqueue func()) {
	t.Helper()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	if err := f.Engine.Source(0).Start(context.Background(), queue); err != nil {
		t.Fatal(err)
	}
	queue.Add(requestFor(vault))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			req, shutdown := queue.Get()
			if shutdown {
				return
			}
			if _, err := f.Reconcile(context.Background(), req); err != nil {
				queue.AddAfter(req, 20*time.Millisecond)
			}
			queue.Done(req)
		}
	}()
	t.Cleanup(func() { queue.ShutDown(); <-done })
	return func() { queue.Add(requestFor(vault)) }
}

func requestFor(vault *v1alpha1.Vault) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(vault)}
}

func newVault() *v1alpha1.Vault {
	return &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid"}}
}

func newPod(vault *v1alpha1.Vault, name, ip string, active bool) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: name, UID: types.UID("uid-of-" + name), Labels: vault.PodLabels(),
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: v1alpha1.VaultContainer, Started: new(true), ContainerID: "containerd://" + name,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
	if active {
		pod.Labels[v1alpha1.ActiveLabel] = v1alpha1.ActiveLabelValue
	}
	return pod
}

func newCASecret(vault *v1alpha1.Vault, pem string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: vault.ClientSecretName()},
		Data:       map[string][]byte{v1alpha1.ClientCAKey: []byte(pem)},
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll.Eventually(t, what, 20*time.Second, 5*time.Millisecond, func() error {
		if !ok() {
			return errors.New("it is not so yet")
		}
		return nil
	})
}

func TestApply(t *testing.T) {
	vault := newVault()
	notFound := apierrors.NewNotFound(podResource, "a")
	conflict := apierrors.NewConflict(podResource, "a", errors.New("the object has been modified"))
	replaced := apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "c",
		field.ErrorList{field.Invalid(field.NewPath("metadata", "uid"), "uid-of-c", "field is immutable")})
	failOn := func(patch string, err error) func(string) error {
		return func(p string) error {
			if p == patch {
				return err
			}
			return nil
		}
	}
	tests := []struct {
		name     string
		decision decision
		fail     func(patch string) error
		// now is what the node says when it is asked again; active, if not set.
		now     probe.State
		want    []string
		wantErr string
	}{
		{
			name:     "demotes before it promotes",
			decision: decision{Demote: []types.UID{"uid-of-a", "uid-of-b"}, Promote: "uid-of-c"},
			want:     []string{"-a", "-b", "+c"},
		},
		{
			name:     "an error in a demotion stops the promotion",
			decision: decision{Demote: []types.UID{"uid-of-a", "uid-of-b"}, Promote: "uid-of-c"},
			fail:     failOn("-b", errors.New("etcdserver: request timed out")),
			want:     []string{"-a"},
			wantErr:  "taking pod b out of the Service",
		},
		{
			name:     "a demoted pod that is gone does not hold up the promotion",
			decision: decision{Demote: []types.UID{"uid-of-a"}, Promote: "uid-of-c"},
			fail:     failOn("-a", notFound),
			want:     []string{"-b", "+c"},
		},
		{
			// The API server says so of a pod that others write too fast as well.
			name:     "a conflict does not prove that the label is gone",
			decision: decision{Demote: []types.UID{"uid-of-a"}, Promote: "uid-of-c"},
			fail:     failOn("-a", conflict),
			wantErr:  "taking pod a out of the Service",
		},
		{
			name:     "nor does it of a pod that another replica has labelled since",
			decision: decision{Promote: "uid-of-c"},
			fail:     failOn("-a", conflict),
			wantErr:  "putting pod c into the Service",
		},
		{
			name:     "a promoted pod that was replaced is an error, so that the facts are looked at again",
			decision: decision{Promote: "uid-of-c"},
			fail:     failOn("+c", replaced),
			want:     []string{"-a", "-b"},
			wantErr:  "putting pod c into the Service",
		},
		{
			name:     "a promoted pod that is gone is an error",
			decision: decision{Demote: []types.UID{"uid-of-a"}, Promote: "uid-of-c"},
			fail:     failOn("+c", notFound),
			want:     []string{"-a", "-b"},
			wantErr:  "putting pod c into the Service",
		},
		{
			name:     "others that another replica has labelled since lose the label first",
			decision: decision{Promote: "uid-of-c"},
			want:     []string{"-a", "-b", "+c"},
		},
		{
			name:     "a node that is not active any more is not promoted",
			decision: decision{Demote: []types.UID{"uid-of-a"}, Promote: "uid-of-c"},
			now:      probe.Standby,
			want:     []string{"-a"},
		},
		{name: "nothing to do"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := []corev1.Pod{
				*newPod(vault, "a", "10.0.0.1", true), *newPod(vault, "b", "10.0.0.2", true),
				*newPod(vault, "c", "10.0.0.3", false),
			}
			f := newFixture(t, &list[0], &list[1], &list[2])
			f.fail = tt.fail
			f.Confirm = func(context.Context, types.NamespacedName, types.UID) probe.Observation {
				return probe.Observation{State: cmp.Or(tt.now, probe.Active)}
			}
			err := f.apply(t.Context(), vault, list, nil, tt.decision)
			if (err != nil) != (tt.wantErr != "") || (err != nil && !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("apply() = %v, want an error with %q", err, tt.wantErr)
			}
			if !slices.Equal(f.patches, tt.want) {
				t.Errorf("patches %v, want %v", f.patches, tt.want)
			}
			for i, patch := range f.patches {
				if want := types.UID("uid-of-" + patch[1:]); f.uids[i] != want {
					t.Errorf("patch %s has the precondition UID %q, want %q", patch, f.uids[i], want)
				}
			}
		})
	}
}

func TestNodesOf(t *testing.T) {
	vault := newVault()
	tests := []struct {
		name     string
		change   func(*corev1.Pod)
		observed *probe.Observation
		want     vaultNode
	}{
		{name: "a running pod that was not asked", want: vaultNode{State: probe.Unknown}},
		{name: "what it said", observed: &probe.Observation{State: probe.Sealed}, want: vaultNode{State: probe.Sealed}},
		{
			name: "a container that does not run does not answer, whatever it said last",
			change: func(pod *corev1.Pod) {
				pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
			},
			observed: &probe.Observation{State: probe.Active},
			want:     vaultNode{State: probe.Unreachable, Ended: true},
		},
		{
			name:   "a pod without an address does not answer",
			change: func(pod *corev1.Pod) { pod.Status.PodIP = "" },
			want:   vaultNode{State: probe.Unreachable, Ended: true},
		},
		{
			name:   "another container does not count",
			change: func(pod *corev1.Pod) { pod.Status.ContainerStatuses[0].Name = "istio-proxy" },
			want:   vaultNode{State: probe.Unreachable, Ended: true},
		},
		{
			name:     "how it is silent, and what it said before",
			observed: &probe.Observation{State: probe.Unreachable, Silent: true, Connected: true, Last: probe.Standby},
			want:     vaultNode{State: probe.Unreachable, Silent: true, Connected: true, Standby: true},
		},
		{
			name:     "that nothing listens",
			observed: &probe.Observation{State: probe.Unreachable, Silent: true, Refused: true, Last: probe.Active},
			want:     vaultNode{State: probe.Unreachable, Silent: true, Refused: true},
		},
		{
			name:   "a labelled pod",
			change: func(pod *corev1.Pod) { pod.Labels[v1alpha1.ActiveLabel] = v1alpha1.ActiveLabelValue },
			want:   vaultNode{State: probe.Unknown, Labelled: true},
		},
		{
			name:   "only the value that the Service selects is the label",
			change: func(pod *corev1.Pod) { pod.Labels[v1alpha1.ActiveLabel] = "false" },
			want:   vaultNode{State: probe.Unknown},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := newPod(vault, "a", "10.0.0.1", false)
			if tt.change != nil {
				tt.change(pod)
			}
			observations := map[types.UID]probe.Observation{}
			if tt.observed != nil {
				observations[pod.UID] = *tt.observed
			}
			tt.want.UID = pod.UID
			if got := nodesOf([]corev1.Pod{*pod}, observations); !reflect.DeepEqual(got, []vaultNode{tt.want}) {
				t.Errorf("nodesOf() = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestTargetsOf(t *testing.T) {
	vault := newVault()
	waiting := newPod(vault, "waiting", "10.0.0.2", false)
	waiting.Status.ContainerStatuses[0].State = corev1.ContainerState{}
	v6 := newPod(vault, "v6", "fd00::3", false)
	got := targetsOf(vault, []corev1.Pod{*newPod(vault, "a", "10.0.0.1", true), *waiting, *v6},
		map[types.UID]caSet{"uid-of-a": {"PEM", "old"}, "uid-of-v6": {newest: "other PEM"}})
	want := []probe.Target{
		{
			UID: "uid-of-a", Address: "10.0.0.1:8200", ServerName: "example.default.svc", CA: "PEM", EarlierCAs: "old",
			Container: "containerd://a#0", InService: true,
		},
		{
			UID: "uid-of-v6", Address: "[fd00::3]:8200", ServerName: "example.default.svc", CA: "other PEM",
			Container: "containerd://v6#0",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("targetsOf() = %+v, want %+v", got, want)
	}
}

func TestReconcileMovesTheLabelWithTheActiveNode(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, false), newPod(vault, "b", b.IP, false))
	f.run(t, vault)
	eventually(t, "the active node has the label", func() bool { return slices.Equal(f.labelled(t), []string{"a"}) })

	a.Kill()
	eventually(t, "the dead node lost the label", func() bool { return len(f.labelled(t)) == 0 })
	b.Set(fakevault.Active)
	eventually(t, "the new active node has the label", func() bool { return slices.Equal(f.labelled(t), []string{"b"}) })

	a.Restart(fakevault.Sealed)
	eventually(t, "the node that came back is known to be sealed", func() bool {
		return f.Engine.Observations(client.ObjectKeyFromObject(vault))["uid-of-a"].State == probe.Sealed
	})
	if got, want := f.patched(), []string{"+a", "-a", "+b"}; !slices.Equal(got, want) {
		t.Errorf("patches %v, want %v", got, want)
	}
}

// A node is probed, and its seal is read, at an address of IPv6 as at any other, and it is
// told apart from one that has an address of IPv4.
func TestReconcileNodesWithAddressesOfIPv6(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	v6, v4 := fakevault.StartIPv6(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "v6", v6.IP, false),
		newPod(vault, "v4", v4.IP, false))
	f.run(t, vault)
	eventually(t, "the active node has the label", func() bool { return slices.Equal(f.labelled(t), []string{"v6"}) })
	eventually(t, "its seal is read", func() bool { return v6.SealReads() > 0 })

	v6.Kill()
	v4.Set(fakevault.Active)
	eventually(t, "the other one took over", func() bool { return slices.Equal(f.labelled(t), []string{"v4"}) })
	v6.Restart(fakevault.Sealed)
	eventually(t, "the node that came back is known to be sealed", func() bool {
		return f.Engine.Observations(client.ObjectKeyFromObject(vault))["uid-of-v6"].State == probe.Sealed
	})
}

func TestReconcileIsIdempotent(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false))
	reconcileOnce := func() reconcile.Result {
		t.Helper()
		result, err := f.Reconcile(t.Context(), requestFor(vault))
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if result := reconcileOnce(); result.RequeueAfter == 0 {
		t.Error("nobody looks again although no node was asked yet")
	}
	eventually(t, "both nodes have answered", func() bool {
		return len(f.Engine.Observations(client.ObjectKeyFromObject(vault))) == 2
	})
	for range 5 {
		if result := reconcileOnce(); result.RequeueAfter != 0 {
			t.Errorf("asks to be called again at rest: %+v", result)
		}
	}
	if got := f.patched(); len(got) != 0 {
		t.Errorf("patches %v, want none", got)
	}
	if got := f.reads(); got != 1 {
		t.Errorf("the Secret's content was read %d times, want once", got)
	}
}

func TestReconcileLeavesLabelsAloneWithoutTheCA(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Standby), fakevault.Start(t, cert, fakevault.Active)
	f := newFixture(t, vault, newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false))
	enqueue := f.run(t, vault)
	eventually(t, "both nodes are known to be unverified", func() bool {
		observations := f.Engine.Observations(client.ObjectKeyFromObject(vault))
		return observations["uid-of-a"].State == probe.Unverified && observations["uid-of-b"].State == probe.Unverified
	})
	if got := f.patched(); len(got) != 0 {
		t.Errorf("patches %v, want none", got)
	}

	// The Secret appears: its event makes a controller reconcile.
	if err := f.api.Create(t.Context(), newCASecret(vault, ca.PEM)); err != nil {
		t.Fatal(err)
	}
	enqueue()
	eventually(t, "the label is where it belongs", func() bool { return slices.Equal(f.labelled(t), []string{"b"}) })
}

func TestReconcileForgetsADeletedVault(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, vault.ServerName()), fakevault.Active)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", node.IP, true))
	// Nothing else reconciles the Vault at the same time, as in a manager.
	if _, err := f.Reconcile(t.Context(), requestFor(vault)); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(vault)
	eventually(t, "the node was asked", func() bool { return len(f.Engine.Observations(key)) == 1 })

	if err := f.api.Delete(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Reconcile(t.Context(), requestFor(vault)); err != nil {
		t.Fatal(err)
	}
	if got := f.Engine.Observations(key); len(got) != 0 {
		t.Errorf("observations %v of a Vault that is gone", got)
	}
	if entry := f.trust.entries[key]; entry != nil {
		t.Errorf("the CAs of a Vault that is gone are kept: %+v", entry)
	}
}

func TestReconcileReportsErrorsOfTheAPIServer(t *testing.T) {
	vault := newVault()
	f := newFixture(t, vault)
	f.Client = interceptor.NewClient(f.api.(client.WithWatch), interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errors.New("the API server is unavailable")
		},
	})
	if _, err := f.Reconcile(t.Context(), requestFor(vault)); err == nil {
		t.Error("the error is lost")
	}
}
