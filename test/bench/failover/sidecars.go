package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	roleLabel = "kubevault.com/role"
	// rolePeriod is the sidecar's default.
	rolePeriod = 10 * time.Second
	// roleTimeout is how long it waits for a response. What the original waits is
	// not public.
	roleTimeout = time.Second
)

// sidecars stand in for the sidecar in each pod of KubeVault that reads the role of
// the Vault beside it, and writes it to the label of its pod. They write
// nothing while their node is cut off, as one on that node could not.
type sidecars struct {
	mu  sync.Mutex
	cut string
}

// nodeIsCut says which node is cut off; none when it is empty.
func (c *sidecars) nodeIsCut(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = node
}

func (c *sidecars) isCut(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut == node
}

// run runs a sidecar for each pod, from when it is first seen.
func (c *sidecars) run(ctx context.Context, b *bench, s *set) {
	running := map[types.UID]context.CancelFunc{}
	for ctx.Err() == nil {
		pods, err := b.podsOf(ctx, s)
		if err == nil {
			c.follow(ctx, b, s, pods, running)
		}
		_ = sleep(ctx, time.Second) // the loop ends with the context
	}
}

func (c *sidecars) follow(ctx context.Context, b *bench, s *set, pods []corev1.Pod,
	running map[types.UID]context.CancelFunc) {
	there := map[types.UID]bool{}
	for _, pod := range pods {
		if pod.Status.PodIP == "" {
			continue
		}
		there[pod.UID] = true
		if running[pod.UID] == nil {
			sidecar, cancel := context.WithCancel(ctx)
			running[pod.UID] = cancel
			go c.sidecar(sidecar, b, s, pod)
		}
	}
	for uid, cancel := range running {
		if !there[uid] {
			cancel()
			delete(running, uid)
		}
	}
}

func (c *sidecars) sidecar(ctx context.Context, b *bench, s *set, pod corev1.Pod) {
	ticker := time.NewTicker(rolePeriod)
	defer ticker.Stop()
	last := ""
	for {
		role := roleOf(ctx, b, s, pod)
		if role != last && !c.isCut(pod.Spec.NodeName) && ctx.Err() == nil && labelRole(ctx, b, pod, role) == nil {
			last = role
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func roleOf(ctx context.Context, b *bench, s *set, pod corev1.Pod) string {
	ctx, cancel := context.WithTimeout(ctx, roleTimeout)
	defer cancel()
	health, err := b.health(ctx, s, pod)
	switch {
	case err != nil || !health.Initialized || health.Sealed:
		return ""
	case health.Standby:
		return "standby"
	default:
		return "primary"
	}
}

// labelRole sets the label, or removes it when there is no role.
func labelRole(ctx context.Context, b *bench, pod corev1.Pod, role string) error {
	value := &role
	if role == "" {
		value = nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]*string{roleLabel: value}}})
	if err != nil {
		return err
	}
	return b.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
}
