{{/* The annotations of what runs the nodes. */}}
{{- define "vault.workloadAnnotations" -}}
vault.security.coreos.com/version: {{ .Values.version | quote }}
{{- if eq (include "vault.storage" .) "external" }}
vault.security.coreos.com/sharable-storage: {{ include "vault.external.sharable" . | default "false" | quote }}
{{- end }}
# Kubernetes copies it to the ReplicaSets: it tells which Secrets their pods need.
vault.security.coreos.com/config-secrets: {{ compact (list (include "vault.configSecret" .) (include "vault.sealSecret" .) .Values.configSecret.name) | join "," | quote }}
{{- with .Values.generation }}
vault.security.coreos.com/generation: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The pod template of the Vault nodes, whatever runs them. What it has for the storage is
     in templates of the storage's own. */}}
{{- define "vault.pod" -}}
{{- $component := dict "root" . "component" "server" -}}
{{- $storage := include "vault.storage" . -}}
metadata:
  labels:
    {{- with .Values.pod.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "vault.selector" $component | nindent 4 }}
  {{- /* What decides which pod is deleted first is the operator's. */ -}}
  {{- $annotations := omit (.Values.pod.annotations | default dict) "controller.kubernetes.io/pod-deletion-cost" -}}
  {{- with .Values.sealKey }}{{ $_ := set $annotations "vault.security.coreos.com/seal" . }}{{ end -}}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ .Release.Name | quote }}
  # Vault itself needs nothing of the API server.
  automountServiceAccountToken: {{ dig "enabled" false (.Values.kubernetesAuth | default dict) }}
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "vault.podSecurityContext" (dict "root" . "user" 100 "group" 1000) | nindent 4 }}
  affinity:
    {{- if .Values.pod.affinity }}
    {{- toYaml .Values.pod.affinity | nindent 4 }}
    {{- else }}
    {{- include "vault.antiAffinity" $component | nindent 4 }}
    {{- with include (printf "vault.%s.affinity" $storage) . }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- end }}
  {{- with .Values.pod.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.pod.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.pod.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.pod.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  # On SIGTERM Vault seals itself and gives up the lock of the storage.
  terminationGracePeriodSeconds: 30
  containers:
  - name: vault
    image: {{ .Values.images.vault | default (printf "%s:%s%s" .Values.baseImage .Values.version (include "vault.digest" .Values)) | quote }}
    imagePullPolicy: IfNotPresent
    # The image's entrypoint wants to be root, to change owners and capabilities.
    # A shell starts Vault instead, and stays for two seconds after Vault has
    # ended on SIGTERM: the end of a pod is an update for kube-proxy, after which
    # the next one, which leads to the successor, would wait for a second.
    #
    # The shell also passes SIGHUP on, and sends it by itself when the kubelet has
    # changed what is mounted: Vault then reads its certificate again. One that it
    # cannot use it logs, and goes on with the one it has.
    # https://developer.hashicorp.com/vault/docs/commands/server
    command:
    - /bin/sh
    - -c
    - |
      # These are for commands that are run in the pod. A seal would take them up.
      unset VAULT_ADDR VAULT_CACERT VAULT_TLS_SERVER_NAME
      {{- if or .Values.pod.envFrom (ne $storage "etcd") }}
      # Vault would take these instead of its configuration.
      unset {{ include (printf "vault.%s.variables" $storage) . }} VAULT_DISABLE_MLOCK stopping
      {{- end }}
      {{- if include "vault.hasSeal" . }}
      {{- include "vault.sealEnvironment" . | nindent 6 }}
      {{- end }}
      stop() { stopping=yes; signalled=yes; kill -TERM "$vault"; }
      reload() { signalled=yes; kill -HUP "$vault"; }
      trap stop TERM
      trap reload HUP
      mounted() { readlink /vault/tls/..data; }
      {{- if kindIs "map" .Values.audit }}
      {{- include "vault.rotateAudit" . | nindent 6 }}
      {{- end }}
      served=$(mounted)
      "$@" &
      vault=$!
      if [ "$stopping" ]; then stop; fi
      while sleep 5 && kill -0 "$vault"; do
        now=$(mounted)
        if [ "$now" != "$served" ]; then served=$now; kill -HUP "$vault"; fi
        {{- if kindIs "map" .Values.audit }}
        rotate
        {{- end }}
      done 2>/dev/null &
      # A signal ends "wait" before Vault has ended.
      signalled=yes
      while [ "$signalled" ]; do
        signalled=
        wait "$vault"; status=$?
      done
      if [ "$stopping" ]; then sleep 2; fi
      exit "$status"
    - vault
    args:
    - /bin/vault
    - server
    - -config=/vault/config/operator.hcl
    {{- if include "vault.hasSeal" . }}
    - -config=/vault/seal/seal.hcl
    {{- end }}
    {{- if .Values.config }}
    - -config=/vault/config/user.hcl
    {{- end }}
    {{- range .Values.configSecret.keys }}
    - -config=/vault/config/{{ . }}
    {{- end }}
    {{- if and (eq $storage "external") (not .Values.operated) }}
    - -config=/vault/config/storage.hcl
    {{- end }}
    {{- with .Values.pod.envFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    env:
    # What comes later counts.
    {{- with .Values.pod.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include (printf "vault.%s.env" $storage) . | nindent 4 }}
    # Where they send a client that they cannot forward: to the Service, which
    # points at the active node.
    # https://developer.hashicorp.com/vault/docs/concepts/ha#behind-load-balancers
    - name: VAULT_API_ADDR
      value: https://{{ .Release.Name }}.{{ .Release.Namespace }}.svc:8200
    # For "vault" commands that are run in the pod.
    - name: VAULT_ADDR
      value: https://localhost:8200
    - name: VAULT_CACERT
      value: /vault/tls-ca/vault-client-ca.crt
    - name: VAULT_TLS_SERVER_NAME
      value: {{ .Release.Name }}.{{ .Release.Namespace }}.svc
    # Where "vault login" keeps the token.
    - name: HOME
      value: /tmp
    # A node that is being deleted serves for one more second, for the same
    # reason: every kube-proxy is then told that it is on its way out, and is ready
    # for its successor.
    lifecycle:
      preStop:
        sleep:
          seconds: 1
    ports:
    - name: https
      containerPort: 8200
    - name: cluster
      containerPort: 8201
    # Ready means unsealed, be it active or standby. A standby that does not
    # hear from the active node stays ready, since it is the one to take over.
    # https://developer.hashicorp.com/vault/api-docs/system/health
    readinessProbe:
      httpGet:
        scheme: HTTPS
        port: https
        path: /v1/sys/health?standbyok=true&perfstandbyok=true&haunhealthycode=200
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 3
    # While its storage is away a node that starts waits and does not listen
    # yet. It may wait for as long as that takes.
    startupProbe:
      tcpSocket:
        port: https
      periodSeconds: 1
      failureThreshold: 2147483647
    # There is no livenessProbe. A node that is sealed waits for an administrator, and a
    # restart would seal one that is not. The container ends with Vault; and Linux
    # accepts connections for a process that hangs, so that looking for a listener
    # would tell nothing, and leave a failed TLS handshake in Vault's log each time.
    {{- if or (include "vault.hasSeal" .) (eq $storage "external") }}
    # A node that cannot use {{ ternary "its storage or the key service" "the key service" (eq $storage "external") }} when it starts ends, and says why last.
    terminationMessagePolicy: FallbackToLogsOnError
    {{- end }}
    resources:
      {{- include "vault.resources" (dict "given" .Values.pod.resources "memory" "256Mi") | nindent 6 }}
    securityContext:
      {{- include "vault.containerSecurityContext" . | nindent 6 }}
    volumeMounts:
    {{- with .Values.pod.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    - name: config
      mountPath: /vault/config
      readOnly: true
    - name: tls
      mountPath: /vault/tls
      readOnly: true
    - name: tls-ca
      mountPath: /vault/tls-ca
      readOnly: true
    {{- include (printf "vault.%s.volumeMounts" $storage) . | nindent 4 }}
    # The home directory, and plugins' sockets.
    - name: tmp
      mountPath: /tmp
    {{- if kindIs "map" .Values.audit }}
    - name: audit
      mountPath: /vault/audit
    {{- end }}
    {{- if include "vault.hasSeal" . }}
    - name: seal
      mountPath: /vault/seal
      readOnly: true
    {{- end }}
  volumes:
  {{- with .Values.pod.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  - name: config
    projected:
      defaultMode: 0440
      sources:
      - secret:
          name: {{ include "vault.configSecret" . | quote }}
      {{- with .Values.configSecret.name }}
      - secret:
          name: {{ . | quote }}
      {{- end }}
      {{- if and (eq $storage "external") (not .Values.operated) }}
      - secret:
          name: {{ .Values.storage.external.configSecretName | quote }}
      {{- end }}
  - name: tls
    secret:
      secretName: {{ include "vault.serverSecret" . | quote }}
      defaultMode: 0440
      items:
      - key: {{ .Values.tlsKeys.cert | quote }}
        path: server.crt
      - key: {{ .Values.tlsKeys.key | quote }}
        path: server.key
  - name: tls-ca
    secret:
      secretName: {{ include "vault.clientSecret" . | quote }}
      items:
      - key: {{ .Values.tlsKeys.ca | quote }}
        path: vault-client-ca.crt
  {{- with include (printf "vault.%s.volumes" $storage) . }}
  {{- . | nindent 2 }}
  {{- end }}
  - name: tmp
    emptyDir: {}
  {{- if kindIs "map" .Values.audit }}
  {{- include "vault.auditVolume" . | nindent 2 }}
  {{- end }}
  {{- if include "vault.hasSeal" . }}
  {{- include "vault.sealVolume" . | nindent 2 }}
  {{- end }}
{{- end }}
