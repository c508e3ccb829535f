package seal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/postrender"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/manifests"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// volume is the volume of the pods with all that is about the seal.
const volume = "seal"

// stanzas is the argument by which Vault reads them from there.
const stanzas = "-config=/vault/seal/seal.hcl"

// TemplateGate returns a post-renderer that changes nothing. While nodes that start could
// not unseal themselves it refuses manifests that would end nodes which are unsealed.
func TemplateGate(reader client.Reader, vault client.ObjectKey) postrender.PostRenderer {
	return manifests.Gate(reader, vault,
		func(ctx context.Context, vault *v1alpha1.Vault, objects manifests.Manifests) error {
			rendered, err := workload.Rendered(objects, vault)
			if err != nil || rendered == nil {
				return err
			}
			living, err := workload.Get(ctx, reader, vault)
			if err != nil || living == nil {
				return err
			}
			down, err := isDown(ctx, reader, vault)
			if err != nil {
				return err
			}
			return templateRefusal(vault, rendered, living, down)
		})
}

// isDown says that nodes of the living pod template are known, and that none of them is
// unsealed, by what it says or by what the kubelet does. Another template then ends nothing
// but these: the Deployment keeps the older nodes until a new one is ready, or has with the
// first that is not ready taken as many away as it may.
func isDown(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (bool, error) {
	nodes := &vault.Status.VaultStatus
	unsealed := append(slices.Concat(nodes.Standby, nodes.ActiveClaims), nodes.Active)
	list, err := pods.List(ctx, reader, vault)
	if err != nil {
		return false, err
	}
	for i := range list {
		if pods.Ready(&list[i]) {
			unsealed = append(unsealed, list[i].Name)
		}
	}
	updated := vault.Status.UpdatedNodes
	return len(updated) > 0 && !slices.ContainsFunc(updated, func(name string) bool {
		return slices.Contains(unsealed, name)
	}), nil
}

// errUnobserved is for a status that this operator has not written yet.
var errUnobserved = errors.New("no node is replaced or taken away before the condition SealReady says whether " +
	"another could unseal itself")

// templateRefusal is why the rendered workload must not take the place of the living one
// now, or nil. Down says that no node of the living one's template is unsealed, so that the
// change may be what brings them back, such as the one before undone.
func templateRefusal(vault *v1alpha1.Vault, rendered, living *workload.Workload, down bool) error {
	// What would fix a seal of the user's own configuration cannot be told from the rest.
	if living.Template.Annotations[v1alpha1.SealAnnotation] == "" {
		return nil
	}
	condition := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.SealReadyCondition)
	switch {
	case condition == nil:
		// To wait costs moments, and not to wait may cost the last unsealed node.
	case !vault.Status.Initialized || !Fails(condition):
		// Also while it is Unknown: then no node tells anything, such as when none can be
		// started with the spec as it is, and the change may be what brings them back.
		return nil
	}
	ends, err := endsNodes(rendered, living, condition != nil && down)
	switch {
	case err != nil || !ends:
		return err
	case condition == nil:
		return errUnobserved
	default:
		return fmt.Errorf("no node is replaced or taken away while another could not unseal itself "+
			"(SealReady is False, %s): waiting for the key service, or for a change of spec.seal alone", condition.Reason)
	}
}

// Fails says that a condition SealReady is about the key service, and not about the spec or
// its Secrets, with which nothing is deployed anyway.
func Fails(condition *metav1.Condition) bool {
	return condition != nil && condition.Status == metav1.ConditionFalse && !slices.Contains(Stalls, condition.Reason)
}

// Differs says that two pods have another seal, or other credentials for it.
func Differs(a, b *corev1.PodSpec) bool {
	return !equality.Semantic.DeepEqual(volumeOf(a), volumeOf(b))
}

// volumeOf is the volume with all that is about the seal, or nil.
func volumeOf(pod *corev1.PodSpec) *corev1.Volume {
	for i := range pod.Volumes {
		if pod.Volumes[i].Name == volume {
			return &pod.Volumes[i]
		}
	}
	return nil
}

// endsNodes says that pods would be replaced, or be fewer, for something else than the seal.
// Those of a template that is down may be replaced.
func endsNodes(rendered, living *workload.Workload, down bool) (bool, error) {
	if rendered.Replicas != nil && living.Replicas != nil && *rendered.Replicas < *living.Replicas {
		return true, nil
	}
	if down {
		return false, nil
	}
	want, err := withoutSeal(rendered.Template)
	if err != nil {
		return false, err
	}
	have, err := withoutSeal(living.Template)
	if err != nil {
		return false, err
	}
	return !within(want, have), nil
}

// withoutSeal is a pod template without what is about the seal, as it is in JSON.
func withoutSeal(template *corev1.PodTemplateSpec) (map[string]any, error) {
	result := template.DeepCopy()
	delete(result.Annotations, v1alpha1.SealAnnotation)
	result.Spec.Volumes = slices.DeleteFunc(result.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume })
	for i := range result.Spec.Containers {
		container := &result.Spec.Containers[i]
		container.VolumeMounts = slices.DeleteFunc(container.VolumeMounts,
			func(m corev1.VolumeMount) bool { return m.Name == volume })
		if container.Name != v1alpha1.VaultContainer {
			continue
		}
		for j := range container.Command {
			container.Command[j] = withoutEnvironment(container.Command[j])
		}
		container.Args = slices.DeleteFunc(container.Args, func(arg string) bool { return arg == stanzas })
		container.TerminationMessagePolicy = ""
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(result)
}

// withoutEnvironment is the script that starts Vault without the part in which it drops what
// Vault would take instead of the seal: that is another one with another key service.
func withoutEnvironment(script string) string {
	before, rest, found := strings.Cut(script, "# Vault would take these instead of what spec.seal says.\n")
	if !found {
		return script
	}
	_, after, _ := strings.Cut(rest, "stop() {")
	return before + "stop() {" + after
}

// within says that all of the rendered value is in the living one, lists in the same order.
// The living one may have more: the API server fills in defaults, and kubectl, webhooks and
// others add annotations, variables, containers and the like, which Helm leaves alone. So
// nothing is found of a change that only takes something away.
func within(rendered, living any) bool {
	switch rendered := rendered.(type) {
	case map[string]any:
		other, ok := living.(map[string]any)
		for key, value := range rendered {
			ok = ok && within(value, other[key])
		}
		return ok
	case []any:
		rest, _ := living.([]any)
		for _, value := range rendered {
			at := slices.IndexFunc(rest, func(item any) bool { return within(value, item) })
			if at < 0 {
				return false
			}
			rest = rest[at+1:]
		}
		return true
	default:
		return rendered == living
	}
}
