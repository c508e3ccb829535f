package vaultstatus

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// What is measured; docs/metrics.md tells how to read it.
var (
	certificateExpiry = newGauge("certificate_expiry_timestamp_seconds",
		"Unix time at which the first certificate of the Vault or its etcd ends that is served, or that a Secret holds.")
	nodesWanted  = newGauge("nodes_wanted", "Number of nodes that the spec of the Vault asks for.")
	nodesByState = newGauge("nodes", "Number of nodes of the Vault in a state.", "state")
	sealHealthy  = newGauge("seal_healthy",
		"Whether Vault could use the key service that unseals its nodes when it tried last: 1 or 0.", "type")
	conditionStatus = newGauge("condition",
		"Condition of the Vault: 1 for the status that it has, and 0 for the others.", "type", "status")
)

func newGauge(name, help string, labels ...string) *prometheus.GaugeVec {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "vault_operator", Name: name, Help: help},
		append([]string{"namespace", "name"}, labels...))
	metrics.Registry.MustRegister(gauge)
	return gauge
}

// nodeStates are the states of the metric, and which states of nodes they are.
var nodeStates = map[string][]v1alpha1.NodeState{
	"active":      {v1alpha1.NodeActive},
	"standby":     {v1alpha1.NodeStandby},
	"sealed":      {v1alpha1.NodeSealed, v1alpha1.NodeUninitialized},
	"unreachable": {v1alpha1.NodeUnreachable, v1alpha1.NodeUnverified},
	"starting":    {v1alpha1.NodeStarting},
}

// measure sets the metrics of a Vault to what its status says.
func measure(vault *v1alpha1.Vault, status *v1alpha1.VaultStatus) {
	namespace, name := vault.Namespace, vault.Name
	nodesWanted.WithLabelValues(namespace, name).Set(float64(vault.WantedNodes()))
	for label, states := range nodeStates {
		count := 0
		for _, state := range states {
			count += len(status.PodStatuses[state])
		}
		nodesByState.WithLabelValues(namespace, name, label).Set(float64(count))
	}
	sealHealthy.DeletePartialMatch(prometheus.Labels{"namespace": namespace, "name": name})
	if s := status.Seal; s != nil && s.Healthy != nil {
		healthy := 0.0
		if *s.Healthy {
			healthy = 1
		}
		sealHealthy.WithLabelValues(namespace, name, s.Type).Set(healthy)
	}
	for _, conditionType := range v1alpha1.VaultConditions {
		is := metav1.ConditionFalse // Stalled is absent then
		if c := meta.FindStatusCondition(status.Conditions, conditionType); c != nil {
			is = c.Status
		}
		for _, value := range []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown} {
			held := 0.0
			if value == is {
				held = 1
			}
			conditionStatus.WithLabelValues(namespace, name, conditionType, string(value)).Set(held)
		}
	}
}

// forgetMetrics drops those of a Vault that is gone.
func forgetMetrics(namespace, name string) {
	of := prometheus.Labels{"namespace": namespace, "name": name}
	for _, gauge := range []*prometheus.GaugeVec{certificateExpiry, nodesWanted, nodesByState, sealHealthy,
		conditionStatus} {
		gauge.DeletePartialMatch(of)
	}
}
