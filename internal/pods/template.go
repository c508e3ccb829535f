package pods

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// RevisionAnnotation is on a Deployment and on the ReplicaSets it made.
const RevisionAnnotation = "deployment.kubernetes.io/revision"

// Template returns the Deployment of the nodes, or nil, and the pod-template-hash of the pods
// that it wants, or nothing while its controller has not seen the last change.
func Template(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) (*appsv1.Deployment, string, error) {
	var deployment appsv1.Deployment
	if err := reader.Get(ctx, client.ObjectKeyFromObject(vault), &deployment); err != nil {
		return nil, "", client.IgnoreNotFound(err)
	}
	if deployment.Status.ObservedGeneration != deployment.Generation {
		return &deployment, "", nil
	}
	var sets metav1.PartialObjectMetadataList
	sets.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("ReplicaSetList"))
	inNamespace, ofVault := client.InNamespace(vault.Namespace), client.MatchingLabels(vault.PodLabels())
	if err := reader.List(ctx, &sets, inNamespace, ofVault); err != nil {
		return nil, "", fmt.Errorf("listing the ReplicaSets of Deployment %q: %w", vault.Name, err)
	}
	for i := range sets.Items {
		set := &sets.Items[i]
		if metav1.IsControlledBy(set, &deployment) &&
			set.Annotations[RevisionAnnotation] == deployment.Annotations[RevisionAnnotation] {
			return &deployment, set.Labels[appsv1.DefaultDeploymentUniqueLabelKey], nil
		}
	}
	return &deployment, "", nil
}
