{{/* A section of the values: the umbrella's, with what this release sets itself on top. Arguments: context, name. */}}
{{- define "service.section" -}}
{{- $top := index . 0 -}}
{{- $merged := deepCopy (default dict (index (default dict $top.Values.global) (index . 1))) -}}
{{- range $key, $value := index $top.Values (index . 1) -}}
{{- if $value }}{{ $_ := set $merged $key $value }}{{ end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{- define "service.name" -}}
{{- .Values.fullnameOverride | default .Values.service -}}
{{- end -}}

{{/* Whether this is the release that the service is called by, or one more with pods for it, which gives nothing. */}}
{{- define "service.isFirst" -}}
{{- if eq (include "service.name" .) .Values.service }}true{{ end -}}
{{- end -}}

{{- define "service.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "service.name" .) "default") -}}
{{- end -}}

{{/* What pods of this service are found by, whatever release they are of. Arguments: service, component. */}}
{{- define "service.identity" -}}
app.kubernetes.io/name: {{ index . 0 }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: florin
{{- end -}}

{{/* Arguments: context, component. */}}
{{- define "service.labels" -}}
{{- $top := index . 0 -}}
{{ include "service.identity" (list $top.Values.service (index . 1)) }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | replace "+" "_" }}
{{- with $top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "service.image" -}}
{{- $image := include "service.section" (list . "image") | fromYaml -}}
{{- $repository := $image.repository | default (printf "florin/%s" .Values.service) -}}
{{- $name := not (empty $image.registry) | ternary (printf "%s/%s" $image.registry $repository) $repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Who may call each service, and whom it calls; a test compares it with each policy.yaml. */}}
{{- define "service.arrows" -}}
accounts: {callers: [edge, transactions, checker], calls: []}
transactions: {callers: [edge], calls: [accounts, compliance]}
compliance: {callers: [edge, transactions], calls: []}
notifications: {callers: [edge], calls: []}
{{- end -}}

{{- define "service.domain" -}}
{{- .Values.clusterDomain | default (default dict .Values.global).clusterDomain | default "cluster.local" -}}
{{- end -}}

{{/* Where the database is: of this chart's own Cluster, or as it is told. */}}
{{- define "service.database" -}}
{{- $database := include "service.section" (list . "database") | fromYaml -}}
{{- $cluster := .Values.database.cluster.enabled -}}
{{- $service := .Values.service -}}
{{- $own := printf "%s-db" $service -}}
host: {{ $cluster | ternary (printf "%s-rw" $own) ($database.host | default "postgres") }}
bundled: {{ and (not $cluster) (eq ($database.host | default "postgres") "postgres") }}
cluster: {{ $cluster | ternary $own "" | quote }}
port: {{ $database.port | default 5432 }}
name: {{ $database.name | default $service }}
role: {{ $database.role | default (printf "%s_runtime" $service) }}
ownerRole: {{ $database.ownerRole | default (printf "%s_owner" $service) }}
sslMode: {{ $database.sslMode | default "verify-full" }}
caSecret: {{ $cluster | ternary (printf "%s-ca" $own) ($database.caSecret | default "") | quote }}
secret: {{ $database.existingSecret | default (printf "%s-database" $service) }}
ownerSecret: {{ $database.ownerExistingSecret | default (printf "%s-database-owner" $service) }}
checkerRole: {{ $service }}_checker
checkerSecret: {{ $service }}-database-checker
{{- end -}}

{{/* A database's URL for a role. Arguments: the database as above, the role. */}}
{{- define "service.databaseUrl" -}}
{{- $database := index . 0 -}}
{{- $query := printf "sslmode=%s" $database.sslMode -}}
{{- if hasPrefix "verify-" $database.sslMode -}}
{{- $query = printf "%s&sslrootcert=%s" $query (not (empty $database.caSecret) | ternary "/etc/florin/database-ca/ca.crt" "/etc/florin/tls/ca.crt") -}}
{{- end -}}
{{- printf "postgresql+psycopg://%s@%s:%v/%s?%s" (index . 1) $database.host $database.port $database.name $query -}}
{{- end -}}

{{/* The variables of the service. Arguments: context, whether as the owner of the schema. */}}
{{- define "service.environment" -}}
{{- $top := index . 0 -}}
{{- $prefix := upper $top.Values.service -}}
{{- $database := include "service.database" $top | fromYaml -}}
{{- $tokens := include "service.section" (list $top "tokens") | fromYaml -}}
{{- $broker := include "service.section" (list $top "broker") | fromYaml -}}
{{- $values := dict
  "HOST" "0.0.0.0"
  "GRPC_PORT" "50051"
  "HEALTH_PORT" "9001"
  "PROBE_PORT" "50052"
  "DATABASE_URL" (include "service.databaseUrl" (list $database $database.role))
  "DATABASE_PASSWORD_FILE" "/etc/florin/database/password"
  "NATS_URL" ($broker.url | default "tls://nats:4222")
  "TLS_CERT_FILE" "/etc/florin/tls/tls.crt"
  "TLS_KEY_FILE" "/etc/florin/tls/tls.key"
  "TLS_CA_FILE" "/etc/florin/tls/ca.crt"
  "JWT_ISSUER" $tokens.issuer
  "JWT_AUDIENCE" ($tokens.audience | default "florin")
  "ENCRYPTION_KEY_FILE" "/etc/florin/encryption/keys"
  "DRAIN_SECONDS" ($top.Values.shutdown.drainSeconds | toString)
  "GRACE_SECONDS" ($top.Values.shutdown.graceSeconds | toString)
-}}
{{- if $tokens.jwksUrl }}{{ $_ := set $values "JWKS_URL" $tokens.jwksUrl }}{{ end -}}
{{- if $tokens.jwksSecret }}{{ $_ := set $values "JWKS_FILE" "/etc/florin/issuer/jwks.json" }}{{ end -}}
{{- if $tokens.caSecret }}{{ $_ := set $values "JWKS_CA_FILE" "/etc/florin/issuer-ca/ca.crt" }}{{ end -}}
{{- if index . 1 -}}
{{- $_ := set $values "OWNER_DATABASE_URL" (include "service.databaseUrl" (list $database $database.ownerRole)) -}}
{{- $_ := set $values "OWNER_DATABASE_PASSWORD_FILE" "/etc/florin/database-owner/password" -}}
{{- $_ := set $values "RUNTIME_ROLE" $database.role -}}
{{- end -}}
{{- if and (eq $top.Values.service "accounts") $top.Values.sealing.enabled -}}
{{- $_ := set $values "SEALING_KEY_FILE" "/etc/florin/sealing/key.pem" -}}
{{- end -}}
{{- if and (eq $top.Values.service "notifications") $top.Values.webhooks.caSecret -}}
{{- $_ := set $values "WEBHOOK_CA_FILE" "/etc/florin/webhook-ca/ca.crt" -}}
{{- end -}}
{{- if eq $top.Values.service "transactions" -}}
{{- if $top.Values.rail.existingClaim }}{{ $_ := set $values "RAIL_FOLDER" "/var/lib/florin/rail" }}{{ end -}}
{{- range list "accounts" "compliance" -}}
{{- $here := printf "dns:///%s.%s.svc.%s:50051" . $top.Release.Namespace (include "service.domain" $top) -}}
{{- $_ := set $values (printf "%s_TARGET" (upper .)) (index $top.Values.targets . | default $here) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $top.Values.settings -}}
{{- $text := kindIs "map" $value | ternary (toJson $value) (toString $value) -}}
{{- if kindIs "float64" $value }}{{ $text = toJson $value }}{{ end -}}
{{- $_ := set $values (upper $name) $text -}}
{{- end -}}
{{- range $name, $value := $values }}
- name: {{ $prefix }}_{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Where a pod gets its files from. Arguments: context, whether as the owner of the schema. */}}
{{- define "service.files" -}}
{{- $top := index . 0 -}}
{{- $database := include "service.database" $top | fromYaml -}}
{{- $tokens := include "service.section" (list $top "tokens") | fromYaml -}}
{{- $service := $top.Values.service -}}
tls: {{ $top.Values.tls.existingSecret | default (printf "%s-tls" $service) }}
database: {{ $database.secret }}
encryption: {{ $top.Values.encryption.existingSecret | default (printf "%s-encryption" $service) }}
{{- if index . 1 }}
database-owner: {{ $database.ownerSecret }}
{{- end }}
{{- with $database.caSecret }}
database-ca: {{ . }}
{{- end }}
{{- with $tokens.jwksSecret }}
issuer: {{ . }}
{{- end }}
{{- with $tokens.caSecret }}
issuer-ca: {{ . }}
{{- end }}
{{- if and (eq $service "accounts") $top.Values.sealing.enabled }}
sealing: {{ $top.Values.sealing.existingSecret | default "accounts-sealing" }}
{{- end }}
{{- if and (eq $service "notifications") $top.Values.webhooks.caSecret }}
webhook-ca: {{ $top.Values.webhooks.caSecret }}
{{- end }}
{{- end -}}

{{/* A container of the service. Arguments: context, whether as the owner, arguments of the command. */}}
{{- define "service.container" -}}
{{- $top := index . 0 -}}
{{- $image := include "service.section" (list $top "image") | fromYaml -}}
image: {{ include "service.image" $top }}
imagePullPolicy: {{ $image.pullPolicy | default "IfNotPresent" }}
{{- with index . 2 }}
args: {{ toJson . }}
{{- end }}
env:
  {{- include "service.environment" (list $top (index . 1)) | trim | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  {{- range $name, $secret := include "service.files" (list $top (index . 1)) | fromYaml }}
  - {name: {{ $name }}, mountPath: /etc/florin/{{ $name }}, readOnly: true}
  {{- end }}
  - {name: tmp, mountPath: /tmp}
  {{- if $top.Values.rail.existingClaim }}
  - {name: rail, mountPath: /var/lib/florin/rail}
  {{- end }}
{{- end -}}

{{/* What the service's pods have in common. Arguments: context, whether as the owner. */}}
{{- define "service.pod" -}}
{{- $top := index . 0 -}}
{{- $image := include "service.section" (list $top "image") | fromYaml -}}
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
  {{- range $name, $secret := include "service.files" (list $top (index . 1)) | fromYaml }}
  - name: {{ $name }}
    secret: {secretName: {{ $secret }}, defaultMode: 0440}
  {{- end }}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  {{- with $top.Values.rail.existingClaim }}
  - name: rail
    persistentVolumeClaim: {claimName: {{ . }}}
  {{- end }}
{{- end -}}

{{- define "service.migration" }}
backoffLimit: {{ .Values.migrations.backoffLimit }}
activeDeadlineSeconds: {{ .Values.migrations.activeDeadlineSeconds }}
template:
  metadata:
    labels:
      {{- include "service.identity" (list .Values.service "migration") | nindent 6 }}
      app.kubernetes.io/instance: {{ .Release.Name }}
  spec:
    restartPolicy: Never
    # A hook runs before this release's own account is there.
    serviceAccountName: {{ eq .Values.migrations.hook "none" | ternary (include "service.serviceAccount" .) "default" }}
    {{- include "service.pod" (list . true) | nindent 4 }}
    containers:
      - name: migrate
        {{- include "service.container" (list . true (list "migrate")) | nindent 8 }}
        resources: {{ toJson .Values.migrations.resources }}
{{- end }}

{{/* Where webhooks may go: what notifications/addresses.py takes for public; a test compares the two. */}}
{{- define "service.public" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except:
      [0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, 192.0.2.0/24,
       192.31.196.0/24, 192.52.193.0/24, 192.88.99.0/24, 192.168.0.0/16, 192.175.48.0/24, 198.18.0.0/15,
       198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/4, 240.0.0.0/4, 168.63.129.16/32]
- ipBlock:
    cidr: 2000::/3
    except: ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"]
{{- end -}}
