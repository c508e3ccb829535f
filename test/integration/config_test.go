//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// replicaSetOf does what Kubernetes does for a Deployment: it makes a ReplicaSet with the
// Deployment's annotations, and a pod.
func replicaSetOf(t *testing.T, vault *v1alpha1.Vault, name string) (*appsv1.ReplicaSet, *corev1.Pod) {
	t.Helper()
	deployment := deploymentOf(t, vault)
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: name, Annotations: deployment.Annotations, Labels: deployment.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment,
				appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Selector: deployment.Spec.Selector, Template: deployment.Spec.Template},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: name, Labels: deployment.Spec.Template.Labels},
		Spec:       *deployment.Spec.Template.Spec.DeepCopy(),
	}
	pod.Spec.ServiceAccountName = "" // the admission of pods wants it to exist
	for _, object := range []client.Object{set, pod} {
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	return set, pod
}

// Each pod keeps the configuration that it was made with, for as long as it or one of
// its kind may start.
func TestConfigurationStaysWithItsPods(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	mine := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine"},
		Data: map[string]string{"vault.hcl": "ui = true"}}
	if err := admin.Create(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	vault := awaitDeployed(t, createVault(t, namespace, `spec: {configMapName: mine}`))
	first := configSecrets(t, vault)
	if len(first) != 2 {
		t.Fatalf("the Deployment names %q", first)
	}
	oldSet, oldPod := replicaSetOf(t, vault, "old")

	// Not named any more, and something of the chart's own changes as well.
	change(t, vault, `{"spec": {"configMapName": null, "storage": {"etcd": {"lockTimeoutSeconds": 20}}}}`)
	remove(t, mine)
	eventually(t, "it is deployed", func() error {
		if now := configSecrets(t, vault); len(now) != 1 || now[0] == first[0] {
			return fmt.Errorf("the Deployment names %q", now)
		}
		return nil
	})
	replicaSetOf(t, vault, "new")
	kept := func(why string, names ...string) {
		t.Helper()
		for _, name := range names {
			if !exists(t, namespace, name, &corev1.Secret{}) {
				t.Fatalf("%s: Secret %s is gone", why, name)
			}
		}
	}
	time.Sleep(70 * time.Second) // longer than what is unused is kept
	kept("a pod has it mounted", first...)
	remove(t, oldPod)
	time.Sleep(70 * time.Second)
	kept("its ReplicaSet may make a pod", first...)
	remove(t, oldSet)
	poll.Eventually(t, "what no pod can use is deleted", 2*timeout, time.Second, func() error {
		for _, name := range first {
			if exists(t, namespace, name, &corev1.Secret{}) {
				return fmt.Errorf("Secret %s is there", name)
			}
		}
		return nil
	})
	kept("it is the newest", configSecrets(t, vault)...)

	// One that is deleted by hand is made again.
	remove(t, get(t, namespace, configSecrets(t, vault)[0], &corev1.Secret{}))
	eventually(t, "it is there again", func() error {
		return admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: configSecrets(t, vault)[0]},
			&corev1.Secret{})
	})
}

// The name in the user guide, which was the operator's own for a Vault "example".
func TestConfigMapOfTheUserGuide(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	guide := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "example-config"},
		Data: map[string]string{"vault.hcl": "ui = true"}}
	if err := admin.Create(t.Context(), guide); err != nil {
		t.Fatal(err)
	}
	vault := awaitDeployed(t, createVault(t, namespace, `spec: {configMapName: example-config}`))
	if config := userConfig(t, vault); config["configmap.hcl"] != "ui = true" {
		t.Errorf("the configuration is %q", config)
	}
	awaitQuiet(t)
	now := get(t, namespace, "example-config", &corev1.ConfigMap{})
	if now.ResourceVersion != guide.ResourceVersion {
		t.Errorf("the user's ConfigMap was written: %+v", now)
	}
}

// What is in the user's Secret is in that, and in the one that the nodes mount.
func TestConfigSecret(t *testing.T) {
	const marker = "hvs.MARKER"
	namespace := newNamespace(t)
	operator := startOperator(t)
	recordVersions(t, namespace)
	vault := createVault(t, namespace, `spec: {configMapName: mine, configSecretName: secret}`)
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine"},
		Data: map[string]string{"vault.hcl": "ui = true"}}
	if err := admin.Create(t.Context(), configMap); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "the Secret is missed", has("ConfigValid=False ConfigSecretNotFound",
		"Irreconcilable=True ErrorGettingValues"))
	awaitEvent(t, vault, `Warning ConfigSecretNotFound spec.configSecretName: Secret "secret" does not exist`)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "secret"}}
	secret.Data = map[string][]byte{"vault.hcl": []byte(`seal "transit" { token = ` + marker + ` }`)} // without quotes
	if err := admin.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "a mistake is reported", has("ConfigValid=False ConfigInvalid"))
	good := `seal "transit" { token = "` + marker + `" }`
	secret.Data["vault.hcl"] = []byte(good)
	if err := admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	awaitDeployed(t, vault)
	if config := userConfig(t, vault); config["configmap.hcl"] != "ui = true" || config["secret.hcl"] != good {
		t.Errorf("the configuration is %q", config)
	}
	args := deploymentOf(t, vault).Spec.Template.Spec.Containers[0].Args
	if !slices.Equal(args[len(args)-2:], []string{"-config=/vault/config/configmap.hcl",
		"-config=/vault/config/secret.hcl"}) {
		t.Errorf("the arguments are %q", args)
	}

	// A change is rolled out by itself.
	before := configSecrets(t, vault)
	secret.Data["vault.hcl"] = []byte(good + "\n# another\n")
	if err := admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is deployed", func() error {
		if now := configSecrets(t, vault); now[1] == before[1] {
			return fmt.Errorf("the Deployment names %q", now)
		}
		return nil
	})
	awaitQuiet(t)
	requireNowhere(t, namespace, marker, append(before, "secret", configSecrets(t, vault)[1])...)
	if strings.Contains(operator.read(), marker) {
		t.Error("it is in the operator's log")
	}
}

// requireNowhere fails the test when the text is in an object of the namespace other
// than the Secrets named, or in a release record of Helm.
func requireNowhere(t *testing.T, namespace, marker string, but ...string) {
	t.Helper()
	lists := append(renderedKinds(), &v1alpha1.VaultList{}, &corev1.EventList{}, &corev1.ConfigMapList{},
		&corev1.SecretList{})
	for _, list := range lists {
		if err := admin.List(context.Background(), list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(encoded), marker) {
			t.Errorf("%s is in a %T", marker, list)
		}
		secrets, ok := list.(*corev1.SecretList)
		if !ok {
			continue
		}
		for _, secret := range secrets.Items {
			for key, value := range secret.Data {
				if strings.Contains(string(value), marker) && !slices.Contains(but, secret.Name) {
					t.Errorf("%s is in key %s of Secret %s", marker, key, secret.Name)
				}
			}
		}
	}
	var vaults v1alpha1.VaultList
	if err := admin.List(context.Background(), &vaults, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for i := range vaults.Items {
		record, err := json.Marshal(lastRelease(t, &vaults.Items[i]))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(record), marker) {
			t.Errorf("%s is in the record of the release", marker)
		}
	}
}

// The ConfigMap of version 0.1.0 stays while a pod of that time has it mounted.
func TestConfigMapOfThePreviousVersion(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	operator.terminate()
	old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: "example-config",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(vault, v1alpha1.GroupVersion.WithKind("Vault"))},
	}}
	if err := admin.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "old", Labels: vault.PodLabels()},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: v1alpha1.VaultContainer, Image: "vault"}},
			Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: old.Name}},
			}}},
		},
	}
	if err := admin.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	startOperator(t)
	eventually(t, "Helm is told to keep it", func() error {
		if annotations := get(t, namespace, old.Name,
			&corev1.ConfigMap{}).Annotations; annotations["helm.sh/resource-policy"] != "keep" {
			return fmt.Errorf("annotations %v", annotations)
		}
		return nil
	})
	time.Sleep(70 * time.Second)
	get(t, namespace, old.Name, old)
	if err := admin.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	poll.Eventually(t, "what no pod can need is deleted", 2*timeout, time.Second, func() error {
		if exists(t, namespace, old.Name, &corev1.ConfigMap{}) {
			return fmt.Errorf("ConfigMap %s is there", old.Name)
		}
		return nil
	})
}

func TestDeletionCostIsRefused(t *testing.T) {
	namespace := newNamespace(t)
	for key, want := range map[string]string{
		"controller.kubernetes.io/pod-deletion-cost": "are set by the operator",
		"vault.security.coreos.com/active":           "are set by the operator",
		"example.com/mine":                           "",
	} {
		vault := parseVault(t, namespace, "example", fmt.Sprintf(`spec: {pod: {annotations: {%q: "500"}}}`, key))
		err := strict().Create(t.Context(), vault, client.DryRunAll)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", key, err, want)
		}
	}
}
