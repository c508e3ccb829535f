package vaultstatus

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/seal"
)

// What is measured; docs/metrics.md tells how to read it.
var (
	certificateExpiry = newGauge("certificate_expiry_timestamp_seconds",
		"Unix time at which the first certificate of the Vault or its etcd ends that is served, or that a Secret holds.")
	nodesWanted  = newGauge("nodes_wanted", "Number of nodes that the spec of the Vault asks for.")
	nodesByState = newGauge("nodes", "Number of nodes of the Vault in a state.", "state")
	sealHealthy  = newGauge("seal_healthy",
		"Whether the key service that unseals the nodes could be used when Vault, or a node that starts, tried last: 1 or 0.",
		"type")
	tokenExpiry = newGauge("seal_token_expiry_timestamp_seconds",
		"Unix time at which the token of the transit seal ends unless it is renewed before.")
	tokenHealthy = newGauge("seal_token_healthy",
		"Whether the token of the transit seal lasts: 1, or 0 when its end is near or the key service refuses it.")
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

// measure sets the metrics of a Vault to what its status says. One that is made to prove a backup is sealed
// for minutes, or for good, and nobody is to be called for that.
func measure(vault *v1alpha1.Vault, status *v1alpha1.VaultStatus) {
	if vault.OfProof() {
		return
	}
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
	if kind, healthy := keyService(vault, status); healthy != nil {
		value := 0.0
		if *healthy {
			value = 1
		}
		sealHealthy.WithLabelValues(namespace, name, kind).Set(value)
	}
	for _, conditionType := range v1alpha1.VaultConditions {
		current := metav1.ConditionFalse // Stalled is absent then
		if conditionType == v1alpha1.SealMigratedCondition && vault.Spec.SealMigration == nil {
			conditionStatus.DeletePartialMatch(prometheus.Labels{"namespace": namespace, "name": name, "type": conditionType})
			continue
		}
		if c := meta.FindStatusCondition(status.Conditions, conditionType); c != nil {
			current = c.Status
		}
		for _, value := range []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown} {
			held := 0.0
			if value == current {
				held = 1
			}
			conditionStatus.WithLabelValues(namespace, name, conditionType, string(value)).Set(held)
		}
	}
}

// keyService is the type of the seal, and whether its key service could be used, or nil.
// What nodes that run say of it is not all: those that start notice first, and end.
func keyService(vault *v1alpha1.Vault, status *v1alpha1.VaultStatus) (kind string, healthy *bool) {
	kind = vault.Spec.Seal.Type()
	if s := status.Seal; s != nil {
		healthy = s.Healthy
		if s.Type != "" {
			kind = s.Type
		}
	}
	if seal.Fails(meta.FindStatusCondition(status.Conditions, v1alpha1.SealReadyCondition)) {
		healthy = new(false)
	}
	return kind, healthy
}

// forgetMetrics drops those of a Vault that is gone.
func forgetMetrics(namespace, name string) {
	of := prometheus.Labels{"namespace": namespace, "name": name}
	for _, gauge := range []*prometheus.GaugeVec{certificateExpiry, nodesWanted, nodesByState, sealHealthy,
		tokenExpiry, tokenHealthy, conditionStatus} {
		gauge.DeletePartialMatch(of)
	}
}
