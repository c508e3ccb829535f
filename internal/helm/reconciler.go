// Package helm runs the Helm reconciler of helm-operator-plugins on Vault
// resources: what a Vault consists of is rendered by the chart in
// helm-charts/vault. It keeps the reconciler's hands off what it does not own,
// and lets it work only when something has changed.
package helm

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	helmclient "github.com/operator-framework/helm-operator-plugins/pkg/client"
	"github.com/operator-framework/helm-operator-plugins/pkg/reconciler"
	"github.com/operator-framework/helm-operator-plugins/pkg/watches"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/postrender"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/fairness"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/releases"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// maxReleaseHistory is how many revisions of a release are kept, each in a
// Secret: enough for "helm history" to show what the last change was.
const maxReleaseHistory = 3

// waitForDeletion is how long a reconcile waits to see that a Vault whose
// release it has uninstalled is gone.
const waitForDeletion = 30 * time.Second

// SetupWithManager adds the Helm reconciler for Vaults to the manager, with the
// chart that the watches file names for them, rendered for OpenShift or not.
//
// The reconciler's own SetupWithManager is not used: it would reconcile on each
// write of the status, and cache every Secret and every rendered object of the
// cluster. All that it would default is given as an option here.
//
// Before each reconcile it calls yield, which waits while more urgent work is
// late. A release may take a while, and rendering one is the most that the process
// ever does.
//
// The records of the releases are kept in the given namespace, the operator's own. The source tells of Vaults
// whose StatefulSet has to be made.
func SetupWithManager(mgr ctrl.Manager, watchesFile, namespace string, openshift bool,
	inputs *references.Inputs, releaseDue source.Source, yield func(context.Context, time.Duration)) error {
	watch, err := loadWatch(watchesFile)
	if err != nil {
		return err
	}
	records := &releases.Store{
		Namespace: namespace, Chart: watch.Chart.Name(), Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(),
		Clock: clock.RealClock{},
		//nolint:staticcheck // the same kind of recorder as the reconciler's
		Recorder: message.Recorder(mgr.GetEventRecorderFor("vault-operator")),
	}
	if err := mgr.Add(records); err != nil {
		return err
	}
	r, err := newReconciler(mgr, watch, records, inputs, openshift, namespace)
	if err != nil {
		return err
	}
	options := controller.Options{MaxConcurrentReconciles: 1}
	if watch.MaxConcurrentReconciles != nil {
		options.MaxConcurrentReconciles = *watch.MaxConcurrentReconciles
	}
	// An uninstallation waits for what is of a tenant.
	ofNamespace := max(options.MaxConcurrentReconciles-1, 1)
	owned := builder.WithPredicates(dependentChanged())
	reader := mgr.GetClient()
	return fairness.Complete(ctrl.NewControllerManagedBy(mgr).
		Named("helm").
		// The generation also changes when deletion begins. No annotation of a Vault
		// means anything to the reconciler, and tools set theirs as they like.
		For(&v1alpha1.Vault{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, sealBecameReady(), runningNodesChanged()))).
		Owns(&appsv1.Deployment{}, owned).
		Owns(&appsv1.StatefulSet{}, owned).
		Owns(&corev1.Service{}, owned, builder.OnlyMetadata).
		Owns(&corev1.ServiceAccount{}, owned, builder.OnlyMetadata).
		Owns(&corev1.Secret{}, builder.WithPredicates(dependentChanged(), isConfiguration()), builder.OnlyMetadata).
		Owns(&policyv1.PodDisruptionBudget{}, owned, builder.OnlyMetadata).
		Owns(&networkingv1.NetworkPolicy{}, owned, builder.OnlyMetadata).
		WatchesMetadata(references.Secret(), references.SecretHandler(reader), builder.WithPredicates(secretChanged(reader))).
		WatchesMetadata(references.Secret(), releases.RemovedHandler(), builder.WithPredicates(releases.Removed())).
		WatchesMetadata(references.ConfigMap(), references.ConfigMapHandler(reader)).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault),
			builder.WithPredicates(deleted())).
		WatchesRawSource(releaseDue).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(pods.ToVault),
			builder.WithPredicates(memberBecameReady(reader))).
		// An upgrade may wait for a backup.
		Watches(&v1alpha1.VaultBackup{}, handler.EnqueueRequestsFromMapFunc(backupschedule.ToVault)).
		Watches(&v1alpha1.VaultBackupSchedule{}, handler.EnqueueRequestsFromMapFunc(backupschedule.ToVault),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(options),
		ofNamespace, yielding{r, yield})
}

// yieldFor is how long a reconcile waits for more urgent work at most, so that
// releases go on, slowly, in an operator that is always late.
const yieldFor = 5 * time.Second

// yielding is a reconciler that lets more urgent work go before it.
type yielding struct {
	reconcile.Reconciler
	yield func(context.Context, time.Duration)
}

// Reconcile waits, and reconciles.
func (y yielding) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	y.yield(ctx, yieldFor)
	return y.Reconciler.Reconcile(ctx, req)
}

// loadWatch returns the entry for Vaults of the watches file.
func loadWatch(path string) (*watches.Watch, error) {
	all, err := watches.Load(path)
	if err != nil {
		return nil, fmt.Errorf("watches file: %w", err)
	}
	gvk := v1alpha1.GroupVersion.WithKind("Vault")
	if len(all) != 1 || all[0].GroupVersionKind != gvk {
		return nil, fmt.Errorf("watches file %s: want exactly one entry, for %s", path, gvk)
	}
	return &all[0], nil
}

func newReconciler(
	mgr ctrl.Manager, watch *watches.Watch, records *releases.Store, inputs *references.Inputs, openshift bool,
	namespace string,
) (*reconciler.Reconciler, error) {
	configs, err := helmclient.NewActionConfigGetter(mgr.GetConfig(), mgr.GetRESTMapper(),
		helmclient.StorageDriverMapper(records.Driver))
	if err != nil {
		return nil, err
	}
	//nolint:staticcheck // the same kind of recorder as the reconciler's
	recorder := message.Recorder(mgr.GetEventRecorderFor("vault-operator"))
	renewal := func(vault client.ObjectKey) storage.Renewal {
		return storage.Renewal{Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Vault: vault}
	}
	// A rollback of a failed installation is an uninstallation. When the record
	// of a release was lost, installing means adopting what runs already, so a
	// failure would delete a living Vault. What failed is tried again instead.
	actions, err := helmclient.NewActionClientGetter(&sparing{ActionConfigGetter: configs, renewal: renewal},
		helmclient.WithFailureRollbacks(false),
		// The API server validates what it is sent. Helm would do so as well, for
		// which it reads the server's whole schema each time: two thirds of what a
		// reconcile that changes nothing costs.
		//
		// The chart has no hooks, so whatever else asks for one is not ours.
		helmclient.AppendInstallOptions(func(i *action.Install) error {
			i.DisableOpenAPIValidation, i.DisableHooks = true, true
			return nil
		}),
		helmclient.AppendUpgradeOptions(func(u *action.Upgrade) error {
			u.DisableOpenAPIValidation, u.DisableHooks = true, true
			return nil
		}),
		helmclient.AppendUninstallOptions(func(u *action.Uninstall) error {
			u.DisableHooks = true
			return nil
		}),
		helmclient.AppendPostRenderers(func(_ meta.RESTMapper, _ kube.Interface, obj client.Object) postrender.PostRenderer {
			return seal.TemplateGate(mgr.GetClient(), client.ObjectKeyFromObject(obj))
		}, func(_ meta.RESTMapper, _ kube.Interface, obj client.Object) postrender.PostRenderer {
			// After the others, so that there is a backup only of what would be done.
			return backupschedule.UpgradeGate(mgr.GetClient(), recorder, client.ObjectKeyFromObject(obj))
		}, func(_ meta.RESTMapper, _ kube.Interface, obj client.Object) postrender.PostRenderer {
			return renewal(client.ObjectKeyFromObject(obj)).Gate()
		}),
	)
	if err != nil {
		return nil, err
	}
	opts := []reconciler.Option{
		reconciler.WithGroupVersionKind(watch.GroupVersionKind),
		reconciler.WithChart(*watch.Chart),
		reconciler.WithOverrideValues(watch.OverrideValues),
		reconciler.WithClient(newClient(mgr.GetClient())),
		reconciler.WithActionClientGetter(retaining{unlocking{actions}, mgr.GetAPIReader(), mgr.GetClient(), renewal}),
		reconciler.WithLog(mgr.GetLogger().WithName("helm")),
		reconciler.WithEventRecorder(recorder),
		reconciler.WithValueTranslator(&translator{
			client: mgr.GetClient(), cache: mgr.GetCache(), apiReader: mgr.GetAPIReader(),
			inputs: inputs, clock: clock.RealClock{}, records: records, openshift: openshift,
			namespace: namespace,
			// All pods have addresses of one family first, and so have all Services; it need not be
			// the same. Kubernetes tells a pod the address of the API server's Service.
			// https://kubernetes.io/docs/concepts/services-networking/dual-stack/
			ipv6:         isIPv6(cmp.Or(os.Getenv("POD_IP"), os.Getenv("KUBERNETES_SERVICE_HOST"))),
			ipv6Services: isIPv6(os.Getenv("KUBERNETES_SERVICE_HOST")),
		}),
		//nolint:staticcheck // deprecated, but called, so it may not be nil
		reconciler.WithValueMapper(identityMapper),
		reconciler.WithMaxReleaseHistory(maxReleaseHistory),
		reconciler.WithWaitForDeletionTimeout(waitForDeletion),
	}
	if watch.ReconcilePeriod != nil {
		opts = append(opts, reconciler.WithReconcilePeriod(watch.ReconcilePeriod.Duration))
	}
	return reconciler.New(opts...)
}

func isIPv6(address string) bool { return strings.Contains(address, ":") }
