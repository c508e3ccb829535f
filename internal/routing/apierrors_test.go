package routing

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// apiErrors are what comes from an API server that is busy, broken, slow or unavailable.
var apiErrors = map[string]error{
	"conflict":          apierrors.NewConflict(podResource, "a", errors.New("the object has been modified")),
	"too many requests": apierrors.NewTooManyRequests("the server has received too many requests", 1),
	"internal error":    apierrors.NewInternalError(errors.New("etcdserver: request timed out")),
	"connection refused": &url.Error{
		Op: "Patch", URL: "https://10.96.0.1:443", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
	},
	"deadline has passed": &url.Error{Op: "Patch", URL: "https://10.96.0.1:443", Err: context.DeadlineExceeded},
}

// manage reconciles the Vaults as the manager does, until the test ends.
func (f *fixture) manage(t *testing.T, limit time.Duration, vaults ...*v1alpha1.Vault) {
	t.Helper()
	o := options()
	if o.ReconciliationTimeout <= 0 || o.MaxConcurrentReconciles < 2 {
		t.Fatalf("nothing bounds what a request that hangs holds up: %+v", o)
	}
	o.ReconciliationTimeout = limit
	o.Reconciler = f
	o.SkipNameValidation = new(true)
	o.UsePriorityQueue = new(false)
	c, err := controller.NewUnmanaged("routing", o)
	if err != nil {
		t.Fatal(err)
	}
	begin := source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		for _, vault := range vaults {
			queue.Add(requestFor(vault))
		}
		return nil
	})
	if err := errors.Join(c.Watch(f.Engine.Source(0)), c.Watch(begin)); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Start(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { end(); running.Wait() })
}

// neverTwo fails the test when a patch leaves two pods with the label.
func (f *fixture) neverTwo(t *testing.T) {
	f.failAfter = func(patch string) error {
		if labelled := f.labelled(t); len(labelled) > 1 {
			t.Errorf("%v have the active label after %s", labelled, patch)
		}
		return nil
	}
}

// Whatever the API server answers, and to which request: no label changes
// wrongly, and what has to be done is done soon after it is well again.
func TestErrorsOfTheAPIServerAreMadeUpFor(t *testing.T) {
	t.Parallel()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, newVault().ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Standby), fakevault.Start(t, cert, fakevault.Active)
	requests := []string{
		"get *v1alpha1.Vault default", "get *v1.PartialObjectMetadata default", "get *v1.Secret default",
		"list default", "list labelled default", "-a", "+b",
	}
	for name, apiErr := range apiErrors {
		for _, request := range requests {
			t.Run(name+" to "+request, func(t *testing.T) {
				t.Parallel()
				vault := newVault()
				f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true),
					newPod(vault, "b", b.IP, false))
				f.neverTwo(t)
				const failures = 4
				var refusals atomic.Int32
				refuse := func(what string) error {
					if what == request && refusals.Add(1) <= failures {
						return apiErr
					}
					return nil
				}
				f.fail = refuse
				f.failRead = func(_ context.Context, what string) error { return refuse(what) }
				f.manage(t, reconcileTimeout, vault)
				eventually(t, "the label is where it belongs", func() bool { return slices.Equal(f.labelled(t), []string{"b"}) })
				if got, want := f.patched(), []string{"-a", "+b"}; !slices.Equal(got, want) {
					t.Errorf("patches %v, want %v", got, want)
				}
				if refusals.Load() <= failures {
					t.Errorf("asked %d times, so nothing was made up for", refusals.Load())
				}
			})
		}
	}
}

// An API server that stays unavailable changes nothing, and nothing is forgotten.
func TestNothingIsDoneWithoutTheAPIServer(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Active), fakevault.Start(t, cert, fakevault.Standby)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false))
	f.neverTwo(t)
	var unavailable atomic.Bool
	refuse := func() error {
		if unavailable.Load() {
			return apiErrors["connection refused"]
		}
		return nil
	}
	f.fail = func(string) error { return refuse() }
	f.failRead = func(context.Context, string) error { return refuse() }
	f.manage(t, reconcileTimeout, vault)
	key := client.ObjectKeyFromObject(vault)
	sees := func(pod string, state probe.State) func() bool {
		return func() bool { return f.Engine.Observations(key)[types.UID("uid-of-"+pod)].State == state }
	}
	eventually(t, "a is known to be active", sees("a", probe.Active))

	unavailable.Store(true)
	a.Set(fakevault.Standby)
	b.Set(fakevault.Active)
	eventually(t, "b is known to be active although the API server is unavailable", sees("b", probe.Active))
	if got := f.patched(); len(got) != 0 {
		t.Errorf("patches %v, want none", got)
	}
	unavailable.Store(false)
	eventually(t, "the label has followed", func() bool { return slices.Equal(f.labelled(t), []string{"b"}) })
}

// The answer to a patch may be lost after the patch was made.
func TestLostResponsesDoNoHarm(t *testing.T) {
	t.Parallel()
	vault := newVault()
	ca := fakevault.NewCA(t)
	cert := ca.Certificate(t, vault.ServerName())
	a, b := fakevault.Start(t, cert, fakevault.Standby), fakevault.Start(t, cert, fakevault.Active)
	f := newFixture(t, vault, newCASecret(vault, ca.PEM), newPod(vault, "a", a.IP, true), newPod(vault, "b", b.IP, false))
	lost := map[string]bool{}
	f.failAfter = func(patch string) error {
		if labelled := f.labelled(t); len(labelled) > 1 {
			t.Errorf("%v have the active label after %s", labelled, patch)
		}
		if lost[patch] {
			return nil
		}
		lost[patch] = true
		return apiErrors["deadline has passed"]
	}
	f.manage(t, reconcileTimeout, vault)
	eventually(t, "the label is where it belongs", func() bool { return slices.Equal(f.labelled(t), []string{"b"}) })
	if got, want := f.patched(), []string{"-a", "+b"}; !slices.Equal(got, want) {
		t.Errorf("patches %v, want %v", got, want)
	}
}

// More Vaults than there are workers, whose requests all hang: each holds a
// worker for no longer than the reconcileTimeout, and the one that is well gets its turn.
func TestRequestsThatHangHoldNobodyElseUp(t *testing.T) {
	t.Parallel()
	const short = 200 * time.Millisecond
	vault := newVault()
	ca := fakevault.NewCA(t)
	node := fakevault.Start(t, ca.Certificate(t, vault.ServerName()), fakevault.Active)
	objects := []client.Object{vault, newCASecret(vault, ca.PEM), newPod(vault, "a", node.IP, false)}
	var vaults []*v1alpha1.Vault
	for i := range concurrency + 4 {
		hung := newVault()
		hung.Namespace = fmt.Sprintf("hung-%d", i)
		vaults = append(vaults, hung)
		objects = append(objects, hung)
	}
	f := newFixture(t, objects...)
	var hanging atomic.Bool
	hanging.Store(true)
	f.failRead = func(ctx context.Context, what string) error {
		if !hanging.Load() || !strings.HasPrefix(what, "list hung-") {
			return nil
		}
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a request is not bounded")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	f.manage(t, short, append(vaults, vault)...)
	begin := time.Now()
	eventually(t, "the Vault that is well has its label", func() bool {
		return slices.Equal(f.labelled(t), []string{"a"})
	})
	t.Logf("after %s", time.Since(begin))

	// They are not given up either.
	pod := newPod(vaults[0], "b", node.IP, true)
	if err := f.api.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	hanging.Store(false)
	key := client.ObjectKeyFromObject(vaults[0])
	eventually(t, "the nodes of a Vault whose requests hung are asked", func() bool {
		return len(f.Engine.Observations(key)) == 1
	})
}

// The labels do not wait for a Secret that cannot be read.
func TestSecretThatHangsDoesNotHoldUpTheLabels(t *testing.T) {
	vault := newVault()
	first := fakevault.NewCA(t).PEM
	secret := newCASecret(vault, first)
	f := newFixture(t, secret)
	list := []corev1.Pod{*newPod(vault, "a", "10.0.0.1", true)}
	if _, err := f.trust.cas(t.Context(), f.api, f.APIReader, vault, list); err != nil {
		t.Fatal(err)
	}
	secret.Data[v1alpha1.ClientCAKey] = []byte("second")
	if err := f.api.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	f.failRead = func(ctx context.Context, what string) error {
		if what == "get *v1.Secret default" {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), reconcileTimeout)
	defer cancel()
	got, err := f.trust.cas(ctx, f.api, f.APIReader, vault, list)
	if !errors.Is(err, context.DeadlineExceeded) || got["uid-of-a"].newest != first || ctx.Err() != nil {
		t.Errorf("cas() = %q, %v, want the last CA while there is time left for the labels", got, err)
	}
}

// A Vault that cannot be read is not one that is gone.
func TestNodesAreStillProbedWhenTheVaultCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, apiErr := range apiErrors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := newVault()
			f := newFixture(t, vault)
			key := client.ObjectKeyFromObject(vault)
			// Without an address it cannot be asked, which is known at once.
			f.Engine.SetTargets(key, []probe.Target{{UID: "uid-of-a"}}, false)
			eventually(t, "the node is known", func() bool { return len(f.Engine.Observations(key)) == 1 })
			f.failRead = func(context.Context, string) error { return apiErr }
			if _, err := f.Reconcile(t.Context(), requestFor(vault)); err == nil {
				t.Error("the error is lost")
			}
			if len(f.Engine.Observations(key)) != 1 {
				t.Error("what is known of the nodes is forgotten")
			}
		})
	}
}
