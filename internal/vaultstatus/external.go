package vaultstatus

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
)

// external is the view of a storage that the operator does not run. All that is known of it
// is what nodes say.
func (in *storageInputs) external() storageView {
	ready := in.externalReady()
	return storageView{ready: ready, works: ready.Status != metav1.ConditionFalse, deployed: true}
}

func (in *storageInputs) externalReady() metav1.Condition {
	kind := in.vault.Spec.Storage.External.Type
	responded := map[string]bool{}
	for _, node := range in.states {
		switch node.State {
		case v1alpha1.NodeActive:
			return isTrue(v1alpha1.ReasonStorageUsed, "%s is active with the %s storage", node.Name, kind)
		case v1alpha1.NodeStandby, v1alpha1.NodeSealed, v1alpha1.NodeUninitialized:
			responded[node.Name] = true
		}
	}
	if reason, names := storageRefusals(in.nodes, responded); reason != "" {
		return isFalse(reason, "%s: %s. 'kubectl logs --previous' says more; what leads to the storage is in Secret %q",
			storageSentences[reason], join(names), in.vault.Spec.Storage.External.ConfigSecretName)
	}
	if len(responded) > 0 {
		// They have read there whether Vault is initialized.
		return isTrue(v1alpha1.ReasonStorageUsed, "Nodes have started with the %s storage, and none is active", kind)
	}
	return isUnknown(v1alpha1.ReasonNotObserved, "No node has told yet whether the %s storage works", kind)
}

// storageSentences say what the reasons for which nodes cannot use an external storage mean.
var storageSentences = map[string]string{
	v1alpha1.ReasonStorageUnavailable: "Nodes that start cannot reach the storage",
	v1alpha1.ReasonStorageUnverified:  "Nodes that start cannot verify the certificate of the storage",
	v1alpha1.ReasonStorageRefused:     "The storage refuses the credentials of nodes that start, or what they want to do",
	v1alpha1.ReasonStorageFailing:     "Nodes that start cannot use the storage",
}

// storageFailed begins what a node says last that cannot use its storage.
// https://github.com/hashicorp/vault/blob/v1.21.0/command/server.go
const storageFailed = "Error initializing storage of type"

// storageCauses tell why by what follows, of which nothing is repeated: it may have an address
// with a password.
var storageCauses = []struct {
	reason string
	says   *regexp.Regexp
}{
	{v1alpha1.ReasonStorageUnverified, regexp.MustCompile(
		`x509: |certificate (is|has|verify)|tls: |SSL is not enabled|refused TLS|root certificate`)},
	{v1alpha1.ReasonStorageRefused, regexp.MustCompile(
		`(?i)authentication failed|SQLSTATE (28|3D|42)|access denied|permission denied|unauthorized|forbidden|` +
			`InvalidAccessKey|SignatureDoesNotMatch|invalid user name or password|PermissionDenied|Unauthenticated`)},
	{v1alpha1.ReasonStorageUnavailable, regexp.MustCompile(
		`connection refused|connection reset|no such host|hostname resolving|server misbehaving|i/o timeout|` +
			`deadline exceeded|timed out|network is unreachable|no route to host|unexpected EOF|SQLSTATE 57P03`)},
}

// storageRefusals returns why nodes end when they start, as far as that is the storage, and
// which: the first reason in the order of the pods' names. Those that have answered have come
// further since.
func storageRefusals(list []corev1.Pod, responded map[string]bool) (reason string, names []string) {
	for i := range list {
		pod := &list[i]
		if pods.Terminating(pod) || pods.Ended(pod) || responded[pod.Name] {
			continue
		}
		for j := range pod.Status.ContainerStatuses {
			container := &pod.Status.ContainerStatuses[j]
			if container.Name != v1alpha1.VaultContainer {
				continue
			}
			if cause := storageCause(container); cause != "" && (reason == "" || cause == reason) {
				reason, names = cause, append(names, pod.Name)
			}
		}
	}
	return reason, names
}

// storageCause is why a node could not use its storage when it was started last, or nothing
// when it was something else.
func storageCause(container *corev1.ContainerStatus) string {
	text := pods.LastFailure(container)
	at := strings.LastIndex(text, storageFailed)
	if at < 0 {
		return ""
	}
	for _, cause := range storageCauses {
		if cause.says.MatchString(text[at:]) {
			return cause.reason
		}
	}
	return v1alpha1.ReasonStorageFailing
}
