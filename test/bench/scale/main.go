// Command scale measures what the operator needs for many Vaults, and how it fares
// when they are more than the machine bears: its process, as it is deployed and with
// the rights that it is deployed with, serves a real kube-apiserver and etcd. There
// is no kubelet: Vault nodes are TLS servers of this program on loopback addresses,
// and their pods are written by it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

// options are what the flags say.
type options struct {
	sizes       []int
	tree        string
	binary      string
	log         string
	results     string
	releases    bool
	generated   bool
	overload    bool
	schedules   bool
	parallel    int
	single      int
	atOnce      int
	rest        time.Duration
	limit       time.Duration
	perPlace    int
	gap         time.Duration
	sampleEvery time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o, err := parseFlags()
	if err != nil {
		return err
	}
	// What the libraries of the control plane log is of no interest.
	ctrl.SetLogger(logr.Discard())
	if _, err := os.Stat(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kube-apiserver")); err != nil {
		return fmt.Errorf("KUBEBUILDER_ASSETS has to name a directory with kube-apiserver, etcd and kubectl; "+
			"\"make cluster\" builds them, and \"make bench-scale\" names it: %w", err)
	}
	for _, file := range []string{o.log, o.results} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
	}
	if o.binary == "" {
		dir, err := os.MkdirTemp("", "vault-operator-scale-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if o.binary, err = build(ctx, o.tree, dir); err != nil {
			return err
		}
	}
	var all []result
	for _, size := range o.sizes {
		r, err := measure(ctx, o, size)
		if r != nil {
			all = append(all, *r)
			fmt.Println()
			printTables(os.Stdout, []result{*r})
			if err := write(o.results, all); err != nil {
				return err
			}
		}
		if err != nil {
			return fmt.Errorf("%d Vaults: %w", size, err)
		}
	}
	fmt.Printf("\nThe results are in %s.\n", o.results)
	if len(all) > 1 {
		fmt.Println()
		printTables(os.Stdout, all)
	}
	return nil
}

func parseFlags() (o options, err error) {
	sizes := flag.String("n", "100",
		"how many Vaults of three nodes; several numbers, separated by commas, are measured one after the other")
	flag.StringVar(&o.tree, "tree", ".", "the work tree whose operator and manifests are measured")
	flag.StringVar(&o.binary, "operator", "", "the operator's binary; built from the work tree, if not set")
	flag.StringVar(&o.log, "log", "build/scale-operator.log", "file for the operator's log")
	flag.StringVar(&o.results, "results", "build/scale.json", "file for the results")
	flag.BoolVar(&o.releases, "releases", true,
		"whether the operator deploys the Vaults; without, each names a ConfigMap that does not exist, and only probes and "+
			"labels are measured")
	flag.BoolVar(&o.generated, "generated", false,
		"let the operator generate certificates, instead of naming a Secret of the namespace")
	flag.BoolVar(&o.overload, "overload", false,
		"create all Vaults at once, sample until every label is right, and measure nothing else but the rest")
	flag.BoolVar(&o.schedules, "schedules", false,
		"give each Vault a backup schedule of the same time of the day, follow the backups until each has its Job, and "+
			"measure no failovers; -limit has to be at least 15m")
	flag.IntVar(&o.parallel, "parallel", 8, "how many Vaults are created at a time, when it is not all")
	flag.IntVar(&o.single, "single", 20, "how many failovers of each kind happen one at a time")
	flag.IntVar(&o.atOnce, "at-once", 150,
		"how many failovers of each kind happen at the same moment, or as many as there are Vaults")
	flag.DurationVar(&o.rest, "rest", 30*time.Second, "for how long the operator is measured at rest")
	flag.DurationVar(&o.limit, "limit", 8*time.Minute, "how long one number of Vaults may take")
	flag.IntVar(&o.perPlace, "per-namespace", 10, "how many Vaults share a namespace")
	flag.DurationVar(&o.gap, "gap", 2*time.Second, "for how long no node is active after the active one has died")
	flag.DurationVar(&o.sampleEvery, "sample", 5*time.Second, "how often an overload is sampled")
	flag.Parse()
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > maxVaults {
			return o, fmt.Errorf("-n %s: want numbers from 1 to %d", *sizes, maxVaults)
		}
		o.sizes = append(o.sizes, n)
	}
	if o.perPlace < 1 || o.parallel < 1 {
		return o, errors.New("-per-namespace and -parallel have to be at least 1")
	}
	return o, nil
}

// build builds the operator.
func build(ctx context.Context, tree, dir string) (string, error) {
	binary := dir + "/vault-operator"
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
	cmd.Dir = tree
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building the operator: %w\n%s", err, text.String())
	}
	return binary, nil
}

func write(file string, results []result) error {
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// measure measures with one number of Vaults. What was measured before it failed
// is returned as well.
func measure(ctx context.Context, o options, size int) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	b, err := newBench(ctx, o, size)
	defer b.close()
	if err != nil {
		return nil, err
	}
	r := &result{Machine: machine(), Commit: commit(o.tree), Vaults: size, Releases: o.releases, Generated: o.generated}
	if o.overload {
		err = b.overload(ctx, r)
	} else {
		err = b.create(ctx, r)
	}
	if err == nil {
		err = b.atRest(ctx, r)
	}
	switch {
	case err != nil:
	case o.schedules:
		err = b.schedules(ctx, r)
	case !o.overload:
		err = b.failovers(ctx, r)
	}
	usage, usageErr := b.operator.usage()
	r.PeakMiB = usage.peakMiB
	r.LostLabels = b.fleet.lost.Load()
	if ended := b.operator.ended(); ended != nil {
		return r, fmt.Errorf("the operator ended by itself: %w; see %s", ended, o.log)
	}
	return r, errors.Join(err, usageErr)
}
