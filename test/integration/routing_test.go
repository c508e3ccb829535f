//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// A node that is silent keeps its label as long as only a sealed one could replace
// it, and gives way to one that is active.
func TestSealedNodeDoesNotReplaceASilentOne(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := deployVault(t, namespace)
	history := recordLabels(t, namespace)
	a := startPod(t, vault, "a", fakevault.Active)
	b := startPod(t, vault, "b", fakevault.Sealed)
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Sealed: []string{"b"}})
	awaitLabel(t, namespace, "a")
	for range 3 {
		a.Freeze()
		nodesAre(t, vault, v1alpha1.NodesStatus{Sealed: []string{"b"}, Unreachable: []string{"a"}})
		awaitVault(t, vault, "it is not called unavailable", has("Available=Unknown NodesUnreachable"))
		a.Thaw()
		nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Sealed: []string{"b"}})
	}
	a.Freeze()
	nodesAre(t, vault, v1alpha1.NodesStatus{Sealed: []string{"b"}, Unreachable: []string{"a"}})
	if got, want := history.get(), []string{"+a"}; !slices.Equal(got, want) {
		t.Errorf("the label went %v, want %v", got, want)
	}
	b.Set(fakevault.Active)
	awaitLabel(t, namespace, "b")
}

// denyLabels makes the API server refuse all changes of pods of the namespace that
// have the active label afterwards. It returns what allows them again.
func denyLabels(t *testing.T, namespace string) (allow func()) {
	t.Helper()
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "deny-labels-" + namespace},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				},
			}}},
			Validations: []admissionv1.Validation{{
				Expression: fmt.Sprintf("!(%q in object.metadata.labels)", v1alpha1.ActiveLabel), Message: "labels are frozen",
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName:        policy.Name,
			ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
				MatchLabels: map[string]string{corev1.LabelMetadataName: namespace},
			}},
		},
	}
	if err := admin.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	if err := admin.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, object := range []client.Object{binding, policy} {
			_ = admin.Delete(context.Background(), object) // one may be gone
		}
	})
	return func() { remove(t, binding) }
}

// Available is about the Service: an active node that it does not reach is not.
func TestAvailableLooksAtTheService(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t).mayBeRefused = true
	vault := deployVault(t, namespace)
	a := startPod(t, vault, "a", fakevault.Active)
	b := startPod(t, vault, "b", fakevault.Standby)
	awaitVault(t, vault, "all is well", has("Available=True Active"))

	allow := denyLabels(t, namespace)
	eventually(t, "the policy is in force", func() error {
		pod := get(t, namespace, "a", &corev1.Pod{})
		pod.Annotations = map[string]string{"test": "denied"}
		err := admin.Update(t.Context(), pod)
		if err == nil {
			return errors.New("the change was not refused")
		}
		if !strings.Contains(err.Error(), "labels are frozen") {
			return err
		}
		return nil
	})
	a.Kill()
	remove(t, get(t, namespace, "a", &corev1.Pod{}))
	b.Set(fakevault.Active)
	awaitVault(t, vault, "the reason is told", has("Available=False NotInService"))
	awaitVault(t, vault, "the cause is told", func(v *v1alpha1.Vault) error {
		for _, condition := range v.Status.Conditions {
			if condition.Type == v1alpha1.AvailableCondition && strings.Contains(condition.Message, "labels are frozen") {
				return nil
			}
		}
		return fmt.Errorf("%+v", v.Status.Conditions)
	})
	allow()
	awaitLabel(t, namespace, "b")
	awaitVault(t, vault, "all is well again", has("Available=True Active"))

	// A pod that is not ready is none of the endpoints.
	pod := get(t, namespace, "b", &corev1.Pod{})
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	setPodStatus(t, vault, "b", pod.Status)
	awaitVault(t, vault, "it is not ready", has("Available=False NotInService"))
}

// The certificates of a living Vault change: its nodes serve with those that their
// pods mount, and are verified by them, until new pods have taken over.
func TestChangedCertificatesCostOneHandover(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := deployVault(t, namespace)
	history := recordLabels(t, namespace)
	start := func(name, caSecret string, node *fakevault.Node) {
		t.Helper()
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: vault.PodLabels()},
			Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: v1alpha1.VaultContainer, Image: "hashicorp/vault:1.21.0"}},
				Volumes: []corev1.Volume{{Name: "tls-ca", VolumeSource: corev1.VolumeSource{
					Secret: &corev1.SecretVolumeSource{SecretName: caSecret},
				}}},
			},
		}
		if err := admin.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		setRunning(t, vault, name, node.IP)
	}
	generated := vault.ClientSecretName()
	a := fakevault.Start(t, certificateOf(t, vault), fakevault.Active)
	b := fakevault.Start(t, certificateOf(t, vault), fakevault.Standby)
	start("a", generated, a)
	start("b", generated, b)
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}})
	awaitLabel(t, namespace, "a")

	ca := fakevault.NewCA(t)
	server, trusted := ca.Secrets(t, namespace, vault.ServerName())
	for _, secret := range []*corev1.Secret{server, trusted} {
		if err := admin.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	change(t, vault, fmt.Sprintf(`{"spec": {"tls": {"static": {"serverSecret": %q, "clientSecret": %q}}}}`, server.Name,
		trusted.Name))
	c := fakevault.Start(t, ca.Certificate(t, vault.ServerName()), fakevault.Standby)
	start("c", trusted.Name, c)
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Standby: []string{"b", "c"}})
	// Nor does an operator that has just started overlook them.
	operator.kill()
	startOperator(t)
	time.Sleep(3 * time.Second)
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Standby: []string{"b", "c"}})

	a.Set(fakevault.Standby)
	c.Set(fakevault.Active)
	awaitLabel(t, namespace, "c")
	if got, want := history.get(), []string{"+a", "-a", "+c"}; !slices.Equal(got, want) {
		t.Errorf("the label went %v, want %v", got, want)
	}

	// A CA that is of no use makes no node unreachable, and after a restart demotes none.
	change(t, trusted, `{"data": {"vault-client-ca.crt": "Z2FyYmFnZQ=="}}`)
	time.Sleep(2 * time.Second)
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "c", Standby: []string{"a", "b"}})
}
