{{/* What the pods of Vault have for this storage. */}}
{{- define "vault.raft.stanza" -}}
storage "raft" {
  path                   = "/vault/data"
  performance_multiplier = "{{ .Values.storage.raft.performanceMultiplier | default 1 }}"
  # A node makes an ID of its own on its volume. So one that comes back with an empty
  # volume is another one to the cluster, which votes for nothing that it has forgotten, and
  # takes the place of the one of the same address.
  #
  # Nodes that have no data join whichever of the others has. All that there may ever be
  # are named, so that no pod is replaced when there are more.
  {{- range $i := until 7 }}
  retry_join {
    leader_api_addr       = "https://{{ $.Release.Name }}-{{ $i }}.{{ $.Release.Name }}-nodes.{{ $.Release.Namespace }}.svc:8200"
    leader_ca_cert_file   = "/vault/tls-ca/vault-client-ca.crt"
    leader_tls_servername = "{{ $.Release.Name }}.{{ $.Release.Namespace }}.svc"
  }
  {{- end }}
}
{{- end }}

{{- define "vault.raft.minAvailable" -}}
{{ add (div (int (.Values.runningNodes | default .Values.nodes)) 2) 1 }}
{{- end }}

{{- define "vault.raft.firstNode" -}}{{ .Release.Name }}-0{{- end }}

{{- define "vault.raft.affinity" -}}
{{- end }}

{{/* Environment variables that Vault would take instead of its configuration. */}}
{{- define "vault.raft.variables" -}}
VAULT_RAFT_AUTOPILOT_DISABLE VAULT_RAFT_NODE_ID VAULT_RAFT_PATH VAULT_RAFT_RETRY_JOIN_AS_NON_VOTER
{{- end }}

{{- define "vault.raft.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
# Where the other nodes reach this one, now and after a restart.
- name: VAULT_CLUSTER_ADDR
  value: https://$(POD_NAME).{{ .Release.Name }}-nodes.{{ .Release.Namespace }}.svc:8201
{{- end }}

{{- define "vault.raft.volumeMounts" -}}
- name: data
  mountPath: /vault/data
{{- end }}

{{- define "vault.raft.volumes" -}}
{{- end }}
