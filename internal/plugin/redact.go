package plugin

import (
	"regexp"
	"slices"
	"strings"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const redacted = "REDACTED"

// harmless are the annotations whose values tell how a Vault is run; those of others may
// hold anything, and that of kubectl apply holds the whole object once more.
var harmless = []string{
	v1alpha1.GenerationAnnotation, v1alpha1.VersionAnnotation, v1alpha1.FollowsVaultAnnotation,
	v1alpha1.ConfigSecretsAnnotation,
	"deployment.kubernetes.io/revision", "deployment.kubernetes.io/desired-replicas",
	"deployment.kubernetes.io/max-replicas",
	"controller.kubernetes.io/pod-deletion-cost",
	"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller",
	"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner",
	"volume.kubernetes.io/selected-node",
}

// looks are what secrets look like, and what is put in their place.
var looks = []struct {
	pattern *regexp.Regexp
	instead string
}{
	// Tokens of Vault, since 1.10 and before.
	{regexp.MustCompile(`\bhv[sbr]\.[A-Za-z0-9_-]{8,}`), redacted},
	{regexp.MustCompile(`\b[sbr]\.[A-Za-z0-9]{20,}(?:\.[A-Za-z0-9]+)?`), redacted},
	// What "vault operator init" and a development server print.
	{regexp.MustCompile(`(?i)((?:unseal|recovery) key(?: \d+)?[ \t]*[:=][ \t]*)\S+`), "${1}" + redacted},
	// Tokens of Kubernetes and of OpenID Connect.
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), redacted},
	{regexp.MustCompile(`(?i)(\b(?:bearer|basic)[ \t]+)[A-Za-z0-9._~+/=-]{8,}`), "${1}" + redacted},
	// Passwords in addresses.
	{regexp.MustCompile(`(://)[^/\s@"']+@`), "${1}" + redacted + "@"},
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`), redacted},
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`), redacted},
	// Settings that say what they are.
	{regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:password|passwd|secret[_-]?(?:key|id)|client[_-]?secret|` +
		`access[_-]?key|api[_-]?key|private[_-]?key|token)["']?[ \t]*[:=][ \t]*)` +
		`(?:"[^"]*"|'[^']*'|[^\s"',;}]+)`), "${1}" + redacted},
}

// redactText takes out of a text what looks like a secret.
func redactText(text string) string {
	for _, look := range looks {
		text = look.pattern.ReplaceAllString(text, look.instead)
	}
	return text
}

// isAudit says whether a line of a log is a record of an audit device. Its values are
// hashed, but not if "log_raw" is set.
func isAudit(text string) bool {
	if strings.Contains(text, "<json:object") { // of the format jsonx
		return true
	}
	start := strings.IndexByte(text, '{')
	if start < 0 {
		return false
	}
	text = text[start:]
	// Its type is the last field, and is missing where a record was cut.
	return strings.Contains(text, `"request":{`) || strings.Contains(text, `"auth":{`) ||
		strings.Contains(text, `"type":"re`) && (strings.Contains(text, `"request":`) || strings.Contains(text, `"auth":`))
}

// redactObject takes out of an object of Kubernetes what may be a secret: values of
// environment variables and of headers, annotations, and what looks like one.
func redactObject(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			value[key] = redactField(key, inner)
		}
		return value
	case []any:
		for i := range value {
			value[i] = redactObject(value[i])
		}
		return value
	case string:
		return redactText(value)
	}
	return value
}

func redactField(key string, value any) any {
	switch key {
	case "managedFields":
		return nil
	case "annotations", "serviceAccountAnnotations", "volumeAttributes":
		fields, _ := value.(map[string]any)
		for name := range fields {
			if !slices.Contains(harmless, name) {
				fields[name] = redacted
			}
		}
	case "env", "httpHeaders":
		list, _ := value.([]any)
		for _, inner := range list {
			if variable, ok := inner.(map[string]any); ok && variable["value"] != nil {
				variable["value"] = redacted
			}
		}
	}
	return redactObject(value)
}
