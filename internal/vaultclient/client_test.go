package vaultclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

const name = "example.default.svc"

// Nothing is sent to a node that cannot be verified.
func TestUnverifiedNode(t *testing.T) {
	ca, other := fakevault.NewCA(t), fakevault.NewCA(t)
	var requests atomic.Int32
	node := fakevault.Start(t, ca.Certificate(t, name), fakevault.Sealed)
	node.Handle(func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return false })
	for what, target := range map[string]probe.Target{
		"another CA":   {Address: node.Address, ServerName: name, CA: other.PEM},
		"no CA":        {Address: node.Address, ServerName: name},
		"another name": {Address: node.Address, ServerName: "other.default.svc", CA: ca.PEM},
	} {
		if _, err := New(target).Unseal(t.Context(), "MARKER"); err == nil || strings.Contains(err.Error(), "MARKER") {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if requests.Load() > 0 {
		t.Errorf("the node got %d requests", requests.Load())
	}
	seal, err := New(probe.Target{Address: node.Address, ServerName: name, CA: ca.PEM}).SealStatus(t.Context())
	if err != nil || seal.Type != "shamir" || !seal.Sealed || requests.Load() != 1 {
		t.Errorf("the seal is %+v, %v", seal, err)
	}
}

// What fails is neither repeated nor made elsewhere, and nothing of it is quoted.
func TestOneRequest(t *testing.T) {
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, name), fakevault.Sealed)
	client := New(probe.Target{Address: node.Address, ServerName: name, CA: ca.PEM})
	for what, respond := range map[string]func(http.ResponseWriter){
		"the connection ends": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"no response of HTTP": func(w http.ResponseWriter) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_, _ = conn.Write([]byte("MARKER\r\n\r\n"))
				_ = conn.Close()
			}
		},
		"a redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://"+node.Address+"/v1/sys/init")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"unavailable": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"errors": ["MARKER"]}`))
		},
		"no keys": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"root_token": "MARKER"}`)) },
		"no JSON": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`MARKER`)) },
		"a header without end": func(w http.ResponseWriter) {
			w.Header().Set("X-Filler", strings.Repeat("x", 2*maxHeader))
			_, _ = w.Write([]byte(`{"keys_base64": ["MARKER"]}`))
		},
		"more than keys take": func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"keys_base64": ["MARKER` + strings.Repeat("x", maxInitResponse) + `"]}`))
		},
		"a cut message": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"keys_base64": ["MARKER`)) },
	} {
		t.Run(what, func(t *testing.T) {
			var requests atomic.Int32
			node.Handle(func(w http.ResponseWriter, r *http.Request) bool {
				requests.Add(1)
				if r.Header.Get("X-Vault-No-Request-Forwarding") == "" {
					t.Error("a standby node passes the request on")
				}
				respond(w)
				return true
			})
			response, err := client.Init(t.Context(), &InitRequest{SecretShares: 1, SecretThreshold: 1})
			if err == nil || response != nil || strings.Contains(err.Error(), "MARKER") {
				t.Errorf("error %v", err)
			}
			if status := StatusOf(err); status > 0 && status < 300 {
				t.Errorf("the status is %d", status)
			}
			if requests.Load() != 1 {
				t.Errorf("the node got %d requests", requests.Load())
			}
		})
	}
	t.Run("it hangs", func(t *testing.T) {
		node.Freeze()
		defer node.Thaw()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := client.SealStatus(ctx); err == nil {
			t.Error("no error")
		}
	})
}

// Other responses than the one with the keys are small.
func TestLimit(t *testing.T) {
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, name), fakevault.Sealed)
	client := New(probe.Target{Address: node.Address, ServerName: name, CA: ca.PEM})
	node.Handle(func(w http.ResponseWriter, _ *http.Request) bool {
		filler := strings.Repeat("x", maxResponse)
		_, _ = w.Write([]byte(`{"type": "shamir", "keys_base64": ["x"], "filler": "` + filler + `"}`))
		return true
	})
	if _, err := client.SealStatus(t.Context()); err == nil {
		t.Error("a seal of any size is taken")
	}
	if _, err := client.Init(t.Context(), &InitRequest{}); err != nil {
		t.Errorf("large keys are refused: %v", err)
	}
}

// What a node says is told to administrators: it is short, and quotes no secret.
func TestReasons(t *testing.T) {
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, name), fakevault.Sealed)
	client := New(probe.Target{Address: node.Address, ServerName: name, CA: ca.PEM})
	var reasons []string
	node.Handle(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": reasons})
		return true
	})
	const secret = "MARKER-secret"
	requests := map[string]func() error{
		"a key":   func() error { _, err := client.Unseal(t.Context(), secret); return err },
		"a JWT":   func() error { _, err := client.LoginJWT(t.Context(), "jwt", "operator", secret); return err },
		"a token": func() error { return client.RevokeSelf(t.Context(), secret) },
	}
	for what, request := range requests {
		reasons = []string{"it was " + secret, " two\n\tlines\x1b "}
		if got := ReasonsOf(request()); !slices.Equal(got, []string{"two lines"}) {
			t.Errorf("%s: the reasons are %q", what, got)
		}
	}
	// Of a short one nothing can be told from other words.
	reasons = []string{"role operator has no key"}
	if got := ReasonsOf(client.RevokeSelf(t.Context(), "key")); !slices.Equal(got, reasons) {
		t.Errorf("the reasons are %q", got)
	}
	reasons = slices.Repeat([]string{strings.Repeat("ä", maxReason)}, 2*maxReasons)
	got := ReasonsOf(requests["a key"]())
	if len(got) != maxReasons || len(got[0]) != maxReason || !utf8.ValidString(got[0]) {
		t.Errorf("%d reasons, the first one with %d bytes", len(got), len(got[0]))
	}
}

// A node decides neither how often the operator logs in nor how much it keeps.
func TestLoginJWT(t *testing.T) {
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, name), fakevault.Active)
	client := New(probe.Target{Address: node.Address, ServerName: name, CA: ca.PEM})
	for what, test := range map[string]struct {
		token    string
		lifetime int64
		taken    bool
	}{
		"as Vault does":      {"hvb.MARKER", 300, true},
		"a minute":           {"hvb.MARKER", 60, true},
		"a day":              {strings.Repeat("x", maxToken), 24 * 3600, true},
		"less than a minute": {"hvb.MARKER", 59, false},
		"more than a day":    {"hvb.MARKER", 24*3600 + 1, false},
		"never ends":         {"hvb.MARKER", 0, false},
		"ends before":        {"hvb.MARKER", -300, false},
		"too long to count":  {"hvb.MARKER", 1 << 62, false},
		"no token":           {"", 300, false},
		"a large token":      {strings.Repeat("x", maxToken+1), 300, false},
	} {
		t.Run(what, func(t *testing.T) {
			node.Handle(func(w http.ResponseWriter, _ *http.Request) bool {
				_, _ = fmt.Fprintf(w, `{"auth": {"client_token": %q, "lease_duration": %d}}`, test.token, test.lifetime)
				return true
			})
			token, err := client.LoginJWT(t.Context(), "mount", "role", "jwt")
			if (err == nil) != test.taken || err != nil && strings.Contains(err.Error(), "MARKER") {
				t.Fatalf("error %v", err)
			}
			want := Token{}
			if test.taken {
				want = Token{test.token, time.Duration(test.lifetime) * time.Second}
			}
			if token != want {
				t.Errorf("the token is %+v", token)
			}
		})
	}
}
