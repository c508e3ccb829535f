package scrape

import (
	"reflect"
	"testing"
)

const served = `# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 412
# HELP vault_operator_nodes Number of nodes of the Vault in a state.
# TYPE vault_operator_nodes gauge
vault_operator_nodes{name="a",namespace="b",state="active"} 1
# HELP vault_operator_failover_duration_seconds Time until another pod had the active label.
# TYPE vault_operator_failover_duration_seconds histogram
vault_operator_failover_duration_seconds_bucket{le="0.1"} 0
vault_operator_failover_duration_seconds_bucket{le="+Inf"} 2
vault_operator_failover_duration_seconds_sum 1.5e+01
vault_operator_failover_duration_seconds_count 2
`

func TestParse(t *testing.T) {
	const failover = "vault_operator_failover_duration_seconds"
	got, err := Parse(served, "vault_operator_")
	want := []Sample{
		{"vault_operator_nodes", "gauge", `vault_operator_nodes{name="a",namespace="b",state="active"}`,
			map[string]string{"name": "a", "namespace": "b", "state": "active"}, 1},
		{failover, "histogram", failover + `_bucket{le="0.1"}`, map[string]string{"le": "0.1"}, 0},
		{failover, "histogram", failover + `_bucket{le="+Inf"}`, map[string]string{"le": "+Inf"}, 2},
		{failover, "histogram", failover + "_sum", map[string]string{}, 15},
		{failover, "histogram", failover + "_count", map[string]string{}, 2},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("error %v, read %+v, want %+v", err, got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no type":           "vault_operator_nodes 1\n",
		"another's type":    "# TYPE go_goroutines gauge\nvault_operator_nodes 1\n",
		"no value":          "# TYPE vault_operator_nodes gauge\nvault_operator_nodes\n",
		"what is no number": "# TYPE vault_operator_nodes gauge\nvault_operator_nodes many\n",
	} {
		if got, err := Parse(text, "vault_operator_"); err == nil {
			t.Errorf("%s: read %+v, want an error", name, got)
		}
	}
}
