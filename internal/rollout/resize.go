package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/login"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/statuspart"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// fieldOwner owns the fields of the status that this controller writes.
	fieldOwner = client.FieldOwner("vault-operator-rollout")
	// peersEvery is how often the peers are read at rest: Vault's audit devices record it.
	peersEvery = time.Minute
	// followUp is when it is looked what has become of a step.
	followUp = time.Second
	// ghostTime is for how long a node is unsealed and no peer before that is believed. One
	// that joins is, for a moment.
	ghostTime = time.Minute
	// healAfter is the least age of a volume that is replaced, so that a node that is lost again
	// and again does not keep the cluster busy.
	healAfter = 2 * time.Minute
	// stepDownEvery is between two step-downs of the same node, and handoverTime for how long it is
	// waited that another one is active.
	stepDownEvery = time.Minute
	handoverTime  = 10 * time.Second
)

// Reasons of events.
const (
	eventPeerRemoved = "PeerRemoved"
	eventHealed      = "NodeHealed"
	eventSteppedDown = "SteppedDown"
	eventClaimGone   = "VolumeDeleted"
)

// view is what the active node has told of its peers.
type view struct {
	read  time.Time
	peers []vaultclient.Peer
	// refused says that the operator may not read them, and known that they were read.
	refused, known bool
	// ghosts is since when nodes are unsealed and no peers.
	ghosts map[types.UID]time.Time
}

// request is one that was made to a node.
type request struct {
	pod types.UID
	at  time.Time
}

// pause is when there is something to do without an event.
func (r *Reconciler) pause(c change) time.Duration {
	switch {
	case c.Why != "":
		return check
	case r.Access != nil:
		return peersEvery
	default:
		return 0
	}
}

// peers reads the peers, if those that are known are older than maxAge.
func (r *Reconciler) peers(ctx context.Context, vault *v1alpha1.Vault, c *cluster, maxAge time.Duration) *view {
	key, now := client.ObjectKeyFromObject(vault), r.Clock.Now()
	r.mu.Lock()
	old := r.views[key]
	r.mu.Unlock()
	if old == nil {
		old = &view{}
	}
	if old.known && now.Sub(old.read) < maxAge || !old.known && now.Sub(old.read) < min(maxAge, followUp) {
		return old
	}
	v := &view{read: now, ghosts: old.ghosts}
	if r.Access == nil {
		v.refused = true
		return v
	}
	var err error
	v.peers, err = r.Access.Peers(ctx, vault)
	v.known = err == nil
	// Right after the start, for one, the operator has not logged in yet.
	v.refused = errors.Is(err, login.ErrNoAccess) && (!vault.HasOperatorLogin() ||
		meta.IsStatusConditionFalse(vault.Status.Conditions, v1alpha1.AuthorizedCondition))
	if err != nil && !errors.Is(err, login.ErrNoAccess) {
		log.FromContext(ctx).V(1).Info("The peers are not known", "error", err.Error())
	}
	if v.known {
		v.noteGhosts(vault, c, now)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.views == nil {
		r.views = map[types.NamespacedName]*view{}
	}
	r.views[key] = v
	return v
}

// noteGhosts notes which nodes are unsealed and no peers.
func (v *view) noteGhosts(vault *v1alpha1.Vault, c *cluster, now time.Time) {
	ghosts := map[types.UID]time.Time{}
	for _, n := range c.nodes {
		if n.State != probe.Standby || v.at(vault, n.Ordinal) != nil {
			continue
		}
		ghosts[n.UID] = now
		if since, seen := v.ghosts[n.UID]; seen {
			ghosts[n.UID] = since
		}
	}
	v.ghosts = ghosts
}

// at returns the peer that the node of that number is, or nil.
func (v *view) at(vault *v1alpha1.Vault, ordinal int) *vaultclient.Peer {
	for i := range v.peers {
		if v.peers[i].Address == vault.NodeAddress(ordinal) {
			return &v.peers[i]
		}
	}
	return nil
}

// membership puts together what is known.
func (r *Reconciler) membership(vault *v1alpha1.Vault, c *cluster, v *view) membership {
	m := membership{
		nodes: slices.Clone(c.nodes), wanted: int(vault.WantedNodes()), running: int(vault.RunningNodes()),
		founded: vault.Status.Initialized || len(vault.StorageVolumes()) > 0, known: v.known, refused: v.refused,
		told: vault.Status.Raft != nil, stuck: map[int]string{},
	}
	if c.set != nil && c.set.Replicas != nil {
		m.replicas = int(*c.set.Replicas)
	}
	if vault.Status.Raft == nil {
		m.running = m.replicas
	}
	for ordinal, claim := range c.claims {
		if claim.Annotations[v1alpha1.RemovedNodeAnnotation] != "" {
			m.removed = append(m.removed, ordinal)
		}
		if claim.DeletionTimestamp != nil {
			m.stuck[ordinal] = "it is being deleted"
		}
	}
	slices.Sort(m.removed)
	if v.known {
		var complete bool
		m.led, complete = m.addPeers(vault, v, r.Clock.Now())
		m.known = m.led && complete
	}
	if !m.known {
		for i := range m.nodes {
			m.nodes[i].Ghost = false // it may be a peer of another address, or of another leader
		}
	}
	return m
}

// addPeers adds what the peers tell. It says whether the node that is active leads them, and whether each is known to
// be one node.
func (m *membership) addPeers(vault *v1alpha1.Vault, v *view, now time.Time) (led, complete bool) {
	complete = true
	for i := range m.nodes {
		n := &m.nodes[i]
		peer := v.at(vault, n.Ordinal)
		if peer == nil {
			since, seen := v.ghosts[n.UID]
			n.Ghost = seen && n.State == probe.Standby && now.Sub(since) >= ghostTime
			n.Settled = false
			continue
		}
		n.Peer, n.Leader, n.Settled = peer.ID, peer.Leader, peer.Voter
		led = led || peer.Leader && n.State == probe.Active
	}
	for _, peer := range v.peers {
		if peer.Voter {
			m.voters++
		}
		ordinal, found := vault.NodeAt(peer.Address)
		if !found {
			complete = false // it may be any node
			continue
		}
		if ordinal >= m.running && m.at(ordinal) == nil {
			m.away, m.counted = append(m.away, peer), append(m.counted, ordinal)
		}
	}
	return led, complete
}

// keepMembers does one step, if there is one, and tells in the status how far it has come.
func (r *Reconciler) keepMembers(ctx context.Context, vault *v1alpha1.Vault, c *cluster) (change, error) {
	age := peersEvery
	if vault.WantedNodes() < vault.RunningNodes() {
		age = check
	}
	v := r.peers(ctx, vault, c, age)
	m := r.membership(vault, c, v)
	d := decideMembers(m)
	if d.Do != "" {
		var live v1alpha1.Vault
		if err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(vault), &live); err != nil {
			return change{}, err
		}
		if live.UID != vault.UID || !live.HasRaft() || live.DeletionTimestamp != nil {
			return change{}, nil
		}
		now, err := r.live(ctx, &live, c)
		if err != nil || now.set == nil {
			return change{}, err
		}
		vault, c, v = &live, now, r.peers(ctx, &live, now, 0)
		m = r.membership(vault, c, v)
		d = r.step(ctx, vault, c, &m)
	}
	running := m.running
	if d.Do == run {
		running = d.Running
	}
	err := r.tell(ctx, vault, m, v, d, running)
	if apierrors.IsConflict(err) { // of somebody who was faster; what was done shows
		return change{Why: "the status has changed"}, nil
	}
	return d, err
}

// step does one step, and returns what was done, or why nothing was. A claim that cannot be deleted keeps nothing else
// from being done.
func (r *Reconciler) step(ctx context.Context, vault *v1alpha1.Vault, c *cluster, m *membership) change {
	for {
		d := decideMembers(*m)
		if d.Pod != "" {
			// A node that goes may be needed, or could not come back.
			why := r.holdsBack(vault, c.nodes, d.Pod, false)
			if why == "" && vault.Spec.SealMigration != nil {
				why = "the seal is being migrated"
			}
			if why != "" {
				return change{Why: why}
			}
		}
		done, err := r.act(ctx, vault, c, d)
		switch {
		case err == nil && done:
			return d
		case err == nil:
			return change{Why: fmt.Sprintf("%s has just been asked to: %s", vault.NodeName(d.Ordinal), d.Do)}
		}
		log.FromContext(ctx).Error(err, "A step has failed", "step", string(d.Do))
		if d.Do != deleteClaim {
			return change{Why: fmt.Sprintf("%s: %v", d.Do, err)}
		}
		m.stuck[d.Ordinal] = err.Error()
	}
}

// act does what was decided, and says whether it has. To let other numbers of nodes run is told in the status alone.
func (r *Reconciler) act(ctx context.Context, vault *v1alpha1.Vault, c *cluster, d change) (bool, error) {
	name := vault.NodeName(d.Ordinal)
	switch d.Do {
	case deleteClaim:
		if err := r.deleteClaim(ctx, c.claims[d.Ordinal]); err != nil {
			return false, err
		}
		r.Recorder.Eventf(vault, corev1.EventTypeNormal, eventClaimGone,
			"The volume claim of %s is deleted: %s", name, d.Why)
	case run:
		if d.Running > d.Ordinal || d.Ordinal == 0 {
			return true, nil
		}
		return true, r.markClaim(ctx, c.claims[d.Ordinal])
	case stepDown:
		return r.requestStepDown(ctx, vault, d.Pod, name), nil
	case removePeer:
		if err := r.Access.RemovePeer(ctx, vault, d.Peer); err != nil {
			return false, err
		}
		if d.Ordinal < 0 {
			name = "a node that is gone"
		}
		r.Recorder.Eventf(vault, corev1.EventTypeNormal, eventPeerRemoved,
			"The peer of %s was removed from the cluster: %s", name, d.Why)
	case replaceVolume:
		return true, r.replaceVolume(ctx, vault, c, d)
	}
	return true, nil
}

// markClaim marks a claim for its deletion, which may follow when no pod has it any more.
func (r *Reconciler) markClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim == nil || claim.Annotations[v1alpha1.RemovedNodeAnnotation] != "" {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:"true"}}}`,
		claim.UID, v1alpha1.RemovedNodeAnnotation)
	if err := r.Patch(ctx, claim.DeepCopy(), client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("marking volume claim %q: %w", claim.Name, err)
	}
	return nil
}

func (r *Reconciler) deleteClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim == nil || claim.DeletionTimestamp != nil {
		return nil
	}
	err := r.Delete(ctx, claim, client.Preconditions{UID: &claim.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting volume claim %q: %w", claim.Name, err)
	}
	return nil
}

// replaceVolume deletes the claim of a node, which stays until its pod is gone, and the pod. The
// StatefulSet controller makes both again, and the node joins as another one.
func (r *Reconciler) replaceVolume(ctx context.Context, vault *v1alpha1.Vault, c *cluster, d change) error {
	claim := c.claims[d.Ordinal]
	if err := r.markClaim(ctx, claim); err != nil {
		return err
	}
	if err := r.deleteClaim(ctx, claim); err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: vault.NodeName(d.Ordinal)}}
	err := r.Delete(ctx, pod, client.Preconditions{UID: &d.Pod})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting pod %s, which joins anew: %w", pod.Name, err)
	}
	r.Recorder.Eventf(vault, corev1.EventTypeWarning, eventHealed,
		"Pod %s and its volume are replaced, so that its node joins the cluster anew: %s", pod.Name, d.Why)
	return nil
}

// requestStepDown has a node step down, unless that was tried a moment ago, and says whether it did.
func (r *Reconciler) requestStepDown(ctx context.Context, vault *v1alpha1.Vault, pod types.UID, name string) bool {
	key, now := client.ObjectKeyFromObject(vault), r.Clock.Now()
	r.mu.Lock()
	last := r.stepDowns[key]
	r.mu.Unlock()
	if r.Access == nil || last.pod == pod && now.Sub(last.at) < stepDownEvery {
		return false
	}
	err := r.Access.StepDown(ctx, vault, pod)
	if !errors.Is(err, login.ErrNoAccess) {
		// One that fails may have had its effect, and need not be made again at once.
		r.noteStepDown(key, request{pod, now})
	}
	if err != nil {
		log.FromContext(ctx).V(1).Info("The active node does not step down", "error", err.Error())
		return false
	}
	r.Recorder.Eventf(vault, corev1.EventTypeNormal, eventSteppedDown,
		"Pod %s was asked to step down, because it goes next", name)
	return true
}

func (r *Reconciler) noteStepDown(vault types.NamespacedName, made request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stepDowns == nil {
		r.stepDowns = map[types.NamespacedName]request{}
	}
	r.stepDowns[vault] = made
}

// handsOver says that the pod to delete is active and was just asked to step down. It is deleted
// as a standby node then, or, if it stays active, as it is.
func (r *Reconciler) handsOver(ctx context.Context, vault *v1alpha1.Vault, c *cluster, d decision) bool {
	i := slices.IndexFunc(c.nodes, func(n node) bool { return n.UID == d.Delete })
	if i < 0 || len(d.Without) == 0 || c.nodes[i].State != probe.Active {
		return false
	}
	if r.requestStepDown(ctx, vault, d.Delete, c.nodes[i].Name) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.stepDowns[client.ObjectKeyFromObject(vault)]
	return last.pod == d.Delete && r.Clock.Now().Sub(last.at) < handoverTime
}

// tell writes this controller's part of the status.
func (r *Reconciler) tell(
	ctx context.Context, vault *v1alpha1.Vault, m membership, v *view, d change, running int,
) error {
	if running < 1 {
		return nil // nothing is known of how many run
	}
	status := &v1alpha1.RaftStatus{Nodes: int32(running)}
	if v.known {
		for _, peer := range v.peers {
			if !peer.Voter {
				continue
			}
			name := message.Cut(peer.Address) // of what is no node of this Vault
			if ordinal, found := vault.NodeAt(peer.Address); found {
				name = vault.NodeName(ordinal)
			}
			status.Voters = append(status.Voters, name)
		}
		slices.Sort(status.Voters)
	}
	condition := resized(vault, m, d, running)
	w := statuspart.Writer{
		Client: r.Client, Recorder: r.Recorder, Clock: r.Clock, Owner: fieldOwner,
		Condition: v1alpha1.ResizedCondition, Field: "raft",
	}
	// An older number must not come back.
	return w.Write(ctx, vault, vault.Status.Raft, status, condition, true)
}

// resized is the condition Resized, or nil while nodes were never taken away.
func resized(vault *v1alpha1.Vault, m membership, d change, running int) *metav1.Condition {
	old := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.ResizedCondition)
	switch last := vault.NodeName(max(running-1, 0)); {
	case m.wanted > running, m.wanted == running && m.leftOver() != "":
		return &metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonResizing,
			Message: fmt.Sprintf("spec.nodes is %d and %d nodes may run: %s", m.wanted, running, d.Why)}
	case m.wanted == running && old == nil:
		return nil
	case m.wanted == running:
		return &metav1.Condition{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonResized,
			Message: fmt.Sprintf("%d nodes may run, as spec.nodes says", running)}
	case d.Refused:
		return &metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRemovalRefused,
			Message: fmt.Sprintf("spec.nodes is %d and %d nodes run: %s, because it is not authorized in this Vault. "+
				"Set spec.operatorLogin.enabled and run 'kubectl vault authorize %s'. Or find the ID of %s with "+
				"'kubectl exec -it %s-0 -- vault operator raft list-peers' and take it out with "+
				"'kubectl exec -it %s-0 -- vault operator raft remove-peer ID', with a token that may: the operator goes on "+
				"when the node tells that it was removed, for which it has to be unsealed when that is done. "+
				"Or set spec.nodes back", m.wanted, running, d.Why, vault.Name, last,
				vault.Name, vault.Name)}
	default:
		why := d.Why
		if d.Do != "" {
			why = fmt.Sprintf("%s: %s", d.Do, d.Why)
		}
		return &metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonResizing,
			Message: fmt.Sprintf("spec.nodes is %d and %d nodes may run; %s is taken out of the cluster next (%s)",
				m.wanted, running, last, why)}
	}
}
