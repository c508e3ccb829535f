package vaultstatus

import (
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// storageFacts is what was found of the storage.
type storageFacts struct {
	// set is the StatefulSet with the volumes, or nil.
	set *appsv1.StatefulSet
	// members are its pods, claims are its volumes by member, and alarm is what etcd has
	// raised.
	members []corev1.Pod
	claims  map[int]*corev1.PersistentVolumeClaim
	alarm   string
	// waits is what the rollout of etcd, or of nodes with integrated storage, waits for, as far as this replica knows.
	waits string
	// notGrown is why volumes cannot be made larger, as far as this replica knows, or nil.
	notGrown error
	// causes are what events say of objects of the storage that have failed.
	causes map[types.UID][]string
	// disagree says which members are of which etcd cluster while they are not of one.
	disagree string
}

// waiting is what a rollout waits for as the end of a message, or nothing.
func (f *storageFacts) waiting() string {
	if f.waits == "" {
		return ""
	}
	return "; waiting: " + f.waits
}

// storageView is all that the status tells of the storage.
type storageView struct {
	// ready is the condition StorageReady.
	ready metav1.Condition
	// works says that nodes can read and write, as far as is known.
	works bool
	// refusal is why the spec does not fit what exists, or nil.
	refusal error
	// deployed says that what is deployed of it was rendered from the spec as it is now.
	deployed bool
	// rollout is the condition Updated while a change of its pods is being rolled out, or
	// nil.
	rollout *metav1.Condition
	// changes says that what is told of it changes without an event.
	changes bool
	// status is what is written down of it.
	status *v1alpha1.StorageStatus
	// ownVolumes says that each node has data of its own, so that one alone may be
	// initialized.
	ownVolumes bool
}

// storageInputs are what a storageView is computed from.
type storageInputs struct {
	storageFacts
	// vault has the storage in its status that was written down last.
	vault *v1alpha1.Vault
	// before is the condition StorageReady as it was, or nil, and nodes are the pods of the
	// Vault nodes.
	before *metav1.Condition
	nodes  []corev1.Pod
	// updated is the condition Updated as it was, or nil.
	updated *metav1.Condition
	// states are those of the nodes, and removed are the pods of those that the cluster of
	// integrated storage has removed.
	states  []v1alpha1.NodeStatus
	removed map[string]bool
	now     time.Time
}

// viewStorage computes what is told of the storage of nodes with these states.
func viewStorage(f *facts, states []v1alpha1.NodeStatus) storageView {
	vault := *f.vault
	vault.Status.Storage = f.previous.Storage
	in := &storageInputs{
		storageFacts: f.storageFacts, vault: &vault, nodes: f.pods, now: f.now,
		before:  meta.FindStatusCondition(f.previous.Conditions, v1alpha1.StorageReadyCondition),
		updated: meta.FindStatusCondition(f.previous.Conditions, v1alpha1.UpdatedCondition),
		states:  states, removed: map[string]bool{},
	}
	for i := range f.pods {
		in.removed[f.pods[i].Name] = f.observations[f.pods[i].UID].Removed
	}
	switch {
	case vault.HasExternal():
		return in.external()
	case vault.HasRaft():
		return in.raft()
	default:
		return in.etcd()
	}
}

// storageHint says that the storage may be why nodes are not as they should.
func storageHint(f *facts) string {
	if f.storage.works {
		return ""
	}
	return "; the storage is not ready, see the condition " + v1alpha1.StorageReadyCondition
}

// state is what exists of the storage, with the status that was written last.
func (in *storageInputs) state() *storage.State {
	return &storage.State{Vault: in.vault, Set: in.set, Members: in.members, Claims: in.claims}
}

// etcd is the view of an etcd cluster.
func (in *storageInputs) etcd() storageView {
	state, members := in.state(), in.etcdMembers()
	view := storageView{
		ready: in.etcdReady(state, members), works: members == nil || members.hasQuorum() && !members.full,
		refusal: state.Refusal(), deployed: true, rollout: in.etcdRollout(state),
		changes: members != nil && len(members.missing) > 0,
	}
	view.changes = view.changes || view.rollout != nil // how long it takes
	if in.set != nil {
		// An older operator wrote none here.
		of, ok := in.set.Annotations[v1alpha1.GenerationAnnotation]
		view.deployed = !ok || of == strconv.FormatInt(in.vault.Generation, 10)
	}
	status := v1alpha1.StorageStatus{
		Version: state.Version(), Volumes: state.Volumes(), VolumeSize: state.VolumeSize(),
	}
	if status.Version != "" || len(status.Volumes) > 0 {
		view.status = &status
	}
	return view
}

// etcdMembers is what is known of the etcd members of a Vault.
type etcdMembers struct {
	all, quorum int
	// missing are the members that are not ready, each with the reason if there
	// is one. failing says that one of them does not start by itself.
	missing []string
	failing bool
	// full says that etcd refuses to write.
	full bool
}

func (m *etcdMembers) hasQuorum() bool { return m.all-len(m.missing) >= m.quorum }

// etcdMembers returns nil while there is no etcd.
func (in *storageInputs) etcdMembers() *etcdMembers {
	if in.set == nil || in.set.Spec.Replicas == nil {
		return nil
	}
	all := in.vault.WantedMembers()
	m := &etcdMembers{all: all, quorum: all/2 + 1, full: in.alarm == etcd.NoSpace}
	for _, member := range in.state().Missing(in.now, func(uid types.UID) []string { return in.causes[uid] }) {
		if member.Why != "" {
			member.Name += " (" + member.Why + ")"
		}
		m.missing = append(m.missing, member.Name)
		m.failing = m.failing || member.Failing
	}
	return m
}

func (in *storageInputs) etcdReady(state *storage.State, m *etcdMembers) metav1.Condition {
	if wrong := in.etcdWrong(state); wrong != nil {
		return *wrong
	}
	if m == nil {
		return isUnknown(v1alpha1.ReasonNotObserved, "The etcd StatefulSet %q does not exist yet", in.vault.EtcdName())
	}
	ready, shared := m.all-len(m.missing), sharedHint(in.members, in.nodes)+growingHint(state)
	switch {
	case m.hasQuorum() && m.full:
		return isFalse(v1alpha1.ReasonNoSpace,
			"etcd has used up the space that its volumes allow: Vault can read and delete, but not write, "+
				"and no other node can become active. Delete what is not needed: then etcd is compacted, "+
				"defragmented and its alarm disarmed within half an hour, or sooner by hand. Where more than 512 MiB "+
				"are in use it is not defragmented: make the volumes larger, or do it by hand as docs/recovery.md says")
	case len(m.missing) == 0:
		return isTrue(v1alpha1.ReasonQuorum, "%d of %d etcd members are ready%s", ready, m.all, shared)
	case m.hasQuorum():
		return isTrue(v1alpha1.ReasonMembersNotReady, "%d of %d etcd members are ready, which is enough; not ready: %s%s",
			ready, m.all, join(m.missing), shared)
	case in.firstStart() && m.failing:
		return isFalse(v1alpha1.ReasonMembersFailing, "%d of %d etcd members are ready, %d are needed; not ready: %s",
			ready, m.all, m.quorum, join(m.missing))
	case in.firstStart():
		// Members that start for the first time are not a failure.
		return isUnknown(v1alpha1.ReasonNodesStarting, "%d of %d etcd members are ready, %d are needed; not ready: %s",
			ready, m.all, m.quorum, join(m.missing))
	default:
		return isFalse(v1alpha1.ReasonNoQuorum, "%d of %d etcd members are ready, %d are needed; not ready: %s",
			ready, m.all, m.quorum, join(m.missing))
	}
}

// firstStart says that the storage has never had a quorum.
func (in *storageInputs) firstStart() bool {
	return len(in.vault.StorageVolumes()) == 0 &&
		(in.before == nil || in.before.Status == metav1.ConditionUnknown ||
			in.before.Reason == v1alpha1.ReasonMembersFailing || in.before.Reason == v1alpha1.ReasonVolumesMismatch)
}

// etcdWrong is the condition while etcd is not the one that belongs to this Vault and its
// data, or nil.
func (in *storageInputs) etcdWrong(state *storage.State) *metav1.Condition {
	var condition metav1.Condition
	switch wrong := problem.In(state.Refusal()); {
	case in.set == nil && wrong != nil:
		condition = refused(wrong)
	case state.MostLost():
		condition = isFalse(v1alpha1.ReasonVolumesLost,
			"The volumes of most etcd members are gone, being deleted or new: %s. A member that starts with an empty "+
				"volume is kept from founding an empty cluster; bring the volumes back, or give their data up as "+
				"docs/recovery.md says", join(state.Lost()))
	case in.disagree != "":
		condition = isFalse(v1alpha1.ReasonMembersDisagree,
			"The etcd members are not of one cluster: %s. Vault may read other data from each", in.disagree)
	default:
		return nil
	}
	return &condition
}

// growingHint says which volumes are being made larger.
func growingHint(state *storage.State) string {
	if growing := state.Growing(); growing != "" {
		return "; volumes are being made larger: " + growing
	}
	return ""
}

// sharedHint says which pods would be lost together with one Kubernetes node.
func sharedHint(lists ...[]corev1.Pod) string {
	var hints []string
	for _, list := range lists {
		if shared := storage.Shared(list); shared != "" {
			hints = append(hints, shared)
		}
	}
	if len(hints) == 0 {
		return ""
	}
	return "; " + strings.Join(hints, "; ")
}

// stalledAfter is how long a rollout of etcd may go without a member that is made or becomes
// ready. One that receives all data from the others starts within a minute or two.
const stalledAfter = 10 * time.Minute

// etcdRollout is the condition Updated while a change of the etcd pods is being
// rolled out, or nil.
func (in *storageInputs) etcdRollout(state *storage.State) *metav1.Condition {
	r := state.Rollout(in.updated != nil && in.updated.Status == metav1.ConditionTrue)
	if r == nil {
		return nil
	}
	const where = "starting: %s; to be replaced: %s%s"
	var condition metav1.Condition
	switch {
	case r.Pending:
		condition = isFalse(v1alpha1.ReasonRollingOut, "The StatefulSet %q has not been acted on yet", state.Set.Name)
	case len(r.Failing) > 0:
		condition = isFalse(v1alpha1.ReasonNodeFailing,
			"No other etcd member is replaced, because an updated one cannot start: %s. "+
				"'kubectl describe pod' and 'kubectl logs --previous' say more; setting the spec back undoes the change",
			join(r.Failing))
	case in.stalled(r):
		condition = isFalse(v1alpha1.ReasonRolloutStalled, "The rollout of etcd has made no progress for ten minutes; "+where+
			". It goes on when all members that are not to be replaced next are ready; "+
			"'kubectl describe pod' and 'kubectl logs' say more, and setting the spec back undoes the change",
			join(r.Starting), join(r.Old), in.waiting())
	default:
		condition = isFalse(v1alpha1.ReasonRollingOut, "etcd members are being replaced one by one; "+where,
			join(r.Starting), join(r.Old), in.waiting())
	}
	return &condition
}

// stalled says that nothing has become of the rollout for long, since it began or a member was
// replaced.
func (in *storageInputs) stalled(r *storage.Rollout) bool {
	if in.updated == nil || in.updated.Status != metav1.ConditionFalse {
		return false
	}
	last := in.updated.LastTransitionTime.Time
	if r.Progress.After(last) {
		last = r.Progress
	}
	return in.now.Sub(last) >= stalledAfter
}
