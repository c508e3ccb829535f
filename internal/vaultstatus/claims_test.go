package vaultstatus

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
)

// claiming makes a pod wait for a volume of its own, since some time before now.
func claiming(since time.Duration) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Namespace = "default"
		pod.Spec.Volumes = []corev1.Volume{
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "audit", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		}
		pod.Status = corev1.PodStatus{Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
			LastTransitionTime: metav1.NewTime(now.Add(-since)),
		}}}
	}
}

// A pod whose volume cannot be made is one that cannot start, as soon as that has taken
// longer than it does.
func TestUnmadeVolumeOfAPod(t *testing.T) {
	const why = "unbound claim b-audit: StorageClass fast-typo not found"
	for name, tt := range map[string]struct {
		since   time.Duration
		why     string
		updated string
		says    string
	}{
		"being made":   {time.Second, "", "RollingOut", "starting: b;"},
		"tried once":   {time.Second, why, "RollingOut", "starting: b;"},
		"never made":   {time.Minute, why, "NodeFailing", "b (" + why + ")"},
		"no cause yet": {time.Minute, "", "NodeFailing", "b (Unschedulable)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := rollingOut().pod("a", probe.Active, ofTemplate("old")).
				pod("b", probe.Unknown, ofTemplate("new"), claiming(tt.since))
			s.unmade = map[types.UID]string{"b-uid": tt.why}
			status := compute(&s.facts)
			updated := meta.FindStatusCondition(status.Conditions, v1alpha1.UpdatedCondition)
			if updated.Reason != tt.updated || !strings.Contains(updated.Message, tt.says) {
				t.Errorf("Updated is %+v, want %s with %q", updated, tt.updated, tt.says)
			}
			unsealed := meta.FindStatusCondition(status.Conditions, v1alpha1.UnsealedCondition)
			if !strings.Contains(unsealed.Message, tt.why) {
				t.Errorf("Unsealed is %+v, which does not mention %q", unsealed, tt.why)
			}
			if next := s.nextCheck(&status); next != startingCheck {
				t.Errorf("it is looked at again after %s", next)
			}
		})
	}
	s := newSituation().pod("b", probe.Unknown, claiming(time.Minute))
	s.unmade = map[types.UID]string{"b-uid": why}
	status := compute(&s.facts)
	available := meta.FindStatusCondition(status.Conditions, v1alpha1.AvailableCondition)
	if available.Reason != v1alpha1.ReasonNodesStarting || !strings.Contains(available.Message, why) {
		t.Errorf("Available is %+v", available)
	}
}

func TestWhyAVolumeIsNotMade(t *testing.T) {
	event := func(about types.UID, kind, reason, message string) *corev1.Event {
		return &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: strings.ToLower(reason) + string(about)},
			InvolvedObject: corev1.ObjectReference{UID: about}, Type: kind, Reason: reason, Message: message,
			LastTimestamp: metav1.Now(),
		}
	}
	claim := func(phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b-audit", UID: "claim"},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: phase},
		}
	}
	typo := event("claim", corev1.EventTypeWarning, "ProvisioningFailed", `storageclass.storage.k8s.io "typo" not found`)
	scheduling := event("b-uid", corev1.EventTypeWarning, "FailedScheduling", "0/3 nodes are available")
	for name, tt := range map[string]struct {
		objects []client.Object
		want    string
	}{
		"no such class": {[]client.Object{claim(corev1.ClaimPending), typo, scheduling},
			"unbound claim b-audit: StorageClass typo not found"},
		"no default class": {[]client.Object{claim(corev1.ClaimPending), event("claim", corev1.EventTypeNormal,
			"FailedBinding", "no storage class is set")}, "unbound claim b-audit: no storage class is set"},
		"no room for the pod": {[]client.Object{claim(corev1.ClaimPending), scheduling, event("claim",
			corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer")}, ""},
		"bound":    {[]client.Object{claim(corev1.ClaimBound), typo, scheduling}, ""},
		"no claim": {[]client.Object{scheduling}, ""},
		"over quota": {[]client.Object{scheduling, event("b-uid", corev1.EventTypeWarning, "FailedBinding",
			"ephemeral volume audit: exceeded quota")}, "unbound claim b-audit: exceeded quota"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.objects...)
			s := newSituation().pod("b", probe.Unknown, claiming(time.Minute))
			f.gatherClaims(t.Context(), &s.facts)
			if got := s.unmade["b-uid"]; got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
