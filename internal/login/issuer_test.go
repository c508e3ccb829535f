package login

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// keySet is a JSON Web Key Set as the API server shows it.
func keySet(t *testing.T) []byte {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &ec.PublicKey, KeyID: "a", Algorithm: "ES256", Use: "sig"},
		{Key: &key.PublicKey, KeyID: "b", Algorithm: "RS256", Use: "sig"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAPIServer(t *testing.T) {
	const subject = "system:serviceaccount:operators:manager"
	user, refuse := subject, 0
	set := keySet(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse != 0 {
			w.WriteHeader(refuse)
			_ = json.NewEncoder(w).Encode(metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
				Reason: metav1.StatusReasonForbidden, Code: int32(refuse),
			})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		switch r.Method + " " + r.URL.Path {
		case "POST /apis/authentication.k8s.io/v1/selfsubjectreviews":
			_ = json.NewEncoder(w).Encode(authenticationv1.SelfSubjectReview{
				TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"},
				Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: user}},
			})
		case "POST /api/v1/namespaces/operators/serviceaccounts/manager/token":
			var request authenticationv1.TokenRequest
			if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
				panic(err)
			}
			request.Status.Token = strings.Join(request.Spec.Audiences, " ")
			if *request.Spec.ExpirationSeconds != 600 {
				request.Status.Token = "too long"
			}
			_ = json.NewEncoder(w).Encode(request)
		case "GET /openid/v1/jwks":
			if r.Header.Get("Accept") != "application/jwk-set+json" {
				http.Error(w, "no such type", http.StatusNotAcceptable)
				return
			}
			_, _ = w.Write(set)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	issuer := APIServer(client)
	if got, err := issuer.Subject(t.Context()); err != nil || got != subject {
		t.Errorf("Subject() = %q, %v", got, err)
	}
	if got, err := issuer.Token(t.Context(), subject, "vault-operator/default/example"); err != nil ||
		got != "vault-operator/default/example" {
		t.Errorf("Token() = %q, %v", got, err)
	}
	keys, err := issuer.PublicKeys(t.Context())
	if err != nil || len(keys) != 2 || !strings.HasPrefix(keys[0], "-----BEGIN PUBLIC KEY-----\n") ||
		strings.TrimSpace(keys[1]) != keys[1] {
		t.Errorf("PublicKeys() = %q, %v", keys, err)
	}
	wrong := func(what string, err error) {
		t.Helper()
		if p := problem.In(err); p == nil || p.Condition != v1alpha1.AuthorizedCondition ||
			p.Reason != v1alpha1.ReasonNoIdentity {
			t.Errorf("%s: error %v", what, err)
		}
	}
	user = "admin"
	_, err = issuer.Subject(t.Context())
	wrong("a user", err)
	for _, set = range [][]byte{[]byte(`{"keys":[]}`), []byte("nothing")} {
		_, err = issuer.PublicKeys(t.Context())
		wrong("no keys", err)
	}
	refuse = http.StatusForbidden
	_, err = issuer.Subject(t.Context())
	wrong("no right to ask who it is", err)
	_, err = issuer.Token(t.Context(), subject, "a")
	wrong("no right to make tokens", err)
	_, err = issuer.PublicKeys(t.Context())
	wrong("no right to read keys", err)
	refuse = http.StatusInternalServerError
	if _, err = issuer.PublicKeys(t.Context()); err == nil || problem.In(err) != nil {
		t.Errorf("an error that passes: %v", err)
	}
}

func TestKeyring(t *testing.T) {
	start := time.Now()
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	var k keyring
	k.observe([]string{"b"}, at(0))
	expect := func(what string, now time.Time, configured []string, want ...string) {
		t.Helper()
		if got := k.wanted(configured, now); !slices.Equal(got, want) {
			t.Errorf("%s: wanted(%q) = %q, want %q", what, configured, got, want)
		}
	}
	expect("a Vault that has none", at(0), nil, "b")
	expect("this process has just started", at(1), []string{"a", "b"}, "a", "b")
	k.observe([]string{"b", "c"}, at(30))
	expect("a new key", at(30), []string{"b"}, "b", "c")
	k.observe([]string{"c"}, at(40)) // a replica of the API server that has the new one alone
	expect("rotation goes on", at(40), []string{"b", "c"}, "b", "c")
	k.observe([]string{"c"}, at(95))
	expect("the old one is not shown any more", at(95), []string{"a", "b", "c"}, "c")
	if got := k.current(); !slices.Equal(got, []string{"c"}) || k.age(at(96)) != time.Minute {
		t.Errorf("current() = %q, %s old", got, k.age(at(96)))
	}
}
