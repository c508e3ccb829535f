//go:build e2e

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// oneMember is a Vault of one node, with one member of etcd and what else is said of it.
func oneMember(v vaulttest.Vault, etcd string) string {
	return manifest(v, `{nodes: 1, storage: {etcd: {nodes: 1, volumeSize: 512Mi, `+etcd+`}}}`)
}

// TestStorage takes Vaults through what happens to volumes, images and classes of their
// storage, and asserts that the status says so.
func TestStorage(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	named := func(name string) vaulttest.Vault { return vaulttest.Vault{Namespace: namespace, Name: name} }
	kept, gone, typo, image := named("kept"), named("gone"), named("typo"), named("image")
	// The operator sees to all of them at once.
	shell.Apply(t, oneMember(kept, "whenDeleted: Delete"))
	shell.Apply(t, oneMember(gone, "whenDeleted: Retain"))
	shell.Apply(t, oneMember(typo, "whenDeleted: Delete, storageClassName: fast-typo"))
	shell.Apply(t, oneMember(image, "whenDeleted: Delete, version: 3.6.99"))

	t.Run("a first start says what it waits for", func(t *testing.T) {
		awaitStorage(t, typo, metav1.ConditionFalse, "typo-etcd-0", "fast-typo")
		awaitStorage(t, image, metav1.ConditionFalse, "image-etcd-0", "ImagePullBackOff")
		shell.Apply(t, oneMember(typo, "whenDeleted: Delete"))
		shell.Apply(t, oneMember(image, "whenDeleted: Delete"))
		typo.AwaitSealed(t, 1)
		image.AwaitSealed(t, 1)
		shell.Run(t, typo.Kubectl("delete vault typo image --wait=false"))
	})
	t.Run("volumes are kept as the spec says at the end", func(t *testing.T) { keepOrDelete(t, kept, gone) })
	t.Run("made again with other volumes", func(t *testing.T) { madeAgain(t, kept) })
	t.Run("a rollout of etcd is one", func(t *testing.T) { rollOutEtcd(t, kept) })
}

// awaitStorage waits until the condition of the storage has a status and mentions all
// the texts.
func awaitStorage(t *testing.T, v vaulttest.Vault, status metav1.ConditionStatus, texts ...string) {
	t.Helper()
	awaitCondition(t, v, 90*time.Second, v1alpha1.StorageReadyCondition, status, "", texts...)
}

// keepOrDelete changes what becomes of the volumes together with something that is
// refused, and deletes the Vaults.
func keepOrDelete(t *testing.T, kept, gone vaulttest.Vault) {
	for v, whenDeleted := range map[vaulttest.Vault]string{kept: "Retain", gone: "Delete"} {
		v.AwaitSealed(t, 1)
		setSpec(t, v, `{"configMapName": "none", "storage": {"etcd": {"whenDeleted": "`+whenDeleted+`"}}}`)
		awaitReported(t, v, v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotFound, `"none"`)
	}
	shell.Run(t, kept.Kubectl("delete vault kept gone --timeout=120s"))
	shell.Eventually(t, "one volume is kept and one is not", time.Minute, func() error {
		out, err := shell.Try(kept.Kubectl("get pvc -l app.kubernetes.io/component=etcd -o name"))
		if err == nil && (!strings.Contains(out, "data-kept-etcd-0") || strings.Contains(out, "data-gone-etcd-0")) {
			err = errors.New(out)
		}
		return err
	})
	awaitNoPods(t, kept)
}

// awaitNoPods waits until the pods of a Vault are gone.
func awaitNoPods(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	shell.Run(t, v.Kubectl("wait --for=delete pods -l app.kubernetes.io/instance=%s --timeout=120s", v.Name))
}

// madeAgain makes a Vault again whose volume was kept, in ways that do not fit it.
func madeAgain(t *testing.T, v vaulttest.Vault) {
	for _, spec := range []string{
		`{nodes: 1, storage: {etcd: {nodes: 3, volumeSize: 512Mi}}}`,
		`{nodes: 1, storage: {etcd: {nodes: 1, volumeSize: 1Gi}}}`,
	} {
		shell.Apply(t, manifest(v, spec))
		awaitReported(t, v, v1alpha1.StorageReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonVolumesMismatch,
			"data-kept-etcd-0")
		if pods := shell.Run(t, v.Kubectl("get pods -l app.kubernetes.io/instance=kept -o name")); pods != "" {
			t.Errorf("on volumes of another etcd were started: %s", pods)
		}
		shell.Run(t, v.Kubectl("delete vault kept --timeout=60s"))
	}
	shell.Apply(t, oneMember(v, "whenDeleted: Delete"))
	v.AwaitSealed(t, 1)
	awaitStorage(t, v, metav1.ConditionTrue, "1 of 1")
}

// rollOutEtcd changes etcd to a version that does not exist, and back.
func rollOutEtcd(t *testing.T, v vaulttest.Vault) {
	setSpec(t, v, `{"storage": {"etcd": {"version": "3.6.99"}}}`)
	// How long it takes to find no image is the registry's affair.
	awaitCondition(t, v, 3*time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonNodeFailing,
		"kept-etcd-0")
	if out, err := shell.Try(v.Kubectl("wait --for=condition=Updated --timeout=3s vault/kept")); err == nil {
		t.Errorf("kubectl wait does not wait for etcd: %s", out)
	}
	awaitStorage(t, v, metav1.ConditionFalse, "kept-etcd-0")
	setSpec(t, v, `{"storage": {"etcd": {"version": null}}}`)
	awaitStorage(t, v, metav1.ConditionTrue, "1 of 1")
	awaitReported(t, v, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated, "")
}
