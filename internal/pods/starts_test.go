package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// The kubelet's clock may be anywhere: only what this process sees counts.
func TestStarts(t *testing.T) {
	vault := types.NamespacedName{Namespace: "default", Name: "example"}
	for name, clock := range map[string]time.Duration{"right": 0, "an hour ahead": time.Hour,
		"an hour behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			started := metav1.NewTime(begin.Add(clock))
			container := corev1.ContainerStatus{
				Name: v1alpha1.VaultContainer, ContainerID: "containerd://1",
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
			}
			pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "a"}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}}
			var s Starts
			starting := func(after time.Duration) bool {
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{container}
				return s.Observe(vault, []corev1.Pod{pod}, begin.Add(after))["a"]
			}
			if !starting(0) || !starting(startingFor-time.Second) || starting(startingFor) {
				t.Error("a container does not start for half a minute")
			}
			container.ContainerID, container.RestartCount = "containerd://2", 1
			if !starting(time.Hour) || starting(time.Hour+startingFor) {
				t.Error("another start of the container does not count anew")
			}
			container.RestartCount = 2
			container.Started = new(true)
			if starting(2 * time.Hour) {
				t.Error("a container that listens is starting")
			}
			container.State = corev1.ContainerState{}
			if starting(3*time.Hour) || len(s.vaults) != 0 {
				t.Error("a container that does not run is starting, or remembered")
			}
		})
	}
}
