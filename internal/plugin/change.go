package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

const (
	// execTimeout is for how long a command in a pod may take.
	execTimeout = time.Minute
	// lineTyped is how long a line may be that is typed to confirm something.
	lineTyped = 512
	// goneHint is after how long it is told what may keep a pod from going.
	goneHint = 45 * time.Second
)

// execute runs a command in a container, over a websocket, and as older API servers want it if
// that is refused.
func execute(ctx context.Context, config *rest.Config, to *url.URL, stdin string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	websocket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, to.String())
	if err != nil {
		return "", err
	}
	old, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, to)
	if err != nil {
		return "", err
	}
	executor, err := remotecommand.NewFallbackExecutor(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return "", err
	}
	var out, errOut limited
	options := remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}
	if stdin != "" {
		options.Stdin = strings.NewReader(stdin)
	}
	if err := executor.StreamWithContext(ctx, options); err != nil {
		return "", fmt.Errorf("%w: %s", err, line(errOut.String()))
	}
	return out.String(), nil
}

// limited keeps no more than responseLimit of what a pod prints.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > responseLimit {
		return 0, errors.New("the command printed too much")
	}
	return l.Buffer.Write(p)
}

// confirm has somebody type the name of what is changed, unless that is confirmed already.
func (p *plugin) confirm(ctx context.Context, name string, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprintf(p.errOut, "\nType %s to go on: ", name)
	typed, err := readLine(ctx, p.streams.In)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case strings.TrimSpace(typed) != name:
		return exit(exitRefused, "that was not confirmed, and nothing was changed")
	}
	return nil
}

// readLine reads a line and nothing after it, where there may be key shares.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	read := make(chan typed, 1)
	go func() {
		var text []byte
		one := make([]byte, 1)
		for len(text) < lineTyped {
			n, err := in.Read(one)
			if n == 1 && one[0] != '\n' {
				text = append(text, one[0])
			}
			if err != nil || n == 1 && one[0] == '\n' {
				read <- typed{text, err}
				return
			}
		}
		read <- typed{err: errors.New("the line is too long")}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case line := <-read:
		return string(line.text), line.err
	}
}

// claim reads a volume claim; nil is none.
func (c *cluster) claim(ctx context.Context, name string) (*corev1.PersistentVolumeClaim, error) {
	claim, err := c.core.PersistentVolumeClaims(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return claim, err
}

// pod reads a pod; nil is none.
func (c *cluster) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	pod, err := c.core.Pods(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pod, err
}

// remove deletes a volume claim and the pod that uses it, each if there is one, and waits until
// they are gone. Others of their names may be there then.
func (p *plugin) remove(ctx context.Context, c *cluster, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) error {
	if err := c.delete(ctx, claim, pod); err != nil {
		return err
	}
	began, told := time.Now(), false
	for {
		left, err := c.left(ctx, claim, pod)
		if left == "" || err != nil {
			return err
		}
		if !told && time.Since(began) > goneHint {
			told = true
			fmt.Fprintf(p.errOut, "Waiting until %s is gone\n", left)
			if pod != nil {
				fmt.Fprintf(p.errOut, "If the Kubernetes node of pod %[1]s is gone for good: "+
					"kubectl delete pod %[1]s -n %[2]s --force\n", pod.Name, c.namespace)
			}
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
}

// delete deletes a volume claim and a pod, each if there is one and it is still that one.
func (c *cluster) delete(ctx context.Context, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) error {
	only := func(uid types.UID) metav1.DeleteOptions {
		return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	}
	if claim != nil {
		err := c.core.PersistentVolumeClaims(c.namespace).Delete(ctx, claim.Name, only(claim.UID))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting volume claim %s: %w", claim.Name, err)
		}
	}
	if pod != nil {
		err := c.core.Pods(c.namespace).Delete(ctx, pod.Name, only(pod.UID))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting pod %s: %w", pod.Name, err)
		}
	}
	return nil
}

// left is which of a volume claim and a pod is still there.
func (c *cluster) left(ctx context.Context, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) (string, error) {
	if pod != nil {
		if now, err := c.pod(ctx, pod.Name); err != nil || now != nil && now.UID == pod.UID {
			return "pod " + pod.Name, err
		}
	}
	if claim != nil {
		if now, err := c.claim(ctx, claim.Name); err != nil || now != nil && now.UID == claim.UID {
			return "volume claim " + claim.Name, err
		}
	}
	return "", nil
}
