package routing

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

func TestMajority(t *testing.T) {
	active := func(uid types.UID) vaultNode { return vaultNode{UID: uid, State: probe.Active} }
	standby := func(uid types.UID) vaultNode { return vaultNode{UID: uid, State: probe.Standby} }
	sealed := func(uid types.UID) vaultNode { return vaultNode{UID: uid, State: probe.Sealed} }
	leaving := func(node vaultNode) vaultNode { node.Terminating = true; return node }
	self := func(address string) probe.Leader { return probe.Leader{Self: true, ClusterAddress: address} }
	follows := func(address string) probe.Leader { return probe.Leader{ClusterAddress: address} }
	type leaders = map[types.UID]probe.Leader
	for name, tt := range map[string]struct {
		nodes   []vaultNode
		leaders leaders
		want    types.UID
	}{
		"the third node decides": {
			[]vaultNode{active("a"), active("b"), standby("c")},
			leaders{"a": self("at-a"), "b": self("at-b"), "c": follows("at-b")}, "b",
		},
		"the third node tells nothing": {
			[]vaultNode{active("a"), active("b"), standby("c")}, leaders{"a": self("at-a"), "b": self("at-b")}, "",
		},
		"the third node is sealed": {
			[]vaultNode{active("a"), active("b"), sealed("c")},
			leaders{"a": self("at-a"), "b": self("at-b"), "c": follows("at-b")}, "",
		},
		"the third node is being deleted": {
			[]vaultNode{active("a"), active("b"), leaving(standby("c"))},
			leaders{"a": self("at-a"), "b": self("at-b"), "c": follows("at-b")}, "",
		},
		"the third node follows one that says nothing": {
			[]vaultNode{active("a"), active("b"), standby("c")}, leaders{"a": self("at-a"), "c": follows("at-b")}, "",
		},
		"the followed node is about to step down": {
			[]vaultNode{active("a"), active("b"), standby("c")},
			leaders{"a": self("at-a"), "b": follows("at-b"), "c": follows("at-b")}, "",
		},
		"two nodes": {
			[]vaultNode{active("a"), active("b")}, leaders{"a": self("at-a"), "b": self("at-b")}, "",
		},
		"two of five follow": {
			[]vaultNode{active("a"), active("b"), standby("c"), standby("d"), standby("e")},
			leaders{"a": self("at-a"), "b": self("at-b"), "c": follows("at-a"), "d": follows("at-b"), "e": follows("at-b")}, "b",
		},
		"one of five follows": {
			[]vaultNode{active("a"), active("b"), standby("c"), standby("d"), standby("e")},
			leaders{"a": self("at-a"), "b": self("at-b"), "e": follows("at-b")}, "",
		},
		"two give the same address": {
			[]vaultNode{active("a"), active("b"), standby("c")},
			leaders{"a": self("at-b"), "b": self("at-b"), "c": follows("at-b")}, "",
		},
	} {
		if got := majority(tt.nodes, tt.leaders); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// An active node that has lost the leadership and does not notice does not keep clients from the
// one that leads.
func TestFollowedNodeIsServed(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	c := fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false),
		newPod(vault, "c", c.IP, false))
	told, leader := true, "at-b"
	f.Leader = func(_ context.Context, _ types.NamespacedName, uid types.UID) (probe.Leader, error) {
		switch uid {
		case "uid-of-a":
			return probe.Leader{Self: true, ClusterAddress: "at-a"}, nil
		case "uid-of-b":
			return probe.Leader{Self: true, ClusterAddress: "at-b"}, nil
		}
		if !told {
			return probe.Leader{}, errors.New("it does not answer")
		}
		return probe.Leader{ClusterAddress: leader}, nil
	}
	reconcile := func() time.Duration {
		t.Helper()
		result, err := f.Reconcile(t.Context(), requestFor(vault))
		if err != nil {
			t.Fatal(err)
		}
		return result.RequeueAfter
	}
	key := client.ObjectKeyFromObject(vault)
	reconcile()
	eventually(t, "all nodes have answered", func() bool { return len(f.Engine.Observations(key)) == 3 })
	b.Set(fakevault.Active)
	eventually(t, "the successor is active", func() bool {
		return f.Engine.Observations(key)["uid-of-b"].State == probe.Active
	})
	if again := reconcile(); again != silenceCheck {
		t.Errorf("looks again after %s, want %s: no event tells whom nodes follow", again, silenceCheck)
	}
	if got := f.labelled(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%v have the label, want b", got)
	}
	// A node that is late once changes nothing.
	told = false
	reconcile()
	if got := f.labelled(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%v have the label, want b", got)
	}
	told, leader = true, "at-a"
	reconcile()
	if got := f.labelled(t); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v have the label, want a", got)
	}
	// Nobody tells for longer.
	told = false
	longAgo := followed{"uid-of-a", time.Now().Add(-followedFor)}
	f.followed.Store(key, longAgo)
	reconcile()
	if got := f.labelled(t); len(got) > 0 {
		t.Errorf("%v have the label, want none", got)
	}
	// Another replica has a majority.
	if err := f.setActive(t.Context(), podNamed(t, f, "a"), true); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		reconcile()
	}
	if got := f.labelled(t); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v have the label, want a", got)
	}
}

func podNamed(t *testing.T, f *fixture, name string) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := f.api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &pod); err != nil {
		t.Fatal(err)
	}
	return &pod
}

// The node that most nodes follow keeps the label when it is late once, and the other one does not get it
// when it is alone with its claim for a moment.
func TestFollowedNodeIsLate(t *testing.T) {
	vault := newVault()
	key := client.ObjectKeyFromObject(vault)
	f := newFixture(t, vault)
	f.followed.Store(key, followed{"uid-of-b", time.Now()})
	f.Confirm = func(_ context.Context, _ types.NamespacedName, uid types.UID) probe.Observation {
		if uid == "uid-of-b" {
			return probe.Observation{State: probe.Unreachable, Silent: true}
		}
		return probe.Observation{State: probe.Active}
	}
	f.Leader = func(context.Context, types.NamespacedName, types.UID) (probe.Leader, error) {
		return probe.Leader{}, errors.New("it does not answer")
	}
	nodes := []vaultNode{
		{UID: "uid-of-a", State: probe.Active}, {UID: "uid-of-b", State: probe.Active, Labelled: true},
		{UID: "uid-of-c", State: probe.Standby},
	}
	f.recheck(t.Context(), key, nodes)
	f.settleClaims(t.Context(), key, nodes, nil)
	if d := decide(nodes, true); len(d.Demote) > 0 || d.Promote != "" {
		t.Errorf("decided on %+v for %+v", d, nodes)
	}
	// It is lost.
	nodes[0].State, nodes[1].State, nodes[1].Silent = probe.Active, probe.Unreachable, true
	f.settleClaims(t.Context(), key, nodes, nil)
	if d := decide(nodes, true); d.Promote != "" {
		t.Errorf("promotes %s, which nobody follows", d.Promote)
	}
}
