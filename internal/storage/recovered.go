package storage

import (
	"slices"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Recovered says that nodes with integrated storage, most of whose volumes were lost, serve what
// is left of the data: the active node is on a volume that was known before, and with it a
// majority is unsealed on volumes that stay. active is the name of the only active node, or
// empty. A node with an empty volume is unsealed by joining the active one, or by being
// initialized for itself; then it would be active as well.
func (s *State) Recovered(active string) bool {
	if !s.MostLost() || !s.Vault.HasRaft() {
		return false
	}
	leads, lost := false, s.Lost()
	current := s.current()
	for ordinal := range s.layout().wanted {
		claim := s.layout().claim(ordinal)
		known := slices.ContainsFunc(s.Vault.StorageVolumes(), func(v v1alpha1.StorageVolume) bool {
			return v.Claim == claim
		})
		if active != "" && s.layout().member(ordinal) == active && known && !slices.Contains(lost, claim) {
			leads = true
		}
	}
	serving := 0
	for _, volume := range current {
		if s.serves(volume) {
			serving++
		}
	}
	return leads && serving >= Quorum(s.layout().wanted)
}

// serves says that a member is ready with this volume.
func (s *State) serves(volume v1alpha1.StorageVolume) bool {
	for ordinal, claim := range s.Claims {
		if claim.Name == volume.Claim {
			pod := s.member(ordinal)
			return claim.UID == volume.UID && claim.DeletionTimestamp == nil && pod != nil && Ready(pod)
		}
	}
	return false
}

// RecoveredVolumes are the volumes to write down when the storage is Recovered.
func (s *State) RecoveredVolumes() []v1alpha1.StorageVolume { return s.current() }
