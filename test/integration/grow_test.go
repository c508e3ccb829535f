//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// expandClass makes the StorageClass of the claims, which allows larger volumes or not.
func expandClass(t *testing.T, allowed bool) {
	t.Helper()
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "test", AllowVolumeExpansion: &allowed,
	}
	_ = admin.Delete(t.Context(), class)
	if err := admin.Create(t.Context(), class.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(admin.Delete(context.Background(), class)) })
}

// setCapacity says how large the volume of a claim is, as a provisioner does.
func setCapacity(t *testing.T, claim *corev1.PersistentVolumeClaim, size string) {
	t.Helper()
	patch := fmt.Sprintf(`{"status": {"capacity": {"storage": %q}}}`, size)
	if err := admin.Status().Patch(t.Context(), claim, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

// awaitRequested waits until the claims ask for a size.
func awaitRequested(t *testing.T, claims []*corev1.PersistentVolumeClaim, size string) {
	t.Helper()
	eventually(t, "the claims ask for "+size, func() error {
		for _, claim := range claims {
			requested := get(t, claim.Namespace, claim.Name, claim).Spec.Resources.Requests[corev1.ResourceStorage]
			if requested.Cmp(resource.MustParse(size)) != 0 {
				return fmt.Errorf("%s asks for %s", claim.Name, requested.String())
			}
		}
		return nil
	})
}

// Volumes become larger where their class allows that, and etcd's quota follows when they are.
func TestLargerVolumes(t *testing.T) {
	vault, _, claims := founded(t, "")
	for _, claim := range claims {
		setCapacity(t, claim, "2Gi")
	}
	awaitVault(t, vault, "the size is told", func(v *v1alpha1.Vault) error {
		if size := v.Status.Storage.VolumeSize; size == nil || size.String() != "2Gi" {
			return fmt.Errorf("the volumes are of %v", size)
		}
		return nil
	})
	resize := func(size string) error {
		return admin.Patch(t.Context(), vault.DeepCopy(), client.RawPatch(types.MergePatchType,
			fmt.Appendf(nil, `{"spec": {"storage": {"etcd": {"volumeSize": %q}}}}`, size)))
	}
	if err := resize("1Gi"); err == nil || !strings.Contains(err.Error(), "cannot be made smaller") {
		t.Errorf("smaller volumes: %v", err)
	}

	expandClass(t, false)
	if err := resize("4Gi"); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "the class does not allow it", all(has("Updated=False ExpansionRefused"),
		says("Updated", "spec.storage.etcd.volumeSize is larger than the volumes", "allowVolumeExpansion")))
	awaitEvent(t, vault, "Warning ExpansionRefused ")
	if err := resize("2Gi"); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "the spec is set back", has("Irreconcilable=False Reconciled"))

	expandClass(t, true)
	before := setOf(t, vault)
	change(t, vault, `{"spec": {"configMapName": "late", "storage": {"etcd": {"volumeSize": "4Gi"}}}}`)
	awaitRequested(t, claims, "4Gi")
	awaitVault(t, vault, "it waits for the volumes", all(has("StorageReady=True Quorum", "Updated=False ReleasePending"),
		says("StorageReady", "volumes are being made larger: data-example-etcd-0 (2Gi)"),
		says("Irreconcilable", "data-example-etcd-0 (2Gi)")))
	setCapacity(t, claims[0], "4Gi")
	awaitVault(t, vault, "one is there", says("StorageReady", "larger: data-example-etcd-1 (2Gi)"))
	untouched := func(why string) {
		t.Helper()
		if current := setOf(t, vault); current.UID != before.UID || current.DeletionTimestamp != nil {
			t.Error("the StatefulSet is made anew before", why)
		}
	}
	untouched("the volumes are there")
	setCapacity(t, claims[1], "4Gi")
	setCapacity(t, claims[2], "4Gi")
	awaitVault(t, vault, "the rest of the change cannot be deployed", says("Irreconcilable", `"late"`))
	untouched("all else of the change can be deployed")
	late := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: "late"},
		Data: map[string]string{"vault.hcl": "ui = true"}}
	if err := admin.Create(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the StatefulSet is made anew", func() error {
		var set appsv1.StatefulSet
		key := client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdName()}
		if err := admin.Get(t.Context(), key, &set); err != nil {
			return err
		}
		if set.UID != before.UID {
			return nil
		}
		if set.DeletionTimestamp != nil {
			if len(set.Finalizers) != 1 || set.Finalizers[0] != metav1.FinalizerOrphanDependents {
				t.Fatalf("its pods would go with it: %v", set.Finalizers)
			}
			_ = admin.Patch(t.Context(), &set, client.RawPatch(types.MergePatchType, // as the garbage collector does
				[]byte(`{"metadata": {"finalizers": null}}`)))
		}
		return errors.New("it is the old one")
	})
	set := setOf(t, vault)
	size := set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests[corev1.ResourceStorage]
	command := strings.Join(set.Spec.Template.Spec.Containers[0].Command, "\n")
	if size.String() != "4Gi" || !strings.Contains(command, "--quota-backend-bytes=2013265920") {
		t.Errorf("claims of %s, and the command %s", size.String(), command)
	}
	awaitVault(t, vault, "the size is told", func(v *v1alpha1.Vault) error {
		if size := v.Status.Storage.VolumeSize; size == nil || size.String() != "4Gi" {
			return fmt.Errorf("the volumes are of %v", size)
		}
		return nil
	})
}
