package rollout

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/login"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

// access is a login to a Vault with these peers.
type access struct {
	f       *fixture
	refused bool
	peers   []vaultclient.Peer
	down    []types.UID
	// fails is what requests that change something return.
	fails error
}

func (a *access) Peers(context.Context, *v1alpha1.Vault) ([]vaultclient.Peer, error) {
	if a.refused {
		return nil, login.ErrNoAccess
	}
	return a.peers, nil
}

func (a *access) RemovePeer(_ context.Context, _ *v1alpha1.Vault, id string) error {
	if a.fails != nil {
		return a.fails
	}
	for i := range a.peers {
		if a.peers[i].ID == id {
			a.peers = append(a.peers[:i:i], a.peers[i+1:]...)
			removed := types.UID(strings.TrimSuffix(id, "-id"))
			a.f.engine.observed[removed] = probe.Observation{State: probe.Sealed, Removed: true}
			return nil
		}
	}
	return nil
}

func (a *access) StepDown(_ context.Context, _ *v1alpha1.Vault, pod types.UID) error {
	a.down = append(a.down, pod)
	if a.fails != nil {
		return a.fails
	}
	a.lead("example-0")
	return nil
}

// lead makes a node the active one.
func (a *access) lead(name string) {
	for uid := range a.f.engine.observed {
		a.f.engine.observed[uid] = probe.Observation{State: probe.Standby}
	}
	a.f.engine.observed[types.UID(name)] = probe.Observation{State: probe.Active}
	for i := range a.peers {
		a.peers[i].Leader = strings.HasPrefix(a.peers[i].Address, name+".")
	}
}

// newResized has three nodes of the newest template, and a login.
func newResized(t *testing.T, changes ...func(*fixture)) (*fixture, *access) {
	f := newFixture(t, append([]func(*fixture){func(f *fixture) {
		f.set.Status.UpdateRevision = "old"
		f.vault.Status.Initialized = true
		f.vault.Spec.OperatorLogin = &v1alpha1.OperatorLoginPolicy{Enabled: true}
	}}, changes...)...)
	a := &access{f: f}
	for i := range 3 {
		a.peers = append(a.peers, vaultclient.Peer{
			ID: f.vault.NodeName(i) + "-id", Address: f.vault.NodeAddress(i), Voter: true, Leader: i == 0,
		})
	}
	f.r.Access = a
	return f, a
}

func (f *fixture) status(t *testing.T) v1alpha1.VaultStatus {
	t.Helper()
	var vault v1alpha1.Vault
	if err := f.Get(t.Context(), client.ObjectKeyFromObject(f.vault), &vault); err != nil {
		t.Fatal(err)
	}
	return vault.Status
}

// scale changes the spec.
func (f *fixture) scale(t *testing.T, nodes int32) {
	t.Helper()
	var vault v1alpha1.Vault
	if err := f.Get(t.Context(), client.ObjectKeyFromObject(f.vault), &vault); err != nil {
		t.Fatal(err)
	}
	vault.Spec.Nodes = &nodes
	if err := f.Update(t.Context(), &vault); err != nil {
		t.Fatal(err)
	}
}

// follow does what Helm and the StatefulSet controller do: they run what may run.
func (f *fixture) follow(t *testing.T) {
	t.Helper()
	running := f.status(t).Raft.Nodes
	set := f.set.DeepCopy()
	if err := f.Get(t.Context(), client.ObjectKeyFromObject(f.set), set); err != nil {
		t.Fatal(err)
	}
	for ordinal := running; ordinal < *set.Spec.Replicas; ordinal++ {
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = "default", f.vault.NodeName(int(ordinal))
		if err := client.IgnoreNotFound(f.Delete(t.Context(), pod)); err != nil {
			t.Fatal(err)
		}
	}
	set.Spec.Replicas = &running
	if err := f.Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) claims(t *testing.T) string {
	t.Helper()
	var list corev1.PersistentVolumeClaimList
	if err := f.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, strings.TrimPrefix(list.Items[i].Name, "data-example-"))
	}
	return strings.Join(names, " ")
}

func (f *fixture) resized(t *testing.T) string {
	t.Helper()
	if c := meta.FindStatusCondition(f.status(t).Conditions, v1alpha1.ResizedCondition); c != nil {
		return c.Reason
	}
	return ""
}

// A process that ends after any step is replaced by one that knows nothing and goes on.
func TestNodesAreTakenAway(t *testing.T) {
	f, a := newResized(t)
	a.lead("example-2")
	f.reconcile(t)
	if got := strings.Join(f.status(t).Raft.Voters, " "); got != "example-0 example-1 example-2" || f.resized(t) != "" {
		t.Fatalf("voters %q, condition %q", got, f.resized(t))
	}
	f.scale(t, 1)
	for range 20 {
		before := len(a.peers)
		f.r.views, f.r.stepDowns = nil, nil
		f.reconcile(t)
		f.follow(t)
		if pods := len(strings.Fields(f.reconcilePods(t))); before > pods && before-pods > 1 || len(a.peers) > pods {
			t.Fatalf("%d peers, and %d pods", len(a.peers), pods)
		}
	}
	if pods := f.reconcilePods(t); pods != "0" || f.claims(t) != "0" || len(a.peers) != 1 || len(a.down) != 1 {
		t.Errorf("pods %q, claims %q, peers %+v, stepped down %q", pods, f.claims(t), a.peers, a.down)
	}
	if f.resized(t) != v1alpha1.ReasonResized {
		t.Errorf("the condition is %q", f.resized(t))
	}
	f.scale(t, 3)
	f.reconcile(t)
	if got := f.status(t).Raft.Nodes; got != 3 {
		t.Errorf("%d nodes may run", got)
	}
}

// reconcilePods are the pods that there are.
func (f *fixture) reconcilePods(t *testing.T) string {
	t.Helper()
	var list corev1.PodList
	if err := f.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, strings.TrimPrefix(list.Items[i].Name, "example-"))
	}
	return strings.Join(names, " ")
}

func TestNodesAreNotTakenAwayWithoutAuthorization(t *testing.T) {
	f, a := newResized(t)
	a.refused = true
	f.reconcile(t)
	f.scale(t, 1)
	var vault v1alpha1.Vault
	if err := f.Get(t.Context(), client.ObjectKeyFromObject(f.vault), &vault); err != nil {
		t.Fatal(err)
	}
	vault.Spec.OperatorLogin = nil
	if err := f.Update(t.Context(), &vault); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.clock.SetTime(f.clock.Now().Add(check))
		f.reconcile(t)
	}
	if f.status(t).Raft.Nodes != 3 || f.resized(t) != v1alpha1.ReasonRemovalRefused {
		t.Errorf("%d nodes may run, condition %s", f.status(t).Raft.Nodes, f.resized(t))
	}
	f.engine.observed["example-2"] = probe.Observation{State: probe.Sealed, Removed: true}
	f.clock.SetTime(f.clock.Now().Add(check))
	f.reconcile(t)
	if f.status(t).Raft.Nodes != 2 {
		t.Error("somebody has removed the node, and the operator does not go on")
	}
}

func TestARemovedNodeIsReplaced(t *testing.T) {
	f, a := newResized(t)
	a.refused = true
	f.engine.observed["example-1"] = probe.Observation{State: probe.Sealed, Removed: true}
	if got := f.reconcile(t); got != "0 2" || f.claims(t) != "0 2" {
		t.Errorf("pods %s and claims %s are left", got, f.claims(t))
	}
}

func TestAGhostIsReplacedWhenItStays(t *testing.T) {
	f, a := newResized(t)
	a.peers = a.peers[:2]
	if got := f.reconcile(t); got != "0 1 2" {
		t.Fatalf("pods %s are left", got)
	}
	f.clock.SetTime(f.clock.Now().Add(ghostTime))
	if got := f.reconcile(t); got != "0 1" || f.claims(t) != "0 1" {
		t.Errorf("pods %s and claims %s are left", got, f.claims(t))
	}
}

// In a rollout the active node steps down before its pod is deleted.
func TestTheActiveNodeStepsDown(t *testing.T) {
	f, a := newResized(t, func(f *fixture) { f.set.Status.UpdateRevision = "new" })
	a.lead("example-1")
	for _, ordinal := range []int{2, 0} {
		f.reconcile(t)
		f.recreate(t, ordinal, probe.Standby)
	}
	if got := f.reconcile(t); got != "0 1 2" || len(a.down) != 1 {
		t.Fatalf("pods %s are left, stepped down %q", got, a.down)
	}
	if got := f.reconcile(t); got != "0 2" {
		t.Errorf("pods %s are left", got)
	}
}

// A node that has joined anew counts when the active node says that it votes, and not before.
func TestARolloutTrustsThePeers(t *testing.T) {
	f, a := newResized(t, func(f *fixture) { f.set.Status.UpdateRevision = "new" })
	f.reconcile(t)
	f.recreate(t, 2, probe.Standby)
	f.clock.SetTime(f.clock.Now().Add(10 * joinTime))
	a.peers[2].Voter = false
	if got := f.reconcile(t); got != "0 1 2" {
		t.Fatalf("pods %s are left, and node 2 does not vote", got)
	}
	if why := f.r.Waits.Of(client.ObjectKeyFromObject(f.vault)); !strings.Contains(why, "example-2") {
		t.Errorf("it waits for %q", why)
	}
	a.peers[2].Voter = true
	if got := f.reconcile(t); got != "0 2" || f.r.Waits.Of(client.ObjectKeyFromObject(f.vault)) != "" {
		t.Errorf("pods %s are left", got)
	}
}

// Dead voters count.
func TestARolloutCountsVoters(t *testing.T) {
	f, a := newResized(t, func(f *fixture) { f.set.Status.UpdateRevision = "new" })
	for i := range 2 {
		a.peers = append(a.peers, vaultclient.Peer{ID: "gone", Address: f.vault.NodeAddress(3 + i), Voter: true})
	}
	f.engine.raft["example-2"] = probe.Raft{Committed: 100, Applied: 99}
	if got := f.reconcile(t); got != "0 1 2" {
		t.Errorf("pods %s are left, of five voters", got)
	}
}

// left is a marked claim of a node that was removed, and that something keeps.
func left(t *testing.T, f *fixture) *corev1.PersistentVolumeClaim {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{}
	claim.Namespace, claim.Name, claim.Labels = "default", "data-example-3", f.vault.PodLabels()
	claim.UID, claim.Finalizers = "claim-of-example-3", []string{"example.com/kept"}
	claim.Annotations = map[string]string{v1alpha1.RemovedNodeAnnotation: "true"}
	if err := f.Create(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	return claim
}

// A claim that stays keeps nothing else from being done, and the condition says so.
func TestAClaimThatStays(t *testing.T) {
	for name, forbidden := range map[string]bool{"it is being deleted": false, "somebody refuses it": true} {
		t.Run(name, func(t *testing.T) {
			f, _ := newResized(t, func(f *fixture) {
				f.set.Status.UpdateRevision = "new"
				f.vault.Status.Raft = &v1alpha1.RaftStatus{Nodes: 3}
			})
			claim := left(t, f)
			if forbidden {
				f.r.Client = interceptor.NewClient(f.Client.(client.WithWatch), interceptor.Funcs{Delete: func(
					ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption,
				) error {
					if object.GetName() == claim.Name {
						return apierrors.NewForbidden(schema.GroupResource{}, claim.Name, errors.New("it is mine"))
					}
					return c.Delete(ctx, object, options...)
				}})
			}
			for range 3 {
				f.reconcile(t)
			}
			if got := f.reconcilePods(t); got != "0 1" {
				t.Errorf("pods %s are left", got)
			}
			c := meta.FindStatusCondition(f.status(t).Conditions, v1alpha1.ResizedCondition)
			if want := map[bool]string{false: "it is being deleted", true: "it is mine"}[forbidden]; c == nil ||
				c.Reason != v1alpha1.ReasonResizing || !strings.Contains(c.Message, want) {
				t.Errorf("the condition is %+v", c)
			}
			told := 0
			for len(f.events.Events) > 0 {
				if strings.Contains(<-f.events.Events, eventClaimGone) {
					told++
				}
			}
			if told > 1 {
				t.Errorf("it is told %d times", told)
			}
		})
	}
}

// No node is taken away that another could not replace.
func TestNodesAreNotTakenAwayWhileTheKeyServiceFails(t *testing.T) {
	f, a := newResized(t, func(f *fixture) {
		f.vault.Spec.Seal = &v1alpha1.SealPolicy{}
		f.vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.SealReadyCondition,
			Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonKeyServiceUnavailable}}
	})
	f.scale(t, 1)
	f.reconcile(t)
	if len(a.peers) != 3 || f.status(t).Raft.Nodes != 3 {
		t.Errorf("%d peers, and %d nodes may run", len(a.peers), f.status(t).Raft.Nodes)
	}
	c := meta.FindStatusCondition(f.status(t).Conditions, v1alpha1.ResizedCondition)
	if c == nil || !strings.Contains(c.Message, "key service") {
		t.Errorf("the condition is %+v", c)
	}
}

// A node that may be a peer under another address loses nothing.
func TestAPeerOfAnotherAddressIsNoGhost(t *testing.T) {
	for name, change := range map[string]func(*access){
		"another address": func(a *access) { a.peers[2].Address = "10.0.0.9:8201" },
		"another leader":  func(a *access) { a.peers[0].Leader, a.peers = false, a.peers[:2] },
	} {
		t.Run(name, func(t *testing.T) {
			f, a := newResized(t)
			change(a)
			for range 3 {
				f.clock.SetTime(f.clock.Now().Add(ghostTime))
				if got := f.reconcile(t); got != "0 1 2" || f.claims(t) != "0 1 2" {
					t.Fatalf("pods %s and claims %s are left", got, f.claims(t))
				}
			}
		})
	}
}

// What fails is told, and not tried again at once.
func TestAStepThatFails(t *testing.T) {
	f, a := newResized(t)
	a.fails = errors.New("no answer in time")
	f.scale(t, 1)
	f.reconcile(t)
	c := meta.FindStatusCondition(f.status(t).Conditions, v1alpha1.ResizedCondition)
	if c == nil || c.Reason != v1alpha1.ReasonResizing || !strings.Contains(c.Message, "peer: no answer in time") {
		t.Errorf("the condition is %+v", c)
	}
	a.lead("example-2")
	for range 5 {
		f.clock.SetTime(f.clock.Now().Add(check))
		f.reconcile(t)
	}
	if len(a.down) != 1 {
		t.Errorf("it was asked to step down %d times in %s", len(a.down), 5*check)
	}
}
