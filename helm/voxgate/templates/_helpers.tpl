{{/* What the templates share: names and labels, the configuration file, and the checks that a schema cannot make. */}}

{{- define "voxgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 48 characters, so that what the templates append still fits into a DNS label. */}}
{{- define "voxgate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" }}
{{- else if contains (include "voxgate.name" .) .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "voxgate.name" .) | trunc 48 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "voxgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "voxgate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels that were asked for, except those by which the chart tells its own objects apart. */}}
{{- define "voxgate.commonLabels" -}}
{{- omit .Values.commonLabels "app.kubernetes.io/component" | toYaml }}
{{- end }}

{{- define "voxgate.labels" -}}
{{- $own := include "voxgate.selectorLabels" . | fromYaml }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- mergeOverwrite (include "voxgate.commonLabels" . | fromYaml) $own | toYaml }}
{{- end }}

{{/* The pods that serve: those of the migrations and of the test are the release's too, and get no calls. */}}
{{- define "voxgate.serverLabels" -}}
{{ include "voxgate.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "voxgate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "voxgate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "voxgate.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "voxgate.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.podSecurity }}
{{- if not (kindIs "invalid" .runAsUser) }}
runAsUser: {{ int64 .runAsUser }}
{{- end }}
{{- if not (kindIs "invalid" .runAsGroup) }}
runAsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- if not (kindIs "invalid" .fsGroup) }}
fsGroup: {{ int64 .fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "voxgate.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The database's URL, the same for the service and for its migrations. */}}
{{- define "voxgate.databaseEnv" -}}
- name: VOXGATE_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret | quote }}
      key: {{ .Values.database.key | quote }}
{{- end }}

{{/*
voxgate.toml. JSON's numbers, booleans, texts and lists of texts are TOML's too, and a number that Helm has read as
a float is written without a fraction: the service refuses 5000.0 where it counts.
*/}}
{{- define "voxgate.configuration" -}}
{{- $config := deepCopy .Values.config }}
{{- $files := dict "secrets" (dict "key_ring_file" "/etc/voxgate/key-ring/key-ring") }}
{{- if .Values.tls.existingSecret }}
{{- $tls := dict "cert_file" "/etc/voxgate/tls/tls.crt" "key_file" "/etc/voxgate/tls/tls.key" }}
{{- if .Values.tls.clientCa.existingSecret }}
{{- $_ := set $tls "client_ca_file" "/etc/voxgate/client-ca/ca.crt" }}
{{- end }}
{{- $_ := set $files "tls" $tls }}
{{- end }}
{{- $database := dict }}
{{- if .Values.database.tls.ca.existingSecret }}
{{- $_ := set $database "tls_ca_file" "/etc/voxgate/database-ca/ca.crt" }}
{{- end }}
{{- if .Values.database.tls.client.existingSecret }}
{{- $_ := set $database "tls_cert_file" "/etc/voxgate/database-client/tls.crt" }}
{{- $_ := set $database "tls_key_file" "/etc/voxgate/database-client/tls.key" }}
{{- end }}
{{- $_ := set $files "database" $database }}
{{- $redis := dict }}
{{- if .Values.redis.tls.ca.existingSecret }}
{{- $_ := set $redis "tls_ca_file" "/etc/voxgate/redis-ca/ca.crt" }}
{{- end }}
{{- if .Values.redis.tls.client.existingSecret }}
{{- $_ := set $redis "tls_cert_file" "/etc/voxgate/redis-client/tls.crt" }}
{{- $_ := set $redis "tls_key_file" "/etc/voxgate/redis-client/tls.key" }}
{{- end }}
{{- $_ := set $files "redis" $redis }}
{{- if .Values.webhooks.ca.existingSecret }}
{{- $_ := set $files "webhooks" (dict "ca_file" "/etc/voxgate/webhooks-ca/ca.crt") }}
{{- end }}
{{- if .Values.traces.ca.existingSecret }}
{{- $_ := set $files "traces" (dict "ca_file" "/etc/voxgate/traces-ca/ca.crt") }}
{{- end }}
{{- $config = mergeOverwrite $config $files }}
{{- $_ := set $config "grpc_addr" (printf "%s:50051" .Values.listenAddress) }}
{{- $_ := set $config "admin_addr" (printf "%s:9090" .Values.listenAddress) }}
{{- $identities := $config.mesh.identities }}
{{- $_ := unset $config "mesh" }}
{{- /* TOML wants what belongs to no table first. */ -}}
{{- range $key, $value := $config }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $table, $keys := $config }}
{{- $set := dict }}
{{- range $key, $value := kindIs "map" $keys | ternary $keys dict }}
{{- /* null takes a key back that an earlier file of values has set. */ -}}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $set $key $value }}
{{- end }}
{{- end }}
{{- if $set }}

[{{ $table }}]
{{- range $key, $value := $set }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}
{{- range $identities }}

[[mesh.identities]]
{{- range $key, $value := . }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "voxgate.appProtocol" -}}
{{- if .Values.service.appProtocol }}
{{- .Values.service.appProtocol }}
{{- else if not .Values.tls.existingSecret }}
{{- print "kubernetes.io/h2c" }}
{{- end }}
{{- end }}

{{/*
The Secrets that are mounted, each with the keys that are needed and no other. As folders: what a Secret's change brings
reaches the files, which a subPath would not let it, so certificates are renewed without a restart.
*/}}
{{- define "voxgate.secretVolumes" -}}
{{- $mounted := list (list "key-ring" .Values.keyRing.existingSecret (dict "key-ring" .Values.keyRing.key)) }}
{{- with .Values.tls }}
{{- $mounted = append $mounted (list "tls" .existingSecret (dict "tls.crt" .certKey "tls.key" .keyKey)) }}
{{- $mounted = append $mounted (list "client-ca" .clientCa.existingSecret (dict "ca.crt" .clientCa.key)) }}
{{- end }}
{{- with .Values.database.tls }}
{{- $mounted = append $mounted (list "database-ca" .ca.existingSecret (dict "ca.crt" .ca.key)) }}
{{- $mounted = append $mounted (list "database-client" .client.existingSecret (dict "tls.crt" .client.certKey "tls.key" .client.keyKey)) }}
{{- end }}
{{- with .Values.redis.tls }}
{{- $mounted = append $mounted (list "redis-ca" .ca.existingSecret (dict "ca.crt" .ca.key)) }}
{{- $mounted = append $mounted (list "redis-client" .client.existingSecret (dict "tls.crt" .client.certKey "tls.key" .client.keyKey)) }}
{{- end }}
{{- with .Values.webhooks.ca }}
{{- $mounted = append $mounted (list "webhooks-ca" .existingSecret (dict "ca.crt" .key)) }}
{{- end }}
{{- with .Values.traces.ca }}
{{- $mounted = append $mounted (list "traces-ca" .existingSecret (dict "ca.crt" .key)) }}
{{- end }}
{{- range $mounted }}
{{- if index . 1 }}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 | quote }}
    # 0440, for the group of podSecurity.fsGroup.
    defaultMode: 288
    items:
      {{- range $path, $key := index . 2 }}
      - key: {{ $key | quote }}
        path: {{ $path }}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The drain as the service has it, rounded up, and some seconds more. */}}
{{- define "voxgate.terminationGracePeriodSeconds" -}}
{{- $drain := add (int64 .Values.config.listen.drain_notice_ms) (int64 .Values.config.listen.drain_cap_ms) }}
{{- add (div (add $drain 999) 1000) (int64 .Values.terminationMarginSeconds) }}
{{- end }}

{{/* Which time series are this release's, as a PromQL selector. The ServiceMonitor's job is the headless Service. */}}
{{- define "voxgate.series" -}}
{{- $own := dict "job" (printf "%s-headless" (include "voxgate.fullname" .)) "namespace" .Release.Namespace }}
{{- $matchers := list }}
{{- range $label, $value := default $own .Values.prometheusRule.matchLabels }}
{{- $matchers = append $matchers (printf "%s=%s" $label (toJson $value)) }}
{{- end }}
{{- join "," $matchers }}
{{- end }}

{{/* A rule of a NetworkPolicy: peers (none: anyone) under "from" or "to", and TCP ports. */}}
{{- define "voxgate.rule" -}}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .from }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Where names are resolved. */}}
{{- define "voxgate.dnsRule" -}}
- ports:
    {{- range .dnsPorts }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .dnsTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* What the service would refuse at its start, or what could never work, is said before anything is installed. */}}
{{- define "voxgate.validate" -}}
{{- $faults := list }}
{{- $required := eq (default "optional" .Values.config.tls.client_certs) "required" }}
{{- if and .Values.tls.clientCa.existingSecret (not .Values.tls.existingSecret) }}
{{- $faults = append $faults "tls.existingSecret is required beside tls.clientCa.existingSecret" }}
{{- end }}
{{- if and .Values.config.tls.client_certs (not .Values.tls.clientCa.existingSecret) }}
{{- $faults = append $faults "tls.clientCa.existingSecret is required beside config.tls.client_certs" }}
{{- end }}
{{- if and .Values.config.mesh.identities (not .Values.tls.clientCa.existingSecret) }}
{{- $faults = append $faults "tls.clientCa.existingSecret is required beside config.mesh.identities" }}
{{- end }}
{{- if and .Values.test.enabled $required (not .Values.test.client.existingSecret) }}
{{- $faults = append $faults "test.client.existingSecret is required where config.tls.client_certs is required: or set test.enabled to false" }}
{{- end }}
{{- if and .Values.traces.ca.existingSecret (not (hasPrefix "https://" (default "" .Values.config.traces.endpoint))) }}
{{- $faults = append $faults "traces.ca.existingSecret is for a config.traces.endpoint of https://, and for nothing else" }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) }}
{{- $faults = append $faults "autoscaling.minReplicas must be at most autoscaling.maxReplicas" }}
{{- end }}
{{- if and .enabled (eq (int64 .targetCpuPercent) 0) (not .slotsInFlight.enabled) }}
{{- $faults = append $faults "autoscaling needs targetCpuPercent or slotsInFlight.enabled: by what should it scale?" }}
{{- end }}
{{- end }}
{{- $requests := default dict .Values.resources.requests }}
{{- if and .Values.autoscaling.enabled (gt (int64 .Values.autoscaling.targetCpuPercent) 0) (not $requests.cpu) }}
{{- $faults = append $faults "resources.requests.cpu is required beside autoscaling.targetCpuPercent, which is a share of it" }}
{{- end }}
{{- if $faults }}
{{- fail (printf "the values are refused: %s" (join "; " $faults)) }}
{{- end }}
{{- end }}
