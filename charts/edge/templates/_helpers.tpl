{{/* A section of the values: the umbrella's, with what this release sets itself on top. Arguments: context, name. */}}
{{- define "edge.section" -}}
{{- $top := index . 0 -}}
{{- $merged := deepCopy (default dict (index (default dict $top.Values.global) (index . 1))) -}}
{{- range $key, $value := index $top.Values (index . 1) -}}
{{- if $value }}{{ $_ := set $merged $key $value }}{{ end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{- define "edge.name" -}}{{ .Values.fullnameOverride | default "edge" }}{{- end -}}

{{- define "edge.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "edge.name" .)) -}}
{{- end -}}

{{- define "edge.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "edge.name" .) "default") -}}
{{- end -}}

{{- define "edge.identity" -}}
app.kubernetes.io/name: edge
app.kubernetes.io/component: edge
app.kubernetes.io/part-of: florin
{{- end -}}

{{- define "edge.labels" -}}
{{ include "edge.identity" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image. Arguments: context, repository, digest. */}}
{{- define "edge.image" -}}
{{- $top := index . 0 -}}
{{- $image := include "edge.section" (list $top "image") | fromYaml -}}
{{- $name := not (empty $image.registry) | ternary (printf "%s/%s" $image.registry (index . 1)) (index . 1) -}}
{{- if index . 2 -}}
{{- printf "%s@%s" $name (index . 2) -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default $top.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "edge.domain" -}}
{{- .Values.clusterDomain | default (default dict .Values.global).clusterDomain | default "cluster.local" -}}
{{- end -}}

{{/* The arguments of envoy/generate.py. */}}
{{- define "edge.arguments" -}}
{{- $top := . -}}
{{- $tokens := include "edge.section" (list . "tokens") | fromYaml -}}
- --output=/etc/florin/envoy/envoy.json
- --listen=0.0.0.0:8443
- --admin=127.0.0.1:9901
- --stats=0.0.0.0:9902
{{- $canary := .Values.canary }}
{{- $here := printf "%s.svc.%s:50051" .Release.Namespace (include "edge.domain" .) }}
{{- range list "accounts" "transactions" "compliance" "notifications" }}
{{- $first := eq . $canary.service | ternary (printf "%s-stable" .) . }}
- --upstream={{ . }}={{ index $top.Values.upstreams . | default (printf "%s.%s" $first $here) }}
{{- end }}
{{- if $canary.service }}
- --canary={{ $canary.service }}:{{ int $canary.percent }}={{ printf "%s-canary.%s" $canary.service $here }}
{{- end }}
- --issuer={{ $tokens.issuer }}
- --audience={{ $tokens.audience | default "florin" }}
{{- if $tokens.jwksUrl }}
- --issuer-jwks={{ $tokens.jwksUrl }}
{{- else }}
- --issuer-jwks-file=/etc/florin/issuer/jwks.json
{{- end }}
{{- if $tokens.caSecret }}
- --issuer-ca=/etc/florin/issuer-ca/ca.crt
{{- end }}
{{- $shown := not (empty .Values.tls.publicSecret) | ternary "/etc/florin/public-tls" "/etc/florin/tls" }}
- --tls-cert={{ $shown }}/tls.crt
- --tls-key={{ $shown }}/tls.key
- --ca=/etc/florin/tls/ca.crt
- --client-cert=/etc/florin/tls/tls.crt
- --client-key=/etc/florin/tls/tls.key
{{- with .Values.traces.endpoint }}
- --otlp={{ . }}
- --trace-percent={{ $top.Values.traces.percent }}
{{- end }}
{{- range .Values.corsOrigins }}
- --cors-origin={{ . }}
{{- end }}
{{- range $kind, $calls := .Values.rates }}
- --rate-{{ $kind }}={{ int $calls }}
{{- end }}
- --body-bytes={{ int64 .Values.limits.bodyBytes }}
- --heap-bytes={{ int64 .Values.limits.heapBytes }}
- --connections={{ int .Values.limits.connections }}
- --streams-per-connection={{ int .Values.limits.streamsPerConnection }}
{{- if .Values.openReflection }}
- --open-reflection
{{- end }}
{{- end -}}

{{/* Where a pod gets its files from. */}}
{{- define "edge.files" -}}
{{- $tokens := include "edge.section" (list . "tokens") | fromYaml -}}
tls: {{ include "edge.tlsSecret" . }}
{{- with .Values.tls.publicSecret }}
public-tls: {{ . }}
{{- end }}
{{- with $tokens.jwksSecret }}
issuer: {{ . }}
{{- end }}
{{- with $tokens.caSecret }}
issuer-ca: {{ . }}
{{- end }}
{{- end -}}

{{- define "edge.validate" -}}
{{- $tokens := include "edge.section" (list . "tokens") | fromYaml -}}
{{- $policy := include "edge.section" (list . "networkPolicy") | fromYaml -}}
{{- $metrics := include "edge.section" (list . "metrics") | fromYaml -}}
{{- if not $tokens.issuer -}}
{{- fail "edge: tokens.issuer is not set: write the `iss` that tokens have, for example https://login.bank.example (in the umbrella: global.tokens.issuer)." -}}
{{- end -}}
{{- if eq (empty $tokens.jwksUrl) (empty $tokens.jwksSecret) -}}
{{- fail "edge: set exactly one of tokens.jwksUrl (where the issuer's keys are fetched from) and tokens.jwksSecret (a secret with them, key jwks.json)." -}}
{{- end -}}
{{- if and .Values.gateway.mode (not .Values.gateway.parentRefs) -}}
{{- fail "edge: gateway.parentRefs is empty: name the Gateway that the route belongs to, for example [{name: public, namespace: gateways}]." -}}
{{- end -}}
{{- if and (or .Values.gateway.mode .Values.ingress.enabled) (not .Values.tls.hosts) -}}
{{- fail "edge: tls.hosts is empty: name the host that callers use, for example [payments.bank.example]." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled $tokens.jwksUrl (not $policy.issuer) -}}
{{- fail "edge: networkPolicy.issuer is not set: a policy knows no names, so say where the host of tokens.jwksUrl is, for example [{ipBlock: {cidr: 192.0.2.10/32}}]." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled $metrics.serviceMonitor (not $policy.metrics) -}}
{{- fail "edge: networkPolicy.metrics is not set: say where the Prometheus is that metrics.serviceMonitor is for." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.traces.endpoint (not $policy.traces) -}}
{{- fail (printf "edge: networkPolicy.traces is not set: say where %s is." .Values.traces.endpoint) -}}
{{- end -}}
{{- end -}}
