package backupschedule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// What is measured; docs/metrics.md tells how to read it.
var (
	lastSuccess = newGauge("backup_last_success_timestamp_seconds",
		"Unix time at which the newest backup of the schedule succeeded; 0 when none has.")
	lastDue = newGauge("backup_last_due_timestamp_seconds",
		"Unix time at which the latest backup of the schedule was due; the creation of the schedule when none was.")
	lastProven = newGauge("backup_last_proven_timestamp_seconds",
		"Unix time at which a backup of the schedule was last proven at a level; 0 when none was.", "level")
)

func newGauge(name, help string, labels ...string) *prometheus.GaugeVec {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "vault_operator", Name: name, Help: help},
		append([]string{"namespace", "name", "schedule"}, labels...))
	metrics.Registry.MustRegister(gauge)
	return gauge
}

func unix(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return float64(at.Unix())
}

// measure sets the metrics of a schedule to what its status and its backups say.
func measure(s *v1alpha1.VaultBackupSchedule, backups []*v1alpha1.VaultBackup) {
	forget(s.Namespace, s.Name)
	labels := []string{s.Namespace, string(s.Spec.Vault), s.Name}
	timeOf := func(at *metav1.Time) time.Time {
		if at == nil {
			return time.Time{}
		}
		return at.Time
	}
	lastSuccess.WithLabelValues(labels...).Set(unix(timeOf(s.Status.LastSuccessfulTime)))
	due := s.CreationTimestamp.Time
	if s.Status.LastScheduleTime != nil {
		due = s.Status.LastScheduleTime.Time
	}
	lastDue.WithLabelValues(labels...).Set(unix(due))
	proven := map[string]time.Time{"stored": {}, "intact": {}}
	if s.Spec.Proof != nil {
		proven["restored"], proven["unsealed"] = time.Time{}, time.Time{}
		if s.Spec.Proof.Canary != nil {
			proven["canary"] = time.Time{}
		}
	}
	for _, b := range backups {
		if b.Status.Proven == nil {
			continue
		}
		for _, level := range b.Status.Proven.Levels() {
			if last, told := proven[level.Name]; told && timeOf(level.Time).After(last) {
				proven[level.Name] = timeOf(level.Time)
			}
		}
	}
	for name, at := range proven {
		lastProven.WithLabelValues(append(labels, name)...).Set(unix(at))
	}
}

// forget drops those of a schedule that is gone.
func forget(namespace, schedule string) {
	of := prometheus.Labels{"namespace": namespace, "schedule": schedule}
	for _, gauge := range []*prometheus.GaugeVec{lastSuccess, lastDue, lastProven} {
		gauge.DeletePartialMatch(of)
	}
}
