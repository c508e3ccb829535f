package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is what was measured with one number of Vaults.
type result struct {
	Machine   string     `json:"machine"`
	Commit    string     `json:"commit"`
	Vaults    int        `json:"vaults"`
	Releases  bool       `json:"releases"`
	Generated bool       `json:"generated"`
	Creation  *creation  `json:"creation,omitempty"`
	Overload  *overload  `json:"overload,omitempty"`
	Rest      *idle      `json:"rest,omitempty"`
	Failovers []failover `json:"failovers,omitempty"`
	Backups   *backups   `json:"backups,omitempty"`
	// LostLabels counts labels that were taken from the pod of an active node that responds.
	LostLabels int64 `json:"lostLabels"`
	// PeakMiB is the most memory that was resident.
	PeakMiB float64 `json:"peakMiB"`
}

// requests are counts by verb and resource.
type requests map[string]float64

// creation is what it takes to create the Vaults; requests are a Vault's.
type creation struct {
	Seconds  float64  `json:"seconds"`
	Requests requests `json:"requests"`
}

// idle is what the operator uses while nothing happens.
type idle struct {
	Cores             float64 `json:"cores"`
	RSSMiB            float64 `json:"rssMiB"`
	HeapMiB           float64 `json:"heapMiB"`
	ProbesPerSecond   float64 `json:"probesPerSecond"`
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	// MachineBusy is the share of all CPUs that anybody used.
	MachineBusy float64 `json:"machineBusy"`
	// Right is how many Vaults had the label where it belongs.
	Right int `json:"right"`
}

// failover is how long the label took; requests are of one failover.
type failover struct {
	Kind     string   `json:"kind"`
	AtOnce   int      `json:"atOnce"`
	Count    int      `json:"count"`
	Missed   int      `json:"missed"`
	MedianMS int64    `json:"medianMS"`
	P99MS    int64    `json:"p99MS"`
	MaxMS    int64    `json:"maxMS"`
	Lost     int64    `json:"lost"`
	Requests requests `json:"requests"`
}

// overload is how the labels were while there was more to do than can be done.
type overload struct {
	Samples   []sample `json:"samples"`
	Recovered bool     `json:"recovered"`
	// RecoverySeconds is how long it took from the last node's start until every label was right.
	RecoverySeconds float64 `json:"recoverySeconds"`
}

type sample struct {
	Seconds float64 `json:"seconds"`
	// Running counts Vaults whose nodes run, and Right those whose label is where it belongs.
	Running    int     `json:"running"`
	Right      int     `json:"right"`
	Lost       int64   `json:"lost"`
	PodPatches int     `json:"podPatches"`
	RSSMiB     float64 `json:"rssMiB"`
	CPUSeconds float64 `json:"cpuSeconds"`
}

func (r requests) combine(other requests, sign float64) requests {
	result := maps.Clone(r)
	if result == nil {
		result = requests{}
	}
	for kind, n := range other {
		if result[kind] += sign * n; result[kind] == 0 {
			delete(result, kind)
		}
	}
	return result
}

func (r requests) plus(other requests) requests { return r.combine(other, 1) }

func (r requests) minus(other requests) requests { return r.combine(other, -1) }

func (r requests) per(count int) requests {
	result := requests{}
	for kind, n := range r {
		result[kind] = n / float64(count)
	}
	return result
}

// withoutLease leaves out what the election of a leader takes all the time.
func (r requests) withoutLease() requests {
	return r.only(func(kind string) bool { return !strings.HasSuffix(kind, " leases") })
}

func (r requests) only(keep func(kind string) bool) requests {
	result := maps.Clone(r)
	maps.DeleteFunc(result, func(kind string, _ float64) bool { return !keep(kind) })
	return result
}

func (r requests) total() (sum float64) {
	for _, n := range r {
		sum += n
	}
	return sum
}

// secretReads counts how often a Secret was read.
func (r requests) secretReads() float64 {
	return r["get secrets"] + r["list secrets"]
}

func (r requests) String() string {
	kinds := slices.SortedFunc(maps.Keys(r), func(a, b string) int {
		if r[a] != r[b] {
			return int(math.Copysign(1, r[b]-r[a]))
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, kind := range kinds {
		parts = append(parts, fmt.Sprintf("%s %s", number(r[kind]), kind))
	}
	return strings.Join(parts, ", ")
}

// number prints a count, and a mean with two digits.
func number(n float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(n, 'f', 2, 64), "0"), ".")
}

func (f *failover) summarize(took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	f.MedianMS = percentile(took, 50).Milliseconds()
	f.P99MS = percentile(took, 99).Milliseconds()
	f.MaxMS = took[len(took)-1].Milliseconds()
}

// percentile is the smallest of the sorted values that p percent do not exceed.
func percentile(sorted []time.Duration, p float64) time.Duration {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// printTables prints Markdown.
func printTables(out io.Writer, all []result) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(out, "Commit %s, on a machine of %s.\n\n", all[0].Commit, all[0].Machine)
	printRest(out, all)
	printFailovers(out, all)
	for _, r := range all {
		if r.Creation != nil {
			fmt.Fprintf(out, "\n%d Vaults: created in %.0f s; %.1f requests a Vault: %s.\n",
				r.Vaults, r.Creation.Seconds, r.Creation.Requests.total(), r.Creation.Requests)
		}
		for _, f := range r.Failovers {
			fmt.Fprintf(out, "\n%d Vaults, %s, %d at once: %.1f requests a failover: %s.\n",
				r.Vaults, f.Kind, f.AtOnce, f.Requests.total(), f.Requests)
		}
		if r.Overload != nil {
			printOverload(out, r)
		}
		if r.Backups != nil {
			printBackups(out, r)
		}
	}
}

func printRest(out io.Writer, all []result) {
	fmt.Fprint(out, "| Vaults | deployed | requests of a creation | at rest: cores | RSS | heap | RSS at most | "+
		"probes/s | requests/s | labels lost | machine busy |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range all {
		created := "-"
		if r.Creation != nil {
			created = fmt.Sprintf("%.1f", r.Creation.Requests.total())
		}
		resting := idle{}
		if r.Rest != nil {
			resting = *r.Rest
		}
		deployed := "yes"
		switch {
		case !r.Releases:
			deployed = "no"
		case r.Generated:
			deployed = "yes, with generated certificates"
		}
		fmt.Fprintf(out, "| %d | %s | %s | %.2f | %.0f MiB | %.0f MiB | %.0f MiB | %.0f | %.1f | %d | %.0f %% |\n",
			r.Vaults, deployed, created, resting.Cores, resting.RSSMiB, resting.HeapMiB, r.PeakMiB,
			resting.ProbesPerSecond, resting.RequestsPerSecond, r.LostLabels, 100*resting.MachineBusy)
	}
}

func printFailovers(out io.Writer, all []result) {
	if !slices.ContainsFunc(all, func(r result) bool { return len(r.Failovers) > 0 }) {
		return
	}
	fmt.Fprint(out, "\n| Vaults | failover | at once | n | median | p99 | max | missed | requests | reads of Secrets |\n"+
		"|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range all {
		for _, f := range r.Failovers {
			fmt.Fprintf(out, "| %d | %s | %d | %d | %s | %s | %s | %d | %.1f | %.1f |\n",
				r.Vaults, f.Kind, f.AtOnce, f.Count, seconds(f.MedianMS), seconds(f.P99MS), seconds(f.MaxMS), f.Missed,
				f.Requests.total(), f.Requests.secretReads())
		}
	}
}

func printOverload(out io.Writer, r result) {
	fmt.Fprintf(out, "\n%d Vaults created at once: ", r.Vaults)
	if r.Overload.Recovered {
		fmt.Fprintf(out, "every label was right %.0f s after the last node ran.\n", r.Overload.RecoverySeconds)
	} else {
		fmt.Fprint(out, "when the time was over not every label was right.\n")
	}
	fmt.Fprint(out, "\n| seconds | Vaults that run | labels right | labels lost so far | patches of pods | RSS | CPU "+
		"seconds |\n|---|---|---|---|---|---|---|\n")
	for _, s := range thinned(r.Overload.Samples, 20) {
		fmt.Fprintf(out, "| %.0f | %d | %d | %d | %d | %.0f MiB | %.0f |\n",
			s.Seconds, s.Running, s.Right, s.Lost, s.PodPatches, s.RSSMiB, s.CPUSeconds)
	}
}

// thinned returns about so many of the samples, with the last one.
func thinned[T any](samples []T, want int) (kept []T) {
	step := max(1, len(samples)/want)
	for i := len(samples) - 1; i >= 0; i -= step {
		kept = append(kept, samples[i])
	}
	slices.Reverse(kept)
	return kept
}

func seconds(ms int64) string { return fmt.Sprintf("%.2f s", float64(ms)/1000) }

// machine says what it is measured on.
func machine() string {
	text := fmt.Sprintf("%d CPUs", runtime.NumCPU())
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return text
	}
	var kib float64
	if _, err := fmt.Sscanf(string(meminfo), "MemTotal: %f kB", &kib); err != nil {
		return text
	}
	return fmt.Sprintf("%s, %.0f GiB of memory", text, math.Ceil(kib/(1<<20)))
}

// commit names what the work tree has.
func commit(tree string) string {
	out, err := exec.Command("git", "-C", tree, "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return string(bytes.TrimSpace(out))
}

// busy is the CPU time of the whole machine, used and in all.
type busy struct{ used, all float64 }

func machineBusy() busy {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return busy{}
	}
	return parseBusy(string(text))
}

// parseBusy reads the first line of /proc/stat.
func parseBusy(stat string) (b busy) {
	line, _, _ := strings.Cut(stat, "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 { // the name; what follows counts guests twice
			continue
		}
		b.all += n
		if i != 4 && i != 5 { // idle, and waiting for a disk
			b.used += n
		}
	}
	return b
}

// since is the share that was used since then.
func (b busy) since(before busy) float64 {
	if b.all <= before.all {
		return 0
	}
	return (b.used - before.used) / (b.all - before.all)
}
