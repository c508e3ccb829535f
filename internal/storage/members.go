package storage

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/internal/pods"
)

// failure is the reason why the pod of a member cannot start, or nothing. It is the
// same at each attempt of the kubelet, so that a status rests between them.
func failure(pod *corev1.Pod) string {
	if scheduled := condition(pod, corev1.PodScheduled); scheduled != nil && scheduled.Status == corev1.ConditionFalse {
		return scheduled.Reason
	}
	for _, container := range pod.Status.ContainerStatuses {
		waiting := container.State.Waiting
		if waiting == nil {
			continue
		}
		switch waiting.Reason {
		case "", "ContainerCreating", "PodInitializing":
		case "ErrImagePull":
			return "ImagePullBackOff" // which comes between the attempts
		default:
			return waiting.Reason
		}
	}
	return ""
}

// etcdError is in the line of the log with which etcd ends.
var etcdError = regexp.MustCompile(`(?:"level":"fatal"|"msg":"failed to verify flags").*"error":"((?:[^"\\]|\\.)*)"`)

// whyEnded is what etcd said when the container ended before it had started.
func whyEnded(pod *corev1.Pod) string {
	for _, container := range pod.Status.ContainerStatuses {
		if container.Started != nil && *container.Started {
			continue // how it ended before it started has been overcome
		}
		for _, state := range []corev1.ContainerState{container.State, container.LastTerminationState} {
			if state.Terminated == nil {
				continue
			}
			if match := etcdError.FindStringSubmatch(state.Terminated.Message); match != nil {
				return strings.ReplaceAll(match[1], `\"`, `"`)
			}
		}
	}
	return ""
}

// settled is how long a pod may be without a Kubernetes node, or not be made, before that
// is a failure: a volume is made for it meanwhile.
const settled = 10 * time.Second

// Member is what is said of a member that is not ready.
type Member struct {
	Name string
	// Why is the reason, if there is one.
	Why string
	// Failing says that the member does not start by itself.
	Failing bool
}

// Missing are the members that are not ready. What is known of a pod that is not made
// or of a claim that is not bound is what causes tells of the object.
func (s *State) Missing(now time.Time, causes func(types.UID) []string) []Member {
	var missing []Member
	layout := s.layout()
	for ordinal := range layout.wanted {
		pod := s.member(ordinal)
		if pod != nil && Ready(pod) {
			continue
		}
		member := s.missing(ordinal, pod, now, causes)
		member.Name = layout.member(ordinal)
		if claim := layout.claim(ordinal); slices.Contains(s.Lost(), claim) {
			member.Why = strings.TrimPrefix(member.Why+"; its volume of claim "+claim+" is lost", "; ")
		}
		missing = append(missing, member)
	}
	return missing
}

func (s *State) missing(ordinal int, pod *corev1.Pod, now time.Time, causes func(types.UID) []string) Member {
	if pod == nil {
		name := s.layout().member(ordinal)
		for _, message := range causes(s.Set.UID) {
			if strings.Contains(message, name) {
				return Member{Why: "it has no pod: " + message, Failing: true}
			}
		}
		return Member{Why: "it has no pod"}
	}
	if said := whyEnded(pod); said != "" {
		return Member{Why: said, Failing: true}
	}
	if scheduled := condition(pod, corev1.PodScheduled); scheduled != nil && scheduled.Status == corev1.ConditionFalse {
		why := scheduled.Reason + ": " + scheduled.Message
		if claim := s.Claims[ordinal]; claim != nil && !bound(claim) {
			why = "unbound claim " + claim.Name
			if messages := causes(claim.UID); len(messages) > 0 {
				why += ": " + messages[0]
			} else {
				why += ": " + scheduled.Message
			}
		}
		return Member{Why: why, Failing: now.Sub(scheduled.LastTransitionTime.Time) >= settled}
	}
	if why := failure(pod); why != "" {
		return Member{Why: why, Failing: true}
	}
	for _, container := range pod.Status.ContainerStatuses {
		if container.State.Waiting != nil {
			return Member{Why: container.State.Waiting.Reason}
		}
	}
	return Member{}
}

// Unexplained are the objects whose events may tell Missing why a member is missing.
func (s *State) Unexplained() []types.UID {
	var uids []types.UID
	for ordinal := range s.layout().wanted {
		pod, claim := s.member(ordinal), s.Claims[ordinal]
		switch {
		case s.Set == nil:
		case pod == nil:
			uids = append(uids, s.Set.UID)
		case claim != nil && !bound(claim) && !Ready(pod):
			uids = append(uids, claim.UID)
		}
	}
	return uids
}

// Shared says which of the pods run on the same Kubernetes node; it is empty when
// each has its own.
func Shared(list []corev1.Pod) string {
	on := map[string][]string{}
	for i := range list {
		pod := &list[i]
		if pod.Spec.NodeName != "" && !pods.Terminating(pod) && !pods.Ended(pod) {
			on[pod.Spec.NodeName] = append(on[pod.Spec.NodeName], pod.Name)
		}
	}
	var shared []string
	for _, node := range slices.Sorted(maps.Keys(on)) {
		if len(on[node]) > 1 {
			shared = append(shared, fmt.Sprintf("%s share Kubernetes node %s", strings.Join(on[node], ", "), node))
		}
	}
	return strings.Join(shared, "; ")
}

// Rollout is what is left of the rollout of a change of the etcd pods.
type Rollout struct {
	// Pending says that the StatefulSet controller has not seen the change yet.
	Pending bool
	// Failing are the members of the new template that cannot start, with the reason;
	// Starting are those that are on the way, Old those that are to be replaced.
	Failing, Starting, Old []string
	// Progress is when a member was last made or has become ready, as far as is known.
	Progress time.Time
}

// Rollout compares the pods of etcd with the template that is deployed; it is nil
// when the pods are of it, or etcd starts for the first time. What happens to members after a
// rollout has ended is no rollout.
func (s *State) Rollout(ended bool) *Rollout {
	if s.Set == nil || s.Set.Status.ObservedGeneration == 0 && len(s.Vault.StorageVolumes()) == 0 {
		return nil
	}
	if s.Set.Status.ObservedGeneration != s.Set.Generation {
		return &Rollout{Pending: true}
	}
	r, layout := &Rollout{}, s.layout()
	for ordinal := range layout.wanted {
		name, pod := layout.member(ordinal), s.member(ordinal)
		switch {
		case pod == nil:
			r.Starting = append(r.Starting, name)
		case pod.Labels[appsv1.StatefulSetRevisionLabel] != s.Set.Status.UpdateRevision:
			r.Old = append(r.Old, name)
			continue
		case Ready(pod):
		case failure(pod) != "" || whyEnded(pod) != "":
			r.Failing = append(r.Failing, fmt.Sprintf("%s (%s)", name, cmp.Or(whyEnded(pod), failure(pod))))
		default:
			r.Starting = append(r.Starting, name)
		}
		r.Progress = latest(r.Progress, progress(pod))
	}
	away := len(r.Starting) + len(r.Failing)
	if len(r.Old) == 0 && (away == 0 || ended || len(s.Vault.StorageVolumes()) == 0) {
		return nil
	}
	return r
}

// progress is when the pod of a member was made, or has become ready.
func progress(pod *corev1.Pod) time.Time {
	if pod == nil {
		return time.Time{}
	}
	made := pod.CreationTimestamp.Time
	if ready := condition(pod, corev1.PodReady); ready != nil && ready.Status == corev1.ConditionTrue {
		return latest(made, ready.LastTransitionTime.Time)
	}
	return made
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
