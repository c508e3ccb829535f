package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const provisionerName = "vault-operator.local/directory"

// growEvery is how often it is looked whether a larger volume is claimed.
const growEvery = 2 * time.Second

// provision makes a directory for each volume that is claimed, lets it become larger, and removes it
// with the volume. All nodes are on one machine, so a directory of that machine
// is a disk of whichever node the pod was put on.
func provision(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", adminKubeconfig())
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	go wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := grow(ctx, client); err != nil {
			fmt.Println("larger volumes:", err)
		}
	}, growEvery)
	controller.NewProvisionController(ctx, client, provisionerName, directories{},
		controller.LeaderElection(false)).Run(ctx)
	return nil
}

type directories struct{}

// Provision makes the directory. Its volume is "local" and not "hostPath", since
// only that is given to the group of a pod that does not run as root.
func (directories) Provision(_ context.Context, options controller.ProvisionOptions) (
	*corev1.PersistentVolume, controller.ProvisioningState, error) {
	mode := options.PVC.Spec.VolumeMode
	if options.SelectedNodeName == "" || (mode != nil && *mode != corev1.PersistentVolumeFilesystem) {
		return nil, controller.ProvisioningFinished,
			errors.New("only a filesystem, on the node that the pod was put on, can be made")
	}
	path := statePath("volumes", options.PVName)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			VolumeMode:                    mode,
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage],
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{options.SelectedNodeName},
				}}}},
			}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the directory.
func (directories) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	return os.RemoveAll(statePath("volumes", volume.Name))
}

// grow gives claims what they ask for beyond the size of their volume. A directory has all the room of the machine, so
// that there is nothing to do but to say so.
func grow(ctx context.Context, client kubernetes.Interface) error {
	claims, err := client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		wanted, has := claim.Spec.Resources.Requests.Storage(), claim.Status.Capacity.Storage()
		if claim.Status.Phase != corev1.ClaimBound || wanted.Cmp(*has) <= 0 {
			continue
		}
		size := fmt.Sprintf(`{"capacity": {"storage": %q}}`, wanted.String())
		_, errVolume := client.CoreV1().PersistentVolumes().Patch(ctx, claim.Spec.VolumeName, types.MergePatchType,
			[]byte(`{"spec": `+size+`}`), metav1.PatchOptions{})
		_, errClaim := client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType,
			[]byte(`{"status": `+size+`}`), metav1.PatchOptions{}, "status")
		err = errors.Join(err, errVolume, errClaim)
	}
	return err
}
