//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// makeClaim makes the volume claim of a member as the StatefulSet controller does. It
// is bound to a volume, or not.
func makeClaim(t *testing.T, vault *v1alpha1.Vault, ordinal int, isBound bool, size,
	class string) *corev1.PersistentVolumeClaim {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: vault.EtcdClaimName(ordinal),
			Labels: vault.EtcdLabels()},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			},
		},
	}
	if isBound {
		claim.Spec.VolumeName = "pv-" + vault.Namespace + "-" + claim.Name
	}
	if err := admin.Create(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	if isBound {
		bound := client.RawPatch(types.MergePatchType, []byte(`{"status": {"phase": "Bound"}}`))
		if err := admin.Status().Patch(t.Context(), claim, bound); err != nil {
			t.Fatal(err)
		}
	}
	return claim
}

// removeClaim deletes a claim, and what would protect it while a pod uses it.
func removeClaim(t *testing.T, claim *corev1.PersistentVolumeClaim) {
	t.Helper()
	remove(t, claim)
	if exists(t, claim.Namespace, claim.Name, &corev1.PersistentVolumeClaim{}) {
		change(t, claim, `{"metadata": {"finalizers": null}}`)
	}
}

// makeMember makes the pod of a member, of a revision of the StatefulSet.
func makeMember(t *testing.T, vault *v1alpha1.Vault, ordinal int, revision string,
	status corev1.PodStatus) *corev1.Pod {
	t.Helper()
	labels := vault.EtcdLabels()
	labels[appsv1.StatefulSetRevisionLabel] = revision
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: vault.Namespace, Name: vault.EtcdMemberName(ordinal), Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "worker", Containers: []corev1.Container{{Name: "etcd", Image: "etcd"}}},
	}
	var set appsv1.StatefulSet
	err := admin.Get(t.Context(), client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdName()}, &set)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if err == nil {
		pod.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(&set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")),
		}
	}
	if err := admin.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	setMember(t, pod, status)
	return pod
}

// serveMember lets an etcd member tell at an address of its own that it votes, and whether it
// leads. The returned status is that of its pod while it is ready.
func serveMember(t *testing.T, leader bool) corev1.PodStatus {
	t.Helper()
	leads := 0
	if leader {
		leads = 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"health":"true"}`) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "etcd_server_id{server_id=\"1\"} 1\netcd_server_is_learner 0\netcd_server_has_leader 1\n"+
			"etcd_server_is_leader %d\n", leads)
		for remote := range 3 {
			_, _ = fmt.Fprintf(w, "etcd_network_known_peers{Local=\"1\",Remote=\"%d\"} 1\n", remote+1)
		}
	})
	for {
		ip := fmt.Sprintf("127.83.%d.%d", rand.IntN(250), 1+rand.IntN(250))
		listener, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(v1alpha1.EtcdHealthPort)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
		status := isReady(corev1.ConditionTrue)
		status.PodIP, status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "etcd", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}
		return status
	}
}

func setMember(t *testing.T, pod *corev1.Pod, status corev1.PodStatus) {
	t.Helper()
	pod.Status = status
	if err := admin.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

func isReady(status corev1.ConditionStatus) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady,
		Status: status}}}
}

// setOf returns the StatefulSet of the storage.
func setOf(t *testing.T, vault *v1alpha1.Vault) *appsv1.StatefulSet {
	t.Helper()
	return get(t, vault.Namespace, vault.EtcdName(), &appsv1.StatefulSet{})
}

// observeSet writes the status of the StatefulSet as its controller does.
func observeSet(t *testing.T, vault *v1alpha1.Vault, current, update string) {
	t.Helper()
	set := setOf(t, vault)
	set.Status = appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, Replicas: *set.Spec.Replicas, CurrentRevision: current, UpdateRevision: update,
	}
	if err := admin.Status().Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}

// runSetController marks the claims of a Vault as the StatefulSet controller does by
// the retention policy, until the test ends.
func runSetController(t *testing.T, vault *v1alpha1.Vault) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	name := client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdName()}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
			var set appsv1.StatefulSet
			var claims corev1.PersistentVolumeClaimList
			if admin.Get(ctx, name, &set) != nil || admin.List(ctx, &claims, client.InNamespace(name.Namespace)) != nil {
				continue
			}
			for i := range claims.Items {
				claims.Items[i].OwnerReferences = nil
				policy := set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted
				if policy == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
					claims.Items[i].OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet",
						Name: set.Name, UID: set.UID}}
				}
				_ = admin.Update(ctx, &claims.Items[i]) // again, if it was changed meanwhile
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// Volumes that an earlier Vault has left have to fit, before anything starts, and the
// spec can be corrected.
func TestKeptVolumes(t *testing.T) {
	for name, tt := range map[string]struct{ spec, correct, says string }{
		"another number of members": {`spec: {storage: {etcd: {nodes: 3}}}`, `{"spec": {"storage": {"etcd": {"nodes": 1}}}}`,
			"set spec.storage.etcd.nodes to 1 instead of 3"},
		"another size": {`spec: {storage: {etcd: {nodes: 1, volumeSize: 8Gi}}}`,
			`{"spec": {"storage": {"etcd": {"volumeSize": "2Gi"}}}}`, "set spec.storage.etcd.volumeSize to 2Gi instead of 8Gi"},
		"another class": {`spec: {storage: {etcd: {nodes: 1, storageClassName: slow}}}`,
			`{"spec": {"storage": {"etcd": {"storageClassName": "fast"}}}}`, `to "fast" instead of "slow"`},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := newNamespace(t)
			makeClaim(t, &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "example"}}, 0, true, "2Gi",
				"fast")
			startOperator(t)
			vault := createVault(t, namespace, tt.spec)
			awaitVault(t, vault, "the volumes do not fit", all(
				has("StorageReady=False VolumesMismatch", "Irreconcilable=True ErrorGettingValues"),
				says("StorageReady", "data-example-etcd-0", tt.says), says("Irreconcilable", tt.says)))
			awaitEvent(t, vault, "Warning VolumesMismatch ")
			if exists(t, namespace, vault.EtcdName(), &appsv1.StatefulSet{}) {
				t.Error("etcd starts on volumes of another")
			}
			change(t, vault, tt.correct)
			awaitDeployed(t, vault)
		})
	}
}

// What the spec says when a Vault is deleted counts for its volumes, also while the
// release is refused.
func TestRetentionAtDeletion(t *testing.T) {
	for name, tt := range map[string]struct {
		before, after string
		kept          bool
	}{
		"kept after all":    {before: "Delete", after: "Retain", kept: true},
		"deleted after all": {before: "Retain", after: "Delete"},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := newNamespace(t)
			startOperator(t)
			vault := awaitDeployed(t,
				createVault(t, namespace, `spec: {storage: {etcd: {nodes: 1, whenDeleted: `+tt.before+`}}}`))
			claim := makeClaim(t, vault, 0, true, "2Gi", "fast")
			runSetController(t, vault)
			change(t, vault, `{"spec": {"configMapName": "none", "storage": {"etcd": {"whenDeleted": "`+tt.after+`"}}}}`)
			awaitVault(t, vault, "the release is refused", has("Irreconcilable=True ErrorGettingValues"))
			remove(t, vault)
			awaitRemoved(t, vault)
			owned := len(get(t, namespace, claim.Name, claim).OwnerReferences) > 0
			if owned == tt.kept {
				t.Errorf("the volume goes with the StatefulSet: %v", owned)
			}
		})
	}
}

// makeEvent makes an event as a controller of Kubernetes does.
func makeEvent(t *testing.T, about client.Object, kind, reason, message string) {
	t.Helper()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: about.GetNamespace(), GenerateName: "event-"},
		InvolvedObject: corev1.ObjectReference{Kind: kind, Namespace: about.GetNamespace(), Name: about.GetName(),
			UID: about.GetUID()},
		Type: corev1.EventTypeWarning, Reason: reason, Message: message,
		LastTimestamp: metav1.Now(), FirstTimestamp: metav1.Now(),
	}
	if err := admin.Create(t.Context(), event); err != nil {
		t.Fatal(err)
	}
}

// A first start says what keeps each member from starting, and a class that does not
// exist can be corrected.
func TestFirstStartSaysWhy(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, `spec: {storage: {etcd: {storageClassName: fast-typo}}}`))
	claim := makeClaim(t, vault, 0, false, "2Gi", "fast-typo")
	makeEvent(t, claim, "PersistentVolumeClaim", "ProvisioningFailed", `storageclass.storage.k8s.io "fast-typo" not found`)
	makeEvent(t, setOf(t, vault), "StatefulSet", "FailedCreate",
		`create Pod example-etcd-2 in StatefulSet example-etcd failed error: pods "example-etcd-2" is forbidden: failed `+
			`quota: q: must specify limits.cpu for: etcd`)
	pods := []*corev1.Pod{
		makeMember(t, vault, 0, "a", corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
			Message: "0/3 nodes are available", LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Minute)),
		}}}),
		makeMember(t, vault, 1, "a", corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "etcd", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}},
		}}}),
	}
	awaitVault(t, vault, "each member has a reason", all(has("StorageReady=False MembersFailing"), says("StorageReady",
		"example-etcd-0 (unbound claim data-example-etcd-0: StorageClass fast-typo not found)",
		"example-etcd-1 (ImagePullBackOff)", "example-etcd-2 (it has no pod: ", "must specify limits.cpu")))
	awaitEvent(t, vault, "Warning MembersFailing ")

	runSetController(t, vault)
	old := setOf(t, vault)
	change(t, vault, `{"spec": {"storage": {"etcd": {"storageClassName": "fast"}}}}`)
	eventually(t, "the StatefulSet is deleted", func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(old), old); err == nil {
			return errors.New("it is not")
		}
		return nil
	})
	awaitVault(t, vault, "the gate waits for the claims", says("Irreconcilable", "data-example-etcd-0"))
	for _, pod := range pods {
		if err := admin.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}
	removeClaim(t, claim) // by the garbage collector
	eventually(t, "the StatefulSet is made again", func() error {
		var set appsv1.StatefulSet
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(old), &set); err != nil {
			return err
		}
		if class := set.Spec.VolumeClaimTemplates[0].Spec.StorageClassName; *class != "fast" ||
			set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted != "Retain" {
			return fmt.Errorf("class %q, %v", *class, set.Spec.PersistentVolumeClaimRetentionPolicy)
		}
		return nil
	})
	awaitDeployed(t, vault)
}

// founded makes a Vault whose etcd members have been ready.
func founded(t *testing.T, spec string) (*v1alpha1.Vault, []*corev1.Pod, []*corev1.PersistentVolumeClaim) {
	t.Helper()
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, spec))
	var pods []*corev1.Pod
	var claims []*corev1.PersistentVolumeClaim
	for i := range vault.WantedMembers() {
		claims = append(claims, makeClaim(t, vault, i, true, "2Gi", "fast"))
		pods = append(pods, makeMember(t, vault, i, "a", isReady(corev1.ConditionTrue)))
	}
	observeSet(t, vault, "a", "a")
	vault = awaitVault(t, vault, "the volumes are known", func(v *v1alpha1.Vault) error {
		if len(v.StorageVolumes()) != len(claims) || v.Status.Storage.Version != "3.6.16" {
			return fmt.Errorf("storage %+v", v.Status.Storage)
		}
		return nil
	})
	return vault, pods, claims
}

// The members of etcd are replaced one by one, the leader last. One that does not start stops
// that, until the change is taken back.
func TestRolloutOfEtcd(t *testing.T) {
	vault, pods, _ := founded(t, "")
	awaitVault(t, vault, "members share a Kubernetes node", says("StorageReady", "3 of 3",
		"example-etcd-0, example-etcd-1, example-etcd-2 share Kubernetes node worker"))
	rollOutNodes(t, vault, "1") // of which Updated tells first
	for name, state := range map[string]fakevault.State{"a": fakevault.Active, "b": fakevault.Standby} {
		startPod(t, vault, name, state)
		setRevision(t, vault, name, "1")
	}
	awaitVault(t, vault, "the nodes are updated", has("Updated=True Updated"))
	statuses := []corev1.PodStatus{serveMember(t, false), serveMember(t, false), serveMember(t, true)}
	for i, pod := range pods {
		setMember(t, pod, statuses[i])
	}
	away := statuses[0]
	away.Conditions = isReady(corev1.ConditionFalse).Conditions
	setMember(t, pods[0], away)
	awaitVault(t, vault, "a member is away", has("StorageReady=True MembersNotReady"))

	change(t, vault, `{"spec": {"storage": {"etcd": {"resources": {"requests": {"memory": "256Mi"}}}}}}`)
	memory := func(want string) func() error {
		return func() error {
			if got := setOf(t, vault).Spec.Template.Spec.Containers[0].Resources.Requests.Memory(); got.String() != want {
				return fmt.Errorf("memory %s", got)
			}
			return nil
		}
	}
	eventually(t, "the change is made", memory("256Mi"))
	strategy := setOf(t, vault).Spec.UpdateStrategy
	if strategy.Type != appsv1.OnDeleteStatefulSetStrategyType || strategy.RollingUpdate != nil {
		t.Errorf("%+v", strategy)
	}
	awaitVault(t, vault, "the release is deployed", has("Irreconcilable=False Reconciled"))
	observeDeployment(t, vault)
	observeSet(t, vault, "a", "b")
	awaitVault(t, vault, "it is being rolled out", has("Updated=False RollingOut"))

	awaitReplaced(t, pods[0]) // which is not ready
	awaitVault(t, vault, "it waits for a pod", says("Updated", "waiting: 2 of 3 pods are there"))
	pods[0] = makeMember(t, vault, 0, "b", statuses[0])
	awaitReplaced(t, pods[1]) // as 2 leads
	failing := corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		Name: "etcd", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}},
	}}}
	pods[1] = makeMember(t, vault, 1, "b", failing)
	awaitVault(t, vault, "the member is named", all(has("Updated=False NodeFailing"),
		says("StorageReady", "example-etcd-1 (ImagePullBackOff)"), says("Updated", "example-etcd-1 (ImagePullBackOff)")))
	awaitEvent(t, vault, "Warning NodeFailing ")
	time.Sleep(time.Second)
	if !exists(t, vault.Namespace, pods[2].Name, &corev1.Pod{}) {
		t.Error("the leader was replaced although the other has not started")
	}

	change(t, vault, `{"spec": {"storage": {"etcd": {"resources": {"requests": {"memory": "128Mi"}}}}}}`)
	eventually(t, "the change is taken back", memory("128Mi"))
	awaitVault(t, vault, "the release is deployed", has("Irreconcilable=False Reconciled"))
	observeDeployment(t, vault)
	observeSet(t, vault, "a", "a")
	awaitReplaced(t, pods[1])
	pods[1] = makeMember(t, vault, 1, "a", statuses[1])
	awaitReplaced(t, pods[0])
	makeMember(t, vault, 0, "a", statuses[0])
	eventually(t, "the rollout ends", func() error {
		current := get(t, vault.Namespace, vault.Name, &v1alpha1.Vault{})
		updated := meta.FindStatusCondition(current.Status.Conditions, v1alpha1.UpdatedCondition)
		if updated == nil || strings.Contains(updated.Message, "etcd") {
			return fmt.Errorf("%+v", updated)
		}
		return nil
	})
}

// awaitReplaced waits until the operator has deleted the pod, and ends it as the kubelet does.
func awaitReplaced(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	eventually(t, "pod "+pod.Name+" is deleted", func() error {
		var current corev1.Pod
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(pod), &current)
		switch {
		case apierrors.IsNotFound(err) || err == nil && current.UID != pod.UID:
			return nil
		case err == nil && current.DeletionTimestamp != nil:
			_ = admin.Delete(t.Context(), &current, client.GracePeriodSeconds(0))
		}
		return errors.New("it is there")
	})
}

// What does not change the pods of etcd does not wait for a member.
func TestOtherChangesDoNotWaitForMembers(t *testing.T) {
	vault, pods, _ := founded(t, "")
	setMember(t, pods[0], isReady(corev1.ConditionFalse))
	awaitVault(t, vault, "a member is away", has("StorageReady=True MembersNotReady"))
	change(t, vault, `{"spec": {"nodes": 3, "storage": {"etcd": {"whenDeleted": "Delete"}}}}`)
	eventually(t, "the change is made", func() error {
		deployment, policy := get(t, vault.Namespace, vault.Name, &appsv1.Deployment{}),
			setOf(t, vault).Spec.PersistentVolumeClaimRetentionPolicy
		if *deployment.Spec.Replicas != 3 || policy.WhenDeleted != "Delete" {
			return fmt.Errorf("%d nodes, %v", *deployment.Spec.Replicas, policy)
		}
		return nil
	})
}

// A version of etcd that members were ready with is not gone back from.
func TestEtcdVersionDoesNotGoBack(t *testing.T) {
	vault, _, _ := founded(t, `spec: {storage: {etcd: {nodes: 1}}}`)
	change(t, vault, `{"spec": {"storage": {"etcd": {"version": "3.6.10"}}}}`)
	awaitVault(t, vault, "it is refused", all(has("Updated=False DowngradeRefused",
		"Irreconcilable=True ErrorGettingValues"),
		says("Updated", "spec.storage.etcd.version 3.6.10 is refused")))
	change(t, vault, `{"spec": {"allowDowngrade": true}}`)
	eventually(t, "it is allowed", func() error {
		if image := setOf(t, vault).Spec.Template.Spec.Containers[0].Image; !strings.HasSuffix(image, ":v3.6.10") {
			return errors.New(image)
		}
		return nil
	})
}

// An etcd whose version is not named keeps that which it runs.
func TestEtcdKeepsItsVersion(t *testing.T) {
	vault, pods, _ := founded(t, `spec: {storage: {etcd: {nodes: 1, version: 3.6.16}}}`)
	change(t, vault, `{"spec": {"storage": {"etcd": {"version": "3.6.17"}}}}`)
	image := func() error {
		set := setOf(t, vault)
		if set.Annotations[v1alpha1.GenerationAnnotation] != strconv.FormatInt(vault.Generation, 10) {
			return errors.New("the spec is not deployed")
		}
		if image := set.Spec.Template.Spec.Containers[0].Image; !strings.HasSuffix(image, ":v3.6.17") {
			return errors.New(image)
		}
		return nil
	}
	vault = get(t, vault.Namespace, vault.Name, vault)
	eventually(t, "the version is deployed", image)
	observeSet(t, vault, "a", "b")
	awaitReplaced(t, pods[0])
	makeMember(t, vault, 0, "b", isReady(corev1.ConditionTrue))
	awaitVault(t, vault, "a member is ready with it", func(v *v1alpha1.Vault) error {
		if v.Status.Storage.Version != "3.6.17" {
			return errors.New(v.Status.Storage.Version)
		}
		return nil
	})
	change(t, vault, `{"spec": {"storage": {"etcd": {"version": null}}}}`)
	vault = get(t, vault.Namespace, vault.Name, vault)
	if vault.Spec.Storage.Etcd.Version != "" {
		t.Fatalf("the API server sets version %s", vault.Spec.Storage.Etcd.Version)
	}
	eventually(t, "it is kept", image)
}

// An etcd that was founded is not founded again by empty volumes.
func TestLostVolumes(t *testing.T) {
	vault, pods, claims := founded(t, "")
	state := func() string {
		var guard corev1.ConfigMap
		err := admin.Get(t.Context(), client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdReplacementName()}, &guard)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return guard.Data["initial-cluster-state"]
	}
	loseVolume := func(i int) {
		removeClaim(t, claims[i])
		setMember(t, pods[i], isReady(corev1.ConditionFalse))
		// The operator may see the claim before it sees the pod unready. What was made in one second
		// belongs together, so this is longer after.
		time.Sleep(time.Until(pods[i].CreationTimestamp.Add(time.Second)))
		makeClaim(t, vault, i, true, "2Gi", "fast")
	}
	loseVolume(1)
	awaitVault(t, vault, "the lost volume is named", all(has("StorageReady=True MembersNotReady"),
		says("StorageReady", "example-etcd-1 (its volume of claim data-example-etcd-1 is lost)")))
	if got := state(); got != "" {
		t.Errorf("one lost member is told %q", got)
	}
	loseVolume(2)
	awaitVault(t, vault, "most are lost", all(has("StorageReady=False VolumesLost"),
		says("StorageReady", "data-example-etcd-1, data-example-etcd-2")))
	awaitEvent(t, vault, "Warning VolumesLost ")
	keptOut := func() error {
		if got := state(); got != "volumes-lost" {
			return fmt.Errorf("they are told %q", got)
		}
		return nil
	}
	eventually(t, "empty members are kept out", keptOut)
	// It takes more than to delete what keeps them out.
	guard := &corev1.ConfigMap{}
	guard.Namespace, guard.Name = vault.Namespace, vault.EtcdReplacementName()
	if err := admin.Delete(t.Context(), guard); err != nil {
		t.Fatal(err)
	}
	eventually(t, "empty members are kept out again", keptOut)
	// An administrator gives the data up.
	if err := admin.Status().Patch(t.Context(), vault, client.RawPatch("application/merge-patch+json",
		[]byte(`{"status": {"storage": null}}`))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "etcd may be founded again", func() error {
		if got := state(); got != "" {
			return fmt.Errorf("members are told %q", got)
		}
		return nil
	})
}

// A single member has no other to tell it whether the cluster was founded before.
func TestSingleMemberIsFoundedOnce(t *testing.T) {
	vault, _, _ := founded(t, `spec: {storage: {etcd: {nodes: 1}}}`)
	eventually(t, "it is told so", func() error {
		var guard corev1.ConfigMap
		if err := admin.Get(t.Context(), client.ObjectKey{Namespace: vault.Namespace, Name: vault.EtcdReplacementName()},
			&guard); err != nil {
			return err
		}
		if guard.Data["initial-cluster-state"] != "existing" || !metav1.IsControlledBy(&guard, vault) {
			return fmt.Errorf("%v", guard)
		}
		return nil
	})
}

// Argo CD takes what has its label and no owner for its own, and would delete it.
func TestClaimsAreKeptFromArgoCD(t *testing.T) {
	vault, _, claims := founded(t, "")
	theirs := claims[0]
	eventually(t, "the claims are marked", func() error {
		for _, claim := range claims {
			now := get(t, vault.Namespace, claim.Name, &corev1.PersistentVolumeClaim{})
			if got := now.Annotations["argocd.argoproj.io/sync-options"]; got != "Prune=false,Delete=false" {
				return fmt.Errorf("claim %s has the sync options %q", claim.Name, got)
			}
		}
		return nil
	})
	change(t, theirs, `{"metadata": {"annotations": {"argocd.argoproj.io/sync-options": "Prune=true"}}}`)
	awaitQuiet(t)
	if got := get(t, vault.Namespace, theirs.Name,
		theirs).Annotations["argocd.argoproj.io/sync-options"]; got != "Prune=true" {
		t.Errorf("what an administrator has set is %q", got)
	}
}

// The storage goes where Vault goes.
func TestPlacementOfEtcd(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t,
		createVault(t, namespace,
			`spec: {pod: {tolerations: [{key: vault, operator: Exists}], nodeSelector: {pool: vault}}}`))
	pod := setOf(t, vault).Spec.Template.Spec
	if !slices.ContainsFunc(pod.Tolerations, func(tol corev1.Toleration) bool {
		return tol.Key == "vault"
	}) || pod.NodeSelector["pool"] != "vault" {
		t.Errorf("etcd stays behind: %v %v", pod.Tolerations, pod.NodeSelector)
	}
	change(t, vault, `{"spec": {"storage": {"etcd": {"pod": {"priorityClassName": "low"}}}}}`)
	eventually(t, "etcd has a place of its own", func() error {
		if pod := setOf(t, vault).Spec.Template.Spec; pod.PriorityClassName != "low" || pod.Tolerations != nil ||
			pod.NodeSelector != nil {
			return fmt.Errorf("%v %v %q", pod.Tolerations, pod.NodeSelector, pod.PriorityClassName)
		}
		return nil
	})
}
