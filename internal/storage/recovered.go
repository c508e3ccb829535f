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
	serving := 0
	for _, volume := range s.current() {
		if s.serves(volume) {
			serving++
		}
	}
	return s.Survives(active) && serving >= Quorum(s.layout().wanted)
}

// Survives says that a member has the volume that was written down for it.
func (s *State) Survives(member string) bool {
	layout, lost := s.layout(), s.Lost()
	for ordinal := range layout.wanted {
		claim := layout.claim(ordinal)
		if layout.member(ordinal) == member {
			return !slices.Contains(lost, claim) &&
				slices.ContainsFunc(s.Vault.StorageVolumes(), func(v v1alpha1.StorageVolume) bool { return v.Claim == claim })
		}
	}
	return false
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
