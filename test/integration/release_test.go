//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/releases"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/test/internal/scrape"
)

// renderedKinds are the lists of all kinds that the chart renders.
func renderedKinds() []client.ObjectList {
	return []client.ObjectList{
		&appsv1.DeploymentList{}, &appsv1.StatefulSetList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{},
		&policyv1.PodDisruptionBudgetList{}, &networkingv1.NetworkPolicyList{},
	}
}

// rendered returns the objects that Helm rendered for a Vault, by "Kind name".
func rendered(t *testing.T, vault *v1alpha1.Vault) map[string]client.Object {
	t.Helper()
	objects := map[string]client.Object{}
	if config := configSecretOf(t, vault); config != nil {
		objects["Secret "+config.Name] = config
	}
	for _, list := range renderedKinds() {
		err := admin.List(t.Context(), list, client.InNamespace(vault.Namespace),
			client.MatchingLabels{v1alpha1.InstanceLabel: vault.Name})
		if err != nil {
			t.Fatal(err)
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			obj := item.(client.Object)
			kinds, _, err := admin.Scheme().ObjectKinds(obj)
			if err != nil {
				t.Fatal(err)
			}
			objects[kinds[0].Kind+" "+obj.GetName()] = obj
		}
	}
	return objects
}

// configSecretOf returns the Secret with the chart's own configuration that the
// Deployment names, or nil while there is none.
func configSecretOf(t *testing.T, vault *v1alpha1.Vault) *corev1.Secret {
	t.Helper()
	var deployment appsv1.Deployment
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(vault), &deployment); err != nil {
		return nil
	}
	name, _, _ := strings.Cut(deployment.Annotations[v1alpha1.ConfigSecretsAnnotation], ",")
	var secret corev1.Secret
	if err := admin.Get(t.Context(), types.NamespacedName{Namespace: vault.Namespace, Name: name}, &secret); err != nil {
		return nil
	}
	return &secret
}

func namesOf(objects map[string]client.Object) []string {
	var names []string
	for name := range objects {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// records returns the Secrets in which the operator keeps the releases of a
// namespace.
func records(t *testing.T, namespace string) []corev1.Secret {
	t.Helper()
	var list corev1.SecretList
	of := client.MatchingLabels{"owner": "helm", releases.VaultNamespaceLabel: namespace}
	if err := admin.List(t.Context(), &list, client.InNamespace(operatorNamespace), of); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// touch makes the operator reconcile a Vault without changing what is wanted.
func touch(t *testing.T, vault *v1alpha1.Vault, value string) {
	t.Helper()
	service := get(t, vault.Namespace, vault.Name, &corev1.Service{})
	change(t, service, fmt.Sprintf(`{"metadata": {"labels": {"example.com/touched": %q}}}`, value))
}

// recordVersions watches a Vault for as long as the test runs and asserts what
// must hold for every single version of it.
func recordVersions(t *testing.T, namespace string) {
	t.Helper()
	var list unstructured.UnstructuredList
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VaultList"))
	ctx, cancel := context.WithCancel(context.Background())
	w, err := admin.Watch(ctx, &list, client.InNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	versions := 0
	done.Go(func() {
		seen := map[types.UID]bool{}
		for e := range w.ResultChan() {
			vault, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				if e.Type != watch.Bookmark && ctx.Err() == nil {
					t.Errorf("watching: %v", e.Object)
				}
				continue
			}
			versions++
			if e.Type != watch.Deleted {
				checkVersion(t, vault, seen)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		w.Stop()
		done.Wait()
		if versions == 0 {
			t.Error("not a single version of the Vault was seen")
		}
		t.Logf("looked at %d versions of the Vault", versions)
	})
}

// checkVersion asserts that the status of the nodes is there from the first
// time that it was, and that conditions are complete.
func checkVersion(t *testing.T, vault *unstructured.Unstructured, seen map[types.UID]bool) {
	_, found, _ := unstructured.NestedMap(vault.Object, "status", "vaultStatus")
	if seen[vault.GetUID()] && !found {
		t.Errorf("version %s has no status.vaultStatus: %v", vault.GetResourceVersion(), vault.Object["status"])
	}
	seen[vault.GetUID()] = seen[vault.GetUID()] || found
	if _, found, _ := unstructured.NestedFieldNoCopy(vault.Object, "status", "deployedRelease", "manifest"); found {
		t.Error("the status holds the manifest of the release")
	}
	conditions, _, _ := unstructured.NestedSlice(vault.Object, "status", "conditions")
	types := map[string]bool{}
	for _, c := range conditions {
		condition := c.(map[string]any)
		types[condition["type"].(string)] = true
		if reason, _ := condition["reason"].(string); reason == "" {
			t.Errorf("condition %v has no reason", condition)
		}
		if message, _ := condition["message"].(string); strings.Contains(message, "PRIVATE KEY") {
			t.Errorf("condition %v holds a key", condition)
		}
	}
	if types["Paused"] {
		t.Error("there is a condition Paused, and nothing that pauses")
	}
	if found && !types[v1alpha1.AvailableCondition] {
		t.Errorf("version %s has lost the conditions of the nodes: %v", vault.GetResourceVersion(), types)
	}
}

func TestRenderedObjects(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	recordVersions(t, namespace)
	vault := awaitDeployed(t, createVault(t, namespace, ""))

	want := []string{
		"Deployment example", "NetworkPolicy example", "NetworkPolicy example-etcd",
		"PodDisruptionBudget example", "PodDisruptionBudget example-etcd", "Secret " + configSecretOf(t, vault).Name,
		"Service example", "Service example-etcd", "Service example-etcd-client", "Service example-nodes",
		"ServiceAccount example", "StatefulSet example-etcd",
	}
	objects := rendered(t, vault)
	if got := namesOf(objects); !slices.Equal(got, want) {
		t.Errorf("rendered %q, want %q", got, want)
	}
	for name, obj := range objects {
		if !metav1.IsControlledBy(obj, vault) {
			t.Errorf("%s is not owned by the Vault: %v", name, obj.GetOwnerReferences())
		}
	}
	service := objects["Service example"].(*corev1.Service)
	if service.Spec.Selector[v1alpha1.ActiveLabel] != v1alpha1.ActiveLabelValue {
		t.Errorf("the Service selects %v, and not the active pod", service.Spec.Selector)
	}
	// Selectors are forever, and the controllers find pods by the same labels.
	deployment := objects["Deployment example"].(*appsv1.Deployment)
	for key, value := range vault.PodLabels() {
		if deployment.Spec.Template.Labels[key] != value || deployment.Spec.Selector.MatchLabels[key] != value {
			t.Errorf("label %s=%s is not on the pods", key, value)
		}
	}
	if _, ok := deployment.Spec.Template.Labels[v1alpha1.ActiveLabel]; ok {
		t.Error("the pod template has the active label")
	}
	if !slices.ContainsFunc(deployment.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
		return c.Name == v1alpha1.VaultContainer
	}) {
		t.Errorf("no container %q", v1alpha1.VaultContainer)
	}
	for _, volume := range deployment.Spec.Template.Spec.Volumes {
		if volume.Secret != nil && !exists(t, namespace, volume.Secret.SecretName, &corev1.Secret{}) {
			t.Errorf("volume %s needs Secret %s, which does not exist", volume.Name, volume.Secret.SecretName)
		}
	}
	if vault.Status.Phase != v1alpha1.PhaseCreating || vault.Status.ServiceName != "example" ||
		vault.Status.ClientPort != 8200 {
		t.Errorf("status %+v", vault.Status)
	}
	if !slices.Equal(vault.Finalizers, []string{"uninstall-helm-release"}) {
		t.Errorf("finalizers %v", vault.Finalizers)
	}
	for _, e := range events(t, vault) {
		if strings.HasPrefix(e, corev1.EventTypeWarning) {
			t.Errorf("a new Vault comes with the event %q", e)
		}
	}
}

// Limits alone are requests too, as on any pod, and nothing at all is possible.
func TestResourcesAreThoseOfTheSpec(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t,
		createVault(t, namespace,
			`spec: {pod: {resources: {limits: {cpu: 50m, memory: 128Mi}}}, storage: {etcd: {resources: {}}}}`))
	limits := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"),
		corev1.ResourceMemory: resource.MustParse("128Mi")}
	nodes := get(t, namespace, "example", &appsv1.Deployment{}).Spec.Template.Spec.Containers[0].Resources
	if want := (corev1.ResourceRequirements{Limits: limits}); !equality.Semantic.DeepEqual(nodes, want) {
		t.Errorf("the nodes have %v, want %v", nodes, want)
	}
	members := setOf(t, vault).Spec.Template.Spec.Containers[0].Resources
	if want := (corev1.ResourceRequirements{}); !equality.Semantic.DeepEqual(members, want) {
		t.Errorf("the members have %v, want none", members)
	}
}

// The Service is what the spec wants, and goes back when the spec does.
func TestServiceOfTheSpec(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t,
		createVault(t, namespace, `spec: {service: {type: LoadBalancer, annotations: {example.com/internal: "true"}}}`))
	service := get(t, namespace, "example", &corev1.Service{})
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.Annotations["example.com/internal"] != "true" {
		t.Errorf("type %s, annotations %v", service.Spec.Type, service.Annotations)
	}
	change(t, vault, `{"spec": {"service": null}}`)
	eventually(t, "the Service is back to the default", func() error {
		service := get(t, namespace, "example", &corev1.Service{})
		if service.Spec.Type != corev1.ServiceTypeClusterIP || len(service.Annotations["example.com/internal"]) > 0 {
			return fmt.Errorf("type %s, annotations %v", service.Spec.Type, service.Annotations)
		}
		return nil
	})
}

// What only the API server can refuse is told with the field of the Vault, in an event
// as well.
func TestRefusalsNameTheFieldOfTheVault(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := createVault(t, namespace, `spec: {pod: {annotations: {"Ä": x}}}`)
	awaitVault(t, vault, "the field is named", all(
		says("ReleaseFailed", "spec.pod.annotations"), says("Ready", "ReleaseFailed: ", "spec.pod.annotations"),
		says("Stalled", "spec.pod.annotations"), has("Deployed=False NotDeployed")))
	awaitEvent(t, vault, "Warning InstallError ReleaseFailed: ")
	wide := wideColumns(t, vault)
	if !strings.Contains(wide, "InstallError") || !strings.Contains(wide, "spec.pod.annotations") {
		t.Errorf("kubectl get vault -o wide shows %s", wide)
	}
}

// A Vault that is deleted in the foreground, as Argo CD does, stays until its pods have ended. The
// operator does not wait for that: there is nothing left that it could do.
func TestForegroundDeletion(t *testing.T) {
	namespace := newNamespace(t)
	address := freeAddress(t)
	t.Setenv(metricsAddress, address)
	reader := newToken(t, namespace, "reader")
	bindRole(t, "metrics_reader_role.yaml", namespace, "reader")
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	// Nothing collects garbage here, so that it stays until the test lets it go.
	err := admin.Delete(t.Context(), vault, client.PropagationPolicy(metav1.DeletePropagationForeground))
	if err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "the release is uninstalled", func(v *v1alpha1.Vault) error {
		if !slices.Equal(v.Finalizers, []string{metav1.FinalizerDeleteDependents}) {
			return fmt.Errorf("finalizers %q", v.Finalizers)
		}
		return nil
	})
	awaitQuiet(t)
	before := len(audit.all(t))
	// On a busy machine a worker may pause for some seconds.
	poll.Eventually(t, "no worker is held", 10*time.Second, 200*time.Millisecond, func() error {
		status, metrics, err := scrape.Metrics(t.Context(), address, reader)
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("status %d, error %w", status, err)
		}
		workers := grep(metrics, "controller_runtime_active_workers{")
		if !strings.Contains(workers, `controller="helm"`) {
			return fmt.Errorf("the metrics tell nothing of the workers:\n%s", workers)
		}
		for line := range strings.Lines(workers) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[len(fields)-1] != "0" {
				return errors.New(line)
			}
		}
		return nil
	})
	time.Sleep(3 * time.Second)
	for _, r := range audit.all(t)[before:] {
		// Those of the metrics' reader are asked for by the test.
		if !slices.Contains([]string{"tokenreviews", "subjectaccessreviews", "leases"}, r.ObjectRef.Resource) {
			t.Errorf("a request while the Vault goes: %s", r)
		}
	}
}

// wideColumns are what "kubectl get vault -o wide" shows of a Vault, as the API server prints it.
func wideColumns(t *testing.T, vault *v1alpha1.Vault) string {
	t.Helper()
	path := fmt.Sprintf("/apis/%s/namespaces/%s/vaults/%s", v1alpha1.GroupVersion, vault.Namespace, vault.Name)
	shown, err := clientset.CoreV1().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(shown, &table); err != nil || len(table.Rows) != 1 {
		t.Fatalf("%v: %s", err, shown)
	}
	return fmt.Sprint(table.Rows[0].Cells)
}

// Of an upgrade that fails the API server may have accepted a part. Setting the spec back
// undoes that, too.
func TestWhatAFailedUpgradeLeaves(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	for _, variable := range []string{"WRONG", "WRONG_AS_WELL"} {
		change(t, vault, fmt.Sprintf(`{"spec": {"pod": {"serviceAccountAnnotations": {"bad key": "x"},
			"env": [{"name": %q, "value": "x"}], "annotations": {%q: "x"},
			"volumes": [{"name": "wrong", "secret": {"secretName": "wrong"}}]}}}`, variable, strings.ToLower(variable)))
		eventually(t, "the Deployment was patched", func() error {
			pod := get(t, namespace, "example", &appsv1.Deployment{}).Spec.Template
			if env := pod.Spec.Containers[0].Env; env[0].Name != variable {
				return fmt.Errorf("the environment is %v", env)
			}
			return nil
		})
		awaitVault(t, vault, "the release has failed", says("ReleaseFailed", "bad key"))
	}
	change(t, vault, `{"spec": {"pod": {"serviceAccountAnnotations": null, "env": null, "annotations": null, "volumes": `+
		`null}}}`)
	awaitVault(t, vault, "all is well", has(deployed...))
	template := get(t, namespace, "example", &appsv1.Deployment{}).Spec.Template
	text, err := json.Marshal(template)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToLower(string(text)), "wrong") {
		t.Errorf("the Deployment still has what the failed upgrades set: %s", text)
	}
}

// Each reconcile of the Helm side writes its part of the status. Recording
// every version shows that the other part is never absent, and counting the
// writes that the two do not react to each other.
func TestStatusSurvivesManyReconciles(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	recordVersions(t, namespace)
	vault := awaitDeployed(t, createVault(t, namespace, ""))

	for i := range 6 {
		before := operator.countLogs(`"Release `)
		switch i % 3 {
		case 0:
			touch(t, vault, strconv.Itoa(i))
		case 1:
			change(t, vault, fmt.Sprintf(`{"spec": {"nodes": %d}}`, i))
		case 2:
			change(t, vault, fmt.Sprintf(`{"spec": {"version": "1.21.%d"}}`, i))
		}
		eventually(t, "Helm reconciles", func() error {
			if operator.countLogs(`"Release `) == before {
				return errors.New("it does not")
			}
			return nil
		})
	}
	awaitVault(t, vault, "the last change is deployed", func(v *v1alpha1.Vault) error {
		if v.Status.ObservedGeneration != v.Generation {
			return fmt.Errorf("observed generation %d of %d", v.Status.ObservedGeneration, v.Generation)
		}
		for _, condition := range v.Status.Conditions {
			if condition.ObservedGeneration != v.Generation {
				return fmt.Errorf("%s is of generation %d, want %d", condition.Type, condition.ObservedGeneration, v.Generation)
			}
		}
		return has(deployed...)(v)
	})
	deployment := get(t, namespace, "example", &appsv1.Deployment{})
	if *deployment.Spec.Replicas != 4 || !strings.HasSuffix(deployment.Spec.Template.Spec.Containers[0].Image, ":1.21.5") {
		t.Errorf("replicas %d, image %s", *deployment.Spec.Replicas, deployment.Spec.Template.Spec.Containers[0].Image)
	}
	if count := len(records(t, namespace)); count > 3 {
		t.Errorf("%d revisions of the release are kept", count)
	}
}

func TestNothingIsWrittenAtRest(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	vault = get(t, namespace, "example", vault)
	reconciles := operator.countLogs(`"Release reconciled"`)
	count := len(writes(t, namespace))

	// The status of a rendered object changes all the time. It is news for the
	// status of the Vault, and none for Helm.
	etcd := get(t, namespace, "example-etcd", &appsv1.StatefulSet{})
	for ready := range int32(4) {
		etcd.Status.Replicas, etcd.Status.ReadyReplicas = 3, ready
		if err := admin.Status().Update(t.Context(), etcd); err != nil {
			t.Fatal(err)
		}
	}
	deployment := get(t, namespace, "example", &appsv1.Deployment{})
	for replicas := range int32(3) {
		deployment.Status.Replicas = replicas
		if err := admin.Status().Update(t.Context(), deployment); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		name := fmt.Sprintf("example-etcd-%d", i)
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: vault.EtcdLabels()},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "etcd", Image: "etcd"}}},
		}
		if err := admin.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		setPodStatus(t, vault, name, corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady,
			Status: corev1.ConditionTrue}}})
	}
	awaitVault(t, vault, "the storage is ready", has("StorageReady=True Quorum"))
	awaitQuiet(t)
	for _, w := range writes(t, namespace)[count:] {
		if w.ObjectRef.Resource != "vaults" || w.ObjectRef.Subresource != "status" {
			t.Errorf("a status that changed made the operator %s", w)
		}
	}
	if more := operator.countLogs(`"Release reconciled"`) - reconciles; more > 0 {
		t.Errorf("a status that changed made Helm reconcile %d times", more)
	}

	// Then it is at rest: there is not even a request.
	requests := len(audit.all(t))
	version := get(t, namespace, "example", vault).ResourceVersion
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if now := get(t, namespace, "example", vault).ResourceVersion; now != version {
			t.Fatalf("the Vault was written at rest: %s, was %s", now, version)
		}
	}
	if all := audit.all(t); len(all) > requests {
		t.Errorf("at rest the operator makes the requests %v", all[requests:])
	}
}

// A reconcile that changes nothing leaves every object's version as it is.
func TestReconcileOfAnUnchangedVaultChangesNothing(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	release := records(t, namespace)

	reconciles := operator.countLogs(`"Release reconciled"`)
	requests := len(audit.all(t))
	touch(t, vault, "now")
	before := rendered(t, vault)
	version := get(t, namespace, "example", vault).ResourceVersion
	eventually(t, "Helm reconciles", func() error {
		if operator.countLogs(`"Release reconciled"`) == reconciles {
			return errors.New("it does not")
		}
		return nil
	})
	awaitQuiet(t)
	for name, obj := range rendered(t, vault) {
		if old := before[name]; old == nil || old.GetResourceVersion() != obj.GetResourceVersion() {
			t.Errorf("%s was written", name)
		}
	}
	if now := records(t, namespace); len(now) != len(release) || now[0].ResourceVersion != release[0].ResourceVersion {
		t.Error("the release was written")
	}
	if now := get(t, namespace, "example", vault).ResourceVersion; now != version {
		t.Errorf("the Vault was written: %s, was %s", now, version)
	}
	// The schema of the API server is several megabytes.
	for _, r := range audit.all(t)[requests:] {
		if strings.HasPrefix(r.URI, "/openapi/") {
			t.Errorf("a reconcile that changes nothing requests %s", r.URI)
		}
	}
}

func TestManualEditsAreUndone(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)

	edits := []struct {
		what   string
		obj    client.Object
		name   string
		patch  string
		undone func(client.Object) bool
	}{
		{
			what: "replicas of the Deployment", obj: &appsv1.Deployment{}, name: "example", patch: `{"spec": {"replicas": 7}}`,
			undone: func(obj client.Object) bool { return *obj.(*appsv1.Deployment).Spec.Replicas == 2 },
		},
		{
			what: "selector of the Service", obj: &corev1.Service{}, name: "example",
			patch: `{"spec": {"selector": {"vault.security.coreos.com/active": null}}}`,
			undone: func(obj client.Object) bool {
				return obj.(*corev1.Service).Spec.Selector[v1alpha1.ActiveLabel] == v1alpha1.ActiveLabelValue
			},
		},
		{
			what: "type of the Service", obj: &corev1.Service{}, name: "example", patch: `{"spec": {"type": "NodePort"}}`,
			undone: func(obj client.Object) bool { return obj.(*corev1.Service).Spec.Type == corev1.ServiceTypeClusterIP },
		},
		{
			what: "external addresses of the Service", obj: &corev1.Service{}, name: "example",
			patch:  `{"spec": {"externalIPs": ["192.0.2.1"]}}`,
			undone: func(obj client.Object) bool { return len(obj.(*corev1.Service).Spec.ExternalIPs) == 0 },
		},
		{
			what: "the configuration", obj: &corev1.Secret{}, name: configSecretOf(t, vault).Name,
			patch: `{"metadata": {"labels": {"vault.security.coreos.com/configuration": null}, "ownerReferences": null}}`,
			undone: func(obj client.Object) bool {
				return obj.GetLabels()[v1alpha1.ConfigLabel] != "" && metav1.IsControlledBy(obj, vault)
			},
		},
		{
			what: "retention of the volumes", obj: &appsv1.StatefulSet{}, name: "example-etcd",
			patch: `{"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}}`,
			undone: func(obj client.Object) bool {
				policy := obj.(*appsv1.StatefulSet).Spec.PersistentVolumeClaimRetentionPolicy
				return policy.WhenDeleted == appsv1.RetainPersistentVolumeClaimRetentionPolicyType
			},
		},
		{
			what: "labels", obj: &policyv1.PodDisruptionBudget{}, name: "example",
			patch:  `{"metadata": {"labels": {"app.kubernetes.io/instance": "other"}}}`,
			undone: func(obj client.Object) bool { return obj.GetLabels()[v1alpha1.InstanceLabel] == "example" },
		},
		{
			what: "the network policy", obj: &networkingv1.NetworkPolicy{}, name: "example-etcd",
			patch:  `{"spec": {"ingress": [{}]}}`,
			undone: func(obj client.Object) bool { return len(obj.(*networkingv1.NetworkPolicy).Spec.Ingress[0].From) > 0 },
		},
	}
	for _, edit := range edits {
		obj := get(t, namespace, edit.name, edit.obj)
		change(t, obj, edit.patch)
		eventually(t, edit.what+": the edit is undone", func() error {
			if err := admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: edit.name}, obj); err != nil {
				return err
			}
			if !edit.undone(obj) {
				return errors.New("it is not")
			}
			return nil
		})
	}

	// What others add and Helm does not render stays, as on any object.
	deployment := get(t, namespace, "example", &appsv1.Deployment{})
	change(t, deployment, `{"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": `+
		`"now"}}}}}`)
	awaitQuiet(t)
	if deployment = get(t, namespace, "example",
		deployment); deployment.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] != "now" {
		t.Error("kubectl rollout restart is undone")
	}
	awaitVault(t, vault, "all is well", has(deployed...))
}

func TestDeletedObjectsAreMadeAgain(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	before := rendered(t, vault)
	for _, obj := range before {
		remove(t, obj)
	}
	eventually(t, "all is there again", func() error {
		after := rendered(t, vault)
		for name, old := range before {
			if now := after[name]; now == nil || now.GetUID() == old.GetUID() {
				return fmt.Errorf("%s is not", name)
			}
		}
		return nil
	})
	awaitVault(t, vault, "all is well", has(deployed...))
}

func TestDeletedCertificatesAreMadeAgain(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	old := get(t, namespace, vault.ClientSecretName(), &corev1.Secret{})
	remove(t, old)
	eventually(t, "the Secret is there again, of the same CA", func() error {
		var secret corev1.Secret
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(old), &secret); err != nil {
			return err
		}
		if string(secret.Data[v1alpha1.ClientCAKey]) != string(old.Data[v1alpha1.ClientCAKey]) {
			return errors.New("another CA")
		}
		return nil
	})
	awaitVault(t, vault, "all is well", has(deployed...))

	// The CA and a leaf: a new CA would not fit what pods serve.
	ca := get(t, namespace, "example-default-vault-ca", &corev1.Secret{})
	remove(t, ca, get(t, namespace, vault.ServerSecretName(), &corev1.Secret{}))
	awaitVault(t, vault, "the loss is reported", has("TLSReady=False AuthorityLost",
		"Irreconcilable=True ErrorGettingValues"))
	awaitEvent(t, vault, `Warning AuthorityLost Secrets with a CA are gone: "example-default-vault-ca"`)
	if exists(t, namespace, "example-default-vault-ca", &corev1.Secret{}) {
		t.Error("a second CA was made")
	}
	// Then the CA is restored, without its owner, as backup tools do it.
	ca.OwnerReferences, ca.ResourceVersion = nil, ""
	if err := admin.Create(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "all is well", has(deployed...))
	eventually(t, "the CA is the Vault's again", func() error {
		if now := get(t, namespace, ca.Name, &corev1.Secret{}); !metav1.IsControlledBy(now, vault) {
			return fmt.Errorf("it is owned by %v", now.OwnerReferences)
		}
		return nil
	})
}
