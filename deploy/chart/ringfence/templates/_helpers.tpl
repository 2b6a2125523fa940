{{- define "ringfence.selector" -}}
app.kubernetes.io/name: ringfence
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ringfence.labels" -}}
{{ include "ringfence.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* Not the agents' name, which their DaemonSet selects by. */ -}}
{{- define "ringfence.controller.selector" -}}
app.kubernetes.io/name: ringfence-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ringfence.controller.labels" -}}
{{ include "ringfence.controller.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* A node selector as text: "a=b,c=d". */ -}}
{{- define "ringfence.nodes" -}}
{{- $all := list }}
{{- range $label, $value := . }}
{{- $all = append $all (printf "%s=%v" $label $value) }}
{{- end }}
{{- join "," $all }}
{{- end }}

{{- define "ringfence.image" -}}
image: {{ printf "%s:%s" .Values.image.name (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- /* All containers are root with no capability, unless they say which. Root, because capabilities reach other users
only through file capabilities, which do nothing where privileges may not escalate. */ -}}
{{- define "ringfence.securityContext" -}}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    {{- with get . "add" }}
    add: [{{ join ", " . }}]
    {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ringfence.cni.flags" -}}
- --bin-dir=/host/cni/bin
- --conf-dir=/host/cni/net.d
{{- with .Values.cni.confFile }}
- --conf-file={{ . }}
{{- end }}
{{- end }}

{{- define "ringfence.cni.mounts" -}}
volumeMounts:
- {name: cni-bin, mountPath: /host/cni/bin}
- {name: cni-conf, mountPath: /host/cni/net.d}
{{- end }}

{{- define "ringfence.uninstall" -}}
containers:
- name: uninstall
  {{- include "ringfence.image" . | nindent 2 }}
  args:
  - cni
  - uninstall
  - --bin-dir=/host/cni/bin
  - --conf-dir=/host/cni/net.d
  - --tables
  - --stay
  {{- include "ringfence.securityContext" (dict "add" (list "NET_ADMIN")) | nindent 2 }}
  {{- include "ringfence.cni.mounts" . | nindent 2 }}
{{- end }}
