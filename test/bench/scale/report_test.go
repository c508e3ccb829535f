package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	values := []time.Duration{10, 20, 30, 40}
	for p, want := range map[float64]time.Duration{0: 10, 25: 10, 50: 20, 51: 30, 99: 40, 100: 40} {
		if got := percentile(values, p); got != want {
			t.Errorf("p%g is %d, want %d", p, got, want)
		}
	}
}

func TestRequests(t *testing.T) {
	before := requests{"get secrets": 4, "patch pods": 1}
	after := requests{"get secrets": 10, "patch pods": 1, "create events": 2, "update leases": 7}
	made := after.minus(before).withoutLease()
	if got, want := made.String(), "6 get secrets, 2 create events"; got != want {
		t.Errorf("requests are %q, want %q", got, want)
	}
	if got, want := made.per(4).plus(requests{"list secrets": 1}).secretReads(), 2.5; got != want {
		t.Errorf("%g reads of Secrets, want %g", got, want)
	}
	if got, want := made.total(), 8.0; got != want {
		t.Errorf("%g requests, want %g", got, want)
	}
}

func TestAuditLog(t *testing.T) {
	a := &auditLog{}
	a.user("system:serviceaccount:ns:operator")
	// Lines come in pieces.
	for _, part := range []string{
		`{"verb":"get","user":{"username":"system:serviceaccount:ns:operator"},"objectRef":{"resource":"secrets"}}` + "\n" +
			`{"verb":"pat`,
		`ch","user":{"username":"system:serviceaccount:ns:operator"},` +
			`"objectRef":{"resource":"vaults","subresource":"status"}}` + "\n",
		`{"verb":"get","user":{"username":"somebody"},"objectRef":{"resource":"secrets"}}` + "\n",
		`{"verb":"get","requestURI":"/api","user":{"username":"system:serviceaccount:ns:operator"}}` + "\n",
	} {
		if n, err := a.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	if got, want := a.snapshot().String(), "1 get /api, 1 get secrets, 1 patch vaults/status"; got != want {
		t.Errorf("requests are %q, want %q", got, want)
	}
}

func TestParseUsage(t *testing.T) {
	stat := "12 (vault operator) S 1 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1 2 3"
	got, err := parseUsage(stat, "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
	if want := (usage{cpu: 3 * time.Second, rssMiB: 1, peakMiB: 2}); err != nil || got != want {
		t.Errorf("usage is %+v, %v, want %+v", got, err, want)
	}
	if _, err := parseUsage("12 (x) S 1", ""); err == nil {
		t.Error("a short line passes")
	}
}

func TestParseBusy(t *testing.T) {
	before := parseBusy("cpu 10 0 10 80 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
	after := parseBusy("cpu 30 0 20 130 20 0 0 0 9 0\n")
	if got, want := after.since(before), 0.3; math.Abs(got-want) > 1e-9 {
		t.Errorf("%g busy, want %g", got, want)
	}
}

func TestPrintTables(t *testing.T) {
	f := failover{Kind: handover, AtOnce: 1, Count: 3, Requests: requests{"get secrets": 1}}
	f.summarize([]time.Duration{300 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond})
	var out strings.Builder
	printTables(&out, []result{{
		Machine: "2 CPUs", Commit: "abc", Vaults: 100, Releases: true, LostLabels: 3, PeakMiB: 90,
		Creation: &creation{Seconds: 9, Requests: requests{"get secrets": 40}},
		Rest: &idle{Cores: 0.25, RSSMiB: 80, HeapMiB: 30, ProbesPerSecond: 400,
			RequestsPerSecond: 0.5, MachineBusy: 0.5},
		Failovers: []failover{f},
		Overload:  &overload{Samples: []sample{{Seconds: 5, Running: 10, Right: 9}}},
	}})
	for _, want := range []string{
		"Commit abc, on a machine of 2 CPUs.",
		"| 100 | yes | 40.0 | 0.25 | 80 MiB | 30 MiB | 90 MiB | 400 | 0.5 | 3 | 50 % |",
		"| 100 | handover | 1 | 3 | 0.20 s | 0.30 s | 0.30 s | 0 | 1.0 | 1.0 |",
		"not every label was right",
		"| 5 | 10 | 9 | 0 | 0 | 0 MiB | 0 |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
}

func TestThinned(t *testing.T) {
	var samples []sample
	for i := range 100 {
		samples = append(samples, sample{Running: i})
	}
	kept := thinned(samples, 10)
	if len(kept) != 10 || kept[9].Running != 99 {
		t.Errorf("kept %v", kept)
	}
}

func TestMostWithin(t *testing.T) {
	start := time.Unix(0, 0)
	var times []time.Time
	for _, second := range []int{30, 0, 9, 10, 11, 19, 20} {
		times = append(times, start.Add(time.Duration(second)*time.Second))
	}
	if most := mostWithin(times, 10*time.Second); most != 3 {
		t.Errorf("%d within 10 s, want 3", most)
	}
	if most := mostWithin(nil, time.Second); most != 0 {
		t.Errorf("%d of none", most)
	}
}
