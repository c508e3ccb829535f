package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/postrender"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/manifests"
)

// TemplateGate returns a post-renderer that changes nothing. It refuses manifests
// that would replace etcd pods while a member is not ready: the StatefulSet
// controller begins with the member of the highest number, ready or not, and would
// take the quorum away.
// https://github.com/kubernetes/kubernetes/issues/67250
func TemplateGate(reader client.Reader, vault client.ObjectKey) postrender.PostRenderer {
	return manifests.Gate(reader, vault,
		func(ctx context.Context, vault *v1alpha1.Vault, rendered manifests.Manifests) error {
			set := &appsv1.StatefulSet{}
			if found, err := rendered.Find("StatefulSet", vault.EtcdName(), set); err != nil || !found {
				return err
			}
			s, err := Load(ctx, reader, vault)
			if err != nil {
				return err
			}
			return s.templateRefusal(set)
		})
}

// templateRefusal is why the pods must not be replaced by those of the rendered
// StatefulSet now, or nil. An etcd that was never ready has nothing to lose.
func (s *State) templateRefusal(rendered *appsv1.StatefulSet) error {
	if s.Set == nil || len(s.Vault.StorageVolumes()) == 0 {
		return nil
	}
	if same, err := sameTemplate(&rendered.Spec.Template.Spec, &s.Set.Spec.Template.Spec); same || err != nil {
		return err
	}
	var away []string
	layout := s.layout()
	for ordinal := range layout.wanted {
		pod := s.member(ordinal)
		if pod != nil && Ready(pod) {
			continue
		}
		if pod != nil && s.fixes(pod, rendered) {
			return nil
		}
		away = append(away, layout.member(ordinal))
	}
	if len(away) == 0 {
		return nil
	}
	return fmt.Errorf("the etcd pods are not replaced while a member is not ready, which could cost the quorum: "+
		"waiting for %s", strings.Join(away, ", "))
}

// fixes says that the rendered pods may be what the member that is not ready needs:
// its pod is of the newest template while older ones are left, or cannot start for
// something that the rendered template changes.
func (s *State) fixes(pod *corev1.Pod, rendered *appsv1.StatefulSet) bool {
	status := &s.Set.Status
	if status.CurrentRevision != status.UpdateRevision &&
		pod.Labels[appsv1.StatefulSetRevisionLabel] == status.UpdateRevision {
		return true
	}
	why := failure(pod)
	imageChanges := image(&rendered.Spec.Template.Spec) != image(&s.Set.Spec.Template.Spec)
	return why != "" && (imageFailure(why) && imageChanges || why == corev1.PodReasonUnschedulable && !imageChanges)
}

func image(spec *corev1.PodSpec) string {
	if len(spec.Containers) == 0 {
		return ""
	}
	return spec.Containers[0].Image
}

// sameTemplate says that the living pod template is the rendered one, with what the
// API server has filled in.
func sameTemplate(rendered, living *corev1.PodSpec) (bool, error) {
	want, err := runtime.DefaultUnstructuredConverter.ToUnstructured(rendered)
	if err != nil {
		return false, err
	}
	have, err := runtime.DefaultUnstructuredConverter.ToUnstructured(living)
	if err != nil {
		return false, err
	}
	// What is missing from the rendered one may have a default, so that what a user
	// can take away is compared by itself.
	return within(want, have) && equality.Semantic.DeepEqual(removable(rendered), removable(living)), nil
}

// within says that all of the first value is in the second.
func within(want, have any) bool {
	switch want := want.(type) {
	case map[string]any:
		other, ok := have.(map[string]any)
		for key, value := range want {
			ok = ok && within(value, other[key])
		}
		return ok || len(want) == 0
	case []any:
		other, ok := have.([]any)
		ok = ok && len(want) == len(other)
		for i := range want {
			ok = ok && within(want[i], other[i])
		}
		return ok || len(want) == 0
	default:
		return want == have
	}
}

// removable are the fields that are missing when the user does not set them.
func removable(spec *corev1.PodSpec) corev1.PodSpec {
	result := corev1.PodSpec{
		NodeSelector: spec.NodeSelector, Affinity: spec.Affinity, Tolerations: spec.Tolerations,
		TopologySpreadConstraints: spec.TopologySpreadConstraints, PriorityClassName: spec.PriorityClassName,
		ImagePullSecrets: slices.Clone(spec.ImagePullSecrets),
	}
	for _, container := range spec.Containers {
		result.Containers = append(result.Containers, corev1.Container{Resources: container.Resources})
	}
	return result
}
