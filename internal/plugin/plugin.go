// Package plugin is "kubectl vault". It has the rights of whoever runs it and no others,
// speaks to Vault nodes through port-forwards, and keeps keys and tokens in memory only.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Exit codes, which docs/kubectl-plugin.md explains.
const (
	exitError       = 1
	exitSealed      = 2
	exitRefused     = 3
	exitDenied      = 4
	exitNotReady    = 5
	exitInterrupted = 130
)

// exitCode is an error that ends the plugin with a code of its own.
type exitCode struct {
	code int
	err  error
}

func (e *exitCode) Error() string { return e.err.Error() }
func (e *exitCode) Unwrap() error { return e.err }

// exit returns an error that ends the plugin with the code.
func exit(code int, format string, args ...any) error {
	return &exitCode{code, fmt.Errorf(format, args...)}
}

// plugin is what all commands share.
type plugin struct {
	// streams are as the process got them. Commands print to out and errOut.
	streams     genericiooptions.IOStreams
	out, errOut io.Writer
	flags       *genericclioptions.ConfigFlags
	version     string
	// connect returns the cluster that the flags lead to.
	connect func() (*cluster, error)
	// pause is between two looks at what is waited for.
	pause time.Duration
}

// Main runs the plugin, and returns its exit code.
func Main(version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), append(endSignals(), os.Interrupt)...)
	defer stop()
	// What a port-forward prints of its own says less than the errors of its connections.
	utilruntime.ErrorHandlers = nil
	p := newPlugin(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, version)
	return p.run(ctx, os.Args[1:])
}

// endSignals tell the plugin to end. That of a closed terminal does not with nohup.
func endSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

func newPlugin(streams genericiooptions.IOStreams, version string) *plugin {
	p := &plugin{
		streams: streams,
		out:     cleanWriter{streams.Out}, errOut: cleanWriter{streams.ErrOut},
		flags:   genericclioptions.NewConfigFlags(true),
		version: version,
		pause:   2 * time.Second,
	}
	// Its --token would be one of Kubernetes, in the list of processes, and whoever gave it would
	// mean one of Vault.
	p.flags.BearerToken = nil
	p.connect = func() (*cluster, error) { return newCluster(p.flags) }
	return p
}

func (p *plugin) run(ctx context.Context, args []string) int {
	root := p.command()
	root.SetArgs(args)
	root.SetIn(p.streams.In)
	root.SetOut(p.out)
	root.SetErr(p.errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(p.errOut, "interrupted")
		return exitInterrupted
	}
	code := exitError
	if coded := (*exitCode)(nil); errors.As(err, &coded) {
		code = coded.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(p.errOut, "error:", short(text))
	}
	return code
}

const rootHelp = `Initialize, unseal and examine Vaults that the Vault Operator runs.

The plugin uses your kubeconfig. Most commands need no rights beyond reading Vaults, pods and
the Secret with Vault's CA, and forwarding ports to pods; docs/kubectl-plugin.md has those of
the others. Keys and tokens are read from the terminal without echo, from standard input, one
a line, or from files that gpg decrypts. They are written nowhere, but for what init and
generate-root print.`

func (p *plugin) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "kubectl-vault",
		Short:         "Initialize, unseal and examine Vaults",
		Long:          rootHelp,
		Version:       p.version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl vault"},
	}
	// kubectl asks for completions, and so the shell's are kubectl's.
	root.CompletionOptions.DisableDefaultCmd = true
	p.flags.AddFlags(root.PersistentFlags())
	root.PersistentFlags().VisitAll(func(flag *pflag.Flag) {
		switch flag.Name {
		case "namespace", "context", "kubeconfig":
		default:
			flag.Hidden = true // as kubectl has them; they would fill the help of each command
		}
	})
	root.AddCommand(p.initCommand(), p.unsealCommand(), p.sealCommand(), p.statusCommand(), p.stepDownCommand(),
		p.generateRootCommand(), p.authorizeCommand(), p.deauthorizeCommand(), p.execCommand(), p.logsCommand(),
		p.recoverRaftCommand(), p.replaceEtcdMemberCommand(), p.reportCommand(), p.backupCommand(), p.backupsCommand(),
		p.restoreCommand())
	return root
}

// surviveBrokenPipe lets a write to a pipe that nobody reads fail, instead of ending the
// plugin: for what nobody can get a second time. A child process would inherit a signal that
// is ignored.
func surviveBrokenPipe() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// printOnce prints what nobody can get a second time. When standard output is broken it is
// shown at the terminal, if standard error is one.
func (p *plugin) printOnce(text string) (shown bool, err error) {
	if _, err = io.WriteString(p.out, text); err == nil {
		return true, nil
	}
	if _, ok := terminal(p.streams.ErrOut); ok {
		_, again := io.WriteString(p.errOut, text)
		shown = again == nil
	}
	return shown, err
}

// vaultNames completes the name of a Vault.
func (p *plugin) vaultNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
	defer cancel()
	cluster, err := p.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names, err := cluster.names(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// target finds the Vault that a command is about.
func (p *plugin) target(ctx context.Context, name string) (*target, error) {
	cluster, err := p.connect()
	if err != nil {
		return nil, err
	}
	return cluster.target(ctx, name)
}

// wait waits between two looks.
func (p *plugin) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(p.pause):
		return nil
	}
}
