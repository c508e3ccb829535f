package vaultstatus

import (
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/etcd"
)

// storage is what is known of the etcd members of a Vault.
type storage struct {
	members, quorum int
	// missing are the members that are not ready, each with the reason if there
	// is one.
	missing []string
	// full says that etcd refuses to write.
	full bool
}

// storageOf returns nil while there is no storage.
func storageOf(f *facts) *storage {
	if f.etcd == nil || f.etcd.Spec.Replicas == nil {
		return nil
	}
	pods := map[string]*corev1.Pod{}
	for i := range f.members {
		pods[f.members[i].Name] = &f.members[i]
	}
	members := int(*f.etcd.Spec.Replicas)
	s := &storage{members: members, quorum: members/2 + 1, full: f.alarm == etcd.NoSpace}
	for i := range members {
		name := fmt.Sprintf("%s-%d", f.vault.EtcdName(), i)
		if pod := pods[name]; pod == nil || !ready(pod) {
			s.missing = append(s.missing, name+whyNotReady(pod))
		}
	}
	return s
}

func (s *storage) hasQuorum() bool { return s.members-len(s.missing) >= s.quorum }

// storageHint says that the storage may be why nodes are not as they should.
func storageHint(f *facts) string {
	if s := storageOf(f); s != nil && (!s.hasQuorum() || s.full) {
		return "; the storage is not ready, see the condition " + v1alpha1.StorageReadyCondition
	}
	return ""
}

func storageReady(f *facts, _ *v1alpha1.VaultStatus) metav1.Condition {
	const t = v1alpha1.StorageReadyCondition
	s := storageOf(f)
	if s == nil {
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNotObserved, "The etcd StatefulSet %q does not exist yet", f.vault.EtcdName())
	}
	ready := s.members - len(s.missing)
	switch old := meta.FindStatusCondition(f.previous.Conditions, t); {
	case s.hasQuorum() && s.full:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonNoSpace,
			"etcd has used up the space that its volumes allow: Vault can read and delete, but not write, and no other node can become active. "+
				"Delete what is not needed, then have etcd compacted, defragmented and its alarm disarmed")
	case len(s.missing) == 0:
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonQuorum, "%d of %d etcd members are ready", ready, s.members)
	case s.hasQuorum():
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonMembersNotReady, "%d of %d etcd members are ready, which is enough; not ready: %s", ready, s.members, join(s.missing))
	case old == nil || old.Status == metav1.ConditionUnknown:
		// Members that start for the first time are not a failure.
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNodesStarting, "%d of %d etcd members are ready, %d are needed", ready, s.members, s.quorum)
	default:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonNoQuorum, "%d of %d etcd members are ready, %d are needed; not ready: %s", ready, s.members, s.quorum, join(s.missing))
	}
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// etcdError is in the line of the log with which etcd ends.
var etcdError = regexp.MustCompile(`"level":"fatal".*"error":"([^"]*)"`)

// whyNotReady says in brackets what keeps a member from being ready, as far as
// its pod tells: what etcd said when it ended, or why it was not started.
func whyNotReady(pod *corev1.Pod) string {
	if pod == nil {
		return " (it has no pod)"
	}
	for _, container := range pod.Status.ContainerStatuses {
		if container.Started != nil && *container.Started {
			continue // how it ended before it started has been overcome
		}
		for _, state := range []corev1.ContainerState{container.State, container.LastTerminationState} {
			if state.Terminated != nil {
				if match := etcdError.FindStringSubmatch(state.Terminated.Message); match != nil {
					return " (" + match[1] + ")"
				}
			}
		}
		if waiting := container.State.Waiting; waiting != nil && waiting.Reason != "" {
			return " (" + waiting.Reason + ")"
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return " (" + condition.Reason + ": " + condition.Message + ")"
		}
	}
	return ""
}
