// Package storage compares the volumes of a Vault's storage with the spec, and keeps
// it from being made, changed or founded where that would harm the data on them.
//
// Check is the gate before a release, ApplyRetention the last step before an uninstall, and
// Reconciler keeps empty members from founding a second cluster, makes volumes larger, and makes
// StatefulSets anew whose template of claims has changed.
package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
)

// State is what exists of the storage of a Vault.
type State struct {
	Vault *v1alpha1.Vault
	// Set is the StatefulSet that was made for this Vault, or nil.
	Set *appsv1.StatefulSet
	// Members are the pods, by name.
	Members []corev1.Pod
	// Claims are those that the name of a member leads to, by ordinal.
	Claims map[int]*corev1.PersistentVolumeClaim
}

// Load reads the state of the Vault's storage.
func Load(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (*State, error) {
	s := &State{Vault: vault}
	if vault.HasExternal() {
		return s, nil
	}
	var set appsv1.StatefulSet
	layout := layoutOf(vault)
	err := reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: layout.set}, &set)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading StatefulSet %q: %w", layout.set, err)
	}
	// One of a Vault of the same name that was deleted is about to go.
	if err == nil && metav1.IsControlledBy(&set, vault) {
		s.Set = &set
	}
	if s.Members, err = pods.WithLabels(ctx, reader, vault, layout.labels); err != nil {
		return nil, err
	}
	s.Claims, err = Claims(ctx, reader, vault)
	return s, err
}

// Claims are the volume claims of a Vault's storage, by the ordinal of the pod.
func Claims(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) (map[int]*corev1.PersistentVolumeClaim, error) {
	var list corev1.PersistentVolumeClaimList
	layout := layoutOf(vault)
	err := reader.List(ctx, &list, client.InNamespace(vault.Namespace), client.MatchingLabels(layout.labels))
	if err != nil {
		return nil, fmt.Errorf("listing the volume claims of Vault %s: %w", vault.Name, err)
	}
	result := map[int]*corev1.PersistentVolumeClaim{}
	for i := range list.Items {
		if ordinal, found := layout.ordinal(list.Items[i].Name); found {
			result[ordinal] = &list.Items[i]
		}
	}
	return result, nil
}

// RunningNodes is how many nodes of a Vault may run now. When it is not known of integrated
// storage that exists it is how many do.
func RunningNodes(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (int32, error) {
	if !vault.HasRaft() || vault.Status.Raft != nil {
		return vault.RunningNodes(), nil
	}
	s, err := Load(ctx, reader, vault)
	if err != nil || s.Set == nil || s.Set.Spec.Replicas == nil || s.replaceable() {
		return vault.WantedNodes(), err
	}
	return max(*s.Set.Spec.Replicas, vault.WantedNodes()), nil
}

// bound says that the claim has, or had, a volume that may hold data.
func bound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" || claim.Status.Phase == corev1.ClaimBound || claim.Status.Phase == corev1.ClaimLost
}

// boundOrdinals are the members whose claims may hold data, in order.
func (s *State) boundOrdinals() []int {
	var ordinals []int
	for ordinal, claim := range s.Claims {
		if bound(claim) {
			ordinals = append(ordinals, ordinal)
		}
	}
	slices.Sort(ordinals)
	return ordinals
}

// claimNames are the names of the claims of these members.
func (s *State) claimNames(ordinals []int) string {
	var names []string
	for _, ordinal := range ordinals {
		names = append(names, s.Claims[ordinal].Name)
	}
	return strings.Join(names, ", ")
}

// Lost are the claims of members that were ready with them and whose volumes are
// gone or about to go: the claim is missing, being deleted, or another one.
func (s *State) Lost() []string {
	uids := map[string]types.UID{}
	for _, claim := range s.Claims {
		if claim.DeletionTimestamp == nil {
			uids[claim.Name] = claim.UID
		}
	}
	var lost []string
	layout := s.layout()
	for _, volume := range s.Vault.StorageVolumes() {
		ordinal, found := layout.ordinal(volume.Claim)
		if found && ordinal < layout.wanted && uids[volume.Claim] != volume.UID {
			lost = append(lost, volume.Claim)
		}
	}
	return lost
}

// MostLost says that so many volumes are lost that those which are left have no
// quorum: what is empty would decide. New nodes of integrated storage have no data to count.
func (s *State) MostLost() bool {
	lost, layout := len(s.Lost()), s.layout()
	members := layout.wanted
	if layout.resizes {
		members = min(members, len(s.Vault.StorageVolumes()))
	}
	return lost > 0 && lost >= Quorum(members)
}

// Quorum is how many of the members are a majority.
func Quorum(members int) int { return members/2 + 1 }

// Volumes are those to write down: the claims that members have been ready with.
// While most of those that were written down are lost nothing new is believed.
func (s *State) Volumes() []v1alpha1.StorageVolume {
	if s.MostLost() {
		return s.Vault.StorageVolumes()
	}
	return s.current()
}

// current are the claims that members are ready with now, and for others those written down.
func (s *State) current() []v1alpha1.StorageVolume {
	known := s.Vault.StorageVolumes()
	var volumes []v1alpha1.StorageVolume
	layout := s.layout()
	for ordinal := range layout.wanted {
		name := layout.claim(ordinal)
		before := slices.IndexFunc(known, func(v v1alpha1.StorageVolume) bool { return v.Claim == name })
		claim, pod := s.Claims[ordinal], s.member(ordinal)
		switch {
		// The pod is made after the claim; one that is older is of another claim.
		case claim != nil && claim.DeletionTimestamp == nil && pod != nil && Ready(pod) &&
			!pod.CreationTimestamp.Before(&claim.CreationTimestamp):
			volumes = append(volumes, v1alpha1.StorageVolume{Claim: name, UID: claim.UID})
		case before >= 0:
			volumes = append(volumes, known[before])
		}
	}
	return volumes
}

// member is the pod of a member, or nil.
func (s *State) member(ordinal int) *corev1.Pod {
	name := s.layout().member(ordinal)
	for i := range s.Members {
		if s.Members[i].Name == name {
			return &s.Members[i]
		}
	}
	return nil
}

// Ready says that the pod's readiness probe succeeds.
func Ready(pod *corev1.Pod) bool {
	ready := condition(pod, corev1.PodReady)
	return ready != nil && ready.Status == corev1.ConditionTrue
}

// condition returns the pod's condition of a type, or nil.
func condition(pod *corev1.Pod, conditionType corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == conditionType {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}
