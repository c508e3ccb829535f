{{/* Keeps the audit volume from filling up: once no audit device can write, Vault serves
     nothing. What is renamed is still written to until Vault has opened a new file, so
     nothing is lost. A volume may have less than its size, or share a disk with others. */}}
{{- define "vault.rotateAudit" -}}
{{- $size := include "vault.bytes" (.Values.audit.volumeSize | default "10Gi") | float64 -}}
crowded() {
  set -- $(df -Pk /vault/audit | tail -n 1)
  [ "$4" -lt {{ divf $size 5120 | int64 }} ] || [ "$(du -sk /vault/audit | cut -f 1)" -gt {{ divf $size 1280 | int64 }} ]
}
rotate() {
  renamed=
  for log in /vault/audit/*; do
    case "$log" in *.[0-9]*Z) continue ;; esac
    if [ -f "$log" ] && [ "$(stat -c %s "$log")" -gt {{ divf $size 10 | int64 }} ]; then
      mv "$log" "$log.$(date -u +%Y%m%dT%H%M%SZ)" && renamed=yes
    fi
  done
  if [ "$renamed" ]; then kill -HUP "$vault"; fi
  while crowded; do
    oldest=$(ls -rt /vault/audit/*.[0-9]*Z | head -n 1)
    rm "$oldest" || break
  done
}
{{- end }}

{{/* Each pod has a claim of its own, which Kubernetes makes and deletes together with it.
     https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes */}}
{{- define "vault.auditVolume" -}}
- name: audit
  ephemeral:
    volumeClaimTemplate:
      metadata:
        labels:
          {{- include "vault.selector" (dict "root" . "component" "server") | nindent 10 }}
      spec:
        accessModes:
        - ReadWriteOnce
        {{- with .Values.audit.storageClassName }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ .Values.audit.volumeSize | default "10Gi" | quote }}
{{- end }}
