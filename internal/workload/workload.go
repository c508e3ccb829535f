// Package workload reads what runs the nodes of a Vault: a Deployment, or a StatefulSet
// where each node has a volume of its own.
package workload

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/manifests"
)

// Workload is what runs the nodes of a Vault, whichever kind it is of.
type Workload struct {
	client.Object
	// Kind is Deployment or StatefulSet.
	Kind string
	// Template is what pods are made of, and Replicas how many.
	Template *corev1.PodTemplateSpec
	Replicas *int32
	// Revision is that of the template, as the pods which are up to date have it in a label;
	// empty when it is not known, or the template has not been acted on yet.
	Revision string

	// Causes are what events say of a StatefulSet that cannot make a pod, the newest first.
	Causes []string

	revisionLabel string
	conditions    []appsv1.DeploymentCondition
}

// Of returns the workload that an object is, or nil if it is none.
func Of(object client.Object) *Workload {
	switch o := object.(type) {
	case *appsv1.Deployment:
		return &Workload{
			Object: o, Kind: "Deployment", Template: &o.Spec.Template, Replicas: o.Spec.Replicas,
			revisionLabel: appsv1.DefaultDeploymentUniqueLabelKey, conditions: o.Status.Conditions,
		}
	case *appsv1.StatefulSet:
		w := &Workload{
			Object: o, Kind: "StatefulSet", Template: &o.Spec.Template, Replicas: o.Spec.Replicas,
			revisionLabel: appsv1.StatefulSetRevisionLabel,
		}
		if o.Status.ObservedGeneration == o.Generation {
			w.Revision = o.Status.UpdateRevision
		}
		return w
	default:
		return nil
	}
}

// newObject is an empty object of the kind that runs the nodes of a Vault.
func newObject(vault *v1alpha1.Vault) client.Object {
	if vault.HasRaft() {
		return &appsv1.StatefulSet{}
	}
	return &appsv1.Deployment{}
}

// Get reads what runs the nodes of a Vault. It returns nil when there is nothing yet, and
// does not look for the revision.
func Get(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (*Workload, error) {
	object := newObject(vault)
	if err := reader.Get(ctx, client.ObjectKeyFromObject(vault), object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return Of(object), nil
}

// Rendered is what the manifests have to run the nodes of a Vault, or nil.
func Rendered(objects manifests.Manifests, vault *v1alpha1.Vault) (*Workload, error) {
	object := newObject(vault)
	if found, err := objects.Find(Of(object).Kind, vault.Name, object); err != nil || !found {
		return nil, err
	}
	return Of(object), nil
}

// RevisionAnnotation is on a Deployment and on the ReplicaSets it made.
const RevisionAnnotation = "deployment.kubernetes.io/revision"

// GetWithRevision reads what runs the nodes of a Vault, as Get does, and the revision.
func GetWithRevision(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (*Workload, error) {
	w, err := Get(ctx, reader, vault)
	if err != nil || w == nil {
		return nil, err
	}
	deployment, ok := w.Object.(*appsv1.Deployment)
	if !ok || deployment.Status.ObservedGeneration != deployment.Generation {
		return w, nil // a StatefulSet tells it, and a Deployment has it when it has seen the last change
	}
	sets, err := ReplicaSets(ctx, reader, vault)
	if err != nil {
		return nil, err
	}
	for i := range sets {
		set := &sets[i]
		if metav1.IsControlledBy(set, deployment) &&
			set.Annotations[RevisionAnnotation] == deployment.Annotations[RevisionAnnotation] {
			w.Revision = set.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
			break
		}
	}
	return w, nil
}

// ReplicaSets are those by which a Deployment runs the nodes of a Vault, of any template.
func ReplicaSets(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) ([]metav1.PartialObjectMetadata, error) {
	var sets metav1.PartialObjectMetadataList
	sets.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("ReplicaSetList"))
	inNamespace, ofVault := client.InNamespace(vault.Namespace), client.MatchingLabels(vault.PodLabels())
	if err := reader.List(ctx, &sets, inNamespace, ofVault); err != nil {
		return nil, fmt.Errorf("listing the ReplicaSets of Vault %s: %w", vault.Name, err)
	}
	return sets.Items, nil
}

// Generation is the metadata.generation of the Vault whose spec it was rendered from.
func (w *Workload) Generation() string { return w.GetAnnotations()[v1alpha1.GenerationAnnotation] }

// Version is the spec.version that it was rendered from.
func (w *Workload) Version() string { return w.GetAnnotations()[v1alpha1.VersionAnnotation] }

// Updated says that a pod is of the template.
func (w *Workload) Updated(pod *corev1.Pod) bool {
	return w.Revision != "" && pod.Labels[w.revisionLabel] == w.Revision
}

// Recreates says that all pods of an older template have to end before one of a newer is made.
func (w *Workload) Recreates() bool {
	deployment, ok := w.Object.(*appsv1.Deployment)
	return ok && deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
}

// Failure is why a pod cannot be made.
type Failure struct {
	Reason, Message string
	// Resource is what "kubectl describe" tells more of.
	Resource string
}

// Failure returns why pods of the template cannot be made, for example because of a
// quota, or nil. A Deployment has the failure of an older ReplicaSet as well, whose pods the
// message names.
func (w *Workload) Failure() *Failure {
	if len(w.Causes) > 0 {
		return &Failure{"FailedCreate", w.Causes[0], "statefulset"}
	}
	for i := range w.conditions {
		c := &w.conditions[i]
		if c.Type != appsv1.DeploymentReplicaFailure || c.Status != corev1.ConditionTrue {
			continue
		}
		ofSet := `"` + w.GetName() + "-"
		if w.Revision != "" && strings.Contains(c.Message, ofSet) && !strings.Contains(c.Message, ofSet+w.Revision+"-") {
			continue
		}
		return &Failure{c.Reason, c.Message, "replicaset"}
	}
	return nil
}
