package login

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

const (
	// keysPath is where the API server shows its public keys, to every ServiceAccount:
	// https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery
	keysPath = "/openid/v1/jwks"
	keysType = "application/jwk-set+json"
	// requestSeconds is for how long a token is valid that the operator logs in with. No API
	// server makes one that is valid for less.
	requestSeconds = 600
	// serviceAccountPrefix begins the name of a user that is a ServiceAccount.
	serviceAccountPrefix = "system:serviceaccount:"
)

// Issuer is the API server, as the one that says who the operator is.
type Issuer interface {
	// Subject is the user that the operator is.
	Subject(ctx context.Context) (string, error)
	// Token is one of that user for an audience, and for no other.
	Token(ctx context.Context, subject, audience string) (string, error)
	// PublicKeys are those of tokens, in PEM.
	PublicKeys(ctx context.Context) ([]string, error)
}

// APIServer returns the API server of a client.
func APIServer(client kubernetes.Interface) Issuer { return apiServer{client} }

type apiServer struct{ client kubernetes.Interface }

func noIdentity(format string, args ...any) error {
	return problem.New(v1alpha1.AuthorizedCondition, v1alpha1.ReasonNoIdentity, format, args...)
}

func (a apiServer) Subject(ctx context.Context) (string, error) {
	review, err := a.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{},
		metav1.CreateOptions{})
	if refused(err) {
		return "", noIdentity("The API server does not say who the operator is: %v", err)
	}
	if err != nil {
		return "", fmt.Errorf("asking the API server who the operator is: %w", err)
	}
	user := review.Status.UserInfo.Username
	if _, _, ok := serviceAccount(user); !ok {
		return "", noIdentity("The operator runs as %q, which is no ServiceAccount, so that it gets no token to log in with",
			user)
	}
	return user, nil
}

// serviceAccount splits the name of a user that is a ServiceAccount.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

func (a apiServer) Token(ctx context.Context, subject, audience string) (string, error) {
	namespace, name, _ := serviceAccount(subject)
	seconds := int64(requestSeconds)
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds},
	}
	response, err := a.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if refused(err) {
		return "", noIdentity("The API server gives the operator no token to log in with: %v", err)
	}
	if err != nil {
		return "", fmt.Errorf("asking the API server for a token: %w", err)
	}
	return response.Status.Token, nil
}

func (a apiServer) PublicKeys(ctx context.Context) ([]string, error) {
	text, err := a.client.CoreV1().RESTClient().Get().AbsPath(keysPath).SetHeader("Accept", keysType).DoRaw(ctx)
	if refused(err) {
		return nil, noIdentity("The API server does not show its public keys: %v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the public keys of the API server: %w", err)
	}
	return parseKeys(text)
}

// refused says that the API server has refused a request, and will do so again.
func refused(err error) bool {
	return problem.Refused(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}

// parseKeys turns a JSON Web Key Set into PEM, which is what Vault takes.
func parseKeys(text []byte) ([]string, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, noIdentity("The public keys of the API server cannot be parsed: %v", err)
	}
	var keys []string
	for _, key := range set.Keys {
		if !key.IsPublic() {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(key.Key)
		if err != nil {
			return nil, noIdentity("A public key of the API server cannot be used: %v", err)
		}
		// Vault cuts off the last line break.
		keys = append(keys, strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))))
	}
	if len(keys) == 0 {
		return nil, noIdentity("The API server shows no public keys")
	}
	return keys, nil
}
