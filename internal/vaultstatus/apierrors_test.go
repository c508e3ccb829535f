package vaultstatus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// apiErrors are what comes from an API server that is busy, broken, slow or unavailable.
var apiErrors = map[string]error{
	"conflict": apierrors.NewConflict(schema.GroupResource{Resource: "vaults"}, "example",
		errors.New("the object has been modified")),
	"too many requests": apierrors.NewTooManyRequests("the server has received too many requests", 1),
	"internal error":    apierrors.NewInternalError(errors.New("etcdserver: request timed out")),
	"connection refused": &url.Error{
		Op: "Patch", URL: "https://10.96.0.1:443", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
	},
	"deadline has passed": &url.Error{Op: "Patch", URL: "https://10.96.0.1:443", Err: context.DeadlineExceeded},
}

// intercept asks fail before, and after a write failAfter, what to answer.
func (f *fixture) intercept(fail, failAfter func(request string) error) {
	f.Client = interceptor.NewClient(f.Client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			if err := fail(fmt.Sprintf("get %T", obj)); err != nil {
				return err
			}
			return c.Get(ctx, key, obj, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := fail(fmt.Sprintf("list %T", list)); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration,
			opts ...client.SubResourceApplyOption) error {
			if err := fail("apply " + sub); err != nil {
				return err
			}
			if err := c.SubResource(sub).Apply(ctx, obj, opts...); err != nil {
				return err
			}
			return failAfter("apply " + sub)
		},
	})
}

func never(string) error { return nil }

// Whatever the API server answers, and to which request: nothing is written or
// told from missing facts, the error leads to another try, and that catches up.
func TestErrorsOfTheAPIServerAreMadeUpFor(t *testing.T) {
	for name, apiErr := range apiErrors {
		for _, request := range []string{
			"get *v1alpha1.Vault", "list *v1.PodList", "get *v1.Deployment", "list *v1.PartialObjectMetadataList",
			"get *v1.StatefulSet", "apply status",
		} {
			t.Run(name+" to "+request, func(t *testing.T) {
				f := newFixture(t,
					&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "deployment-uid"}})
				f.run(t, "a", fakevault.Active)
				broken, requests := true, 0
				f.intercept(func(r string) error {
					if r != request {
						return nil
					}
					requests++
					if broken {
						return apiErr
					}
					return nil
				}, never)
				for range 3 {
					if _, events, err := f.reconcile(t); !errors.Is(err, apiErr) || len(events) > 0 || f.writes > 0 {
						t.Errorf("error %v, %d writes, events %q", err, f.writes, events)
					}
				}
				if requests == 0 {
					t.Fatal("that is never asked")
				}
				broken = false
				if events := f.mustReconcile(t); f.writes != 1 || len(events) != 1 {
					t.Errorf("%d writes, events %q after the API server was back", f.writes, events)
				}
				if active := f.status(t).VaultStatus.Active; active != "a" {
					t.Errorf("active is %q", active)
				}
			})
		}
	}
}

// What was known of the nodes is not replaced by what could not be found out.
func TestStatusStaysWhileTheAPIServerIsAway(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	f.mustReconcile(t)
	before := f.status(t)
	f.intercept(func(string) error { return apiErrors["connection refused"] }, never)
	if _, events, err := f.reconcile(t); err == nil || len(events) > 0 {
		t.Errorf("error %v, events %q", err, events)
	}
	if after := f.status(t); after.Phase != v1alpha1.PhaseRunning ||
		after.VaultStatus.Active != before.VaultStatus.Active {
		t.Errorf("status %+v, was %+v", after, before)
	}
}

// The answer to a write may be lost after the write was made.
func TestLostResponsesDoNoHarm(t *testing.T) {
	f := newFixture(t)
	f.run(t, "a", fakevault.Active)
	f.intercept(never, func(string) error { return apiErrors["deadline has passed"] })
	if _, _, err := f.reconcile(t); err == nil {
		t.Error("the error is lost")
	}
	if events := f.mustReconcile(t); f.writes != 1 || len(events) > 0 {
		t.Errorf("%d writes, events %q, want no other", f.writes, events)
	}
	if active := f.status(t).VaultStatus.Active; active != "a" {
		t.Errorf("active is %q", active)
	}
}
