package restore

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestInto(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example"}}
	then := &metav1.Time{Time: time.Unix(1, 0)}
	for name, tt := range map[string]struct {
		into               v1alpha1.ObjectName
		started, completed *metav1.Time
		want               string
	}{
		"has not begun": {"example", nil, nil, ""},
		"runs":          {"example", then, nil, "r"},
		"is over":       {"example", then, then, ""},
		"of another":    {"other", then, nil, ""},
	} {
		reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(&v1alpha1.VaultRestore{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"},
			Spec:       v1alpha1.VaultRestoreSpec{Vault: tt.into},
			Status:     v1alpha1.VaultRestoreStatus{StartTime: tt.started, CompletionTime: tt.completed},
		}).Build()
		if got, err := Into(t.Context(), reader, vault); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestRefusalOfUnknown(t *testing.T) {
	vault := &v1alpha1.Vault{}
	if reason, message := Refusal(nil, vault); reason != "" {
		t.Errorf("%s: %s", reason, message)
	}
}

// One that is made to prove a backup stays sealed or reaches no other Vault.
func TestFollows(t *testing.T) {
	origin := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{UID: "o"}}
	origin.Status.VaultStatus.Active = "example-0"
	into := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{UID: "i", Labels: map[string]string{v1alpha1.ProofLabel: "s"}}}
	into.Spec.Storage.Raft = &v1alpha1.RaftStorage{}
	if Follows(origin, into) == "" {
		t.Error("the label alone is enough")
	}
	s := &v1alpha1.VaultBackupSchedule{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
	into.OwnerReferences = []metav1.OwnerReference{
		*metav1.NewControllerRef(s, v1alpha1.GroupVersion.WithKind("VaultBackupSchedule")),
	}
	if text := Follows(origin, into); text != "" {
		t.Error(text)
	}
}
