//go:build integration

package integration

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// TestServesOnlyItsNamespaces runs an operator with the rights of config/namespaced:
// a Role in the namespace that it serves, or as OLM makes it in several, and no
// right in any other.
func TestServesOnlyItsNamespaces(t *testing.T) {
	other := createVault(t, newNamespace(t), `{}`)
	for name, count := range map[string]int{"one": 1, "two": 2} {
		t.Run(name, func(t *testing.T) {
			user := "operator-of-" + name
			kubeconfig, err := newUser(user)
			if err != nil {
				t.Fatal(err)
			}
			grantNamespaced(t, operatorNamespace, user)
			watched := ""
			var served []*v1alpha1.Vault
			for range count {
				namespace := newNamespace(t)
				grantNamespaced(t, namespace, user)
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
				awaitDeployed(t, vault)
			}
		})
	}
	time.Sleep(time.Second)
	if got := get(t, other.Namespace, other.Name, &v1alpha1.Vault{}); len(got.Finalizers) > 0 ||
		len(got.Status.Conditions) > 0 {
		t.Errorf("a Vault that is not served was touched: %+v", got)
	}
	if exists(t, other.Namespace, other.Name, &appsv1.Deployment{}) {
		t.Error("a Vault that is not served was deployed")
	}
}

// grantNamespaced gives a user the rights that config/namespaced gives to the
// operator in its own namespace, or those that it gives in the namespace served.
func grantNamespaced(t *testing.T, namespace, user string) {
	t.Helper()
	objects, err := build("namespaced")
	if err != nil {
		t.Fatal(err)
	}
	served := ""
	for _, obj := range objects {
		if obj.GetKind() == "Deployment" {
			served = watchedBy(t, obj)
		}
	}
	for _, obj := range objects {
		of := obj.GetNamespace()
		if namespace != operatorNamespace && of == served {
			of = namespace
		}
		if obj.GroupVersionKind().Group != rbacv1.GroupName || of != namespace {
			continue
		}
		obj.SetNamespace(of)
		obj.SetName(obj.GetName() + "-" + user)
		if obj.GetKind() == "RoleBinding" {
			role, _, _ := unstructured.NestedString(obj.Object, "roleRef", "name")
			subject := map[string]any{"apiGroup": rbacv1.GroupName, "kind": rbacv1.UserKind, "name": user}
			err = errors.Join(unstructured.SetNestedField(obj.Object, role+"-"+user, "roleRef", "name"),
				unstructured.SetNestedSlice(obj.Object, []any{subject}, "subjects"))
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := admin.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

// watchedBy returns the namespace that a Deployment of the operator serves.
func watchedBy(t *testing.T, obj *unstructured.Unstructured) string {
	t.Helper()
	var deployment appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &deployment); err != nil {
		t.Fatal(err)
	}
	for _, variable := range deployment.Spec.Template.Spec.Containers[0].Env {
		if variable.Name == "WATCH_NAMESPACE" && variable.Value != "" {
			return variable.Value
		}
	}
	t.Fatal("config/namespaced does not name the namespace to serve")
	return ""
}
