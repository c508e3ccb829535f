package seal

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/notify"
)

const (
	// round is how often is looked which tokens are due.
	round = 10 * time.Second
	// lookEvery is how often a token is looked up that nothing is new about, and retryAfter
	// when it could not be. Both are lengthened at random, so that not all Vaults are due at
	// once.
	lookEvery, retryAfter = 5 * time.Minute, time.Minute
	// lookTimeout is for all requests about one token, and lookups is how many may be under
	// way.
	lookTimeout = 5 * time.Second
	lookups     = 8
	// yieldFor is for how long a lookup waits at most while the operator is short of CPU.
	yieldFor = 10 * time.Second
	// maxToken and maxResponse bound what is sent and what is read.
	maxToken, maxResponse = 8 << 10, 64 << 10
	// Of a token that ends is warned when it has less than shortLife left, or less than the
	// shortShare of its life if that is shorter. Vault renews its token when less than a third
	// is left, and more than a quarter.
	shortLife, shortShare = 7 * 24 * time.Hour, 5
	// longestLife bounds the numbers that are believed.
	longestLife = 100 * 365 * 24 * time.Hour
)

// Token is what is known of the token of a transit seal.
type Token struct {
	// Known says that the key service has told what follows.
	Known bool
	// Refused says that the key service does not know it: it has expired, or was revoked.
	Refused bool
	// Expires is when it ends unless it is renewed before; zero when it never does.
	Expires time.Time
	// Ends says that it ends however often it is renewed, and End when; zero when that is not
	// known.
	Ends bool
	End  time.Time
	// Near is the one of both times that is near; zero when none is.
	Near time.Time
}

// life is a Token with what it is judged by.
type life struct {
	Token
	// warnExpires and warnEnd are from when on Expires and End are near.
	warnExpires, warnEnd time.Time
}

// at is the Token as it is to be judged at that time.
func (l life) at(now time.Time) Token {
	token := l.Token
	switch {
	case !l.warnExpires.IsZero() && !now.Before(l.warnExpires):
		token.Near = token.Expires
	case !l.warnEnd.IsZero() && !now.Before(l.warnEnd):
		token.Near = token.End
	}
	return token
}

// Tokens knows for how long the tokens of transit seals last. The nodes tell nobody, and
// renew only what they have started with.
//
// The address is a tenant's choice, and so is what responds. Of that nothing but numbers
// and times is taken.
type Tokens struct {
	// Cache holds Vaults, and the metadata of Secrets.
	Cache client.Reader
	// APIReader reads Secrets.
	APIReader client.Reader
	// Yield waits while the operator has more urgent things to do. It may be nil.
	Yield func(ctx context.Context, limit time.Duration)

	// dial is that of the connections to key services; nil is one that keeps off the
	// operator's own machine.
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	known map[types.NamespacedName]lookup
	news  notify.Notifier
}

// lookup is what a token was found to be.
type lookup struct {
	uid     types.UID
	transit v1alpha1.TransitSeal
	// versions are those of the Secrets.
	versions string
	life     life
	token    Token
	due      time.Time
}

// Of is what is known of the token that spec.seal names. Looked says that it was looked up,
// be it in vain.
func (t *Tokens) Of(vault *v1alpha1.Vault) (token Token, looked bool) {
	if transitOf(vault) == nil {
		return Token{}, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	last, found := t.known[client.ObjectKeyFromObject(vault)]
	if !found || last.uid != vault.UID || last.transit != *transitOf(vault) {
		return Token{}, false
	}
	return last.token, true
}

func transitOf(vault *v1alpha1.Vault) *v1alpha1.TransitSeal {
	if vault.Spec.Seal == nil {
		return nil
	}
	return vault.Spec.Seal.Transit
}

// Source makes a controller reconcile a Vault when something new is known of its token.
func (t *Tokens) Source() source.Source {
	return t.news.Source(0)
}

// NeedLeaderElection says that every replica looks, since every replica may have to write
// the status.
func (t *Tokens) NeedLeaderElection() bool { return false }

// Start looks in rounds until the context ends.
func (t *Tokens) Start(ctx context.Context) error {
	wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) {
		if err := t.round(ctx, time.Now); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "The tokens of seals could not be looked up")
		}
	}, round)
	return nil
}

// round looks up the tokens that are due, and forgets those of Vaults that are gone.
func (t *Tokens) round(ctx context.Context, now func() time.Time) error {
	var list v1alpha1.VaultList
	if err := t.Cache.List(ctx, &list); err != nil {
		return fmt.Errorf("listing the Vaults: %w", err)
	}
	var looks sync.WaitGroup
	turns := make(chan struct{}, lookups)
	there := map[types.NamespacedName]bool{}
	for i := range list.Items {
		vault := &list.Items[i]
		if transitOf(vault) == nil || vault.DeletionTimestamp != nil {
			continue
		}
		key := client.ObjectKeyFromObject(vault)
		there[key] = true
		versions, err := t.versions(ctx, vault)
		if err != nil {
			return err
		}
		t.mu.Lock()
		last := t.known[key]
		t.mu.Unlock()
		same := last.uid == vault.UID && last.transit == *transitOf(vault) && last.versions == versions
		if same && now().Before(last.due) {
			continue
		}
		if !same {
			last = lookup{uid: vault.UID, transit: *transitOf(vault), versions: versions}
		}
		turns <- struct{}{}
		looks.Go(func() {
			defer func() { <-turns }()
			if t.Yield != nil {
				t.Yield(ctx, yieldFor)
			}
			t.record(key, t.look(ctx, vault, last, now))
		})
	}
	looks.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.known {
		if !there[key] {
			delete(t.known, key)
		}
	}
	return nil
}

// versions identify the Secrets of a seal as they are now.
func (t *Tokens) versions(ctx context.Context, vault *v1alpha1.Vault) (string, error) {
	var versions []string
	for _, name := range []string{vault.Spec.Seal.CredentialsSecretName(), vault.Spec.Seal.CASecretName()} {
		if name == "" {
			continue
		}
		var metadata metav1.PartialObjectMetadata
		metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		err := t.Cache.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, &metadata)
		if err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("looking for Secret %q: %w", name, err)
		}
		versions = append(versions, string(metadata.UID)+"/"+metadata.ResourceVersion)
	}
	return strings.Join(versions, " "), nil
}

// look looks a token up. When that cannot be done nothing is new but the time.
func (t *Tokens) look(ctx context.Context, vault *v1alpha1.Vault, last lookup, now func() time.Time) lookup {
	found, err := t.read(ctx, vault)
	at, next := now(), lookEvery
	if err != nil {
		next = retryAfter
		// Only that it could not: what a key service has said is not for the operator's log.
		log.FromContext(ctx).V(1).Info("The token of a seal could not be looked up", "namespace", vault.Namespace,
			"name", vault.Name)
	} else {
		last.life = found
	}
	last.token = last.life.at(at)
	last.due = at.Add(wait.Jitter(next, 0.2))
	// It may have been renewed by then.
	for _, change := range []time.Time{last.life.warnExpires, last.life.warnEnd, last.life.Expires} {
		if change.After(at) && change.Before(last.due) {
			last.due = change
		}
	}
	return last
}

// record takes over what was found, and calls for the Vault if that is news.
func (t *Tokens) record(vault types.NamespacedName, found lookup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last, before := t.known[vault]
	if t.known == nil {
		t.known = map[types.NamespacedName]lookup{}
	}
	t.known[vault] = found
	if before && last.uid == found.uid && last.transit == found.transit && last.token == found.token {
		return
	}
	t.news.Notify(vault)
}

// read reads the Secrets, and what the key service says of the token.
func (t *Tokens) read(ctx context.Context, vault *v1alpha1.Vault) (life, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	transit := transitOf(vault)
	ours := one{vault.Spec.Seal, "spec.seal"}
	if err := ours.checkAddress(vault); err != nil {
		return life{}, err
	}
	secret, err := ours.get(ctx, t.APIReader, vault, "credentialsSecretName", string(transit.CredentialsSecretName))
	if err != nil {
		return life{}, err
	}
	if err := checkCredentials(vault.Spec.Seal, secret); err != nil {
		return life{}, err
	}
	_, pool, err := ours.cas(ctx, t.APIReader, vault)
	if err != nil {
		return life{}, err
	}
	token := string(secret.Data["token"])
	if len(token) > maxToken {
		return life{}, errors.New("the token is too long")
	}
	dial := t.dial
	if dial == nil {
		dial = (&net.Dialer{Control: keepOffThisMachine}).DialContext
	}
	return lookUp(ctx, &http.Transport{
		DialContext:     dial,
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: transit.TLSServerName, MinVersion: tls.VersionTLS12},
		// A handshake goes on when nobody waits for it any more.
		TLSHandshakeTimeout:    lookTimeout,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponse,
	}, transit, token)
}

// keepOffThisMachine refuses addresses that mean another thing to the operator than to a pod
// of the tenant: its own ports, and what the machine alone reaches.
func keepOffThisMachine(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := target.Addr().Unmap()
	if ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return errors.New("the address is none of a key service")
	}
	return nil
}

// lookUp asks the key service what it knows of the token. The policy "default" allows that.
// No redirect is followed and no proxy used.
// https://developer.hashicorp.com/vault/api-docs/auth/token#lookup-a-token-self
func lookUp(
	ctx context.Context, transport http.RoundTripper, transit *v1alpha1.TransitSeal, token string,
) (life, error) {
	address, err := url.Parse(transit.Address)
	if err != nil {
		return life{}, errors.New("the address is not a URL")
	}
	request := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: address.Host, Path: "/v1/auth/token/lookup-self"},
		Header: http.Header{"X-Vault-Token": {token}, "X-Vault-Request": {"true"}},
	}
	if transit.Namespace != "" {
		request.Header.Set("X-Vault-Namespace", transit.Namespace)
	}
	response, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return life{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return life{}, err
	}
	return readLife(response.StatusCode, body)
}

// lookedUp is what is read of the response to a lookup.
type lookedUp struct {
	ExpireTime     *time.Time `json:"expire_time"`
	CreationTime   int64      `json:"creation_time"`
	CreationTTL    int64      `json:"creation_ttl"`
	ExplicitMaxTTL int64      `json:"explicit_max_ttl"`
	Period         int64      `json:"period"`
	Renewable      bool       `json:"renewable"`
	Role           string     `json:"role"`
}

// readLife makes of the response of a key service what is known of the token.
func readLife(statusCode int, body []byte) (life, error) {
	var response struct {
		Errors []string
		Data   *lookedUp
	}
	if err := json.Unmarshal(body, &response); err != nil {
		return life{}, errors.New("the response is not that of a Vault")
	}
	switch {
	// A token that Vault knows may be denied the lookup, by its policies or by where it may be
	// used from. That says nothing of its life.
	case statusCode == http.StatusForbidden && strings.Contains(strings.Join(response.Errors, "\n"), "invalid token"):
		return life{Token: Token{Known: true, Refused: true}}, nil
	case statusCode != http.StatusOK || response.Data == nil:
		return life{}, fmt.Errorf("the response has the HTTP status %d", statusCode)
	case !response.Data.possible():
		return life{}, errors.New("the response has a number that cannot be")
	case response.Data.ExpireTime == nil:
		return life{Token: Token{Known: true}}, nil // such as a root token
	}
	return response.Data.life(), nil
}

// possible says that the numbers can be those of a token.
func (d *lookedUp) possible() bool {
	for _, number := range []int64{d.CreationTTL, d.ExplicitMaxTTL, d.Period} {
		if number < 0 || number > int64(longestLife/time.Second) {
			return false
		}
	}
	const latest = 1 << 36
	return d.CreationTime >= 0 && d.CreationTime < latest &&
		(d.ExpireTime == nil || d.ExpireTime.Unix() > 0 && d.ExpireTime.Unix() < latest)
}

// life is that of a token that ends unless it is renewed.
func (d *lookedUp) life() life {
	seconds := func(n int64) time.Duration { return time.Duration(n) * time.Second }
	// The period of a token that was made with a role is the role's, and is not told.
	periodic := d.Period > 0 || d.Role != ""
	granted := seconds(d.CreationTTL)
	if d.Period > 0 {
		granted = seconds(d.Period)
	}
	expires := d.ExpireTime.UTC().Truncate(time.Second)
	found := life{
		Token:       Token{Known: true, Expires: expires, Ends: !d.Renewable || !periodic || d.ExplicitMaxTTL > 0},
		warnExpires: expires.Add(-margin(granted)),
	}
	switch {
	case !d.Renewable:
		found.End = expires
	case d.ExplicitMaxTTL > 0:
		found.End = time.Unix(d.CreationTime, 0).UTC().Add(seconds(d.ExplicitMaxTTL))
		found.warnEnd = found.End.Add(-margin(seconds(d.ExplicitMaxTTL)))
	}
	return found
}

// margin is how long before the end of what lives for so long is warned.
func margin(life time.Duration) time.Duration { return min(life/shortShare, shortLife) }
