package storage

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

// mismatch is the error for a spec that does not fit the storage that exists.
func mismatch(format string, args ...any) error {
	return problem.New(v1alpha1.StorageReadyCondition, v1alpha1.ReasonVolumesMismatch, format, args...)
}

// Check refuses a spec that does not fit the volumes that exist, or a version of
// etcd that is lower than the one its data was used with. It returns a *problem.Error
// for what the user has to fix, and another error for what the operator waits for.
func Check(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) error {
	s, err := Load(ctx, reader, vault)
	if err != nil {
		return err
	}
	if err := s.Refusal(); err != nil {
		return err
	}
	return s.pending()
}

// Refusal is why the spec does not fit the storage that exists, a *problem.Error, or nil.
func (s *State) Refusal() error {
	if !s.layout().declared {
		return nil
	}
	if s.Set != nil {
		if err := s.changeRefusal(); err != nil {
			return err
		}
		return s.versionRefusal()
	}
	for _, fits := range []func() error{s.membersFit, s.sizeFits, s.classFits} {
		if err := fits(); err != nil {
			return err
		}
	}
	return nil
}

// changeRefusal refuses a change of what the volumes of a living storage are made by. The
// API server does so as soon as the status has volumes.
func (s *State) changeRefusal() error {
	if s.replaceable() {
		return nil
	}
	layout, template := s.layout(), claimTemplate(s.Set)
	members := s.Set.Spec.Replicas
	const text = "%s cannot be changed: %s; set it back to %v"
	switch {
	case members != nil && !layout.resizes && !layout.fits(int(*members)):
		return mismatch(text, layout.membersField, s.whyKept(), *members)
	case deref(layout.storageClassName) != deref(template.Spec.StorageClassName):
		return mismatch(text, layout.field+".storageClassName", s.whyKept(),
			strconv.Quote(deref(template.Spec.StorageClassName)))
	}
	return s.sizeRefusal()
}

// membersFit compares the number of members with that of the volumes which an
// earlier Vault has left. A cluster of another size is another cluster: members
// with data and members without would be two, behind one Service.
func (s *State) membersFit() error {
	kept := s.keptOrdinals()
	if len(kept) == 0 {
		return nil
	}
	// The number is odd, so the highest ordinal tells it even if one is missing.
	members := kept[len(kept)-1] + 1
	members += 1 - members%2
	layout := s.layout()
	if raft := s.Vault.Status.Raft; raft != nil && raft.Nodes > 0 && members > int(raft.Nodes) {
		members = int(raft.Nodes) // of those beyond the cluster has got rid, one by one
	}
	const away = "delete these claims only if their data is not needed"
	switch {
	case !layout.fits(members):
		return mismatch("The volume claims %s hold the data of %s of %d members: set %s to %d instead of %d; %s",
			s.claimNames(kept), layout.whole, members, layout.membersField, members, layout.wanted, away)
	case len(kept) < Quorum(members):
		return mismatch("The volume claims %s hold the data of %d of %d %s, which is no quorum: "+
			"bring the other claims back; %s", s.claimNames(kept), len(kept), members, layout.members, away)
	}
	return nil
}

// leftOver says that a claim is of a node that the cluster has got rid of: nothing depends on it.
func (s *State) leftOver(ordinal int) bool {
	raft := s.Vault.Status.Raft
	return s.Vault.HasRaft() && raft != nil && raft.Nodes > 0 && ordinal >= int(raft.Nodes)
}

// keptOrdinals are those of the bound claims that are used again.
func (s *State) keptOrdinals() []int {
	return slices.DeleteFunc(s.boundOrdinals(), s.leftOver)
}

func (s *State) sizeFits() error {
	layout := s.layout()
	wanted := layout.volumeSize
	kept := s.keptOrdinals()
	if wanted == nil || len(kept) == 0 {
		return nil
	}
	size := func(ordinal int) resource.Quantity { return request(s.Claims[ordinal]) }
	smallest := slices.MinFunc(kept, func(a, b int) int { x := size(a); return x.Cmp(size(b)) })
	// One that was to be larger, and is not, may become what it is again.
	have, is := size(smallest), there(s.Claims[smallest])
	if wanted.Cmp(have) > 0 || wanted.Cmp(is) < 0 {
		return mismatch("Volume claim %s is of %s: set %s.volumeSize to %s instead of %s",
			s.Claims[smallest].Name, have.String(), layout.field, have.String(), wanted.String())
	}
	return nil
}

func (s *State) classFits() error {
	layout := s.layout()
	wanted := layout.storageClassName
	if wanted == nil {
		return nil // any default is right
	}
	for _, ordinal := range s.keptOrdinals() {
		if class := s.Claims[ordinal].Spec.StorageClassName; class != nil && *class != string(*wanted) {
			return mismatch("Volume claim %s is of StorageClass %q: set %s.storageClassName to %q instead of %q",
				s.Claims[ordinal].Name, *class, layout.field, *class, *wanted)
		}
	}
	return nil
}

func request(claim *corev1.PersistentVolumeClaim) resource.Quantity {
	return claim.Spec.Resources.Requests[corev1.ResourceStorage]
}

// pending is what has to happen before the storage can be made, or nil. Claims that are
// deleted together with an earlier StatefulSet would be taken for those to use.
func (s *State) pending() error {
	layout := s.layout()
	if !layout.declared {
		return nil
	}
	if s.mustReplace() {
		return fmt.Errorf("StatefulSet %q is being replaced, since its volume claims cannot be changed", layout.set)
	}
	if err := s.volumesPending(); err != nil {
		return err
	}
	// On the way back from another version an older status does not tell whether a
	// member has been ready with that.
	if s.Set != nil && s.Vault.Status.ObservedGeneration != s.Vault.Generation && !s.Vault.Spec.AllowDowngrade {
		wanted, deployed := s.wantedVersion(), deployedVersion(s.Set)
		if wanted != "" && vaultversion.Lower(wanted, deployed) {
			return fmt.Errorf("%s.version %s is lower than the deployed %s: "+
				"waiting until the status tells whether a member has been ready with that", layout.field, wanted, deployed)
		}
	}
	going := s.going(layout.set)
	if len(going) > 0 {
		slices.Sort(going)
		return fmt.Errorf("waiting until the volume claims %s of an earlier StatefulSet are deleted", s.claimNames(going))
	}
	return nil
}

// going are the ordinals of the claims that are deleted together with an earlier StatefulSet.
func (s *State) going(set string) []int {
	var ordinals []int
	for ordinal, claim := range s.Claims {
		owned := slices.ContainsFunc(claim.OwnerReferences, func(owner metav1.OwnerReference) bool {
			return owner.Kind == "StatefulSet" && owner.Name == set && (s.Set == nil || owner.UID != s.Set.UID)
		})
		if s.Set == nil && (owned || claim.DeletionTimestamp != nil) && !s.leftOver(ordinal) {
			ordinals = append(ordinals, ordinal)
		}
	}
	return ordinals
}

// replaceable says that the StatefulSet can be deleted and made again: no volume
// is bound, so no member ever ran.
func (s *State) replaceable() bool {
	return len(s.boundOrdinals()) == 0 && len(s.Vault.StorageVolumes()) == 0
}

func (s *State) whyKept() string {
	if kept := s.boundOrdinals(); len(kept) > 0 {
		return "the volume claims " + s.claimNames(kept) + " are bound"
	}
	return "members have been ready with their volumes"
}

// mustReplace says that the StatefulSet has to be made again, for its volume claims
// are not as the spec wants them and no volume is bound yet.
func (s *State) mustReplace() bool {
	layout := s.layout()
	if s.Set == nil || !layout.declared || !s.replaceable() {
		return false
	}
	wanted, template := deref(layout.storageClassName), claimTemplate(s.Set)
	differs := func(claim *corev1.PersistentVolumeClaim) bool {
		size := request(claim)
		return layout.volumeSize != nil && !size.IsZero() && size.Cmp(*layout.volumeSize) != 0
	}
	if wanted != deref(template.Spec.StorageClassName) || differs(template) {
		return true
	}
	for ordinal, claim := range s.Claims {
		if ordinal < layout.wanted &&
			(wanted != "" && deref(claim.Spec.StorageClassName) != wanted || differs(claim)) {
			return true
		}
	}
	return false
}

// claimTemplate is what the StatefulSet makes the volume claims of.
func claimTemplate(set *appsv1.StatefulSet) *corev1.PersistentVolumeClaim {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return &corev1.PersistentVolumeClaim{}
	}
	return &set.Spec.VolumeClaimTemplates[0]
}

func deref[T ~string](text *T) string {
	if text == nil {
		return ""
	}
	return string(*text)
}

// versionRefusal refuses a version of the storage that is lower than one that a member
// was ready with.
func (s *State) versionRefusal() error {
	layout, storage := s.layout(), s.Vault.Status.Storage
	if s.Vault.Spec.AllowDowngrade || layout.version == "" || storage == nil ||
		!vaultversion.Lower(layout.version, storage.Version) {
		return nil
	}
	return problem.New(v1alpha1.UpdatedCondition, v1alpha1.ReasonDowngradeRefused,
		"%s.version %s is refused: a member has been ready with %s, and a lower version may not read "+
			"the data that it left. Set it to %s or higher, or set spec.allowDowngrade",
		layout.field, layout.version, storage.Version, storage.Version)
}

// imageVersion is the version in the tag of an etcd image.
var imageVersion = regexp.MustCompile(`:v([0-9][^:/@]*)$`)

// deployedVersion is the etcd version that a StatefulSet was rendered from.
func deployedVersion(set *appsv1.StatefulSet) string {
	if version := set.Annotations[v1alpha1.VersionAnnotation]; version != "" {
		return version
	}
	for _, container := range set.Spec.Template.Spec.Containers {
		if match := imageVersion.FindStringSubmatch(container.Image); match != nil {
			return match[1]
		}
	}
	return ""
}

// Version is the one to write down: the highest with which a member has been ready.
func (s *State) Version() string {
	known := ""
	if s.Vault.Status.Storage != nil {
		known = s.Vault.Status.Storage.Version
	}
	if s.Set == nil || s.Set.Status.ObservedGeneration != s.Set.Generation {
		return known // which pods are of it is not known yet
	}
	deployed := deployedVersion(s.Set)
	if deployed == "" || !slices.ContainsFunc(s.Members, func(pod corev1.Pod) bool {
		return Ready(&pod) && pod.Labels[appsv1.StatefulSetRevisionLabel] == s.Set.Status.UpdateRevision
	}) {
		return known
	}
	if s.Vault.Spec.AllowDowngrade || vaultversion.Lower(known, deployed) {
		return strings.TrimPrefix(deployed, "v")
	}
	return known
}

// EtcdVersion is the version of etcd that the spec wants. Where it names none an etcd that works
// keeps its own: the default of another operator must not replace its members.
func EtcdVersion(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (string, error) {
	s, err := Load(ctx, reader, vault)
	if err != nil {
		return "", err
	}
	return s.wantedVersion(), nil
}

// wantedVersion is the version that the storage is to have, where that is not Vault. That which a
// member has been ready with comes before that which is deployed, and one that no member is ready
// with does not count: it may be one that was mistyped.
func (s *State) wantedVersion() string {
	if version := s.layout().version; version != "" || !s.Vault.HasEtcd() {
		return version
	}
	if known := s.Vault.Status.Storage; known != nil && known.Version != "" {
		return known.Version
	}
	if s.Set != nil && s.Set.Status.ReadyReplicas > 0 {
		if deployed := strings.TrimPrefix(deployedVersion(s.Set), "v"); deployed != "" {
			return deployed
		}
	}
	return v1alpha1.DefaultEtcdVersion
}
