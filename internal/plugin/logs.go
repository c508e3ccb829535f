package plugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// logLineLimit is how much of a line of a log is kept.
const logLineLimit = 64 << 10

type logsOptions struct {
	follow bool
	tail   int64
}

func (p *plugin) logsCommand() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print the logs of all nodes of a Vault",
		Long: `Print the logs of all nodes of a Vault, each line with the name of its pod before it.
With -f nodes that start later are followed as well.`,
		Example: `  kubectl vault logs example --tail=20
  kubectl vault logs example -f`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.logs(cmd.Context(), args[0], o) },
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "Go on with what is logged from now on")
	cmd.Flags().Int64Var(&o.tail, "tail", -1, "How many of the last lines of each node to print; -1 prints all")
	return cmd
}

func (p *plugin) logs(ctx context.Context, name string, o logsOptions) error {
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	vault, err := cluster.vault(ctx, name)
	if err != nil {
		return err
	}
	l := &logs{plugin: p, target: &target{cluster: cluster, vault: vault}, options: o,
		since: map[types.UID]*metav1.Time{}, failed: map[types.UID]bool{}}
	if o.follow {
		return l.follow(ctx)
	}
	pods, err := l.pods(ctx)
	if err != nil {
		return err
	}
	for i := range pods {
		switch err := l.copy(ctx, &pods[i]); {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errPrint):
			return err
		case err != nil:
			l.tell(&pods[i], err)
		}
	}
	if len(pods) > 0 && len(l.failed) == len(pods) {
		return errors.New("no log could be read")
	}
	return nil
}

type logs struct {
	*plugin
	*target
	options logsOptions

	mu sync.Mutex
	// since is when the log of a pod ended that is to be followed; nil while it is.
	since map[types.UID]*metav1.Time
	// failed are the pods whose log could not be read once, which was told.
	failed map[types.UID]bool
}

// tell tells the first error of a pod.
func (l *logs) tell(pod *corev1.Pod, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.failed[pod.UID] {
		l.failed[pod.UID] = true
		fmt.Fprintf(l.errOut, "%s: %s\n", pod.Name, reason(err))
	}
}

// follow follows the pods that there are, and those that come, until that is of no use.
func (l *logs) follow(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop(nil)
	for {
		pods, err := l.pods(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		for i := range pods {
			pod := &pods[i]
			l.mu.Lock()
			since, known := l.since[pod.UID]
			l.since[pod.UID] = nil
			l.mu.Unlock()
			if known && since == nil {
				continue
			}
			running.Go(func() {
				err := l.copySince(ctx, pod, since)
				switch {
				case ctx.Err() != nil, err == nil:
				case apierrors.IsForbidden(err), errors.Is(err, errPrint):
					stop(err)
				default:
					l.tell(pod, err) // and it is tried again: most often it is starting
				}
				ended := metav1.Now()
				l.mu.Lock()
				l.since[pod.UID] = &ended
				l.mu.Unlock()
			})
		}
		if err := l.wait(ctx); err != nil {
			return context.Cause(ctx)
		}
	}
}

// errPrint is for a standard output that is broken.
var errPrint = errors.New("the logs cannot be printed")

func (l *logs) copy(ctx context.Context, pod *corev1.Pod) error { return l.copySince(ctx, pod, nil) }

func (l *logs) copySince(ctx context.Context, pod *corev1.Pod, since *metav1.Time) error {
	options := &corev1.PodLogOptions{Container: v1alpha1.VaultContainer, Follow: l.options.follow, SinceTime: since}
	if l.options.tail >= 0 && since == nil {
		options.TailLines = &l.options.tail
	}
	stream, err := l.core.Pods(l.namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	return eachLine(stream, func(text string) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, err := fmt.Fprintf(l.out, "[%s] %s\n", pod.Name, text); err != nil {
			return fmt.Errorf("%w: %w", errPrint, err)
		}
		return nil
	})
}

// eachLine hands out the lines of a log. What is longer than a line may be is left out.
func eachLine(log io.Reader, do func(string) error) error {
	lines := bufio.NewReaderSize(log, logLineLimit)
	for {
		text, cut, err := lines.ReadLine()
		if err == nil {
			one := string(text)
			for cut && err == nil {
				_, cut, err = lines.ReadLine()
			}
			if err := do(one); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
