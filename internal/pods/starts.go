package pods

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// startingFor is how long a container may run before it is expected to answer.
const startingFor = 30 * time.Second

// Starts tells which Vault containers run for so short a time that they need not
// answer yet. The kubelet's times are by the clock of another Kubernetes node, so
// what counts is when this process has first seen a container run.
type Starts struct {
	mu     sync.Mutex
	vaults map[types.NamespacedName]map[start]time.Time
}

// start is one start of the container of a pod.
type start struct {
	pod       types.UID
	container string
}

// Observe takes note of the pods of a Vault, and returns which of them are
// starting. Those that listen already, as the kubelet says, are not. Without pods
// the Vault is forgotten.
func (s *Starts) Observe(vault types.NamespacedName, list []corev1.Pod, now time.Time) map[types.UID]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[start]time.Time{}
	starting := map[types.UID]bool{}
	for i := range list {
		pod := &list[i]
		if !Running(pod) {
			continue
		}
		key := start{pod.UID, Container(pod)}
		first, known := s.vaults[vault][key]
		if !known {
			first = now
		}
		seen[key] = first
		listens := vaultContainer(pod).Started
		starting[pod.UID] = now.Sub(first) < startingFor && (listens == nil || !*listens)
	}
	if len(seen) == 0 {
		delete(s.vaults, vault)
		return starting
	}
	if s.vaults == nil {
		s.vaults = map[types.NamespacedName]map[start]time.Time{}
	}
	s.vaults[vault] = seen
	return starting
}

// LastFailure is what a container said last when it failed at its last start, or nothing: when it
// did not fail, and when it has started since, whatever it said before.
func LastFailure(container *corev1.ContainerStatus) string {
	if container.State.Running != nil && container.Started != nil && *container.Started {
		return ""
	}
	ended := container.State.Terminated
	if ended == nil {
		ended = container.LastTerminationState.Terminated
	}
	if ended == nil || ended.ExitCode == 0 {
		return ""
	}
	return ended.Message
}
