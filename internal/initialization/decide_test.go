package initialization

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
)

func statusOf(phase v1alpha1.InitializationPhase, token v1alpha1.RootTokenPolicy) *v1alpha1.InitializationStatus {
	return &v1alpha1.InitializationStatus{
		Phase: phase, Attempt: "attempt", Pod: "example-0", RootToken: token, Encrypted: true, SecretName: "keys",
	}
}

func TestDecide(t *testing.T) {
	requested := statusOf(v1alpha1.PhaseRequested, v1alpha1.EncryptRootToken)
	initialized := statusOf(v1alpha1.PhaseInitialized, v1alpha1.EncryptRootToken)
	toRevoke := statusOf(v1alpha1.PhaseInitialized, v1alpha1.RevokeRootToken)
	revoked := statusOf(v1alpha1.PhaseRootTokenRevoked, v1alpha1.RevokeRootToken)
	lost := statusOf(v1alpha1.PhaseKeysLost, v1alpha1.EncryptRootToken)
	before := &v1alpha1.InitializationStatus{Phase: v1alpha1.PhaseInitializedBefore}
	plain := statusOf(v1alpha1.PhaseInitialized, v1alpha1.EncryptRootToken)
	plain.Encrypted = false
	plainToken := statusOf(v1alpha1.PhaseInitialized, v1alpha1.StoreRootToken)
	wrong := &problem.Error{Reason: v1alpha1.ReasonPGPKeysInvalid, Message: "a key is invalid"}

	for name, tt := range map[string]struct {
		status  *v1alpha1.InitializationStatus
		facts   facts
		hadData bool
		want    step
		reason  string
		recheck time.Duration
	}{
		"nothing is known":   {facts: facts{}, reason: v1alpha1.ReasonNotObserved},
		"an empty Vault":     {facts: facts{nodes: nodesUninitialized, storageReady: true}, want: begin},
		"its storage is not": {facts: facts{nodes: nodesUninitialized}, reason: v1alpha1.ReasonNotObserved},
		"one with data":      {facts: facts{nodes: nodesInitialized, storageReady: true}, want: noteBefore},
		"one with data, again": {facts: facts{nodes: nodesInitialized, secret: "keys", problem: wrong},
			want: noteBefore},
		"a key is invalid": {facts: facts{nodes: nodesUninitialized, storageReady: true, problem: wrong},
			reason: v1alpha1.ReasonPGPKeysInvalid, recheck: tryAgain},
		"a Secret is there": {facts: facts{nodes: nodesUninitialized, storageReady: true, secret: "keys"},
			reason: v1alpha1.ReasonSecretExists},
		"Vault has refused": {facts: facts{nodes: nodesUninitialized, storageReady: true, refusal: "no"},
			reason: v1alpha1.ReasonInitializationRefused, recheck: tryAgain},
		"its data is gone": {facts: facts{nodes: nodesUninitialized, storageReady: true}, hadData: true,
			reason: v1alpha1.ReasonDataLost},

		"asked a moment ago": {status: requested, facts: facts{}, reason: v1alpha1.ReasonInitializing},
		"asked, and it is": {status: requested, facts: facts{nodes: nodesInitialized},
			reason: v1alpha1.ReasonInitializing},
		"asked, and it is not yet": {status: requested, facts: facts{nodes: nodesUninitialized, storageReady: true},
			reason: v1alpha1.ReasonInitializing},
		"the keys are here": {status: requested, facts: facts{nodes: nodesUninitialized, holdsKeys: true},
			want: store},
		"the keys are here for long": {status: requested, facts: facts{nodes: nodesInitialized, holdsKeys: true,
			since: time.Hour}, want: store},
		"the keys are stored": {status: requested, facts: facts{nodes: nodesInitialized, secret: "keys", stored: "keys"},
			want: noteStored},
		"stored, and here": {status: requested, facts: facts{nodes: nodesInitialized, holdsKeys: true, secret: "keys",
			stored: "keys"}, want: store},
		"nobody has them": {status: requested, facts: facts{nodes: nodesInitialized, since: settle}, want: noteLost},
		"nobody has them, and a Secret of another": {status: requested, facts: facts{nodes: nodesInitialized,
			since: settle, secret: "keys"}, want: noteLost},
		"others have unsealed it": {status: requested, facts: facts{nodes: nodesInitialized, since: settle,
			unsealed: true}, want: noteBefore},
		"it was refused": {status: requested, facts: facts{nodes: nodesUninitialized, refusal: "no"}, want: noteRefused},
		"nothing came of it": {status: requested, facts: facts{nodes: nodesUninitialized, storageReady: true,
			since: settle}, want: begin},
		"the node may still be at it": {status: requested, facts: facts{nodes: nodesUninitialized, storageReady: true,
			since: time.Hour, pending: true}, reason: v1alpha1.ReasonInitializing},
		"nothing came of it again": {status: requested, facts: facts{nodes: nodesUninitialized, storageReady: true,
			since: 2*settle - 1, failed: 2}, reason: v1alpha1.ReasonInitializing},
		"nothing came of it again, a while ago": {status: requested, facts: facts{nodes: nodesUninitialized,
			storageReady: true, since: 2 * settle, failed: 2}, want: begin},
		"nothing ever comes of it": {status: requested, facts: facts{nodes: nodesUninitialized, storageReady: true,
			since: maxPause, failed: 1000}, want: begin},
		"nobody has them, once more": {status: requested, facts: facts{nodes: nodesInitialized, since: settle,
			failed: 1000}, want: noteLost},
		"nothing came of it, and a Secret is there": {status: requested, facts: facts{nodes: nodesUninitialized,
			storageReady: true, since: settle, secret: "keys"}, reason: v1alpha1.ReasonSecretExists},
		"nobody tells what came of it": {status: requested, facts: facts{since: time.Hour},
			reason: v1alpha1.ReasonInitializing},

		"lost": {status: lost, facts: facts{nodes: nodesInitialized, since: time.Hour},
			reason: v1alpha1.ReasonKeysLost},
		"lost, and unsealed by others": {status: lost, facts: facts{nodes: nodesInitialized, unsealed: true},
			want: noteBefore},
		"lost, and erased": {status: lost, facts: facts{nodes: nodesUninitialized, storageReady: true, since: time.Hour},
			reason: v1alpha1.ReasonKeysLost},
		"lost, and here": {status: lost, facts: facts{nodes: nodesInitialized, stored: "keys", holdsKeys: true}, want: store},
		"found again":    {status: lost, facts: facts{nodes: nodesInitialized, stored: "keys"}, want: noteStored},

		"initialized": {status: initialized, facts: facts{nodes: nodesInitialized},
			reason: v1alpha1.ReasonKeysStored},
		"unencrypted": {status: plain, facts: facts{nodes: nodesInitialized},
			reason: v1alpha1.ReasonKeysInPlaintext},
		"an unencrypted token": {status: plainToken, facts: facts{nodes: nodesInitialized},
			reason: v1alpha1.ReasonKeysInPlaintext},
		"a node is behind": {status: initialized, facts: facts{nodes: nodesUninitialized},
			reason: v1alpha1.ReasonInitializing},
		"erased": {status: initialized, facts: facts{nodes: nodesUninitialized, storageReady: true, since: settle},
			reason: v1alpha1.ReasonDataLost},
		"erased, revoked": {status: revoked, facts: facts{nodes: nodesUninitialized, storageReady: true, since: settle},
			reason: v1alpha1.ReasonDataLost},
		"erased, from before": {status: before, facts: facts{nodes: nodesUninitialized, storageReady: true, since: settle},
			reason: v1alpha1.ReasonDataLost},
		"from before": {status: before, facts: facts{nodes: nodesInitialized},
			reason: v1alpha1.ReasonInitializedBefore},
		"revoked": {status: revoked, facts: facts{nodes: nodesInitialized},
			reason: v1alpha1.ReasonKeysStored},
		"the token is here": {status: toRevoke, facts: facts{nodes: nodesInitialized, holdsToken: true},
			reason: v1alpha1.ReasonRevokingRootToken},
		"it can be revoked": {status: toRevoke, facts: facts{nodes: nodesInitialized, holdsToken: true, active: true},
			want: revoke, reason: v1alpha1.ReasonRevokingRootToken},
		"it was not, and cannot": {status: toRevoke, facts: facts{nodes: nodesInitialized, active: true},
			reason: v1alpha1.ReasonRootTokenNotRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			f := tt.facts
			f.vault = &v1alpha1.Vault{Status: v1alpha1.VaultStatus{Initialization: tt.status}}
			if tt.hadData {
				f.vault.Status.DataVersion = "1.21.0"
			}
			d := decide(&f)
			if d.step != tt.want || d.condition.Reason != tt.reason {
				t.Errorf("decided on step %d with the reason %q, want %d with %q", d.step, d.condition.Reason, tt.want, tt.reason)
			}
			if tt.recheck != 0 && d.recheck != tt.recheck {
				t.Errorf("looks again after %s, want %s", d.recheck, tt.recheck)
			}
			if d.step == report && (d.condition.Status == "" || d.condition.Message == "") {
				t.Errorf("the condition is incomplete: %+v", d.condition)
			}
		})
	}
}

// Whatever is known, Vault is initialized only when its nodes say that it is not, and neither
// keys of it are anywhere nor data of it were.
func TestNothingIsInitializedTwice(t *testing.T) {
	phases := []*v1alpha1.InitializationStatus{nil, {Phase: v1alpha1.PhaseInitializedBefore}}
	for _, phase := range []v1alpha1.InitializationPhase{
		v1alpha1.PhaseRequested, v1alpha1.PhaseInitialized, v1alpha1.PhaseRootTokenRevoked, v1alpha1.PhaseKeysLost,
	} {
		phases = append(phases, statusOf(phase, v1alpha1.RevokeRootToken), statusOf(phase, v1alpha1.EncryptRootToken))
	}
	yes := []bool{false, true}
	for _, status := range phases {
		for _, said := range []nodes{nodesUnknown, nodesUninitialized, nodesInitialized} {
			for bits := range 1 << 9 {
				bit := func(i int) bool { return yes[bits>>i&1] }
				f := facts{
					vault: &v1alpha1.Vault{Status: v1alpha1.VaultStatus{Initialization: status}}, nodes: said,
					active: bit(0), storageReady: bit(1), holdsKeys: bit(2), holdsToken: bit(3),
				}
				if bit(4) {
					f.secret = "keys"
				}
				if bit(5) {
					f.secret, f.stored = "keys", "keys"
				}
				if bit(6) {
					f.since = settle
				}
				if bit(7) {
					f.vault.Status.DataVersion = "1.21.0"
				}
				f.pending = bit(8)
				d := decide(&f)
				open := status == nil || status.Phase == v1alpha1.PhaseRequested && f.since >= settle &&
					!f.holdsKeys && !f.pending
				if d.step == begin && (!open || said != nodesUninitialized || f.secret != "" || bit(7) || !f.storageReady) {
					t.Errorf("initialized with %+v, status %+v", f, status)
				}
				// Keys that are here are stored before anything else happens.
				if status != nil && status.Phase == v1alpha1.PhaseRequested && f.holdsKeys && d.step != store {
					t.Errorf("step %d with keys that are not stored, %+v", d.step, f)
				}
			}
		}
	}
}

// Another node is asked when the one that was asked certainly does nothing any more.
func TestPending(t *testing.T) {
	requestedAt := metav1.NewTime(time.Now().Add(-time.Hour))
	pod := func(change func(*corev1.Pod)) corev1.Pod {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "example-0", UID: "uid"}, Status: corev1.PodStatus{
			PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{Name: v1alpha1.VaultContainer,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		}}
		change(&pod)
		return pod
	}
	startedAfter := func(after time.Duration) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(requestedAt.Add(after))
		}
	}
	same := func(*corev1.Pod) {}
	for name, tt := range map[string]struct {
		change func(*corev1.Pod)
		state  probe.State
		want   bool
	}{
		"it hangs":                    {change: same, state: probe.Unreachable, want: true},
		"it was not probed":           {change: same, want: true},
		"it says that Vault is empty": {change: same, state: probe.Uninitialized},
		"it was started right before": {change: startedAfter(-time.Second), want: true},
		"its clock may be off":        {change: startedAfter(time.Second), want: true},
		"it was started again":        {change: startedAfter(2 * settle)},
		"it does not run": {change: func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
		}},
		"it is another pod of the name": {change: func(pod *corev1.Pod) {
			pod.CreationTimestamp = metav1.NewTime(requestedAt.Add(time.Second))
		}},
		"it is gone": {change: func(pod *corev1.Pod) { pod.Name = "example-1" }},
	} {
		status := statusOf(v1alpha1.PhaseRequested, v1alpha1.EncryptRootToken)
		status.Time = &requestedAt
		got := pending(status, []corev1.Pod{pod(tt.change)}, map[types.UID]probe.Observation{"uid": {State: tt.state}})
		if got != tt.want {
			t.Errorf("%s: it may be at it: %v", name, got)
		}
	}
}

// Pods that are leaving may be of a Vault that was deleted.
func TestLeavingNodes(t *testing.T) {
	running := corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{
		Name: v1alpha1.VaultContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	old := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "old", DeletionTimestamp: &metav1.Time{}}, Status: running}
	fresh := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "fresh"}, Status: running}
	for name, tt := range map[string]struct {
		fresh probe.State
		want  nodes
	}{
		"no other has told":  {want: nodesUnknown},
		"another is empty":   {fresh: probe.Uninitialized, want: nodesUnknown},
		"another has data":   {fresh: probe.Sealed, want: nodesInitialized},
		"another has it too": {fresh: probe.Standby, want: nodesInitialized},
	} {
		list, got, _ := nodesOf([]corev1.Pod{old, fresh}, map[types.UID]probe.Observation{
			"old": {State: probe.Active}, "fresh": {State: tt.fresh}})
		if got != tt.want || (got == nodesUnknown && len(list) > 0) {
			t.Errorf("%s: the nodes say %d, want %d; %d can be asked", name, got, tt.want, len(list))
		}
	}
}
