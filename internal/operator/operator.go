// Package operator puts the parts of the Vault Operator together in one manager.
package operator

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupjob"
	"github.com/vault-operator/vault-operator/internal/backupproof"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/collector"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/helm"
	"github.com/vault-operator/vault-operator/internal/initialization"
	"github.com/vault-operator/vault-operator/internal/leader"
	"github.com/vault-operator/vault-operator/internal/login"
	"github.com/vault-operator/vault-operator/internal/members"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/notify"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/references"
	"github.com/vault-operator/vault-operator/internal/rollout"
	"github.com/vault-operator/vault-operator/internal/routing"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/storage"
	"github.com/vault-operator/vault-operator/internal/unseal"
	"github.com/vault-operator/vault-operator/internal/vaultstatus"
)

const (
	// leaderElectionID is the name of the Lease that the replicas contend for.
	leaderElectionID = "vault-operator"
	// namespaceFile holds the namespace that the operator runs in.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	// shutdownTimeout is for how long the controllers may finish what they are at: longer than
	// initializing a Vault and storing its keys takes. The lease is kept meanwhile.
	shutdownTimeout = 90 * time.Second
)

// Options are what the operator's flags set.
type Options struct {
	// WatchesFile names the chart that renders a Vault.
	WatchesFile string
	// MetricsAddress and ProbeAddress are what to listen at; "0" is nowhere.
	MetricsAddress, ProbeAddress string
	// LeaderElect lets one replica at a time write releases and statuses.
	LeaderElect bool
	// Namespaces are those whose Vaults are served, separated by commas; empty are all.
	Namespaces string
	// Namespace is the operator's own, for the election of a leader and the records
	// of Helm. By default it is that of the service account.
	Namespace string
}

// Run runs the operator until the context is done, on the cluster that
// controller-runtime finds a kubeconfig for.
func Run(ctx context.Context, options Options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	manager, err := newManager(ctx, config, options)
	if err != nil {
		return err
	}
	return manager.Start(ctx)
}

// newManager returns a manager with all parts of the operator, ready to be started.
func newManager(ctx context.Context, config *rest.Config, options Options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if options.Namespace == "" {
		text, err := os.ReadFile(namespaceFile)
		if err != nil {
			return nil, fmt.Errorf("the namespace of the operator, which is not set: %w", err)
		}
		options.Namespace = strings.TrimSpace(string(text))
	}
	renewEvery := leader.RenewEvery
	broadcaster := record.NewBroadcaster(record.WithContext(ctx),
		record.WithCorrelatorOptions(record.CorrelatorOptions{SpamKeyFunc: spamKey}))
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:    scheme,
		Cache:     cacheOptions(options.Namespace, options.Namespaces),
		NewClient: newClient,
		// Users' objects are read when they are needed, and not kept.
		Client: client.Options{
			Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}},
		},
		Metrics: server.Options{
			BindAddress:    options.MetricsAddress,
			SecureServing:  true,
			FilterProvider: filters.WithAuthenticationAndAuthorization,
		},
		HealthProbeBindAddress:  options.ProbeAddress,
		LeaderElection:          options.LeaderElect,
		LeaderElectionID:        leaderElectionID,
		LeaderElectionNamespace: options.Namespace,
		RetryPeriod:             &renewEvery,
		GracefulShutdownTimeout: new(shutdownTimeout),
		// The process ends when the manager does, so the lease can be given up
		// at once, and the next replica does not wait for it to run out.
		LeaderElectionReleaseOnCancel: true,
		//nolint:staticcheck // nothing else sets what is left out; it ends with ctx
		EventBroadcaster: broadcaster,
		// The other queue may keep the manager from ending, and the lease from being
		// given up: https://github.com/kubernetes-sigs/controller-runtime/issues/3538
		Controller: ctrlconfig.Controller{UsePriorityQueue: new(false)},
	})
	if err != nil {
		return nil, err
	}
	if err := addControllers(ctx, manager, options); err != nil {
		return nil, err
	}
	if err := manager.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, err
	}
	return manager, nil
}

// spamKey limits events per Vault and reason. After 25 events of a key client-go drops all
// but one in five minutes, so a condition that goes up and down would otherwise hide the
// events that an administrator has to act on.
func spamKey(event *corev1.Event) string {
	return strings.Join([]string{string(event.InvolvedObject.UID), event.InvolvedObject.Name, event.Reason}, "/")
}

func addControllers(ctx context.Context, manager ctrl.Manager, options Options) error {
	if err := references.Index(ctx, manager); err != nil {
		return fmt.Errorf("indexing: %w", err)
	}
	engine := probe.NewEngine()
	if err := manager.Add(engine); err != nil {
		return err
	}
	alarms := etcd.NewAlarms(manager.GetClient())
	if err := manager.Add(alarms); err != nil {
		return err
	}
	tokens := &seal.Tokens{Cache: manager.GetCache(), APIReader: manager.GetAPIReader(), Yield: engine.Yield}
	if err := manager.Add(tokens); err != nil {
		return err
	}
	router := &routing.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Engine: engine, Clock: clock.RealClock{},
	}
	if err := router.SetupWithManager(ctx, manager); err != nil {
		return fmt.Errorf("routing controller: %w", err)
	}
	readiness := &routing.Readiness{Reader: manager.GetClient(), Engine: engine}
	if err := manager.Add(readiness); err != nil {
		return err
	}
	if err := manager.AddReadyzCheck("nodes", readiness.Check); err != nil {
		return err
	}
	inputs := &references.Inputs{Cache: manager.GetCache(), APIReader: manager.GetAPIReader()}
	waits := &notify.Waits{}
	keeper, err := addStorage(manager, alarms, waits)
	if err != nil {
		return err
	}
	status := &vaultstatus.Reconciler{
		Client:  manager.GetClient(),
		Engine:  engine,
		Alarms:  alarms,
		Storage: keeper,
		Waits:   waits,
		Causes:  &storage.Causes{APIReader: manager.GetAPIReader(), Clock: clock.RealClock{}},
		Tokens:  tokens,
		Inputs:  inputs,
		//nolint:staticcheck // the same kind of recorder as the Helm reconciler's
		Recorder: message.Recorder(manager.GetEventRecorderFor("vault-operator")),
		Clock:    clock.RealClock{},
		Elected:  manager.Elected(),

		LabelProblem: router.LabelProblem,
		Busy:         router.Busy,
	}
	if err := addStatus(ctx, manager, options, status); err != nil {
		return err
	}
	access, err := addKeyControllers(ctx, manager, engine)
	if err != nil {
		return err
	}
	if err := addRollout(manager, engine, access, waits); err != nil {
		return err
	}
	return addMakers(manager, options, inputs, keeper, engine)
}

// addMakers adds what makes the pods of Vaults and the Jobs of their backups, and deletes what is
// not used any more.
func addMakers(
	manager ctrl.Manager, options Options, inputs *references.Inputs, keeper *storage.Reconciler, engine *probe.Engine,
) error {
	openshift, err := isOpenShift(manager.GetConfig(), manager.GetHTTPClient())
	if err != nil {
		return err
	}
	if err := addBackups(manager, engine, options, openshift); err != nil {
		return err
	}
	unused := &collector.Reconciler{
		Client: manager.GetClient(), Cache: manager.GetCache(), APIReader: manager.GetAPIReader(),
		Clock: clock.RealClock{},
	}
	if err := unused.SetupWithManager(manager); err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	err = helm.SetupWithManager(manager, options.WatchesFile, options.Namespace, openshift, inputs, keeper.ReleaseDue(),
		engine.Yield)
	if err != nil {
		return fmt.Errorf("helm reconciler: %w", err)
	}
	return nil
}

// addStorage adds the controllers of volumes and of etcd's pods.
func addStorage(manager ctrl.Manager, alarms *etcd.Alarms, waits *notify.Waits) (*storage.Reconciler, error) {
	keeper := &storage.Reconciler{Client: manager.GetClient(), APIReader: manager.GetAPIReader()}
	if err := keeper.SetupWithManager(manager); err != nil {
		return nil, fmt.Errorf("storage controller: %w", err)
	}
	replacer := &members.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Look: alarms.Look, Waits: waits,
		//nolint:staticcheck // the same kind of recorder as the Helm reconciler's
		Recorder: message.Recorder(manager.GetEventRecorderFor("vault-operator")),
	}
	if err := replacer.SetupWithManager(manager); err != nil {
		return nil, fmt.Errorf("members controller: %w", err)
	}
	defragmenter := &members.Defragmenter{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Look: alarms.Look, Members: replacer,
		//nolint:staticcheck // the same kind of recorder as the Helm reconciler's
		Recorder: message.Recorder(manager.GetEventRecorderFor("vault-operator")), Clock: clock.RealClock{},
	}
	if err := defragmenter.SetupWithManager(manager, alarms.Source()); err != nil {
		return nil, fmt.Errorf("defragmentation controller: %w", err)
	}
	return keeper, nil
}

// addStatus adds the status controller, which stands in for a leader that is silent.
func addStatus(ctx context.Context, manager ctrl.Manager, options Options, status *vaultstatus.Reconciler) error {
	if options.LeaderElect {
		heartbeat, err := leader.Follow(ctx, manager)
		if err != nil {
			return fmt.Errorf("following the leader: %w", err)
		}
		status.LeaderAlive = heartbeat.Alive
	}
	if err := status.SetupWithManager(manager); err != nil {
		return fmt.Errorf("status controller: %w", err)
	}
	return nil
}

// addKeyControllers adds the controllers that handle keys and tokens of Vaults, where the spec
// says so. It returns what lets others use the operator's login.
func addKeyControllers(ctx context.Context, manager ctrl.Manager, engine *probe.Engine) (login.Access, error) {
	//nolint:staticcheck // the same kind of recorder as the Helm reconciler's
	recorder := message.Recorder(manager.GetEventRecorderFor("vault-operator"))
	clientset, err := kubernetes.NewForConfigAndClient(manager.GetConfig(), manager.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	operator := &login.Reconciler{
		Client: manager.GetClient(), Issuer: login.APIServer(clientset), Engine: engine, Recorder: recorder,
		Clock: clock.RealClock{},
	}
	if err := operator.SetupWithManager(manager); err != nil {
		return nil, fmt.Errorf("login controller: %w", err)
	}
	initializer := &initialization.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Engine: engine, Recorder: recorder,
		Clock: clock.RealClock{}, Authorize: operator.Grant,
	}
	if err := initializer.SetupWithManager(ctx, manager); err != nil {
		return nil, fmt.Errorf("initialization controller: %w", err)
	}
	unsealer := &unseal.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Engine: engine, Recorder: recorder,
		Clock: clock.RealClock{},
	}
	if err := unsealer.SetupWithManager(ctx, manager); err != nil {
		return nil, fmt.Errorf("unseal controller: %w", err)
	}
	return operator, nil
}

// addRollout adds what replaces nodes with integrated storage.
func addRollout(
	manager ctrl.Manager, engine *probe.Engine, access login.Access, waits *notify.Waits,
) error {
	r := &rollout.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Engine: engine, Access: access, Waits: waits,
		//nolint:staticcheck // the same kind of recorder as the Helm reconciler's
		Recorder: message.Recorder(manager.GetEventRecorderFor("vault-operator")),
		Clock:    clock.RealClock{},
	}
	if err := r.SetupWithManager(manager, engine); err != nil {
		return fmt.Errorf("rollout controller: %w", err)
	}
	return nil
}

// addBackups adds what makes backups and restores them.
func addBackups(manager ctrl.Manager, engine *probe.Engine, options Options, openshift bool) error {
	//nolint:staticcheck // the same kind of recorder as the Helm reconciler's
	recorder := message.Recorder(manager.GetEventRecorderFor("vault-operator"))
	jobs := &backupjob.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Recorder: recorder, Clock: clock.RealClock{},
		Image: ownImage(manager.GetAPIReader(), options.Namespace), OpenShift: openshift,
	}
	if err := jobs.SetupWithManager(manager); err != nil {
		return fmt.Errorf("backup controller: %w", err)
	}
	restorer := &backupjob.Restorer{Reconciler: jobs, Engine: engine}
	if err := restorer.SetupWithManager(manager); err != nil {
		return fmt.Errorf("restore controller: %w", err)
	}
	schedules := &backupschedule.Reconciler{Client: manager.GetClient(), Recorder: recorder, Clock: clock.RealClock{}}
	if err := schedules.SetupWithManager(manager); err != nil {
		return fmt.Errorf("controller of backup schedules: %w", err)
	}
	proofs := &backupproof.Reconciler{
		Client: manager.GetClient(), APIReader: manager.GetAPIReader(), Jobs: jobs, Engine: engine, Recorder: recorder,
		Clock: clock.RealClock{},
	}
	if err := proofs.SetupWithManager(manager); err != nil {
		return fmt.Errorf("controller of proofs: %w", err)
	}
	return nil
}

// imageVariable names the image of the operator where it is not run by a pod of it.
const imageVariable = "OPERATOR_IMAGE"

// ownImage returns the image that the operator runs, as its own pod has it: whoever installs it
// from a mirror has said so in one place.
func ownImage(reader client.Reader, namespace string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if image := os.Getenv(imageVariable); image != "" {
			return image, nil
		}
		name, err := os.Hostname()
		if err != nil {
			return "", err
		}
		var pod corev1.Pod
		if err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &pod); err != nil {
			return "", fmt.Errorf("reading the operator's own pod: %w", err)
		}
		for _, container := range pod.Spec.Containers {
			if container.Name == managerContainer {
				return container.Image, nil
			}
		}
		return "", fmt.Errorf("the pod %s has no container %s", name, managerContainer)
	}
}

// managerContainer is the name of the container that runs the operator.
const managerContainer = "manager"

// isOpenShift finds out once whether the API server has security context constraints,
// which choose the users of pods. The operator does not start while that is not
// known: to take it for something else would replace all pods.
func isOpenShift(config *rest.Config, httpClient *http.Client) (bool, error) {
	api, err := discovery.NewDiscoveryClientForConfigAndClient(config, httpClient)
	if err != nil {
		return false, err
	}
	groups, err := api.ServerGroups()
	if err != nil {
		return false, fmt.Errorf("finding out whether this is OpenShift: %w", err)
	}
	return slices.ContainsFunc(groups.Groups, func(group metav1.APIGroup) bool {
		return group.Name == "security.openshift.io"
	}), nil
}

// cacheOptions keep the cache to what belongs to Vaults. ConfigMaps and Secrets
// that users name can have any label, so these are watched as metadata, all of
// them, and their content is never cached. Nothing is asked of namespaces that are
// not served, for which there may be no permission.
func cacheOptions(leaseNamespace, served string) cache.Options {
	ofVaults := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{v1alpha1.NameLabel: v1alpha1.AppName})}
	lease := cache.ByObject{
		Namespaces: map[string]cache.Config{leaseNamespace: {}},
		Field:      fields.OneTermEqualSelector(metav1.ObjectNameField, leaderElectionID),
	}
	namespaces := map[string]cache.Config{}
	for _, namespace := range strings.Split(served, ",") {
		namespaces[strings.TrimSpace(namespace)] = cache.Config{}
	}
	return cache.Options{
		DefaultNamespaces: namespaces,
		DefaultTransform:  slim,
		NewInformer:       newInformer,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:                   ofVaults,
			&corev1.Service{}:               ofVaults,
			&corev1.ServiceAccount{}:        ofVaults,
			&corev1.PersistentVolumeClaim{}: ofVaults,
			&appsv1.Deployment{}:            ofVaults,
			&appsv1.StatefulSet{}:           ofVaults,
			&appsv1.ReplicaSet{}:            ofVaults,
			&batchv1.Job{}:                  ofVaults,
			&policyv1.PodDisruptionBudget{}: ofVaults,
			&networkingv1.NetworkPolicy{}:   ofVaults,
			&coordinationv1.Lease{}:         lease,
		},
	}
}
