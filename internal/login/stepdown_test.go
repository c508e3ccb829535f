package login

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// node is a pod of a rollout.
type node struct {
	hash        string
	state       probe.State
	ready       bool
	terminating bool
	ended       bool
}

func rolloutOf(wanted, unavailable int32, nodes ...node) rollout {
	r := rollout{observations: map[types.UID]probe.Observation{}, workload: workload.Of(&appsv1.Deployment{
		Spec: appsv1.DeploymentSpec{Replicas: &wanted, Strategy: appsv1.DeploymentStrategy{
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: new(intstr.FromInt32(unavailable))},
		}},
	})}
	r.workload.Revision = "new"
	for i, n := range nodes {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)),
			Labels: map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: n.hash},
		}}
		if n.terminating {
			pod.DeletionTimestamp = &metav1.Time{}
		}
		if n.ended {
			pod.Status.Phase = corev1.PodFailed
		}
		if n.ready {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		r.pods = append(r.pods, pod)
		r.observations[pod.UID] = probe.Observation{State: n.state}
	}
	return r
}

var (
	oldActive  = node{hash: "old", state: probe.Active, ready: true}
	oldStandby = node{hash: "old", state: probe.Standby, ready: true}
	newActive  = node{hash: "new", state: probe.Active, ready: true}
	newStandby = node{hash: "new", state: probe.Standby, ready: true}
	newSealed  = node{hash: "new", state: probe.Sealed}
)

func TestHandover(t *testing.T) {
	changed := func(n node, change func(*node)) node { change(&n); return n }
	for name, test := range map[string]struct {
		rollout rollout
		want    string
	}{
		"all others are updated":    {rolloutOf(2, 0, oldActive, newStandby, newStandby), "0"},
		"of one node":               {rolloutOf(1, 0, oldActive, newStandby), "0"},
		"without room for one more": {rolloutOf(3, 1, newStandby, oldActive, newStandby), "1"},
		"one that has ended does not count": {rolloutOf(1, 0, oldActive, newStandby,
			changed(oldStandby, func(n *node) { n.ended = true })), "0"},
		"another old one is left":   {rolloutOf(1, 0, oldActive, newStandby, oldStandby), ""},
		"another old one is sealed": {rolloutOf(1, 0, oldActive, newStandby, node{hash: "old", state: probe.Sealed}), ""},
		"an updated one is sealed":  {rolloutOf(2, 0, oldActive, newStandby, newSealed), ""},
		"one has still to be made":  {rolloutOf(2, 0, oldActive, newStandby), ""},
		"the active one is updated": {rolloutOf(1, 0, newActive, newStandby), ""},
		"nothing is rolled out":     {rolloutOf(2, 0, newStandby, newStandby), ""},
		"one is being deleted": {rolloutOf(1, 0, oldActive, newStandby,
			changed(oldStandby, func(n *node) { n.terminating = true })), ""},
		"the active one is deleted": {rolloutOf(1, 0,
			changed(oldActive, func(n *node) { n.terminating = true }), newStandby), ""},
		"a standby one is not ready": {rolloutOf(1, 0, oldActive,
			changed(newStandby, func(n *node) { n.ready = false })), ""},
		"a standby one is silent": {rolloutOf(1, 0, oldActive,
			changed(newStandby, func(n *node) { n.state = probe.Unreachable })), ""},
		"two say that they are active": {rolloutOf(1, 0, oldActive, newActive, newStandby), ""},
		"two old ones say so":          {rolloutOf(1, 0, oldActive, oldActive, newStandby), ""},
	} {
		t.Run(name, func(t *testing.T) {
			active, successor := handover(test.rollout)
			got := ""
			if active != nil {
				got = active.Name
			}
			if got != test.want || (successor == nil) != (active == nil) {
				t.Errorf("handover() = %v, %v, want %q", active, successor, test.want)
			}
		})
	}
	for what, forget := range map[string]func(*rollout){
		"the template":   func(r *rollout) { r.workload.Revision = "" },
		"the Deployment": func(r *rollout) { r.workload = nil },
		"the nodes":      func(r *rollout) { r.observations = nil },
	} {
		r := rolloutOf(1, 0, oldActive, newStandby)
		forget(&r)
		if active, _ := handover(r); active != nil {
			t.Errorf("%s steps down while %s is not known", active.Name, what)
		}
	}
}

// FuzzHandover checks what must hold whatever is known: nothing else than updated nodes can
// take over, and there are enough of them.
func FuzzHandover(f *testing.F) {
	f.Add([]byte{0b0000_0100, 0b0001_1011}, uint8(1), uint8(0))
	f.Add([]byte{4, 27, 27}, uint8(2), uint8(0))
	f.Add([]byte{4, 27, 27, 91}, uint8(3), uint8(1))
	states := []probe.State{
		probe.Unknown, probe.Unreachable, probe.Sealed, probe.Standby, probe.Active, probe.Unverified, probe.Uninitialized,
		probe.Standby,
	}
	f.Fuzz(func(t *testing.T, input []byte, wanted, unavailable uint8) {
		var nodes []node
		for _, b := range input[:min(len(input), 16)] {
			n := node{hash: "old", state: states[b&7], ready: b&8 != 0, terminating: b&32 != 0, ended: b&64 != 0}
			if b&16 != 0 {
				n.hash = "new"
			}
			nodes = append(nodes, n)
		}
		r := rolloutOf(int32(wanted%8), int32(unavailable%8), nodes...)
		active, successor := handover(r)
		if active == nil {
			if successor != nil {
				t.Error("nothing steps down, and something takes over")
			}
			return
		}
		if r.observations[successor.UID].State != probe.Standby || !pods.Ready(successor) {
			t.Errorf("%s takes over", successor.Name)
		}
		ready := 0
		for i := range r.pods {
			pod, state := &r.pods[i], r.observations[r.pods[i].UID].State
			updated := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] == "new"
			switch {
			case pods.Ended(pod):
			case pods.Terminating(pod), pod.UID != active.UID && !updated, pod.UID == active.UID && updated,
				(state == probe.Active) != (pod.UID == active.UID):
				t.Errorf("%s steps down beside %s", active.Name, pod.Name)
			case state == probe.Standby && pods.Ready(pod):
				ready++
			}
		}
		if ready < enough(r.workload.Object.(*appsv1.Deployment)) || ready == 0 {
			t.Errorf("%s steps down for %d nodes", active.Name, ready)
		}
	})
}
