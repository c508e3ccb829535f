package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// metrics of a member that knows others, one of which was removed.
const metrics = `# HELP etcd_network_known_peers The current number of known peers.
# TYPE etcd_network_known_peers gauge
etcd_network_known_peers{Local="83f667809d1a3639",Remote="2b6d7f19fe480be8"} 1
etcd_network_known_peers{Local="83f667809d1a3639",Remote="83f667809d1a3639"} 1
etcd_network_known_peers{Local="83f667809d1a3639",Remote="f144807607b3b91c"} 0
etcd_server_id{server_id="83f667809d1a3639"} 1
`

func TestView(t *testing.T) {
	many := strings.Builder{}
	for i := range 1000 {
		fmt.Fprintf(&many, "etcd_network_known_peers{Local=\"1\",Remote=\"%x\"} 1\n", i)
	}
	for name, tt := range map[string]struct {
		status int
		body   string
		want   []string
	}{
		"a member":               {status: 200, body: metrics, want: []string{"2b6d7f19fe480be8", "83f667809d1a3639"}},
		"it has not started yet": {status: 200, body: "# nothing\n"},
		"not itself":             {status: 200, body: strings.ReplaceAll(metrics, `server_id="8`, `server_id="9`)},
		"too many":               {status: 200, body: many.String() + `etcd_server_id{server_id="1"} 1`},
		"endless":                {status: 200, body: metrics + strings.Repeat("x\n", maxMetrics)},
		"a long line":            {status: 200, body: metrics + strings.Repeat("x", 1<<20)},
		"not found":              {status: 404, body: metrics},
		"sent elsewhere":         {status: 302, body: metrics},
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body)) // the client may have had enough
			}))
			defer server.Close()
			report, err := NewAlarms(nil).report(t.Context(), strings.TrimPrefix(server.URL, "http://"))
			if got := report.Members; (err == nil) != (tt.want != nil) || tt.want != nil && !slices.Equal(got, tt.want) {
				t.Errorf("members %v, error %v, want %v", got, err, tt.want)
			}
			if requests != 1 {
				t.Errorf("asked %d times", requests)
			}
		})
	}
}

func TestReport(t *testing.T) {
	const gauges = `etcd_server_has_leader 1
etcd_server_is_leader 1
etcd_server_is_learner 0
etcd_server_quota_backend_bytes 2.147483648e+09
etcd_mvcc_db_total_size_in_bytes 1.048576e+06
etcd_mvcc_db_total_size_in_use_in_bytes 24576
etcd_mvcc_db_total_size_in_bytes NaN
`
	for name, tt := range map[string]struct {
		gauges string
		want   Report
	}{
		"all": {gauges, Report{
			Voter: true, HasLeader: true, Leader: true, Size: 1 << 20, InUse: 24576, Quota: 2 << 30,
		}},
		"a learner":      {"etcd_server_has_leader 1\netcd_server_is_learner 1\n", Report{HasLeader: true}},
		"nothing":        {"", Report{}},
		"something else": {"etcd_server_is_learner{a=\"b\"} 0\netcd_mvcc_db_total_size_in_bytes 1e+99\n", Report{}},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(metrics + tt.gauges))
		}))
		got, err := NewAlarms(nil).report(t.Context(), strings.TrimPrefix(server.URL, "http://"))
		server.Close()
		tt.want.ID, tt.want.Members = "83f667809d1a3639", []string{"2b6d7f19fe480be8", "83f667809d1a3639"}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, error %v, want %+v", name, got, err, tt.want)
		}
	}
}

func TestDisagreement(t *testing.T) {
	responses := map[string][]string{}
	requests := 0
	alarms := NewAlarms(fake.NewClientBuilder().WithObjects(
		member("a", "vault-etcd-0", "10.0.0.1", corev1.PodRunning),
		member("a", "vault-etcd-1", "10.0.0.2", corev1.PodRunning),
		member("a", "vault-etcd-2", "10.0.0.3", corev1.PodRunning),
	).Build())
	alarms.alarm = func(context.Context, string) (string, error) { return "", nil }
	alarms.report = func(_ context.Context, address string) (Report, error) {
		requests++
		if members, responds := responses[address]; responds {
			return Report{Members: members}, nil
		}
		return Report{}, errors.New("no answer")
	}
	vault := &v1alpha1.Vault{}
	vault.Namespace, vault.Name = "a", "vault"
	abc := []string{"a", "b", "c"}
	for _, round := range []struct {
		name      string
		responses [][]string
		want      string
		requests  int
	}{
		{name: "nobody answers", requests: 3},
		{name: "one answers", responses: [][]string{abc}, requests: 3},
		{name: "all do", responses: [][]string{abc, abc, abc}, requests: 2},
		{name: "they are not asked again", responses: [][]string{{"a"}, {"b"}, {"c"}}},
	} {
		responses, requests = map[string][]string{}, 0
		for i, members := range round.responses {
			responses[fmt.Sprintf("10.0.0.%d:2381", i+1)] = members
		}
		if err := alarms.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := alarms.Disagreement(vault); got != round.want || requests != round.requests {
			t.Errorf("%s: %q after %d requests, want %q after %d", round.name, got, requests, round.want, round.requests)
		}
	}

	// Made again with more members on the volume of a single one.
	alarms.views = nil
	responses = map[string][]string{"10.0.0.1:2381": {"a"}, "10.0.0.2:2381": abc, "10.0.0.3:2381": abc}
	if err := alarms.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	const want = "vault-etcd-0 of a cluster of 1; vault-etcd-1, vault-etcd-2 of a cluster of 3"
	if got := alarms.Disagreement(vault); got != want {
		t.Errorf("two clusters: %q, want %q", got, want)
	}
	// A member was replaced, and all know of it when they are asked again.
	responses = map[string][]string{"10.0.0.1:2381": abc, "10.0.0.2:2381": abc, "10.0.0.3:2381": abc}
	if err := alarms.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := alarms.Disagreement(vault); got != "" {
		t.Errorf("one cluster: %q", got)
	}
	one := int32(1)
	vault.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{Nodes: &one}
	if got := alarms.Disagreement(vault); got == "" {
		t.Error("a cluster of more members than wanted agrees")
	}
}
