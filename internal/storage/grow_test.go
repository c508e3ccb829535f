package storage

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
			claims: []string{"4Gi 4Gi", "4Gi 2Gi"}, grows: true, small: "data-example-etcd-1 (2Gi)", size: "2Gi"},
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
				asked, has, _ := strings.Cut(sizes, " ")
				c := claim(vault, i, "bound", asked, "fast")
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

// TestAStatefulSetIsMadeAnewForLargerVolumes checks that nothing that holds back another change is
// passed over by that, and that it is there for as long as it could not be made again.
func TestAStatefulSetIsMadeAnewForLargerVolumes(t *testing.T) {
	for name, tt := range map[string]struct {
		generation     string
		irreconcilable metav1.ConditionStatus
		want           bool
	}{
		"all else is deployed":            {generation: "2", irreconcilable: metav1.ConditionFalse, want: true},
		"something else is held back":     {generation: "1", irreconcilable: metav1.ConditionFalse},
		"it could not be made again":      {generation: "2", irreconcilable: metav1.ConditionTrue},
		"made by the chart and by nobody": {irreconcilable: metav1.ConditionFalse},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(1)
			vault.Generation, vault.Spec.Storage.Etcd.VolumeSize = 2, ptr(resource.MustParse("4Gi"))
			vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.IrreconcilableCondition, Status: tt.irreconcilable}}
			set := newSet(vault, nil)
			set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests = corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse("2Gi"),
			}
			set.Annotations = map[string]string{v1alpha1.GenerationAnnotation: tt.generation}
			c := claim(vault, 0, "bound", "4Gi", "")
			c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("4Gi")}
			api := newAPI(t, vault, set, c)
			if size, err := ClaimSize(t.Context(), api, vault); err != nil || size != "2Gi" {
				t.Errorf("claims are of %q, %v", size, err)
			}
			if err := Check(t.Context(), api, vault); err != nil {
				t.Errorf("what else has changed is not deployed: %v", err)
			}
			r := &Reconciler{Client: api, APIReader: api}
			if _, err := r.Reconcile(t.Context(), requestFor(vault)); err != nil {
				t.Fatal(err)
			}
			err := api.Get(t.Context(), client.ObjectKeyFromObject(set), set)
			if client.IgnoreNotFound(err) != nil || apierrors.IsNotFound(err) != tt.want {
				t.Errorf("the StatefulSet: %v", err)
			}
			if size, err := ClaimSize(t.Context(), api, vault); err != nil || (size == "") != tt.want {
				t.Errorf("claims are of %q after that, %v", size, err)
			}
		})
	}
}
