package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/authorization"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// soon and later are between two logins that are refused: Vault records each. Somebody who
	// has just asked for a login is about to authorize it. No two logins follow each other
	// sooner than soon, whatever the node responds.
	soon      = time.Minute
	later     = 5 * time.Minute
	soonTries = 10
	// requestTimeout is for one request.
	requestTimeout = 5 * time.Second
	// maxValues and maxValue are how many values, and of how many bytes, a list in the
	// configuration of the auth method may have.
	maxValues = 32
	maxValue  = 8 << 10
)

// session is what this process knows of its login to one Vault. The token is in its memory and
// nowhere else, and Vault keeps nothing of it either.
type session struct {
	vault      types.UID
	generation int64

	token string
	// expires is when the token is not valid any more, and renew when another one is due.
	expires, renew time.Time
	// missing is what the operator needs and may not do.
	missing []string
	// config is the configuration of the auth method; nil while it is not known.
	config *config

	// refusal is why the last login was refused, or nil; refusals is how many were in a row.
	refusal  *metav1.Condition
	refusals int
	// next is when the operator may log in again at the earliest.
	next time.Time
	// known is until when the condition may stay without another login.
	known time.Time

	// steppedDown is the pod that was asked to step down last, at the time.
	steppedDown   types.UID
	steppedDownAt time.Time
}

// config is what has to be kept of the configuration of the auth method when its keys change.
type config struct {
	Keys       []string `json:"jwt_validation_pubkeys"`
	Issuer     string   `json:"bound_issuer"`
	Algorithms []string `json:"jwt_supported_algs"`
}

// bounded says that the configuration is no larger than any that is meant: a node could have it
// fill the memory of the operator.
func (c *config) bounded() bool {
	tooLong := func(value string) bool { return len(value) > maxValue }
	return len(c.Keys) <= maxValues && len(c.Algorithms) <= maxValues && !tooLong(c.Issuer) &&
		!slices.ContainsFunc(c.Keys, tooLong) && !slices.ContainsFunc(c.Algorithms, tooLong)
}

// valid says that the token can be used.
func (s *session) valid(now time.Time) bool { return s.token != "" && now.Before(s.expires) }

// due says that it is time to log in.
func (s *session) due(now time.Time) bool {
	return !now.Before(s.next) && (!s.valid(now) || !now.Before(s.renew))
}

// again is when there is something to do without anything happening.
func (s *session) again(now time.Time) time.Duration {
	wait := s.next.Sub(now)
	if s.valid(now) {
		wait = min(max(wait, s.renew.Sub(now)), keysEvery)
	}
	return max(wait, time.Second)
}

// follow forgets refusals of what the spec was before.
func (s *session) follow(vault *v1alpha1.Vault) {
	if s.generation != vault.Generation {
		s.generation, s.refusals, s.next = vault.Generation, 0, time.Time{}
	}
}

// refuse notes that a login was refused. A token that is still valid is kept: by it the keys of
// the API server can be put right, when it is these that are the reason.
func (s *session) refuse(reason, text string, now time.Time) {
	s.refusal = &metav1.Condition{Status: metav1.ConditionFalse, Reason: reason, Message: message.Cut(text)}
	s.refusals++
	pause := later
	if s.refusals < soonTries {
		pause = soon
	}
	s.next = now.Add(pause)
	s.known = now.Add(later)
}

// unobserved is the condition while the operator does not get to know it: what was told last
// stays for as long as that can be relied on.
func (s *session) unobserved(vault *v1alpha1.Vault, now time.Time, why string) *metav1.Condition {
	old := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.AuthorizedCondition)
	if old != nil && now.Before(s.known) {
		return old.DeepCopy()
	}
	return &metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonNotObserved, Message: why}
}

// requestsFail is told while the operator cannot log in, and is refused nothing.
const requestsFail = "The requests fail by which the operator logs in to Vault and keeps the public keys there: " +
	"it tries again"

// condition tells what came of the last login.
func (s *session) condition(vault *v1alpha1.Vault, now time.Time) *metav1.Condition {
	switch {
	case s.refusal != nil:
		return s.refusal.DeepCopy()
	case !s.valid(now):
		return s.unobserved(vault, now, requestsFail)
	case len(s.missing) > 0:
		return &metav1.Condition{
			Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPolicyMissing,
			Message: fmt.Sprintf("The operator can log in to Vault, and the policy %q does not grant it what it needs: %s. "+
				"'kubectl vault authorize %s' writes the policy again",
				authorization.Name, strings.Join(s.missing, ", "), vault.Name),
		}
	default:
		return &metav1.Condition{
			Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAuthorized,
			Message: "The operator is logged in to Vault and may do what keeps it available",
		}
	}
}

// login logs in, and finds out what the operator may do.
func (r *Reconciler) login(
	ctx context.Context, vault *v1alpha1.Vault, s *session, node *vaultclient.Client, who *v1alpha1.OperatorLoginStatus,
) error {
	now := r.Clock.Now()
	jwt, err := r.Issuer.Token(ctx, who.Subject, who.Audience)
	if wrong := problem.In(err); wrong != nil {
		s.refuse(wrong.Reason, wrong.Message, now)
		return nil
	}
	if err != nil {
		return err
	}
	s.next = now.Add(soon)
	requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	token, err := node.LoginJWT(requestCtx, authorization.Name, authorization.Name, jwt)
	if reason, text := refusalOf(err, vault); reason != "" {
		s.refuse(reason, text, now)
		return nil
	}
	if err != nil {
		return fmt.Errorf("logging in to Vault: %w", err)
	}
	capabilities, err := node.Capabilities(requestCtx, token.Value, authorization.Paths(vault))
	// Without its policy the token may not even ask that.
	if err != nil && vaultclient.StatusOf(err) != http.StatusForbidden {
		return fmt.Errorf("asking Vault what the operator may do: %w", err)
	}
	steppedDown, steppedDownAt := s.steppedDown, s.steppedDownAt
	*s = session{
		vault: s.vault, generation: s.generation, token: token.Value,
		expires: now.Add(token.Lifetime), renew: now.Add(token.Lifetime * 2 / 3),
		next: now.Add(soon), known: s.known,
		missing: authorization.Missing(vault, capabilities), steppedDown: steppedDown, steppedDownAt: steppedDownAt,
	}
	return nil
}

// refusalOf is why Vault has refused a login for good; without a reason it has not. What to do
// goes before Vault's words, which may be cut.
func refusalOf(err error, vault *v1alpha1.Vault) (reason, text string) {
	words := strings.Join(vaultclient.ReasonsOf(err), ", ")
	switch vaultclient.StatusOf(err) {
	case http.StatusForbidden, http.StatusNotFound:
	case http.StatusBadRequest:
		// Without the auth method Vault takes the login for a request that needs a token. The
		// others are of one that is not complete.
		unknown := []string{"missing client token", "could not be found", "could not load configuration"}
		if !slices.ContainsFunc(unknown, func(known string) bool { return strings.Contains(words, known) }) {
			return v1alpha1.ReasonLoginRefused, fmt.Sprintf("Vault refuses the login of the operator. "+
				"'kubectl vault authorize %s' writes again what it is checked by. Vault says: %s", vault.Name, words)
		}
	default:
		return "", ""
	}
	return v1alpha1.ReasonNotAuthorized, fmt.Sprintf("Nobody has authorized the operator in this Vault: an administrator "+
		"of Vault runs 'kubectl vault authorize %s'. Everything else works without", vault.Name)
}

// keepKeys follows the public keys. Only when that works the operator is known to be authorized for as long as its
// token is valid: it could not log in any more after the next change of the keys.
func (r *Reconciler) keepKeys(ctx context.Context, s *session, node *vaultclient.Client) error {
	err := r.followKeys(ctx, s, node)
	if now := r.Clock.Now(); err == nil && s.valid(now) {
		s.known = s.expires
	}
	return err
}

// followKeys writes the public keys of the API server into Vault when they are others than there.
func (r *Reconciler) followKeys(ctx context.Context, s *session, node *vaultclient.Client) error {
	now := r.Clock.Now()
	if !s.valid(now) || len(s.missing) > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if s.config == nil {
		var read config
		if err := node.Read(ctx, s.token, authorization.ConfigPath, &read); err != nil {
			return s.denied(err, now, "reading the public keys that Vault has")
		}
		if !read.bounded() {
			return errors.New("the configuration of the auth method in Vault is too large to be that of the operator")
		}
		for i := range read.Keys {
			read.Keys[i] = strings.TrimSpace(read.Keys[i])
		}
		s.config = &read
	}
	wanted := r.keys.wanted(s.config.Keys, now)
	if slices.Equal(wanted, slices.Sorted(slices.Values(s.config.Keys))) {
		return nil
	}
	// What is not written is reset.
	body := authorization.Config(wanted)
	if s.config.Issuer != "" {
		body["bound_issuer"] = s.config.Issuer
	}
	if len(s.config.Algorithms) > 0 {
		body["jwt_supported_algs"] = s.config.Algorithms
	}
	if err := node.Write(ctx, s.token, authorization.ConfigPath, body); err != nil {
		return s.denied(err, now, "writing the public keys of the API server into Vault")
	}
	s.config.Keys = wanted
	return nil
}

// denied has the operator log in again when Vault denies what it was said to be allowed: the
// condition then tells what is missing. Other errors are returned.
func (s *session) denied(err error, now time.Time, doing string) error {
	if deniedBy(err) {
		s.drop(now)
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// drop has the operator log in again.
func (s *session) drop(now time.Time) {
	s.token, s.config = "", nil
	s.next = now.Add(soon) // no sooner, whatever Vault says then
	s.known = s.next.Add(requestTimeout)
}

// deniedBy says that Vault denies a request to who may do something else.
func deniedBy(err error) bool {
	status := vaultclient.StatusOf(err)
	return status == http.StatusForbidden || status == http.StatusNotFound
}

// Grant authorizes the operator in a Vault, with a token that may do that.
func (r *Reconciler) Grant(ctx context.Context, vault *v1alpha1.Vault, node *vaultclient.Client, token string) error {
	who, err := r.identity(ctx, vault)
	if err != nil {
		return err
	}
	for _, request := range authorization.Grant(who) {
		err := node.Write(ctx, token, request.Path, request.Body)
		if request.Path == authorization.MountPath && authorization.AlreadyMounted(vaultclient.ReasonsOf(err)) {
			continue // by an attempt whose response was lost
		}
		if err != nil {
			words := strings.Join(vaultclient.ReasonsOf(err), ", ")
			return errors.Join(fmt.Errorf("authorizing the operator: writing %s: %s", request.Path, words), err)
		}
	}
	return nil
}
