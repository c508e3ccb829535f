package vaultstatus

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// etcdStatus is what is known of the etcd members of a Vault.
type etcdStatus struct {
	members, quorum int
	// missing are the members that are not ready, each with the reason if there
	// is one. failing says that one of them does not start by itself.
	missing []string
	failing bool
	// full says that etcd refuses to write.
	full bool
}

// state is what exists of the storage, with the status that was written last.
func (f *facts) state() *storage.State {
	vault := *f.vault
	vault.Status.Storage = f.previous.Storage
	return &storage.State{Vault: &vault, Set: f.etcd, Members: f.members, Claims: f.claims}
}

// storageOf returns nil while there is no storage.
func storageOf(f *facts) *etcdStatus {
	if f.etcd == nil || f.etcd.Spec.Replicas == nil {
		return nil
	}
	members := f.vault.WantedMembers()
	s := &etcdStatus{members: members, quorum: members/2 + 1, full: f.alarm == etcd.NoSpace}
	for _, member := range f.state().Missing(f.now, func(uid types.UID) []string { return f.causes[uid] }) {
		if member.Why != "" {
			member.Name += " (" + member.Why + ")"
		}
		s.missing = append(s.missing, member.Name)
		s.failing = s.failing || member.Failing
	}
	return s
}

func (s *etcdStatus) hasQuorum() bool { return s.members-len(s.missing) >= s.quorum }

// storageHint says that the storage may be why nodes are not as they should.
func storageHint(f *facts) string {
	if s := storageOf(f); s != nil && (!s.hasQuorum() || s.full) {
		return "; the storage is not ready, see the condition " + v1alpha1.StorageReadyCondition
	}
	return ""
}

func storageReady(f *facts, _ *v1alpha1.VaultStatus) metav1.Condition {
	if wrong := storageWrong(f); wrong != nil {
		return *wrong
	}
	s := storageOf(f)
	if s == nil {
		return isUnknown(v1alpha1.ReasonNotObserved, "The etcd StatefulSet %q does not exist yet", f.vault.EtcdName())
	}
	ready := s.members - len(s.missing)
	switch {
	case s.hasQuorum() && s.full:
		return isFalse(v1alpha1.ReasonNoSpace,
			"etcd has used up the space that its volumes allow: Vault can read and delete, but not write, "+
				"and no other node can become active. Delete what is not needed, then have etcd compacted, "+
				"defragmented and its alarm disarmed")
	case len(s.missing) == 0:
		return isTrue(v1alpha1.ReasonQuorum, "%d of %d etcd members are ready%s", ready, s.members, sharedHint(f))
	case s.hasQuorum():
		return isTrue(v1alpha1.ReasonMembersNotReady, "%d of %d etcd members are ready, which is enough; not ready: %s%s",
			ready, s.members, join(s.missing), sharedHint(f))
	case firstStart(f) && s.failing:
		return isFalse(v1alpha1.ReasonMembersFailing, "%d of %d etcd members are ready, %d are needed; not ready: %s",
			ready, s.members, s.quorum, join(s.missing))
	case firstStart(f):
		// Members that start for the first time are not a failure.
		return isUnknown(v1alpha1.ReasonNodesStarting, "%d of %d etcd members are ready, %d are needed; not ready: %s",
			ready, s.members, s.quorum, join(s.missing))
	default:
		return isFalse(v1alpha1.ReasonNoQuorum, "%d of %d etcd members are ready, %d are needed; not ready: %s",
			ready, s.members, s.quorum, join(s.missing))
	}
}

// firstStart says that etcd has never had a quorum.
func firstStart(f *facts) bool {
	old := meta.FindStatusCondition(f.previous.Conditions, v1alpha1.StorageReadyCondition)
	return len(f.previousVolumes()) == 0 &&
		(old == nil || old.Status == metav1.ConditionUnknown || old.Reason == v1alpha1.ReasonMembersFailing ||
			old.Reason == v1alpha1.ReasonVolumesMismatch)
}

func (f *facts) previousVolumes() []v1alpha1.StorageVolume {
	if f.previous.Storage == nil {
		return nil
	}
	return f.previous.Storage.Volumes
}

// storageWrong is the condition while the storage is not the one that belongs to
// this Vault and its data, or nil.
func storageWrong(f *facts) *metav1.Condition {
	state := f.state()
	var condition metav1.Condition
	switch wrong := problem.In(state.Refusal()); {
	case f.etcd == nil && wrong != nil:
		condition = refused(wrong)
	case state.MostLost():
		condition = isFalse(v1alpha1.ReasonVolumesLost,
			"The volumes of most etcd members are gone, being deleted or new: %s. A member that starts with an empty "+
				"volume is kept from founding an empty cluster; bring the volumes back, or give their data up as "+
				"docs/recovery.md says", join(state.Lost()))
	case f.disagree != "":
		condition = isFalse(v1alpha1.ReasonMembersDisagree,
			"The etcd members are not of one cluster: %s. Vault may read other data from each", f.disagree)
	default:
		return nil
	}
	return &condition
}

// sharedHint says which pods would be lost together with one Kubernetes node.
func sharedHint(f *facts) string {
	var hints []string
	for _, list := range [][]corev1.Pod{f.members, f.pods} {
		if shared := storage.Shared(list); shared != "" {
			hints = append(hints, shared)
		}
	}
	if len(hints) == 0 {
		return ""
	}
	return "; " + strings.Join(hints, "; ")
}

// storageStatus is what is written down of the storage.
func storageStatus(f *facts) *v1alpha1.StorageStatus {
	state := f.state()
	status := v1alpha1.StorageStatus{Version: state.Version(), Volumes: state.Volumes()}
	if status.Version == "" && len(status.Volumes) == 0 {
		return nil
	}
	return &status
}

// storageRollout is the condition Updated while a change of the etcd pods is being
// rolled out, or nil.
func storageRollout(f *facts) *metav1.Condition {
	r := f.state().Rollout()
	var condition metav1.Condition
	switch {
	case r == nil:
		return nil
	case r.Pending:
		condition = isFalse(v1alpha1.ReasonRollingOut, "The StatefulSet %q has not been acted on yet", f.etcd.Name)
	case len(r.Failing) > 0:
		condition = isFalse(v1alpha1.ReasonNodeFailing,
			"No other etcd member is replaced, because an updated one cannot start: %s. "+
				"'kubectl describe pod' and 'kubectl logs --previous' say more; setting the spec back undoes the change",
			join(r.Failing))
	default:
		condition = isFalse(v1alpha1.ReasonRollingOut, "etcd members are being replaced; starting: %s; to be replaced: %s",
			join(r.Starting), join(r.Old))
	}
	return &condition
}
