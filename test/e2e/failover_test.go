//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// slack is added to what is promised: this machine is small, and the tests are
// about what happens. test/bench is about how fast.
const slack = 4 * time.Second

// failovers injects every fault that the active node can have.
func failovers(t *testing.T, f *fixture) {
	// First of all, while no pod that is being deleted has the label.
	t.Run("the active node is told to step down", func(t *testing.T) { f.takeAway(t, "step-down") })
	t.Run("the active node is sealed by hand", func(t *testing.T) { f.takeAway(t, "seal") })
	t.Run("the active pod is deleted", func(t *testing.T) {
		r := f.underLoad(t, func(active string) {
			shell.Run(t, f.Kubectl("delete pod %s", active))
			f.awaitOther(t, active)
		})
		requireOutage(t, r, handover)
	})
	t.Run("the active process is killed", func(t *testing.T) {
		onlyInAll(t, "the next kills it too")
		r := f.underLoad(t, func(active string) {
			f.signal(t, active, syscall.SIGKILL)
			f.awaitOther(t, active)
		})
		requireOutage(t, r, lockTimeout+slack)
	})
	t.Run("the active process is killed, and a replica of the operator with it", func(t *testing.T) {
		leader := shell.Run(t, "kubectl -n "+operatorNamespace+" get lease vault-operator -o "+
			"jsonpath='{.spec.holderIdentity}' | cut -d_ -f1")
		pid := shell.Run(t, "$LOCAL_CLUSTER pid "+operatorNamespace+"/"+leader+" manager")
		r := f.underLoad(t, func(active string) {
			shell.Run(t, "kill -KILL "+pid)
			f.signal(t, active, syscall.SIGKILL)
			f.awaitOther(t, active)
		})
		requireOutage(t, r, lockTimeout+slack)
	})
	t.Run("the active process hangs", func(t *testing.T) { f.hang(t) })
	t.Run("the active process hangs, and must not wake", func(t *testing.T) {
		onlyInAll(t, "the one before has it hang")
		r := f.underLoad(t, func(active string) {
			pid := f.signal(t, active, syscall.SIGSTOP)
			f.awaitOut(t, active)
			// As docs/availability.md says.
			shell.Run(t, f.Kubectl("delete pod %s --grace-period=1", active))
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the process is still there: %v", err)
			}
			f.awaitOther(t, active)
		})
		requireOutage(t, r, lockTimeout+slack)
	})
	t.Run("the active node is lost", func(t *testing.T) { f.loseNode(t) })
	t.Run("the node of the storage's leader is lost", func(t *testing.T) { f.loseLeader(t) })
	t.Run("resize", func(t *testing.T) { f.resize(t) })
	t.Run("rolling upgrade", func(t *testing.T) { f.upgrade(t) })
}

// lockTimeout is how long the lock of an active node that died outlives it, or a
// third less: it is renewed three times in that time.
const lockTimeout = 13 * time.Second

// handover is less than a lock takes to run out: it was given up.
const handover = lockTimeout * 2 / 3

// election is how long etcd takes to replace a leader that was lost.
const election = 2 * time.Second

// takeAway has an administrator take its place from the active node, by a command of "vault operator". The node
// gives up the lock, and its pod stays.
func (f *fixture) takeAway(t *testing.T, command string) {
	label := f.watchLabel(t)
	r := f.underLoad(t, func(active string) {
		f.Do(t, active, f.keys.RootToken, "vault operator "+command)
		f.awaitOther(t, active)
		if command == "seal" {
			awaitCondition(t, f.Vault, time.Minute, v1alpha1.UnsealedCondition, metav1.ConditionFalse,
				v1alpha1.ReasonAwaitingUnseal, "vault operator unseal", active)
		}
	})
	t.Logf("clients were not served for %s", max(r.Writes.Outage, r.Reads.Outage))
	requireOutage(t, r, handover)
	if most := label.most(); most != 1 {
		t.Errorf("%d pods had the active label at one time, want 1", most)
	}
}

// hang stops the process of the active node. Its label, its readiness and its
// port look alive for longer than the Service may point at it.
func (f *fixture) hang(t *testing.T) {
	// A node audits what it processes, and not what it sends on.
	f.Do(t, f.AwaitHA(t, 2).VaultStatus.Active, f.keys.RootToken, "vault audit enable file file_path=stdout")
	r := f.underLoad(t, func(active string) {
		stopped := f.signal(t, active, syscall.SIGSTOP)
		// What comes after must not miss it when this fails.
		defer func() { _ = syscall.Kill(stopped, syscall.SIGCONT) }()
		begin := time.Now()
		f.awaitOut(t, active)
		if took := time.Since(begin); took > 2*time.Second+slack {
			t.Errorf("the hung node was in the Service for %s", took)
		}
		f.awaitOther(t, active)
		stalled := f.writeTo(t, active)
		if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		f.Await(t, "has the woken node as standby", func(s v1alpha1.VaultStatus) bool {
			return slices.Contains(s.VaultStatus.Standby, active)
		})
		stalled()
	})
	f.Do(t, f.AwaitHA(t, 2).VaultStatus.Active, f.keys.RootToken, "vault audit disable file")
	requireOutage(t, r, lockTimeout+slack)
}

// writeTo sends writes to a node that hangs, on new connections, which it finds when it
// wakes. (docs/availability.md says what Vault may do with older ones.) The function
// returned waits for the responses, and fails the test when the node has
// processed one by itself, as only the active node may: it has to send them on
// to that, or refuse them.
func (f *fixture) writeTo(t *testing.T, pod string) func() {
	t.Helper()
	address := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.status.podIP}'", pod))
	env := []string{"VAULT_ADDR=https://" + address + ":8200", "VAULT_CACERT=" + f.ca,
		"VAULT_TLS_SERVER_NAME=" + f.Name + "." + f.Namespace + ".svc",
		"VAULT_TOKEN=" + f.keys.RootToken, "VAULT_MAX_RETRIES=0", "VAULT_CLIENT_TIMEOUT=60"}
	var wait sync.WaitGroup
	node := inNode(t, f.nodeOf(t, pod))
	for i := range 5 {
		wait.Go(func() {
			out, err := shell.Try(fmt.Sprintf("%s vault write secret/stalled-%s-%d value=x", node, pod, i), env...)
			t.Logf("a write that waited for the node to wake: %s (%v)", out, err)
		})
	}
	time.Sleep(2 * time.Second) // until the requests are with the kernel
	return func() {
		t.Helper()
		wait.Wait()
		log := shell.Run(t, f.Kubectl("logs %s", pod))
		if !strings.Contains(log, `"secret/foo`) {
			t.Errorf("%s has not audited what it processed before", pod)
		}
		if strings.Contains(log, `"secret/stalled-`+pod) {
			t.Errorf("%s processed a write although it had lost the lock", pod)
		}
	}
}

// loseNode takes the node of the active pod off the network, with the kubelet and
// the member of the storage that are on it.
func (f *fixture) loseNode(t *testing.T) {
	r := f.underLoad(t, func(active string) {
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
	// etcd elects a leader first, if it was on that node, and the lock begins anew,
	// with a second more.
	requireOutage(t, r, election+lockTimeout+time.Second+slack)
}

// loseLeader takes the node of etcd's leader off the network. The active Vault node
// is on another one, and keeps its lock.
func (f *fixture) loseLeader(t *testing.T) {
	onlyInAll(t, "chaos loses members of the storage")
	active := f.AwaitHA(t, 2).VaultStatus.Active
	home := f.nodeOf(t, active)
	lost := f.leadElsewhere(t, active)
	c := f.start(t, home, 5*time.Minute)
	func() {
		shell.Run(t, "$LOCAL_CLUSTER node "+lost+" cut")
		defer shell.Run(t, "$LOCAL_CLUSTER node "+lost+" join")
		time.Sleep(lockTimeout + slack)
		if now := f.active(t); now != active {
			t.Errorf("%s was active, and now it is %s", active, now)
		}
	}()
	f.restore(t)
	requireOutage(t, c.stop(t), election+slack)
}

// leadElsewhere makes an etcd member lead that a Vault pod is not connected to and
// that is on another node of the cluster, and returns on which.
func (f *fixture) leadElsewhere(t *testing.T, vault string) string {
	t.Helper()
	home := f.nodeOf(t, vault)
	address := shell.Run(t, f.Kubectl("get pod %s -o jsonpath='{.status.podIP}'", vault))
	var leader, successor, place string
	var id uint64
	for i := range 3 {
		pod := fmt.Sprintf("%s-etcd-%d", f.Name, i)
		var endpoints []struct {
			Status struct {
				Header struct {
					MemberID uint64 `json:"member_id"`
				}
				Leader uint64
			}
		}
		out := shell.Run(t, f.Kubectl("exec %s -- etcdctl endpoint status --write-out=json", pod))
		if err := json.Unmarshal([]byte(out), &endpoints); err != nil {
			t.Fatal(err)
		}
		member := endpoints[0].Status
		if member.Leader == member.Header.MemberID {
			leader = pod
		}
		clients := shell.Run(t, fmt.Sprintf("nsenter --net --target=%d ss --no-header --tcp --numeric state established "+
			"'sport = :2379'", f.pid(t, pod, "etcd")))
		if node := f.nodeOf(t, pod); node != home && !strings.Contains(clients, address+"]:") &&
			!strings.Contains(clients, address+":") {
			successor, place, id = pod, node, member.Header.MemberID
		}
	}
	if leader != successor {
		shell.Run(t, f.Kubectl("exec %s -- etcdctl move-leader %x", leader, id))
	}
	return place
}

// resize makes the Vault smaller and larger again.
func (f *fixture) resize(t *testing.T) {
	onlyInAll(t, "TestRaftMembers does so with integrated storage")
	// Of a sealed node, a standby and the active one, the sealed one goes first.
	shell.Run(t, f.Kubectl("delete pod %s", f.AwaitHA(t, 2).VaultStatus.Standby[0]))
	sealed := f.AwaitSealed(t, 1).VaultStatus.Sealed[0]
	before := f.AwaitHA(t, 1).VaultStatus
	active := before.Active
	shell.Run(t, f.Kubectl("scale vault/%s --replicas=2", f.Name))
	f.Await(t, "is two nodes", func(s v1alpha1.VaultStatus) bool { return s.Nodes == 2 })
	after := f.AwaitHA(t, 1).VaultStatus
	if after.Active != active || !slices.Equal(after.Standby, before.Standby) {
		t.Errorf("%s was sealed, and another was taken away: %+v", sealed, after)
	}
	shell.Run(t, f.Kubectl("scale vault/%s --replicas=1", f.Name))
	f.Await(t, "is one node", func(s v1alpha1.VaultStatus) bool { return s.Nodes == 1 })
	if got := f.AwaitHA(t, 0).VaultStatus.Active; got != active {
		t.Errorf("%s is active, and %s was taken away before others", got, active)
	}
	shell.Run(t, f.Kubectl("scale vault/%s --replicas=3", f.Name))
	f.restore(t)
}

// upgrade changes the version, and unseals what waits for it.
func (f *fixture) upgrade(t *testing.T) {
	r := f.underLoad(t, func(active string) {
		shell.Run(t, f.Kubectl(`patch vault %s --type=merge -p '{"spec": {"version": "1.21.1"}}'`, f.Name))
		changes, ready, last := 0, 3, active
		f.Await(t, "is upgraded", func(s v1alpha1.VaultStatus) bool {
			if s.VaultStatus.Active != "" && s.VaultStatus.Active != last {
				changes, last = changes+1, s.VaultStatus.Active
			}
			// One that did not respond to a probe on a busy machine is not known to be gone.
			ready = min(ready, int(s.ReadyNodes)+len(s.VaultStatus.Unreachable))
			for _, pod := range s.VaultStatus.Sealed {
				f.Unseal(t, pod, f.keys)
			}
			// The last node may be unsealed before another has taken the lock of the old active one.
			return s.Version == "1.21.1" && len(s.UpdatedNodes) == 3 && s.ReadyNodes == 3 &&
				slices.Contains(s.UpdatedNodes, s.VaultStatus.Active)
		})
		if changes != 1 {
			t.Errorf("%d failovers in one upgrade", changes)
		}
		// While the old active node goes, and until the next is active, one is missing.
		if ready < 2 {
			t.Errorf("only %d nodes were unsealed at a time", ready)
		}
	})
	requireOutage(t, r, handover)
}
