package seal

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

var lookedAt = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// response is one about a token that ends after left.
func response(left time.Duration, fields string) string {
	return fmt.Sprintf(`{"data": {"id": "hvs.MARKER", "expire_time": %q, "creation_time": %d%s}}`,
		lookedAt.Add(left).Format(time.RFC3339Nano), lookedAt.Add(-time.Hour).Unix(), fields)
}

func TestReadLife(t *testing.T) {
	const day = 24 * time.Hour
	for name, tt := range map[string]struct {
		status int
		body   string
		want   Token
		fails  bool
	}{
		"a root token": {200, `{"data": {"expire_time": null, "ttl": 0, "creation_ttl": 0}}`, Token{Known: true}, false},
		"periodic": {200, response(20*day, `, "period": 2592000, "renewable": true`), Token{Known: true,
			Expires: lookedAt.Add(20 * day)}, false},
		"periodic, right before it is renewed": {200, response(23*time.Hour/4, `, "period": 86400, "renewable": true`),
			Token{Known: true, Expires: lookedAt.Add(23 * time.Hour / 4)}, false},
		"periodic, and not renewed": {200, response(4*time.Hour, `, "period": 86400, "renewable": true`), Token{Known: true,
			Expires: lookedAt.Add(4 * time.Hour), Near: lookedAt.Add(4 * time.Hour)}, false},
		"a long period, and not renewed": {200, response(6*day, `, "period": 31536000, "renewable": true`), Token{
			Known: true, Expires: lookedAt.Add(6 * day), Near: lookedAt.Add(6 * day)}, false},
		"not renewable": {200, response(20*day, `, "creation_ttl": 2592000, "renewable": false`), Token{Known: true,
			Expires: lookedAt.Add(20 * day), Ends: true, End: lookedAt.Add(20 * day)}, false},
		"not renewable, and short": {200, response(6*day, `, "creation_ttl": 7776000`), Token{Known: true,
			Expires: lookedAt.Add(6 * day), Ends: true, End: lookedAt.Add(6 * day), Near: lookedAt.Add(6 * day)}, false},
		"not periodic": {200, response(20*day, `, "creation_ttl": 2592000, "renewable": true`), Token{Known: true,
			Expires: lookedAt.Add(20 * day), Ends: true}, false},
		"of a role, whose period is not told": {200, response(20*day, `, "creation_ttl": 2592000, "renewable": true, `+
			`"role": "unseal"`), Token{Known: true, Expires: lookedAt.Add(20 * day)}, false},
		"periodic with a last day": {200, response(20*day, `, "period": 2592000, "renewable": true, "explicit_max_ttl": `+
			`31536000`), Token{Known: true, Expires: lookedAt.Add(20 * day), Ends: true,
			End: lookedAt.Add(365*day - time.Hour)}, false},
		"periodic on its last day": {200, response(50*time.Minute, `, "period": 3600, "renewable": true, `+
			`"explicit_max_ttl": 7200`), Token{Known: true, Expires: lookedAt.Add(50 * time.Minute), Ends: true,
			End: lookedAt.Add(time.Hour)}, false},
		"it is over": {200, response(-time.Hour, `, "period": 3600, "renewable": true`), Token{Known: true,
			Expires: lookedAt.Add(-time.Hour), Near: lookedAt.Add(-time.Hour)}, false},
		"unknown to the key service": {403, `{"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid ` +
			`token\n\n"]}`, Token{Known: true, Refused: true}, false},
		"it may not look itself up": {403, `{"errors": ["1 error occurred:\n\t* permission denied\n\n"]}`, Token{}, true},
		"sealed":                    {503, `{"errors": ["Vault is sealed"]}`, Token{}, true},
		"a redirect":                {307, `{}`, Token{}, true},
		"not a Vault":               {200, `<html>`, Token{}, true},
		"no data":                   {200, `{}`, Token{}, true},
		"no time":                   {200, `{"data": {"expire_time": "never hvs.MARKER"}}`, Token{}, true},
		"a number that is too large": {200, response(day, `, "period": 9223372036854775807, "renewable": true`), Token{},
			true},
		"a number below zero": {200, response(day, `, "creation_ttl": -1`), Token{}, true},
		"a creation long after this": {200, `{"data": {"expire_time": "2030-01-01T00:00:00Z", "creation_time": ` +
			`900000000000000000}}`, Token{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := readLife(tt.status, []byte(tt.body))
			if (err != nil) != tt.fails {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "MARKER") {
				t.Errorf("it quotes the response: %v", err)
			}
			if got := found.at(lookedAt); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// keyService is a fake of a transit Vault.
type keyService struct {
	*httptest.Server
	mu       sync.Mutex
	status   int
	body     string
	requests []*http.Request
}

func newKeyService(t *testing.T) *keyService {
	t.Helper()
	k := &keyService{}
	k.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.requests = append(k.requests, r)
		w.Header().Set("Location", "/v1/elsewhere")
		w.WriteHeader(k.status)
		_, _ = w.Write([]byte(k.body)) // the client may have had enough
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *keyService) says(status int, body string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status, k.body = status, body
}

// taken returns the requests since the last call.
func (k *keyService) taken() []*http.Request {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := k.requests
	k.requests = nil
	return taken
}

// dial connects to the fake, whatever the address is.
func (k *keyService) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, k.Listener.Addr().String())
}

func TestTokens(t *testing.T) {
	k := newKeyService(t)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate().Raw})
	vault := newVault(transit("https://example.com:8200/"))
	vault.UID = "1"
	vault.Spec.Seal.Transit.CASecretName, vault.Spec.Seal.Transit.Namespace = "ca", "team"
	other := newVault(nil)
	other.Name = "shamir"
	c := newClient(t, vault, other, secret("token", map[string]string{"token": "hvs.secret"}),
		secret("ca", map[string]string{"ca.crt": string(ca)}))
	tokens := &Tokens{Cache: c, APIReader: c, dial: k.dial}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	if err := tokens.Source().Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	if _, looked := tokens.Of(vault); looked {
		t.Error("it was looked up before the first round")
	}
	if token, looked := tokens.Of(other); !looked || token.Known {
		t.Errorf("a Vault without a token has %+v", token)
	}
	clock := lookedAt
	step := func(what string, after time.Duration, requests int, news bool, want Token) {
		t.Helper()
		clock = clock.Add(after)
		if err := tokens.round(t.Context(), func() time.Time { return clock }); err != nil {
			t.Fatal(err)
		}
		if got := len(k.taken()); got != requests {
			t.Errorf("%s: %d requests, want %d", what, got, requests)
		}
		if token, looked := tokens.Of(vault); !looked || token != want {
			t.Errorf("%s: got %+v, want %+v", what, token, want)
		}
		if got := queue.Len() > 0; got != news {
			t.Errorf("%s: the status is computed: %v, want %v", what, got, news)
		}
		for queue.Len() > 0 {
			request, _ := queue.Get()
			queue.Done(request)
		}
	}
	end := lookedAt.Add(time.Hour)
	lasts := Token{Known: true, Expires: end}
	near := Token{Known: true, Expires: end, Near: end}
	k.says(503, `{"errors": ["Vault is sealed"]}`)
	step("it is sealed", 0, 1, true, Token{})
	step("not again at once", round, 0, false, Token{})
	k.says(200, response(time.Hour, `, "period": 3600, "renewable": true`))
	step("again soon", 2*retryAfter, 1, true, lasts)
	step("at rest", lookEvery-time.Second, 0, false, lasts)
	step("now and then", lookEvery, 1, false, lasts)
	k.says(503, `{"errors": ["Vault is sealed"]}`)
	step("it is away", 2*lookEvery, 1, false, lasts)
	k.says(200, response(time.Hour, `, "period": 3600, "renewable": true`))
	step("it is back", 2*retryAfter, 1, false, lasts)
	clock = end.Add(-12*time.Minute - time.Second)
	step("right before it is short", 0, 1, false, lasts)
	step("it is short", time.Second, 1, true, near)
	k.says(403, `{"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`)
	step("it has ended", end.Sub(clock), 1, true, Token{Known: true, Refused: true})

	later := lookedAt.Add(24 * time.Hour)
	k.says(200, response(24*time.Hour, `, "period": 86400, "renewable": true`))
	replaced := secret("token", map[string]string{"token": "hvs.other"})
	if err := c.Update(t.Context(), replaced); err != nil {
		t.Fatal(err)
	}
	step("the Secret has changed", round, 1, true, Token{Known: true, Expires: later})
	vault.Spec.Seal.Transit.TLSServerName = "other.example"
	if _, looked := tokens.Of(vault); looked {
		t.Error("what was found counts for another spec")
	}
	if err := c.Update(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	step("the certificate is not that of the name", round, 0, true, Token{})
	vault.Spec.Seal.Transit.TLSServerName = ""
	vault.Spec.Seal.Transit.Address = "https://example.apps.svc:8200"
	if err := c.Update(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	step("it is this Vault itself", round, 0, true, Token{})
	if err := c.Delete(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	if err := tokens.round(t.Context(), time.Now); err != nil || len(tokens.known) != 0 {
		t.Errorf("%d are known of Vaults that are gone: %v", len(tokens.known), err)
	}
}

// What is sent is the token, and nothing that responds is followed.
func TestTokenRequest(t *testing.T) {
	k := newKeyService(t)
	vault := newVault(transit("https://example.com"))
	vault.Spec.Seal.Transit.CASecretName, vault.Spec.Seal.Transit.Namespace = "ca", "team"
	c := newClient(t, vault, secret("token", map[string]string{"token": "hvs.secret"}),
		secret("ca", map[string]string{"ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
			Bytes: k.Certificate().Raw}))}))
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	tokens := &Tokens{Cache: c, APIReader: c, dial: k.dial}
	k.says(http.StatusTemporaryRedirect, `{}`)
	if _, err := tokens.read(t.Context(), vault); err == nil {
		t.Error("a redirect is a success")
	}
	requests := k.taken()
	if len(requests) != 1 || requests[0].Method != http.MethodGet ||
		requests[0].URL.Path != "/v1/auth/token/lookup-self" || requests[0].Host != "example.com" ||
		requests[0].Header.Get("X-Vault-Token") != "hvs.secret" || requests[0].Header.Get("X-Vault-Namespace") != "team" {
		t.Errorf("requests %+v", requests)
	}
	k.says(200, `{"data": {}, "x": "`+strings.Repeat("x", maxResponse)+`"}`)
	if _, err := tokens.read(t.Context(), vault); err == nil {
		t.Error("a response without end is read")
	}
	vault.Spec.Seal.Transit.CASecretName = ""
	k.taken()
	if _, err := tokens.read(t.Context(), vault); err == nil || len(k.taken()) > 0 {
		t.Errorf("the token was sent to a server that could not be verified: %v", err)
	}
}

// The ports of the operator, and what its machine alone reaches, are nobody's key service.
func TestTokensKeepOffThisMachine(t *testing.T) {
	for address, refused := range map[string]bool{
		"127.0.0.1:8443": true, "[::1]:8443": true, "0.0.0.0:443": true, "[::]:443": true, "169.254.169.254:443": true,
		"[fe80::1]:443": true, "[::ffff:127.0.0.1]:443": true, "224.0.0.1:443": true, "garbage": true,
		"10.96.0.10:8200": false, "192.0.2.1:443": false, "[2001:db8::1]:8200": false,
	} {
		if err := keepOffThisMachine("tcp", address, nil); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
	k := newKeyService(t)
	vault := newVault(transit(strings.Replace(k.URL, "127.0.0.1", "localhost.example", 1)))
	c := newClient(t, vault, secret("token", map[string]string{"token": "hvs.secret"}))
	dialer := net.Dialer{Control: keepOffThisMachine}
	tokens := &Tokens{Cache: c, APIReader: c, dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, k.Listener.Addr().String())
	}}
	if _, err := tokens.read(t.Context(), vault); err == nil || len(k.taken()) > 0 {
		t.Errorf("it was connected to: %v", err)
	}
}

// Key services that do not respond hold up nothing but other lookups, and these not for long.
func TestTokensHaveTurns(t *testing.T) {
	var objects []client.Object
	for i := range 3 * lookups {
		vault := newVault(transit("https://192.0.2.1"))
		vault.Name, vault.UID = fmt.Sprintf("vault-%d", i), types.UID(fmt.Sprint(i))
		objects = append(objects, vault)
	}
	objects = append(objects, secret("token", map[string]string{"token": "hvs.secret"}))
	c := newClient(t, objects...)
	var mu sync.Mutex
	current, most, all := 0, 0, 0
	tokens := &Tokens{Cache: c, APIReader: c, dial: func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		current++
		all++
		most = max(most, current)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		current--
		mu.Unlock()
		return nil, errors.New("no route")
	}}
	if err := tokens.round(t.Context(), time.Now); err != nil {
		t.Fatal(err)
	}
	if all != len(objects)-1 || most > lookups {
		t.Errorf("%d lookups, %d at the same time", all, most)
	}
}

// FuzzReadLife reads what a key service may respond, which is anything.
func FuzzReadLife(f *testing.F) {
	f.Add(200, []byte(response(time.Hour, `, "period": 3600, "renewable": true`)))
	f.Add(403, []byte(`{"errors": ["invalid token"]}`))
	f.Add(200, []byte(`{"data": {"expire_time": "0000-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		found, err := readLife(status, body)
		if err != nil {
			return
		}
		if found.warnExpires.After(found.Expires) || found.warnEnd.After(found.End) {
			t.Errorf("it is warned after the end: %+v", found)
		}
	})
}
