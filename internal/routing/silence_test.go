package routing

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// every reconciles the Vault every few milliseconds, as the events of pods do.
func (f *fixture) every(t *testing.T, pause time.Duration, vault *v1alpha1.Vault) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = f.Reconcile(ctx, requestFor(vault))
			time.Sleep(pause)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// sees makes the fixture find a pod at another address than the others do: what
// is there is what the pod is for this replica.
func (f *fixture) sees(pod, ip string) {
	f.Client = interceptor.NewClient(f.Client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := c.List(ctx, list, opts...); err != nil {
				return err
			}
			if pods, ok := list.(*corev1.PodList); ok {
				for i := range pods.Items {
					if pods.Items[i].Name == pod {
						pods.Items[i].Status.PodIP = ip
					}
				}
			}
			return nil
		},
	})
}

// A replica that has not heard yet that a node is active does not undo what another one did,
// which has: it probes the node again.
func TestReplicaWithAnOldResponse(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	a := fakevault.Start(t, ca.Certificate(t, vault.ServerName()), fakevault.Sealed)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true))
	now := probe.Active
	f.Confirm = func(context.Context, types.NamespacedName, types.UID) probe.Observation {
		return probe.Observation{State: now}
	}
	reconcileOnce := func() {
		t.Helper()
		if _, err := f.Reconcile(t.Context(), requestFor(vault)); err != nil {
			t.Fatal(err)
		}
	}
	reconcileOnce()
	eventually(t, "the node has said that it is sealed", func() bool {
		return f.Engine.Observations(client.ObjectKeyFromObject(vault))["uid-of-a"].State == probe.Sealed
	})
	reconcileOnce()
	if got := f.patched(); len(got) != 0 {
		t.Errorf("patches %v while the node is active", got)
	}
	now = probe.Sealed
	reconcileOnce()
	if got := f.patched(); !slices.Equal(got, []string{"-a"}) {
		t.Errorf("patches %v, want -a when the node is sealed", got)
	}
}

// One replica cannot reach the active node, and the other one can: they settle on
// it instead of undoing each other.
func TestReplicasThatSeeDifferentThingsSettle(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	nothing := fakevault.Start(t, cert, fakevault.Active)
	first := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, false),
		newPod(vault, "b", b.IP, false))
	second := newFixture(t)
	second.api = first.api
	second.Client, second.APIReader = first.Client, first.APIReader // both write to one API server
	first.every(t, 5*time.Millisecond, vault)
	eventually(t, "the active node has the label", func() bool { return slices.Equal(first.labelled(t), []string{"a"}) })

	second.sees("a", nothing.IP)
	nothing.Freeze()
	second.every(t, 5*time.Millisecond, vault)
	eventually(t, "the other replica has taken the label", func() bool { return len(first.patched()) > 1 })
	time.Sleep(3 * time.Second)
	if got, want := first.patched(), []string{"+a", "-a", "+a"}; !slices.Equal(got, want) {
		t.Errorf("patches %v, want %v", got, want)
	}

	// The successor still gets its label when the node is really lost.
	a.Kill()
	b.Set(fakevault.Active)
	eventually(t, "the successor has the label", func() bool { return slices.Equal(first.labelled(t), []string{"b"}) })
}

// A hang of the active node, with others that could or could not take over.
func TestHungNodeLeavesTheServiceOnlyForOneThatCouldTakeOver(t *testing.T) {
	for name, tt := range map[string]struct {
		other fakevault.State
		late  bool
		want  []string
	}{
		"a standby node": {other: fakevault.Standby, want: nil},
		"a sealed node":  {other: fakevault.Sealed, want: []string{"a"}},
		"a standby node, and an operator that is late": {other: fakevault.Standby, late: true, want: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := newVault()
			ca := fakevault.NewCA(t)
			cert := ca.Certificate(t, vault.ServerName())
			a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, tt.other)
			f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true),
				newPod(vault, "b", b.IP, false))
			if tt.late {
				f.SilenceCounts = func(string) bool { return false }
			}
			f.every(t, 20*time.Millisecond, vault)
			key := client.ObjectKeyFromObject(vault)
			eventually(t, "both nodes have answered", func() bool { return len(f.Engine.Observations(key)) == 2 })
			a.Freeze()
			eventually(t, "the active node is silent", func() bool {
				return f.Engine.Observations(key)["uid-of-a"].State == probe.Unreachable
			})
			if tt.want != nil {
				time.Sleep(2 * silenceCheck)
			}
			eventually(t, "the label is where it belongs", func() bool { return slices.Equal(f.labelled(t), tt.want) })
			// A successor that proves itself needs no corroboration.
			b.Set(fakevault.Active)
			eventually(t, "the successor has the label", func() bool { return slices.Equal(f.labelled(t), []string{"b"}) })
		})
	}
}

// An answer may be a pause old: two claims are probed once more before one counts
// against the other.
func TestClaimsAreProbedAgain(t *testing.T) {
	vault := newVault()
	f := newFixture(t, vault)
	probed := map[types.UID]probe.State{"uid-of-a": probe.Standby, "uid-of-b": probe.Active}
	f.Confirm = func(_ context.Context, _ types.NamespacedName, uid types.UID) probe.Observation {
		return probe.Observation{State: probed[uid]}
	}
	nodes := []vaultNode{
		{UID: "uid-of-a", State: probe.Active, Labelled: true},
		{UID: "uid-of-b", State: probe.Active},
		{UID: "uid-of-c", State: probe.Sealed},
	}
	f.recheck(t.Context(), client.ObjectKeyFromObject(vault), nodes)
	if nodes[0].State != probe.Standby || nodes[1].State != probe.Active || nodes[2].State != probe.Sealed {
		t.Errorf("nodes %+v", nodes)
	}
	// One claim is not asked again.
	delete(probed, "uid-of-b")
	f.recheck(t.Context(), client.ObjectKeyFromObject(vault), nodes)
	if nodes[1].State != probe.Active {
		t.Errorf("nodes %+v", nodes)
	}
}

// What silences the active node may be the storage, which is unavailable: an
// answer from before does not count against it.
func TestSilenceOfAllTakesNobodyOut(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false))
	f.every(t, 5*time.Millisecond, vault)
	key := client.ObjectKeyFromObject(vault)
	for range 3 {
		eventually(t, "both nodes have answered", func() bool {
			o := f.Engine.Observations(key)
			return o["uid-of-a"].State == probe.Active && o["uid-of-b"].State == probe.Standby
		})
		b.Freeze()
		a.Freeze()
		eventually(t, "both nodes are silent", func() bool {
			o := f.Engine.Observations(key)
			return o["uid-of-a"].State == probe.Unreachable && o["uid-of-b"].State == probe.Unreachable
		})
		a.Thaw()
		b.Thaw()
	}
	if got := f.patched(); len(got) > 0 {
		t.Errorf("patches %v, want none", got)
	}
}

// The label is taken from all others, wherever the promoted pod is among them, and
// also when another replica has labelled it already.
func TestPromotionTakesTheLabelFromAllOthers(t *testing.T) {
	vault := newVault()
	for promoted, want := range map[string][]string{"a": {"-b", "-c"}, "b": {"-a", "-c"}, "c": {"-a", "-b"}} {
		var objects []client.Object
		pods := map[string]*corev1.Pod{}
		for _, name := range []string{"a", "b", "c"} {
			pods[name] = newPod(vault, name, "10.0.0.1", true)
			objects = append(objects, pods[name])
		}
		f := newFixture(t, objects...)
		f.Confirm = func(context.Context, types.NamespacedName, types.UID) probe.Observation {
			return probe.Observation{State: probe.Active}
		}
		if err := f.promote(t.Context(), vault, pods[promoted]); err != nil {
			t.Fatal(err)
		}
		if got := f.patched(); !slices.Equal(got, want) {
			t.Errorf("promoting %s: patches %v, want %v", promoted, got, want)
		}
	}
}

func TestVouchers(t *testing.T) {
	vault := client.ObjectKeyFromObject(newVault())
	pod := newPod(newVault(), "a", "10.0.0.1", true)
	silent, reached := true, false
	var v vouchers
	at := func(version string, labelled, keep bool) bool {
		copied := pod.DeepCopy()
		copied.ResourceVersion = version
		if !labelled {
			delete(copied.Labels, v1alpha1.ActiveLabel)
		}
		return v.vouched(vault, []corev1.Pod{*copied}, func(types.UID) bool { return keep })[pod.UID]
	}
	if at("9", true, silent) {
		t.Error("a label that was never taken has come back")
	}
	pod.ResourceVersion = "10"
	v.take(vault, pod)
	if at("9", true, silent) || at("10", true, silent) || at("11", false, silent) {
		t.Error("a label that the cache still shows has come back")
	}
	if !at("12", true, silent) || !at("13", true, silent) {
		t.Error("a label that came back is not seen")
	}
	if at("14", true, reached) || at("15", true, silent) {
		t.Error("a node that was reached is still vouched for")
	}
	v.take(vault, pod)
	v.vouched(vault, nil, nil)
	if len(v.taken) != 0 {
		t.Errorf("pods that are gone are kept: %v", v.taken)
	}
}

func TestLabelProblem(t *testing.T) {
	vault := newVault()
	ca := fakevault.NewCA(t)
	a := fakevault.Start(t, ca.Certificate(t, vault.ServerName()), fakevault.Active)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, false))
	key := client.ObjectKeyFromObject(vault)
	f.fail = func(string) error { return apiErrors["conflict"] }
	_, _ = f.Reconcile(t.Context(), requestFor(vault))
	eventually(t, "the node has answered", func() bool {
		return f.Engine.Observations(key)["uid-of-a"].State == probe.Active
	})
	if _, err := f.Reconcile(t.Context(), requestFor(vault)); err == nil ||
		!strings.Contains(f.LabelProblem(key), "has been modified") {
		t.Errorf("error %v, problem %q", err, f.LabelProblem(key))
	}
	f.fail = nil
	if _, err := f.Reconcile(t.Context(), requestFor(vault)); err != nil || f.LabelProblem(key) != "" {
		t.Errorf("error %v, problem %q", err, f.LabelProblem(key))
	}
}
