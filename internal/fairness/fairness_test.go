package fairness

import (
	"context"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// A namespace whose nodes hang keeps as many workers as it may have, and no more; when one is
// free again it may have that.
func TestPerNamespace(t *testing.T) {
	hang, begun := make(chan struct{}), make(chan struct{})
	hangs := func(_ context.Context, request reconcile.Request) (reconcile.Result, error) {
		if request.Namespace == "hostile" {
			begun <- struct{}{}
			<-hang
		}
		return reconcile.Result{}, nil
	}
	reconciler := PerNamespace(2, reconcile.Func(hangs))
	do := func(namespace string) reconcile.Result {
		t.Helper()
		result, err := reconciler.Reconcile(t.Context(), reconcile.Request{
			NamespacedName: types.NamespacedName{Namespace: namespace, Name: "example"},
		})
		if err != nil {
			t.Error(err)
		}
		return result
	}
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() { do("hostile") })
		<-begun
	}
	if result := do("hostile"); result.RequeueAfter != pause {
		t.Errorf("a third of the same namespace: %+v", result)
	}
	if result := do("other"); result.RequeueAfter != 0 {
		t.Errorf("one of another namespace: %+v", result)
	}
	close(hang)
	wait.Wait()
	go func() { <-begun }()
	if result := do("hostile"); result.RequeueAfter != 0 {
		t.Errorf("when they have ended: %+v", result)
	}
	if left := len(reconciler.(*limited).working); left != 0 {
		t.Errorf("%d namespaces are remembered", left)
	}
}
