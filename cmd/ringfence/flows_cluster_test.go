package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/nodes"
)

// Each option that there is gets to the agents as the flag of its own.
func TestAgentsAreAskedWithTheFlagsThatThereAre(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	want := flowlog.Options{Since: now.Add(-90 * time.Second), Last: 7, Namespaces: []string{"shop", "db"}, Pod: "shop/web", From: "app in (a,b)",
		To: "10.0.0.0/8", Selector: "x=y,!z", Verdict: "deny", Ports: []string{"53/udp", "80"}, Policy: "shop/p", WouldDeny: true, WouldAllow: true, Rollout: "r"}
	for i := range reflect.TypeFor[flowlog.Options]().NumField() {
		if reflect.ValueOf(want).Field(i).IsZero() {
			t.Errorf("this test does not know option %s", reflect.TypeFor[flowlog.Options]().Field(i).Name)
		}
	}
	cmd := newFlows()
	args := append([]string{"--name=agent", "--until-eof", "-o=jsonl", "--follow"}, nodes.Arguments(want, now)...)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	get := func(name string) string { return cmd.Flags().Lookup(name).Value.String() }
	got := flowlog.Options{Last: 7, Pod: get("pod"), From: get("from"), To: get("to"), Selector: get("selector"), Verdict: get("verdict"),
		Policy: get("policy"), WouldDeny: get("would-deny") == "true", WouldAllow: get("would-allow") == "true", Rollout: get("rollout")}
	got.Namespaces, _ = cmd.Flags().GetStringSlice("namespace")
	got.Ports, _ = cmd.Flags().GetStringSlice("port")
	since, _ := cmd.Flags().GetDuration("since")
	got.Since = now.Add(-since)
	if get("last") != "7" || !reflect.DeepEqual(got, want) {
		t.Errorf("agents are asked with %q, which is %+v, want %+v", args, got, want)
	}
	if args := nodes.Arguments(flowlog.Options{}, now); args != nil {
		t.Errorf("to ask for nothing special is %q", args)
	}
}

// twoNodes are agents that each tell one connection from n1 to n2, which is denied there.
func twoNodes(t *testing.T, warn func(string)) *nodes.Agents {
	client := fake.NewClientset()
	for _, n := range []string{"n1", "n2"} {
		if err := client.Tracker().Add(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: nodes.Namespace, Name: n, Labels: map[string]string{"app.kubernetes.io/name": "ringfence"}},
			Spec:       corev1.PodSpec{NodeName: n, Containers: []corev1.Container{{Name: nodes.Container}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: nodes.Container,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}); err != nil {
			t.Fatal(err)
		}
	}
	exec := func(_ context.Context, _, pod, _ string, command []string, stdout, stderr io.Writer) error {
		if command[len(command)-1] == "--totals" && pod == "n2" {
			return errors.New("it went away")
		}
		if command[len(command)-1] == "--totals" {
			return json.NewEncoder(stdout).Encode(flowlog.Totals{Open: 3})
		}
		r := flowlog.Record{ID: 1, Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local), Protocol: flow.TCP, Port: 80, Verdict: flow.Allow, RuleKnown: true,
			Source:      flowlog.End{Address: netip.MustParseAddr("10.1.0.1"), Namespace: "shop", Pod: "web", Workload: "web", Host: "n1"},
			Destination: flowlog.End{Address: netip.MustParseAddr("10.2.0.1"), Namespace: "shop", Pod: "db", Workload: "db", Host: "n2"}}
		if pod == "n2" {
			r.Verdict, r.Packets, r.Last, r.Direction = flow.Deny, 1, r.Time, flow.Ingress
			r.Rule = flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "db", Direction: flow.Ingress, Index: flow.Isolation}
		}
		_, _ = io.WriteString(stderr, "2 flows came faster than they could be shown\n")
		return json.NewEncoder(stdout).Encode(r)
	}
	return &nodes.Agents{Client: client, Exec: exec, Warn: warn}
}

func TestFlowsOfACluster(t *testing.T) {
	var out, warned bytes.Buffer
	agents := twoNodes(t, func(text string) { warned.WriteString(text + "\n") })
	cmd := newFlows()
	cmd.SetContext(t.Context())
	cmd.SetOut(&out)
	if err := showFlowsOf(cmd, flowsOptions{output: "text"}, nil, agents); err != nil {
		t.Fatal(err)
	}
	want := "03:04:05.000  n2      deny       shop/web                 -> shop/db                   80/tcp    shop/db ingress\n"
	if out.String() != want {
		t.Errorf("it shows\n%swant\n%s", &out, want)
	}
	if n := strings.Count(warned.String(), ": 2 flows came faster than they could be shown"); n != 2 {
		t.Errorf("it warns %q", &warned)
	}
	out.Reset()
	if err := showFlowsOf(cmd, flowsOptions{output: "json"}, nil, agents); err != nil {
		t.Fatal(err)
	}
	var records []flowlog.Record
	if err := json.Unmarshal(out.Bytes(), &records); err != nil || len(records) != 1 || records[0].Node != "n2" || records[0].Source.Host != "n1" {
		t.Errorf("as JSON it is %s, %v", &out, err)
	}

	// What some agents do not tell is missing, which is no success.
	out.Reset()
	warned.Reset()
	o := flowsOptions{output: "json"}
	o.Totals = true
	err := showFlowsOf(cmd, o, nil, agents)
	var no failed
	if !errors.As(err, &no) || !strings.Contains(out.String(), `"open": 3`) || warned.String() != "node n2: it went away\n" {
		t.Errorf("with a node less: %v, %q, %s", err, &warned, &out)
	}
}

// A command in a container is not told otherwise that nobody listens any more.
func TestFlowsEndWithTheirInput(t *testing.T) {
	_, path := flowInstance(t)
	in, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := newFlows()
	var out lockedBuffer
	cmd.SetArgs([]string{"--socket", path, "-f", "--until-eof"})
	cmd.SetIn(in)
	cmd.SetOut(&out)
	done := make(chan error)
	go func() { done <- cmd.ExecuteContext(t.Context()) }()
	for !strings.Contains(out.String(), "deny") {
		select {
		case err := <-done:
			t.Fatalf("it ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	end.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
