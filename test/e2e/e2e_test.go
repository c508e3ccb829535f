//go:build e2e

// Package e2e drives the operator in a real cluster, as a user does.
package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

const operatorNamespace = "vault-operator-system"

func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, `The end-to-end tests need a cluster with the operator in it: run "make e2e".`)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// everything says that "make e2e-all" runs, which takes hours.
func everything() bool { return os.Getenv("E2E_ALL") != "" }

// onlyInAll skips a test that "make test" has no time for. Where something there is about the
// same, instead says what.
func onlyInAll(t *testing.T, instead string) {
	t.Helper()
	if !everything() {
		t.Skip("make e2e-all runs it.", instead)
	}
}

// newNamespace makes a namespace that admits only restricted pods, and shows
// what is in it when the test fails.
func newNamespace(t *testing.T) string {
	t.Helper()
	test, _, _ := strings.Cut(strings.TrimPrefix(t.Name(), "Test"), "/")
	name := fmt.Sprintf("e2e-%s-%04x", strings.ToLower(test), rand.IntN(1<<16))
	shell.Apply(t, `{apiVersion: v1, kind: Namespace, metadata: {name: `+name+
		`, labels: {pod-security.kubernetes.io/enforce: restricted}}}`)
	t.Cleanup(func() {
		if _, err := shell.Try("kubectl delete namespace --wait=false " + name); err != nil {
			t.Log(err)
		}
	})
	t.Cleanup(func() { explain(t, name) })
	return name
}

// explain logs what an administrator would look at when something went wrong.
func explain(t *testing.T, namespace string) {
	if !t.Failed() {
		return
	}
	t.Log("What is there after the failure:")
	for _, command := range []string{
		"kubectl -n " + namespace + " get vault,vaultbackup,jobs,pods,pvc -o wide --show-labels",
		"kubectl -n " + namespace + " get vault,vaultbackup,vaultbackupschedule -o yaml",
		"kubectl -n " + namespace + " get events --sort-by=.lastTimestamp",
		"kubectl -n " + operatorNamespace + " logs -l app.kubernetes.io/name=vault-operator --prefix --tail=60",
	} {
		out, err := shell.Try(command)
		t.Logf("$ %s\n%s (%v)", command, out, err)
	}
}
