//go:build integration

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// An administrator who deletes all Secrets of a Vault by its label gets no second CA: what
// runs still trusts the first. A backup tool restores them without their owner.
func TestAllSecretsOfAVaultAreDeleted(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	ofVault := client.MatchingLabels{v1alpha1.InstanceLabel: vault.Name}
	var backup corev1.SecretList
	if err := admin.List(t.Context(), &backup, client.InNamespace(namespace), ofVault); err != nil {
		t.Fatal(err)
	}
	if err := admin.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(namespace), ofVault); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "the loss is reported", has("TLSReady=False AuthorityLost",
		"Irreconcilable=True ErrorGettingValues"))
	awaitEvent(t, vault, "Warning AuthorityLost Secrets with a CA are gone: ")
	awaitVault(t, vault, "everything that is lost is named", func(v *v1alpha1.Vault) error {
		condition := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.TLSReadyCondition)
		for _, name := range append(certs.CASecretNames(vault),
			vault.ServerSecretName(), vault.ClientSecretName(), vault.EtcdServerSecretName(), vault.EtcdClientSecretName()) {
			if !strings.Contains(condition.Message, strconv.Quote(name)) {
				return fmt.Errorf("%s is not in %s", name, condition.Message)
			}
		}
		return nil
	})
	time.Sleep(3 * time.Second)
	for _, name := range []string{"example-etcd-ca", "example-default-vault-ca"} {
		if exists(t, namespace, name, &corev1.Secret{}) {
			t.Errorf("a second CA %s was made", name)
		}
	}
	// An operator that begins anew knows no better.
	operator.terminate()
	startOperator(t)
	time.Sleep(3 * time.Second)
	if exists(t, namespace, "example-etcd-ca", &corev1.Secret{}) {
		t.Error("a second CA was made by another operator")
	}
	for i := range backup.Items {
		restored := &backup.Items[i]
		restored.OwnerReferences, restored.ResourceVersion, restored.UID = nil, "", ""
		if err := admin.Create(t.Context(), restored); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
	}
	awaitVault(t, vault, "all is well", has(deployed...))
	eventually(t, "what was restored is the Vault's again", func() error {
		for i := range backup.Items {
			now := get(t, namespace, backup.Items[i].Name, &corev1.Secret{})
			if !metav1.IsControlledBy(now, vault) {
				return fmt.Errorf("%s is owned by %v", now.Name, now.OwnerReferences)
			}
		}
		return nil
	})
}

// The keys that cert-manager writes are mounted under their own names.
func TestKeysOfCertManager(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	made := awaitDeployed(t, createVault(t, namespace, ""))
	server := get(t, namespace, made.ServerSecretName(), &corev1.Secret{})
	ca := get(t, namespace, made.ClientSecretName(), &corev1.Secret{})
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "from-cert-manager"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": server.Data["server.crt"], "tls.key": server.Data["server.key"],
			"ca.crt": ca.Data["vault-client-ca.crt"]},
	}
	if err := admin.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	change(t, made, `{"spec": {"tls": {"static": {"serverSecret": "from-cert-manager", "clientSecret": `+
		`"from-cert-manager"}}}}`)
	eventually(t, "it is mounted", func() error {
		var deployment appsv1.Deployment
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(made), &deployment); err != nil {
			return err
		}
		text := fmt.Sprintf("%+v", deployment.Spec.Template.Spec.Volumes)
		for _, want := range []string{"SecretName:from-cert-manager", "{Key:tls.crt,Path:server.crt,",
			"{Key:tls.key,Path:server.key,", "{Key:ca.crt,Path:vault-client-ca.crt,"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %s in %s", want, text)
			}
		}
		return nil
	})
	awaitVault(t, made, "it is valid", has("TLSReady=True SecretsValid"))
}
