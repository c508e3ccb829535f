package vaultstatus

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
)

// ofRaft is a Vault with integrated storage, whose nodes say these states. One that says
// nothing has no pod.
func ofRaft(states ...probe.State) *situation {
	s := newSituation()
	nodes := int32(len(states))
	s.vault.Spec.Nodes = &nodes
	s.vault.Spec.Storage = v1alpha1.StorageSpec{Raft: &v1alpha1.RaftStorage{}}
	s.set = &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "example"}}
	s.members = nil
	for i, state := range states {
		if state == probe.Unknown {
			continue
		}
		s.pod(fmt.Sprintf("example-%d", i), state, func(pod *corev1.Pod) {
			if state == probe.Active || state == probe.Standby {
				pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}
		})
	}
	s.members = s.pods
	return s
}

// founded says that the nodes were unsealed with their volumes, which are still there.
func (s *situation) founded() *situation {
	wasInitialized(&s.previous)
	s.previous.Storage = &v1alpha1.StorageStatus{}
	s.claims = map[int]*corev1.PersistentVolumeClaim{}
	for i := range int(s.vault.WantedNodes()) {
		name := fmt.Sprintf("data-example-%d", i)
		s.previous.Storage.Volumes = append(s.previous.Storage.Volumes, v1alpha1.StorageVolume{Claim: name, UID: "old"})
		s.claims[i] = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "old"}}
	}
	return s
}

func TestRaftReady(t *testing.T) {
	const (
		none          = probe.Unknown
		uninitialized = probe.Uninitialized
		sealed        = probe.Sealed
		standby       = probe.Standby
		active        = probe.Active
		silent        = probe.Unreachable
	)
	lost := ofRaft(sealed, sealed, sealed).founded()
	lost.claims[1].UID, lost.claims[2].UID = "new", "new"
	leads := ofRaft(active, sealed, sealed).founded()
	leads.claims[1].UID, leads.claims[2].UID = "new", "new"
	recovered := ofRaft(active, standby, sealed).founded()
	recovered.claims[1].UID, recovered.claims[2].UID = "new", "new"
	other := ofRaft(sealed, active, standby).founded()
	other.claims[1].UID, other.claims[2].UID = "new", "new"
	split := ofRaft(active, active, sealed).founded()
	split.claims[1].UID, split.claims[2].UID = "new", "new"
	removed := ofRaft(active, standby, sealed).founded()
	removed.observations["example-2-uid"] = probe.Observation{State: sealed, Removed: true}
	unset := ofRaft(active)
	unset.set = nil
	for _, tt := range []struct {
		name          string
		facts         *situation
		want, message string
	}{
		{"nothing is made", unset, "Unknown NotObserved", `"example" does not exist yet`},
		{"not initialized", ofRaft(uninitialized, uninitialized, uninitialized), "Unknown NodesStarting",
			"0 of 3 nodes are unsealed, 2 are needed, and Vault is not initialized; not: example-0 (sealed), "},
		{"the first is initialized", ofRaft(sealed, uninitialized, uninitialized), "False NoQuorum", "one that is sealed"},
		{"one is unsealed", ofRaft(active, sealed, sealed).founded(), "False NoQuorum",
			"1 of 3 nodes are unsealed, and 2 are needed"},
		{"recovered from the node that is left", recovered, "True MembersNotReady", "not: example-2 (sealed)"},
		{"another Vault on new volumes", other, "False VolumesLost", "kubectl vault recover-raft example"},
		{"one beside another", split, "False VolumesLost", "data-example-1, data-example-2"},
		{"a majority", ofRaft(active, standby, sealed).founded(), "True MembersNotReady", "not: example-2 (sealed)"},
		{"a majority, and one hangs", ofRaft(active, standby, silent).founded(), "True MembersNotReady",
			"not: example-2 (it does not answer)"},
		{"a majority, and one has no pod", ofRaft(active, standby, none).founded(), "True MembersNotReady",
			"not: example-2 (it has no pod)"},
		{"all", ofRaft(active, standby, standby).founded(), "True Quorum", "3 of 3 nodes are unsealed"},
		{"the only one", ofRaft(active).founded(), "True Quorum", "1 of 1"},
		{"the only one, sealed", ofRaft(sealed).founded(), "False NoQuorum", "0 of 1"},
		{"no answer from any", ofRaft(silent, silent, silent).founded(), "False NoQuorum", "0 of 3"},
		{"one is removed", removed, "True MembersNotReady", "removed from the cluster"},
		{"most volumes are lost", lost, "False VolumesLost", "data-example-1, data-example-2. The other nodes cannot elect"},
		{"most volumes are lost, and one is active", leads, "False VolumesLost",
			"data-example-1, data-example-2. example-0 is active and has the data: unseal the others"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if got := brief(status.Conditions, v1alpha1.StorageReadyCondition); got != tt.want {
				t.Errorf("StorageReady is %q, want %q", got, tt.want)
			}
			message := meta.FindStatusCondition(status.Conditions, v1alpha1.StorageReadyCondition).Message
			if !strings.Contains(message, tt.message) {
				t.Errorf("message %q has no %q", message, tt.message)
			}
		})
	}
}

// A second node that is initialized would be another Vault.
func TestRaftIsInitializedOnce(t *testing.T) {
	status := compute(&ofRaft(probe.Uninitialized, probe.Uninitialized, probe.Uninitialized).facts)
	message := meta.FindStatusCondition(status.Conditions, v1alpha1.InitializedCondition).Message
	if !strings.Contains(message, "on example-0 and on no other") {
		t.Errorf("message %q", message)
	}
	status = compute(&ofRaft(probe.Sealed, probe.Uninitialized, probe.Uninitialized).facts)
	message = meta.FindStatusCondition(status.Conditions, v1alpha1.UnsealedCondition).Message
	if !strings.Contains(message, "on each: example-0, example-1, example-2; possible when another node is unsealed that "+
		"they join: example-1, example-2") {
		t.Errorf("message %q", message)
	}
	// One has lost its volume, and the others do not answer.
	if !compute(&ofRaft(probe.Uninitialized, probe.Unreachable, probe.Unreachable).founded().facts).Initialized {
		t.Error("a node with an empty volume makes a Vault uninitialized")
	}
	if compute(&ofRaft(probe.Uninitialized, probe.Uninitialized, probe.Uninitialized).founded().facts).Initialized {
		t.Error("all nodes say that they are not initialized")
	}
}

// The volumes are written down that nodes were unsealed with.
func TestRaftVolumesAreWrittenDown(t *testing.T) {
	s := ofRaft(probe.Active, probe.Sealed, probe.Standby).founded()
	s.previous.Storage = nil
	var claims []string
	for _, volume := range compute(&s.facts).Storage.Volumes {
		if volume.UID != types.UID("old") {
			t.Errorf("the volume is %+v", volume)
		}
		claims = append(claims, volume.Claim)
	}
	if got := strings.Join(claims, " "); got != "data-example-0 data-example-2" {
		t.Errorf("the volumes are %s", got)
	}
}
