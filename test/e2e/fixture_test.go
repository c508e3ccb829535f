//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// outcome is what the hammer reports of one kind of request.
type outcome struct {
	Requests, Failed int
	Outage           time.Duration
	From             time.Time
	// FirstFailed and LastFailed are when the first and the last failed request began.
	FirstFailed, LastFailed time.Time
	LastError               string
}

type report struct {
	Writes, Reads outcome
	Lost          []string
}

// fixture is a Vault that clients use while faults are injected.
type fixture struct {
	vaulttest.Vault
	keys vaulttest.Keys
	// nodes is how many nodes it has when it is whole.
	nodes int
	// replaceAfter is for how long a node may not respond before restore replaces its
	// pod; 0 is for ever.
	replaceAfter time.Duration
	// hammer is the binary of the client, and ca the authority that it trusts.
	hammer, ca string
}

// newFixture makes a Vault of three nodes, with a secret in it.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOf(t, "vault", 3, `{nodes: 3, storage: {etcd: {whenDeleted: Delete}}}`)
}

func newFixtureOf(t *testing.T, name string, nodes int, spec string) *fixture {
	t.Helper()
	requireLocalCluster(t)
	v := vaulttest.Vault{Namespace: newNamespace(t), Name: name}
	watchInvariants(t, v)
	shell.Apply(t, manifest(v, spec))
	return fixtureOf(t, v, nodes)
}

func requireLocalCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("LOCAL_CLUSTER") == "" {
		t.Skip("signals to processes, cut cables and images that no registry has need the local cluster")
	}
}

// fixtureOf initializes a Vault that has three members of etcd, and puts a secret in it.
func fixtureOf(t *testing.T, v vaulttest.Vault, nodes int) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{Vault: v, nodes: nodes, hammer: filepath.Join(dir, "hammer"), ca: filepath.Join(dir, "ca.crt")}
	shell.Run(t, "CGO_ENABLED=0 go build -o "+f.hammer+" ../hammer")
	f.keys = f.InitAndUnseal(t, nodes)
	shell.Run(t, f.Kubectl(`get secret %s-default-vault-client-tls -o jsonpath='{.data.vault-client-ca\.crt}' | base64 -d >%s`, f.Name, f.ca))
	active := f.AwaitHA(t, nodes-1).VaultStatus.Active
	f.Do(t, active, f.keys.RootToken, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	// Vault starts with two members of etcd; tests count on the third.
	requireCondition(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "3 of 3")
	return f
}

// inNode is the start of a command line that runs it in the network of a node.
func inNode(node string) string { return "nsenter --net=/run/netns/vo-" + node + " " }

// clients use the Vault through its Service.
type clients struct {
	*fixture
	// node is the node of the cluster that they are on.
	node   string
	cmd    *exec.Cmd
	output *bytes.Buffer
}

// patient is for clients that must not fail: a small machine is busy when pods start
// and when everybody asks the API server at once.
const patient = "-timeout=3s"

// start starts clients on a node, for at most as long as limit.
func (f *fixture) start(t *testing.T, node string, limit time.Duration, flags ...string) *clients {
	t.Helper()
	address := shell.Run(t, f.Kubectl("get service %s -o jsonpath='{.spec.clusterIP}'", f.Name))
	c := &clients{fixture: f, node: node, output: &bytes.Buffer{}}
	args := append(strings.Fields(inNode(node)), f.hammer, "-address=https://"+address+":8200",
		"-server-name="+f.Name+"."+f.Namespace+".svc", "-ca="+f.ca, "-limit="+limit.String(),
		// More would keep a small machine busy that has pods to start meanwhile.
		"-interval=100ms")
	args = append(args, flags...)
	c.cmd = exec.Command(args[0], args[1:]...)
	c.cmd.Env = append(os.Environ(), "VAULT_TOKEN="+f.keys.RootToken)
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() }) // it may have ended
	time.Sleep(time.Second)
	return c
}

// stop ends the clients, and fails the test when an acknowledged write is lost.
func (c *clients) stop(t *testing.T) report {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := c.cmd.Wait()
	var r report
	if err == nil {
		err = json.Unmarshal(c.output.Bytes(), &r)
	}
	if err != nil {
		t.Fatalf("hammer: %v\n%s", err, c.output)
	}
	t.Logf("writes %+v, reads %+v", r.Writes, r.Reads)
	if len(r.Lost) > 0 {
		t.Errorf("%d acknowledged writes are lost, for example %s", len(r.Lost), r.Lost[0])
	}
	return r
}

// hammered runs fn, with the name of the active pod, under the load of clients,
// and restores the Vault.
func (f *fixture) hammered(t *testing.T, fn func(active string), flags ...string) report {
	t.Helper()
	active := f.AwaitHA(t, f.nodes-1).VaultStatus.Active
	// From a node of the cluster that stays, by its kube-proxy.
	node := shell.Run(t, "kubectl get nodes -o name | grep -v "+f.nodeOf(t, active)+" | head -1 | cut -d/ -f2")
	c := f.start(t, node, 10*time.Minute, flags...)
	fn(active)
	f.restore(t)
	return c.stop(t)
}

// nodeOf is the node that a pod is on.
func (f *fixture) nodeOf(t *testing.T, pod string) string {
	t.Helper()
	return shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.spec.nodeName}'", pod))
}

func requireOutage(t *testing.T, r report, bound time.Duration) {
	t.Helper()
	if outage := max(r.Writes.Outage, r.Reads.Outage); outage > bound {
		t.Errorf("clients were not served for %s, want at most %s", outage, bound)
	}
}

// requireOneHandover fails the test when requests failed at any other time than in one
// handover.
func requireOneHandover(t *testing.T, r report) {
	t.Helper()
	requireOutage(t, r, handover)
	for _, o := range []outcome{r.Writes, r.Reads} {
		if between := o.LastFailed.Sub(o.FirstFailed); between > handover {
			t.Errorf("%d of %d requests failed within %s, want all within one handover of %s; the last one with: %s",
				o.Failed, o.Requests, between, handover, o.LastError)
		}
	}
}

// requireNoFailure fails the test when a request was not served.
func requireNoFailure(t *testing.T, r report) {
	t.Helper()
	for _, o := range []outcome{r.Writes, r.Reads} {
		if o.Failed > 0 {
			t.Errorf("%d of %d requests failed, the last one with: %s", o.Failed, o.Requests, o.LastError)
		}
	}
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

// awaitOut waits until the Service does not point at the pod.
func (f *fixture) awaitOut(t *testing.T, pod string) {
	t.Helper()
	shell.Eventually(t, pod+" is out of the Service", 30*time.Second, func() error {
		endpoints, err := f.Endpoints()
		if err == nil && slices.Contains(endpoints, pod) {
			err = fmt.Errorf("it is in: %q", endpoints)
		}
		return err
	})
}

// active is the active pod, as soon as there is one: a fault may have been done to it a
// moment ago, and a busy node that leaves a question unanswered is unreachable until
// the next.
func (f *fixture) active(t *testing.T) string {
	t.Helper()
	return f.Await(t, "has an active node", func(s v1alpha1.VaultStatus) bool { return s.VaultStatus.Active != "" }).VaultStatus.Active
}

// awaitOther waits until another pod is active.
func (f *fixture) awaitOther(t *testing.T, pod string) {
	t.Helper()
	f.Await(t, "has failed over", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && s.VaultStatus.Active != pod
	})
}

// calm is for how long a Vault has to look whole: what was done to it a moment ago may
// not be in its status yet.
const calm = 2 * time.Second

// restore unseals nodes until all that there should be are unsealed, and the Service
// points at the active one. A pod whose container was killed too often to be started
// again soon is replaced, be it of the Vault or of the operator.
func (f *fixture) restore(t *testing.T) {
	t.Helper()
	var since time.Time
	silent := map[string]time.Time{}
	f.Await(t, "is whole", func(s v1alpha1.VaultStatus) bool {
		f.replaceSilent(t, s.VaultStatus.Unreachable, silent)
		for _, namespace := range []string{f.Namespace, operatorNamespace} {
			shell.Run(t, fmt.Sprintf(`kubectl -n %[1]s get pods | awk '$3 == "CrashLoopBackOff" {print $1}' | xargs -r kubectl -n %[1]s delete pod --wait=false`, namespace))
		}
		for _, pod := range s.VaultStatus.Sealed {
			if err := f.TryUnseal(pod, f.keys); err != nil {
				t.Log(err)
			}
		}
		endpoints, err := f.Endpoints()
		if err != nil || s.VaultStatus.Active == "" || len(s.VaultStatus.Standby) != f.nodes-1 || int(s.Nodes) != f.nodes ||
			!slices.Equal(endpoints, []string{s.VaultStatus.Active}) {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) >= calm
	})
}

// replaceSilent deletes the pods of nodes that have not responded for long. Since says
// from when on they have not.
func (f *fixture) replaceSilent(t *testing.T, unreachable []string, since map[string]time.Time) {
	t.Helper()
	maps.DeleteFunc(since, func(pod string, _ time.Time) bool { return !slices.Contains(unreachable, pod) })
	for _, pod := range unreachable {
		if since[pod].IsZero() {
			since[pod] = time.Now()
		}
		if f.replaceAfter > 0 && time.Since(since[pod]) > f.replaceAfter {
			t.Logf("%s does not respond, and is replaced", pod)
			shell.Run(t, f.Kubectl("delete pod --ignore-not-found --wait=false %s", pod))
			delete(since, pod)
		}
	}
}
