// Command failover measures for how long clients of a Vault are not served when
// its active node goes away, in every way that a node does, and compares the
// operator with how others point a Service at the active node: at the same
// moment, on the same cluster, with the same build of Vault.
//
// Results are appended to a file, one a line, and what the file has already is
// not measured again. docs/benchmarks.md and its plot are made of it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	reportFile = "docs/benchmarks.md"
	plotFile   = "docs/benchmarks.svg"
	// resultsFile is what the report is made of.
	resultsFile = "docs/benchmarks.jsonl"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	names := flag.String("variants", strings.Join(namesOf(variants), ","), "what is compared")
	chosen := flag.String("faults", strings.Join(namesOfFaults(faults), ","), "what is done to the active nodes")
	flag.IntVar(&o.repetitions, "n", 20,
		"how many results of each variant and fault the file shall have; 0 only brings the Vaults up")
	flag.DurationVar(&o.interval, "interval", 100*time.Millisecond,
		"pause between two requests of a client; a small machine is kept busy by short ones")
	flag.DurationVar(&o.limit, "limit", 6*time.Hour, "after how long no repetition is begun any more")
	flag.StringVar(&o.file, "results", resultsFile, "the file with the results; the report is made of this one alone")
	reportOnly := flag.Bool("report", false, "only write "+reportFile+" and "+plotFile+" from the file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := o.choose(*names, *chosen); err != nil {
		return err
	}
	if !*reportOnly {
		if err := o.measure(ctx); err != nil {
			return err
		}
	}
	if o.file != resultsFile {
		return nil
	}
	return o.report()
}

type options struct {
	variants    []variant
	faults      []fault
	repetitions int
	limit       time.Duration
	interval    time.Duration
	file        string
}

// choose takes the variants and faults of these names.
func (o *options) choose(variantList, faultList string) error {
	all := slices.Concat(reported, retrying)
	for name := range strings.SplitSeq(variantList, ",") {
		i := slices.IndexFunc(all, func(v variant) bool { return v.name == name })
		if i < 0 {
			return fmt.Errorf("there is no variant %q: choose of %s", name, namesOf(all))
		}
		o.variants = append(o.variants, all[i])
	}
	for name := range strings.SplitSeq(faultList, ",") {
		i := slices.IndexFunc(known, func(f fault) bool { return f.name == name })
		if i < 0 {
			return fmt.Errorf("there is no fault %q: choose of %s", name, namesOfFaults(known))
		}
		o.faults = append(o.faults, known[i])
	}
	return nil
}

// maxFailures is how many repetitions in a row may fail.
const maxFailures = 3

func (o *options) measure(ctx context.Context) error {
	begin := time.Now()
	b, err := newBench(o.variants, o.interval)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.setUp(ctx); err != nil {
		return err
	}
	failed := 0
	for {
		have, err := readResults(o.file)
		if err != nil {
			return err
		}
		f, missing := o.next(have)
		if missing == 0 {
			break
		}
		if time.Since(begin) > o.limit {
			fmt.Println("the time is over; run it again to go on")
			return nil
		}
		fmt.Printf("%s, %d to go\n", f.name, missing)
		results, err := b.round(ctx, f)
		if err == nil {
			failed = 0
			err = appendResults(o.file, results)
		} else if failed++; failed < maxFailures && ctx.Err() == nil {
			fmt.Println("not measured:", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	fmt.Printf("The Vaults are left; to remove them: kubectl delete namespace %s\n", namespace)
	return nil
}

// next is the fault of which most is missing, so that a run that is cut short has
// something of each.
func (o *options) next(have []result) (f fault, missing int) {
	for _, candidate := range o.faults {
		if n := o.missing(have, candidate); n > missing {
			f, missing = candidate, n
		}
	}
	return f, missing
}

// missing is how many repetitions of a fault are still to be made.
func (o *options) missing(have []result, f fault) int {
	most := 0
	for _, v := range o.variants {
		made := 0
		for _, r := range have {
			if r.Fault == f.name && r.Variant == v.name {
				made++
			}
		}
		most = max(most, o.repetitions-made)
	}
	return most
}

func readResults(file string) (results []result, err error) {
	in, err := os.Open(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		var r result
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file, len(results)+1, err)
		}
		results = append(results, r)
	}
	return results, scanner.Err()
}

func appendResults(file string, results []result) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for _, r := range results {
		fmt.Printf("  %-18s %s\n", r.Variant, r)
		if err == nil {
			err = json.NewEncoder(out).Encode(r)
		}
	}
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}

func (o *options) report() error {
	results, err := readResults(o.file)
	if err != nil {
		return err
	}
	page, err := os.ReadFile(reportFile)
	if err != nil {
		return err
	}
	written, err := insert(string(page), tables(results))
	if err != nil {
		return fmt.Errorf("%s: %w", reportFile, err)
	}
	picture, err := plot(results)
	if err != nil {
		return err
	}
	if err := os.WriteFile(reportFile, []byte(written), 0o644); err != nil {
		return err
	}
	return os.WriteFile(plotFile, []byte(picture), 0o644)
}
