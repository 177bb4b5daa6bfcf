{{- define "framewatch.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{- /* Of a dict of root and component: what a Service, a policy and a Deployment select by. */ -}}
{{- define "framewatch.selector" -}}
app.kubernetes.io/name: framewatch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "framewatch.labels" -}}
{{ include "framewatch.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "framewatch.image" -}}
{{- with .root.Values.imageRegistry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .part.image }}:{{ default .root.Chart.AppVersion .part.tag }}
{{- end -}}

{{- /* What every pod has. Secrets are root's and their group's, which fsGroup makes the pod's. */ -}}
{{- define "framewatch.pod" -}}
serviceAccountName: {{ include "framewatch.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "framewatch.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
{{- end -}}

{{- define "framewatch.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
{{- end -}}

{{- /* A part's settings under `kafka`, as YAML: those for all, the files of the Secret, and what the part says itself. */ -}}
{{- define "framewatch.kafka" -}}
{{- $kafka := .root.Values.kafka -}}
{{- $files := dict -}}
{{- if $kafka.secret -}}
{{- range $setting, $key := dict "ssl_cafile" $kafka.caKey "ssl_certfile" $kafka.certKey "ssl_keyfile" $kafka.keyKey "sasl_password_file" $kafka.passwordKey -}}
{{- if $key -}}{{- $_ := set $files $setting (printf "/etc/framewatch/kafka/%s" $key) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $own := default dict (get .settings "kafka") -}}
{{- mergeOverwrite $files (deepCopy $kafka.settings) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "framewatch.workerSettings" -}}
{{- $worker := .Values.worker -}}
{{- $kafka := include "framewatch.kafka" (dict "root" . "settings" $worker.settings) | fromYaml -}}
{{- $own := dict "kafka" $kafka "http" (dict "host" "0.0.0.0" "allow_all_interfaces" true "port" 9464) "registry_cache" "/var/cache/framewatch" -}}
{{- if $worker.cameras -}}{{- $_ := set $own "cameras" "/etc/framewatch/cameras" -}}{{- end -}}
{{- mergeOverwrite $own (omit (deepCopy $worker.settings) "kafka") | toYaml -}}
{{- end -}}

{{- define "framewatch.consoleSettings" -}}
{{- $console := .Values.console -}}
{{- $kafka := include "framewatch.kafka" (dict "root" . "settings" $console.settings) | fromYaml -}}
{{- $kafka = mergeOverwrite (dict "scores_topic" "scores") $kafka -}}
{{- $own := dict "kafka" $kafka "host" "0.0.0.0" "port" 8460 "database" "/var/lib/framewatch/console.sqlite" -}}
{{- if $console.tokenSecret -}}
{{- $_ := set $own "auth" (dict "kind" "token" "token_file" "/etc/framewatch/token/token") -}}
{{- end -}}
{{- if $console.tlsSecret -}}
{{- $_ := set $own "tls_certfile" "/etc/framewatch/tls/tls.crt" -}}
{{- $_ := set $own "tls_keyfile" "/etc/framewatch/tls/tls.key" -}}
{{- end -}}
{{- mergeOverwrite $own (omit (deepCopy $console.settings) "kafka") | toYaml -}}
{{- end -}}

{{- /* Mistakes that a schema cannot see, said before anything is installed. */ -}}
{{- define "framewatch.refuse" -}}
{{- $worker := .Values.worker -}}
{{- $settings := include "framewatch.workerSettings" . | fromYaml -}}
{{- if and $settings.kafka.group_instance_id (or .Values.keda.enabled (gt (int $worker.replicas) 1)) -}}
{{- fail "worker.settings.kafka.group_instance_id is one worker's name: leave it out where there are several" -}}
{{- end -}}
{{- if ne (int $settings.http.port) 9464 -}}
{{- fail "worker.settings.http.port is the chart's, 9464: leave it out" -}}
{{- end -}}
{{- if and $worker.bundlesClaim $worker.bundlesImage -}}
{{- fail "worker.bundlesClaim and worker.bundlesImage are both mounted at /models: give one" -}}
{{- end -}}
{{- if and .Values.keda.enabled .Values.topics.enabled -}}
{{- $frames := get .Values.topics.list (default "frames" $settings.kafka.frames_topic) -}}
{{- if and $frames (gt (int .Values.keda.maxReplicas) (int $frames.partitions)) -}}
{{- fail (printf "keda.maxReplicas is %d and the frames topic has %d partitions: more workers would idle" (int .Values.keda.maxReplicas) (int $frames.partitions)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.keda.enabled (eq (default "" $settings.kafka.sasl_mechanism) "OAUTHBEARER") (not .Values.keda.authentication) -}}
{{- fail "KEDA cannot read a token's file: name a TriggerAuthentication of your own in keda.authentication" -}}
{{- end -}}
{{- if and .Values.keda.enabled $settings.kafka.sasl_mechanism (not .Values.keda.authentication) (not (and .Values.kafka.secret .Values.kafka.usernameKey .Values.kafka.passwordKey)) -}}
{{- fail "KEDA logs in too: set kafka.secret, kafka.usernameKey and kafka.passwordKey, or keda.authentication" -}}
{{- end -}}
{{- if and .Values.console.enabled (not .Values.console.tokenSecret) (ne (dig "auth" "kind" "" .Values.console.settings) "proxy") -}}
{{- fail "the console can be reached by others here: set console.tokenSecret, or console.settings.auth with kind proxy" -}}
{{- end -}}
{{- if and .Values.console.tokenSecret .Values.console.enabled (not .Values.console.tlsSecret) (not .Values.console.settings.allow_plain_http) -}}
{{- fail "the token would travel unprotected: set console.tlsSecret, or console.settings.allow_plain_http where something in front speaks TLS" -}}
{{- end -}}
{{- end -}}
