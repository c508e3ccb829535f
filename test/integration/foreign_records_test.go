//go:build integration

package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// forge writes a record of a release "example" as a tenant does who may write
// Secrets in the namespace; owner may be nil.
func forge(t *testing.T, namespace, content string, owner *v1alpha1.Vault) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "sh.helm.release.v1.example.v1",
			Labels: map[string]string{"owner": "helm", "name": "example", "version": "1", "status": "deployed"},
		},
		Type: "helm.sh/release.v1",
		Data: map[string][]byte{"release": []byte(content)},
	}
	if owner != nil {
		secret.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner,
			v1alpha1.GroupVersion.WithKind("Vault"))}
	}
	if err := admin.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

// forgedContent is a record that names a Secret of another namespace, and has a hook
// that makes a ConfigMap there.
func forgedContent(t *testing.T, namespace, other, chartName string) string {
	t.Helper()
	object := func(kind, name string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\n", kind, name, other)
	}
	text, err := json.Marshal(map[string]any{
		"name": "example", "namespace": namespace, "version": 1, "info": map[string]any{"status": "deployed"},
		"chart":    map[string]any{"metadata": map[string]any{"name": chartName, "version": "0.1.0", "apiVersion": "v2"}},
		"manifest": "---\n" + object("Secret", "precious"),
		"hooks": []any{map[string]any{
			"name": "h", "kind": "ConfigMap", "path": "h.yaml", "events": []string{"pre-delete", "pre-install", "pre-upgrade"},
			"delete_policies": []string{"hook-failed"}, "manifest": object("ConfigMap", "made"),
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(text)
}

// bomb is a record of 600 MB in 600 kB: ten megabytes of zeros that are compressed
// once and repeated, which gzip takes for one file (RFC 1952, section 2.2).
func bomb(t *testing.T) string {
	t.Helper()
	var member bytes.Buffer
	writer := gzip.NewWriter(&member)
	if _, err := writer.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(bytes.Repeat(member.Bytes(), 60))
}

// messageOf returns that of a condition.
func messageOf(vault *v1alpha1.Vault, condition string) string {
	for _, c := range vault.Status.Conditions {
		if c.Type == condition {
			return c.Message
		}
	}
	return ""
}

// A record beside a Vault that the operator has not written does nothing, whatever
// it says, and the Vault can be deleted.
func TestForgedRecords(t *testing.T) {
	for name, content := range map[string]func(t *testing.T, namespace, other string) string{
		"of another namespace and with a hook": func(t *testing.T, namespace, other string) string {
			return forgedContent(t, namespace, other, "vault")
		},
		"600 MB when it is decompressed": func(t *testing.T, _, _ string) string { return bomb(t) },
		"not readable":                   func(*testing.T, string, string) string { return "eHh4" },
	} {
		for _, spec := range []string{`spec: {configMapName: none}`, ``} {
			t.Run(name+", "+spec, func(t *testing.T) {
				namespace, other := newNamespace(t), newNamespace(t)
				precious := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "precious"}}
				if err := admin.Create(t.Context(), precious); err != nil {
					t.Fatal(err)
				}
				forged := forge(t, namespace, content(t, namespace, other), nil)
				operator := startOperator(t)
				vault := createVault(t, namespace, spec)
				refused := awaitVault(t, vault, "it is refused", has("Irreconcilable=True ErrorGettingValues",
					"Deployed=False NotDeployed"))
				if text := messageOf(refused, "Irreconcilable"); !strings.Contains(text, forged.Name) {
					t.Errorf("message %q does not name the record", text)
				}
				awaitEvent(t, vault, "Warning ReleaseConflict")
				if objects := rendered(t, vault); len(objects) > 0 {
					t.Errorf("it is deployed: %q", namesOf(objects))
				}
				remove(t, vault)
				awaitRemoved(t, vault)
				requireUntouched(t, precious, forged)
				if exists(t, other, "made", &corev1.ConfigMap{}) {
					t.Error("a hook was run")
				}
				select {
				case <-operator.ended:
					t.Error("the operator has ended")
				default:
				}
			})
		}
	}
}

// A record that says it is the Vault's is not used either, and hinders nothing.
func TestForgedRecordsWithTheVaultAsOwner(t *testing.T) {
	for name, content := range map[string]func(t *testing.T, namespace, other string) string{
		"of another namespace and with a hook": func(t *testing.T, namespace, other string) string {
			return forgedContent(t, namespace, other, "vault")
		},
		"600 MB when it is decompressed": func(t *testing.T, _, _ string) string { return bomb(t) },
		"not readable":                   func(*testing.T, string, string) string { return "eHh4" },
	} {
		t.Run(name, func(t *testing.T) {
			namespace, other := newNamespace(t), newNamespace(t)
			precious := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "precious"}}
			if err := admin.Create(t.Context(), precious); err != nil {
				t.Fatal(err)
			}
			vault := createVault(t, namespace, "")
			forge(t, namespace, content(t, namespace, other), vault)
			startOperator(t)
			awaitDeployed(t, vault)
			awaitEvent(t, vault, "Warning RecordIgnored")
			remove(t, vault)
			awaitRemoved(t, vault)
			requireUntouched(t, precious)
			if exists(t, other, "made", &corev1.ConfigMap{}) {
				t.Error("a hook was run")
			}
		})
	}
}

// requireUntouched asserts that objects are as they were made.
func requireUntouched(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, obj := range objects {
		current := obj.DeepCopyObject().(client.Object)
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(obj), current); err != nil {
			t.Errorf("%s: %v", obj.GetName(), err)
		} else if current.GetResourceVersion() != obj.GetResourceVersion() {
			t.Errorf("%s was changed", obj.GetName())
		}
	}
}

// A release of another chart is left alone, and the Vault is deployed when it is gone.
func TestForeignReleaseOfTheSameName(t *testing.T) {
	namespace := newNamespace(t)
	theirs := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "theirs"},
		Data:       map[string]string{"a": "b"},
	}
	if err := admin.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	helm := storage.Init(driver.NewSecrets(clientset.CoreV1().Secrets(namespace)))
	err := helm.Create(&release.Release{
		Name: "example", Namespace: namespace, Version: 1, Info: &release.Info{Status: release.StatusDeployed},
		Chart:    &chart.Chart{Metadata: &chart.Metadata{Name: "wordpress", Version: "1.0.0"}},
		Manifest: "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs}\ndata: {a: b}\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	record := get(t, namespace, "sh.helm.release.v1.example.v1", &corev1.Secret{})
	startOperator(t)

	vault := createVault(t, namespace, "")
	awaitVault(t, vault, "it is refused", has("Irreconcilable=True ErrorGettingValues"))
	awaitQuiet(t)
	requireUntouched(t, theirs, record)
	remove(t, vault)
	awaitRemoved(t, vault)
	requireUntouched(t, theirs, record)

	again := createVault(t, namespace, "")
	awaitVault(t, again, "it is refused", has("Irreconcilable=True ErrorGettingValues"))
	remove(t, record)
	awaitDeployed(t, again)
	requireUntouched(t, theirs)
}

func TestUnreadableRecordOfTheOperator(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	operator.kill()
	before := rendered(t, vault)
	for _, secret := range records(t, namespace) {
		change(t, &secret, `{"data": {"release": "ZUhoNA=="}}`)
	}
	startOperator(t)
	awaitEvent(t, vault, "Warning RecordUnreadable")
	awaitReleased(t, vault)
	for name, obj := range rendered(t, vault) {
		if old := before[name]; old == nil || old.GetUID() != obj.GetUID() {
			t.Errorf("%s was made anew", name)
		}
	}
	for _, secret := range records(t, namespace) {
		change(t, &secret, `{"data": {"release": "ZUhoNA=="}}`)
	}
	remove(t, vault)
	eventually(t, "the Vault is gone", func() error {
		if exists(t, namespace, "example", &v1alpha1.Vault{}) {
			return errors.New("it is not")
		}
		return nil
	})
}

// The record of an earlier version of the operator is taken over: what runs stays,
// and what the chart does not render any more goes.
func TestRecordOfAnEarlierVersionIsImported(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	operator.kill()
	before := rendered(t, vault)
	leaveOldRecord(t, vault)

	startOperator(t)
	awaitReleased(t, vault)
	awaitDeployed(t, vault)
	eventually(t, "what the chart does not render any more is gone", func() error {
		if exists(t, namespace, "example-legacy", &corev1.ServiceAccount{}) {
			return errors.New("it is not")
		}
		return nil
	})
	awaitQuiet(t)
	after := rendered(t, vault)
	for name, obj := range before {
		if now := after[name]; now == nil || now.GetUID() != obj.GetUID() {
			t.Errorf("%s was made anew", name)
		}
	}
	old, now := before["Deployment example"].(*appsv1.Deployment), after["Deployment example"].(*appsv1.Deployment)
	if !equalJSON(t, old.Spec.Template, now.Spec.Template) {
		t.Error("the pods are replaced")
	}
	var left corev1.SecretList
	if err := admin.List(t.Context(), &left, client.InNamespace(namespace),
		client.MatchingLabels{"owner": "helm"}); err != nil {
		t.Fatal(err)
	}
	if len(left.Items) > 0 {
		t.Errorf("%d old records are left", len(left.Items))
	}
	if rel := lastRelease(t, vault); rel.Version != 8 {
		t.Errorf("revision %d, want the one after the imported", rel.Version)
	}
	remove(t, vault)
	awaitRemoved(t, vault)
}

// leaveOldRecord leaves what version 0.1.0 does: the record in the namespace of the
// Vault, owned by it. The manifest has an object that is not rendered any more.
func leaveOldRecord(t *testing.T, vault *v1alpha1.Vault) {
	t.Helper()
	legacy := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: vault.Namespace, Name: "example-legacy",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(vault, v1alpha1.GroupVersion.WithKind("Vault"))},
	}}
	if err := admin.Create(t.Context(), legacy); err != nil {
		t.Fatal(err)
	}
	rel := lastRelease(t, vault)
	rel.Name, rel.Version, rel.Labels = vault.Name, 7, nil
	rel.Chart = &chart.Chart{Metadata: rel.Chart.Metadata}
	// Its chart had no Secrets.
	manifest := "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: example-legacy}\n"
	for _, document := range releaseutil.SplitManifests(rel.Manifest) {
		if !strings.Contains(document, "\nkind: Secret\n") {
			manifest += "---\n" + document + "\n"
		}
	}
	rel.Manifest = manifest
	old := storage.Init(driver.NewSecrets(clientset.CoreV1().Secrets(vault.Namespace)))
	if err := old.Create(rel); err != nil {
		t.Fatal(err)
	}
	secret := get(t, vault.Namespace, "sh.helm.release.v1.example.v7", &corev1.Secret{})
	secret.OwnerReferences = legacy.OwnerReferences
	if err := admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	for _, secret := range records(t, vault.Namespace) {
		remove(t, &secret)
	}
}

// Tools write annotations as they like.
func TestAnnotationsOfAVaultCostNothing(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	before := len(audit.all(t))
	for i := range 5 {
		change(t, vault, fmt.Sprintf(`{"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "%d"}}}`, i))
	}
	awaitQuiet(t)
	if all := audit.all(t); len(all) > before {
		t.Errorf("annotations made the operator make the requests %v", all[before:])
	}
}

func TestNamesThatAreNotFree(t *testing.T) {
	namespace := newNamespace(t)
	err := strict().Create(t.Context(), parseVault(t, namespace, "default", ""))
	if err == nil || !strings.Contains(err.Error(), "ServiceAccount") {
		t.Errorf("a Vault named default: %v", err)
	}
	startOperator(t)
	vault := parseVault(t, metav1.NamespaceDefault, "kubernetes", "")
	if err := strict().Create(t.Context(), vault); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(admin.Delete(context.Background(), vault)) })
	current := get(t, metav1.NamespaceDefault, "kubernetes", &v1alpha1.Vault{})
	refused := awaitVault(t, current, "it is refused", has("Irreconcilable=True ErrorGettingValues"))
	if text := messageOf(refused, "Irreconcilable"); !strings.Contains(text, "API server's") {
		t.Errorf("message %q", text)
	}
	remove(t, current)
	awaitRemoved(t, current)
	if !exists(t, metav1.NamespaceDefault, "kubernetes", &corev1.Service{}) {
		t.Error("the Service of the API server is gone")
	}
}

// What the operator's role would allow beyond its job the admission policies deny.
func TestAdmissionPolicies(t *testing.T) {
	namespace := newNamespace(t)
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "example"}}
	config, err := clientcmd.BuildConfigFromFlags("", operatorConfig)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := client.New(config, client.Options{Scheme: admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	config.WarningHandler = rest.NoWarnings{}
	foreign := createPod(t, vault, "foreign")
	change(t, foreign, `{"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}`)
	own := createPod(t, vault, "own")
	ofSet := func(pod *corev1.Pod, set string) *corev1.Pod {
		change(t, pod, fmt.Sprintf(`{"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet",
			"name": %q, "uid": "set", "controller": true}]}}`, set))
		return pod
	}
	member, pretender := createPod(t, vault, "example-etcd-0"), createPod(t, vault, "example-etcd-1")
	for pod, set := range map[*corev1.Pod]string{member: "example-etcd", pretender: "example"} {
		change(t, pod, `{"metadata": {"labels": {"app.kubernetes.io/component": "etcd"}}}`)
		ofSet(pod, set)
	}
	claim := makeClaim(t, vault, 0, true, "2Gi", "fast")
	change(t, claim, `{"metadata": {"annotations": {"a": "b"}}}`)
	theirClaim := makeClaim(t, vault, 1, true, "2Gi", "fast")
	change(t, theirClaim, `{"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}`)
	expandClass(t, true)
	node, other := ofSet(createPod(t, vault, "example-0"), "example"), ofSet(createPod(t, vault, "other-0"), "other")
	deletion := func(pod *corev1.Pod) func() error {
		return func() error { return operator.Delete(t.Context(), pod) }
	}
	secret := func(name, labels string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if labels != "" {
			s.Labels = map[string]string{v1alpha1.NameLabel: labels}
		}
		return s
	}
	withToken := func(s *corev1.Secret) *corev1.Secret {
		s.Type = corev1.SecretTypeServiceAccountToken
		s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "default"}
		return s
	}
	theirs := secret("theirs", "")
	if err := admin.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	patch := func(obj client.Object, patch string) func() error {
		return func() error {
			return operator.Patch(t.Context(), obj.DeepCopyObject().(client.Object),
				client.RawPatch(types.MergePatchType, []byte(patch)))
		}
	}
	ofProof := func(name, kind string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: namespace, Name: "p", Labels: map[string]string{v1alpha1.ProofLabel: name},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: kind, Name: "nightly", UID: "nightly", Controller: new(true),
			}},
		}
	}
	proof := func(object client.Object) func() error {
		return func() error { return operator.Create(t.Context(), object, client.DryRunAll) }
	}
	restoreOf := v1alpha1.VaultRestoreSpec{Vault: "p", Backup: "b"}
	theirVault := &v1alpha1.Vault{ObjectMeta: ofProof("nightly", "VaultBackupSchedule")}
	theirVault.Name, theirVault.OwnerReferences = "theirs", nil
	nightly := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nightly"},
		Spec: v1alpha1.VaultBackupScheduleSpec{
			Vault: "example", Schedule: "@daily", Suspend: true, Destination: s3Destination(),
		},
	}
	for _, object := range []client.Object{theirVault, nightly} {
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	makeServiceAccount(t)
	token := func(seconds int64, audiences ...string) func() error {
		return func() error {
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
				Namespace: operatorNamespace, Name: "vault-operator-controller-manager",
			}}
			return operator.SubResource("token").Create(t.Context(), account, &authenticationv1.TokenRequest{
				Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &seconds},
			})
		}
	}
	claimDeleted := func(name, component string, marked bool) func() error {
		c := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: vault.PodLabels()},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceStorage: resource.MustParse("1Gi"),
				}},
			},
		}
		c.Labels[v1alpha1.ComponentLabel] = component
		if marked {
			c.Annotations = map[string]string{v1alpha1.RemovedNodeAnnotation: "true"}
		}
		if err := admin.Create(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return func() error { return operator.Delete(t.Context(), c, client.DryRunAll) }
	}
	job := func(change func(*batchv1.Job)) func() error {
		j := backupJobOf(vault)
		if change != nil {
			change(j)
		}
		return func() error { return operator.Create(t.Context(), j, client.DryRunAll) }
	}
	pod := func(change func(*corev1.PodSpec)) func() error {
		return job(func(j *batchv1.Job) { change(&j.Spec.Template.Spec) })
	}
	theirJob := backupJobOf(vault)
	theirJob.Name, theirJob.OwnerReferences = "their-job", nil
	if err := admin.Create(t.Context(), theirJob); err != nil {
		t.Fatal(err)
	}
	// The API server takes a moment to enforce a policy.
	label := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"a": "b"}}}`))
	eventually(t, "policies are enforced", func() error {
		for what, err := range map[string]error{
			"a token":    token(600)(),
			"a pod":      operator.Patch(t.Context(), own.DeepCopy(), label, client.DryRunAll),
			"a deletion": operator.Delete(t.Context(), foreign, client.DryRunAll),
			"a Secret":   operator.Patch(t.Context(), theirs.DeepCopy(), label, client.DryRunAll),
			"a claim":    operator.Patch(t.Context(), claim.DeepCopy(), label, client.DryRunAll),
			"a Job":      operator.Delete(t.Context(), theirJob, client.DryRunAll),
			"a Vault":    operator.Delete(t.Context(), theirVault, client.DryRunAll),
			"a schedule": patch(nightly, `{"spec": {"suspend": false}}`)(),
		} {
			if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
				return fmt.Errorf("%s: error %w", what, err)
			}
		}
		return nil
	})
	for _, tt := range []struct {
		what   string
		do     func() error
		denied bool
	}{
		{"a token for a Vault", token(600, "vault-operator/default/example"), false},
		{"a token for the API server", token(600), true},
		{"a token for others as well", token(600, "vault-operator/default/example", "vault"), true},
		{"a token that lasts", token(3600, "vault-operator/default/example"), true},
		{"a volume of a node that was removed", claimDeleted("data-example-1", v1alpha1.ServerComponent, true), false},
		{"a volume of a node", claimDeleted("data-example-2", v1alpha1.ServerComponent, false), true},
		{"a volume of etcd", claimDeleted("data-example-etcd-2", v1alpha1.EtcdComponent, true), true},
		{"a volume of another name", claimDeleted("other", v1alpha1.ServerComponent, true), true},
		{"the active label", patch(own, `{"metadata": {"labels": {"vault.security.coreos.com/active": "true"}}}`), false},
		{"the deletion cost", patch(own,
			`{"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "1"}}}`), false},
		{"no active label", patch(own, `{"metadata": {"labels": {"vault.security.coreos.com/active": null}}}`), false},
		{"another label", patch(own, `{"metadata": {"labels": {"a": "b"}}}`), true},
		{"no label", patch(own, `{"metadata": {"labels": {"app.kubernetes.io/instance": null}}}`), true},
		{"another annotation", patch(own, `{"metadata": {"annotations": {"a": "b"}}}`), true},
		{"a finalizer", patch(own, `{"metadata": {"finalizers": ["example.com/a"]}}`), true},
		{"an image", patch(own, `{"spec": {"activeDeadlineSeconds": 1}}`), true},
		{"a pod of the Vault's StatefulSet deleted", deletion(node), false},
		{"a pod of another StatefulSet deleted", deletion(other), true},
		{"a pod of no StatefulSet deleted", deletion(own), true},
		{"a foreign pod deleted", deletion(foreign), true},
		{"an etcd member deleted", deletion(member), false},
		{"an etcd member of another StatefulSet deleted", deletion(pretender), true},
		{"a label of an etcd member", patch(pretender,
			`{"metadata": {"labels": {"vault.security.coreos.com/active": "true"}}}`), true},
		{"a larger claim", patch(claim, `{"spec": {"resources": {"requests": {"storage": "4Gi"}}}}`), false},
		{"the annotation for Argo CD", patch(claim,
			`{"metadata": {"annotations": {"argocd.argoproj.io/sync-options": "Prune=false"}}}`), false},
		{"another annotation of a claim", patch(claim, `{"metadata": {"annotations": {"a": null}}}`), true},
		{"a finalizer of a claim", patch(claim, `{"metadata": {"finalizers": null}}`), true},
		{"a claim of a user", patch(theirClaim, `{"spec": {"resources": {"requests": {"storage": "4Gi"}}}}`), true},
		{"a foreign pod", patch(foreign, `{"metadata": {"labels": {"vault.security.coreos.com/active": "true"}}}`), true},
		{"a Secret of a Vault", func() error {
			return operator.Create(t.Context(), secret("of-a-vault", v1alpha1.AppName))
		}, false},
		{"another Secret", func() error { return operator.Create(t.Context(), secret("another", "")) }, true},
		{"a Secret with a token", func() error {
			return operator.Create(t.Context(), withToken(secret("token", v1alpha1.AppName)))
		}, true},
		{"a Secret with a token in its own namespace", func() error {
			s := withToken(secret("token", ""))
			s.Namespace = operatorNamespace
			return operator.Create(t.Context(), s)
		}, true},
		{"a Secret of a user", func() error { return operator.Delete(t.Context(), secret("theirs", "")) }, true},
		{"a Secret of a user with the label", patch(theirs, `{"metadata": {"labels": {"app.kubernetes.io/name": "vault"}}}`),
			true},
		{"the Job of a backup", job(nil), false},
		{"a Job of nothing", job(func(j *batchv1.Job) { j.OwnerReferences = nil }), true},
		{"a Job without the labels", job(func(j *batchv1.Job) { j.Labels = map[string]string{"a": "b"} }), true},
		{"a Job of a user deleted", func() error { return operator.Delete(t.Context(), theirJob) }, true},
		{"a Job under another ServiceAccount", pod(func(p *corev1.PodSpec) { p.ServiceAccountName = "default" }), true},
		{"a Job with a token of the API server", pod(func(p *corev1.PodSpec) {
			p.AutomountServiceAccountToken = new(true)
		}), true},
		{"a Job with a projected token of the API server", pod(func(p *corev1.PodSpec) {
			p.Volumes[0].Projected.Sources[0].ServiceAccountToken.Audience = ""
		}), true},
		{"a Job on the network of the machine", pod(func(p *corev1.PodSpec) { p.HostNetwork = true }), true},
		{"a Job with a directory of the machine", pod(func(p *corev1.PodSpec) {
			p.Volumes[0].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		}), true},
		{"a Job with another command", pod(func(p *corev1.PodSpec) { p.Containers[0].Command = []string{"sh"} }), true},
		{"a Job with other arguments", pod(func(p *corev1.PodSpec) { p.Containers[0].Args = []string{"other"} }), true},
		{"a Job of a restore", job(func(j *batchv1.Job) {
			j.OwnerReferences[0].Kind = "VaultRestore"
			j.Spec.Template.Spec.Volumes = append(j.Spec.Template.Spec.Volumes, corev1.Volume{
				Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
			})
		}), false},
		{"a Job with two containers", pod(func(p *corev1.PodSpec) {
			p.Containers = append(p.Containers, p.Containers[0])
			p.Containers[1].Name = "other"
		}), true},
		{"a privileged Job", pod(func(p *corev1.PodSpec) {
			p.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
		}), true},
		{"a Job as root", pod(func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.RunAsUser = new(int64(0)) }), true},
		{"a Job without seccomp", pod(func(p *corev1.PodSpec) {
			p.Containers[0].SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		}), true},
		{"a Job with a command at its start", pod(func(p *corev1.PodSpec) {
			p.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
				Exec: &corev1.ExecAction{Command: []string{"sh"}},
			}}
		}), true},
		{"a Job of a proof", job(isolationJob), false},
		{"the other Job of a proof", job(func(j *batchv1.Job) {
			isolationJob(j)
			j.Spec.Template.Spec.Containers[0].Env[0].Value = backup.ReachTask
		}), false},
		{"a Job of a proof of another schedule", job(func(j *batchv1.Job) {
			isolationJob(j)
			j.OwnerReferences[0].Name = "other"
		}), true},
		{"a Job of a proof that is none", job(func(j *batchv1.Job) {
			isolationJob(j)
			j.OwnerReferences[0].Kind = "VaultBackup"
		}), true},
		{"a Job of a proof with something mounted", job(func(j *batchv1.Job) {
			isolationJob(j)
			j.Spec.Template.Spec.Volumes = backupJobOf(vault).Spec.Template.Spec.Volumes
		}), true},
		{"a Job of a proof that does something else", job(func(j *batchv1.Job) {
			isolationJob(j)
			j.Spec.Template.Spec.Containers[0].Env[0].Value = "{}"
		}), true},
		{"a Vault of a proof", proof(&v1alpha1.Vault{ObjectMeta: ofProof("nightly", "VaultBackupSchedule")}), false},
		{"a Vault of another proof", proof(&v1alpha1.Vault{ObjectMeta: ofProof("other", "VaultBackupSchedule")}), true},
		{"a Vault of a backup", proof(&v1alpha1.Vault{ObjectMeta: ofProof("nightly", "VaultBackup")}), true},
		{"a Vault", proof(&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}}), true},
		{"a Vault of a user with the label deleted", func() error { return operator.Delete(t.Context(), theirVault) }, true},
		{"a restore of a proof", proof(&v1alpha1.VaultRestore{
			ObjectMeta: ofProof("nightly", "VaultBackupSchedule"), Spec: restoreOf,
		}), false},
		{"a restore", proof(&v1alpha1.VaultRestore{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}, Spec: restoreOf,
		}), true},
		{"the finalizer of a schedule", patch(nightly,
			`{"metadata": {"finalizers": ["vault.security.coreos.com/proof"]}}`), false},
		{"the finalizer of a schedule taken away", patch(nightly, `{"metadata": {"finalizers": null}}`), false},
		{"the destination of a schedule", patch(nightly, `{"spec": {"destination": {"s3": {"bucket": "other"}}}}`), true},
		{"its Secret deleted", func() error { return operator.Delete(t.Context(), secret("of-a-vault", "")) }, false},
	} {
		err := tt.do()
		if denied := err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy"); denied != tt.denied ||
			err != nil && !denied {
			t.Errorf("%s: error %v, want it denied: %v", tt.what, err, tt.denied)
		}
	}
}

// isolationJob makes a Job one that finds out what its pod can reach.
func isolationJob(j *batchv1.Job) {
	j.Labels[v1alpha1.ComponentLabel], j.Labels[v1alpha1.ProofLabel] = v1alpha1.ProofComponent, "nightly"
	j.OwnerReferences[0].Kind, j.OwnerReferences[0].Name = "VaultBackupSchedule", "nightly"
	pod := &j.Spec.Template.Spec
	pod.Volumes, pod.Containers[0].Env[0].Value = nil, backup.IsolationTask
}

// backupJobOf is a Job as the operator makes it for a backup.
func backupJobOf(vault *v1alpha1.Vault) *batchv1.Job {
	labels := v1alpha1.BackupLabels(vault.Name)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: "made-backup", Labels: labels,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultBackup", Name: "made", UID: "made", Controller: new(true),
			}},
		},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{
				ServiceAccountName: v1alpha1.BackupAccountName(vault.Name), AutomountServiceAccountToken: new(false),
				RestartPolicy: corev1.RestartPolicyNever, SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true)},
				Containers: []corev1.Container{{
					Name: "backup", Image: "example.com/operator:1", Args: []string{"backup"},
					Env: []corev1.EnvVar{{Name: "BACKUP_TASK", Value: "{}"}},
					SecurityContext: &corev1.SecurityContext{
						AllowPrivilegeEscalation: new(false),
						Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
					},
				}},
				Volumes: []corev1.Volume{{Name: "login", VolumeSource: corev1.VolumeSource{
					Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
						ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault-operator/a/b", Path: "jwt"},
					}}},
				}}},
			},
		}},
	}
}

// unusedVerbs are granted and not seen in the requests of a life of a Vault without
// accidents, as "verb group/resource", with what they are for.
var unusedVerbs = map[string]string{
	"update vault.security.coreos.com/vaults/finalizers": "checked by the API server with owner references",
	"create /configmaps": "an etcd member has lost its volume",
	"update /configmaps": "an etcd member has lost its volume",
	"delete /configmaps": "it is replaced; the configuration that version 0.1.0 made is not needed any more",
	"patch /configmaps":  "the configuration that version 0.1.0 made is still needed",
	"patch /events":      "an event is repeated",
	"delete /pods":       "a node with a volume of its own is replaced",

	"delete /persistentvolumeclaims":                                   "such a node was removed from its cluster",
	"create vault.security.coreos.com/vaultbackups":                    "a backup of a schedule is due",
	"delete vault.security.coreos.com/vaultbackups":                    "retention",
	"patch vault.security.coreos.com/vaultbackups":                     "the finalizer of those whose content is deleted",
	"patch vault.security.coreos.com/vaultbackups/status":              "a backup is made",
	"patch vault.security.coreos.com/vaultbackupschedules/status":      "there is a schedule",
	"update vault.security.coreos.com/vaultbackups/finalizers":         "checked by the API server with owner references",
	"patch vault.security.coreos.com/vaultrestores/status":             "there is a restore",
	"update vault.security.coreos.com/vaultrestores/finalizers":        "checked by the API server with owner references",
	"create vault.security.coreos.com/vaults":                          "a backup is proven",
	"delete vault.security.coreos.com/vaults":                          "a backup was proven",
	"create vault.security.coreos.com/vaultrestores":                   "a backup is proven",
	"delete vault.security.coreos.com/vaultrestores":                   "a backup was proven",
	"patch vault.security.coreos.com/vaultbackupschedules":             "the finalizer while a backup is proven",
	"update vault.security.coreos.com/vaultbackupschedules/finalizers": "checked by the API server with owner references",
	"create batch/jobs": "a backup is made",
	"delete batch/jobs": "what a Job said is gone, or it is to be deleted",
}

// TestNoVerbIsUnused runs an operator through the life of a Vault, and compares what it
// has requested with what it may.
func TestNoVerbIsUnused(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	from := len(audit.everything(t))
	config := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "own"},
		Data:       map[string]string{v1alpha1.ConfigMapKey: "ui = true"},
	}
	if err := admin.Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1, configMapName: own}"))
	makeClaim(t, vault, 0, true, "2Gi", "fast")
	startPod(t, vault, "a", fakevault.Active)
	awaitLabel(t, namespace, "a")
	edited := get(t, namespace, "example", &corev1.Service{})
	change(t, edited, `{"spec": {"selector": {"vault.security.coreos.com/active": null}}}`)
	change(t, vault, `{"spec": {"nodes": 3, "pod": {"annotations": {"a": "b"}}}}`)
	awaitQuiet(t)
	for _, obj := range rendered(t, vault) {
		change(t, obj, `{"metadata": {"labels": {"app.kubernetes.io/instance": "other"}}}`)
	}
	awaitQuiet(t)
	operator.kill()
	leaveOldRecord(t, vault)
	startOperator(t)
	awaitReleased(t, vault)
	remove(t, vault)
	awaitRemoved(t, vault)

	used := map[string]bool{}
	for _, r := range audit.everything(t)[from:] {
		resource := r.ObjectRef.Resource
		if r.ObjectRef.Subresource != "" {
			resource += "/" + r.ObjectRef.Subresource
		}
		used[r.Verb+" "+r.ObjectRef.APIGroup+"/"+resource] = true
	}
	objects, err := build("default")
	if err != nil {
		t.Fatal(err)
	}
	for _, obj := range objects {
		if obj.GetName() != "vault-operator-manager-role" {
			continue
		}
		for _, granted := range verbsOf(t, obj) {
			// What is watched is listed first where the API server does not stream it.
			resource, listed := strings.CutPrefix(granted, "list ")
			excused := unusedVerbs[granted] != "" || listed && used["watch "+resource]
			if !used[granted] && !excused {
				t.Errorf("%s is granted and not used", granted)
			}
		}
	}
}

// verbsOf lists what a role grants, as "verb group/resource".
func verbsOf(t *testing.T, role client.Object) []string {
	t.Helper()
	text, err := json.Marshal(role)
	if err != nil {
		t.Fatal(err)
	}
	var content struct {
		Rules []struct{ APIGroups, Resources, Verbs []string }
	}
	if err := json.Unmarshal(text, &content); err != nil {
		t.Fatal(err)
	}
	var granted []string
	for _, rule := range content.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					granted = append(granted, verb+" "+group+"/"+resource)
				}
			}
		}
	}
	slices.Sort(granted)
	return slices.Compact(granted)
}
