{{- define "pdserver.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pdserver.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pdserver.labels" -}}
{{ include "pdserver.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "pdserver.scheme" -}}
{{ ternary "https" "http" (not (empty .Values.tls.existingSecret)) }}
{{- end -}}

{{- define "pdserver.tokens" -}}
{{ .Values.tokens.existingSecret | default (printf "%s-tokens" (include "pdserver.name" .)) }}
{{- end -}}

{{/* An HTTP request of a probe; the kubelet does not check certificates. */}}
{{- define "pdserver.ask" -}}
path: {{ .path }}
port: inference
scheme: {{ include "pdserver.scheme" .root | upper }}
{{- end -}}

{{- define "pdserver.config" -}}
{{- $scheme := include "pdserver.scheme" . -}}
{{- $service := include "pdserver.name" . -}}
{{- $in := printf "%s.%s" $service .Release.Namespace -}}
{{- $hosts := concat (list $service $in (printf "%s.svc" $in) (printf "%s.svc.cluster.local" $in)) .Values.allowedHosts -}}
{{- $config := dict
      "inference_address" (printf "%s://0.0.0.0:8080" $scheme)
      "metrics_address" (printf "%s://0.0.0.0:8082" $scheme)
      "management_address" (ternary (printf "%s://0.0.0.0:8081" $scheme) "http://127.0.0.1:8081" .Values.management.expose)
      "grpc_inference_address" "0.0.0.0"
      "grpc_management_address" (ternary "0.0.0.0" "127.0.0.1" .Values.management.expose)
      "allowed_hosts" (join "," $hosts)
      "model_store" "/models"
      "load_models" "all"
      "config_snapshots" "false"
      "front_ends" (ternary "auto" "1" (hasKey (default dict .Values.resources.limits) "cpu"))
      "stop_timeout" (toString .Values.drain.requestsSeconds) -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $config "certificate_file" "/etc/pdserver/tls/tls.crt" -}}
{{- $_ := set $config "private_key_file" "/etc/pdserver/tls/tls.key" -}}
{{- $_ := set $config "enable_grpc_ssl" "true" -}}
{{- else -}}
{{- $_ := set $config "allow_insecure" "true" -}}
{{- end -}}
{{- if not .Values.tokens.enabled -}}
{{- $_ := set $config "allow_insecure" "true" -}}
{{- $_ := set $config "disable_token_authorization" "true" -}}
{{- end -}}
{{- range $key, $value := merge (deepCopy .Values.config) $config }}
{{- /* JSON, since Helm would write large numbers with an exponent. */}}
{{ $key }}={{ kindIs "string" $value | ternary $value (toJson $value) }}
{{- end }}
{{- end -}}
