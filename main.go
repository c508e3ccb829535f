// The Vault Operator runs HashiCorp Vault on Kubernetes: a Helm reconciler
// renders what a Vault resource consists of, and beside it Go controllers look
// at the living Vault, point its Service at the active node and write its status.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/operator"
)

func main() {
	// The Jobs that the operator starts for backups have its own image.
	if len(os.Args) > 1 && os.Args[1] == "backup" {
		exitOn(runBackup())
		return
	}
	options := operator.Options{}
	flag.StringVar(&options.WatchesFile, "watches-file", "watches.yaml",
		"File that says which chart renders a Vault.")
	flag.StringVar(&options.MetricsAddress, "metrics-bind-address", ":8443",
		"Address of the metrics, served over HTTPS to clients that the API server authenticates and authorizes; "+
			"0 turns them off.")
	flag.StringVar(&options.ProbeAddress, "health-probe-bind-address", ":8081",
		"Address of /healthz and /readyz.")
	flag.BoolVar(&options.LeaderElect, "leader-elect", true,
		"Let one replica at a time render releases and write the status. Every replica keeps the Services pointed at "+
			"the active nodes. Disable it only for local development, with one replica.")
	level := zap.LevelFlag("log-level", zapcore.InfoLevel,
		"Least level that is logged: debug, info, warn or error.")
	flag.StringVar(&options.Namespaces, "watch-namespace", os.Getenv("WATCH_NAMESPACE"),
		"Namespaces whose Vaults are served, separated by commas; by default those in the environment variable "+
			"WATCH_NAMESPACE, and without any all.")
	flag.StringVar(&options.Namespace, "namespace", "",
		"Namespace of the operator itself, for the election of a leader and the records of Helm releases; "+
			"by default that of its service account. Nobody but administrators of the operator may write Secrets there.")
	flag.Parse()

	logger, err := newLogger(*level)
	if err == nil {
		ctrl.SetLogger(logger)
		err = operator.Run(ctrl.SetupSignalHandler(), options)
	}
	exitOn(err)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "vault-operator:", err)
		os.Exit(1)
	}
}

func runBackup() error {
	logger, err := newLogger(zapcore.InfoLevel)
	if err != nil {
		return err
	}
	return backup.Main(logger)
}

func newLogger(level zapcore.Level) (logr.Logger, error) {
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(level)
	config.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	// Nothing is dropped from the record of a failover.
	config.Sampling = nil
	logger, err := config.Build()
	if err != nil {
		return logr.Logger{}, err
	}
	return zapr.NewLogger(logger), nil
}
