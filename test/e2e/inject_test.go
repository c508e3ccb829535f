//go:build e2e

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/localcluster"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// inNode is the start of a command line that runs it in the network of a node.
func inNode(t *testing.T, node string) string {
	t.Helper()
	return "nsenter --net=" + netnsOf(t, node) + " "
}

func netnsOf(t *testing.T, node string) string {
	t.Helper()
	path, err := localcluster.Netns(node)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// signal sends a signal to the process of a node, and returns its id.
func (f *fixture) signal(t *testing.T, pod string, signal syscall.Signal) (pid int) {
	t.Helper()
	pid = f.pid(t, pod, "vault")
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	return pid
}

// pid is the process id, on this machine, of a pod's container.
func (f *fixture) pid(t *testing.T, pod, container string) (pid int) {
	t.Helper()
	out := shell.Run(t, "$LOCAL_CLUSTER pid "+f.Namespace+"/"+pod+" "+container)
	if _, err := fmt.Sscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// hangAPIServer stops the process of the API server while fn runs.
func hangAPIServer(t *testing.T, fn func()) {
	t.Helper()
	var pid int
	out := shell.Run(t, `$LOCAL_CLUSTER status | awk '$1 == "kube-apiserver" {print $4}'`)
	if _, err := fmt.Sscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	fn()
}

// drain evicts what is on a node.
func drain(t *testing.T, node string) {
	t.Helper()
	// What comes after must not miss it when this fails.
	t.Cleanup(func() { shell.Run(t, "kubectl uncordon "+node) })
	begin := time.Now()
	shell.Run(t, "kubectl drain --ignore-daemonsets --delete-emptydir-data --timeout=120s "+node)
	t.Logf("%s is drained after %s", node, time.Since(begin).Round(time.Second))
}
