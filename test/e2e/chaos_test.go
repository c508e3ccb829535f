//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// fault is injected into a Vault for a while.
type fault struct {
	name string
	do   func(c *chaos, t *testing.T)
}

var faults = []fault{
	{"the active pod is deleted", func(c *chaos, t *testing.T) { c.delete(t, c.active(t)) }},
	{"the active pod is deleted by force", func(c *chaos, t *testing.T) {
		c.delete(t, c.active(t), "--grace-period=0", "--force")
	}},
	{"the active process is killed", func(c *chaos, t *testing.T) { c.kill(t, c.active(t), "vault") }},
	{"the active process hangs", func(c *chaos, t *testing.T) { c.hang(t, c.active(t)) }},
	{"a standby pod is deleted", func(c *chaos, t *testing.T) { c.delete(t, c.standby(t)) }},
	{"a standby process is killed", func(c *chaos, t *testing.T) { c.kill(t, c.standby(t), "vault") }},
	{"a standby process hangs", func(c *chaos, t *testing.T) { c.hang(t, c.standby(t)) }},
	{"a pod of the storage is deleted", func(c *chaos, t *testing.T) { c.delete(t, c.member()) }},
	{"a process of the storage is killed", func(c *chaos, t *testing.T) { c.kill(t, c.member(), c.storage) }},
	{"a node is lost", (*chaos).cut},
	{"all replicas of the operator are killed", func(_ *chaos, t *testing.T) { killOperator(t) }},
	{"the API server hangs", func(c *chaos, t *testing.T) { hangAPIServer(t, func() { c.pause(12) }) }},
}

// chaos draws faults by a seed.
type chaos struct {
	*fixture
	*rand.Rand
	// home is the node that the clients are on, which is never lost.
	home string
	// members are the names of the pods that the data is on, but for their numbers, and
	// storage is the process in them.
	members, storage string
}

// chaosAtRandom injects faults that are drawn at random into a Vault and into another with
// integrated storage, while clients write to both and read. CHAOS_SEED repeats a run, and
// CHAOS_DURATION says for how long it goes on.
func chaosAtRandom(t *testing.T, f, raft *fixture) {
	duration, err := time.ParseDuration(cmp.Or(os.Getenv("CHAOS_DURATION"), "40s"))
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CHAOS_SEED=%d CHAOS_DURATION=%s", seed, duration)
	random := rand.New(rand.NewPCG(seed, 0))
	nodes := strings.Fields(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'"))
	home := nodes[random.IntN(len(nodes))]
	vaults := []*chaos{
		{fixture: f, Rand: random, home: home, members: f.Name + "-etcd", storage: "etcd"},
		{fixture: raft, Rand: random, home: home, members: raft.Name, storage: "vault"},
	}
	var all []*clients
	for _, c := range vaults {
		// A node whose etcd member was lost with its Kubernetes node may take a quarter of an hour to
		// notice: docs/availability.md says what to do.
		c.replaceAfter = time.Minute
		all = append(all, c.start(t, home, duration+20*time.Minute))
	}

	count := 0
	for begin := time.Now(); time.Since(begin) < duration; count++ {
		// Two at a time now and then: the second while the first is being fixed.
		for range 1 + random.IntN(2) {
			c, f := vaults[random.IntN(len(vaults))], faults[random.IntN(len(faults))]
			t.Logf("%s: %s, %s", time.Since(begin).Round(time.Second), c.Name, f.name)
			f.do(c, t)
			c.pause(3)
		}
		for _, c := range vaults {
			c.restore(t)
			c.awaitMembers(t)
		}
	}
	t.Logf("%d rounds", count)
	for _, each := range all {
		each.stop(t)
	}
}

// pause waits for a random time of at most so many seconds.
func (c *chaos) pause(seconds int) {
	time.Sleep(time.Duration(c.IntN(seconds*1000)) * time.Millisecond)
}

// standby is a standby pod, or the active one when there is none.
func (c *chaos) standby(t *testing.T) string {
	t.Helper()
	status, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	if all := status.VaultStatus.Standby; len(all) > 0 {
		return all[c.IntN(len(all))]
	}
	return c.active(t)
}

// member is a pod of the storage.
func (c *chaos) member() string { return fmt.Sprintf("%s-%d", c.members, c.IntN(3)) }

func (c *chaos) delete(t *testing.T, pod string, flags ...string) {
	t.Helper()
	shell.Run(t, c.Kubectl("delete pod --ignore-not-found --wait=false %s %s", pod, strings.Join(flags, " ")))
}

// kill kills the process of a pod, if it runs at this moment.
func (c *chaos) kill(t *testing.T, pod, container string) {
	t.Helper()
	out, err := shell.Try("kill -KILL $($LOCAL_CLUSTER pid " + c.Namespace + "/" + pod + " " + container + ")")
	if err != nil {
		t.Log(out)
	}
}

// hang stops the process of a node for longer than its lock lives, or shorter.
func (c *chaos) hang(t *testing.T, pod string) {
	t.Helper()
	pid, err := shell.Try("$LOCAL_CLUSTER pid " + c.Namespace + "/" + pod + " vault")
	if err != nil {
		t.Log(pid)
		return
	}
	shell.Run(t, "kill -STOP "+pid)
	c.pause(20)
	if out, err := shell.Try("kill -CONT " + pid); err != nil {
		t.Log(out) // its liveness probe failed, and it was killed
	}
}

// cut takes a node off the network for a while.
func (c *chaos) cut(t *testing.T) {
	nodes := strings.Fields(shell.Run(t, "kubectl get nodes -o jsonpath='{.items[*].metadata.name}'"))
	nodes = slices.DeleteFunc(nodes, func(node string) bool { return node == c.home })
	node := nodes[c.IntN(len(nodes))]
	shell.Run(t, "$LOCAL_CLUSTER node "+node+" cut")
	defer shell.Run(t, "$LOCAL_CLUSTER node "+node+" join")
	c.pause(30)
}
