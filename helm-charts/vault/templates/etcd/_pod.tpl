{{/* What the pods of Vault have for this storage. */}}
{{- define "vault.etcd.stanza" -}}
storage "etcd" {
  etcd_api      = "v3"
  ha_enabled    = "true"
  # One connection to one member, the one on the same machine where there is
  # one. With the addresses of all members the client would spread its requests
  # over them and not notice, for minutes, that one is lost with its machine:
  # no request would succeed then, and no other node could take over.
  address       = "https://{{ include "vault.etcdService" . }}:2379"
  # A node starts without asking for members, and so waits for its storage
  # instead of failing.
  sync          = "false"
  path          = "vault/"
  tls_ca_file   = "/vault/etcd-tls/ca.crt"
  tls_cert_file = "/vault/etcd-tls/client.crt"
  tls_key_file  = "/vault/etcd-tls/client.key"
  # How long the lock of an active node that died outlives it.
  lock_timeout  = "{{ .Values.storage.etcd.lockTimeoutSeconds }}s"
}
{{- end }}

{{/* How many nodes are kept unsealed. */}}
{{- define "vault.etcd.minAvailable" -}}1{{- end }}

{{/* What "kubectl exec" finds the first node by. */}}
{{- define "vault.etcd.firstNode" -}}deploy/{{ .Release.Name }}{{- end }}

{{- define "vault.etcd.affinity" -}}
# See the Service of etcd.
podAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 50
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "vault.selector" (dict "root" . "component" "etcd") | nindent 10 }}
{{- end }}

{{/* Environment variables that Vault would take instead of its configuration. */}}
{{- define "vault.etcd.variables" -}}
ETCD_ADDR ETCD_API ETCD_DISCOVERY_SRV ETCD_DISCOVERY_SRV_NAME ETCD_HA_ENABLED ETCD_PASSWORD ETCD_USERNAME
{{- end }}

{{- define "vault.etcd.env" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
# Where standby nodes forward requests to while this one is active.
- name: VAULT_CLUSTER_ADDR
  value: https://{{ ternary "[$(POD_IP)]" "$(POD_IP)" .Values.ipv6 }}:8201
{{- end }}

{{- define "vault.etcd.volumeMounts" -}}
- name: etcd-tls
  mountPath: /vault/etcd-tls
  readOnly: true
{{- end }}

{{- define "vault.etcd.volumes" -}}
- name: etcd-tls
  secret:
    secretName: {{ include "vault.etcdClientSecret" . | quote }}
    defaultMode: 0440
{{- end }}
