//go:build integration

package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// helmStorage is what the helm command works with in the operator's namespace,
// where the release has the UID of the Vault as its name.
func helmStorage() *storage.Storage {
	return storage.Init(driver.NewSecrets(clientset.CoreV1().Secrets(operatorNamespace)))
}

func lastRelease(t *testing.T, vault *v1alpha1.Vault) *release.Release {
	t.Helper()
	rel, err := helmStorage().Last(string(vault.UID))
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// setReleaseStatus changes the record of the last revision.
func setReleaseStatus(t *testing.T, vault *v1alpha1.Vault, status release.Status) {
	t.Helper()
	rel := lastRelease(t, vault)
	rel.Info.Status = status
	if err := helmStorage().Update(rel); err != nil {
		t.Fatal(err)
	}
}

// leavePending leaves the record that Helm makes before it begins.
func leavePending(t *testing.T, vault *v1alpha1.Vault, status release.Status) {
	t.Helper()
	if status == release.StatusPendingInstall {
		setReleaseStatus(t, vault, status)
		return
	}
	rel := lastRelease(t, vault)
	rel.Version++
	rel.Info.Status = status
	if err := helmStorage().Create(rel); err != nil {
		t.Fatal(err)
	}
}

// awaitReleased waits until the last revision is deployed.
func awaitReleased(t *testing.T, vault *v1alpha1.Vault) {
	t.Helper()
	eventually(t, "the release is deployed", func() error {
		rel, err := helmStorage().Last(string(vault.UID))
		if err != nil {
			return err
		}
		if rel.Info.Status != release.StatusDeployed {
			return fmt.Errorf("revision %d is %s", rel.Version, rel.Info.Status)
		}
		return nil
	})
}

func TestPendingReleaseRecovers(t *testing.T) {
	for _, status := range []release.Status{release.StatusPendingInstall, release.StatusPendingUpgrade,
		release.StatusPendingRollback, release.StatusFailed} {
		t.Run(string(status), func(t *testing.T) {
			namespace := newNamespace(t)
			operator := startOperator(t)
			vault := awaitDeployed(t, createVault(t, namespace, ""))
			operator.kill()
			uid := get(t, namespace, "example-etcd", &appsv1.StatefulSet{}).UID
			if status == release.StatusFailed {
				setReleaseStatus(t, vault, status)
			} else {
				leavePending(t, vault, status)
			}
			// It had got as far as the etcd.
			remove(t, get(t, namespace, "example", &appsv1.Deployment{}))
			change(t, vault, `{"spec": {"nodes": 3}}`)

			startOperator(t)
			awaitReleased(t, vault)
			awaitDeployed(t, vault)
			if replicas := *get(t, namespace, "example", &appsv1.Deployment{}).Spec.Replicas; replicas != 3 {
				t.Errorf("%d replicas", replicas)
			}
			if get(t, namespace, "example-etcd", &appsv1.StatefulSet{}).UID != uid {
				t.Error("the storage was made anew")
			}
		})
	}
}

func TestLostRecordOfAReleaseDeletesNothing(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	before := rendered(t, vault)
	sameObjects := func() {
		t.Helper()
		after := rendered(t, vault)
		for name, obj := range before {
			if now := after[name]; now == nil || now.GetUID() != obj.GetUID() {
				t.Errorf("%s was deleted", name)
			}
		}
	}

	// While the operator runs: it does not notice until something changes.
	for _, secret := range records(t, namespace) {
		remove(t, &secret)
	}
	change(t, vault, `{"spec": {"nodes": 3}}`)
	awaitReleased(t, vault)
	awaitDeployed(t, vault)
	sameObjects()

	// While it is down, and one of the objects cannot be adopted: whoever else
	// claims it, the other objects of a living Vault must not go.
	operator.kill()
	for _, secret := range records(t, namespace) {
		remove(t, &secret)
	}
	service := get(t, namespace, "example", &corev1.Service{})
	change(t, service, `{"metadata": {"annotations": {"meta.helm.sh/release-name": "other"}}}`)
	startOperator(t)
	stuck := awaitVault(t, vault, "the conflict is reported", has("Irreconcilable=True ReconcileError",
		"ReleaseFailed=True InstallError"))
	for _, condition := range stuck.Status.Conditions {
		if condition.Type == "ReleaseFailed" && !strings.Contains(condition.Message, `Service "example"`) {
			t.Errorf("message %q does not name the Service", condition.Message)
		}
	}
	awaitVault(t, vault, "the status of the nodes goes on", has("TLSReady=True SecretsValid"))
	sameObjects()

	// It is tried again by itself, with growing pauses; a change hurries it.
	change(t, service, `{"metadata": {"annotations": {"meta.helm.sh/release-name": "example"}}}`)
	change(t, vault, `{"spec": {"nodes": 2}}`)
	awaitReleased(t, vault)
	awaitDeployed(t, vault)
	sameObjects()
}

// The operator is killed again and again while it installs and upgrades.
func TestKillsAtRandomMoments(t *testing.T) {
	namespace := newNamespace(t)
	recordVersions(t, namespace)
	vault := createVault(t, namespace, "")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	var operator *operatorProcess
	for i := range 8 {
		operator = startOperator(t)
		eventually(t, "the operator is at work", func() error {
			if operator.countLogs("Starting workers") < 3 {
				return errors.New("it is not")
			}
			return nil
		})
		change(t, vault, fmt.Sprintf(`{"spec": {"nodes": %d, "version": "1.21.%d"}}`, i+1, i))
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
		operator.kill()
	}
	startOperator(t)
	// A release and a status that look well may be of an earlier spec.
	eventually(t, "the last spec is deployed", func() error {
		var deployment appsv1.Deployment
		if err := admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "example"},
			&deployment); err != nil {
			return err
		}
		if *deployment.Spec.Replicas != 8 || !strings.HasSuffix(deployment.Spec.Template.Spec.Containers[0].Image,
			":1.21.7") {
			return fmt.Errorf("replicas %d, image %s", *deployment.Spec.Replicas,
				deployment.Spec.Template.Spec.Containers[0].Image)
		}
		return nil
	})
	awaitReleased(t, vault)
	awaitDeployed(t, vault)
	awaitQuiet(t)
	for name, obj := range rendered(t, vault) {
		if !metav1.IsControlledBy(obj, vault) {
			t.Errorf("%s is not owned by the Vault", name)
		}
	}
}

// The end of the operator as Kubernetes brings it about is clean and quick.
func TestTermination(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	begin := time.Now()
	operator.terminate()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the operator took %s to stop", took)
	}

	// What changed meanwhile is caught up with.
	change(t, vault, `{"spec": {"nodes": 5}}`)
	remove(t, get(t, namespace, "example-etcd", &appsv1.StatefulSet{}))
	startOperator(t)
	eventually(t, "the changes are caught up with", func() error {
		var deployment appsv1.Deployment
		if err := admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "example"},
			&deployment); err != nil {
			return err
		}
		if *deployment.Spec.Replicas != 5 {
			return fmt.Errorf("%d replicas", *deployment.Spec.Replicas)
		}
		if !exists(t, namespace, "example-etcd", &appsv1.StatefulSet{}) {
			return errors.New("no etcd")
		}
		return nil
	})
}
