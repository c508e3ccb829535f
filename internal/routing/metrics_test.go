package routing

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

func TestSightingNext(t *testing.T) {
	now := time.Now()
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	active := func(seconds int) probe.Observation {
		return probe.Observation{State: probe.Active, LastActive: at(seconds)}
	}
	was := func(state probe.State, seconds int) probe.Observation {
		return probe.Observation{State: state, LastActive: at(seconds)}
	}
	tests := []struct {
		name         string
		before       lastActive
		labelled     []types.UID
		observations map[types.UID]probe.Observation
		gone         []types.UID
		want         lastActive
	}{
		{name: "nobody was asked"},
		{
			name:         "the labelled pod is active",
			labelled:     []types.UID{"a"},
			observations: map[types.UID]probe.Observation{"a": active(1), "b": {State: probe.Standby}},
			want:         lastActive{"a", at(1)},
		},
		{
			name: "an active node that the Service does not point at serves nobody", before: lastActive{"a", at(1)},
			observations: map[types.UID]probe.Observation{"b": active(5), "a": was(probe.Standby, 4)},
			want:         lastActive{"a", at(1)},
		},
		{
			name: "the active node hangs", before: lastActive{"a", at(1)},
			labelled:     []types.UID{"a"},
			observations: map[types.UID]probe.Observation{"a": was(probe.Unreachable, 3), "b": {State: probe.Standby}},
			want:         lastActive{"a", at(3)},
		},
		{
			name: "the pod of the active node is gone", before: lastActive{"a", at(1)}, gone: []types.UID{"a"},
			observations: map[types.UID]probe.Observation{"a": active(7), "b": {State: probe.Standby}},
			want:         lastActive{"a", at(7)},
		},
		{
			name: "another replica has moved the label", before: lastActive{"a", at(1)},
			labelled:     []types.UID{"b"},
			observations: map[types.UID]probe.Observation{"a": was(probe.Standby, 2), "b": active(4)},
			want:         lastActive{"b", at(4)},
		},
		{
			name: "two labels: the one that was active last", before: lastActive{"a", at(1)},
			labelled:     []types.UID{"a", "b"},
			observations: map[types.UID]probe.Observation{"a": was(probe.Standby, 2), "b": active(4)},
			want:         lastActive{"b", at(4)},
		},
		{
			name: "administrators have to unseal a node first", before: lastActive{"a", at(1)},
			labelled:     []types.UID{"a"},
			observations: map[types.UID]probe.Observation{"a": was(probe.Sealed, 2), "b": {State: probe.Sealed}},
		},
		{
			name: "nobody answers: it may be the operator that is cut off", before: lastActive{"a", at(1)},
			labelled:     []types.UID{"a"},
			observations: map[types.UID]probe.Observation{"a": was(probe.Unreachable, 2), "b": {State: probe.Unreachable}},
			want:         lastActive{"a", at(2)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var nodes []vaultNode
			for uid, o := range tt.observations {
				node := vaultNode{UID: uid, State: o.State}
				for _, labelled := range tt.labelled {
					node.Labelled = node.Labelled || labelled == uid
				}
				gone := false
				for _, other := range tt.gone {
					gone = gone || other == uid
				}
				if !gone {
					nodes = append(nodes, node)
				}
			}
			if got := tt.before.next(nodes, tt.observations); got != tt.want {
				t.Errorf("next() = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestMoved(t *testing.T) {
	vault := requestFor(newVault()).NamespacedName
	now := time.Now()
	var s lastActiveTracker
	if _, failedOver := s.promoted(vault, "a", now); failedOver {
		t.Error("the first active node is a failover")
	}
	if _, failedOver := s.promoted(vault, "a", now.Add(time.Second)); failedOver {
		t.Error("the same pod is a failover")
	}
	if took, failedOver := s.promoted(vault, "b", now.Add(3*time.Second)); !failedOver || took != 2*time.Second {
		t.Errorf("promoted() = %s, %v, want 2s", took, failedOver)
	}
	s.forget(vault)
	if _, failedOver := s.promoted(vault, "a", now.Add(time.Hour)); failedOver {
		t.Error("a Vault that was forgotten has failed over")
	}
}

// No test runs beside this one: the metrics are those of the process.
func TestFailoverIsMeasured(t *testing.T) {
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, false), newPod(vault, "b", b.IP, false))
	count, sum := histogram(t, failoverDuration)
	labelled := func(action string) float64 { return testutil.ToFloat64(relabels.WithLabelValues(action)) }
	promoted, demoted := labelled("promote"), labelled("demote")
	has := func(name string) func() bool {
		return func() bool { labelled := f.labelled(t); return len(labelled) == 1 && labelled[0] == name }
	}
	f.manage(t, reconcileTimeout, vault)
	eventually(t, "the active node has the label", has("a"))
	// It is at rest now, so that the time since its last answer is what counts.
	began := time.Now()
	eventually(t, "it was asked again", func() bool {
		return f.Engine.Observations(requestFor(vault).NamespacedName)["uid-of-a"].LastActive.After(began)
	})
	if got, _ := histogram(t, failoverDuration); got != count {
		t.Error("the first active node counts as a failover")
	}
	a.Kill()
	time.Sleep(100 * time.Millisecond)
	b.Set(fakevault.Active)
	eventually(t, "the label has moved", has("b"))
	eventually(t, "the failover is counted", func() bool {
		got, _ := histogram(t, failoverDuration)
		return got == count+1
	})
	if _, got := histogram(t, failoverDuration); got-sum < 0.1 || got-sum > time.Since(began).Seconds() {
		t.Errorf("it took %fs", got-sum)
	}
	if p, d := labelled("promote"), labelled("demote"); p != promoted+2 || d != demoted+1 {
		t.Errorf("%v promotions and %v demotions, want 2 and 1", p-promoted, d-demoted)
	}
}

func TestRefusedPatchesAreNotCounted(t *testing.T) {
	vault := newVault()
	pod := newPod(vault, "a", "10.0.0.1", true)
	f := newFixture(t, pod)
	before := testutil.ToFloat64(relabels.WithLabelValues("demote"))
	f.fail = func(string) error { return errors.New("the API server is unavailable") }
	if err := f.setActive(t.Context(), pod, false); err == nil {
		t.Error("the error is lost")
	}
	if got := testutil.ToFloat64(relabels.WithLabelValues("demote")); got != before {
		t.Errorf("%v demotions, want none", got-before)
	}
}

func TestMetricsFollowTheConventions(t *testing.T) {
	for _, c := range []prometheus.Collector{failoverDuration, relabels} {
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
	}
}

func histogram(t *testing.T, h prometheus.Histogram) (count uint64, sum float64) {
	t.Helper()
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()
}
