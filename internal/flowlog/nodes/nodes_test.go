//go:build linux

package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

// cluster is some nodes, each with an agent that tells what it was given.
type cluster struct {
	*Agents
	t *testing.T

	mu       sync.Mutex
	told     map[string][]*flowlog.Record // by node
	fail     map[string]error
	live     map[string]chan *flowlog.Record // what comes, for --follow; closing it ends the command
	commands []string
	warnings []string
	warned   chan string
}

func newCluster(t *testing.T, nodes ...string) *cluster {
	c := &cluster{t: t, told: map[string][]*flowlog.Record{}, fail: map[string]error{}, live: map[string]chan *flowlog.Record{}, warned: make(chan string, 100)}
	client := fake.NewClientset()
	for _, n := range nodes {
		if err := client.Tracker().Add(agentPod(n)); err != nil {
			t.Fatal(err)
		}
		c.live[n] = make(chan *flowlog.Record)
	}
	c.Agents = &Agents{Client: client, Exec: c.exec, Warn: func(text string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.warnings = append(c.warnings, text)
		c.warned <- text
	}}
	return c
}

func agentPod(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "agent-" + node, Labels: map[string]string{"app.kubernetes.io/name": "ringfence"}},
		Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: Container}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: Container, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}
}

// exec is the command in the agents' containers.
func (c *cluster) exec(ctx context.Context, namespace, pod, container string, command []string, stdout, stderr io.Writer) error {
	node := strings.TrimPrefix(pod, "agent-")
	c.mu.Lock()
	c.commands = append(c.commands, strings.Join(command, " "))
	told, fail, live := c.told[node], c.fail[node], c.live[node]
	c.mu.Unlock()
	if namespace != Namespace || container != Container {
		c.t.Errorf("%s/%s, container %s was asked", namespace, pod, container)
	}
	if fail != nil {
		fmt.Fprintln(stderr, "something of no importance")
		fmt.Fprintln(stderr, "error: "+fail.Error())
		return fail
	}
	enc := json.NewEncoder(stdout)
	for _, r := range told {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	if !slices.Contains(command, "--follow") {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r, open := <-live:
			if !open {
				return errors.New("container is gone")
			}
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
	}
}

// conn is a connection from pod a on n1 to pod b on n2, as a node tells it.
func conn(node string, id uint64, after time.Duration) *flowlog.Record {
	return &flowlog.Record{Node: node, ID: id, Time: noon.Add(after), Protocol: flow.TCP, Port: 80, Verdict: flow.Allow, RuleKnown: true, Answered: true,
		Source:      flowlog.End{Address: netip.MustParseAddr("10.1.0.1"), Namespace: "shop", Pod: "a", Workload: "a", Host: "n1"},
		Destination: flowlog.End{Address: netip.MustParseAddr("10.2.0.1"), Namespace: "shop", Pod: "b", Workload: "b", Host: "n2"}}
}

func denied(r *flowlog.Record, packets int, span time.Duration) *flowlog.Record {
	r.Verdict, r.Answered, r.Packets, r.Last = flow.Deny, false, packets, r.Time.Add(span)
	r.Direction, r.Rule = flow.Ingress, flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "b", Direction: flow.Ingress, Index: flow.Isolation}
	return r
}

func unanswered(r *flowlog.Record) *flowlog.Record { r.Answered = false; return r }

func ended(r *flowlog.Record, after time.Duration) *flowlog.Record {
	r.End = &flowlog.Ending{Time: r.Time.Add(after), Duration: after}
	return r
}

func text(all []*flowlog.Record) string {
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintf(&b, "%s:%d %s\n", r.Node, r.ID, r.Verdict)
	}
	return b.String()
}

const second = time.Second

func TestRecordsOfAllNodes(t *testing.T) {
	egress := flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "a", Direction: flow.Egress}
	asked := &flowlog.Asked{Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Service: "shop/b"}
	withService := conn("n1", 1, 0)
	withService.Asked, withService.Rule = asked, egress
	local := conn("n2", 9, 3*second)
	local.Source.Host = "n2"
	outside := conn("n1", 8, 5*second)
	outside.Destination = flowlog.End{Address: netip.MustParseAddr("192.0.2.1")}
	earlier := conn("n2", 1, 50*second)
	earlier.Earlier = true
	for _, test := range []struct {
		name   string
		n1, n2 []*flowlog.Record
		want   string
	}{
		{"told by both", []*flowlog.Record{conn("n1", 1, 0)}, []*flowlog.Record{conn("n2", 1, second)}, "n2:1 allow\n"},
		{"the later told first", []*flowlog.Record{conn("n1", 1, second)}, []*flowlog.Record{conn("n2", 1, 0)}, "n2:1 allow\n"},
		{"three alike", []*flowlog.Record{conn("n1", 1, 0), conn("n1", 2, 0), conn("n1", 3, 0)}, []*flowlog.Record{conn("n2", 1, 0), conn("n2", 2, 0)},
			"n1:3 allow\nn2:1 allow\nn2:2 allow\n"},
		{"long after", []*flowlog.Record{conn("n1", 1, 0)}, []*flowlog.Record{conn("n2", 1, 10*second)}, "n1:1 allow\nn2:1 allow\n"},
		{"other pods", []*flowlog.Record{conn("n1", 1, 0), outside}, []*flowlog.Record{conn("n2", 1, 0), local}, "n2:1 allow\nn2:9 allow\nn1:8 allow\n"},
		{"denied at the other end", []*flowlog.Record{unanswered(conn("n1", 1, 0)), unanswered(conn("n1", 2, 4*second))},
			[]*flowlog.Record{denied(conn("n2", 1, 0), 5, 5*second)}, "n2:1 deny\n"},
		{"answered, so another one was denied", []*flowlog.Record{conn("n1", 1, 0)}, []*flowlog.Record{denied(conn("n2", 1, 0), 1, 0)}, "n1:1 allow\nn2:1 deny\n"},
		{"denied where it began", []*flowlog.Record{denied(conn("n1", 1, 0), 1, 0)}, nil, "n1:1 deny\n"},
		{"older than one log", []*flowlog.Record{conn("n1", 1, 0)}, []*flowlog.Record{earlier}, "n2:1 allow\n"},
		{"over before the other log began", []*flowlog.Record{ended(conn("n1", 1, 0), second)}, []*flowlog.Record{earlier}, "n1:1 allow\nn2:1 allow\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, "n1", "n2")
			c.told = map[string][]*flowlog.Record{"n1": test.n1, "n2": test.n2}
			answer, err := c.Records(t.Context(), flowlog.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := text(answer.Records); got != test.want {
				t.Errorf("it tells\n%swant\n%s", got, test.want)
			}
			if answer.Nodes != 2 || answer.Missing != nil || answer.LeftOut != 0 {
				t.Errorf("the answer is %+v", answer)
			}
		})
	}
	c := newCluster(t, "n1", "n2")
	c.told = map[string][]*flowlog.Record{"n1": {withService}, "n2": {conn("n2", 1, 0)}}
	answer, err := c.Records(t.Context(), flowlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r := answer.Records[0]; r.Node != "n2" || r.Asked == nil || r.Asked.Service != "shop/b" || r.Rule.Name != "a" {
		t.Errorf("what only the client's node knew is lost: %+v", r)
	}
}

func TestWhatAgentsCannotDecideAlone(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.told = map[string][]*flowlog.Record{"n1": {unanswered(conn("n1", 1, 0)), conn("n1", 2, 20*second)}, "n2": {denied(conn("n2", 1, 0), 1, 0), conn("n2", 2, 20*second), conn("n2", 3, 30*second)}}
	answer, err := c.Records(t.Context(), flowlog.Options{Verdict: "allow", Last: 1, Namespaces: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := text(answer.Records); got != "n2:3 allow\n" {
		t.Errorf("it tells %s", got)
	}
	for _, command := range c.commands {
		if want := "ringfence flows --name agent --until-eof -o jsonl --namespace=shop"; command != want {
			t.Errorf("it asks %q, want %q", command, want)
		}
	}
	if _, err := c.Records(t.Context(), flowlog.Options{From: "a/b/c/d"}); err == nil || len(c.commands) != 2 {
		t.Errorf("what cannot be read was asked: %v, %d commands", err, len(c.commands))
	}
}

func TestTheNewestAreKept(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	for _, n := range []string{"n1", "n2", "n3"} {
		for i := range 100 {
			r := conn(n, uint64(i+1), time.Duration(i)*time.Minute)
			r.Source.Host, r.Destination.Host = n, n
			c.told[n] = append(c.told[n], r)
		}
	}
	c.Limit = 30
	answer, err := c.Records(t.Context(), flowlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Records) != 30 || answer.LeftOut != 270 || answer.Records[0].ID != 91 || answer.Records[29].ID != 100 {
		t.Errorf("%d records from %d on, %d are left out", len(answer.Records), answer.Records[0].ID, answer.LeftOut)
	}
	if len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "270 older flows are left out") {
		t.Errorf("it warns %q", c.warnings)
	}
}

func TestAgentsThatCannotBeAsked(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	c.told["n1"] = []*flowlog.Record{conn("n1", 1, 0)}
	c.fail["n2"] = errors.New("flow socket: nobody there")
	waiting := agentPod("n4")
	waiting.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}
	if _, err := c.Client.CoreV1().Pods(Namespace).Create(t.Context(), waiting, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	answer, err := c.Records(t.Context(), flowlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Missing{{"n2", "flow socket: nobody there"}, {"n4", "its agent does not run: ImagePullBackOff"}}
	if !slices.Equal(answer.Missing, want) || answer.Nodes != 4 || len(answer.Records) != 1 {
		t.Errorf("missing is %v of %d, want %v", answer.Missing, answer.Nodes, want)
	}
	if want := []string{"node n2: flow socket: nobody there", "node n4: its agent does not run: ImagePullBackOff"}; !slices.Equal(c.warnings, want) {
		t.Errorf("it warns %q", c.warnings)
	}
	c.Wanted = func(n string) bool { return n == "n2" }
	if _, err := c.Records(t.Context(), flowlog.Options{}); err == nil || !strings.Contains(err.Error(), "none of 1 agents could be asked; the first one: node n2: flow socket") {
		t.Errorf("of none the error is %v", err)
	}
	c.Wanted = func(string) bool { return false }
	if _, err := c.Records(t.Context(), flowlog.Options{}); err == nil || !strings.Contains(err.Error(), "there is no agent on the nodes that were asked for") {
		t.Errorf("without agents the error is %v", err)
	}
	c.Wanted = nil
	c.fail["n3"] = apierrors.NewForbidden(schema.GroupResource{Resource: "pods/exec"}, "agent-n3", errors.New("no"))
	if _, err := c.Records(t.Context(), flowlog.Options{}); !errors.Is(err, errForbidden) {
		t.Errorf("to whom it is forbidden: %v", err)
	}
}

func TestAnAnswerThatIsNone(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.Exec = func(_ context.Context, _, pod, _ string, _ []string, stdout, _ io.Writer) error {
		if pod == "agent-n2" {
			_, err := stdout.Write(bytes.Repeat([]byte("x"), maxLine+10))
			return err
		}
		_, err := io.WriteString(stdout, "{\n")
		return err
	}
	_, err := c.Records(t.Context(), flowlog.Options{})
	if err == nil || !strings.Contains(err.Error(), "node n1: read its answer: unexpected end of JSON") {
		t.Errorf("the error is %v", err)
	}
}

func TestTotalsCountOnce(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	at := func(node string, onward bool, flows uint64, first time.Duration) flowlog.Totals {
		pair := flowlog.Pair{Source: "shop/a", Destination: "shop/b", Protocol: flow.TCP, Port: 80, Verdict: flow.Allow, RuleKnown: true, Onward: onward}
		return flowlog.Totals{Pairs: []flowlog.PairTotal{{Pair: pair, Flows: flows, Bytes: 10 * flows, First: noon.Add(first), Last: noon.Add(first + second)}},
			Drops: []flowlog.DropTotal{{Packets: flows, First: noon, Last: noon}}, Lost: 1, Open: 2, Records: 3, Bytes: 4}
	}
	totals := map[string]flowlog.Totals{"agent-n1": at("n1", true, 7, 0), "agent-n2": at("n2", false, 7, second), "agent-n3": at("n3", false, 1, 0)}
	if _, err := c.Client.CoreV1().Pods(Namespace).Create(t.Context(), agentPod("n3"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Exec = func(_ context.Context, _, pod, _ string, command []string, stdout, _ io.Writer) error {
		if command[len(command)-1] != "--totals" {
			t.Errorf("it asks %q", command)
		}
		return json.NewEncoder(stdout).Encode(totals[pod])
	}
	sum, missing, err := c.Totals(t.Context())
	if err != nil || missing != nil {
		t.Fatal(err, missing)
	}
	if len(sum.Pairs) != 1 || sum.Pairs[0].Flows != 8 || sum.Pairs[0].Bytes != 80 || !sum.Pairs[0].First.Equal(noon) || !sum.Pairs[0].Last.Equal(noon.Add(2*second)) {
		t.Errorf("the pairs are %+v", sum.Pairs)
	}
	if len(sum.Drops) != 1 || sum.Drops[0].Packets != 15 || sum.Lost != 3 || sum.Open != 6 || sum.Records != 9 || sum.Bytes != 12 {
		t.Errorf("the sum is %+v", sum)
	}
}

// followed runs Follow and returns what it tells.
func (c *cluster) followed(o flowlog.Options) (told chan string, end func()) {
	told = make(chan string)
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error)
	go func() {
		done <- c.Follow(ctx, o, func(r *flowlog.Record) error {
			word := fmt.Sprintf("%s:%d %s", r.Node, r.ID, r.Verdict)
			if r.End != nil {
				word += " end"
			}
			select {
			case told <- word:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	return told, func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) must(got <-chan string, want string) {
	c.t.Helper()
	select {
	case text := <-got:
		if !strings.Contains(text, want) {
			c.t.Fatalf("it says %q, want %q", text, want)
		}
	case <-time.After(20 * time.Second):
		c.t.Fatalf("it does not say %q", want)
	}
}

func TestFollowAllNodes(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.told = map[string][]*flowlog.Record{"n1": {conn("n1", 1, 0), conn("n1", 2, 10*second)}, "n2": {conn("n2", 1, 0)}}
	told, end := c.followed(flowlog.Options{})
	c.must(told, "n2:1 allow")
	c.must(told, "n1:2 allow") // nobody else knows of it
	c.live["n1"] <- ended(conn("n1", 1, 0), 15*second)
	c.live["n2"] <- ended(conn("n2", 1, 0), 15*second)
	c.must(told, "n2:1 allow end")
	c.live["n2"] <- denied(conn("n2", 2, 20*second), 1, 0)
	c.live["n1"] <- unanswered(conn("n1", 3, 20*second))
	c.must(told, "n2:2 deny")

	// An agent goes and comes again: what it told is not told again.
	c.mu.Lock()
	gone := c.live["n2"]
	c.live["n2"] = make(chan *flowlog.Record)
	c.told["n2"] = []*flowlog.Record{ended(conn("n2", 1, 0), 15*second), denied(conn("n2", 2, 20*second), 1, 0), conn("n2", 3, 30*second)}
	again := c.live["n2"]
	c.mu.Unlock()
	close(gone)
	c.must(c.warned, "node n2: its flows are missing: container is gone; it is tried again")
	c.must(c.warned, "node n2: its flows come again")
	c.must(told, "n2:3 allow")
	again <- conn("n2", 4, 40*second)
	c.must(told, "n2:4 allow")
	end()
	for _, command := range c.commands {
		if strings.Contains(command, "--follow") && !strings.Contains(command, "--since=") {
			t.Errorf("it asks for all once more: %s", command)
		}
	}
}

func TestFollowNoticesAgents(t *testing.T) {
	c := newCluster(t, "n1")
	told, end := c.followed(flowlog.Options{Verdict: "allow"})
	c.live["n1"] <- conn("n1", 1, 0) // it is followed now, and so are the pods
	c.must(told, "n1:1 allow")
	c.mu.Lock()
	c.live["n3"] = make(chan *flowlog.Record)
	c.mu.Unlock()
	for {
		// The watch begins after the list: a pod between them is in neither of the fake's.
		pod := agentPod("n3")
		if _, err := c.Client.CoreV1().Pods(Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		select {
		case text := <-c.warned:
			if text != "node n3: following its agent" {
				t.Fatalf("it says %q", text)
			}
		case <-time.After(time.Second):
			if err := c.Client.CoreV1().Pods(Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		break
	}
	c.live["n3"] <- denied(conn("n3", 1, second), 1, 0)
	c.live["n3"] <- conn("n3", 2, 2*second)
	c.must(told, "n3:2 allow")
	end()
}

func TestFollowEndsWithItsReader(t *testing.T) {
	c := newCluster(t, "n1")
	c.told["n1"] = []*flowlog.Record{conn("n1", 1, 0)}
	full := errors.New("disk is full")
	if err := c.Follow(t.Context(), flowlog.Options{}, func(*flowlog.Record) error { return full }); !errors.Is(err, full) {
		t.Errorf("it ends with %v", err)
	}
	done := make(chan error)
	go func() {
		done <- c.Follow(t.Context(), flowlog.Options{}, func(r *flowlog.Record) error {
			if r.ID == 2 {
				return full
			}
			return nil
		})
	}()
	c.live["n1"] <- conn("n1", 2, second)
	if err := <-done; !errors.Is(err, full) {
		t.Errorf("it ends with %v", err)
	}
}

// What finds no partner is told, what is told twice is left out once, whatever comes when, and little is remembered.
func TestJoinerForgets(t *testing.T) {
	j := newJoiner(100)
	for i := range 1000 {
		at := time.Duration(i) * second / 10
		went, came := j.offer(conn("n1", uint64(i+1), at)), j.offer(conn("n2", uint64(i+1), at))
		if !went.left || came.left {
			t.Fatalf("of connection %d the ends are left out: %t, %t", i, went.left, came.left)
		}
		alone := conn("n1", uint64(i+10_000), at)
		alone.Port = uint16(1000 + i)
		if j.offer(alone).left {
			t.Fatalf("connection %d is left out, which nobody else told", i)
		}
	}
	if len(j.known) > 100 || len(j.unmet) > 101 {
		t.Errorf("it remembers %d entries of %d tuples", len(j.known), len(j.unmet))
	}
}
