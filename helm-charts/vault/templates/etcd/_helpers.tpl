{{/* Names of the Secrets with certificates; the operator makes them under the same names. */}}
{{- define "vault.etcdServerSecret" -}}
{{ .Release.Name }}-etcd-server-tls
{{- end }}
{{- define "vault.etcdClientSecret" -}}
{{ .Release.Name }}-etcd-client-tls
{{- end }}

{{/* The name under which Vault reaches etcd. */}}
{{- define "vault.etcdService" -}}
{{ .Release.Name }}-etcd-client.{{ .Release.Namespace }}.svc
{{- end }}

{{/* The address under which etcd member "index" is reached. */}}
{{- define "vault.etcdMember" -}}
{{ printf "%s-etcd-%d.%s-etcd.%s.svc" .root.Release.Name .index .root.Release.Name .root.Release.Namespace }}
{{- end }}

{{/* How large the database of an etcd member may become, in bytes: half of what
     the volume has beside the log. Twice that is needed for a moment when it is
     defragmented, or received from another member. etcd suggests at most 8Gi. */}}
{{- define "vault.etcdQuota" -}}
{{- $size := include "vault.bytes" .Values.storage.etcd.volumeSize | float64 -}}
{{- $log := mulf 256 1024 1024 -}}
{{- if lt $size (mulf 2 $log) }}{{ fail "storage.etcd.volumeSize: must be at least 512Mi" }}{{ end -}}
{{- divf (subf $size $log) 2 | minf (mulf 8 1024 1024 1024) | int64 -}}
{{- end }}
