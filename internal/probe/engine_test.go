package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

const serverName = "example.default.svc"

// hangBound is what the package promises for a node that hangs.
const hangBound = steady + failures*timeout

// slack is for machines that are busy.
const slack = 5 * time.Second

var exampleVault = types.NamespacedName{Namespace: "default", Name: "example"}

// harness is an engine, and what it told its controllers.
type harness struct {
	*Engine
	notified atomic.Int64
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{Engine: NewEngine()}
	// A queue that counts: one that merges equal requests would hide some.
	limiter := workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]()
	queue := countingQueue{
		TypedRateLimitingInterface: workqueue.NewTypedRateLimitingQueue(limiter), count: &h.notified,
	}
	if err := h.Source(0).Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(h.Engine); queue.ShutDown() })
	return h
}

type countingQueue struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]
	count *atomic.Int64
}

func (q countingQueue) AddAfter(req reconcile.Request, after time.Duration) {
	if req.NamespacedName == exampleVault {
		q.count.Add(1)
	}
	q.TypedRateLimitingInterface.AddAfter(req, after)
}

// stop ends the engine as the end of the manager does.
func stop(e *Engine) {
	ended, end := context.WithCancel(context.Background())
	end()
	_ = e.Start(ended)
}

func (h *harness) observation(uid types.UID) Observation {
	return h.Observations(exampleVault)[uid]
}

// waitFor waits until the node is in the state and returns how long it took.
func (h *harness) waitFor(t *testing.T, uid types.UID, want State) time.Duration {
	t.Helper()
	begin := time.Now()
	poll.Eventually(t, fmt.Sprintf("node %s is %s", uid, want), hangBound+2*slack, 2*time.Millisecond, func() error {
		if o := h.observation(uid); o.State != want {
			return fmt.Errorf("it is %s", o.State)
		}
		return nil
	})
	return time.Since(begin)
}

func startNode(t *testing.T, state fakevault.State) (*fakevault.Node, Target) {
	t.Helper()
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, serverName), state)
	return node, Target{UID: "a", Address: node.Address, ServerName: serverName, CA: ca.PEM}
}

func TestObservesEachState(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Uninitialized)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	for _, step := range []struct {
		says fakevault.State
		want State
	}{
		{fakevault.Uninitialized, Uninitialized},
		{fakevault.Sealed, Sealed},
		{fakevault.Standby, Standby},
		{fakevault.Active, Active},
		{fakevault.Sealed, Sealed},
	} {
		node.Set(step.says)
		h.waitFor(t, target.UID, step.want)
		if o := h.observation(target.UID); o.Version != "1.21.0" || o.Err != nil {
			t.Errorf("%s: version %q, error %v", step.want, o.Version, o.Err)
		}
	}
	node.SetVersion("1.21.1")
	waitUntil(t, func() bool { return h.observation(target.UID).Version == "1.21.1" })
}

func TestNotVerified(t *testing.T) {
	t.Parallel()
	ca, other := fakevault.NewCA(t), fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, serverName), fakevault.Active)
	good := Target{UID: "a", Address: node.Address, ServerName: serverName, CA: ca.PEM}
	tests := []struct {
		name    string
		change  func(*Target)
		wantErr string
	}{
		{
			"signed by another CA", func(target *Target) { target.CA = other.PEM },
			"certificate signed by unknown authority",
		},
		{
			"a certificate for another name", func(target *Target) { target.ServerName = "other.default.svc" },
			"certificate is valid for",
		},
		{"no CA", func(target *Target) { target.CA = "" }, errNoCA.Error()},
		{"a CA that is not PEM", func(target *Target) { target.CA = "garbage" }, errNoCA.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := good
			tt.change(&target)
			h := newHarness(t)
			h.SetTargets(exampleVault, []Target{target}, true)
			h.waitFor(t, target.UID, Unverified)
			o := h.observation(target.UID)
			if o.Err == nil || !strings.Contains(o.Err.Error(), tt.wantErr) {
				t.Errorf("error %v, want one with %q", o.Err, tt.wantErr)
			}
			if o.Certificate == nil || o.Silent {
				t.Errorf("certificate %v, silent %t; want what the node serves with, and no silence", o.Certificate, o.Silent)
			}
			// Once the CA is known the node is probed at once.
			h.SetTargets(exampleVault, []Target{good}, true)
			h.waitFor(t, target.UID, Active)
		})
	}
}

func TestAResponseThatIsNotVaultsIsUnreachable(t *testing.T) {
	t.Parallel()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, serverName)
	for name, response := range map[string]string{
		"an error":            "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
		"not JSON":            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"half an answer":      "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"initialized\":true",
		"not HTTP":            "SSH-2.0-OpenSSH_9.2\r\n",
		"nothing in it":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"a redirect":          "HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/sys/health\r\nContent-Length: 0\r\n\r\n",
		"a large answer":      "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + pad(activeResponse("1.21.0"), 99999),
		"large headers":       "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 99999) + "\r\n\r\n" + activeResponse("1.21.0"),
		"a compressed answer": "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := tls.Listen("tcp", "127.0.0.1:0",
				&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Read(make([]byte, 4096))
					_, _ = conn.Write([]byte(response))
					_ = conn.Close()
				}
			}()
			h := newHarness(t)
			h.SetTargets(exampleVault,
				[]Target{{UID: "a", Address: listener.Addr().String(), ServerName: serverName, CA: ca.PEM}}, true)
			h.waitFor(t, "a", Unreachable)
			if o := h.observation("a"); o.Silent {
				t.Errorf("a wrong answer counts as silence: %v", o.Err)
			}
		})
	}
}

// activeResponse is the response of an active node.
func activeResponse(version string) string {
	return `{"initialized":true,"sealed":false,"standby":false,"version":"` + version + `"}`
}

// pad appends spaces, which JSON allows, until the text has so many bytes.
func pad(text string, size int) string { return text + strings.Repeat(" ", size-len(text)) }

func TestParseHealth(t *testing.T) {
	tests := []struct {
		body    string
		want    State
		version string
	}{
		{activeResponse("1.21.0"), Active, "1.21.0"},
		{activeResponse("1.21.0-rc1+ent.hsm"), Active, "1.21.0-rc1+ent.hsm"},
		{activeResponse("1.21.0 and more"), Active, ""},
		{activeResponse("latest"), Active, ""},
		{activeResponse("1.21.0-" + strings.Repeat("x", 100)), Active, ""},
		{`{"initialized":true,"sealed":false,"standby":false,"performance_standby":true}`, Standby, ""},
		{`{"initialized":true,"sealed":true}`, Unreachable, ""},
		{`[]`, Unreachable, ""},
		{`{"initialized":1,"sealed":0,"standby":0}`, Unreachable, ""},
		{activeResponse("1.21.0") + activeResponse("1.21.0"), Unreachable, ""},
		{"", Unreachable, ""},
	}
	for _, tt := range tests {
		h, err := parseHealth([]byte(tt.body))
		if err != nil {
			if tt.want != Unreachable {
				t.Errorf("%s: %v", tt.body, err)
			}
			continue
		}
		if h.state() != tt.want || h.version() != tt.version {
			t.Errorf("%s: %s, version %q; want %s, %q", tt.body, h.state(), h.version(), tt.want, tt.version)
		}
	}
}

func TestCertificateThatIsServed(t *testing.T) {
	t.Parallel()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, serverName)
	node := fakevault.Start(t, cert, fakevault.Active)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{{UID: "a", Address: node.Address, ServerName: serverName, CA: ca.PEM}}, true)
	h.waitFor(t, "a", Active)
	if got, want := h.observation("a").Certificate, CertificateOf(cert.Leaf); !got.same(want) {
		t.Errorf("certificate %+v, want %+v", got, want)
	}
}

// A serial number is told as far as it may be long.
func TestSerials(t *testing.T) {
	for digits, want := range map[int]int{1: 1, 40: 40, 100000: 40} {
		serial, _ := new(big.Int).SetString(strings.Repeat("a", digits), 16)
		if got := CertificateOf(&x509.Certificate{SerialNumber: serial}).Serial; len(got) != want {
			t.Errorf("%d digits of %d", len(got), digits)
		}
	}
}

func TestHangingNodeIsUnreachableWithinTheBound(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Active)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, false)
	h.waitFor(t, target.UID, Active)

	node.Freeze()
	if took := h.waitFor(t, target.UID, Unreachable); took > hangBound+slack {
		t.Errorf("a hanging node was Unreachable after %s, the bound is %s", took, hangBound)
	} else {
		t.Logf("a hanging node was Unreachable after %s, the bound is %s", took, hangBound)
	}
	if o := h.observation(target.UID); !errors.Is(o.Err, context.DeadlineExceeded) || !o.Connected || !o.Silent {
		t.Errorf("error %v, connected %t, silent %t; want a timeout, a connection, silence", o.Err, o.Connected, o.Silent)
	}
	node.Thaw()
	h.waitFor(t, target.UID, Active)
}

func TestHangingNodeDelaysNoOther(t *testing.T) {
	t.Parallel()
	frozen, first := startNode(t, fakevault.Active)
	frozen.Freeze()
	_, second := startNode(t, fakevault.Standby)
	second.UID = "b"
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{first, second}, true)
	h.waitFor(t, second.UID, Standby)
	if state := h.observation(first.UID).State; state == Standby || state == Active {
		t.Errorf("the hanging node is %s", state)
	}
}

// A single probe without a response, for example because of a lost
// packet, must not take a node out of the Service.
func TestOneProbeWithoutResponseIsNotUnreachable(t *testing.T) {
	t.Parallel()
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, serverName), fakevault.Active)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	// The first connection is never answered, the others lead to the node.
	silent := make(chan net.Conn, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			select {
			case silent <- conn:
			default:
				go forward(conn, node.Address)
			}
		}
	}()
	t.Cleanup(func() { _ = (<-silent).Close() })

	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{{UID: "a", Address: listener.Addr().String(), ServerName: serverName, CA: ca.PEM}},
		true)
	waitUntil(t, func() bool { return h.observation("a").State != Unknown })
	if o := h.observation("a"); o.State != Active {
		t.Errorf("the node is %s (%v) after one probe without a response, want Active", o.State, o.Err)
	}
}

func forward(conn net.Conn, address string) {
	defer func() { _ = conn.Close() }()
	other, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = other.Close() }()
	go func() { defer func() { _ = conn.Close() }(); copyAll(conn, other) }()
	copyAll(other, conn)
}

func copyAll(to, from net.Conn) {
	buffer := make([]byte, 32*1024)
	for {
		count, err := from.Read(buffer)
		if _, writeErr := to.Write(buffer[:count]); err != nil || writeErr != nil {
			return
		}
	}
}

func TestRefusedConnectionIsUnreachableAtOnce(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Active)
	node.Kill()
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, false)
	if took := h.waitFor(t, target.UID, Unreachable); took > slack {
		t.Errorf("a refused connection took %s to be noticed", took)
	}
	if o := h.observation(target.UID); o.Lost() || o.Connected {
		t.Errorf("a node that never answered is lost %t, connected %t", o.Lost(), o.Connected)
	}
	node.Restart(fakevault.Sealed)
	h.waitFor(t, target.UID, Sealed)
}

func TestDeadNodeIsNoticedFastInABurst(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Active)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Active)
	node.Kill()
	h.waitFor(t, target.UID, Unreachable)
	if !h.observation(target.UID).Lost() {
		t.Error("a node that answered before does not count as lost")
	}
	node.Restart(fakevault.Sealed)
	h.waitFor(t, target.UID, Sealed)
	if h.observation(target.UID).Lost() {
		t.Error("a node that answers counts as lost")
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Standby)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	probes := func() int { return len(node.Probes()) }
	waitForProbes := func(count int) {
		t.Helper()
		poll.Eventually(t, fmt.Sprintf("there are %d probes", count), 2*slack, time.Millisecond, func() error {
			if got := probes(); got < count {
				return fmt.Errorf("there are %d", got)
			}
			return nil
		})
	}
	waitForProbes(8)
	times := node.Probes()
	// The gaps begin with a connection, so the lower bound is loose. Timers never
	// fire early; the upper bound is what a burst is for.
	shortest := time.Hour
	for i := 1; i < len(times); i++ {
		shortest = min(shortest, times[i].Sub(times[i-1]))
	}
	if shortest < burst/2 || shortest >= steady {
		t.Errorf("in a burst the shortest pause is %s, want about %s", shortest, burst)
	}

	// The next pause may still be that of the burst.
	h.SetTargets(exampleVault, []Target{target}, false)
	waitForProbes(probes() + 2)
	times = node.Probes()
	if pause := times[len(times)-1].Sub(times[len(times)-2]); pause < steady/2 {
		t.Errorf("at rest the pause is %s, want about %s", pause, steady)
	}

	// A burst begins at once, and not when the pause is over.
	before := probes()
	begin := time.Now()
	h.SetTargets(exampleVault, []Target{target}, true)
	waitForProbes(before + 1)
	t.Logf("a burst began after %s", time.Since(begin))
	if took := time.Since(begin); took > steady*9/10 {
		t.Errorf("a burst began after %s", took)
	}
}

// Vault writes a line into its log for each probe before it is initialized.
func TestUninitializedNodeIsProbedRarely(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Uninitialized)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Uninitialized)
	before := len(node.Probes())
	time.Sleep(2 * uninitialized)
	if probes := len(node.Probes()) - before; probes > 3 {
		t.Errorf("%d probes within %s", probes, 2*uninitialized)
	}
}

func TestNotifiesOnlyOfChanges(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Sealed)

	quiet := len(node.Probes()) + 4
	waitUntil(t, func() bool { return len(node.Probes()) >= quiet })
	// Once of the state, and once of the seal.
	if got := h.notified.Load(); got != 2 {
		t.Errorf("notified %d times of one state", got)
	}
	node.Set(fakevault.Active)
	h.waitFor(t, target.UID, Active)
	waitUntil(t, func() bool { return h.notified.Load() == 3 })

	node.Kill()
	h.waitFor(t, target.UID, Unreachable)
	waitUntil(t, func() bool { return h.notified.Load() == 4 })
}

// A controller does not act on a node that did not answer once more. It has to be called again
// even if the regular probes find what they found before.
func TestNotifiesAfterAConfirmationWithoutResponse(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Sealed)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, false)
	h.waitFor(t, target.UID, Sealed)
	waitUntil(t, func() bool { return h.notified.Load() == 2 })

	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if o := h.Confirm(late, exampleVault, target.UID); o.State != Unreachable {
		t.Fatalf("the node is %s, want Unreachable", o.State)
	}
	waitUntil(t, func() bool { return h.notified.Load() == 3 })
	if o := h.observation(target.UID); o.State != Sealed {
		t.Errorf("the node is %s, want Sealed", o.State)
	}
	quiet := len(node.Probes()) + 2
	waitUntil(t, func() bool { return len(node.Probes()) >= quiet })
	if got := h.notified.Load(); got != 3 {
		t.Errorf("notified %d times, want 3", got)
	}
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	poll.Eventually(t, "the condition holds", 2*slack, time.Millisecond, func() error {
		if !ok() {
			return errors.New("it does not")
		}
		return nil
	})
}

func TestNewPodOfTheSameNameIsAnotherTarget(t *testing.T) {
	t.Parallel()
	node, target := startNode(t, fakevault.Active)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Active)

	node.Set(fakevault.Sealed)
	successor := target
	successor.UID = "b"
	h.SetTargets(exampleVault, []Target{successor}, true)
	if _, known := h.Observations(exampleVault)[target.UID]; known {
		t.Error("the replaced pod is still known")
	}
	if state := h.observation(successor.UID).State; state == Active {
		t.Error("the new pod has inherited the state of the old one")
	}
	h.waitFor(t, successor.UID, Sealed)
}

func TestChangedTargetIsProbedByOneWorker(t *testing.T) {
	node, target := startNode(t, fakevault.Active)
	node.Freeze()
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	waitForWorkers(t, 1)

	// The pod's sandbox was made anew: another address, the same pod. The answer
	// that is still awaited from the old address must not count.
	second, moved := startNode(t, fakevault.Standby)
	h.SetTargets(exampleVault, []Target{moved}, true)
	h.waitFor(t, target.UID, Standby)
	node.Thaw()
	waitForWorkers(t, 1)
	count := len(second.Probes())
	waitUntil(t, func() bool {
		if state := h.observation(target.UID).State; state != Standby {
			t.Fatalf("the node is %s, want Standby", state)
		}
		return len(second.Probes()) >= count+3
	})
}

func TestWorkersOfRemovedTargetsEnd(t *testing.T) {
	waitForWorkers(t, 0)
	_, first := startNode(t, fakevault.Active)
	hanging, second := startNode(t, fakevault.Active)
	second.UID = "b"
	hanging.Freeze()
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{first, second}, true)
	waitForWorkers(t, 2)
	h.SetTargets(exampleVault, []Target{first}, true)
	waitForWorkers(t, 1)
	h.SetTargets(exampleVault, nil, false)
	waitForWorkers(t, 0)
	if got := h.Observations(exampleVault); got != nil {
		t.Errorf("observations %v of a Vault that was forgotten", got)
	}
	if len(h.vaults) != 0 {
		t.Errorf("the engine keeps %v", h.vaults)
	}
}

func TestEndOfTheEngineEndsAllWorkers(t *testing.T) {
	waitForWorkers(t, 0)
	_, target := startNode(t, fakevault.Active)
	engine := NewEngine()
	engine.SetTargets(exampleVault, []Target{target}, true)
	waitForWorkers(t, 1)

	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- engine.Start(ctx) }()
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	waitForWorkers(t, 0)

	// A reconciler may still be at work while the manager stops.
	other := target
	other.UID = "b"
	engine.SetTargets(exampleVault, []Target{target, other}, true)
	waitForWorkers(t, 0)
}

// waitForWorkers waits until so many goroutines probe nodes. Tests that call it
// do not run beside others.
func waitForWorkers(t *testing.T, want int) {
	t.Helper()
	poll.Eventually(t, fmt.Sprintf("there are %d workers", want), 2*slack, 5*time.Millisecond, func() error {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if got := strings.Count(string(stacks), "probe.(*worker).run("); got != want {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// What is set for Vault's own command line in the operator's environment must
// not send its probes, and least of all its trust, elsewhere.
func TestEnvironmentDoesNotChangeWhoIsProbed(t *testing.T) {
	impostor, _ := startNode(t, fakevault.Active)
	for key, value := range map[string]string{
		"VAULT_ADDR":            "https://" + impostor.Address,
		"VAULT_AGENT_ADDR":      "https://" + impostor.Address,
		"VAULT_PROXY_ADDR":      "https://" + impostor.Address,
		"VAULT_SKIP_VERIFY":     "true",
		"VAULT_TLS_SERVER_NAME": "elsewhere",
		"VAULT_NAMESPACE":       "admin",
		"VAULT_TOKEN":           "root",
		"VAULT_MAX_RETRIES":     "9",
		"VAULT_CLIENT_TIMEOUT":  "1ms",
		"HTTPS_PROXY":           "https://" + impostor.Address,
	} {
		t.Setenv(key, value)
	}
	_, target := startNode(t, fakevault.Sealed)
	h := newHarness(t)
	h.SetTargets(exampleVault, []Target{target}, true)
	h.waitFor(t, target.UID, Sealed)
	if probes := len(impostor.Probes()); probes > 0 {
		t.Errorf("%d probes went elsewhere", probes)
	}

	untrusted := target
	untrusted.CA = fakevault.NewCA(t).PEM
	h.SetTargets(exampleVault, []Target{untrusted}, true)
	h.waitFor(t, target.UID, Unverified)
}

func TestState(t *testing.T) {
	tests := []struct {
		state     State
		name      string
		responded bool
	}{
		{Unknown, "Unknown", false}, {Unreachable, "Unreachable", false}, {Unverified, "Unverified", false},
		{Uninitialized, "Uninitialized", true},
		{Sealed, "Sealed", true}, {Standby, "Standby", true}, {Active, "Active", true},
	}
	for _, tt := range tests {
		if tt.state.String() != tt.name || tt.state.Responded() != tt.responded {
			t.Errorf("%d is %s, answered %v; want %s, %v", tt.state, tt.state, tt.state.Responded(), tt.name, tt.responded)
		}
	}
}
