package main

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// The part of the page between these lines is made by this program.
const (
	reportBegin = "<!-- Made by test/bench/failover from here -->\n"
	reportEnd   = "<!-- to here -->\n"
)

// insert puts the tables where they belong in the page.
func insert(page, tables string) (string, error) {
	before, rest, begins := strings.Cut(page, reportBegin)
	_, after, ends := strings.Cut(rest, reportEnd)
	if !begins || !ends {
		return "", errors.New("it has no place for the results: two comments show where it is")
	}
	return before + reportBegin + tables + reportEnd + after, nil
}

// value is a duration in milliseconds; over says that it was longer, and the
// observation ended.
type value struct {
	ms   int64
	over bool
}

func (v value) String() string {
	if v.over {
		return "> " + ms(v.ms)
	}
	return ms(v.ms)
}

// ms prints milliseconds as seconds.
func ms(n int64) string {
	return fmt.Sprintf("%.2f s", time.Duration(n*int64(time.Millisecond)).Seconds())
}

// percentile is the smallest of the values that p percent of them do not exceed.
func percentile(values []value, p float64) value {
	sorted := slices.SortedFunc(slices.Values(values), func(a, b value) int { return cmp.Compare(a.ms, b.ms) })
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

func outage(r result) value    { return value{ms: r.Outage} }
func disturbed(r result) value { return value{ms: max(r.Disturbed, r.Outage), over: r.Unfinished} }
func stale(r result) value     { return value{ms: r.Stale, over: r.Unfinished && r.Stale > 0} }

func valuesOf(results []result, what func(result) value) (values []value) {
	for _, r := range results {
		values = append(values, what(r))
	}
	return values
}

func of(results []result, f fault, v variant) (found []result) {
	for _, r := range results {
		if r.Fault == f.name && r.Variant == v.name {
			found = append(found, r)
		}
	}
	return found
}

func measured(results []result, f fault) bool {
	return slices.ContainsFunc(results, func(r result) bool { return r.Fault == f.name })
}

// tables prints the results, a table for each fault.
func tables(results []result) string {
	var out strings.Builder
	machines := map[string]bool{}
	loads := []value{}
	for _, r := range results {
		machines[r.Machine] = true
		loads = append(loads, value{ms: int64(r.Load * 1000)})
	}
	if len(results) == 0 {
		return "\nNothing has been measured.\n\n"
	}
	for m := range machines {
		fmt.Fprintf(&out, "\nMeasured by `make bench-failover` on a machine of %s. Its load when a repetition began was "+
			"%.1f in the median and %.1f at most.\n",
			m, float64(percentile(loads, 50).ms)/1000, float64(percentile(loads, 100).ms)/1000)
	}
	for _, f := range known {
		if measured(results, f) {
			table(&out, results, f)
		}
	}
	out.WriteString("\n")
	return out.String()
}

func table(out *strings.Builder, results []result, f fault) {
	// For how long a dead node is in the Service is of interest when the node
	// does not refuse clients itself.
	dead := f.cut || f.signal == syscall.SIGSTOP
	head, line := "| | n | outage min | median | p99 | until the last failed request, median | p99 | failed requests, "+
		"median |", "|---|---|---|---|---|---|---|---|"
	switch {
	case dead:
		head, line = head+" dead node in the Service, median | p99 |", line+"---|---|"
	case f.window == 0:
		head, line = head+" failovers, median |", line+"---|"
	}
	fmt.Fprintf(out, "\n### %s\n\n%s\n%s\n", f.title, head, line)
	for _, v := range reported {
		found := of(results, f, v)
		if len(found) == 0 {
			continue
		}
		outages, all := valuesOf(found, outage), valuesOf(found, disturbed)
		failed := percentile(valuesOf(found, func(r result) value { return value{ms: int64(r.Failed)} }), 50)
		fmt.Fprintf(out, "| %s | %d | %s | **%s** | %s | %s | %s | %d |", v.title, len(found),
			percentile(outages, 0), percentile(outages, 50), percentile(outages, 99), percentile(all, 50), percentile(all, 99),
			failed.ms)
		switch {
		case dead && v.service == "":
			out.WriteString(" | |")
		case dead:
			times := valuesOf(found, stale)
			fmt.Fprintf(out, " %s | %s |", percentile(times, 50), percentile(times, 99))
		case f.window == 0:
			changes := percentile(valuesOf(found, func(r result) value { return value{ms: int64(r.Failovers)} }), 50)
			fmt.Fprintf(out, " %d |", changes.ms)
		}
		out.WriteString("\n")
	}
	for _, storage := range []struct{ name, alone, service string }{
		{"With etcd", "floor", ours}, {"With integrated storage", "floor-raft", oursRaft},
	} {
		if costs := serviceCosts(results, f, storage.alone, storage.service); len(costs) > 0 {
			fmt.Fprintf(out, "\n%s, in the same repetition, the outage of clients of the operator's Service was longer than "+
				"that of clients that need none by %s in the median and %s at p99.\n",
				storage.name, percentile(costs, 50), percentile(costs, 99))
		}
	}
}

// serviceCosts is how much longer the outage was in each repetition for clients that
// find the active node by the operator's Service than for those that use all nodes.
func serviceCosts(results []result, f fault, without, with string) (costs []value) {
	alone := map[time.Time]int64{}
	for _, r := range of(results, f, variant{name: without}) {
		alone[r.Round] = r.Outage
	}
	for _, r := range of(results, f, variant{name: with}) {
		if outage, ok := alone[r.Round]; ok {
			costs = append(costs, value{ms: r.Outage - outage})
		}
	}
	return costs
}

//go:embed plot.svg.tmpl
var plotTemplate string

// The measures of the plot, in pixels. Time goes from a tenth of a second to a
// hundred seconds, each power of ten as wide as the others.
const (
	plotLeft, plotRight = 170, 770
	plotRow, plotPanel  = 20, 44
)

func plotX(v int64) float64 {
	decades := math.Log10(math.Max(float64(v), 100) / 100)
	return plotLeft + min(decades, 3)*(plotRight-plotLeft)/3
}

type plotDot struct {
	X, Y float64
	// Ring is for the time until the last failed request.
	Ring, Over bool
}

type plotLabel struct {
	Y    float64
	Text string
}

type plotPage struct {
	Height, Left, Right float64
	Ticks               []plotTick
	Titles, Rows        []plotLabel
	Medians, Dots       []plotDot
}

type plotTick struct {
	X    float64
	Text string
}

// plot draws all results: a dot for each outage, and a ring where requests
// failed for longer.
func plot(results []result) (string, error) {
	page := plotPage{Left: plotLeft, Right: plotRight}
	for _, s := range []int64{100, 1000, 10_000, 100_000} {
		page.Ticks = append(page.Ticks, plotTick{plotX(s), fmt.Sprintf("%g s", float64(s)/1000)})
	}
	y := 50.0
	for _, f := range faults {
		if !measured(results, f) {
			continue
		}
		y += plotPanel
		page.Titles = append(page.Titles, plotLabel{y - plotRow/2 - 6, f.title})
		for _, v := range reported {
			found := of(results, f, v)
			if len(found) == 0 {
				continue
			}
			y += plotRow
			page.Rows = append(page.Rows, plotLabel{y, v.title})
			for _, r := range found {
				page.Dots = append(page.Dots, plotDot{X: plotX(r.Outage), Y: y})
				if all := disturbed(r); all.over || all.ms > r.Outage+r.Outage/10 {
					page.Dots = append(page.Dots, plotDot{X: plotX(all.ms), Y: y, Ring: true, Over: all.over})
				}
			}
			page.Medians = append(page.Medians, plotDot{X: plotX(percentile(valuesOf(found, outage), 50).ms), Y: y})
		}
	}
	page.Height = y + plotPanel
	parsed, err := template.New("").Parse(plotTemplate)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = parsed.Execute(&out, page)
	return out.String(), err
}
