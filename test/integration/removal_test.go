//go:build integration

package integration

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// awaitRemoved waits until the Vault and all that Helm made for it is gone.
func awaitRemoved(t *testing.T, vault *v1alpha1.Vault) {
	t.Helper()
	eventually(t, "the Vault is gone", func() error {
		var current v1alpha1.Vault
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(vault), &current)
		if err == nil && current.UID == vault.UID {
			return fmt.Errorf("it has the finalizers %v and the conditions %v", current.Finalizers, current.Status.Conditions)
		}
		return client.IgnoreNotFound(err)
	})
	if left := rendered(t, vault); len(left) > 0 {
		t.Errorf("left behind: %q", namesOf(left))
	}
	if left := records(t, vault.Namespace); len(left) > 0 {
		t.Errorf("%d records of the release are left behind", len(left))
	}
}

func TestRemoval(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	// What the StatefulSet's controller would have made.
	volume := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "data-example-etcd-0", Labels: map[string]string{
			v1alpha1.NameLabel: v1alpha1.AppName, v1alpha1.InstanceLabel: "example",
			v1alpha1.ComponentLabel: v1alpha1.EtcdComponent,
		}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
			},
		},
	}
	own := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "example-own"}}
	for _, obj := range []client.Object{volume, own} {
		if err := admin.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	remove(t, vault)
	awaitRemoved(t, vault)

	if get(t, namespace, volume.Name, volume).DeletionTimestamp != nil {
		t.Error("the operator deletes volumes, which is for Kubernetes to do by the StatefulSet's policy")
	}
	if !exists(t, namespace, own.Name, own) {
		t.Error("an object of the user was deleted")
	}
	// Certificates are left to the garbage collector, which is not here.
	var secrets corev1.SecretList
	if err := admin.List(t.Context(), &secrets, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		if !metav1.IsControlledBy(&secret, vault) {
			t.Errorf("Secret %s is left behind", secret.Name)
		}
	}
}

func TestRemovalOfAVaultThatCouldNeverBeDeployed(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := createVault(t, namespace, `spec: {configMapName: missing}`)
	awaitVault(t, vault, "the ConfigMap is missed", has("ConfigValid=False ConfigMapNotFound",
		"Irreconcilable=True ErrorGettingValues"))
	remove(t, vault)
	awaitRemoved(t, vault)
}

func TestRemovalWhileTheOperatorIsDown(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, vault *v1alpha1.Vault){
		"at rest": func(*testing.T, *v1alpha1.Vault) {},
		"with objects gone": func(t *testing.T, vault *v1alpha1.Vault) {
			remove(t, get(t, vault.Namespace, "example", &appsv1.Deployment{}),
				get(t, vault.Namespace, "example-etcd", &corev1.Service{}))
		},
		"with the record of the release gone": func(t *testing.T, vault *v1alpha1.Vault) {
			for _, secret := range records(t, vault.Namespace) {
				remove(t, &secret)
			}
			// Then the garbage collector removes the objects.
			for name, obj := range rendered(t, vault) {
				if !metav1.IsControlledBy(obj, vault) {
					t.Errorf("%s is not owned by the Vault", name)
				}
				remove(t, obj)
			}
		},
		"with an upgrade pending": func(t *testing.T, vault *v1alpha1.Vault) {
			leavePending(t, vault, release.StatusPendingUpgrade)
		},
		"in the middle of its removal": func(t *testing.T, vault *v1alpha1.Vault) {
			setReleaseStatus(t, vault, release.StatusUninstalling)
			remove(t, get(t, vault.Namespace, "example", &appsv1.Deployment{}))
		},
		"with its ConfigMap and certificates gone": func(t *testing.T, vault *v1alpha1.Vault) {
			remove(t, get(t, vault.Namespace, vault.ServerSecretName(), &corev1.Secret{}))
			change(t, vault, `{"spec": {"configMapName": "missing"}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := newNamespace(t)
			operator := startOperator(t)
			vault := awaitDeployed(t, createVault(t, namespace, ""))
			operator.kill()
			prepare(t, vault)
			remove(t, vault)
			if get(t, namespace, "example", vault).DeletionTimestamp == nil {
				t.Fatal("the Vault does not wait for its operator")
			}
			startOperator(t)
			awaitRemoved(t, vault)
		})
	}
}

func TestRemovalSurvivesKills(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	remove(t, vault)
	for i := range 3 {
		time.Sleep(time.Duration(i*60) * time.Millisecond)
		operator.kill()
		operator = startOperator(t)
		eventually(t, "the new operator is at work", func() error {
			if operator.countLogs("Starting workers") < 3 {
				return errors.New("it is not")
			}
			return nil
		})
	}
	awaitRemoved(t, vault)
}

func TestAVaultThatIsMadeAgainAtOnceGetsItsOwnCertificates(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	old := get(t, namespace, vault.ClientSecretName(), &corev1.Secret{}).Data[v1alpha1.ClientCAKey]
	remove(t, vault)
	awaitRemoved(t, vault)
	again := createVault(t, namespace, "")
	awaitVault(t, again, "the new one waits", has("Irreconcilable=True ErrorGettingValues"))
	if exists(t, namespace, "example", &appsv1.Deployment{}) {
		t.Error("pods start with certificates that are about to be deleted")
	}

	// Now the garbage collector comes.
	var secrets corev1.SecretList
	if err := admin.List(t.Context(), &secrets, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		if metav1.IsControlledBy(&secret, vault) {
			remove(t, &secret)
		}
	}
	awaitDeployed(t, again)
	if current := get(t, namespace, again.ClientSecretName(),
		&corev1.Secret{}).Data[v1alpha1.ClientCAKey]; string(current) == string(old) {
		t.Error("the CA is the old one")
	}
}

// There is no namespace controller here; the test deletes what it would delete,
// in the orders that make a difference. New objects are refused meanwhile.
func TestDeletionOfTheNamespace(t *testing.T) {
	for name, order := range map[string]func(t *testing.T, vault *v1alpha1.Vault){
		"the Vault first": func(t *testing.T, vault *v1alpha1.Vault) { remove(t, vault) },
		"the Vault last": func(t *testing.T, vault *v1alpha1.Vault) {
			for _, obj := range rendered(t, vault) {
				remove(t, obj)
			}
			var secrets corev1.SecretList
			if err := admin.List(t.Context(), &secrets, client.InNamespace(vault.Namespace)); err != nil {
				t.Fatal(err)
			}
			for _, secret := range secrets.Items {
				remove(t, &secret)
			}
			remove(t, vault)
		},
	} {
		for _, down := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, operator down %v", name, down), func(t *testing.T) {
				namespace := newNamespace(t)
				operator := startOperator(t)
				operator.mayBeRefused = true
				vault := awaitDeployed(t, createVault(t, namespace, ""))
				if down {
					operator.kill()
				}
				remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
				order(t, vault)
				if down {
					startOperator(t).mayBeRefused = true
				}
				awaitRemoved(t, vault)
			})
		}
	}
}
