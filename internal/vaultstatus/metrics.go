package vaultstatus

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// What is measured; docs/metrics.md tells how to read it.
var certificateExpiry = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "vault_operator_certificate_expiry_timestamp_seconds",
	Help: "Unix time at which the first certificate of the Vault or its etcd ends that is served, or that a Secret holds.",
}, []string{"namespace", "name"})

func init() { metrics.Registry.MustRegister(certificateExpiry) }
