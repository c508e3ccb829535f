package plugin

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Key shares of the fake nodes, which unseal by any three of the good ones.
var (
	good  = []string{share("a"), share("b"), share("c"), share("d")}
	wrong = share("x")
)

func share(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 33)))
}

// fakeNode is a Vault node that answers as Vault 1.21 does.
type fakeNode struct {
	mu          sync.Mutex
	initialized bool
	sealed      bool
	active      bool
	sealType    string
	migration   bool
	// threshold is how many key shares unseal the node, as it says: 3 if it is not set.
	threshold int
	progress  []string
	// tokens are those of requests, and keys are those that were sent.
	tokens []string
	keys   []string
	resets int
	// written are requests that have changed something with a token.
	written []string
	// policy and mount are what is in Vault by the name of the operator.
	policy string
	mount  map[string]any
	// handlers replace the responses to paths.
	handlers map[string]http.HandlerFunc

	root struct {
		started  bool
		nonce    string
		progress []string
		canceled int
	}
}

func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/sys/")
	if handle := n.handlers[path]; handle != nil {
		handle(w, r)
		return
	}
	if token := r.Header.Get("X-Vault-Token"); token != "" {
		n.tokens = append(n.tokens, token)
	}
	switch path {
	case "seal-status":
		n.status(w)
	case "leader":
		reply(w, map[string]any{"ha_enabled": true, "is_self": n.active})
	case "unseal":
		n.unseal(w, r)
	case "init":
		n.init(w, r)
	case "seal", "step-down":
		if r.Header.Get("X-Vault-Token") != "hvs.good" {
			refuse(w, http.StatusForbidden, "permission denied")
			return
		}
		n.sealed, n.active = path == "seal", false
		w.WriteHeader(http.StatusNoContent)
	case "policies/acl/vault-operator", "auth/vault-operator", "/v1/auth/vault-operator/config",
		"/v1/auth/vault-operator/role/vault-operator", "policies/acl/vault-operator-backup",
		"/v1/auth/vault-operator/role/vault-operator-backup":
		if r.Header.Get("X-Vault-Token") != "hvs.good" {
			refuse(w, http.StatusForbidden, "permission denied")
			return
		}
		if r.Method == http.MethodGet {
			n.granted(w, path)
			return
		}
		body, _ := io.ReadAll(r.Body)
		n.written = append(n.written, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/")+" "+string(body))
		w.WriteHeader(http.StatusNoContent)
	case "generate-root/attempt", "generate-root/update":
		n.generateRoot(w, r, path)
	default:
		refuse(w, http.StatusNotFound, "no such path")
	}
}

// granted answers who reads a policy or an auth method.
func (n *fakeNode) granted(w http.ResponseWriter, path string) {
	switch {
	case path == "policies/acl/vault-operator" && n.policy != "":
		reply(w, map[string]any{"data": map[string]any{"name": "vault-operator", "policy": n.policy}})
	case path == "auth/vault-operator" && n.mount != nil:
		reply(w, map[string]any{"data": n.mount})
	case path == "auth/vault-operator":
		refuse(w, http.StatusBadRequest, "No auth engine at vault-operator/")
	default:
		w.WriteHeader(http.StatusNotFound)
		reply(w, map[string]any{"errors": []string{}})
	}
}

func reply(w http.ResponseWriter, value any) { _ = json.NewEncoder(w).Encode(value) }

func refuse(w http.ResponseWriter, code int, text string) {
	w.WriteHeader(code)
	reply(w, map[string]any{"errors": []string{text}})
}

func (n *fakeNode) status(w http.ResponseWriter) {
	kind := n.sealType
	if kind == "" {
		kind = "shamir"
	}
	reply(w, map[string]any{"type": kind, "initialized": n.initialized, "sealed": n.sealed,
		"t": cmp.Or(n.threshold, 3), "n": 5,
		"progress": len(n.progress), "version": "1.21.0", "migration": n.migration, "recovery_seal": kind != "shamir"})
}

func (n *fakeNode) unseal(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Key            string
		Reset, Migrate bool
	}
	_ = json.NewDecoder(r.Body).Decode(&request)
	if request.Reset {
		n.progress, n.resets = nil, n.resets+1
		n.status(w)
		return
	}
	n.keys = append(n.keys, request.Key)
	if request.Migrate != n.migration {
		refuse(w, http.StatusInternalServerError, "migrate option is wrong")
		return
	}
	if len(request.Key) != len(wrong) {
		refuse(w, http.StatusBadRequest, "key is shorter than minimum 16 bytes")
		return
	}
	if !slices.Contains(n.progress, request.Key) {
		n.progress = append(n.progress, request.Key)
	}
	if len(n.progress) == 3 {
		given := n.progress
		n.progress = nil
		for _, key := range given {
			if !slices.Contains(good, key) {
				refuse(w, http.StatusBadRequest, "invalid key")
				return
			}
		}
		n.sealed = false
	}
	n.status(w)
}

func (n *fakeNode) init(w http.ResponseWriter, _ *http.Request) {
	if n.initialized {
		refuse(w, http.StatusBadRequest, "Vault is already initialized")
		return
	}
	n.initialized = true
	reply(w, map[string]any{"keys": []string{"00", "01"}, "keys_base64": good[:2], "root_token": "hvs.root"})
}

func (n *fakeNode) generateRoot(w http.ResponseWriter, r *http.Request, path string) {
	const otp, token = "0123456789ab", "hvs.new-root"
	if n.root.nonce == "" {
		n.root.nonce = "n"
	}
	switch {
	case r.Method == http.MethodDelete:
		n.root.started, n.root.canceled = false, n.root.canceled+1
		w.WriteHeader(http.StatusNoContent)
		return
	case path == "generate-root/update":
		var request struct{ Key, Nonce string }
		_ = json.NewDecoder(r.Body).Decode(&request)
		switch {
		case !n.root.started:
			refuse(w, http.StatusBadRequest, "no root generation in progress")
			return
		case request.Nonce != n.root.nonce:
			refuse(w, http.StatusBadRequest, "incorrect nonce supplied")
			return
		}
		n.root.progress = append(n.root.progress, request.Key)
		if len(n.root.progress) == 3 {
			given := n.root.progress
			n.root.progress = nil
			for _, key := range given {
				if !slices.Contains(good, key) {
					refuse(w, http.StatusBadRequest, "invalid key")
					return
				}
			}
			encoded := []byte(token)
			for i := range encoded {
				encoded[i] ^= otp[i]
			}
			n.root.started = false
			reply(w, map[string]any{"nonce": n.root.nonce, "required": 3, "progress": 3, "started": true,
				"complete": true, "encoded_token": base64.RawStdEncoding.EncodeToString(encoded)})
			return
		}
	case r.Method != http.MethodGet:
		n.root.started, n.root.progress = true, nil
	}
	reply(w, map[string]any{"nonce": n.root.nonce, "required": 3, "otp": otp, "otp_length": len(otp),
		"started": n.root.started, "progress": len(n.root.progress)})
}
