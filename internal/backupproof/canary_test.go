package backupproof

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

// startNode responds with a status and a body, to requests of the token "secret-token".
func startNode(t *testing.T, method, path string, status int, body string) *vaultclient.Client {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method || r.URL.Path != path || r.Header.Get("X-Vault-Token") != "secret-token" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return vaultclient.New(probe.Target{
		Address: server.Listener.Addr().String(), ServerName: "example.com", CA: string(ca),
	})
}

const canaryPath = "/v1/secret/data/canary"

func newCanary() canary {
	return canary{spec: v1alpha1.BackupCanary{Path: canaryPath[4:]}, token: "secret-token", value: "tweet"}
}

func TestReadFrom(t *testing.T) {
	for name, tt := range map[string]struct {
		status            int
		body              string
		read, same        bool
		unusable, failure string
	}{
		"a store of version 1": {status: 200, body: `{"data": {"value": "tweet"}}`, read: true, same: true},
		"a store of version 2": {status: 200, body: `{"data": {"data": {"value": "tweet"}}}`, read: true, same: true},
		"a newline at the end": {status: 200, body: `{"data": {"value": "tweet\n"}}`, read: true, same: true},
		"another value":        {status: 200, body: `{"data": {"value": "tweets"}}`, read: true},
		"both, of version 1": {status: 200, body: `{"data": {"value": "a", "data": {"value": "tweet"}}}`,
			read: true},
		"data that is a text":   {status: 200, body: `{"data": {"value": "tweet", "data": "x"}}`, read: true, same: true},
		"a value that is empty": {status: 200, body: `{"data": {"value": ""}}`, read: true},
		"no such field":         {status: 200, body: `{"data": {"data": {"other": "tweet"}}}`, unusable: "no field"},
		"a number":              {status: 200, body: `{"data": {"value": 1}}`, unusable: "no field"},
		"a version that was deleted": {status: 200, body: `{"data": {"data": null}}`,
			unusable: "no field"},
		"data that is a text alone": {status: 200, body: `{"data": {"data": "tweet"}}`, unusable: "no field"},
		"null":                      {status: 200, body: `{"data": null}`, unusable: "no field"},
		"no data":                   {status: 200, body: `{}`, unusable: "no field"},
		"nothing is there":          {status: 404, body: `{"errors": []}`, unusable: "there is nothing"},
		"the token is invalid":      {status: 403, body: `{"errors": ["secret-token"]}`, unusable: "not valid"},
		"nothing to read":           {status: 405, body: `{"errors": ["unsupported operation"]}`, unusable: "nothing can"},
		"a store that becomes one of version 2": {status: 400,
			body: `{"errors": ["Upgrading from non-versioned to versioned data."]}`, failure: "400"},
		"it cannot be decrypted":     {status: 500, body: `{"errors": ["internal error"]}`, failure: "500"},
		"a node that became standby": {status: 307, failure: "307"},
		"a node that became sealed":  {status: 503, body: `{"errors": ["Vault is sealed"]}`, failure: "503"},
		"not JSON":                   {status: 200, body: `tweet`, failure: "no usable response"},
		"far too much": {status: 200, body: `{"data": {"value": "` + strings.Repeat("t", 1<<20) + `"}}`,
			failure: "no usable response"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCanary()
			c.readFrom(t.Context(), startNode(t, http.MethodGet, canaryPath, tt.status, tt.body))
			if c.read != tt.read || c.same != tt.same || !tells(c.unusable, tt.unusable) || !tells(c.failure, tt.failure) {
				t.Errorf("%+v, want %+v", c, tt)
			}
		})
	}
}

// tells says that a message has a part, or that there is none where none is wanted. Nothing that was sent or read is
// ever in one.
func tells(message, part string) bool {
	return (message == "") == (part == "") && strings.Contains(message, part) &&
		!strings.Contains(message, "secret-token") && !strings.Contains(message, "tweet")
}

// What has no response is asked for again.
func TestReadFromNobody(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := newCanary()
	c.readFrom(ctx, startNode(t, http.MethodGet, canaryPath, http.StatusOK, ""))
	if c.read || c.unusable != "" || c.failure == "" {
		t.Errorf("%+v", c)
	}
}

func TestRenew(t *testing.T) {
	for name, tt := range map[string]struct {
		status     int
		body, want string
	}{
		"renewed":            {status: 200, body: `{"auth": {}}`},
		"a root token":       {status: 400, body: `{"errors": ["lease is not renewable"]}`, want: "lease is not renewable"},
		"it is not valid":    {status: 403, body: `{"errors": ["permission denied"]}`, want: "permission denied"},
		"a node that quotes": {status: 400, body: `{"errors": ["secret-token is bad"]}`, want: "status 400"},
	} {
		c := newCanary()
		got := c.renew(t.Context(), startNode(t, http.MethodPut, "/v1/auth/token/renew-self", tt.status, tt.body))
		if !tells(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestSecretOfTheCanary(t *testing.T) {
	for name, tt := range map[string]struct {
		token, value, want string
	}{
		"usable":              {token: "hvs.token\n", value: "any\nthing\n"},
		"no token":            {value: "tweet", want: `"token"`},
		"no value":            {token: "hvs.token", want: `"value"`},
		"a header":            {token: "a\nX-Other: b", value: "tweet", want: `"token"`},
		"a value of 9,000":    {token: "t", value: strings.Repeat("v", 9000), want: `"value"`},
		"a token of no bytes": {token: " \n", value: "tweet", want: `"token"`},
	} {
		var c canary
		c.take(&corev1.Secret{Data: map[string][]byte{"token": []byte(tt.token), "value": []byte(tt.value)}})
		if !tells(c.unusable, tt.want) || (c.token == "") != (tt.want != "") {
			t.Errorf("%s: %+v, want %q", name, c, tt.want)
		}
		if tt.want == "" && (c.token != "hvs.token" || c.value != "any\nthing") {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
