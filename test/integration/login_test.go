//go:build integration

package integration

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// makeServiceAccount makes the ServiceAccount of the operator, which is a user with a
// certificate here, and gives it the right that each ServiceAccount has by its group.
func makeServiceAccount(t *testing.T) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: operatorNamespace, Name: "vault-operator-controller-manager",
	}}
	discovery := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "operator-issuer-discovery"},
		RoleRef: rbacv1.RoleRef{
			APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:service-account-issuer-discovery",
		},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: operatorUser}},
	}
	if err := errors.Join(admin.Create(t.Context(), account), admin.Create(t.Context(), discovery)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The context of the test has ended by then.
		if err := errors.Join(admin.Delete(context.Background(), account),
			admin.Delete(context.Background(), discovery)); err != nil {
			t.Error(err)
		}
	})
}

// The operator logs in by a token that the public keys in the status verify, and that is for this
// Vault alone. It is told where that is refused, and the Vault is not less ready for it.
func TestAuthorizedCondition(t *testing.T) {
	makeServiceAccount(t)
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1, operatorLogin: {enabled: true}}"))
	node := startPod(t, vault, "a", fakevault.Active)
	awaitVault(t, vault, "nobody has authorized the operator", has(
		"Authorized=False NotAuthorized", "Available=True Active"))
	var login *v1alpha1.OperatorLoginStatus
	awaitVault(t, vault, "the status says who logs in", func(v *v1alpha1.Vault) error {
		if login = v.Status.OperatorLogin; login == nil || len(login.PublicKeys) == 0 {
			return fmt.Errorf("it is %+v", login)
		}
		return nil
	})
	if login.Subject != operatorUser || login.Audience != "vault-operator/"+namespace+"/example" {
		t.Errorf("the status is %+v", login)
	}
	node.Handle(func(w http.ResponseWriter, r *http.Request) bool { return acceptLogin(t, w, r, login) })
	// A change of the spec has it try again at once.
	change(t, vault, `{"spec": {"pod": {"annotations": {"a": "b"}}}}`)
	awaitVault(t, vault, "the operator is authorized", has("Authorized=True Authorized"))
	change(t, vault, `{"spec": {"operatorLogin": null}}`)
	awaitVault(t, vault, "nothing is said of a login", func(v *v1alpha1.Vault) error {
		if v.Status.OperatorLogin != nil || slices.ContainsFunc(v.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == v1alpha1.AuthorizedCondition
		}) {
			return fmt.Errorf("the status is %+v", v.Status.OperatorLogin)
		}
		return nil
	})
}

// acceptLogin answers as a Vault that has authorized the operator.
func acceptLogin(t *testing.T, w http.ResponseWriter, r *http.Request, login *v1alpha1.OperatorLoginStatus) bool {
	var data any
	switch strings.TrimPrefix(r.URL.Path, "/v1/") {
	case "auth/vault-operator/login":
		var request struct{ JWT, Role string }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		if err := verify(request.JWT, login); err != nil || request.Role != "vault-operator" {
			t.Errorf("the role %q, a token that %v", request.Role, err)
		}
		_, _ = w.Write([]byte(`{"auth": {"client_token": "hvb.MARKER", "lease_duration": 300}}`))
		return true
	case "sys/capabilities-self":
		data = map[string]any{"sys/step-down": []string{"sudo", "update"},
			"auth/vault-operator/config": []string{"read", "update"}}
	case "auth/vault-operator/config":
		data = map[string]any{"jwt_validation_pubkeys": login.PublicKeys}
	default:
		return false
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	return true
}

// verify verifies a token as Vault does.
func verify(text string, login *v1alpha1.OperatorLoginStatus) error {
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return err
	}
	var failed []error
	for _, key := range login.PublicKeys {
		block, _ := pem.Decode([]byte(key))
		if block == nil {
			return errors.New("a public key is no PEM")
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return err
		}
		var claims jwt.Claims
		if err := token.Claims(public, &claims); err != nil {
			failed = append(failed, err)
			continue
		}
		if len(claims.Audience) != 1 {
			return fmt.Errorf("has the audiences %q", claims.Audience)
		}
		return claims.Validate(jwt.Expected{Subject: login.Subject, AnyAudience: jwt.Audience{login.Audience}})
	}
	return errors.Join(failed...)
}
