package helm

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// Secrets that the gate has made are no news for it. All others are, and these as
// well while it waits for them.
func TestSecretsThatWereMade(t *testing.T) {
	owner := func(name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: "Vault", Name: name, UID: uid, Controller: new(true)}}
	}
	for name, test := range map[string]struct {
		owners         []metav1.OwnerReference
		irreconcilable metav1.ConditionStatus
		want           bool
	}{
		"of a new Vault":               {owners: owner("example", "uid"), want: false},
		"of a deployed Vault":          {owners: owner("example", "uid"), irreconcilable: metav1.ConditionFalse, want: false},
		"while it is waited for":       {owners: owner("example", "uid"), irreconcilable: metav1.ConditionTrue, want: true},
		"without an owner":             {irreconcilable: metav1.ConditionFalse, want: true},
		"of an earlier Vault":          {owners: owner("example", "old"), want: true},
		"of a Vault that is not there": {owners: owner("gone", "uid"), want: true},
	} {
		t.Run(name, func(t *testing.T) {
			vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "uid"}}
			if test.irreconcilable != "" {
				vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.IrreconcilableCondition, Status: test.irreconcilable}}
			}
			scheme := runtime.NewScheme()
			if err := v1alpha1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(vault).Build()
			secret := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: "example-etcd-ca", OwnerReferences: test.owners,
			}}
			if got := secretChanged(reader).Create(event.CreateEvent{Object: secret}); got != test.want {
				t.Errorf("got %v", got)
			}
			if p := secretChanged(reader); !p.Update(event.UpdateEvent{ObjectNew: secret}) ||
				!p.Delete(event.DeleteEvent{Object: secret}) {
				t.Error("a change or a deletion is no news")
			}
		})
	}
}

// What waits for the key service goes on when it works again.
func TestSealBecameReady(t *testing.T) {
	const none = ""
	for name, test := range map[string]struct {
		before, after  string
		irreconcilable metav1.ConditionStatus
		want           bool
	}{
		"it works again": {v1alpha1.ReasonKeyServiceUnavailable, v1alpha1.ReasonKeyServiceWorks,
			metav1.ConditionTrue, true},
		"nothing waits for it": {v1alpha1.ReasonKeyServiceUnavailable, v1alpha1.ReasonKeyServiceWorks,
			metav1.ConditionFalse, false},
		"it fails in another way": {v1alpha1.ReasonKeyServiceUnavailable, v1alpha1.ReasonCredentialsRefused,
			metav1.ConditionTrue, false},
		"it fails": {v1alpha1.ReasonKeyServiceWorks, v1alpha1.ReasonKeyServiceFailing,
			metav1.ConditionTrue, false},
		"the first that is known": {none, v1alpha1.ReasonKeyServiceWorks, metav1.ConditionTrue, true},
		"nothing is known any more": {v1alpha1.ReasonKeyServiceUnavailable, v1alpha1.ReasonNotObserved,
			metav1.ConditionTrue, true},
		"it works as it did": {v1alpha1.ReasonKeyServiceWorks, v1alpha1.ReasonKeyServiceWorks, metav1.ConditionTrue,
			false},
		"the seal has been told":      {v1alpha1.ReasonNotObserved, v1alpha1.ReasonShamir, metav1.ConditionTrue, true},
		"there is no condition of it": {none, none, metav1.ConditionTrue, false},
	} {
		t.Run(name, func(t *testing.T) {
			vault := func(reason string) *v1alpha1.Vault {
				v := &v1alpha1.Vault{}
				v.Status.Conditions = []metav1.Condition{{Type: v1alpha1.IrreconcilableCondition, Status: test.irreconcilable}}
				if reason != none {
					status := metav1.ConditionFalse
					if reason == v1alpha1.ReasonKeyServiceWorks || reason == v1alpha1.ReasonShamir {
						status = metav1.ConditionTrue
					}
					if reason == v1alpha1.ReasonNotObserved {
						status = metav1.ConditionUnknown
					}
					v.Status.Conditions = append(v.Status.Conditions, metav1.Condition{Type: v1alpha1.SealReadyCondition,
						Status: status, Reason: reason})
				}
				return v
			}
			p := sealBecameReady()
			if got := p.Update(event.UpdateEvent{ObjectOld: vault(test.before),
				ObjectNew: vault(test.after)}); got != test.want {
				t.Errorf("got %v", got)
			}
			if p.Create(event.CreateEvent{}) || p.Delete(event.DeleteEvent{}) || p.Generic(event.GenericEvent{}) {
				t.Error("something else is news")
			}
		})
	}
}
