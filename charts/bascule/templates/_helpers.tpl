{{/* Labels of everything. Takes a list: the root and the component. */}}
{{- define "bascule.labels" -}}
{{- $root := index . 0 -}}
{{ include "bascule.selector" (index . 1) }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that select the pods of a component; they may never change. */}}
{{- define "bascule.selector" -}}
app.kubernetes.io/name: bascule
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* An image: by digest where there is one. Takes a list: the root and the image's values. */}}
{{- define "bascule.image" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A user's name of a ServiceAccount of the release. Takes a list: the root and the name. */}}
{{- define "bascule.user" -}}
system:serviceaccount:{{ (index . 0).Release.Namespace }}:{{ index . 1 }}
{{- end }}

{{/* The port of operator.listen, which is ADDR:PORT or [ADDR]:PORT. */}}
{{- define "bascule.operatorPort" -}}
{{ regexReplaceAll "^.*:" .Values.operator.listen "" }}
{{- end }}

{{/* Rules of an agent, written for dir1. Takes a list: the rules and the director, which is empty for the ServiceAccount that all
nodes have: then what is named after the director has no name, and the policies say whose it is. */}}
{{- define "bascule.agentRules" -}}
{{- $director := index . 1 -}}
{{- $rules := list -}}
{{- range index . 0 -}}
{{- $own := contains "dir1" (.resourceNames | default list | join " ") -}}
{{- if and $own (not $director) -}}
{{- $rules = append $rules (omit . "resourceNames") -}}
{{- else if $own -}}
{{- $names := list -}}
{{- range .resourceNames -}}{{- $names = append $names (. | replace "dir1" $director) -}}{{- end -}}
{{- $rules = append $rules (merge (dict "resourceNames" $names) .) -}}
{{- else -}}
{{- $rules = append $rules . -}}
{{- end -}}
{{- end -}}
{{ toYaml $rules }}
{{- end }}
