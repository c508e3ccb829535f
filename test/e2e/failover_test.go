//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// outcome is what the hammer reports of one kind of request.
type outcome struct {
	Requests, Failed int
	Outage           time.Duration
	LastError        string
}

type report struct {
	Writes, Reads outcome
	Lost          []string
}

// slack is added to what is promised: this machine is small, and the tests are
// about what happens. test/bench is about how fast.
const slack = 2 * time.Second

// failover is a Vault of three nodes that is hammered while it is hurt.
type failover struct {
	vaulttest.Vault
	keys vaulttest.Keys
	// hammer is the client's binary.
	hammer string
}

// TestFailover hurts the active node in every way that a node is hurt, while
// clients write and read through the Service the whole time.
func TestFailover(t *testing.T) {
	if os.Getenv("LOCAL_CLUSTER") == "" {
		t.Skip("signals to processes and cut cables need the local cluster")
	}
	f := &failover{Vault: vaulttest.Vault{Namespace: newNamespace(t), Name: "vault"}, hammer: filepath.Join(t.TempDir(), "hammer")}
	shell.Run(t, "CGO_ENABLED=0 go build -o "+f.hammer+" ../hammer")
	watchInvariants(t, f.Vault)
	shell.Apply(t, manifest(f.Vault, `{nodes: 3}`))
	f.keys = f.InitAndUnseal(t, 3)
	active := f.AwaitHA(t, 2).VaultStatus.Active
	f.Do(t, active, f.keys.RootToken, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")

	t.Run("the active pod is deleted", func(t *testing.T) {
		r := f.hammered(t, func(active string) {
			shell.Run(t, f.Kubectl("delete pod %s", active))
			f.awaitOther(t, active)
		})
		requireOutage(t, r, slack)
	})
	t.Run("the active process is killed", func(t *testing.T) {
		r := f.hammered(t, func(active string) {
			f.signal(t, active, syscall.SIGKILL)
			f.awaitOther(t, active)
		})
		requireOutage(t, r, lockTimeout+slack)
	})
	t.Run("the active process hangs", func(t *testing.T) { f.hang(t) })
	t.Run("the active node is lost", func(t *testing.T) { f.lose(t) })
	t.Run("resize", func(t *testing.T) { f.resize(t) })
	t.Run("rolling upgrade", func(t *testing.T) { f.upgrade(t) })
}

// lockTimeout is how long the lock of an active node that died outlives it.
const lockTimeout = 8 * time.Second

// election is how long etcd takes to replace a leader that was lost.
const election = 2 * time.Second

// hang stops the process of the active node. Its label, its readiness and its
// port look alive for longer than the Service may point at it.
func (f *failover) hang(t *testing.T) {
	var stopped int
	r := f.hammered(t, func(active string) {
		stopped = f.signal(t, active, syscall.SIGSTOP)
		begin := time.Now()
		f.awaitOut(t, active)
		if took := time.Since(begin); took > 2*time.Second+slack {
			t.Errorf("the hung node was in the Service for %s", took)
		}
		f.awaitOther(t, active)
		if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		f.Await(t, "has the woken node as standby", func(s v1alpha1.VaultStatus) bool {
			return slices.Contains(s.VaultStatus.Standby, active)
		})
	})
	requireOutage(t, r, lockTimeout+slack)
}

// lose takes the node of the active pod off the network, with the kubelet and
// the member of the storage that are on it.
func (f *failover) lose(t *testing.T) {
	r := f.hammered(t, func(active string) {
		node := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.spec.nodeName}'", active))
		shell.Run(t, "$LOCAL_CLUSTER node "+node+" cut")
		defer shell.Run(t, "$LOCAL_CLUSTER node "+node+" join")
		begin := time.Now()
		f.Await(t, "calls the lost node unreachable", func(s v1alpha1.VaultStatus) bool {
			return slices.Contains(s.VaultStatus.Unreachable, active)
		})
		f.awaitOut(t, active)
		if took := time.Since(begin); took > 3*time.Second+slack {
			t.Errorf("the lost node was in the Service and the status for %s", took)
		}
		f.awaitOther(t, active)
	})
	// etcd elects a leader first, if it was on that node, and the lock begins anew.
	requireOutage(t, r, election+lockTimeout+slack)
}

// resize makes the Vault smaller and larger again.
func (f *failover) resize(t *testing.T) {
	active := f.AwaitHA(t, 2).VaultStatus.Active
	shell.Run(t, f.Kubectl("scale vault/%s --replicas=1", f.Name))
	f.Await(t, "is one node", func(s v1alpha1.VaultStatus) bool { return s.Nodes == 1 })
	if got := f.AwaitHA(t, 0).VaultStatus.Active; got != active {
		t.Errorf("%s is active, and %s was taken away before others", got, active)
	}
	shell.Run(t, f.Kubectl("scale vault/%s --replicas=3", f.Name))
	f.restore(t)
}

// upgrade changes the version, and unseals what waits for it.
func (f *failover) upgrade(t *testing.T) {
	r := f.hammered(t, func(active string) {
		shell.Run(t, f.Kubectl(`patch vault %s --type=merge -p '{"spec": {"version": "1.21.1"}}'`, f.Name))
		changes, ready := 0, 3
		last := active
		f.Await(t, "is upgraded", func(s v1alpha1.VaultStatus) bool {
			if s.VaultStatus.Active != "" && s.VaultStatus.Active != last {
				changes, last = changes+1, s.VaultStatus.Active
			}
			ready = min(ready, int(s.ReadyNodes))
			for _, pod := range s.VaultStatus.Sealed {
				f.Unseal(t, pod, f.keys)
			}
			return s.Version == "1.21.1" && len(s.UpdatedNodes) == 3 && s.ReadyNodes == 3
		})
		if changes != 1 {
			t.Errorf("%d failovers in one upgrade", changes)
		}
		// While the old active node goes, and until the next is active, one is missing.
		if ready < 2 {
			t.Errorf("only %d nodes were unsealed at a time", ready)
		}
	})
	requireOutage(t, r, slack)
}

// hammered runs fn, with the name of the active pod, under the load of clients,
// and restores the Vault to three unsealed nodes.
func (f *failover) hammered(t *testing.T, fn func(active string)) report {
	t.Helper()
	active := f.AwaitHA(t, 2).VaultStatus.Active
	ca := filepath.Join(t.TempDir(), "ca.crt")
	shell.Run(t, f.Kubectl(`get secret %s-default-vault-client-tls -o jsonpath='{.data.vault-client-ca\.crt}' | base64 -d >%s`, f.Name, ca))
	address := shell.Run(t, f.Kubectl("get service %s -o jsonpath='{.spec.clusterIP}'", f.Name))
	activeNode := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.spec.nodeName}'", active))
	// From a node of the cluster that stays, by its kube-proxy.
	from := shell.Run(t, "kubectl get nodes -o name | grep -v "+activeNode+" | head -1 | cut -d/ -f2")
	cmd := exec.Command("nsenter", "--net=/run/netns/vo-"+from, f.hammer, "-address=https://"+address+":8200",
		"-server-name="+f.Name+"."+f.Namespace+".svc", "-ca="+ca)
	cmd.Env = append(os.Environ(), "VAULT_TOKEN="+f.keys.RootToken)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	fn(active)
	f.restore(t)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("hammer: %v\n%s", err, out.String())
	}
	var r report
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatalf("hammer: %v\n%s", err, out.String())
	}
	t.Logf("writes %+v, reads %+v", r.Writes, r.Reads)
	return r
}

func requireOutage(t *testing.T, r report, bound time.Duration) {
	t.Helper()
	if outage := max(r.Writes.Outage, r.Reads.Outage); outage > bound {
		t.Errorf("clients were not served for %s, want at most %s", outage, bound)
	}
	if len(r.Lost) > 0 {
		t.Errorf("%d acknowledged writes are lost, for example %s", len(r.Lost), r.Lost[0])
	}
}

// signal sends a signal to the process of a node.
func (f *failover) signal(t *testing.T, pod string, signal syscall.Signal) (pid int) {
	t.Helper()
	out := shell.Run(t, "$LOCAL_CLUSTER pid "+f.Namespace+"/"+pod+" vault")
	if _, err := fmt.Sscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitOut waits until the Service does not point at the pod.
func (f *failover) awaitOut(t *testing.T, pod string) {
	t.Helper()
	shell.Eventually(t, pod+" is out of the Service", 30*time.Second, func() error {
		endpoints, err := f.Endpoints()
		if err == nil && slices.Contains(endpoints, pod) {
			err = fmt.Errorf("it is in: %q", endpoints)
		}
		return err
	})
}

// awaitOther waits until another pod is active.
func (f *failover) awaitOther(t *testing.T, pod string) {
	t.Helper()
	f.Await(t, "has failed over", func(s v1alpha1.VaultStatus) bool {
		return s.VaultStatus.Active != "" && s.VaultStatus.Active != pod
	})
}

// restore unseals nodes until there are three that are unsealed.
func (f *failover) restore(t *testing.T) {
	t.Helper()
	f.Await(t, "is whole", func(s v1alpha1.VaultStatus) bool {
		for _, pod := range s.VaultStatus.Sealed {
			f.Unseal(t, pod, f.keys)
		}
		return s.VaultStatus.Active != "" && len(s.VaultStatus.Standby) == 2 && s.Nodes == 3
	})
	f.AwaitHA(t, 2)
}
