package collector

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

var errAPI = errors.New("the API server is unavailable")

func newVault() *v1alpha1.Vault {
	return &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example", UID: "vault-uid", Generation: 3},
	}
}

func owned(owner types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Owner", Name: "owner", UID: owner, Controller: new(true)}}
}

func secret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: types.UID(name), Labels: newVault().ConfigLabels(),
		OwnerReferences: owned("vault-uid"),
	}}
}

func configMap(owner types.UID) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "example-config", UID: "map", OwnerReferences: owned(owner),
		},
	}
}

func deployment(generation, names string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "example",
		Annotations: map[string]string{
			v1alpha1.GenerationAnnotation: generation, v1alpha1.ConfigSecretsAnnotation: names,
		}}}
}

func replicaSet(name, names string) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: newVault().PodLabels()},
	}
	if names != "" {
		set.Annotations = map[string]string{v1alpha1.ConfigSecretsAnnotation: names}
	}
	return set
}

func pod(name string, source corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: newVault().PodLabels()},
		Spec:       corev1.PodSpec{Volumes: []corev1.Volume{{Name: "config", VolumeSource: source}}},
	}
}

func projected(names ...string) corev1.VolumeSource {
	volume := &corev1.ProjectedVolumeSource{}
	for _, name := range names {
		volume.Sources = append(volume.Sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: name},
		}})
	}
	return corev1.VolumeSource{Projected: volume}
}

func oldVolume() corev1.VolumeSource {
	return corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "example-config"}},
	}
}

func newClient(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// left returns the names of the Secrets and ConfigMaps that there are.
func left(t *testing.T, c client.Client) []string {
	t.Helper()
	var secrets corev1.SecretList
	var configMaps corev1.ConfigMapList
	if err := errors.Join(c.List(t.Context(), &secrets), c.List(t.Context(), &configMaps)); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range secrets.Items {
		names[s.Name] = true
	}
	for _, m := range configMaps.Items {
		names[m.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func TestReconcile(t *testing.T) {
	other := secret("other-vault")
	other.OwnerReferences = owned("another-uid")
	users := secret("users")
	users.OwnerReferences = nil
	unmarked := secret("certificates")
	unmarked.Labels = newVault().PodLabels()
	named := newVault()
	named.Spec.ConfigMapName = "example-config"
	deleted := newVault()
	deleted.DeletionTimestamp, deleted.Finalizers = &metav1.Time{Time: time.Now()}, []string{"x"}
	base := []client.Object{secret("a"), secret("b"), secret("c"), other, users, unmarked}
	const untouched = "certificates other-vault users"
	for name, tt := range map[string]struct {
		vault   *v1alpha1.Vault
		objects []client.Object
		left    string
	}{
		"what the Deployment names is kept": {objects: []client.Object{deployment("3", "b,c")}, left: "b c " + untouched},
		"and what a ReplicaSet names": {
			objects: []client.Object{deployment("3", "c"), replicaSet("old", "a"), replicaSet("new", "c")},
			left:    "a c " + untouched,
		},
		"and what a pod has mounted": {
			objects: []client.Object{deployment("3", "c"), replicaSet("new", "c"), pod("old", projected("a", "b"))},
			left:    "a b c " + untouched,
		},
		"nothing goes without a Deployment": {left: "a b c " + untouched},
		"nothing goes while the spec is not deployed": {
			objects: []client.Object{deployment("2", "c")}, left: "a b c " + untouched,
		},
		"nothing goes of a Vault that is gone": {
			vault: &v1alpha1.Vault{}, objects: []client.Object{deployment("3", "c")}, left: "a b c " + untouched,
		},
		"nothing goes of a Vault that is on its way out": {
			vault: deleted, objects: []client.Object{deployment("3", "c")}, left: "a b c " + untouched,
		},
		"the ConfigMap of before goes": {
			objects: []client.Object{deployment("3", "a,b,c"), configMap("vault-uid")}, left: "a b c " + untouched,
		},
		"but not a user's of that name": {
			objects: []client.Object{deployment("3", "a,b,c"), configMap("x")}, left: "a b c example-config " + untouched,
		},
		"nor one that the spec names": {
			vault: named, objects: []client.Object{deployment("3", "a,b,c"), configMap("vault-uid")},
			left: "a b c example-config " + untouched,
		},
		"nor while a pod has it mounted": {
			objects: []client.Object{deployment("3", "a,b,c"), configMap("vault-uid"), pod("old", oldVolume())},
			left:    "a b c example-config " + untouched,
		},
		"nor while a ReplicaSet of before could come back": {
			objects: []client.Object{
				deployment("3", "a,b,c"), configMap("vault-uid"), replicaSet("old", ""), replicaSet("new", "a,b,c"),
			},
			left: "a b c example-config " + untouched,
		},
	} {
		t.Run(name, func(t *testing.T) {
			vault := tt.vault
			if vault == nil {
				vault = newVault()
			}
			objects := slices.Concat(base, tt.objects)
			if vault.Name != "" {
				objects = append(objects, vault)
			}
			var clones []client.Object
			for _, object := range objects {
				clones = append(clones, object.DeepCopyObject().(client.Object))
			}
			c := newClient(t, clones...)
			now := testclock.NewFakePassiveClock(time.Now())
			r := &Reconciler{Client: c, Cache: c, APIReader: c, Clock: now}
			before := left(t, c)
			request := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "example"}}
			result, err := r.Reconcile(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			if got := left(t, c); !slices.Equal(got, before) {
				t.Errorf("at first sight %q were left of %q", got, before)
			}
			want := slices.Sorted(strings.FieldsSeq(tt.left))
			if later := len(want) < len(before); (result.RequeueAfter > 0) != later {
				t.Errorf("looks again after %s, want that: %t", result.RequeueAfter, later)
			}
			now.SetTime(now.Now().Add(grace))
			if _, err := r.Reconcile(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			if got := left(t, c); !slices.Equal(got, want) {
				t.Errorf("left %q, want %q", got, want)
			}
		})
	}
}

// The cache does not know yet that a pod of an older configuration was made.
func TestTheCacheIsNotBelievedThatNothingUsesIt(t *testing.T) {
	cache := newClient(t, newVault(), secret("a"), deployment("3", "b"))
	live := newClient(t, newVault(), secret("a"), deployment("3", "b"), pod("old", projected("a")))
	now := testclock.NewFakePassiveClock(time.Now())
	r := &Reconciler{Client: cache, Cache: cache, APIReader: live, Clock: now}
	for range 3 {
		request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(newVault())}
		if _, err := r.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		now.SetTime(now.Now().Add(grace))
	}
	if got := left(t, cache); !slices.Equal(got, []string{"a"}) {
		t.Errorf("left %q", got)
	}
}

// What was used again in between is unused only from then on.
func TestUnusedForAMinuteOnEnd(t *testing.T) {
	c := newClient(t, newVault(), secret("a"), deployment("3", "b"))
	now := testclock.NewFakePassiveClock(time.Now())
	r := &Reconciler{Client: c, Cache: c, APIReader: c, Clock: now}
	step := func(names string) {
		t.Helper()
		current := deployment("3", names)
		if err := c.Update(t.Context(), current); err != nil {
			t.Fatal(err)
		}
		request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(newVault())}
		if _, err := r.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		now.SetTime(now.Now().Add(grace - time.Second))
	}
	step("b")
	step("a")
	step("b")
	if got := left(t, c); !slices.Equal(got, []string{"a"}) {
		t.Errorf("left %q", got)
	}
	step("b")
	step("b")
	if got := left(t, c); len(got) > 0 {
		t.Errorf("left %q", got)
	}
}

func TestNothingGoesWhenTheAPIServerFails(t *testing.T) {
	api := newClient(t, newVault(), secret("a"), deployment("3", "b"))
	for name, funcs := range map[string]interceptor.Funcs{
		"reading the Deployment": {Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object,
			opts ...client.GetOption) error {
			if _, ok := obj.(*appsv1.Deployment); ok {
				return errAPI
			}
			return c.Get(ctx, key, obj, opts...)
		}},
		"listing pods": {List: func(ctx context.Context, c client.WithWatch, list client.ObjectList,
			opts ...client.ListOption) error {
			if _, ok := list.(*corev1.PodList); ok {
				return errAPI
			}
			return c.List(ctx, list, opts...)
		}},
	} {
		now := testclock.NewFakePassiveClock(time.Now())
		r := &Reconciler{
			Client: api, Cache: api, APIReader: interceptor.NewClient(api, funcs), Clock: now,
		}
		request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(newVault())}
		if _, err := r.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		now.SetTime(now.Now().Add(grace))
		if _, err := r.Reconcile(t.Context(), request); !errors.Is(err, errAPI) {
			t.Errorf("%s: Reconcile() = %v", name, err)
		}
		if got := left(t, api); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%s: left %q", name, got)
		}
	}
}
