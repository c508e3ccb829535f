package plugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

func lines(texts ...string) string { return strings.Join(texts, "\n") + "\n" }

func TestUnsealSendsEachShareToAllSealedNodes(t *testing.T) {
	h := newHarness(t)
	a, b := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true,
		progress: []string{good[3]}}
	c := &fakeNode{initialized: true, active: true}
	h.pods(map[string]string{"a": h.serve(a), "b": h.serve(b), "c": h.serve(c)})

	r := h.run(lines(good[0], "", good[1], good[1], good[2]), "unseal", "example")
	r.expect(t, 0, "a: 1 of 3 key shares", "b: 2 of 3 key shares", "a: unsealed", "b: unsealed", "All 3 nodes")
	if !slices.Equal(a.keys, good[:3]) {
		t.Errorf("a got %d shares, want each once", len(a.keys))
	}
	if len(b.keys) != 2 {
		t.Errorf("b got %d shares, and had one already", len(b.keys))
	}
	if len(c.keys) != 0 {
		t.Error("a node that is unsealed was sent a share")
	}
	for _, key := range good {
		if strings.Contains(r.out+r.errOut, key) {
			t.Error("a key share was printed")
		}
	}
}

func TestUnsealTellsAWrongKeyAndResets(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, sealed: true}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run(lines(good[0], wrong, good[1]), "unseal", "example").expect(t, exitDenied, "a key share is wrong", "begin again")
	if node.resets != 1 {
		t.Error("the progress was not reset")
	}
	// What is no share is not sent.
	sent := len(node.keys)
	h.run(lines("hvs.a-token"), "unseal", "example").expect(t, exitDenied, "that is no key share")
	if len(node.keys) != sent {
		t.Error("what is no key share was sent")
	}
}

// TestUnsealKeepsTheSharesOfOthers: they may have gone home.
func TestUnsealKeepsTheSharesOfOthers(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, sealed: true, progress: []string{good[3]}}
	h.pods(map[string]string{"a": h.serve(node)})
	short := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("a", 20)))
	h.run(lines(short), "unseal", "example").expect(t, exitDenied, "a key share is wrong", "keeps the 1 that it had")
	fails := func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusInternalServerError, "no storage") }
	node.handlers = map[string]http.HandlerFunc{"unseal": fails}
	h.run(lines(good[0]), "unseal", "example", "--timeout=100ms").expect(t, exitSealed, "a: no storage")
	if node.resets > 0 || len(node.progress) != 1 {
		t.Error("the key shares of others were taken back")
	}
	node.handlers = nil
	h.run(lines(good[0], good[1]), "unseal", "example").expect(t, 0, "a: unsealed")
}

func TestUnsealEndsWithoutEnoughShares(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, sealed: true}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run(lines(good[0]), "unseal", "example").expect(t, exitSealed, "2 more key share(s) needed; still sealed: a")
	// The next administrator goes on.
	h.run(lines(good[1], good[2]), "unseal", "example").expect(t, 0, "a: unsealed")
}

func TestUnsealGoesOnWithNodesThatComeUp(t *testing.T) {
	h := newHarness(t)
	a, b := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true}
	addresses := map[string]string{"a": h.serve(a), "b": h.serve(b)}
	h.pods(map[string]string{"a": addresses["a"], "b": ""})
	time.AfterFunc(2*time.Second, func() { h.pods(addresses) })
	h.run(lines(good[:3]...), "unseal", "example").expect(t, 0, "a: unsealed", "Waiting: b: it is starting",
		"b: unsealed", "All 2 nodes")

	// A node that does not come is in no time.
	h.pods(map[string]string{"a": addresses["a"], "b": ""})
	h.run("", "unseal", "example", "--timeout=100ms").expect(t, exitSealed, "1 node(s) unsealed", "b: it is starting")
}

func TestUnsealGoesOnWithARollout(t *testing.T) {
	h := newHarness(t)
	a, b := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true}
	addresses := map[string]string{"a": h.serve(a), "b": h.serve(b)}
	h.vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.UpdatedCondition, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonRollingOut, Message: "1 of 2"}}
	h.pods(map[string]string{"a": addresses["a"]})
	time.AfterFunc(2*time.Second, func() {
		h.vault.Status.Conditions = nil
		h.pods(addresses)
	})
	h.run(lines(good[:3]...), "unseal", "example").expect(t, 0, "a rollout is on: 1 of 2", "b: unsealed", "All 2 nodes")
}

// TestUnsealWaitsForTheOperator: who changes the spec and unseals at once has not unsealed the
// nodes of the new one.
func TestUnsealWaitsForTheOperator(t *testing.T) {
	h := newHarness(t)
	a, b := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true}
	addresses := map[string]string{"a": h.serve(a), "b": h.serve(b)}
	h.vault.Generation = 2
	h.pods(map[string]string{"a": addresses["a"]})
	time.AfterFunc(2*time.Second, func() {
		h.vault.Status.ObservedGeneration = 2
		h.pods(addresses)
	})
	h.run(lines(good[:3]...), "unseal", "example").expect(t, 0, "a: unsealed",
		"Waiting: the operator has not seen the newest spec yet", "b: unsealed", "All 2 nodes")

	h.vault.Generation = 3
	h.pods(addresses)
	h.run("", "unseal", "example", "--timeout=100ms").expect(t, exitError,
		"all 2 nodes are unsealed, and the operator has not seen the newest spec yet")
}

// TestUnsealGivesUpOnANodeThatGoes: only nodes that are unsealed give it more time.
func TestUnsealGivesUpOnANodeThatGoes(t *testing.T) {
	u := &unsealing{plugin: newPlugin(genericStreams(), "test"), target: &target{vault: &v1alpha1.Vault{}},
		unsealed: 2, moved: time.Now().Add(-time.Hour)}
	u.options.timeout = time.Minute
	gone := &seen{err: errNotRunning}
	if _, err := u.missing([]*seen{gone, {seal: &SealStatus{}}}); err == nil {
		t.Error("a node that has gone gives more time")
	}
	u.moved = time.Now().Add(-time.Hour)
	if _, err := u.missing([]*seen{gone, {seal: &SealStatus{}}, {seal: &SealStatus{}}}); err != nil {
		t.Errorf("a node that is unsealed gives no more time: %v", err)
	}
}

func TestUnsealRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		node *fakeNode
		want string
	}{
		"a Vault that is not initialized": {&fakeNode{sealed: true}, "kubectl vault init example -n default"},
		"a Vault with auto-unseal": {&fakeNode{initialized: true, sealed: true, sealType: "awskms"},
			"kubectl delete pod a -n default"},
		"a migration without the flag": {&fakeNode{initialized: true, sealed: true, migration: true}, "--migrate"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.pods(map[string]string{"a": h.serve(test.node)})
			h.run(lines(good...), "unseal", "example").expect(t, exitRefused, test.want)
			if len(test.node.keys) > 0 {
				t.Error("a key share was sent")
			}
		})
	}
	t.Run("not a migration with the flag", func(t *testing.T) {
		h := newHarness(t)
		node := &fakeNode{initialized: true, sealed: true, migration: true, sealType: "awskms"}
		h.pods(map[string]string{"a": h.serve(node)})
		h.run(lines(good...), "unseal", "example", "--migrate").expect(t, 0, "a: unsealed")
	})
	t.Run("with the flag, nodes that do not wait for a migration", func(t *testing.T) {
		h := newHarness(t)
		waits := &fakeNode{initialized: true, sealed: true, migration: true, sealType: "awskms"}
		old := &fakeNode{initialized: true, sealed: true}
		h.pods(map[string]string{"a": h.serve(waits), "b": h.serve(old)})
		h.run(lines(good...), "unseal", "example", "--migrate", "--timeout=100ms").expect(t, exitSealed, "a: unsealed", "b")
		if len(old.keys) > 0 {
			t.Error("a key share was sent to the node that waits for no migration")
		}
	})
	t.Run("without the flag, a node of both seals that waits for no migration any more", func(t *testing.T) {
		h := newHarness(t)
		h.vault.Spec.SealMigration = &v1alpha1.SealMigrationPolicy{}
		h.vault.Status.UpdatedNodes = []string{"a"}
		h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, sealed: true, sealType: "awskms"})})
		h.run(lines(good...), "unseal", "example").expect(t, 0, "a: unsealed")
	})
	t.Run("nodes of an older pod template, which would move the data back", func(t *testing.T) {
		for _, flag := range []string{"--migrate", "--migrate=false"} {
			h := newHarness(t)
			h.vault.Spec.SealMigration = &v1alpha1.SealMigrationPolicy{From: v1alpha1.OldSeal{
				AWSKMS: &v1alpha1.AWSKMSSeal{Region: "a", KMSKeyID: "b"}}}
			h.vault.Status.UpdatedNodes = []string{"b"}
			old := &fakeNode{initialized: true, sealed: true, migration: true, sealType: "awskms"}
			h.pods(map[string]string{"a": h.serve(old), "b": h.serve(&fakeNode{initialized: true})})
			h.run(lines(good...), "unseal", "example", flag, "--timeout=100ms").expect(t, exitSealed, "is to be replaced")
			if len(old.keys) > 0 {
				t.Errorf("%s sends a key share to the node of the old seal", flag)
			}
		}
	})
}

// TestKeysGoToVerifiedNodesOnly fails when a pod with the labels of a Vault gets a key by
// having any certificate.
func TestKeysGoToVerifiedNodesOnly(t *testing.T) {
	h := newHarness(t)
	impostor, other := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true}
	foreign, err := certs.NewCA("foreign", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	byForeign, err := certs.Sign(foreign, "vault", nil, []string{serverName}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	otherName, err := certs.Sign(h.ca, "vault", nil, []string{"localhost", "other.default.svc"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// The environment must not turn this off.
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	t.Setenv("VAULT_CACERT", "/is/not/there")
	t.Setenv("VAULT_TOKEN", "hvs.of-the-environment")
	genuine := &fakeNode{initialized: true, sealed: true}
	h.pods(map[string]string{"a": serveTLS(t, impostor, byForeign), "b": serveTLS(t, other, otherName),
		"c": h.serve(genuine)})
	h.run(lines(good...), "unseal", "example", "--timeout=100ms").expect(t, exitSealed, "c: unsealed",
		"a: its certificate cannot be verified", "b: its certificate cannot be verified")
	if len(impostor.keys)+len(other.keys) > 0 {
		t.Error("a key share was sent to a node that is not verified")
	}
	if len(genuine.tokens) > 0 {
		t.Error("the token of the environment was sent")
	}
	if os.Getenv("VAULT_TOKEN") == "" {
		t.Error("the environment was not put back")
	}
}

// TestPodsMadeByHandAreNoNodes: whoever may create pods could mount the certificate of Vault.
func TestPodsMadeByHandAreNoNodes(t *testing.T) {
	h := newHarness(t)
	a, b := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true}
	h.pods(map[string]string{"a": h.serve(a), "b": h.serve(b)})
	h.api.mu.Lock()
	for _, object := range h.api.objects["pods"] {
		if pod := object.(*corev1.Pod); pod.Name == "b" {
			pod.OwnerReferences = nil
		}
	}
	h.api.mu.Unlock()
	h.run(lines(good[0]), "unseal", "example").expect(t, exitSealed, "a: 1 of 3 key shares", "still sealed: a")
	if len(b.keys) > 0 {
		t.Error("a key share was sent to a pod that no controller has made")
	}
}

func TestNodesThatDisagreeGetNothing(t *testing.T) {
	h := newHarness(t)
	a, b := &fakeNode{initialized: true, sealed: true}, &fakeNode{initialized: true, sealed: true, threshold: 1}
	h.pods(map[string]string{"a": h.serve(a), "b": h.serve(b)})
	h.run(lines(good...), "unseal", "example").expect(t, exitRefused, "a says that 3 of 5 key shares unseal it",
		"b that 1 of 5")
	a.sealed, a.active, b.sealed, b.active = false, true, false, true
	h.run("hvs.good\n", "step-down", "example").expect(t, exitError, "more than one node of Vault example says", "a, b")
	if len(a.keys)+len(b.keys)+len(a.tokens)+len(b.tokens) > 0 {
		t.Error("a node got a secret")
	}
}

func TestResponsesOfNodesAreNotTrusted(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, sealed: true, handlers: map[string]http.HandlerFunc{
		"unseal": func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusBadRequest, "bad\x1b[2J\u202e\nAll 9 nodes are unsealed"+strings.Repeat("x", 1<<20))
		},
	}}
	h.pods(map[string]string{"a": h.serve(node)})
	r := h.run(lines(good...), "unseal", "example")
	if strings.ContainsAny(r.errOut, "\x1b\u202e") || strings.Contains(r.errOut, "\nAll 9") || len(r.errOut) > 8000 {
		t.Error("the answer of a node was printed as it was")
	}

	// More than is read of an answer, and an answer that sends elsewhere.
	node.handlers = map[string]http.HandlerFunc{"seal-status": func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"initialized": true, "sealed": true, "t": 3, "x": strings.Repeat("x", 8<<20)})
	}}
	h.run(lines(good...), "unseal", "example", "--timeout=50ms").expect(t, exitSealed)
	elsewhere := &fakeNode{initialized: true, active: true}
	to := h.serve(elsewhere)
	node.handlers = map[string]http.HandlerFunc{"step-down": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+to+"/v1/sys/step-down", http.StatusTemporaryRedirect)
	}}
	node.sealed, node.active = false, true
	h.run("hvs.good\n", "step-down", "example").expect(t, exitError, "sends to another one")
	if len(elsewhere.tokens) > 0 {
		t.Error("the token was sent where a node sent to")
	}
}

func TestInit(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{sealed: true}
	address := h.serve(node)
	h.pods(map[string]string{"example-0": address, "example-1": ""})
	h.run("", "init", "example", "--pgp-keys=/is/not/there").expect(t, exitError, "1 PGP keys were given for 5 key shares")
	h.vault.Spec.Initialization = &v1alpha1.InitializationPolicy{}
	h.api.set("vaults", h.vault)
	h.run("", "init", "example").expect(t, exitRefused, "remove spec.initialization")
	h.vault.Spec.Initialization = nil
	h.api.set("vaults", h.vault)
	h.run("", "init", "example").expect(t, 0, "Unseal Key 1: "+good[0], "Initial Root Token: hvs.root",
		"5 key shares and a key threshold of 3", "kubectl vault unseal example -n default")
	h.run("", "init", "example").expect(t, exitRefused, "is initialized already, as example-0 says")
	node.initialized = false
	r := h.run("", "init", "example", "-o", "json")
	r.expect(t, 0, `"root_token": "hvs.root"`)
	if !strings.HasPrefix(r.out, "{") {
		t.Error("the output is not JSON alone")
	}
}

// TestInitTellsWhatHasBecomeOfAFailure: Vault answers 400 also after it has written what
// makes it initialized, and data must not be deleted for nothing.
func TestInitTellsWhatHasBecomeOfAFailure(t *testing.T) {
	const deletion = "delete the Vault together with its data"
	h := newHarness(t)
	node := &fakeNode{sealed: true}
	h.pods(map[string]string{"a": h.serve(node)})
	handle := func(path string, handler http.HandlerFunc) {
		node.mu.Lock()
		defer node.mu.Unlock()
		node.handlers = map[string]http.HandlerFunc{path: handler}
	}
	for _, code := range []int{http.StatusBadRequest, http.StatusInternalServerError} {
		node.initialized = false
		handle("init", func(w http.ResponseWriter, _ *http.Request) { refuse(w, code, "no storage") })
		r := h.run("", "init", "example")
		r.expect(t, exitError, "did not answer with keys (no storage)", "Nothing was initialized: run it again")
		if strings.Contains(r.errOut, deletion) {
			t.Error("it advises to delete data")
		}
		handle("init", func(w http.ResponseWriter, _ *http.Request) {
			node.initialized = true
			refuse(w, code, "failed to store keys")
		})
		h.run("", "init", "example").expect(t, exitError, "Vault is initialized now, and these keys are lost, unless",
			deletion)
	}

	// The connection breaks.
	node.initialized = false
	handle("init", func(http.ResponseWriter, *http.Request) {
		node.initialized = true
		panic(http.ErrAbortHandler)
	})
	h.run("", "init", "example").expect(t, exitError, "Vault is initialized now", deletion)
	// And nobody answers afterwards.
	node.initialized = false
	handle("init", func(http.ResponseWriter, *http.Request) {
		node.handlers["seal-status"] = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		panic(http.ErrAbortHandler)
	})
	h.run("", "init", "example").expect(t, exitError, "No node tells whether Vault is initialized now")
}

// TestInitSendsNothingToAnImpostor: the node is verified when it is asked, and is another one
// when it would be initialized.
func TestInitSendsNothingToAnImpostor(t *testing.T) {
	h := newHarness(t)
	foreign, err := certs.NewCA("foreign", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	byForeign, err := certs.Sign(foreign, "vault", nil, []string{serverName}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var pairs []tls.Certificate
	for _, pair := range []certs.KeyPair{h.server, byForeign} {
		cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, cert)
	}
	node := &fakeNode{sealed: true}
	var handshakes atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		node.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &pairs[min(handshakes.Add(1)-1, 1)], nil
		}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	h.pods(map[string]string{"a": server.Listener.Addr().String()})
	r := h.run("", "init", "example")
	r.expect(t, exitError, "its certificate cannot be verified", "so nothing was initialized")
	if node.initialized || strings.Contains(r.errOut, "delete") {
		t.Error("it was sent something, or is to be deleted")
	}
}

// TestInitChoosesTheFirstOfAStatefulSet: each other one could be initialized for itself.
func TestInitChoosesTheFirstOfAStatefulSet(t *testing.T) {
	h := newHarness(t)
	first, second := &fakeNode{sealed: true}, &fakeNode{sealed: true}
	h.pods(map[string]string{"example-0": "", "example-1": h.serve(second)})
	own := func() {
		yes := true
		h.api.mu.Lock()
		defer h.api.mu.Unlock()
		for _, pod := range h.api.objects["pods"] {
			pod.(*corev1.Pod).OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet",
				Name: "example", Controller: &yes}}
		}
	}
	own()
	h.run("", "init", "example").expect(t, exitError, "example-0: it is starting")
	h.pods(map[string]string{"example-0": h.serve(first), "example-1": h.serve(second)})
	own()
	h.run("", "init", "example").expect(t, 0)
	if !first.initialized || second.initialized {
		t.Error("Vault was initialized through another node than the first")
	}
	// One that has lost its volume, while the others do not answer.
	h.vault.Status.Initialized = true
	h.pods(map[string]string{"example-0": h.serve(&fakeNode{sealed: true}), "example-1": ""})
	own()
	h.run("", "init", "example").expect(t, exitRefused, "Vault example was initialized")
}

func TestSealAndStepDown(t *testing.T) {
	h := newHarness(t)
	standby, active := &fakeNode{initialized: true}, &fakeNode{initialized: true, active: true}
	h.pods(map[string]string{"a": h.serve(standby), "b": h.serve(active)})
	h.run("hvs.bad\n", "step-down", "example").expect(t, exitDenied, "b: permission denied")
	h.run("", "step-down", "example").expect(t, exitDenied, "no token was given")
	h.run("hvs.good\n", "step-down", "example").expect(t, 0, "b has stepped down")
	if len(standby.tokens) > 0 {
		t.Error("a standby node got the token")
	}
	active.active = true
	h.run("hvs.good\n", "seal", "example").expect(t, 0, "b is sealed")
	h.run("hvs.good\n", "seal", "example").expect(t, exitError, "a is standby, b is sealed")
	standby.sealed = true
	h.run("hvs.good\n", "seal", "example").expect(t, exitSealed, "no node of Vault example is active")
}

func TestGenerateRoot(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, active: true}
	h.pods(map[string]string{"a": h.serve(node)})
	r := h.run(lines(good[0], good[0], good[1], good[2]), "generate-root", "example")
	r.expect(t, 0, "3 of 3 key shares")
	if r.out != "hvs.new-root\n" {
		t.Errorf("printed %q", r.out)
	}
	node.root.started = true
	h.run(lines(good...), "generate-root", "example").expect(t, exitRefused, "--cancel")
	h.run("", "generate-root", "example", "--cancel").expect(t, 0)
	h.run(lines(good[0], wrong, good[1]), "generate-root", "example").expect(t, exitDenied, "a key share is wrong",
		"The attempt was cancelled")
	h.run(lines(good[0]), "generate-root", "example").expect(t, exitDenied, "2 more key share(s) needed",
		"The attempt was cancelled")
	if node.root.started {
		t.Error("an attempt was left")
	}
}

// TestGenerateRootFails: no attempt of this run is left, none of somebody else is cancelled,
// and nobody overlooks a token that was made.
// Who interrupts a request, or gets no answer, is not told that it was refused.
func TestNoAnswerIsNoRefusal(t *testing.T) {
	if err := denied(&url.Error{Op: "Put", Err: context.Canceled}, "b: it"); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := denied(&url.Error{Op: "Put", Err: io.EOF}, "b: it"); !strings.Contains(err.Error(), "not known") {
		t.Errorf("without an answer: %v", err)
	}
}

// A copy of a Vault that somebody unseals would revoke the leases of the Vault.
func TestCopiesAreLeftAlone(t *testing.T) {
	h := newHarness(t)
	h.vault.Labels = map[string]string{v1alpha1.ProofLabel: "nightly"}
	h.vault.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(),
		Kind: "VaultBackupSchedule", Name: "nightly", Controller: new(true)}}
	h.vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.UnsealedCondition, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonAwaitingUnseal}}
	h.api.set("vaults", h.vault)
	h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, sealed: true})})
	for _, command := range []string{"unseal", "generate-root"} {
		h.run(lines(good...), command, "example").expect(t, exitRefused, "to prove a backup")
	}
	if out := h.run("", "status", "example").out; strings.Contains(out, "kubectl vault unseal") {
		t.Errorf("it advises to unseal it:\n%s", out)
	}
}

func TestGenerateRootFails(t *testing.T) {
	const attempt, update = "generate-root/attempt", "generate-root/update"
	const mayExist = "A root token may exist"
	stranger := func(n *fakeNode) { n.root.started, n.root.nonce, n.root.progress = true, "of a stranger", good[:1] }
	breaks := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, test := range map[string]struct {
		// happen is what happens when the nth request to the path arrives that changes something.
		path   string
		nth    int
		happen func(*fakeNode, http.ResponseWriter, *http.Request) (handled bool)
		code   int
		want   []string
		left   bool
	}{
		"another attempt was begun at the same time": {path: attempt, nth: 1, code: exitRefused, left: true,
			want: []string{"somebody else has begun an attempt"},
			happen: func(n *fakeNode, w http.ResponseWriter, _ *http.Request) bool {
				stranger(n)
				refuse(w, http.StatusBadRequest, "root generation already in progress")
				return true
			}},
		"the beginning is not answered": {path: attempt, nth: 1, code: exitError,
			want: []string{"it does not answer", "The attempt was cancelled"},
			happen: func(n *fakeNode, w http.ResponseWriter, r *http.Request) bool {
				n.root.started = true
				breaks(w, r)
				return true
			}},
		"somebody else cancels": {path: update, nth: 2, code: exitRefused,
			want: []string{"somebody else has cancelled this attempt", "not on any more"},
			happen: func(n *fakeNode, _ http.ResponseWriter, _ *http.Request) bool {
				n.root.started = false
				return false
			}},
		"somebody else begins another one": {path: update, nth: 2, code: exitRefused, left: true,
			want: []string{"somebody else has cancelled this attempt (incorrect nonce supplied)"},
			happen: func(n *fakeNode, _ http.ResponseWriter, _ *http.Request) bool {
				stranger(n)
				return false
			}},
		"a share is not answered": {path: update, nth: 2, code: exitError,
			want: []string{"it does not answer", "The attempt was cancelled"},
			happen: func(_ *fakeNode, w http.ResponseWriter, r *http.Request) bool {
				breaks(w, r)
				return true
			}},
		"the last share is not answered": {path: update, nth: 3, code: exitError,
			want: []string{"it does not answer", mayExist, "vault list auth/token/accessors"},
			happen: func(n *fakeNode, w http.ResponseWriter, r *http.Request) bool {
				n.root.started = false
				breaks(w, r)
				return true
			}},
		"the last share does not arrive": {path: update, nth: 3, code: exitError,
			want: []string{"it does not answer", "The attempt was cancelled"},
			happen: func(_ *fakeNode, w http.ResponseWriter, r *http.Request) bool {
				breaks(w, r)
				return true
			}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			node := &fakeNode{initialized: true, active: true}
			requests := 0
			node.handlers = map[string]http.HandlerFunc{test.path: func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					if requests++; requests == test.nth && test.happen(node, w, r) {
						return
					}
				}
				node.generateRoot(w, r, test.path)
			}}
			h.pods(map[string]string{"a": h.serve(node)})
			r := h.run(lines(good...), "generate-root", "example")
			r.expect(t, test.code, test.want...)
			if node.root.started != test.left || test.left && node.root.canceled > 0 {
				t.Errorf("an attempt is on: %t, %d were cancelled", node.root.started, node.root.canceled)
			}
			if !slices.Contains(test.want, mayExist) && strings.Contains(r.errOut, mayExist) {
				t.Error("there is no token that could exist")
			}
			if r.out != "" {
				t.Errorf("printed %q", r.out)
			}
		})
	}
}

// TestGenerateRootInterrupted: an interruption is heeded when a request is answered.
func TestGenerateRootInterrupted(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, active: true}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	node.handlers = map[string]http.HandlerFunc{"generate-root/update": func(w http.ResponseWriter, r *http.Request) {
		interrupt()
		node.generateRoot(w, r, "generate-root/update")
	}}
	h.pods(map[string]string{"a": h.serve(node)})
	h.runWith(ctx, strings.NewReader(lines(good...)), "generate-root", "example").expect(t, exitInterrupted,
		"1 of 3 key shares", "The attempt was cancelled")
	if node.root.started {
		t.Error("an attempt was left")
	}
	// What was made is printed.
	ctx, interrupt = context.WithCancel(t.Context())
	defer interrupt()
	updates := 0
	node.handlers["generate-root/update"] = func(w http.ResponseWriter, r *http.Request) {
		if updates++; updates == 3 {
			interrupt()
		}
		node.generateRoot(w, r, "generate-root/update")
	}
	r := h.runWith(ctx, strings.NewReader(lines(good...)), "generate-root", "example")
	r.expect(t, 0)
	if r.out != "hvs.new-root\n" {
		t.Errorf("printed %q", r.out)
	}
}

func TestExec(t *testing.T) {
	h := newHarness(t)
	node := &fakeNode{initialized: true, active: true}
	h.pods(map[string]string{"a": h.serve(node)})
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	t.Setenv("VAULT_TOKEN", "hvs.mine")
	r := h.run("typed\n", "exec", "example", "--", "sh", "-c",
		`read line; echo "$line $VAULT_ADDR $VAULT_TLS_SERVER_NAME [$VAULT_SKIP_VERIFY] $VAULT_TOKEN"
		head -1 "$VAULT_CACERT"; echo "$VAULT_CACERT" >&2; exit 7`)
	r.expect(t, 7, "typed https://127.0.0.1:", serverName+" [] hvs.mine", "BEGIN CERTIFICATE")
	if _, err := os.Stat(strings.TrimSpace(r.errOut)); !os.IsNotExist(err) {
		t.Error("the file with the CA was left")
	}
	h.run("", "exec", "example", "vault").expect(t, exitError, "give the name of a Vault")
	h.run("", "exec", "example", "--", "no-such-command").expect(t, exitError, "developer.hashicorp.com")
}

func TestMissingRight(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, sealed: true})})
	h.api.forbidden = true
	h.run("", "unseal", "example").expect(t, exitError, "you may not forward ports")
}

func TestInterrupted(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": ""})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	canceled, stop := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, stop)
	h.runWith(canceled, strings.NewReader(""), "unseal", "example").expect(t, exitInterrupted, "interrupted")
}

// TestInterruptedAtAPipe: what writes into it may never end.
func TestInterruptedAtAPipe(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, active: true})})
	ctx, interrupt := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, interrupt)
	reader, writer := io.Pipe()
	defer writer.Close()
	h.runWith(ctx, reader, "seal", "example").expect(t, exitInterrupted, "interrupted")
}

func TestCompletion(t *testing.T) {
	h := newHarness(t)
	for _, command := range []string{"init", "unseal", "seal", "status", "step-down", "generate-root", "exec", "logs",
		"report", "authorize", "deauthorize", "recover-raft", "replace-etcd-member"} {
		if r := h.run("", "__complete", command, ""); !strings.HasPrefix(r.out, "example\n") {
			t.Errorf("%s completes to %q", command, r.out)
		}
	}
}

func TestEveryCommandHasExamples(t *testing.T) {
	h := newHarness(t)
	for _, command := range newPlugin(genericStreams(), "test").command().Commands() {
		if command.Name() == "help" {
			continue
		}
		r := h.run("", command.Name(), "--help")
		r.expect(t, 0, "kubectl vault "+command.Name()+" NAME", "Examples:")
		if strings.Contains(r.out, "--as-group") {
			t.Errorf("the help of %s is full of flags of kubectl", command.Name())
		}
	}
}

// TestNoTokensInArguments: everybody on the machine may read those.
func TestNoTokensInArguments(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": h.serve(&fakeNode{initialized: true, active: true})})
	for _, command := range []string{"seal", "step-down", "status", "authorize", "deauthorize"} {
		h.run("", command, "example", "--token=hvs.good").expect(t, exitError, "unknown flag: --token")
	}
}

func TestNoSuchVault(t *testing.T) {
	h := newHarness(t)
	h.run("", "status", "other").expect(t, exitError, "there is no Vault other in the namespace default")
	h.run("", "unseal", "other").expect(t, exitError, "there is no Vault other in the namespace default")
}

// TestGPG decrypts a share that is encrypted as Vault does it, with a key of its own.
func TestGPG(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("there is no gpg")
	}
	// The socket of the agent must have a short name.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	gpg := func(input string, args ...string) string {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--batch", "--quiet", "--yes"}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %s: %v", args, err)
		}
		return string(out)
	}
	gpg("", "--passphrase", "", "--quick-generate-key", "ann@example.com", "rsa2048", "encr", "never")
	var files []string
	for i, form := range [][]string{{"--armor"}, nil} {
		file := filepath.Join(home, "share"+string(rune('0'+i)))
		encrypted := gpg(good[i], append(form, "--trust-model", "always", "--encrypt", "-r", "ann@example.com")...)
		if err := os.WriteFile(file, []byte(encrypted), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	h := newHarness(t)
	node := &fakeNode{initialized: true, sealed: true}
	h.pods(map[string]string{"a": h.serve(node)})
	h.run(lines(good[2]), "unseal", "example", "--gpg", strings.Join(files, ",")).expect(t, 0, "a: unsealed")

	key := filepath.Join(home, "ann")
	for _, form := range [][]string{{"--armor"}, nil} {
		if err := os.WriteFile(key, []byte(gpg("", append(form, "--export", "ann@example.com")...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := publicKey(key); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(key, []byte(gpg("", "--armor", "--export-secret-keys", "ann@example.com")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := publicKey(key); err == nil {
		t.Error("a private key would be sent to Vault")
	}
}

// TestPrivateKeysAreNotSent, in whatever form they are.
func TestPrivateKeysAreNotSent(t *testing.T) {
	entity, err := openpgp.NewEntity("Ann", "", "ann@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public, private bytes.Buffer
	if err := entity.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if err := entity.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	armored := func(kind string, content []byte) string {
		var text bytes.Buffer
		w, err := armor.Encode(&text, kind, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	encoded := base64.StdEncoding.EncodeToString
	for name, test := range map[string]struct {
		content string
		public  bool
	}{
		"public":                     {public.String(), true},
		"public as base64":           {encoded(public.Bytes()) + "\n", true},
		"public and armored":         {armored(openpgp.PublicKeyType, public.Bytes()), true},
		"private":                    {private.String(), false},
		"private as base64":          {encoded(private.Bytes()), false},
		"private and armored":        {armored(openpgp.PrivateKeyType, private.Bytes()), false},
		"private, armored as public": {armored(openpgp.PublicKeyType, private.Bytes()), false},
		"armored as base64":          {encoded([]byte(armored(openpgp.PrivateKeyType, private.Bytes()))), false},
		"private after public":       {public.String() + private.String(), false},
		"no key":                     {"nonsense", false},
		"nothing":                    {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			switch key, err := publicKey(file); {
			case (err == nil) != test.public:
				t.Errorf("it is a public key: %t, %v", test.public, err)
			case test.public && key != encoded(public.Bytes()):
				t.Error("another key would be sent")
			}
		})
	}
}
