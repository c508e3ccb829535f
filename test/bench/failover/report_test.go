package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/hammer"
)

func TestPercentile(t *testing.T) {
	values := []value{{ms: 30}, {ms: 10}, {ms: 40, over: true}, {ms: 20}}
	for _, c := range []struct {
		p    float64
		want value
	}{
		{0, value{ms: 10}},
		{25, value{ms: 10}},
		{50, value{ms: 20}},
		{51, value{ms: 30}},
		{99, value{ms: 40, over: true}},
		{100, value{ms: 40, over: true}},
	} {
		if got := percentile(values, c.p); got != c.want {
			t.Errorf("p%g is %v, want %v", c.p, got, c.want)
		}
	}
}

func TestNewResult(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	for name, c := range map[string]struct {
		saw  hammer.Outcome
		want result
		err  error
	}{
		"nothing failed": {
			hammer.Outcome{Requests: 100, Outage: 30 * time.Millisecond},
			result{Requests: 100, Outage: 30}, nil,
		},
		"served again": {
			hammer.Outcome{Requests: 100, Failed: 20, Outage: 600 * time.Millisecond, FirstFailed: at(100), LastFailed: at(650),
				LastWithoutResponse: at(300)},
			result{Requests: 100, Failed: 20, Outage: 600, Disturbed: 550, Stale: 300}, nil,
		},
		"requests failed until the end": {
			hammer.Outcome{Requests: 100, Failed: 50, FirstFailed: at(0), LastFailed: at(9900), LastWithoutResponse: at(9900)},
			result{Requests: 100, Failed: 50, Disturbed: 9900, Stale: 9900, Unfinished: true}, nil,
		},
		"a request failed before the fault": {
			hammer.Outcome{Requests: 100, Failed: 1, FirstFailed: at(-600), LastFailed: at(-600), LastWithoutResponse: at(-600)},
			result{}, errBusy,
		},
	} {
		if got, err := newResult(c.saw, begin, at(10_000), requestTimeout); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, err, c.want, c.err)
		}
	}
}

// some are results of two repetitions of two faults.
func some() []result {
	first, second := time.Unix(100, 0), time.Unix(200, 0)
	return []result{
		{Round: first, Fault: "planned", Variant: "floor", Outage: 500, Machine: "a machine"},
		{Round: first, Fault: "planned", Variant: ours, Outage: 700, Disturbed: 680, Failed: 27, Machine: "a machine"},
		{Round: second, Fault: "planned", Variant: "floor", Outage: 520, Machine: "a machine"},
		{Round: second, Fault: "planned", Variant: ours, Outage: 620, Disturbed: 600, Failed: 24, Machine: "a machine"},
		{Round: first, Fault: "sigstop", Variant: "vault-helm", Outage: 8000, Disturbed: 45_000, Stale: 45_000, Failed: 900,
			Unfinished: true, Machine: "a machine"},
	}
}

func TestTables(t *testing.T) {
	got := tables(some())
	for _, want := range []string{
		"on a machine of a machine.",
		"| Vault Operator | 2 | 0.62 s | **0.62 s** | 0.70 s | 0.62 s | 0.70 s | 24 |\n",
		"by 0.10 s in the median and 0.20 s at p99.",
		"| vault-helm | 1 | 8.00 s | **8.00 s** | 8.00 s | > 45.00 s | > 45.00 s | 900 | > 45.00 s | > 45.00 s |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "upgrade") {
		t.Error("there is a table of a fault that was not measured")
	}
}

func TestInsert(t *testing.T) {
	page := "before\n" + reportBegin + "old\n" + reportEnd + "after\n"
	got, err := insert(page, "new\n")
	if want := "before\n" + reportBegin + "new\n" + reportEnd + "after\n"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if got, err := insert("no place", "new\n"); err == nil {
		t.Errorf("without a place for it: %q", got)
	}
}

func TestPlot(t *testing.T) {
	picture, err := plot(some())
	if err != nil {
		t.Fatal(err)
	}
	decoder := xml.NewDecoder(strings.NewReader(picture))
	circles := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "circle" {
			circles++
		}
	}
	// Two in the legend, one for each outage, and a ring.
	if want := 2 + len(some()) + 1; circles != want {
		t.Errorf("%d circles, want %d", circles, want)
	}
}
