{{/* What the pods of Vault have for this storage. Its stanza is in a Secret of its own. */}}
{{- define "vault.external.stanza" -}}
{{- end }}

{{/* How many nodes are kept unsealed. */}}
{{- define "vault.external.minAvailable" -}}1{{- end }}

{{/* What "kubectl exec" finds the first node by. */}}
{{- define "vault.external.firstNode" -}}deploy/{{ .Release.Name }}{{- end }}

{{- define "vault.external.affinity" -}}
{{- end }}

{{/* Environment variables that Vault would take instead of what the stanza says of the lock. */}}
{{- define "vault.external.variables" -}}
DYNAMODB_HA_ENABLED ETCD_HA_ENABLED GOOGLE_SPANNER_HA_ENABLED GOOGLE_STORAGE_HA_ENABLED
{{- end }}

{{- define "vault.external.env" -}}
{{ include "vault.etcd.env" . }}
{{- end }}

{{- define "vault.external.volumeMounts" -}}
{{- end }}

{{- define "vault.external.volumes" -}}
{{- end }}

{{/* Says that nodes agree on the active one by a lock of the storage. */}}
{{- define "vault.external.sharable" -}}
{{- if .Values.storage.external.highAvailability }}true{{ end -}}
{{- end }}
