package references

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func TestMemo(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).Build()
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "1"}}
	var memo memo[int]
	objects := []object{{"Secret", "certs"}, {"ConfigMap", "config"}}
	computed := 0
	var failure error
	get := func() (int, error) {
		return memo.Get(t.Context(), c, vault, objects, func() (int, error) {
			computed++
			return computed, failure
		})
	}
	expect := func(what string, want int) {
		t.Helper()
		for range 2 {
			if got, err := get(); err != nil || got != want {
				t.Fatalf("%s: got %d, %v, want %d", what, got, err, want)
			}
		}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "certs", UID: "a"}}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	expect("nothing there", 1)
	do(c.Create(t.Context(), secret))
	expect("a Secret was made", 2)
	secret.Data = map[string][]byte{"x": nil}
	do(c.Update(t.Context(), secret))
	expect("it has changed", 3)
	do(c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config"}}))
	expect("a ConfigMap was made", 4)
	do(c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}}))
	expect("another Secret was made", 4)
	do(c.Delete(t.Context(), secret))
	expect("the Secret is gone", 5)
	vault.Generation = 2
	expect("the spec has changed", 6)
	vault.UID = "2"
	expect("another Vault of the same name", 7)
	memo.Forget(client.ObjectKeyFromObject(vault))
	expect("forgotten", 8)

	// What could not be read is read again.
	vault.Generation, failure = 3, errors.New("the API server is unavailable")
	for want := 9; want <= 10; want++ {
		if got, err := get(); got != want || !errors.Is(err, failure) {
			t.Fatalf("got %d, %v", got, err)
		}
	}
	failure = nil
	expect("readable again", 11)
}
