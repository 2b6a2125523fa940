package manifest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/podspec"
)

const podSpecs = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {ringfence.dev/exec: "exec nginx"}}
    spec:
      terminationGracePeriodSeconds: 7
      securityContext: {runAsUser: 33, runAsGroup: 34}
      containers:
      - name: c
        image: c
        workingDir: /srv
        ports: [{name: http, containerPort: 8080}]
        env:
        - {name: A, value: b}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}}
        readinessProbe: {httpGet: {port: http, path: /ok, httpHeaders: [{name: X, value: z}]}, initialDelaySeconds: 2}
        livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 3, timeoutSeconds: 4, failureThreshold: 5}
        startupProbe: {tcpSocket: {port: http}, periodSeconds: 1, failureThreshold: 30}
      - name: side
        image: c
        securityContext: {runAsUser: 1000}
        readinessProbe: {exec: {command: [test, -e, x]}, successThreshold: 2}
        livenessProbe: {grpc: {port: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop}
spec: {containers: [{name: c, image: c}]}
`

func TestWhatRunsInPods(t *testing.T) {
	b := manifest.NewBundle()
	b.Decode("web.yaml", []byte(podSpecs))
	r := b.Finish(manifest.Options{})
	for _, p := range r.Problems {
		t.Error(p)
	}
	user, group := uint32(1000), uint32(34)
	want := podspec.Spec{Command: "exec nginx", WorkingDir: "/srv", User: &user, Group: &group, Grace: 7 * time.Second,
		Env: []podspec.Env{{Name: "A", Value: "b"}, {Name: "IP", Field: podspec.PodIP}},
		Readiness: []podspec.Probe{
			{HTTP: &podspec.HTTPGet{Port: 8080, Path: "/ok", Headers: map[string]string{"X": "z"}}, Delay: 2 * time.Second,
				Period: 10 * time.Second, Timeout: time.Second, Success: 1, Failure: 3},
			{Exec: []string{"test", "-e", "x"}, Period: 10 * time.Second, Timeout: time.Second, Success: 2, Failure: 3}},
		Startup:  []podspec.Probe{{TCP: 8080, Period: time.Second, Timeout: time.Second, Success: 1, Failure: 30}},
		Liveness: []podspec.Probe{{TCP: 8080, Period: 3 * time.Second, Timeout: 4 * time.Second, Success: 1, Failure: 5}}}
	for _, name := range []string{"web-1", "web-2"} {
		if diff := cmp.Diff(want, r.Workloads[cluster.Key{Namespace: "shop", Name: name}]); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(podspec.Spec{}, r.Workloads[cluster.Key{Namespace: "shop", Name: "plain"}]); diff != "" {
		t.Errorf("a pod that says nothing:\n%s", diff)
	}
	var notices []string
	for _, n := range r.Notices {
		notices = append(notices, n.String())
	}
	for _, part := range []string{"web.yaml:21: Deployment shop/web: the variable SECRET is not set", "web.yaml:29: Deployment shop/web: the probe is left out"} {
		if !strings.Contains(strings.Join(notices, "\n"), part) {
			t.Errorf("no notice %q in\n%s", part, strings.Join(notices, "\n"))
		}
	}
}
