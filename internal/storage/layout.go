package storage

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// layout is how a kind of storage keeps its volumes: each member is a pod of one
// StatefulSet, and has one claim.
type layout struct {
	// declared says that there is one. An external storage has none.
	declared bool
	// field is where the spec has it, and membersField where it has the number of members.
	field, membersField string
	// whole and members are what messages call it and them.
	whole, members string
	// set is the name of the StatefulSet, and labels are those of its pods and claims.
	set    string
	labels map[string]string
	// wanted is the number of members. resizes says that it can be another later.
	wanted  int
	resizes bool
	// volumeSize, storageClassName and whenDeleted are those of the spec.
	volumeSize       *resource.Quantity
	storageClassName *v1alpha1.ObjectName
	whenDeleted      v1alpha1.DataRetention
	// version of what runs in the pods, where that is not Vault.
	version string
}

// layoutOf returns the layout of a Vault's storage.
func layoutOf(vault *v1alpha1.Vault) *layout {
	if raft := vault.Spec.Storage.Raft; raft != nil {
		return &layout{
			declared: true, field: "spec.storage.raft", membersField: "spec.nodes", whole: "a Vault", members: "nodes",
			set: vault.Name, labels: vault.PodLabels(), wanted: int(vault.RunningNodes()), resizes: true,
			volumeSize: raft.VolumeSize, storageClassName: raft.StorageClassName, whenDeleted: raft.WhenDeleted,
		}
	}
	if vault.HasExternal() {
		return &layout{} // it has no volumes, and nothing runs for it
	}
	l := &layout{
		field: "spec.storage.etcd", membersField: "spec.storage.etcd.nodes", whole: "an etcd", members: "etcd members",
		set: vault.EtcdName(), labels: vault.EtcdLabels(), wanted: vault.WantedMembers(),
	}
	etcd := vault.EtcdSpec()
	l.declared, l.version = true, etcd.Version
	l.volumeSize, l.storageClassName, l.whenDeleted = etcd.VolumeSize, etcd.StorageClassName, etcd.WhenDeleted
	if l.volumeSize == nil {
		l.volumeSize = new(resource.MustParse(v1alpha1.DefaultEtcdVolumeSize))
	}
	return l
}

// layout is how the storage keeps its volumes. Those of integrated storage without volumeSize may have any size, unless
// they were made of one that is not in the spec any more.
func (s *State) layout() *layout {
	l := layoutOf(s.Vault)
	if l.volumeSize != nil || !s.Vault.HasRaft() || s.Set == nil {
		return l
	}
	byDefault := resource.MustParse(v1alpha1.DefaultRaftVolumeSize)
	if template := request(claimTemplate(s.Set)); !template.IsZero() && template.Cmp(byDefault) != 0 {
		l.volumeSize = &byDefault
	}
	return l
}

// member is the name of the pod of a member, and claim that of its volume claim.
func (l *layout) member(ordinal int) string { return l.set + "-" + strconv.Itoa(ordinal) }

func (l *layout) claim(ordinal int) string { return "data-" + l.member(ordinal) }

// ordinal is the number of the member of a claim.
func (l *layout) ordinal(claim string) (ordinal int, found bool) {
	number, _ := strings.CutPrefix(claim, "data-"+l.set+"-")
	ordinal, err := strconv.Atoi(number)
	return ordinal, err == nil && claim == l.claim(ordinal)
}

// fits says that the volumes of so many members, which do not run, can become those of the
// members that are wanted.
func (l *layout) fits(members int) bool {
	return members == l.wanted || l.resizes && members < l.wanted
}
