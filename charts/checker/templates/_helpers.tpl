{{/* A section of the values: the umbrella's, with what this release sets itself on top. Arguments: context, name. */}}
{{- define "checker.section" -}}
{{- $top := index . 0 -}}
{{- $merged := deepCopy (default dict (index (default dict $top.Values.global) (index . 1))) -}}
{{- range $key, $value := index $top.Values (index . 1) -}}
{{- if $value }}{{ $_ := set $merged $key $value }}{{ end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{- define "checker.services" -}}[accounts, transactions, compliance, notifications]{{- end -}}

{{/* What pods are found by. Arguments: name, component. */}}
{{- define "checker.identity" -}}
app.kubernetes.io/name: {{ index . 0 }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: florin
{{- end -}}

{{/* Arguments: context, component. */}}
{{- define "checker.labels" -}}
{{- $top := index . 0 -}}
{{ include "checker.identity" (list "checker" (index . 1)) }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | replace "+" "_" }}
{{- with $top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "checker.image" -}}
{{- $image := include "checker.section" (list . "image") | fromYaml -}}
{{- $repository := $image.repository | default "florin/checker" -}}
{{- $name := not (empty $image.registry) | ternary (printf "%s/%s" $image.registry $repository) $repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "checker.domain" -}}
{{- .Values.clusterDomain | default (default dict .Values.global).clusterDomain | default "cluster.local" -}}
{{- end -}}

{{/* Where a service's database is, and who the checker is there. Arguments: context, service. */}}
{{- define "checker.database" -}}
{{- $top := index . 0 -}}
{{- $service := index . 1 -}}
{{- $all := include "checker.section" (list $top "database") | fromYaml -}}
{{- $own := index $top.Values.databases $service | default dict -}}
{{- $host := $own.host | default $all.host | default "postgres" -}}
host: {{ $host }}
readHost: {{ $own.readHost | default $host }}
port: {{ $own.port | default $all.port | default 5432 }}
name: {{ $own.name | default $service }}
role: {{ $own.role | default (printf "%s_checker" $service) }}
ownerRole: {{ $own.ownerRole | default (printf "%s_owner" $service) }}
sslMode: {{ $all.sslMode | default "verify-full" }}
caSecret: {{ $own.caSecret | default $all.caSecret | default "" | quote }}
secret: {{ $own.existingSecret | default (printf "%s-database-checker" $service) }}
ownerSecret: {{ $own.ownerExistingSecret | default (printf "%s-database-owner" $service) }}
{{- end -}}

{{/* A database's URL. Arguments: the service, the database as above, the role, the host. */}}
{{- define "checker.databaseUrl" -}}
{{- $database := index . 1 -}}
{{- $query := printf "sslmode=%s" $database.sslMode -}}
{{- if hasPrefix "verify-" $database.sslMode -}}
{{- $query = printf "%s&sslrootcert=%s" $query (not (empty $database.caSecret) | ternary (printf "/etc/florin/%s-database-ca/ca.crt" (index . 0)) "/etc/florin/tls/ca.crt") -}}
{{- end -}}
{{- printf "postgresql+psycopg://%s@%s:%v/%s?%s" (index . 2) (index . 3) $database.port $database.name $query -}}
{{- end -}}

{{/* The variables. Arguments: context, whether as the owners of the schemas. */}}
{{- define "checker.environment" -}}
{{- $top := index . 0 -}}
{{- $asOwner := index . 1 -}}
{{- $values := dict
  "HOST" "0.0.0.0"
  "GRPC_PORT" "50051"
  "HEALTH_PORT" "9001"
  "TLS_CERT_FILE" "/etc/florin/tls/tls.crt"
  "TLS_KEY_FILE" "/etc/florin/tls/tls.key"
  "TLS_CA_FILE" "/etc/florin/tls/ca.crt"
  "ACCOUNTS_TARGET" ($top.Values.accountsTarget | default (printf "dns:///accounts.%s.svc.%s:50051" $top.Release.Namespace (include "checker.domain" $top)))
-}}
{{- range $service := include "checker.services" $top | fromYamlArray -}}
{{- $database := include "checker.database" (list $top $service) | fromYaml -}}
{{- $_ := set $values (printf "%s_DATABASE_URL" (upper $service)) (include "checker.databaseUrl" (list $service $database $database.role $database.readHost)) -}}
{{- $_ := set $values (printf "%s_DATABASE_PASSWORD_FILE" (upper $service)) (printf "/etc/florin/%s-database/password" $service) -}}
{{- if $asOwner -}}
{{- $_ := set $values (printf "%s_OWNER_DATABASE_URL" (upper $service)) (include "checker.databaseUrl" (list $service $database $database.ownerRole $database.host)) -}}
{{- $_ := set $values (printf "%s_OWNER_DATABASE_PASSWORD_FILE" (upper $service)) (printf "/etc/florin/%s-database-owner/password" $service) -}}
{{- end -}}
{{- end -}}
{{- if $top.Values.sealing.existingSecret }}{{ $_ := set $values "SEALING_KEYS_FILE" "/etc/florin/sealing/keys.pem" }}{{ end -}}
{{- range $name, $value := $top.Values.settings -}}
{{- $text := or (kindIs "map" $value) (kindIs "slice" $value) | ternary (toJson $value) (toString $value) -}}
{{- if kindIs "float64" $value }}{{ $text = toJson $value }}{{ end -}}
{{- $_ := set $values (upper $name) $text -}}
{{- end -}}
{{- range $name, $value := $values }}
- name: CHECKER_{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Where a pod gets its files from. Arguments: context, whether as the owners. */}}
{{- define "checker.files" -}}
{{- $top := index . 0 -}}
{{- $asOwner := index . 1 -}}
tls: {{ $top.Values.tls.existingSecret | default "checker-tls" }}
{{- range $service := include "checker.services" $top | fromYamlArray }}
{{- $database := include "checker.database" (list $top $service) | fromYaml }}
{{ $service }}-database: {{ $database.secret }}
{{- with $database.caSecret }}
{{ $service }}-database-ca: {{ . }}
{{- end }}
{{- if $asOwner }}
{{ $service }}-database-owner: {{ $database.ownerSecret }}
{{- end }}
{{- end }}
{{- with $top.Values.sealing.existingSecret }}
sealing: {{ . }}
{{- end }}
{{- end -}}

{{/* A container. Arguments: context, whether as the owners, arguments of the command. */}}
{{- define "checker.container" -}}
{{- $top := index . 0 -}}
{{- $image := include "checker.section" (list $top "image") | fromYaml -}}
image: {{ include "checker.image" $top }}
imagePullPolicy: {{ $image.pullPolicy | default "IfNotPresent" }}
{{- with index . 2 }}
args: {{ toJson . }}
{{- end }}
env:
  {{- include "checker.environment" (list $top (index . 1)) | trim | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  {{- range $name, $secret := include "checker.files" (list $top (index . 1)) | fromYaml }}
  - {name: {{ $name }}, mountPath: /etc/florin/{{ $name }}, readOnly: true}
  {{- end }}
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* What its pods have in common. Arguments: context, whether as the owners. */}}
{{- define "checker.pod" -}}
{{- $top := index . 0 -}}
{{- $image := include "checker.section" (list $top "image") | fromYaml -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $top.Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $top.Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
volumes:
  {{- range $name, $secret := include "checker.files" (list $top (index . 1)) | fromYaml }}
  - name: {{ $name }}
    secret: {secretName: {{ $secret }}, defaultMode: 0440}
  {{- end }}
  - name: tmp
    emptyDir: {sizeLimit: 16Mi}
{{- end -}}

{{- define "checker.grants" }}
backoffLimit: 10
activeDeadlineSeconds: 3600
template:
  metadata:
    labels:
      {{- include "checker.identity" (list "checker" "grants") | nindent 6 }}
      app.kubernetes.io/instance: {{ .Release.Name }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary "checker" "default") }}
    {{- include "checker.pod" (list . true) | nindent 4 }}
    containers:
      - name: grant
        {{- include "checker.container" (list . true (list "grant" (.Values.grants.waitSeconds | toString))) | nindent 8 }}
        resources: {{ toJson .Values.grants.resources }}
{{- end }}

{{/* What a schema cannot say. */}}
{{- define "checker.validate" -}}
{{- $policy := include "checker.section" (list . "networkPolicy") | fromYaml -}}
{{- $metrics := include "checker.section" (list . "metrics") | fromYaml -}}
{{- if .Values.networkPolicy.enabled -}}
{{- range $service := include "checker.services" . | fromYamlArray -}}
{{- $database := include "checker.database" (list $ $service) | fromYaml -}}
{{- if and (or (ne $database.host "postgres") (ne $database.readHost "postgres")) (not $policy.database) -}}
{{- fail (printf "checker: networkPolicy.database is not set: say where %s is, for example [{ipBlock: {cidr: 192.0.2.20/32}}]." $database.readHost) -}}
{{- end -}}
{{- end -}}
{{- if and $metrics.serviceMonitor (not $policy.metrics) -}}
{{- fail "checker: networkPolicy.metrics is not set: say where the Prometheus is that metrics.serviceMonitor is for." -}}
{{- end -}}
{{- end -}}
{{- end -}}
