{{/* What a schema cannot say, each in a sentence that names the value and what to write. */}}
{{- define "service.validate" -}}
{{- $tokens := include "service.section" (list . "tokens") | fromYaml -}}
{{- $policy := include "service.section" (list . "networkPolicy") | fromYaml -}}
{{- $broker := include "service.section" (list . "broker") | fromYaml -}}
{{- $metrics := include "service.section" (list . "metrics") | fromYaml -}}
{{- $database := include "service.database" . | fromYaml -}}
{{- if not .Values.service -}}
{{- fail "service is not set: say which one this release is, accounts, transactions, compliance or notifications (--set service=accounts)." -}}
{{- end -}}
{{- if not $tokens.issuer -}}
{{- fail (printf "%s: tokens.issuer is not set: write the `iss` that tokens have, for example https://login.bank.example (in the umbrella: global.tokens.issuer)." .Values.service) -}}
{{- end -}}
{{- if eq (empty $tokens.jwksUrl) (empty $tokens.jwksSecret) -}}
{{- fail (printf "%s: set exactly one of tokens.jwksUrl (where the issuer's keys are fetched from) and tokens.jwksSecret (a secret with them, key jwks.json)." .Values.service) -}}
{{- end -}}
{{- if and (ne .Values.service "transactions") .Values.targets -}}
{{- fail (printf "targets is for transactions alone; %s calls no other service." .Values.service) -}}
{{- end -}}
{{- if and (ne .Values.service "transactions") .Values.rail.existingClaim -}}
{{- fail (printf "rail.existingClaim is for transactions alone; %s has no rail." .Values.service) -}}
{{- end -}}
{{- if and .Values.rail.existingClaim (not .Values.settings.rail_bic) -}}
{{- fail "rail.existingClaim needs settings.rail_bic, the bank's own BIC." -}}
{{- end -}}
{{- if and (ne .Values.service "notifications") .Values.webhooks.caSecret -}}
{{- fail (printf "webhooks.caSecret is for notifications alone; %s sends none." .Values.service) -}}
{{- end -}}
{{- range $name := list "drain_seconds" "grace_seconds" -}}
{{- if hasKey $.Values.settings $name -}}
{{- fail (printf "settings.%s: set shutdown.%s instead, which the pod's time to stop is made of." $name (eq $name "drain_seconds" | ternary "drainSeconds" "graceSeconds")) -}}
{{- end -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- if and $tokens.jwksUrl (not $policy.issuer) -}}
{{- fail (printf "%s: networkPolicy.issuer is not set: a policy knows no names, so say where the host of tokens.jwksUrl is, for example [{ipBlock: {cidr: 192.0.2.10/32}}]." .Values.service) -}}
{{- end -}}
{{- if and (not $database.bundled) (not $database.cluster) (not $policy.database) -}}
{{- fail (printf "%s: networkPolicy.database is not set: say where %s is, for example [{ipBlock: {cidr: 192.0.2.20/32}}]." .Values.service $database.host) -}}
{{- end -}}
{{- if and $broker.url (ne $broker.url "tls://nats:4222") (not $policy.broker) -}}
{{- fail (printf "%s: networkPolicy.broker is not set: say where %s is, for example [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nats}}}]." .Values.service $broker.url) -}}
{{- end -}}
{{- if and $metrics.serviceMonitor (not $policy.metrics) -}}
{{- fail (printf "%s: networkPolicy.metrics is not set: say where the Prometheus is that metrics.serviceMonitor is for." .Values.service) -}}
{{- end -}}
{{- if and .Values.settings.otlp_endpoint (not $policy.traces) -}}
{{- fail (printf "%s: networkPolicy.traces is not set: say where %s is." .Values.service .Values.settings.otlp_endpoint) -}}
{{- end -}}
{{- end -}}
{{- end -}}
