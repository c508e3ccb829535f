{{/* Labels that select the pods of a component. They never change. */}}
{{- define "vault.selector" -}}
app.kubernetes.io/name: vault
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of objects. Those of pod templates are kept to the selector: a label
     that changes, such as the version of the chart, would replace the pods. */}}
{{- define "vault.labels" -}}
{{ include "vault.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* Names of the Secrets with certificates; the operator makes those that the
     user does not bring, under the same names. */}}
{{- define "vault.serverSecret" -}}
{{ dig "static" "serverSecret" (printf "%s-default-vault-server-tls" .Release.Name) (.Values.tls | default dict) }}
{{- end }}
{{- define "vault.clientSecret" -}}
{{ dig "static" "clientSecret" (printf "%s-default-vault-client-tls" .Release.Name) (.Values.tls | default dict) }}
{{- end }}
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

{{/* The security context of pods, restricted by the Pod Security Standards. On
     OpenShift the security context constraints choose the user and group.
     https://kubernetes.io/docs/concepts/security/pod-security-standards/ */}}
{{- define "vault.podSecurityContext" -}}
runAsNonRoot: true
{{- if not (.root.Capabilities.APIVersions.Has "security.openshift.io/v1") }}
runAsUser: {{ .user }}
runAsGroup: {{ .group }}
fsGroup: {{ .group }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "vault.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
  - ALL
{{- end }}

{{/* Pods of a component prefer different Kubernetes nodes. */}}
{{- define "vault.antiAffinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "vault.selector" . | nindent 10 }}
{{- end }}
