package main

import (
	"context"
	"errors"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const provisionerName = "vault-operator.local/directory"

// provision makes a directory for each volume that is claimed, and removes it
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
