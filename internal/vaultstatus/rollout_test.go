package vaultstatus

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// rollingOut is a Vault whose spec is deployed, and asks for pods of the template "new".
func rollingOut() *situation {
	s := newSituation().before(wasInitialized)
	s.vault.Spec.Version = "1.21.1"
	return s.ofRevision("new").rendered("3")
}

// rendered says which generation of the Vault the workload was rendered from.
func (s *situation) rendered(generation string) *situation {
	s.workload.SetAnnotations(map[string]string{v1alpha1.GenerationAnnotation: generation})
	return s
}

// wasUpdated says that the last rollout was seen to end.
func wasUpdated(status *v1alpha1.VaultStatus) {
	status.Conditions = append(status.Conditions,
		metav1.Condition{Type: v1alpha1.UpdatedCondition, Status: metav1.ConditionTrue})
}

func activeWith(version string) func(*v1alpha1.VaultStatus) {
	return func(status *v1alpha1.VaultStatus) { status.DataVersion = version }
}

// inContainer sets the state of the container, which does not run, and what it last was.
func inContainer(state, last corev1.ContainerState) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.ContainerStatuses[0].State, pod.Status.ContainerStatuses[0].LastTerminationState = state, last
	}
}

func waitingFor(reason string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

func endedWith(code int32, reason string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}
}

func runningSince(age time.Duration) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-age))}}
}

func TestUpdated(t *testing.T) {
	oldTemplate, newTemplate := ofTemplate("old"), ofTemplate("new")
	old := func(s *situation) *situation {
		return s.pod("a", probe.Active, oldTemplate).pod("b", probe.Standby, oldTemplate)
	}
	renewed := func() *situation {
		return rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Standby, newTemplate)
	}
	changed := func(s *situation, change func(*situation)) *situation {
		change(s)
		return s
	}
	tests := []struct {
		name  string
		facts *situation
		want  string
		// message is a part of the condition's, not is what it must not say.
		message, not string
	}{
		{
			name: "nothing is deployed yet", facts: newSituation(), want: "False ReleasePending",
			message: "not deployed yet", not: v1alpha1.IrreconcilableCondition,
		},
		{
			name:  "the spec was changed and is not deployed yet",
			facts: old(rollingOut().before(wasUpdated).rendered("2")), want: "False ReleasePending",
		},
		{
			name: "the spec cannot be deployed", want: "False ReleasePending", message: "the condition Irreconcilable says why",
			facts: changed(old(rollingOut().rendered("2")), func(s *situation) {
				s.vault.Status.Conditions = []metav1.Condition{
					{Type: v1alpha1.IrreconcilableCondition, Status: metav1.ConditionTrue},
				}
			}),
		},
		{
			name: "a Deployment of before the annotation",
			facts: changed(old(rollingOut()), func(s *situation) {
				s.workload.SetAnnotations(nil)
			}), want: "False ReleasePending",
		},
		{
			name: "the Deployment's controller lags", want: "False RollingOut", message: "not been acted on",
			facts: changed(old(rollingOut().before(wasUpdated)), func(s *situation) { s.workload.Revision = "" }),
		},
		{
			name:  "no updated pod yet",
			facts: old(rollingOut().before(wasUpdated)), want: "False RollingOut",
			message: "0 of 2 nodes are updated; starting: none; to be replaced: a, b",
		},
		{
			name: "an updated pod that is being made",
			facts: old(rollingOut()).
				pod("c", probe.Unknown, newTemplate, inContainer(waitingFor("ContainerCreating"), corev1.ContainerState{})),
			want: "False RollingOut", message: "starting: c;",
		},
		{
			name:  "an updated node that has just started",
			facts: old(rollingOut()).pod("c", probe.Unreachable, newTemplate, justStarted), want: "False RollingOut",
			message: "starting: c;",
		},
		{
			name: "a node is silent because its only etcd member cannot start anew", want: "False NodeFailing",
			message: "example-etcd-0 (ImagePullBackOff)",
			facts: changed(rollingOut().pod("a", probe.Unreachable, newTemplate), func(s *situation) {
				s.vault.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{Nodes: new(int32(1))}
				s.set = newEtcd(1)
				s.set.Generation = 2
				s.set.Status = appsv1.StatefulSetStatus{ObservedGeneration: 2, CurrentRevision: "old", UpdateRevision: "new"}
				s.previous.Storage = &v1alpha1.StorageStatus{Volumes: []v1alpha1.StorageVolume{{Claim: "data-example-etcd-0"}}}
				s.claims = map[int]*corev1.PersistentVolumeClaim{0: {ObjectMeta: metav1.ObjectMeta{Name: "data-example-etcd-0"}}}
				s.members = newMembers(1)
				s.members[0].Labels = map[string]string{appsv1.StatefulSetRevisionLabel: "new"}
				s.members[0].Status = corev1.PodStatus{
					ContainerStatuses: []corev1.ContainerStatus{{State: waitingFor("ImagePullBackOff")}},
				}
			}),
		},
		{
			name: "a member of etcd that does not become ready holds its rollout up", want: "False RollingOut",
			message: "starting: example-etcd-0; to be replaced: example-etcd-1, example-etcd-2; waiting: for a reason",
			facts:   renewed().etcdRollsOut(stalledAfter - time.Minute),
		},
		{
			name: "for long", want: "False RolloutStalled", message: "no progress for ten minutes; starting: example-etcd-0;",
			facts: renewed().etcdRollsOut(stalledAfter),
		},
		{
			name: "volumes that cannot become larger", want: "False ExpansionRefused", message: "it says why",
			facts: changed(old(rollingOut()), func(s *situation) {
				s.notGrown = problem.New(v1alpha1.UpdatedCondition, v1alpha1.ReasonExpansionRefused, "it says why")
			}),
		},
		{
			name:  "an updated node waits to be unsealed",
			facts: old(rollingOut()).pod("c", probe.Sealed, newTemplate), want: "False AwaitingUnseal",
			message: "'vault operator unseal' on each: c",
		},
		{
			name: "of a Vault that was never initialized", want: "False AwaitingInit",
			message: "'vault operator init' on one of a, c",
			facts: rollingOut().before(func(status *v1alpha1.VaultStatus) { status.Initialized = false }).
				pod("a", probe.Uninitialized, oldTemplate).pod("c", probe.Uninitialized, newTemplate),
		},
		{
			name: "an old node that is sealed holds up nothing",
			facts: rollingOut().pod("a", probe.Active, oldTemplate).pod("b", probe.Sealed, oldTemplate).
				pod("c", probe.Standby, newTemplate), want: "False RollingOut",
			message: "1 of 2 nodes are updated; starting: none; to be replaced: a, b",
		},
		{
			name: "the old active node goes last",
			facts: rollingOut().pod("a", probe.Active, oldTemplate).pod("c", probe.Standby, newTemplate).
				pod("d", probe.Standby, newTemplate), want: "False RollingOut", message: "to be replaced: a",
		},
		{
			name: "it is going",
			facts: rollingOut().pod("a", probe.Active, oldTemplate, terminating).pod("c", probe.Standby, newTemplate).
				pod("d", probe.Standby, newTemplate), want: "True Updated",
		},
		{
			name:  "a node on whose seal nobody can tell",
			facts: old(rollingOut()).pod("c", probe.Unreachable, newTemplate), want: "Unknown NodesUnreachable",
			message: "No answer from c: the rollout does not go on until",
		},
		{
			name: "an old node that does not answer holds up nothing",
			facts: rollingOut().pod("a", probe.Active, oldTemplate).pod("b", probe.Unreachable, oldTemplate).
				pod("c", probe.Standby, newTemplate), want: "False RollingOut",
		},
		{
			name: "the image is missing",
			facts: old(rollingOut()).
				pod("c", probe.Unknown, newTemplate, inContainer(waitingFor("ImagePullBackOff"), corev1.ContainerState{})),
			want: "False NodeFailing", message: ": c (ImagePullBackOff).",
		},
		{
			name: "a crash comes before who waits",
			facts: old(rollingOut()).pod("c", probe.Sealed, newTemplate).
				pod("d", probe.Unknown, newTemplate, inContainer(waitingFor("CrashLoopBackOff"), endedWith(1, "Error"))),
			want: "False NodeFailing", message: "d (exited with code 1 Error)",
		},
		{
			name: "no pod can be created", want: "False NodeFailing", message: "a pod that cannot be created (FailedCreate, see",
			facts: changed(old(rollingOut()), func(s *situation) {
				deployment := s.workload.Object.(*appsv1.Deployment)
				deployment.Status.Conditions = []appsv1.DeploymentCondition{
					{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "ReplicaSetUpdated"},
					{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate"},
				}
				revision := s.workload.Revision
				s.workload = workload.Of(deployment)
				s.workload.Revision = revision
			}),
		},
		{
			name: "back to what it was: the failing pod is an old one now",
			facts: rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Standby, newTemplate).
				pod("c", probe.Unknown, oldTemplate, notRunning), want: "False RollingOut",
			message: "2 of 2 nodes are updated; starting: none; to be replaced: c",
		},
		{
			name: "and gone",
			facts: rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Standby, newTemplate).
				pod("c", probe.Unknown, oldTemplate, notRunning, terminating), want: "True Updated",
		},
		{
			name:  "a new Vault waits for its pods",
			facts: rollingOut().pod("a", probe.Uninitialized, newTemplate), want: "False RollingOut", message: "1 of 2",
		},
		{
			name:  "it is up: to be unsealed is no update",
			facts: rollingOut().pod("a", probe.Uninitialized, newTemplate).pod("b", probe.Uninitialized, newTemplate),
			want:  "True Updated",
		},
		{
			name:  "a node that is replaced after the rollout is no rollout",
			facts: rollingOut().before(wasUpdated).pod("a", probe.Active, newTemplate), want: "True Updated",
		},
		{
			name: "nor is one that crashes",
			facts: rollingOut().before(wasUpdated).pod("a", probe.Active, newTemplate).
				pod("b", probe.Unknown, newTemplate, notRunning), want: "True Updated",
		},
		{
			name:  "nor one that is unreachable",
			facts: rollingOut().before(wasUpdated).pod("a", probe.Active, newTemplate).pod("b", probe.Unreachable, newTemplate),
			want:  "True Updated",
		},
		{
			name: "a pod that was evicted",
			facts: rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Standby, newTemplate).
				pod("c", probe.Unknown, oldTemplate, notRunning, func(pod *corev1.Pod) {
					pod.Status.Phase = corev1.PodFailed
				}), want: "True Updated",
		},
		{
			name: "a downgrade",
			facts: rollingOut().before(wasUpdated).before(activeWith("1.21.2")).rendered("2").
				pod("a", probe.Active, newTemplate).pod("b", probe.Standby, newTemplate), want: "False DowngradeRefused",
			message: "spec.allowDowngrade",
		},
		{
			name: "a downgrade that is allowed", want: "False ReleasePending",
			facts: changed(old(rollingOut().before(activeWith("1.21.2")).rendered("2")), func(s *situation) {
				s.vault.Spec.AllowDowngrade = true
			}),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if got := brief(status.Conditions, v1alpha1.UpdatedCondition); got != tt.want {
				t.Errorf("Updated is %q, want %q", got, tt.want)
			}
			message := meta.FindStatusCondition(status.Conditions, v1alpha1.UpdatedCondition).Message
			if !strings.Contains(message, tt.message) || tt.not != "" && strings.Contains(message, tt.not) {
				t.Errorf("message %q", message)
			}
			tt.facts.previous, tt.facts.now = status, now.Add(time.Second)
			if next := compute(&tt.facts.facts); !equality.Semantic.DeepEqual(next, status) {
				t.Errorf("the next status differs:\n%+v\n%+v", next, status)
			}
		})
	}
}

func TestFailure(t *testing.T) {
	none := corev1.ContainerState{}
	unschedulable := func(pod *corev1.Pod) {
		pod.Status.ContainerStatuses = nil
		pod.Status.Conditions = []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable},
		}
	}
	tests := []struct {
		name   string
		state  v1alpha1.NodeState
		change func(*corev1.Pod)
		want   string
	}{
		{"nothing is known yet", v1alpha1.NodeStarting, func(pod *corev1.Pod) { pod.Status = corev1.PodStatus{} }, ""},
		{"no room", v1alpha1.NodeStarting, unschedulable, "Unschedulable"},
		{"being made", v1alpha1.NodeStarting, inContainer(waitingFor("ContainerCreating"), none), ""},
		{"volumes are mounted", v1alpha1.NodeStarting, inContainer(waitingFor("PodInitializing"), none), ""},
		{"no such image", v1alpha1.NodeStarting, inContainer(waitingFor("ErrImagePull"), none), "ImagePullBackOff"},
		{
			"no such image, between attempts", v1alpha1.NodeStarting, inContainer(waitingFor("ImagePullBackOff"), none),
			"ImagePullBackOff",
		},
		{
			"no such key", v1alpha1.NodeStarting, inContainer(waitingFor("CreateContainerConfigError"), none),
			"CreateContainerConfigError",
		},
		{"it has crashed", v1alpha1.NodeStarting, inContainer(endedWith(1, "Error"), none), "exited with code 1 Error"},
		{
			"it waits for the next attempt", v1alpha1.NodeStarting,
			inContainer(waitingFor("CrashLoopBackOff"), endedWith(1, "Error")), "exited with code 1 Error",
		},
		{
			"and tries", v1alpha1.NodeStarting, inContainer(runningSince(time.Second), endedWith(1, "Error")),
			"exited with code 1 Error",
		},
		{
			"and is silent", v1alpha1.NodeUnreachable, inContainer(runningSince(time.Hour), endedWith(137, "OOMKilled")),
			"exited with code 137 OOMKilled",
		},
		{"and answers", v1alpha1.NodeSealed, inContainer(runningSince(time.Second), endedWith(1, "Error")), ""},
		{
			"it waits, for what is not known", v1alpha1.NodeStarting, inContainer(waitingFor("CrashLoopBackOff"), none),
			"CrashLoopBackOff",
		},
		{"it does not answer", v1alpha1.NodeUnreachable, inContainer(runningSince(time.Hour), none), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSituation().pod("a", probe.Unknown, tt.change)
			if got := failure(&s.facts, &s.pods[0], tt.state); got != tt.want {
				t.Errorf("failure() = %q, want %q", got, tt.want)
			}
		})
	}
}

// etcdRollsOut lets two of three members be old, and the first be of the new template and not
// ready for so long.
func (s *situation) etcdRollsOut(since time.Duration) *situation {
	made := metav1.NewTime(s.now.Add(-since))
	s.set = newEtcd(3)
	s.vault.Spec.Storage.Etcd = &v1alpha1.EtcdStorage{Nodes: s.set.Spec.Replicas}
	s.set.Generation = 2
	s.set.Status = appsv1.StatefulSetStatus{ObservedGeneration: 2, CurrentRevision: "old", UpdateRevision: "new"}
	s.withVolumes(true, []string{"old", "old", "old"})
	s.members, s.waits = newMembers(3), "for a reason"
	for i := range s.members {
		s.members[i].Labels = map[string]string{appsv1.StatefulSetRevisionLabel: "old"}
	}
	s.members[0].Labels[appsv1.StatefulSetRevisionLabel] = "new"
	s.members[0].CreationTimestamp, s.members[0].Status.Conditions = made, nil
	s.previous.Conditions = append(s.previous.Conditions, metav1.Condition{
		Type: v1alpha1.UpdatedCondition, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRollingOut,
		LastTransitionTime: metav1.NewTime(made.Add(-time.Hour)),
	})
	return s
}
