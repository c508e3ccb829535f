package vaultstatus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/probe"
)

// newMembers are the first pods of an etcd, all of them ready.
func newMembers(ready int) []corev1.Pod {
	var members []corev1.Pod
	for i := range ready {
		members = append(members, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("example-etcd-%d", i)},
			Status: corev1.PodStatus{
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
				ContainerStatuses: []corev1.ContainerStatus{{Started: ptr(true)}},
			},
		})
	}
	return members
}

func TestStorageReady(t *testing.T) {
	tests := []struct {
		name     string
		was      metav1.ConditionStatus
		reason   string
		etcd     *appsv1.StatefulSet
		ready    int
		alarm    string
		broken   bool
		disagree string
		// volumes are the UIDs of the claims; those that were known are "old".
		volumes []string
		want    string
	}{
		{name: "no StatefulSet yet", want: "Unknown NotObserved"},
		{name: "a StatefulSet without replicas", etcd: &appsv1.StatefulSet{}, want: "Unknown NotObserved"},
		{name: "members that start for the first time are not a failure", etcd: newEtcd(3), want: "Unknown NodesStarting"},
		{
			name: "nor the next of them", was: metav1.ConditionUnknown, etcd: newEtcd(3), ready: 1,
			want: "Unknown NodesStarting",
		},
		{name: "2 of 3", was: metav1.ConditionUnknown, etcd: newEtcd(3), ready: 2, want: "True MembersNotReady"},
		{name: "3 of 3", etcd: newEtcd(3), ready: 3, want: "True Quorum"},
		{name: "1 of 1", etcd: newEtcd(1), ready: 1, want: "True Quorum"},
		{name: "3 of 5", etcd: newEtcd(5), ready: 3, want: "True MembersNotReady"},
		{name: "a quorum that was lost", was: metav1.ConditionTrue, etcd: newEtcd(3), ready: 1, want: "False NoQuorum"},
		{name: "0 of 3", was: metav1.ConditionFalse, etcd: newEtcd(3), want: "False NoQuorum"},
		{name: "0 of 1", was: metav1.ConditionTrue, etcd: newEtcd(1), want: "False NoQuorum"},
		{name: "2 of 5", was: metav1.ConditionTrue, etcd: newEtcd(5), ready: 2, want: "False NoQuorum"},
		{name: "no space", was: metav1.ConditionTrue, etcd: newEtcd(3), ready: 3, alarm: etcd.NoSpace, want: "False NoSpace"},
		{
			name: "no space, and no quorum to make any", was: metav1.ConditionFalse, etcd: newEtcd(3), ready: 1,
			alarm: etcd.NoSpace, want: "False NoQuorum",
		},
		{name: "members that cannot start for the first time", etcd: newEtcd(3), broken: true, want: "False MembersFailing"},
		{
			name: "nor later", was: metav1.ConditionFalse, reason: v1alpha1.ReasonMembersFailing, etcd: newEtcd(3),
			want: "Unknown NodesStarting",
		},
		{
			name: "members of two clusters", etcd: newEtcd(3), ready: 3, disagree: "a of a cluster of 1",
			want: "False MembersDisagree",
		},
		{
			name: "most volumes are new", etcd: newEtcd(3), ready: 3, volumes: []string{"new", "old", "new"},
			want: "False VolumesLost",
		},
		{
			name: "one volume is new", etcd: newEtcd(3), ready: 2, volumes: []string{"old", "old", "new"},
			want: "True MembersNotReady",
		},
		{name: "the only volume is new", etcd: newEtcd(1), volumes: []string{"new"}, want: "False VolumesLost"},
		{name: "volumes of another number of members", volumes: []string{"kept"}, want: "False VolumesMismatch"},
		{name: "an alarm of another kind", etcd: newEtcd(3), ready: 3, alarm: "X", want: "True Quorum"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSituation()
			s.set, s.members, s.alarm = tt.etcd, newMembers(tt.ready), tt.alarm
			if tt.etcd != nil {
				s.vault.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{Nodes: tt.etcd.Spec.Replicas}
			}
			if tt.was != "" {
				s.previous.Conditions = []metav1.Condition{
					{Type: v1alpha1.StorageReadyCondition, Status: tt.was, Reason: tt.reason},
				}
			}
			if tt.broken {
				pull := corev1.ContainerStatus{
					State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}},
				}
				s.members = []corev1.Pod{
					{
						ObjectMeta: metav1.ObjectMeta{Name: "example-etcd-0"},
						Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{pull}},
					},
				}
			}
			s.disagree = tt.disagree
			s.withVolumes(tt.etcd != nil, tt.volumes)
			if got := brief(compute(&s.facts).Conditions, v1alpha1.StorageReadyCondition); got != tt.want {
				t.Errorf("StorageReady is %q, want %q", got, tt.want)
			}
		})
	}
}

// TestVolumesGrow checks that StorageReady names the volumes that are not as large as the spec wants.
func TestVolumesGrow(t *testing.T) {
	sized := func(size string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
	s := newSituation()
	s.set, s.members = newEtcd(3), newMembers(3)
	s.set.Status.ObservedGeneration = 1
	s.set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
		Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: sized("2Gi")}},
	}}
	larger := resource.MustParse("4Gi")
	s.vault.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{Nodes: s.set.Spec.Replicas, VolumeSize: &larger}
	s.withVolumes(true, []string{"old", "old", "old"})
	for i, claim := range s.claims {
		claim.Spec.Resources.Requests, claim.Status.Capacity = sized("4Gi"), sized("4Gi")
		if i == 1 {
			claim.Status.Capacity = sized("2Gi")
		}
	}
	status := compute(&s.facts)
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.StorageReadyCondition)
	const want = "3 of 3 etcd members are ready; volumes are being made larger: data-example-etcd-1 (2Gi)"
	if ready == nil || ready.Status != metav1.ConditionTrue || ready.Message != want {
		t.Errorf("StorageReady is %+v, want %q", ready, want)
	}
	if status.Storage == nil || status.Storage.VolumeSize == nil || status.Storage.VolumeSize.String() != "2Gi" {
		t.Errorf("the storage is %+v", status.Storage)
	}
}

// withVolumes gives the members claims of these UIDs; those of a founded etcd were
// "old" before.
func (s *situation) withVolumes(founded bool, uids []string) {
	s.claims = map[int]*corev1.PersistentVolumeClaim{}
	for i, uid := range uids {
		name := s.vault.EtcdClaimName(i)
		s.claims[i] = &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}
		if founded {
			if s.previous.Storage == nil {
				s.previous.Storage = &v1alpha1.StorageStatus{}
			}
			s.previous.Storage.Volumes = append(s.previous.Storage.Volumes, v1alpha1.StorageVolume{Claim: name, UID: "old"})
		}
	}
	if !founded && len(uids) > 0 {
		s.vault.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{}
	}
}

// lostVolume is how etcd ends when it is started on an empty volume, cut as the
// kubelet cuts it.
const lostVolume = `tcdserver.NewServer\n\tserver.go:309"}
{"level":"fatal","ts":"2025-11-24T01:44:51.522324Z","caller":"etcdmain/etcd.go:183","msg":"discovery failed",` +
	`"error":"member 17bad4cb7ea34e77 has already been bootstrapped","stacktrace":"go.etcd.io/etcd"}
`

// TestMissingMembers checks what is said of a member that is not ready.
func TestMissingMembers(t *testing.T) {
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: lostVolume}}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	const lost = "example-etcd-1 (member 17bad4cb7ea34e77 has already been bootstrapped)"
	for name, test := range map[string]struct {
		container  corev1.ContainerStatus
		conditions []corev1.PodCondition
		want       string
	}{
		"it starts":    {container: corev1.ContainerStatus{State: running}, want: "example-etcd-1"},
		"it has ended": {container: corev1.ContainerStatus{State: ended}, want: lost},
		"it waits to start again": {
			container: corev1.ContainerStatus{State: waiting, LastTerminationState: ended}, want: lost,
		},
		"it has started again": {
			container: corev1.ContainerStatus{State: running, LastTerminationState: ended, Started: ptr(false)},
			want:      lost,
		},
		"it has overcome that": {
			container: corev1.ContainerStatus{State: running, LastTerminationState: ended, Started: ptr(true)},
			want:      "example-etcd-1",
		},
		"it ends without a word": {
			container: corev1.ContainerStatus{State: waiting}, want: "example-etcd-1 (CrashLoopBackOff)",
		},
		"no Kubernetes node for it": {
			conditions: []corev1.PodCondition{
				{
					Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable",
					Message: "0/3 nodes are available",
				},
			},
			want: "example-etcd-1 (Unschedulable: 0/3 nodes are available)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSituation()
			member := &s.members[1]
			member.Status.Conditions = slices.Concat(test.conditions,
				[]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}})
			member.Status.ContainerStatuses = []corev1.ContainerStatus{test.container}
			got := meta.FindStatusCondition(compute(&s.facts).Conditions, v1alpha1.StorageReadyCondition).Message
			if want := "2 of 3 etcd members are ready, which is enough; not ready: " + test.want; got != want {
				t.Errorf("message %q, want %q", got, want)
			}
		})
	}
	s := newSituation()
	s.members = s.members[2:]
	got := meta.FindStatusCondition(compute(&s.facts).Conditions, v1alpha1.StorageReadyCondition).Message
	if !strings.Contains(got, "1 of 3 etcd members are ready, 2 are needed") {
		t.Errorf("message %q", got)
	}
}

// Whatever is wrong with the nodes while the storage is unavailable is likely its fault.
func TestStorageHint(t *testing.T) {
	for name, s := range map[string]*situation{
		"an active node that cannot write": newSituation().pod("a", probe.Active),
		"no active node":                   newSituation().pod("a", probe.Standby),
		"no answer":                        newSituation().pod("a", probe.Unreachable),
		"no answer ever since":             newSituation().before(wasInitialized).pod("a", probe.Unreachable),
		"sealed nodes":                     newSituation().pod("a", probe.Sealed),
	} {
		const hint = "the storage is not ready, see the condition StorageReady"
		message := func() string {
			return meta.FindStatusCondition(compute(&s.facts).Conditions, v1alpha1.AvailableCondition).Message
		}
		if got := message(); strings.Contains(got, hint) {
			t.Errorf("%s, and the storage is well: %q", name, got)
		}
		s.alarm = etcd.NoSpace
		if got := message(); !strings.Contains(got, hint) {
			t.Errorf("%s, and the storage is full: %q", name, got)
		}
		s.alarm, s.members = "", newMembers(1)
		if got := message(); !strings.Contains(got, hint) {
			t.Errorf("%s, and there is no quorum: %q", name, got)
		}
	}
}
