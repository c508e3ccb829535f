package storage

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Volumes of a living storage become larger, and not smaller.
func TestGrowing(t *testing.T) {
	for name, tt := range map[string]struct {
		wanted, template string
		// claims are what was asked for, and what is there, of each.
		claims []string
		// pending says that the volumes become larger when their pods start anew.
		pending bool
		grows   bool
		small   string
		refused string
		size    string
	}{
		"nothing to do":  {wanted: "2Gi", template: "2Gi", claims: []string{"2Gi 2Gi", "2Gi 2Gi"}, size: "2Gi"},
		"in other words": {wanted: "2048Mi", template: "2Gi", claims: []string{"2Gi 2Gi"}, size: "2Gi"},
		"larger": {wanted: "4Gi", template: "2Gi", claims: []string{"2Gi 2Gi", "2Gi 2Gi"}, grows: true,
			small: "data-example-etcd-0 (2Gi), data-example-etcd-1 (2Gi)", size: "2Gi"},
		"asked for": {wanted: "4Gi", template: "2Gi", claims: []string{"4Gi 4Gi", "4Gi 2Gi"}, grows: true,
			small: "data-example-etcd-1 (2Gi)", size: "2Gi"},
		"they start anew": {wanted: "4Gi", template: "2Gi",
			claims: []string{"4Gi 2Gi"}, pending: true, grows: true, size: "2Gi"},
		"all are larger": {wanted: "4Gi", template: "2Gi",
			claims: []string{"4Gi 4Gi", "4Gi 5Gi"}, grows: true, size: "4Gi"},
		"they are, and the StatefulSet too": {wanted: "4Gi", template: "4Gi", claims: []string{"4Gi 4Gi"}, size: "4Gi"},
		"one was asked for, and the spec is set back": {wanted: "2Gi", template: "2Gi",
			claims: []string{"4Gi 4Gi", "4Gi 2Gi"}, size: "2Gi"},
		"one was asked for, and the spec is set to less": {wanted: "3Gi", template: "2Gi",
			claims: []string{"3Gi 3Gi", "4Gi 2Gi"}, grows: true, small: "data-example-etcd-1 (2Gi)", size: "2Gi"},
		"that is done": {wanted: "2Gi", template: "2Gi", claims: []string{"4Gi 4Gi", "2Gi 2Gi"}, size: "2Gi"},
		"made by hand": {wanted: "2Gi", template: "2Gi", claims: []string{"4Gi 4Gi", "4Gi 4Gi"}, size: "4Gi"},
		"smaller": {wanted: "1Gi", template: "2Gi",
			claims: []string{"2Gi 2Gi"}, refused: "set it back to 2Gi", size: "2Gi"},
		"less than made": {wanted: "3Gi", template: "2Gi",
			claims: []string{"4Gi 4Gi"}, refused: "set it to 4Gi", size: "4Gi"},
		"one is lost": {wanted: "4Gi", template: "2Gi", claims: []string{"", "4Gi 4Gi"}, grows: true, size: "4Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(3)
			size := resource.MustParse(tt.wanted)
			vault.Spec.Storage.Etcd.VolumeSize = &size
			vault.Status.Storage = &v1alpha1.StorageStatus{Volumes: []v1alpha1.StorageVolume{{Claim: "data-example-etcd-0"}}}
			set := newSet(vault, nil)
			set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests = corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse(tt.template),
			}
			s := stateOf(vault, set)
			for i, sizes := range tt.claims {
				if sizes == "" {
					continue
				}
				requested, has, _ := strings.Cut(sizes, " ")
				c := claim(vault, i, "bound", requested, "fast")
				c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(has)}
				if tt.pending {
					c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{
						{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue},
					}
				}
				s.Claims[i] = c
			}
			err := s.Refusal()
			if (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("refusal %v, want %q", err, tt.refused)
			}
			if s.grows() != tt.grows || s.Growing() != tt.small {
				t.Errorf("grows: %v, %q", s.grows(), s.Growing())
			}
			if err := s.pending(); (err != nil) != (tt.small != "") {
				t.Errorf("the release waits for %v", err)
			}
			if got := s.VolumeSize(); got == nil || got.String() != tt.size {
				t.Errorf("the volumes are of %v, want %s", got, tt.size)
			}
		})
	}
}

// Volumes that were to be larger, and are not, are used again by a spec that wants what they are.
func TestKeptVolumesThatDidNotGrow(t *testing.T) {
	for wanted, fits := range map[string]bool{"1Gi": false, "2Gi": true, "3Gi": true, "4Gi": true, "5Gi": false} {
		vault := newVault(3)
		vault.Spec.Storage.Etcd.VolumeSize = ptr(resource.MustParse(wanted))
		s := stateOf(vault, nil)
		for i := range 3 {
			s.Claims[i] = claim(vault, i, "bound", "4Gi", "fast")
			s.Claims[i].Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
		}
		if err := s.Refusal(); (err == nil) != fits {
			t.Errorf("%s: %v", wanted, err)
		}
	}
}
