//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// TestServesOnlyItsNamespaces runs an operator as OLM does for an OperatorGroup
// that selects namespaces: with a Role in each of them, and no right elsewhere.
func TestServesOnlyItsNamespaces(t *testing.T) {
	other := createVault(t, newNamespace(t), `{}`)
	for name, count := range map[string]int{"one": 1, "two": 2} {
		t.Run(name, func(t *testing.T) {
			user := "operator-of-" + name
			kubeconfig, err := newUser(user)
			if err != nil {
				t.Fatal(err)
			}
			watched := ""
			var served []*v1alpha1.Vault
			for range count {
				namespace := newNamespace(t)
				grantRoleIn(t, namespace, user)
				watched += "," + namespace
				served = append(served, createVault(t, namespace, `{}`))
			}
			t.Setenv(watchNamespace, watched[1:])
			path := filepath.Join(t.TempDir(), "kubeconfig")
			if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
				t.Fatal(err)
			}
			// A refusal by the API server in its log fails the test.
			startOperatorAs(t, path)
			for _, vault := range served {
				waitUntilDeployed(t, vault)
			}
		})
	}
	time.Sleep(time.Second)
	if got := get(t, other.Namespace, other.Name, &v1alpha1.Vault{}); len(got.Finalizers) > 0 || len(got.Status.Conditions) > 0 {
		t.Errorf("a Vault that is not served was touched: %+v", got)
	}
	if exists(t, other.Namespace, other.Name, &appsv1.Deployment{}) {
		t.Error("a Vault that is not served was deployed")
	}
}

// grantRoleIn gives a user the operator's role in one namespace.
func grantRoleIn(t *testing.T, namespace, user string) {
	t.Helper()
	rules, err := readRole("role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: rules.Name}
	err = admin.Create(context.Background(), &rbacv1.Role{ObjectMeta: meta, Rules: rules.Rules})
	if err == nil {
		err = admin.Create(context.Background(), &rbacv1.RoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: rules.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}
