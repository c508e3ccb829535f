package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// there is the size that the volume of a claim has, as far as it was asked for: a volume may be
// larger than its claim, and smaller while it is being made larger.
func there(claim *corev1.PersistentVolumeClaim) resource.Quantity {
	requested := request(claim)
	has, known := claim.Status.Capacity[corev1.ResourceStorage]
	if known && has.Cmp(requested) < 0 {
		return has
	}
	return requested
}

// VolumeSize is the size of the smallest volume of a member, or nil while none is bound.
func (s *State) VolumeSize() *resource.Quantity {
	var smallest *resource.Quantity
	for _, ordinal := range s.memberVolumes() {
		size := there(s.Claims[ordinal])
		if !size.IsZero() && (smallest == nil || size.Cmp(*smallest) < 0) {
			smallest = &size
		}
	}
	return smallest
}

// memberVolumes are the members whose claims are bound, and are there to stay.
func (s *State) memberVolumes() []int {
	wanted := s.layout().wanted
	return slices.DeleteFunc(s.boundOrdinals(), func(ordinal int) bool {
		return ordinal >= wanted || s.Claims[ordinal].DeletionTimestamp != nil
	})
}

// sizeRefusal refuses to make volumes smaller than they are. Where somebody has made the volumes
// larger by hand, the StatefulSet that is made anew has to have their size.
func (s *State) sizeRefusal() error {
	layout, template := s.layout(), request(claimTemplate(s.Set))
	if layout.volumeSize == nil || template.IsZero() || layout.volumeSize.Cmp(template) == 0 {
		return nil
	}
	smallest := s.VolumeSize()
	switch {
	case layout.volumeSize.Cmp(template) < 0:
		return mismatch("%s.volumeSize cannot be made smaller: %s; set it back to %s",
			layout.field, s.whyKept(), template.String())
	case smallest != nil && layout.volumeSize.Cmp(*smallest) < 0:
		return mismatch("%s.volumeSize cannot be made smaller than the volumes are: set it to %s, or back to %s",
			layout.field, smallest.String(), template.String())
	}
	return nil
}

// grows says that the spec asks for larger volumes than the StatefulSet makes, or for others
// than were asked for while that went on.
func (s *State) grows() bool {
	layout := s.layout()
	if s.Set == nil || !layout.declared || layout.volumeSize == nil || s.replaceable() || s.changeRefusal() != nil {
		return false
	}
	if template := request(claimTemplate(s.Set)); template.IsZero() || layout.volumeSize.Cmp(template) != 0 {
		return !template.IsZero()
	}
	return slices.ContainsFunc(s.memberVolumes(), func(ordinal int) bool { return s.mustRequest(s.Claims[ordinal]) })
}

// mustRequest says that another size has to be asked for in a claim. What has been made larger stays, and a claim
// cannot ask for less than it did, unless that is more than what is there.
// https://kubernetes.io/docs/concepts/storage/persistent-volumes/#recovering-from-failure-when-expanding-volumes
func (s *State) mustRequest(claim *corev1.PersistentVolumeClaim) bool {
	wanted, requested := s.layout().volumeSize, request(claim)
	if wanted.Cmp(requested) >= 0 {
		return wanted.Cmp(requested) > 0
	}
	has, known := claim.Status.Capacity[corev1.ResourceStorage]
	return known && wanted.Cmp(has) > 0
}

// small are the volumes that are not as large as the spec wants, each with its size. One that
// waits for its pod to start anew is: the rollout that follows does that.
func (s *State) small() []string {
	var small []string
	for _, ordinal := range s.memberVolumes() {
		claim := s.Claims[ordinal]
		pending := slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
			return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending && c.Status == corev1.ConditionTrue
		})
		has := there(claim)
		if s.mustRequest(claim) || has.Cmp(*s.layout().volumeSize) < 0 && !pending {
			small = append(small, fmt.Sprintf("%s (%s)", claim.Name, has.String()))
		}
	}
	return small
}

// Growing says which volumes are being made larger, or nothing.
func (s *State) Growing() string {
	if !s.grows() {
		return ""
	}
	return strings.Join(s.small(), ", ")
}

// Expansion is why the volumes of a Vault cannot be made larger, a *problem.Error, or nil.
func (r *Reconciler) Expansion(vault *v1alpha1.Vault) error {
	why, refused := r.refused.Load(vault.UID)
	if !refused {
		return nil
	}
	layout := layoutOf(vault)
	return problem.New(v1alpha1.UpdatedCondition, v1alpha1.ReasonExpansionRefused,
		"%s.volumeSize is larger than the volumes, and they cannot be made larger: %s. Set it back to their size, which "+
			"status.storage.volumeSize has, or have the StorageClass allow it (allowVolumeExpansion)", layout.field, why)
}

// grow makes the volumes larger. The release waits meanwhile, and is told when they are.
func (r *Reconciler) grow(ctx context.Context, s *State) (reconcile.Result, error) {
	for _, ordinal := range s.memberVolumes() {
		claim, wanted := s.Claims[ordinal], s.layout().volumeSize
		if !s.mustRequest(claim) {
			continue
		}
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"resources":{"requests":{"storage":%q}}}}`,
			claim.UID, wanted.String())
		err := r.Patch(ctx, claim.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
		switch {
		case problem.Refused(err):
			r.noteRefused(s.Vault, err.Error())
			return reconcile.Result{RequeueAfter: growCheck}, nil
		case client.IgnoreNotFound(err) != nil:
			return reconcile.Result{}, fmt.Errorf("making the volume of claim %q larger: %w", claim.Name, err)
		}
		ctrl.LoggerFrom(ctx).Info("Asked for a larger volume", "claim", claim.Name, "size", wanted.String())
	}
	r.noteRefused(s.Vault, "")
	if len(s.small()) > 0 {
		return reconcile.Result{RequeueAfter: growCheck}, nil
	}
	r.due.Notify(client.ObjectKeyFromObject(s.Vault))
	return reconcile.Result{RequeueAfter: renewCheck}, nil
}

// volumesPending is which volumes a release waits for, or nil.
func (s *State) volumesPending() error {
	growing := s.Growing()
	if growing == "" {
		return nil
	}
	return fmt.Errorf("the volumes are being made larger, to %s: waiting for %s", s.layout().volumeSize, growing)
}

// noteRefused notes why volumes cannot be made larger, or that they can.
func (r *Reconciler) noteRefused(vault *v1alpha1.Vault, why string) {
	before, refused := r.refused.Load(vault.UID)
	switch {
	case why == "" && !refused, refused && before == why:
		return
	case why == "":
		r.refused.Delete(vault.UID)
	default:
		r.refused.Store(vault.UID, why)
	}
	r.news.Notify(client.ObjectKeyFromObject(vault))
}
