package routing

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/vault-operator/vault-operator/internal/pods"
)

// vouchers remember of which pods this replica has taken the label, and whether
// it came back: then another replica can reach the node.
type vouchers struct {
	mu sync.Mutex
	// taken has the resourceVersion that a pod had when it had just lost the label.
	taken map[types.NamespacedName]map[types.UID]string
}

// take notes that the pod has lost the label, in this version of it.
func (v *vouchers) take(vault types.NamespacedName, pod *corev1.Pod) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.taken == nil {
		v.taken = map[types.NamespacedName]map[types.UID]string{}
	}
	if v.taken[vault] == nil {
		v.taken[vault] = map[types.UID]string{}
	}
	v.taken[vault][pod.UID] = pod.ResourceVersion
}

// give notes that this replica gives the label back itself.
func (v *vouchers) give(vault types.NamespacedName, uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.taken[vault], uid)
}

// vouched returns the pods that have the label back. What was taken from a pod
// that is gone, or is not to be kept in mind, is forgotten.
func (v *vouchers) vouched(
	vault types.NamespacedName, list []corev1.Pod, keep func(types.UID) bool,
) map[types.UID]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.taken[vault]
	delete(v.taken, vault)
	result := map[types.UID]bool{}
	for i := range list {
		pod := &list[i]
		version, taken := before[pod.UID]
		if !taken || !keep(pod.UID) {
			continue
		}
		if v.taken[vault] == nil {
			v.taken[vault] = map[types.UID]string{}
		}
		v.taken[vault][pod.UID] = version
		order, err := resourceversion.CompareResourceVersion(pod.ResourceVersion, version)
		result[pod.UID] = pods.Labelled(pod) && err == nil && order > 0
	}
	return result
}

func (v *vouchers) forget(vault types.NamespacedName) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.taken, vault)
}
