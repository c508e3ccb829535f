{{/* Labels that select the pods of a component. They never change. */}}
{{- define "vault.selector" -}}
app.kubernetes.io/name: vault
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
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

{{/* The kind of the storage: etcd, or another one that is set beside this default. */}}
{{- define "vault.storage" -}}
{{ if kindIs "map" .Values.storage.raft }}raft{{ else if kindIs "map" .Values.storage.external }}external{{ else }}etcd{{ end }}
{{- end }}

{{/* The security context of pods, restricted by the Pod Security Standards. On
     OpenShift the security context constraints choose the user and group.
     https://kubernetes.io/docs/concepts/security/pod-security-standards/ */}}
{{- define "vault.openshift" -}}
{{- $openshift := .Values.openshift -}}
{{- if kindIs "invalid" $openshift }}{{ $openshift = .Capabilities.APIVersions.Has "security.openshift.io/v1" }}{{ end -}}
{{- if $openshift }}true{{ end -}}
{{- end }}
{{- define "vault.podSecurityContext" -}}
runAsNonRoot: true
{{- if not (include "vault.openshift" .root) }}
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

{{/* What follows the tag of an image that is pinned by its digest. */}}
{{- define "vault.digest" -}}
{{ with .imageDigest }}@{{ . }}{{ end }}
{{- end }}

{{/* The resources of a container. Default requests are not mixed into what is given: with
     limits alone, Kubernetes takes them for requests, too.
     https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/ */}}
{{- define "vault.resources" -}}
{{- if kindIs "invalid" .given -}}
requests:
  cpu: 100m
  memory: {{ .memory | quote }}
{{- else -}}
{{ toYaml .given }}
{{- end }}
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

{{/* The bytes of a quantity.
     https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ */}}
{{- define "vault.bytes" -}}
{{- $quantity := toString . -}}
{{- $unit := regexFind "([kMGTPE]i?|[num])$" $quantity -}}
{{- $factor := 1.0 -}}
{{- if hasSuffix "i" $unit -}}
{{- range until (index (dict "Ki" 1 "Mi" 2 "Gi" 3 "Ti" 4 "Pi" 5 "Ei" 6) $unit) }}{{ $factor = mulf $factor 1024 }}{{ end -}}
{{- else if $unit -}}
{{- $factor = index (dict "n" "1e-9" "u" "1e-6" "m" "1e-3" "k" "1e3" "M" "1e6" "G" "1e9" "T" "1e12" "P" "1e15" "E" "1e18") $unit | float64 -}}
{{- end -}}
{{- mulf (trimSuffix $unit $quantity | float64) $factor -}}
{{- end }}

{{/* A Secret of certificates, for a release without an operator. */}}
{{- define "vault.secret" }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name | quote }}
  labels:
    {{- include "vault.labels" . | nindent 4 }}
data:
  {{- toYaml .data | nindent 2 }}
{{- end }}
