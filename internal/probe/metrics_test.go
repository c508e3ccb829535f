package probe

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

func TestActiveLastSeen(t *testing.T) {
	t.Parallel()
	measured := types.NamespacedName{Namespace: "measured", Name: "example"}
	seen := func() float64 {
		families, err := prometheus.Gatherers{registryOf(t, activeLastSeen)}.Gather()
		if err != nil {
			t.Error(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				if m.GetLabel()[1].GetValue() == measured.Namespace {
					return m.GetGauge().GetValue()
				}
			}
		}
		return 0
	}
	node, target := startNode(t, fakevault.Standby)
	h := newHarness(t)
	h.SetTargets(measured, []Target{target}, true)
	observed := func() Observation { return h.Observations(measured)[target.UID] }
	waitUntil(t, func() bool { return observed().State == Standby })
	if seen() != 0 || !observed().LastActive.IsZero() {
		t.Errorf("a standby was seen active at %f", seen())
	}
	begin := float64(time.Now().Unix())
	node.Set(fakevault.Active)
	waitUntil(t, func() bool { return seen() >= begin })
	first := seen()
	waitUntil(t, func() bool { return seen() > first }) // it is kept up to date

	// What was known stays while the node is silent, and while there is no pod.
	node.Kill()
	waitUntil(t, func() bool { return observed().State == Unreachable })
	last := seen()
	if o := observed(); o.LastActive.IsZero() || time.Since(o.LastActive) < 0 {
		t.Errorf("the node was active at %s", o.LastActive)
	}
	h.SetTargets(measured, nil, true)
	if seen() != last || last == 0 {
		t.Errorf("seen at %f, want %f", seen(), last)
	}
	h.Forget(measured)
	if seen() != 0 {
		t.Error("a Vault that is gone has a metric")
	}
}

func registryOf(t *testing.T, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestProbeDuration(t *testing.T) {
	responses := func(state State) uint64 {
		var m dto.Metric
		if err := probeDuration.WithLabelValues(label(state)).(prometheus.Histogram).Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.GetHistogram().GetSampleCount()
	}
	if got, want := testutil.CollectAndCount(probeDuration), 6; got != want {
		t.Errorf("%d series before anything happened, want %d", got, want)
	}
	node, target := startNode(t, fakevault.Sealed)
	h := newHarness(t)
	sealed, unreachable := responses(Sealed), responses(Unreachable)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Sealed)
	if responses(Sealed) == sealed || responses(Unreachable) != unreachable {
		t.Errorf("%d answers of sealed, %d of unreachable nodes",
			responses(Sealed)-sealed, responses(Unreachable)-unreachable)
	}
	// A probe that is cancelled says nothing of the node.
	node.Freeze()
	stop(h.Engine)
	waitForWorkers(t, 0)
	if got := responses(Unreachable); got != unreachable {
		t.Errorf("%d answers of unreachable nodes, want none", got-unreachable)
	}
	node.Thaw()
	node.Kill()
	other := newHarness(t)
	other.SetTargets(exampleVault, []Target{target}, true)
	other.waitFor(t, target.UID, Unreachable)
	if responses(Unreachable) == unreachable {
		t.Error("a node that does not answer is not counted")
	}
	// No node and no pod is a label: the number of series is bounded.
	if got, want := testutil.CollectAndCount(probeDuration), 6; got != want {
		t.Errorf("%d series, want %d", got, want)
	}
}

func TestMetricsFollowTheConventions(t *testing.T) {
	for _, c := range []prometheus.Collector{probeDuration, activeLastSeen, latenessGauge, slowdownGauge} {
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
	}
}
