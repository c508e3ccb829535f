package vaultstatus

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// now is when the facts of these tests were gathered.
var now = time.Date(2025, 11, 24, 12, 0, 0, 0, time.UTC)

// situation builds the facts of a test.
type situation struct{ facts }

func newSituation() *situation {
	nodes := int32(2)
	return &situation{facts{
		vault: &v1alpha1.Vault{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 3},
			Spec:       v1alpha1.VaultSpec{Nodes: &nodes, Version: "1.21.0"},
		},
		observations: map[types.UID]probe.Observation{},
		starting:     map[types.UID]bool{},
		storageFacts: storageFacts{set: newEtcd(3), members: newMembers(3)},
		now:          now,
	}}
}

func newEtcd(replicas int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}
}

// pod adds a pod that has run for long and said state.
func (s *situation) pod(name string, state probe.State, changes ...func(*corev1.Pod)) *situation {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name + "-uid"), Labels: map[string]string{}},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{
			Name:  v1alpha1.VaultContainer,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
	if state == probe.Active {
		serving(&pod)
	}
	for _, change := range changes {
		change(&pod)
	}
	s.pods = append(s.pods, pod)
	for _, container := range pod.Status.ContainerStatuses {
		s.starting[pod.UID] = container.Started != nil && !*container.Started
	}
	if state != probe.Unknown {
		o := probe.Observation{State: state}
		if state.Responded() {
			o.Version = "1.21.0"
		}
		s.observations[pod.UID] = o
	}
	return s
}

// lost says that a node answered before.
func (s *situation) lost(name string) *situation {
	for i := range s.pods {
		if uid := s.pods[i].UID; s.pods[i].Name == name {
			o := s.observations[uid]
			o.Last = probe.Standby
			s.observations[uid] = o
		}
	}
	return s
}

// before says what the status was.
func (s *situation) before(change func(*v1alpha1.VaultStatus)) *situation {
	change(&s.previous)
	return s
}

func awaitedInit(s *v1alpha1.VaultStatus) {
	s.Conditions = []metav1.Condition{{
		Type: v1alpha1.InitializedCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonAwaitingInit,
	}}
}

func wasInitialized(status *v1alpha1.VaultStatus) { status.Initialized = true }

func notRunning(pod *corev1.Pod) {
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"},
	}
}

func justStarted(pod *corev1.Pod) {
	pod.Status.ContainerStatuses[0].Started = new(false)
}

func notLabelled(pod *corev1.Pod) { delete(pod.Labels, v1alpha1.ActiveLabel) }

func notReady(pod *corev1.Pod) { pod.Status.Conditions = nil }

// serving puts the pod into the Service.
func serving(pod *corev1.Pod) {
	pod.Labels[v1alpha1.ActiveLabel] = v1alpha1.ActiveLabelValue
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func terminating(pod *corev1.Pod) {
	at := metav1.NewTime(now)
	pod.DeletionTimestamp = &at
}

// ofRevision says of which template pods are up to date.
func (s *situation) ofRevision(hash string) *situation {
	s.workload = workload.Of(&appsv1.Deployment{})
	s.workload.Revision = hash
	return s
}

func ofTemplate(hash string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash }
}

// brief is what a test says of a condition: status and reason.
func brief(conditions []metav1.Condition, conditionType string) string {
	condition := meta.FindStatusCondition(conditions, conditionType)
	if condition == nil {
		return "absent"
	}
	return string(condition.Status) + " " + condition.Reason
}

func TestComputeNodes(t *testing.T) {
	tests := []struct {
		name        string
		facts       *situation
		phase       v1alpha1.Phase
		nodes       v1alpha1.NodesStatus
		initialized bool
		ready       int32
		available   string
		vaultInit   string
		unsealed    string
	}{
		{
			name:  "no pods yet",
			facts: newSituation(), phase: v1alpha1.PhaseCreating,
			available: "False NodesStarting", vaultInit: "Unknown NotObserved", unsealed: "Unknown NodesStarting",
		},
		{
			name:      "pods that do not run yet",
			facts:     newSituation().pod("a", probe.Unknown, notRunning).pod("b", probe.Unknown, notRunning),
			phase:     v1alpha1.PhaseCreating,
			available: "False NodesStarting", vaultInit: "Unknown NotObserved", unsealed: "Unknown NodesStarting",
		},
		{
			name:      "pods that start are not called unreachable",
			facts:     newSituation().pod("a", probe.Unreachable, justStarted).pod("b", probe.Unreachable, justStarted),
			phase:     v1alpha1.PhaseCreating,
			available: "False NodesStarting", vaultInit: "Unknown NotObserved", unsealed: "Unknown NodesStarting",
		},
		{
			name:  "pods that have been silent for too long are",
			facts: newSituation().pod("a", probe.Unreachable).pod("b", probe.Unreachable), phase: v1alpha1.PhaseCreating,
			nodes:     v1alpha1.NodesStatus{Unreachable: []string{"a", "b"}},
			available: "Unknown NodesUnreachable", vaultInit: "Unknown NotObserved", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:      "uninitialized nodes are sealed",
			facts:     newSituation().pod("a", probe.Uninitialized).pod("b", probe.Uninitialized),
			phase:     v1alpha1.PhaseUninitialized,
			nodes:     v1alpha1.NodesStatus{Sealed: []string{"a", "b"}},
			available: "False AwaitingInit", vaultInit: "False AwaitingInit", unsealed: "False AwaitingInit",
		},
		{
			name:      "one of two nodes has answered, uninitialized",
			facts:     newSituation().pod("a", probe.Uninitialized).pod("b", probe.Unreachable, justStarted),
			phase:     v1alpha1.PhaseUninitialized,
			nodes:     v1alpha1.NodesStatus{Sealed: []string{"a"}},
			available: "False AwaitingInit", vaultInit: "False AwaitingInit", unsealed: "False AwaitingInit",
		},
		{
			name:  "initialized and sealed",
			facts: newSituation().pod("a", probe.Sealed).pod("b", probe.Sealed), phase: v1alpha1.PhaseSealed, initialized: true,
			nodes:     v1alpha1.NodesStatus{Sealed: []string{"a", "b"}},
			available: "False AwaitingUnseal", vaultInit: "True DataFound", unsealed: "False AwaitingUnseal",
		},
		{
			name: "initialized a moment ago",
			facts: newSituation().before(awaitedInit).
				pod("a", probe.Sealed).pod("b", probe.Sealed), phase: v1alpha1.PhaseSealed, initialized: true,
			nodes:     v1alpha1.NodesStatus{Sealed: []string{"a", "b"}},
			available: "False AwaitingUnseal", vaultInit: "True Initialized", unsealed: "False AwaitingUnseal",
		},
		{
			name:  "initialized by one node, the other has not noticed",
			facts: newSituation().pod("a", probe.Sealed).pod("b", probe.Uninitialized),
			phase: v1alpha1.PhaseSealed, initialized: true,
			nodes:     v1alpha1.NodesStatus{Sealed: []string{"a", "b"}},
			available: "False AwaitingUnseal", vaultInit: "True Initialized", unsealed: "False AwaitingUnseal",
		},
		{
			name:  "the first node was unsealed",
			facts: newSituation().pod("a", probe.Active).pod("b", probe.Sealed), phase: v1alpha1.PhaseRunning, initialized: true,
			ready:     1,
			nodes:     v1alpha1.NodesStatus{Active: "a", Sealed: []string{"b"}},
			available: "True Active", vaultInit: "True Initialized", unsealed: "False AwaitingUnseal",
		},
		{
			name:  "all is well",
			facts: newSituation().pod("a", probe.Standby).pod("b", probe.Active), phase: v1alpha1.PhaseRunning,
			initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{Active: "b", Standby: []string{"a"}},
			available: "True Active", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name:  "unsealed nodes without an active one",
			facts: newSituation().pod("a", probe.Standby).pod("b", probe.Standby), phase: v1alpha1.PhaseUnavailable,
			initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{Standby: []string{"a", "b"}},
			available: "False NoActiveNode", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name:  "two nodes that both say that they are active contradict each other",
			facts: newSituation().pod("a", probe.Active).pod("b", probe.Active), phase: v1alpha1.PhaseUnavailable,
			initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{ActiveClaims: []string{"a", "b"}},
			available: "False MultipleActiveNodes", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name: "of two nodes that say that they are active the one that most nodes follow is served",
			facts: newSituation().pod("a", probe.Active, notLabelled).pod("b", probe.Active).
				pod("c", probe.Standby), phase: v1alpha1.PhaseRunning,
			initialized: true, ready: 3,
			nodes:     v1alpha1.NodesStatus{Active: "b", ActiveClaims: []string{"a", "b"}, Standby: []string{"c"}},
			available: "True Active", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name:  "the claim of a pod that is being deleted does not stand against its successor's",
			facts: newSituation().pod("a", probe.Active, terminating).pod("b", probe.Active), phase: v1alpha1.PhaseRunning,
			initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Active: "b"},
			available: "True Active", vaultInit: "True Initialized", unsealed: "Unknown NodesStarting",
		},
		{
			name:  "an active node without the label is not served",
			facts: newSituation().pod("a", probe.Active, notLabelled).pod("b", probe.Standby), phase: v1alpha1.PhaseRunning,
			initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}},
			available: "False NotInService", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name:  "nor is one whose pod is not ready",
			facts: newSituation().pod("a", probe.Active, notReady).pod("b", probe.Standby), phase: v1alpha1.PhaseRunning,
			initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}},
			available: "False NotInService", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name:  "a node in the Service that this replica cannot reach may serve",
			facts: newSituation().before(wasInitialized).pod("a", probe.Unreachable, serving).pod("b", probe.Standby),
			phase: v1alpha1.PhaseUnavailable, initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Standby: []string{"b"}, Unreachable: []string{"a"}},
			available: "Unknown NodesUnreachable", vaultInit: "True Initialized", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:  "so may one that cannot be verified",
			facts: newSituation().before(wasInitialized).pod("a", probe.Unverified, serving).pod("b", probe.Standby),
			phase: v1alpha1.PhaseUnavailable, initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Standby: []string{"b"}, Unreachable: []string{"a"}},
			available: "Unknown NodesUnverified", vaultInit: "True Initialized", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:  "a starting node that answered before and is lost",
			facts: newSituation().pod("a", probe.Active).pod("b", probe.Unreachable, justStarted).lost("b"),
			phase: v1alpha1.PhaseRunning, initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Active: "a", Unreachable: []string{"b"}},
			available: "True Active", vaultInit: "True Initialized", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:  "a standby that does not answer",
			facts: newSituation().pod("a", probe.Active).pod("b", probe.Unreachable), phase: v1alpha1.PhaseRunning,
			initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Active: "a", Unreachable: []string{"b"}},
			available: "True Active", vaultInit: "True Initialized", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:  "an active node that does not answer, with a standby",
			facts: newSituation().pod("a", probe.Unreachable).pod("b", probe.Standby), phase: v1alpha1.PhaseUnavailable,
			initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Standby: []string{"b"}, Unreachable: []string{"a"}},
			available: "False NoActiveNode", vaultInit: "True Initialized", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:  "no answer from a Vault that was initialized is not a new Vault",
			facts: newSituation().before(wasInitialized).pod("a", probe.Unreachable).pod("b", probe.Unreachable),
			phase: v1alpha1.PhaseUnavailable, initialized: true,
			nodes:     v1alpha1.NodesStatus{Unreachable: []string{"a", "b"}},
			available: "Unknown NodesUnreachable", vaultInit: "True Initialized", unsealed: "Unknown NodesUnreachable",
		},
		{
			name:  "all pods of a Vault that was initialized are gone",
			facts: newSituation().before(wasInitialized), phase: v1alpha1.PhaseUnavailable, initialized: true,
			available: "False NoActiveNode", vaultInit: "True Initialized", unsealed: "Unknown NodesStarting",
		},
		{
			name:  "a Vault whose data was lost is not initialized any more",
			facts: newSituation().before(wasInitialized).pod("a", probe.Uninitialized), phase: v1alpha1.PhaseUninitialized,
			nodes:     v1alpha1.NodesStatus{Sealed: []string{"a"}},
			available: "False AwaitingInit", vaultInit: "False AwaitingInit", unsealed: "False AwaitingInit",
		},
		{
			name: "a terminating pod is named only while it is active",
			facts: newSituation().pod("a", probe.Active, terminating).pod("b", probe.Standby).
				pod("c", probe.Sealed, terminating).
				pod("d", probe.Standby, terminating).pod("e", probe.Unreachable, terminating),
			phase: v1alpha1.PhaseRunning, initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}},
			available: "False NotInService", vaultInit: "True Initialized", unsealed: "True Unsealed",
		},
		{
			name:  "what a container said before it ended does not count",
			facts: newSituation().pod("a", probe.Active, notRunning).pod("b", probe.Standby), phase: v1alpha1.PhaseUnavailable,
			initialized: true, ready: 1,
			nodes:     v1alpha1.NodesStatus{Standby: []string{"b"}},
			available: "False NoActiveNode", vaultInit: "True Initialized", unsealed: "Unknown NodesStarting",
		},
		{
			name:  "the third pod of an upgrade",
			facts: newSituation().pod("a", probe.Active).pod("b", probe.Standby).pod("c", probe.Sealed),
			phase: v1alpha1.PhaseRunning, initialized: true, ready: 2,
			nodes:     v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}, Sealed: []string{"c"}},
			available: "True Active", vaultInit: "True Initialized", unsealed: "False AwaitingUnseal",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if status.Phase != tt.phase {
				t.Errorf("phase %s, want %s", status.Phase, tt.phase)
			}
			if !equality.Semantic.DeepEqual(status.VaultStatus, tt.nodes) {
				t.Errorf("nodes %+v, want %+v", status.VaultStatus, tt.nodes)
			}
			if status.Initialized != tt.initialized {
				t.Errorf("initialized %v, want %v", status.Initialized, tt.initialized)
			}
			if status.ReadyNodes != tt.ready || status.StandbyNodes != int32(len(tt.nodes.Standby)) ||
				status.SealedNodes != int32(len(tt.nodes.Sealed)) {
				t.Errorf("counts ready %d, standby %d, sealed %d", status.ReadyNodes, status.StandbyNodes, status.SealedNodes)
			}
			for conditionType, want := range map[string]string{
				v1alpha1.AvailableCondition: tt.available, v1alpha1.InitializedCondition: tt.vaultInit,
				v1alpha1.UnsealedCondition: tt.unsealed,
			} {
				if got := brief(status.Conditions, conditionType); got != want {
					t.Errorf("%s is %q, want %q", conditionType, got, want)
				}
			}
			if status.ServiceName != "example" || status.ClientPort != 8200 || status.ObservedGeneration != 3 {
				t.Errorf("service %q, port %d, generation %d", status.ServiceName, status.ClientPort, status.ObservedGeneration)
			}
		})
	}
}

// everyState is what a pod can be in, for the exhaustive test.
var everyState = []probe.State{
	probe.Unknown, probe.Unreachable, probe.Unverified, probe.Uninitialized, probe.Sealed, probe.Standby, probe.Active,
}

// TestComputeInvariants looks at all that two pods can be in.
func TestComputeInvariants(t *testing.T) {
	everyChange := []func(*corev1.Pod){func(*corev1.Pod) {}, notRunning, justStarted, terminating}
	for _, was := range []bool{false, true} {
		for _, first := range everyState {
			for _, second := range everyState {
				for i, change := range everyChange {
					for j, other := range everyChange {
						s := newSituation().before(func(status *v1alpha1.VaultStatus) { status.Initialized = was }).
							pod("a", first, change).pod("b", second, other)
						name := fmt.Sprintf("%v %s/%d %s/%d", was, first, i, second, j)
						checkInvariants(t, name, s, compute(&s.facts))
					}
				}
			}
		}
	}
}

func checkInvariants(t *testing.T, name string, s *situation, status v1alpha1.VaultStatus) {
	t.Helper()
	nodes := status.VaultStatus
	named := slices.Concat(nodes.Standby, nodes.Sealed, nodes.Unreachable)
	if nodes.Active != "" {
		named = append(named, nodes.Active)
	}
	named = append(named, nodes.ActiveClaims...)
	seen := map[string]bool{}
	for _, pod := range named {
		if seen[pod] {
			t.Errorf("%s: pod %s is named twice", name, pod)
		}
		seen[pod] = true
		if !slices.ContainsFunc(s.pods, func(p corev1.Pod) bool { return p.Name == pod }) {
			t.Errorf("%s: pod %s does not exist", name, pod)
		}
	}
	if (status.Phase == v1alpha1.PhaseRunning) != (nodes.Active != "") {
		t.Errorf("%s: phase %s with active %q", name, status.Phase, nodes.Active)
	}
	if len(status.Conditions) < len(v1alpha1.VaultConditions)-2 {
		t.Errorf("%s: %d conditions", name, len(status.Conditions))
	}
	checkNodeStatuses(t, name, s, status)
	for _, conditionType := range v1alpha1.VaultConditions {
		condition := meta.FindStatusCondition(status.Conditions, conditionType)
		if condition == nil {
			if conditionType != v1alpha1.StalledCondition &&
				(conditionType != v1alpha1.SealMigratedCondition || s.vault.Spec.SealMigration != nil) {
				t.Errorf("%s: no condition %s", name, conditionType)
			}
			continue
		}
		if condition.Reason == "" || condition.Message == "" || condition.LastTransitionTime.IsZero() ||
			condition.ObservedGeneration != 3 {
			t.Errorf("%s: incomplete condition %+v", name, *condition)
		}
		for _, pod := range s.pods {
			// No pod is asked of administrators that is not there for them.
			words := strings.Fields(strings.ReplaceAll(condition.Message, ",", ""))
			if conditionType == v1alpha1.UnsealedCondition && condition.Status == metav1.ConditionFalse &&
				slices.Contains(words, pod.Name) && !slices.Contains(nodes.Sealed, pod.Name) {
				t.Errorf("%s: %q asks to unseal %s", name, condition.Message, pod.Name)
			}
		}
	}
	available := brief(status.Conditions, v1alpha1.AvailableCondition)
	if (available == "True Active") != isServed(s, nodes.Active) {
		t.Errorf("%s: Available is %s with active %q", name, available, nodes.Active)
	}
	if again := compute(&s.facts); !reflect.DeepEqual(again, status) {
		t.Errorf("%s: computed differently the second time", name)
	}
	// What was written is what is computed next: nothing is written at rest.
	s.previous = status
	s.now = s.now.Add(time.Second)
	if next := compute(&s.facts); !equality.Semantic.DeepEqual(next, status) {
		t.Errorf("%s: the next status differs:\n%+v\n%+v", name, next, status)
	}
}

// isServed says that the Service reaches the pod.
func isServed(s *situation, name string) bool {
	return slices.ContainsFunc(s.pods, func(pod corev1.Pod) bool { return pod.Name == name && pods.InService(&pod) })
}

// silentStates are those of nodes whose version is not known.
var silentStates = []v1alpha1.NodeState{v1alpha1.NodeStarting, v1alpha1.NodeUnreachable, v1alpha1.NodeUnverified}

// checkNodeStatuses compares the nodes one by one with their lists.
func checkNodeStatuses(t *testing.T, name string, s *situation, status v1alpha1.VaultStatus) {
	t.Helper()
	var active, standby, sealed, unreachable []string
	for _, node := range status.NodeStatuses {
		switch node.State {
		case v1alpha1.NodeActive:
			active = append(active, node.Name)
		case v1alpha1.NodeStandby:
			standby = append(standby, node.Name)
		case v1alpha1.NodeSealed, v1alpha1.NodeUninitialized:
			sealed = append(sealed, node.Name)
		case v1alpha1.NodeUnreachable, v1alpha1.NodeUnverified:
			unreachable = append(unreachable, node.Name)
		}
		if responds := !slices.Contains(silentStates, node.State); responds != (node.Version != "") {
			t.Errorf("%s: node %+v", name, node)
		}
	}
	nodes := status.VaultStatus
	if !slices.Equal(standby, nodes.Standby) || !slices.Equal(sealed, nodes.Sealed) ||
		!slices.Equal(unreachable, nodes.Unreachable) {
		t.Errorf("%s: nodes %+v, one by one %+v", name, nodes, status.NodeStatuses)
	}
	if (nodes.Active != "") != (len(active) == 1) || nodes.Active != "" && active[0] != nodes.Active {
		t.Errorf("%s: active %q, one by one %q", name, nodes.Active, active)
	}
	if !slices.IsSortedFunc(status.NodeStatuses, func(a, b v1alpha1.NodeStatus) int {
		return strings.Compare(a.Name, b.Name)
	}) {
		t.Errorf("%s: in another order than the pods: %+v", name, status.NodeStatuses)
	}
	for _, pod := range s.pods {
		listed := slices.ContainsFunc(status.NodeStatuses, func(node v1alpha1.NodeStatus) bool {
			return node.Name == pod.Name
		})
		if !listed && pod.DeletionTimestamp == nil {
			t.Errorf("%s: pod %s is missing: %+v", name, pod.Name, status.NodeStatuses)
		}
	}
}

func TestComputeNodeStatuses(t *testing.T) {
	s := newSituation().
		pod("active", probe.Active).
		pod("crashed", probe.Standby, notRunning).
		pod("ended", probe.Unknown, notRunning, func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodFailed }).
		pod("terminating", probe.Standby, terminating).
		pod("lost", probe.Unreachable, justStarted).lost("lost").
		pod("new", probe.Uninitialized).
		pod("sealed", probe.Sealed).
		pod("silent", probe.Unreachable).
		pod("standby", probe.Standby).
		pod("starting", probe.Unreachable, justStarted)
	want := []v1alpha1.NodeStatus{
		{Name: "active", State: v1alpha1.NodeActive, Version: "1.21.0"},
		{Name: "crashed", State: v1alpha1.NodeStarting},
		{Name: "lost", State: v1alpha1.NodeUnreachable},
		{Name: "new", State: v1alpha1.NodeUninitialized, Version: "1.21.0"},
		{Name: "sealed", State: v1alpha1.NodeSealed, Version: "1.21.0"},
		{Name: "silent", State: v1alpha1.NodeUnreachable},
		{Name: "standby", State: v1alpha1.NodeStandby, Version: "1.21.0"},
		{Name: "starting", State: v1alpha1.NodeStarting},
	}
	status := compute(&s.facts)
	if got := status.NodeStatuses; !slices.Equal(got, want) {
		t.Errorf("nodes\n%+v, want\n%+v", got, want)
	}
	byState := map[v1alpha1.NodeState][]string{
		v1alpha1.NodeActive: {"active"}, v1alpha1.NodeStandby: {"standby"}, v1alpha1.NodeSealed: {"sealed"},
		v1alpha1.NodeUninitialized: {"new"},
		v1alpha1.NodeStarting:      {"crashed", "starting"}, v1alpha1.NodeUnreachable: {"lost", "silent"},
	}
	if !equality.Semantic.DeepEqual(status.PodStatuses, byState) {
		t.Errorf("by state %v, want %v", status.PodStatuses, byState)
	}
}

func TestDataVersion(t *testing.T) {
	tests := []struct {
		name     string
		before   string
		versions map[string]string
		states   []probe.State
		allowed  bool
		want     string
	}{
		{name: "nothing was ever active"},
		{name: "sealed nodes leave data alone", states: []probe.State{probe.Sealed, probe.Uninitialized, probe.Unreachable}},
		{name: "so do standby ones", states: []probe.State{probe.Standby}, versions: map[string]string{"a": "1.21.1"}},
		{name: "the first active node", states: []probe.State{probe.Active}, want: "1.21.0"},
		{
			name: "what was known stays while none is active", before: "1.21.1", states: []probe.State{probe.Standby},
			want: "1.21.1",
		},
		{name: "and after a fall back to an old node", before: "1.21.1", states: []probe.State{probe.Active}, want: "1.21.1"},
		{
			name: "a newer one became active", before: "1.21.0", states: []probe.State{probe.Standby, probe.Active},
			versions: map[string]string{"b": "1.21.1"}, want: "1.21.1",
		},
		{
			name: "of two that say so the higher one counts", before: "1.20.0",
			states:   []probe.State{probe.Active, probe.Active},
			versions: map[string]string{"a": "1.21.1"}, want: "1.21.1",
		},
		{
			name: "one that names no version", before: "1.21.0", states: []probe.State{probe.Active},
			versions: map[string]string{"a": "unknown"}, want: "1.21.0",
		},
		{
			name: "another edition is no other version", before: "1.21.0", states: []probe.State{probe.Active},
			versions: map[string]string{"a": "1.21.0+ent"}, want: "1.21.0",
		},
		{
			name: "a downgrade that is allowed and not done yet", before: "1.21.1", allowed: true,
			states: []probe.State{probe.Standby}, want: "1.21.1",
		},
		{
			name: "a downgrade that is allowed and done", before: "1.21.1", allowed: true,
			states: []probe.State{probe.Active}, want: "1.21.0",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSituation().before(func(status *v1alpha1.VaultStatus) { status.DataVersion = tt.before })
			s.vault.Spec.AllowDowngrade = tt.allowed
			for i, state := range tt.states {
				name := string(rune('a' + i))
				s.pod(name, state)
				if version := tt.versions[name]; version != "" {
					s.observations[types.UID(name+"-uid")] = probe.Observation{State: state, Version: version}
				}
			}
			if got := compute(&s.facts).DataVersion; got != tt.want {
				t.Errorf("data version %q, want %q", got, tt.want)
			}
		})
	}
}

func TestComputeVersion(t *testing.T) {
	with := func(version string) func(*situation) {
		return func(s *situation) {
			pod := &s.pods[len(s.pods)-1]
			o := s.observations[pod.UID]
			o.Version = version
			s.observations[pod.UID] = o
		}
	}
	tests := []struct {
		name     string
		versions []string
		changes  []func(*corev1.Pod)
		want     string
	}{
		{name: "no answers", want: ""},
		{name: "all the same", versions: []string{"1.21.0", "1.21.0", "1.21.0"}, want: "1.21.0"},
		{name: "they differ", versions: []string{"1.21.0", "1.21.1"}, want: ""},
		{name: "they differ, the same again", versions: []string{"1.21.0", "1.21.1", "1.21.0"}, want: ""},
		{name: "some do not answer", versions: []string{"", "1.21.0", ""}, want: "1.21.0"},
		{
			name: "the old one is terminating", versions: []string{"1.21.0", "1.21.1"},
			changes: []func(*corev1.Pod){terminating}, want: "1.21.1",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSituation()
			for i, version := range tt.versions {
				s.pod(fmt.Sprintf("pod-%d", i), probe.Standby, tt.changes[min(i, len(tt.changes)):min(i+1, len(tt.changes))]...)
				with(version)(s)
			}
			if got := compute(&s.facts).Version; got != tt.want {
				t.Errorf("version %q, want %q", got, tt.want)
			}
		})
	}
}

func TestComputeUpdatedNodes(t *testing.T) {
	s := newSituation().
		pod("a", probe.Active, ofTemplate("old")).
		pod("b", probe.Sealed, ofTemplate("new")).
		pod("c", probe.Unknown, ofTemplate("new"), notRunning).
		pod("d", probe.Standby, ofTemplate("new"), terminating)
	for hash, want := range map[string][]string{"new": {"b", "c"}, "old": {"a"}, "": nil} {
		s.ofRevision(hash)
		if got := compute(&s.facts).UpdatedNodes; !slices.Equal(got, want) {
			t.Errorf("with the template %q the updated nodes are %v, want %v", hash, got, want)
		}
	}
}

func TestConditionMessages(t *testing.T) {
	other := newSituation().pod("a", probe.Active).pod("b", probe.Standby)
	other.vault.Spec.ConfigMapName = "mine"
	empty := newSituation().pod("a", probe.Uninitialized)
	empty.vault.Spec.Initialization = &v1alpha1.InitializationPolicy{RootToken: v1alpha1.RevokeRootToken}
	keyed := newSituation().pod("a", probe.Sealed).pod("b", probe.Active)
	keyed.vault.Spec.Unseal = &v1alpha1.UnsealPolicy{KeysSecretName: "keys"}
	tests := []struct {
		name          string
		facts         *situation
		conditionType string
		want          string
		message       string
	}{
		{
			"the active pod", newSituation().pod("a", probe.Active), v1alpha1.AvailableCondition, "True Active",
			"Pod a is active and serves requests at https://example.default.svc:8200",
		},
		{
			"whom to initialize", newSituation().pod("a", probe.Uninitialized).pod("b", probe.Uninitialized),
			v1alpha1.AvailableCondition, "False AwaitingInit", "'vault operator init' on one of a, b",
		},
		{
			"who initializes", empty, v1alpha1.AvailableCondition, "False AwaitingInit",
			"the operator does that, see the condition InitializationSucceeded",
		},
		{
			"who unseals", keyed, v1alpha1.UnsealedCondition, "False AwaitingUnseal",
			"the operator has unsealed them, see the condition UnsealKeysValid: a",
		},
		{
			"whom to unseal", newSituation().pod("a", probe.Sealed).pod("b", probe.Active), v1alpha1.UnsealedCondition,
			"False AwaitingUnseal", "'vault operator unseal' on each: a",
		},
		{
			"who does not answer", newSituation().pod("a", probe.Unreachable).pod("b", probe.Active),
			v1alpha1.UnsealedCondition, "Unknown NodesUnreachable", "No answer from a",
		},
		{
			"why containers do not run", newSituation().pod("a", probe.Unknown, notRunning), v1alpha1.AvailableCondition,
			"False NodesStarting", "a CrashLoopBackOff",
		},
		{"no ConfigMap", newSituation(), v1alpha1.ConfigValidCondition, "True ConfigAccepted", "No ConfigMap"},
		{"a ConfigMap", other, v1alpha1.ConfigValidCondition, "True ConfigAccepted", `"mine"`},
		{
			"the Secrets", newSituation(), v1alpha1.TLSReadyCondition, "True SecretsValid",
			`"example-default-vault-server-tls" and "example-default-vault-client-tls"`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conditions := compute(&tt.facts.facts).Conditions
			if got := brief(conditions, tt.conditionType); got != tt.want {
				t.Errorf("%s is %q, want %q", tt.conditionType, got, tt.want)
			}
			if got := meta.FindStatusCondition(conditions, tt.conditionType).Message; !strings.Contains(got, tt.message) {
				t.Errorf("message %q does not contain %q", got, tt.message)
			}
		})
	}
}

func TestConditionsOfWhatUsersBring(t *testing.T) {
	tests := []struct {
		name           string
		static         bool
		was            metav1.ConditionStatus
		tlsErr, cfgErr error
		tls, config    string
		message        string
	}{
		{name: "good", tls: "True SecretsValid", config: "True ConfigAccepted"},
		{
			name: "a Secret is missing", static: true,
			tlsErr: fmt.Errorf("wrapped: %w",
				&problem.Error{Reason: v1alpha1.ReasonSecretNotFound, Message: `Secret "x" does not exist`}),
			tls: "False SecretNotFound", config: "True ConfigAccepted", message: `Secret "x" does not exist`,
		},
		{
			name:   "a Secret that the operator is about to make is nothing to fix",
			tlsErr: &problem.Error{Reason: v1alpha1.ReasonAuthorityLost, Generated: true},
			tls:    "Unknown SecretsPending", config: "True ConfigAccepted",
		},
		{
			name: "nor while it is still at it", was: metav1.ConditionUnknown,
			tlsErr: &problem.Error{Reason: v1alpha1.ReasonSecretNotFound, Generated: true},
			tls:    "Unknown SecretsPending", config: "True ConfigAccepted",
		},
		{
			name: "a Secret of the user's is, at any time", was: metav1.ConditionUnknown,
			tlsErr: &problem.Error{Reason: v1alpha1.ReasonSecretNotFound, Message: `Secret "x" does not exist`},
			tls:    "False SecretNotFound", config: "True ConfigAccepted", message: `Secret "x" does not exist`,
		},
		{
			name: "a Secret that was lost is", was: metav1.ConditionTrue,
			tlsErr: &problem.Error{Reason: v1alpha1.ReasonSecretNotFound, Message: `Secret "x" does not exist`, Generated: true},
			tls:    "False SecretNotFound", config: "True ConfigAccepted", message: `Secret "x" does not exist`,
		},
		{
			name: "and stays so", was: metav1.ConditionFalse,
			tlsErr: &problem.Error{Reason: v1alpha1.ReasonSecretNotFound, Message: `Secret "x" does not exist`},
			tls:    "False SecretNotFound", config: "True ConfigAccepted", message: `Secret "x" does not exist`,
		},
		{
			name: "a Secret is unusable", tlsErr: &problem.Error{Reason: v1alpha1.ReasonSecretInvalid, Message: "100% wrong %s"},
			tls: "False SecretInvalid", config: "True ConfigAccepted", message: "100% wrong %s",
		},
		{
			name:   "a ConfigMap is missing",
			cfgErr: &problem.Error{Reason: v1alpha1.ReasonConfigMapNotFound, Message: `ConfigMap "x" does not exist`},
			tls:    "True SecretsValid", config: "False ConfigMapNotFound", message: `ConfigMap "x" does not exist`,
		},
		{
			name:   "a ConfigMap is unusable",
			cfgErr: &problem.Error{Reason: v1alpha1.ReasonConfigInvalid, Message: "sets storage"},
			tls:    "True SecretsValid", config: "False ConfigInvalid", message: "sets storage",
		},
		{
			name: "the API server could not be asked: not known is not false", tlsErr: errors.New("timeout"),
			cfgErr: errors.New("timeout"),
			tls:    "Unknown NotObserved", config: "Unknown NotObserved", message: "timeout",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSituation()
			s.inputs = map[string]error{v1alpha1.TLSReadyCondition: tt.tlsErr, v1alpha1.ConfigValidCondition: tt.cfgErr}
			if tt.static {
				s.vault.Spec.TLS = &v1alpha1.TLSPolicy{Static: &v1alpha1.StaticTLS{ServerSecret: "x", ClientSecret: "x"}}
			}
			if tt.was != "" {
				reasons := map[metav1.ConditionStatus]string{metav1.ConditionUnknown: v1alpha1.ReasonSecretsPending}
				s.previous.Conditions = []metav1.Condition{
					{Type: v1alpha1.TLSReadyCondition, Status: tt.was, Reason: reasons[tt.was]},
				}
			}
			conditions := compute(&s.facts).Conditions
			if got := brief(conditions, v1alpha1.TLSReadyCondition); got != tt.tls {
				t.Errorf("TLSReady is %q, want %q", got, tt.tls)
			}
			if got := brief(conditions, v1alpha1.ConfigValidCondition); got != tt.config {
				t.Errorf("ConfigValid is %q, want %q", got, tt.config)
			}
			if !slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
				return strings.Contains(c.Message, tt.message)
			}) {
				t.Errorf("no condition says %q", tt.message)
			}
		})
	}
}

func TestTransitionTimes(t *testing.T) {
	s := newSituation().pod("a", probe.Active).pod("b", probe.Sealed)
	first := compute(&s.facts)

	// Another message and reason, the same status: the time is kept.
	s.previous, s.now = first, now.Add(time.Minute)
	s.observations["a-uid"] = probe.Observation{State: probe.Sealed}
	second := compute(&s.facts)
	unsealed := func(status v1alpha1.VaultStatus) metav1.Condition {
		return *meta.FindStatusCondition(status.Conditions, v1alpha1.UnsealedCondition)
	}
	if got := unsealed(second); !got.LastTransitionTime.Equal(ptr(unsealed(first).LastTransitionTime)) ||
		got.Message == unsealed(first).Message {
		t.Errorf("Unsealed stayed False: %+v", got)
	}
	available := meta.FindStatusCondition(second.Conditions, v1alpha1.AvailableCondition)
	if want := metav1.NewTime(s.now); !available.LastTransitionTime.Equal(&want) {
		t.Errorf("Available became False at %s, want %s", available.LastTransitionTime, want)
	}

	// Another generation alone moves no time either.
	s.previous, s.now = second, now.Add(time.Hour)
	s.vault.Generation = 4
	for _, condition := range compute(&s.facts).Conditions {
		before := meta.FindStatusCondition(second.Conditions, condition.Type)
		if !condition.LastTransitionTime.Equal(&before.LastTransitionTime) || condition.ObservedGeneration != 4 {
			t.Errorf("%s: %+v, was %+v", condition.Type, condition, *before)
		}
	}
}

func ptr[T any](value T) *T { return &value }

func TestComplete(t *testing.T) {
	tests := []struct {
		name  string
		facts *situation
		want  bool
	}{
		{"no pods", newSituation(), true},
		{"all were probed", newSituation().pod("a", probe.Sealed).pod("b", probe.Unreachable), true},
		{"one was not probed", newSituation().pod("a", probe.Sealed).pod("b", probe.Unknown), false},
		{"one does not run", newSituation().pod("a", probe.Sealed).pod("b", probe.Unknown, notRunning), true},
		{"one is terminating", newSituation().pod("a", probe.Sealed).pod("b", probe.Unknown, terminating), true},
	}
	for _, tt := range tests {
		if got := tt.facts.complete(); got != tt.want {
			t.Errorf("%s: complete() = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	s := newSituation()
	s.inputs = map[string]error{v1alpha1.TLSReadyCondition: errors.New(strings.Repeat("世", 20000))}
	for _, condition := range compute(&s.facts).Conditions {
		if len(condition.Message) > message.Max || !utf8.ValidString(condition.Message) {
			t.Errorf("%s has a message of %d bytes, valid: %v", condition.Type, len(condition.Message),
				utf8.ValidString(condition.Message))
		}
	}
}

// A Vault that is created again under its name may have the pods of the one before for a moment.
func TestPodsThatEndAreNotLearntFrom(t *testing.T) {
	s := newSituation().pod("a", probe.Active, terminating)
	for uid, o := range s.observations {
		o.Version = "1.21.0"
		s.observations[uid] = o
	}
	if status := compute(&s.facts); status.Initialized || status.DataVersion != "" {
		t.Errorf("it is initialized: %v, with data of version %q", status.Initialized, status.DataVersion)
	}
	s.pods[0].DeletionTimestamp = nil
	if status := compute(&s.facts); !status.Initialized || status.DataVersion != "1.21.0" {
		t.Errorf("of one that runs it is initialized: %v, with data of version %q", status.Initialized, status.DataVersion)
	}
}
