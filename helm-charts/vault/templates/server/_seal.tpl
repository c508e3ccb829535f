{{- /* Says that there is a key service: that of the seal, or one that the data is moved from. */ -}}
{{- define "vault.hasSeal" -}}
{{- if or .Values.seal .Values.oldSeal }}true{{ end -}}
{{- end }}

{{- define "vault.sealSecret" -}}
{{- if include "vault.hasSeal" . -}}
{{ .Release.Name }}-vault-config-{{ list .Values.ownerUID (include "vault.seals" .) | toJson | sha256sum | trunc 10 }}
{{- end -}}
{{- end }}

{{- define "vault.seals" -}}
{{- include "vault.seal" (dict "seal" .Values.seal "directory" "/vault/seal") -}}
{{- if .Values.oldSeal }}{{ include "vault.seal" (dict "seal" .Values.oldSeal "directory" "/vault/seal/old" "old" true) }}{{ end -}}
{{- end }}

{{- /* The parameters have the names of Vault's own.
https://developer.hashicorp.com/vault/docs/configuration/seal */ -}}
{{- define "vault.seal" -}}
{{- $directory := .directory -}}
{{- range $type, $seal := .seal -}}
seal {{ include "vault.hclString" $type }} {
  {{- if $.old }}
  # The data is moved away from this one.
  # https://developer.hashicorp.com/vault/docs/concepts/seal#seal-migration
  disabled = "true"
  {{- end }}
  {{- range $name, $value := omit $seal "credentialsSecretName" "caSecretName" }}
  {{ snakecase $name }} = {{ include "vault.hclString" $value }}
  {{- end }}
  {{- if eq $type "transit" }}
  {{- if not $seal.mountPath }}
  mount_path = "transit"
  {{- end }}
  token = "file://{{ $directory }}/token"
  # With one of these Vault takes nothing about TLS from its environment.
  tls_skip_verify = "false"
  {{- if $seal.caSecretName }}
  tls_ca_cert = "{{ $directory }}/ca.crt"
  {{- end }}
  {{- else if $seal.credentialsSecretName }}
  {{- if has $type (list "awskms" "alicloudkms") }}
  access_key = "file://{{ $directory }}/access_key"
  secret_key = "file://{{ $directory }}/secret_key"
  {{- else if eq $type "gcpckms" }}
  credentials = "{{ $directory }}/credentials.json"
  {{- else if eq $type "azurekeyvault" }}
  client_secret = "file://{{ $directory }}/client_secret"
  {{- else if eq $type "ocikms" }}
  auth_type_api_key = "true"
  {{- end }}
  {{- end }}
}
{{ end -}}
{{- end }}

{{- /* A string of HCL. Its escape sequences are those of JSON, and "${" would begin an
interpolation. */ -}}
{{- define "vault.hclString" -}}
{{ toJson . | replace "$" "\\u0024" }}
{{- end }}

{{- /* The keys of the Secret with the credentials. */ -}}
{{- define "vault.sealKeys" -}}
{{- dict "transit" "token" "gcpckms" "credentials.json" "azurekeyvault" "client_secret" "ocikms" "config key.pem"
  "awskms" "access_key secret_key" "alicloudkms" "access_key secret_key" | dig . "" -}}
{{- end }}

{{- define "vault.sealVolume" -}}
- name: seal
  projected:
    defaultMode: 0440
    sources:
    - secret:
        name: {{ include "vault.sealSecret" . | quote }}
    {{- with include "vault.sealSources" (dict "seal" .Values.seal "caKey" .Values.sealCAKey) | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with include "vault.sealSources" (dict "seal" .Values.oldSeal "caKey" .Values.oldSealCAKey "directory" "old/" "beside" .Values.seal) | trim }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{- /* The configuration file of OCI says where the key is that it names, and Vault reads one
for both seals. */ -}}
{{- define "vault.sealSources" -}}
{{- range $type, $seal := .seal }}
{{- $directory := $.directory | default "" }}
{{- if and $seal.credentialsSecretName (not (and (eq $type "ocikms") (hasKey ($.beside | default dict) $type))) }}
- secret:
    name: {{ $seal.credentialsSecretName | quote }}
    items:
    {{- range splitList " " (include "vault.sealKeys" $type) }}
    - key: {{ . | quote }}
      path: {{ ternary "" $directory (eq $type "ocikms") }}{{ . }}
    {{- end }}
{{- end }}
{{- with $seal.caSecretName }}
- secret:
    name: {{ . | quote }}
    items:
    - key: {{ $.caKey | default "ca.crt" | quote }}
      path: {{ $directory }}ca.crt
{{- end }}
{{- end }}
{{- end }}

{{- /* What Vault would take instead of the stanzas, of which both are read. What pods are given
by a cloud's identity stays, unless there are credentials.
https://developer.hashicorp.com/vault/docs/configuration/seal */ -}}
{{- define "vault.sealEnvironment" -}}
# Vault would take these instead of what spec.seal says.
unset VAULT_SEAL_TYPE
{{- include "vault.sealVariables" (dict "seal" .Values.seal "directory" "/vault/seal") }}
{{- if .Values.oldSeal }}
{{- include "vault.sealVariables" (dict "seal" .Values.oldSeal "directory" "/vault/seal/old") }}
{{- end }}
{{- if and (hasKey (.Values.seal | default dict) "awskms") (hasKey (.Values.oldSeal | default dict) "awskms") }}
# Each of two keys has its own.
unset AWS_REGION AWS_DEFAULT_REGION
{{- end }}
{{- end }}

{{- define "vault.sealVariables" -}}
{{- $directory := .directory -}}
{{- range $type, $seal := .seal }}
{{- if eq $type "transit" }}
unset VAULT_AGENT_ADDR VAULT_CACERT_BYTES VAULT_CAPATH VAULT_CLIENT_CERT VAULT_CLIENT_KEY VAULT_HEADERS VAULT_NAMESPACE VAULT_SKIP_VERIFY VAULT_SRV_LOOKUP VAULT_TOKEN
unset TRANSIT_WRAPPER_DISABLE_RENEWAL TRANSIT_WRAPPER_KEY_NAME TRANSIT_WRAPPER_MOUNT_PATH VAULT_TRANSIT_SEAL_DISABLE_RENEWAL VAULT_TRANSIT_SEAL_KEY_NAME VAULT_TRANSIT_SEAL_MOUNT_PATH
{{- else if eq $type "awskms" }}
unset AWS_KMS_ENDPOINT AWSKMS_WRAPPER_KEY_ID VAULT_AWSKMS_SEAL_KEY_ID
# EKS sets the cluster's region, which need not be that of the key.
export AWS_REGION={{ regexReplaceAll "[^a-z0-9-]" $seal.region "" }}
export AWS_DEFAULT_REGION=$AWS_REGION
if [ -e {{ $directory }}/access_key ]; then unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN; fi
{{- else if eq $type "gcpckms" }}
unset GCPCKMS_WRAPPER_CRYPTO_KEY GCPCKMS_WRAPPER_KEY_RING GOOGLE_PROJECT GOOGLE_REGION VAULT_GCPCKMS_SEAL_CRYPTO_KEY VAULT_GCPCKMS_SEAL_KEY_RING
if [ -e {{ $directory }}/credentials.json ]; then unset GOOGLE_APPLICATION_CREDENTIALS GOOGLE_CREDENTIALS; fi
{{- else if eq $type "azurekeyvault" }}
unset AZUREKEYVAULT_WRAPPER_KEY_NAME AZUREKEYVAULT_WRAPPER_VAULT_NAME AZURE_AD_RESOURCE AZURE_ENVIRONMENT VAULT_AZUREKEYVAULT_KEY_NAME VAULT_AZUREKEYVAULT_VAULT_NAME
if [ -e {{ $directory }}/client_secret ]; then unset AZURE_CLIENT_ID AZURE_CLIENT_SECRET AZURE_TENANT_ID; fi
{{- else if eq $type "ocikms" }}
unset OCIKMS_WRAPPER_CRYPTO_ENDPOINT OCIKMS_WRAPPER_KEY_ID OCIKMS_WRAPPER_MANAGEMENT_ENDPOINT VAULT_OCIKMS_CRYPTO_ENDPOINT VAULT_OCIKMS_MANAGEMENT_ENDPOINT VAULT_OCIKMS_SEAL_KEY_ID
if [ -e /vault/seal/config ]; then export OCI_CONFIG_FILE=/vault/seal/config; fi
{{- else if eq $type "alicloudkms" }}
unset ALICLOUDKMS_WRAPPER_KEY_ID ALICLOUD_DOMAIN ALICLOUD_REGION VAULT_ALICLOUDKMS_SEAL_KEY_ID
if [ -e {{ $directory }}/access_key ]; then unset ALICLOUD_ACCESS_KEY ALICLOUD_ACCESS_KEY_STS_TOKEN ALICLOUD_SECRET_KEY; fi
{{- end }}
{{- end }}
{{- end }}
