{{- define "florin.labels" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/component: {{ index . 2 }}
app.kubernetes.io/part-of: florin
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What pods are found by. Arguments: name, component. */}}
{{- define "florin.identity" -}}
app.kubernetes.io/name: {{ index . 0 }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: florin
{{- end -}}

{{- define "florin.domain" -}}{{ .Values.global.clusterDomain | default "cluster.local" }}{{- end -}}

{{- define "florin.operatorImage" -}}
{{- $image := .Values.global.image -}}
{{- $name := not (empty $image.registry) | ternary (printf "%s/%s" $image.registry .Values.operator.repository) .Values.operator.repository -}}
{{- if .Values.operator.digest -}}{{ printf "%s@%s" $name .Values.operator.digest }}
{{- else -}}{{ printf "%s:%s" $name ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* A pod's security. Argument: the user. */}}
{{- define "florin.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "florin.containerSecurity" -}}
{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
{{- end -}}

{{- define "florin.pullSecrets" -}}
{{- with .Values.global.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "florin.dns" -}}
{{- $peers := .Values.global.networkPolicy.dns | default (list (dict
  "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" "kube-system"))
  "podSelector" (dict "matchLabels" (dict "k8s-app" "kube-dns")))) -}}
to: {{ toJson $peers }}
ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end -}}

{{/* What the values alone cannot say. */}}
{{- define "florin.validate" -}}
{{- $services := list "accounts" "transactions" "compliance" "notifications" -}}
{{- range $services -}}
{{- if and (index $.Values .).enabled (ne (index $.Values .).service .) -}}
{{- fail (printf "%s.service must be %s." . .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.global.database.host .Values.postgres.enabled -}}
{{- fail (printf "global.database.host is %s, so nothing would use the PostgreSQL of this chart: set postgres.enabled=false." .Values.global.database.host) -}}
{{- end -}}
{{- if and .Values.global.broker.url .Values.nats.enabled (ne .Values.global.broker.url "tls://nats:4222") -}}
{{- fail (printf "global.broker.url is %s, so nothing would use the NATS of this chart: set nats.enabled=false." .Values.global.broker.url) -}}
{{- end -}}
{{- end -}}

{{- define "florin.natsConfiguration" }}
{{- $pods := printf "nats-pods.%s.svc.%s" .Release.Namespace (include "florin.domain" .) -}}
server_name: $POD_NAME
listen: "0.0.0.0:4222"
http: "0.0.0.0:8222"
pid_file: "/tmp/nats.pid"
max_payload: 1048576
write_deadline: "5s"
lame_duck_grace_period: "10s"
lame_duck_duration: "30s"
# A user is the SPIFFE URI of a certificate; there are no passwords.
tls {
  cert_file: "/etc/florin/tls/tls.crt"
  key_file: "/etc/florin/tls/tls.key"
  ca_file: "/etc/florin/tls/ca.crt"
  verify_and_map: true
  timeout: 5
}
jetstream {
  store_dir: "/data"
  sync_interval: {{ .Values.nats.syncInterval | quote }}
}
{{- if gt (int .Values.nats.replicas) 1 }}
cluster {
  name: florin
  listen: "0.0.0.0:6222"
  # Clients know the Service's name alone, which stands in the certificate.
  no_advertise: true
  routes: [{{ range $number := until (int .Values.nats.replicas) }}{{ if $number }}, {{ end }}"tls://nats-{{ $number }}.{{ $pods }}:6222"{{ end }}]
  tls {
    cert_file: "/etc/florin/tls/tls.crt"
    key_file: "/etc/florin/tls/tls.key"
    ca_file: "/etc/florin/tls/ca.crt"
    verify: true
    timeout: 5
  }
}
{{- end }}
# Who may do what, written from the policies of the services before the server starts.
include "../users/authorization.conf"
{{- end }}

{{- define "florin.streams" }}
backoffLimit: 10
activeDeadlineSeconds: 1800
template:
  metadata:
    labels:
      {{- include "florin.identity" (list "streams" "operator") | nindent 6 }}
      app.kubernetes.io/instance: {{ .Release.Name }}
  spec:
    restartPolicy: Never
    serviceAccountName: default
    {{- include "florin.podSecurity" 65532 | nindent 4 }}
    {{- include "florin.pullSecrets" . | nindent 4 }}
    containers:
      - name: declare
        image: {{ include "florin.operatorImage" . }}
        imagePullPolicy: {{ .Values.global.image.pullPolicy }}
        args:
          - deploy
          - streams
          - --url={{ .Values.global.broker.url | default "tls://nats:4222" }}
          - --ca=/etc/florin/tls/ca.crt
          - --cert=/etc/florin/tls/tls.crt
          - --key=/etc/florin/tls/tls.key
          - --replicas={{ .Values.streams.replicas | default .Values.nats.replicas }}
          - --seconds=300
        securityContext: {{ include "florin.containerSecurity" . }}
        volumeMounts:
          - {name: tls, mountPath: /etc/florin/tls, readOnly: true}
          - {name: tmp, mountPath: /tmp}
        resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 256Mi}}
    volumes:
      - name: tls
        secret: {secretName: {{ .Values.streams.tlsSecret }}, defaultMode: 0440}
      - name: tmp
        emptyDir: {sizeLimit: 16Mi}
{{- end }}
