package helm

import (
	"regexp"
	"strings"
)

// Fields of the workloads, by what they are called in the spec of a Vault. The longest
// come first.
var (
	nodeFields = strings.NewReplacer(
		"spec.template.spec.containers[0].resources", "spec.pod.resources",
		"spec.template.spec.containers[0].env", "spec.pod.env",
		"spec.template.spec.containers[0].volumeMounts", "spec.pod.volumeMounts",
		"spec.template.spec.containers[0].image", "spec.baseImage, spec.version and spec.imageDigest",
		"spec.template.spec.imagePullSecrets", "spec.imagePullSecrets",
		"spec.template.spec.", "spec.pod.",
		"spec.template.metadata.", "spec.pod.",
		"spec.template.annotations", "spec.pod.annotations",
		"spec.template.labels", "spec.pod.labels",
	)
	etcdFields = strings.NewReplacer(
		"spec.template.spec.containers[0].resources", "spec.storage.etcd.resources",
		"spec.template.spec.containers[0].image",
		"spec.storage.etcd.baseImage, spec.storage.etcd.version and spec.storage.etcd.imageDigest",
		"spec.template.spec.imagePullSecrets", "spec.imagePullSecrets",
		"spec.template.spec.", "spec.storage.etcd.pod.",
	)
)

// etcdSet begins what is said of the StatefulSet of etcd. Another one runs the nodes.
var etcdSet = regexp.MustCompile(`StatefulSet\.apps "?[^" ]*-etcd\b`)

// fieldsOfVault replaces the fields that the API server refuses in a Deployment or a
// StatefulSet by those of the Vault, which is where they can be corrected.
func fieldsOfVault(text string) string {
	const deployment = "Deployment.apps "
	i := -1
	if at := etcdSet.FindStringIndex(text); at != nil {
		i = at[0]
	}
	switch {
	case i < 0:
		return nodeFields.Replace(text)
	case strings.Contains(text[:i], deployment):
		return nodeFields.Replace(text[:i]) + etcdFields.Replace(text[i:])
	default:
		if j := strings.Index(text[i:], deployment); j >= 0 {
			return etcdFields.Replace(text[:i+j]) + nodeFields.Replace(text[i+j:])
		}
		return etcdFields.Replace(text)
	}
}
