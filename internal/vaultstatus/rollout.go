package vaultstatus

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

// byTemplate returns the pods that are there to stay: those of the newest pod
// template and those of older ones. While the newest is not known it returns
// nothing.
func byTemplate(f *facts) (updated, old []*corev1.Pod) {
	if !templateKnown(f) {
		return nil, nil
	}
	for i := range f.pods {
		switch pod := &f.pods[i]; {
		case pods.Terminating(pod) || pods.Ended(pod):
		case f.workload.Updated(pod):
			updated = append(updated, pod)
		default:
			old = append(old, pod)
		}
	}
	return updated, old
}

// templateKnown says that it is known of which revision pods are that are up to date.
func templateKnown(f *facts) bool { return f.workload != nil && f.workload.Revision != "" }

// deployed says that what is deployed was rendered from the spec as it is now.
// What the Helm reconciler says of itself is no answer: what it
// changed may not have been seen here yet.
func deployed(f *facts) bool {
	generation := strconv.FormatInt(f.vault.Generation, 10)
	return f.storage.deployed && f.workload != nil && f.workload.Generation() == generation
}

// updated is about the rollout. The Deployment does it: it adds an updated node,
// waits until that is unsealed, takes an old one away, and so on.
func updated(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	for _, err := range []error{vaultversion.Check(&f.vault.Spec, status.DataVersion), f.storage.refusal, f.notGrown} {
		if wrong := problem.In(err); wrong != nil && wrong.Condition == v1alpha1.UpdatedCondition {
			return refused(wrong)
		}
	}
	if !deployed(f) {
		hint := ""
		if meta.IsStatusConditionTrue(f.vault.Status.Conditions, v1alpha1.IrreconcilableCondition) {
			hint = ": the condition Irreconcilable says why"
		}
		return isFalse(v1alpha1.ReasonReleasePending, "The spec is not deployed yet%s", hint)
	}
	if !templateKnown(f) {
		return isFalse(v1alpha1.ReasonRollingOut, "The %s has not been acted on yet", f.workload.Kind)
	}
	condition := rollout(f, status)
	// Nodes may not answer because the storage is being replaced.
	if storage := f.storage.rollout; storage != nil && condition.Status != metav1.ConditionFalse {
		return *storage
	}
	return condition
}

// progress are the updated nodes that are not unsealed, by what keeps them.
type progress struct {
	failing, silent, starting, sealed []string
}

func progressOf(f *facts, status *v1alpha1.VaultStatus, updated []*corev1.Pod) progress {
	states := map[string]v1alpha1.NodeState{}
	for _, node := range status.NodeStatuses {
		states[node.Name] = node.State
	}
	var p progress
	for _, pod := range updated {
		state := states[pod.Name]
		switch why := failure(f, pod, state); {
		case why != "":
			p.failing = append(p.failing, fmt.Sprintf("%s (%s)", pod.Name, why))
		case state == v1alpha1.NodeUnreachable, state == v1alpha1.NodeUnverified:
			p.silent = append(p.silent, pod.Name)
		case state == v1alpha1.NodeStarting:
			p.starting = append(p.starting, pod.Name)
		case f.observations[pod.UID].Removed:
			p.failing = append(p.failing, pod.Name+" (removed from the cluster: it needs an empty volume)")
		case state == v1alpha1.NodeSealed || state == v1alpha1.NodeUninitialized:
			p.sealed = append(p.sealed, pod.Name)
		}
	}
	if why := f.workload.Failure(); why != nil && int32(len(updated)) < f.vault.WantedNodes() {
		p.failing = append(p.failing,
			fmt.Sprintf("a pod that cannot be created (%s, see 'kubectl describe %s')", why.Reason, why.Resource))
	}
	return p
}

// rollout tells how far the rollout of what is deployed has come.
func rollout(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	updated, old := byTemplate(f)
	p := progressOf(f, status, updated)
	started := int32(len(updated)) >= f.vault.WantedNodes() && len(p.failing)+len(p.silent)+len(p.starting) == 0
	// Updated stays True once a rollout has completed: a later restart is no rollout.
	ended := meta.IsStatusConditionTrue(f.previous.Conditions, v1alpha1.UpdatedCondition)
	switch {
	case len(old) == 0 && (started || ended):
		return isTrue(v1alpha1.ReasonUpdated, "All nodes are of the pod template that the spec asks for")
	case len(p.failing) > 0:
		return isFalse(v1alpha1.ReasonNodeFailing, "No other node is replaced, because an updated one cannot start: %s. "+
			"'kubectl describe pod' and 'kubectl logs --previous' say more; setting the spec back undoes the change",
			join(p.failing))
	// Without an old node nothing waits for an updated one.
	case len(p.sealed) > 0 && len(old) > 0:
		return rolloutOfSealed(f, status, p.sealed)
	case len(p.silent) > 0:
		return isUnknown(v1alpha1.ReasonNodesUnreachable,
			"No answer from %s: the rollout does not go on until updated nodes answer and are unsealed", join(p.silent))
	default:
		waits := ""
		if f.vault.HasRaft() {
			waits = f.waiting()
		}
		return isFalse(v1alpha1.ReasonRollingOut, "%d of %d nodes are updated; starting: %s; to be replaced: %s%s",
			len(updated), f.vault.WantedNodes(), join(p.starting), join(namesOf(old)), waits)
	}
}

// rolloutOfSealed tells what a rollout waits for while updated nodes are sealed.
func rolloutOfSealed(f *facts, status *v1alpha1.VaultStatus, sealed []string) metav1.Condition {
	reason, hint := administratorsUnseal(f, status, sealed)
	switch {
	case !status.Initialized:
		return isFalse(v1alpha1.ReasonAwaitingInit, "%s", initHint(f, status))
	case reason != "":
		return isFalse(reason, "The rollout goes on when updated nodes are unsealed, %s", hint)
	case autoUnseals(f, status):
		return isFalse(v1alpha1.ReasonAwaitingAutoUnseal, "The rollout goes on when updated nodes have unsealed "+
			"themselves by the key service: %s", join(sealed))
	case f.vault.Spec.Unseal != nil:
		return isFalse(v1alpha1.ReasonAwaitingUnseal, "The rollout goes on when the operator has unsealed updated nodes, "+
			"see the condition %s: %s", v1alpha1.UnsealKeysValidCondition, join(sealed))
	default:
		return isFalse(v1alpha1.ReasonAwaitingUnseal,
			"The rollout goes on when updated nodes are unsealed, run 'vault operator unseal' on each: %s", join(sealed))
	}
}

// within returns those of the names that are among others.
func within(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(others, name) })
}

// failure says why the node of a pod cannot start, or nothing. It says the same
// at each attempt of the kubelet, so that the status rests between them.
func failure(f *facts, pod *corev1.Pod, state v1alpha1.NodeState) string {
	if state != v1alpha1.NodeStarting && state != v1alpha1.NodeUnreachable {
		return ""
	}
	if c := unscheduled(pod); c != nil && c.Reason == corev1.PodReasonUnschedulable {
		if len(claims(pod)) > 0 && f.now.Sub(c.LastTransitionTime.Time) < claimSettled {
			return ""
		}
		return cmp.Or(f.unmade[pod.UID], c.Reason)
	}
	for i := range pod.Status.ContainerStatuses {
		if why := containerFailure(&pod.Status.ContainerStatuses[i]); why != "" {
			return why
		}
	}
	return ""
}

func containerFailure(container *corev1.ContainerStatus) string {
	reason := ""
	if container.State.Waiting != nil {
		reason = container.State.Waiting.Reason
	}
	ended := container.State.Terminated
	if ended == nil {
		ended = container.LastTerminationState.Terminated
	}
	if ended != nil && (reason == "" || reason == "CrashLoopBackOff") {
		return strings.TrimSpace(fmt.Sprintf("exited with code %d %s", ended.ExitCode, ended.Reason))
	}
	switch reason {
	case "ContainerCreating", "PodInitializing":
		return ""
	case "ErrImagePull":
		return "ImagePullBackOff" // which comes between the attempts
	default:
		return reason
	}
}

func namesOf(list []*corev1.Pod) []string {
	var names []string
	for _, pod := range list {
		names = append(names, pod.Name)
	}
	return names
}
