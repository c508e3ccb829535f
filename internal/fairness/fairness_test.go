package fairness

import (
	"context"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func requestFor(namespace, name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

// A namespace whose nodes hang has as many workers as it may have. What waits there comes when one
// is free again, and others do not wait.
func TestPerNamespace(t *testing.T) {
	hang, begun := make(chan struct{}), make(chan string, 100)
	r := perNamespace(2, reconcile.Func(func(_ context.Context, request reconcile.Request) (reconcile.Result, error) {
		begun <- request.String()
		if request.Namespace == "hostile" {
			<-hang
		}
		return reconcile.Result{}, nil
	}))
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	if err := r.source().Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				request, ended := queue.Get()
				if ended {
					return
				}
				if _, err := r.Reconcile(t.Context(), request); err != nil {
					t.Error(err)
				}
				queue.Done(request)
			}
		})
	}
	expect := func(want int) map[string]bool {
		t.Helper()
		names := map[string]bool{}
		for range want {
			select {
			case name := <-begun:
				names[name] = true
			case <-time.After(10 * time.Second):
				t.Fatalf("only %v have begun, want %d", names, want)
			}
		}
		return names
	}
	for _, name := range []string{"a", "b"} {
		queue.Add(requestFor("hostile", name))
	}
	expect(2)
	for _, name := range []string{"c", "d", "e"} {
		for range 2 { // one that waits already does not come twice
			if _, err := r.Reconcile(t.Context(), requestFor("hostile", name)); err != nil {
				t.Error(err)
			}
		}
	}
	queue.Add(requestFor("other", "a"))
	if names := expect(1); !names["other/a"] {
		t.Errorf("%v have begun, want other/a", names)
	}
	close(hang)
	expect(3)
	queue.ShutDownWithDrain()
	workers.Wait()
	if len(begun) > 0 {
		t.Errorf("%s was worked on twice", <-begun)
	}
	if len(r.working) > 0 || len(r.waiting) > 0 {
		t.Errorf("left are %v and %v", r.working, r.waiting)
	}
}
