package operator

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// Users decide how large the objects of their namespaces are, and the caches of the
// operator have one memory for all. So an object is reduced to
// what is used of it before it is kept, and what is still far larger than anything
// that belongs to a Vault is reduced to its name.
const (
	// maxMetadata bounds an object of which only the metadata is watched.
	maxMetadata = 4 << 10
	// maxObject bounds the others. A pod of Vault takes up 8 KiB.
	maxObject = 64 << 10
	// pageSize is how many objects are in memory as they are, while they are listed.
	pageSize = 25
)

// keptAnnotations are the prefixes of the annotations that are used: the
// operator's, the revision of Deployments, and what keeps Argo CD from deleting volume
// claims. Others may hold whole objects, such as that of kubectl apply.
var keptAnnotations = []string{
	"vault.security.coreos.com/",
	"deployment.kubernetes.io/revision",
	corev1.PodDeletionCost,
	storage.KeepAnnotation,
}

// slim reduces an object to what is kept of it in the caches.
func slim(object any) (any, error) {
	obj, ok := object.(client.Object)
	if !ok { // what a watch has missed the deletion of
		return object, nil
	}
	obj.SetManagedFields(nil)
	obj.SetAnnotations(only(obj.GetAnnotations(), usedAnnotation))
	limit := maxObject
	switch obj := obj.(type) {
	case *metav1.PartialObjectMetadata:
		limit = maxMetadata
		obj.SetFinalizers(nil)
	case *corev1.Pod:
		slimPod(obj)
	case *v1alpha1.VaultBackup, *v1alpha1.VaultBackupSchedule, *v1alpha1.VaultRestore:
		// They are patched and not updated, so that the others stay. No annotation is used.
		obj.SetAnnotations(nil)
		obj.SetLabels(only(obj.GetLabels(), usedLabel))
	}
	// A Vault has no size, and what is used of it is its spec.
	if sized, ok := obj.(interface{ Size() int }); ok && sized.Size() > limit {
		nameOnly(obj)
	}
	return obj, nil
}

// usedLabel says whether backups and restores are found by a label.
func usedLabel(key string) bool {
	switch key {
	case v1alpha1.NameLabel, v1alpha1.InstanceLabel, v1alpha1.ComponentLabel, v1alpha1.ScheduleLabel, v1alpha1.ProofLabel,
		backupschedule.UpgradeLabel:
		return true
	}
	return false
}

func usedAnnotation(key string) bool {
	return slices.ContainsFunc(keptAnnotations, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// only returns those of the labels or annotations that are used; nil if none is.
func only(all map[string]string, used func(key string) bool) map[string]string {
	var kept map[string]string
	for key, value := range all {
		if !used(key) {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[key] = value
	}
	return kept
}

// slimPod drops what only the kubelet needs.
func slimPod(pod *corev1.Pod) {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			container := &containers[i]
			container.Command, container.Args = nil, nil
			container.Env, container.EnvFrom = nil, nil
			container.LivenessProbe, container.ReadinessProbe, container.StartupProbe = nil, nil, nil
			container.Lifecycle = nil
		}
	}
	pod.Spec.EphemeralContainers = nil
}

// nameOnly reduces an object to what tells that the one of this name has changed. It
// is of no Vault then, since labels and owners decide on that.
func nameOnly(obj client.Object) {
	kind, version := obj.GetObjectKind().GroupVersionKind(), obj.GetResourceVersion()
	namespace, name, uid := obj.GetNamespace(), obj.GetName(), obj.GetUID()
	reflect.ValueOf(obj).Elem().SetZero()
	obj.GetObjectKind().SetGroupVersionKind(kind)
	obj.SetNamespace(namespace)
	obj.SetName(name)
	obj.SetUID(uid)
	obj.SetResourceVersion(version)
}

// newClient is a client that reads metadata from the cache. That of controller-runtime
// also requests from the API server the metadata of kinds whose content is not cached.
func newClient(config *rest.Config, options client.Options) (client.Client, error) {
	c, err := client.New(config, options)
	if err != nil {
		return nil, err
	}
	return metadataClient{c, options.Cache.Reader}, nil
}

type metadataClient struct {
	client.Client
	cache client.Reader
}

func (c metadataClient) Get(
	ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption,
) error {
	if _, ok := obj.(*metav1.PartialObjectMetadata); ok {
		return c.cache.Get(ctx, key, obj, opts...)
	}
	return c.Client.Get(ctx, key, obj, opts...)
}

func (c metadataClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*metav1.PartialObjectMetadataList); ok {
		return c.cache.List(ctx, list, opts...)
	}
	return c.Client.List(ctx, list, opts...)
}

// newInformer is an informer that never holds a whole list in full: lists are read in
// pages, and each page is made slim before the next is read. From an API server with
// WatchList no list is requested at all; one without it serves a list from its cache as
// a whole, whatever the limit of the request.
func newInformer(
	lister toolscache.ListerWatcher, example runtime.Object, resync time.Duration, indexers toolscache.Indexers,
) toolscache.SharedIndexInformer {
	lw := toolscache.ToListerWatcherWithContext(lister)
	return toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			return list(ctx, lw)
		},
		WatchFuncWithContext: lw.WatchWithContext,
	}, example, resync, indexers)
}

// list returns all objects, slim.
func list(ctx context.Context, lister toolscache.ListerWithContext) (runtime.Object, error) {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		page, err := lister.ListWithContext(ctx, options)
		if err != nil {
			return nil, err
		}
		return page, meta.EachListItem(page, func(object runtime.Object) error {
			_, err := slim(object)
			return err
		})
	})
	pages.PageSize = pageSize
	// Rather list anew, in pages.
	pages.FullListIfExpired = false
	// Only a list of the newest version is answered in pages.
	all, _, err := pages.ListWithAlloc(ctx, metav1.ListOptions{})
	return all, err
}
