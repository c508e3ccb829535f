package references

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func TestExistingAsksForNothingThatIsMissing(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "there"}}
	cache := fake.NewClientBuilder().WithScheme(scheme).WithObjects(secret).Build()
	reads := 0
	live := interceptor.NewClient(cache, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			reads++
			return c.Get(ctx, key, obj, opts...)
		},
	})
	reader := Existing{Reader: live, Cache: cache}
	if err := reader.Get(t.Context(), client.ObjectKeyFromObject(secret), &corev1.Secret{}); err != nil || reads != 1 {
		t.Errorf("one that is there: %v, %d reads", err, reads)
	}
	for _, obj := range []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}} {
		key := client.ObjectKey{Namespace: "default", Name: "missing"}
		if err := reader.Get(t.Context(), key, obj); !apierrors.IsNotFound(err) || reads != 1 {
			t.Errorf("a missing %T: %v, %d reads", obj, err, reads)
		}
	}
}
