package probe

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// What is measured; docs/metrics.md tells how to read it. Names and units follow
// https://prometheus.io/docs/practices/naming/
var (
	probeDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "vault_operator_probe_duration_seconds",
		Help: "Time that a Vault node took to tell its state, by that state; " +
			"unreachable means that no answer came that counts.",
		// None takes longer than the timeout of a probe.
		Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5},
	}, []string{"state"})

	activeLastSeen = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "vault_operator_active_last_seen_timestamp_seconds",
		Help: "Unix time at which a node of the Vault last said that it is active.",
	}, []string{"namespace", "name"})

	latenessGauge = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vault_operator_lateness_seconds",
		Help: "By how much timers of this replica fire late, on average over half a second: it lacks CPU.",
	})

	slowdownGauge = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vault_operator_probe_slowdown_ratio",
		Help: "What the pause between two probes of a node is multiplied by, because this replica is late; 1 when it is not.",
	})
)

func init() {
	metrics.Registry.MustRegister(probeDuration, activeLastSeen, latenessGauge, slowdownGauge)
	slowdownGauge.Set(1)
	// A series that appears only with the first bad answer hides it from rate().
	for state := Unreachable; state <= Active; state++ {
		probeDuration.WithLabelValues(label(state))
	}
}

// label is the name of a state as the value of a label.
func label(s State) string { return strings.ToLower(s.String()) }
