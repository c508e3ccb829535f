package rollout

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
}

func (a *access) Peers(context.Context, *v1alpha1.Vault) ([]vaultclient.Peer, error) {
	if a.refused {
		return nil, login.ErrNoAccess
	}
	return a.peers, nil
}

func (a *access) RemovePeer(_ context.Context, _ *v1alpha1.Vault, id string) error {
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
		f.r.views, f.r.asked = nil, nil
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
