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
