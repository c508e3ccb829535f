//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

const proofName = "nightly-proof"

// startProof makes a schedule with a backup, and a proof that is due now.
func startProof(t *testing.T, namespace string) (*v1alpha1.VaultBackupSchedule, *v1alpha1.VaultBackup) {
	t.Helper()
	awaitInitialized(t, get(t, namespace, "example", &v1alpha1.Vault{}))
	s := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nightly"},
		Spec: v1alpha1.VaultBackupScheduleSpec{
			Vault: "example", Schedule: "0 0 1 1 *", Destination: s3Destination(),
			Proof: &v1alpha1.BackupProofPolicy{Schedule: "0 0 1 1 *"},
		},
	}
	b := &v1alpha1.VaultBackup{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "nightly-1", Labels: map[string]string{v1alpha1.ScheduleLabel: "nightly"},
		},
		Spec: v1alpha1.VaultBackupSpec{Vault: "example", Destination: s3Destination()},
	}
	wanted := s
	for {
		s = wanted.DeepCopy()
		if err := admin.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if beginsSoon(t, s) {
			break
		}
		if err := admin.Delete(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	awaitBackup(t, b, v1alpha1.BackupFailed, v1alpha1.ReasonDestinationMissing)
	vault := get(t, namespace, "example", &v1alpha1.Vault{})
	b.Status.Phase, b.Status.Digest = v1alpha1.BackupSucceeded, "sha256:"+strings.Repeat("0", 64)
	b.Status.Proven = &v1alpha1.BackupProof{Stored: b.Status.CompletionTime, Intact: b.Status.CompletionTime}
	b.Status.Vault = &v1alpha1.BackedUpVault{
		UID: vault.UID, Version: "1.20.0", Storage: "etcd", SealType: "shamir", Shares: 5, Threshold: 3,
	}
	if err := admin.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	createS3Credentials(t, namespace)
	proofIsDue(t, s)
	return s, b
}

// beginsSoon says that a proof which is late begins soon after the operator has started: after which part of ten
// minutes follows from the UID.
func beginsSoon(t *testing.T, s *v1alpha1.VaultBackupSchedule) bool {
	t.Helper()
	plan, err := backupschedule.NewPlan(s.Spec.Proof.Schedule, "", s.UID)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	return plan.Late(started.AddDate(0, -1, 0), started).Sub(started) < 12*time.Second
}

// proofIsDue has the operator think that it has seen spec.proof long ago.
func proofIsDue(t *testing.T, s *v1alpha1.VaultBackupSchedule) {
	t.Helper()
	eventually(t, "the operator has seen spec.proof", func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		if s.Status.Proof == nil {
			return fmt.Errorf("status %+v", s.Status)
		}
		s.Status.Proof.LastScheduleTime = &metav1.Time{Time: time.Now().AddDate(-2, 0, 0)}
		return admin.Status().Update(t.Context(), s)
	})
}

func awaitProof(t *testing.T, s *v1alpha1.VaultBackupSchedule, is metav1.ConditionStatus, reason, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("Proven is %s %s", is, reason), func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition)
		if c == nil || c.Status != is || c.Reason != reason || !strings.Contains(c.Message, text) {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})
}

// reached is what a pod says that has reached the API server, or has not, for a while until now, and on from now.
func reached(is bool, around time.Duration) string {
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	return fmt.Sprintf(`{"reached":%t,"since":%q,"until":%q}`, is, at(-around), at(around))
}

func awaitObject(t *testing.T, namespace, name string, object client.Object) {
	t.Helper()
	eventually(t, fmt.Sprintf("%T %s", object, name), func() error {
		return admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, object)
	})
}

// awaitTidy plays the garbage collector and the kubelet, and waits until nothing is left of a proof. As long as
// there are pods there is what isolates them.
func awaitTidy(t *testing.T, namespace string) {
	t.Helper()
	gone := func(name string, object client.Object) {
		t.Helper()
		eventually(t, fmt.Sprintf("%T %s is gone", object, name), func() error {
			err := admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, object)
			if !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
	}
	gone(proofName, &v1alpha1.Vault{})
	gone(proofName, &v1alpha1.VaultRestore{})
	time.Sleep(3 * time.Second) // longer than the operator takes to look again
	if !exists(t, namespace, proofName+"-isolation", &networkingv1.NetworkPolicy{}) {
		t.Error("what isolates the pods is gone before them")
	}
	for _, object := range []client.Object{&corev1.Pod{}, &corev1.Secret{}, &batchv1.Job{}} {
		if err := admin.DeleteAllOf(t.Context(), object, client.InNamespace(namespace), client.GracePeriodSeconds(0),
			client.MatchingLabels{v1alpha1.InstanceLabel: proofName},
			client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			t.Fatal(err)
		}
	}
	gone(proofName+"-isolation", &networkingv1.NetworkPolicy{})
	gone(proofName+"-backup", &corev1.ServiceAccount{})
}

// tellSeal responds as a node does that has the seal of the backup, and its mounts.
func tellSeal(node *fakevault.Node, w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/v1/sys/internal/ui/mounts":
		return true
	case "/v1/sys/seal-status":
	default:
		return false
	}
	state := node.State()
	_, _ = fmt.Fprintf(w, `{"type": "shamir", "initialized": %t, "sealed": %t, "n": 5, "t": 3}`, state.Initialized,
		state.Sealed)
	return true
}

// A backup is restored into a Vault that is made for that, and all of that goes, whoever ends the operator when.
func TestBackupProof(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1, unseal: {keysSecretName: keys}}"))
	origin := startPod(t, vault, "a", fakevault.Active)
	s, b := startProof(t, namespace)
	restart := func() {
		operator.kill()
		operator = startOperator(t)
	}

	// The cluster does not enforce NetworkPolicies.
	awaitObject(t, namespace, proofName+"-isolation", &networkingv1.NetworkPolicy{})
	restart()
	endJob(t, namespace, proofName+"-reach", reached(true, time.Minute))
	isolated := awaitJob(t, namespace, proofName+"-isolation")
	if pod := isolated.Spec.Template; pod.Labels[v1alpha1.ComponentLabel] != v1alpha1.ProofComponent ||
		len(pod.Spec.Volumes) > 0 {
		t.Errorf("the pod is %+v", pod)
	}
	if exists(t, namespace, proofName, &v1alpha1.Vault{}) {
		t.Error("there is a Vault before it is known whether it can be isolated")
	}
	endJob(t, namespace, proofName+"-isolation", reached(true, time.Second))
	scratch := &v1alpha1.Vault{}
	awaitObject(t, namespace, proofName, scratch)
	restart()
	scratch = awaitDeployed(t, scratch)
	if scratch.Spec.Unseal != nil || *scratch.Spec.Nodes != 1 ||
		scratch.Spec.Storage.Etcd.WhenDeleted != v1alpha1.DeleteData {
		t.Errorf("the Vault is %+v", scratch.Spec)
	}
	policy := get(t, namespace, proofName, &networkingv1.NetworkPolicy{})
	if len(policy.Spec.Ingress) == 0 || len(policy.Spec.Ingress[0].From) == 0 {
		t.Errorf("clients are let in: %+v", policy.Spec)
	}
	node := startPod(t, scratch, "p", fakevault.Uninitialized)
	node.Handle(func(w http.ResponseWriter, r *http.Request) bool { return tellSeal(node, w, r) })
	endJob(t, namespace, proofName+"-restore", restoredMessage)
	restart()
	node.Set(fakevault.Sealed)
	awaitProof(t, s, metav1.ConditionTrue, v1alpha1.ReasonProvenRestored, "does not enforce NetworkPolicies")
	b = get(t, namespace, b.Name, b)
	if b.Status.Proven.Restored == nil || b.Status.Proven.Unsealed != nil || b.Status.Proven.Intact == nil {
		t.Errorf("it is proven %+v", b.Status.Proven)
	}
	awaitTidy(t, namespace)
	eventually(t, "the finalizer is gone", func() error {
		if s = get(t, namespace, s.Name, s); len(s.Finalizers) > 0 {
			return fmt.Errorf("finalizers %v", s.Finalizers)
		}
		return nil
	})
	if s.Status.Proof.Phase != v1alpha1.ProofSucceeded || s.Status.Proof.CompletionTime == nil ||
		time.Since(s.Status.Proof.LastScheduleTime.Time) > 367*24*time.Hour {
		t.Errorf("status %+v", s.Status.Proof)
	}

	// It does: the copy is unsealed, and the canary is read from it.
	proveIsolated := func() {
		t.Helper()
		proofIsDue(t, s)
		endJob(t, namespace, proofName+"-reach", reached(true, time.Minute))
		endJob(t, namespace, proofName+"-isolation", reached(false, 5*time.Second))
		awaitObject(t, namespace, proofName, scratch)
	}
	change(t, s, `{"spec": {"proof": {"canary": {"path": "secret/data/canary", "secretName": "canary"}}}}`)
	if err := admin.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "canary"},
		StringData: map[string]string{"token": "hvs.canary", "value": "tweet"},
	}); err != nil {
		t.Fatal(err)
	}
	renewed := make(chan string, 1)
	origin.Handle(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/auth/token/renew-self" {
			return false
		}
		select {
		case renewed <- r.Header.Get("X-Vault-Token"):
		default: // the operator may do so again
		}
		return true
	})
	proveIsolated()
	node = startPod(t, awaitDeployed(t, scratch), "q", fakevault.Uninitialized)
	node.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/secret/data/canary" {
			return tellSeal(node, w, r)
		}
		if r.Header.Get("X-Vault-Token") != "hvs.canary" {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = fmt.Fprint(w, `{"data": {"data": {"value": "tweet"}}}`)
		return true
	})
	endJob(t, namespace, proofName+"-restore", restoredMessage)
	node.Set(fakevault.Active)
	awaitProof(t, s, metav1.ConditionTrue, v1alpha1.ReasonProvenCanary, "unsealed with the keys of Secret keys")
	if b = get(t, namespace, b.Name, b); b.Status.Proven.Unsealed == nil || b.Status.Proven.Canary == nil {
		t.Errorf("it is proven %+v", b.Status.Proven)
	}
	select {
	case token := <-renewed:
		if token != "hvs.canary" {
			t.Errorf("the token %q is renewed", token)
		}
	case <-time.After(time.Minute):
		t.Error("no token is renewed")
	}
	awaitTidy(t, namespace)

	// Proofs are given up while the copy is active, and its canary cannot be read.
	proveIsolated()
	node = startPod(t, awaitDeployed(t, scratch), "r", fakevault.Uninitialized)
	read := make(chan struct{}, 1)
	node.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/secret/data/canary" {
			return tellSeal(node, w, r)
		}
		select {
		case read <- struct{}{}:
		default:
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	endJob(t, namespace, proofName+"-restore", restoredMessage)
	node.Set(fakevault.Active)
	select {
	case <-read:
	case <-time.After(time.Minute):
		t.Fatal("the canary is not read")
	}
	spec := s.Spec.DeepCopy().Proof
	change(t, s, `{"spec": {"proof": null}}`)
	awaitTidy(t, namespace)
	eventually(t, "the proof is forgotten", func() error {
		if s = get(t, namespace, s.Name, s); s.Status.Proof != nil || len(s.Finalizers) > 0 {
			return fmt.Errorf("status %+v, finalizers %v", s.Status.Proof, s.Finalizers)
		}
		return nil
	})
	again, err := json.Marshal(map[string]any{"spec": map[string]any{"proof": spec}})
	if err != nil {
		t.Fatal(err)
	}
	change(t, s, string(again))

	// The schedule is deleted when the copy may be unsealed.
	proveIsolated()
	if scratch.Spec.Unseal == nil || scratch.Spec.Unseal.KeysSecretName != "keys" {
		t.Errorf("the Vault is %+v", scratch.Spec)
	}
	awaitObject(t, namespace, proofName, &v1alpha1.VaultRestore{})
	remove(t, s)
	awaitTidy(t, namespace)
	eventually(t, "the schedule is gone", func() error {
		if exists(t, namespace, s.Name, s) {
			return fmt.Errorf("it has the finalizers %v", s.Finalizers)
		}
		return nil
	})
}

// A proof whose Jobs are refused ends, and says why.
func TestBackupProofThatIsRefused(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t).mayBeRefused = true
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1, unseal: {keysSecretName: keys}}"))
	startPod(t, vault, "a", fakevault.Active)
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "no-jobs"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}
	if err := admin.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, quota.Spec.Hard
	if err := admin.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	s, _ := startProof(t, namespace)
	begun := time.Now()
	for time.Since(begun) < 50*time.Second { // what is refused once may not be again
		s = get(t, namespace, s.Name, s)
		if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition); c != nil &&
			c.Status == metav1.ConditionFalse {
			t.Fatalf("after %s: %+v", time.Since(begun), c)
		}
		time.Sleep(time.Second)
	}
	shell.Eventually(t, "the proof ends", 2*time.Minute, func() error {
		s = get(t, namespace, s.Name, s)
		c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition)
		if c == nil || c.Reason != v1alpha1.ReasonProofRefused || !strings.Contains(c.Message, "exceeded quota: no-jobs") {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})
}

// What has the name of what a proof needs, and is not of it, is left alone.
func TestBackupProofBesideForeignVault(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1}"))
	startPod(t, vault, "a", fakevault.Active)
	foreign := parseVault(t, namespace, proofName, "spec: {nodes: 1}")
	foreign.SetLabels(map[string]string{v1alpha1.ProofLabel: "nightly"})
	if err := admin.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	s, _ := startProof(t, namespace)
	awaitProof(t, s, metav1.ConditionFalse, v1alpha1.ReasonNameConflict, proofName)
	if s.Status.Proof.Phase != "" || len(s.Finalizers) > 0 {
		t.Errorf("a proof has begun: %+v", s.Status.Proof)
	}
	change(t, s, `{"spec": {"proof": null}}`)
	eventually(t, "nothing is told of proofs", func() error {
		s = get(t, namespace, s.Name, &v1alpha1.VaultBackupSchedule{})
		if s.Status.Proof != nil || meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ProvenCondition) != nil {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})
	if !exists(t, namespace, proofName, &v1alpha1.Vault{}) {
		t.Error("the Vault of somebody else was deleted")
	}
}
