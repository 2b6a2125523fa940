package reach_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// TestReachIsEval draws clusters and connections: the answer for the boxes of both ends is what the reference says.
func TestReachIsEval(t *testing.T) {
	judged := 0
	rapid.Check(t, func(t *rapid.T) {
		unknown := rapid.Bool().Draw(t, "boxes of unknown pods")
		m, err := reach.Compute(clustertest.State(t), reach.Options{Unknown: unknown})
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			tuple := clustertest.Tuple(t, m.State)
			tuple.Translated = false
			c := m.State.Resolve(tuple)
			from, ok1 := m.BoxAt(tuple.Source)
			to, ok2 := m.BoxAt(tuple.Destination)
			if (c.From.Unknown || c.To.Unknown) && !unknown {
				if ok1 && ok2 {
					t.Fatalf("%s: an unknown pod has a box", c.Tuple())
				}
				continue
			}
			if !ok1 || !ok2 {
				t.Fatalf("%s: %v %v: an address has no box", c.Tuple(), ok1, ok2)
			}
			d := eval.Evaluate(m.State, c)
			if c.FromOwnNode() || from == to && c.From.Endpoint == c.To.Endpoint {
				continue // said of the box as a whole, in the answer's note
			}
			clause := m.Answer(from, to).Lookup(tuple.Source.Is4(), tuple.Protocol, tuple.Port)
			if got, ok := m.Decide(from, to, tuple.Source.Is4(), tuple.Protocol, tuple.Port); ok != (clause != nil) || ok && got != clause.Decision() {
				t.Fatalf("%s: decided %+v, %v; the answer is %+v", c.Tuple(), got, ok, clause)
			}
			if clause == nil {
				if d.Egress != nil || d.Ingress != nil {
					t.Fatalf("%s: policies are asked, but there is no answer", c.Tuple())
				}
				continue
			}
			judged++
			if got, want := clause.Decision(), d.Flow(); got != want {
				t.Fatalf("%s, %s to %s:\n got %+v\nwant %+v", c.Tuple(), m.Boxes[from].Name, m.Boxes[to].Name, got, want)
			}
		}
	})
	if judged == 0 {
		t.Error("no connection was compared")
	}
}

// TestMapIsWhole: names are unique, clauses share out every port, answers say what their clauses say.
func TestMapIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, err := reach.Compute(clustertest.State(t), reach.Options{})
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		pods := 0
		for _, b := range m.Boxes {
			if names[b.Name] {
				t.Fatalf("two boxes are called %s", b.Name)
			}
			names[b.Name] = true
			if b.Kind == reach.Workload {
				pods += len(b.Pods)
			}
		}
		if n := len(m.State.Endpoints()); pods > n || pods < n && len(m.Notices) == 0 {
			t.Fatalf("%d pods are in boxes, of %d", pods, n)
		}
		for i := range m.Answers() {
			checkAnswer(t, m.AnswerAt(i))
		}
		for from := range m.Boxes {
			for to := range m.Boxes {
				a, like := m.Answer(from, to), m.AnswerAt(m.AlikeIndex(from, to))
				if a.Level != like.Level || a.Note != like.Note || a.Text() != like.Text() {
					t.Fatalf("%s is not like %s", a.Text(), like.Text())
				}
			}
		}
	})
}

func checkAnswer(t *rapid.T, a *reach.Answer) {
	for _, p := range a.Parts {
		for _, proto := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
			covered := 0
			for _, c := range p.Clauses {
				for _, r := range c.Ports {
					if r.Protocol == proto {
						covered += int(r.Last) - int(r.First) + 1
					}
				}
			}
			if covered != 1<<16 {
				t.Fatalf("%s: %d ports are covered: %+v", proto, covered, p)
			}
		}
		if text := p.Text(); len(a.Parts) == 1 && (text == "all") != (a.Level == reach.All) || len(a.Parts) == 1 && (text == "none") != (a.Level == reach.None) {
			t.Fatalf("level %s is told as %q", a.Level, text)
		}
	}
	if (len(a.Parts) == 0) != (a.Level == reach.Unjudged) {
		t.Fatalf("level %s with %d parts", a.Level, len(a.Parts))
	}
}

func pod(name, app string, owner cluster.Owner) *cluster.Endpoint {
	return &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: name}, Owner: owner,
		Labels: label.MustSet(map[string]string{"app": app, "pod": name}), Ports: []cluster.Port{{Name: "http", Protocol: flow.TCP, Number: 80}}}
}

func deny(t *testing.T, name, selector string, rules ...policy.Rule) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: name, IsolatesIngress: true, Ingress: rules, File: "p.yaml", Line: 3,
		Subject: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=shop"), Pods: label.MustParse(selector)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compute(t *testing.T, o cluster.Objects) *reach.Map {
	t.Helper()
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	m, err := reach.Compute(s, reach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func names(m *reach.Map) string {
	var all []string
	for _, b := range m.Boxes {
		all = append(all, b.Name)
	}
	return strings.Join(all, "; ")
}

func TestBoxes(t *testing.T) {
	db := cluster.Owner{Kind: "StatefulSet", Name: "db"}
	pods := []*cluster.Endpoint{pod("db-0", "db", db), pod("db-1", "db", db), pod("db-2", "db", db),
		pod("web", "web", cluster.Owner{}), pod("web-1", "web", cluster.Owner{Kind: "Deployment", Name: "web"})}
	for what, c := range map[string]struct {
		policies []*policy.Policy
		want     string
	}{
		"pods of a workload are one":                    {nil, "shop/db; shop/pod/web; shop/deployment/web; world"},
		"a policy names one pod of a workload":          {[]*policy.Policy{deny(t, "p", "pod=db-1")}, "shop/db (db-0, db-2); shop/db (db-1); shop/pod/web; shop/deployment/web; world"},
		"a label that no policy names is no difference": {[]*policy.Policy{deny(t, "p", "app=db")}, "shop/db; shop/pod/web; shop/deployment/web; world"},
	} {
		m := compute(t, cluster.Objects{Endpoints: slices.Clone(pods), Policies: c.policies})
		if got := names(m); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", what, got, c.want)
		}
		if parts := strings.Contains(c.want, "("); parts != (len(m.Notices) == 1) {
			t.Errorf("%s: notices %q", what, m.Notices)
		}
	}
}

func block(cidr string, except ...string) policy.Rule {
	p := policy.Peer{Kind: policy.PeerBlock, Block: netip.MustParsePrefix(cidr)}
	for _, e := range except {
		p.Except = append(p.Except, netip.MustParsePrefix(e))
	}
	return policy.Rule{Action: policy.Accept, Peers: []policy.Peer{p}, Ports: []policy.Port{{Protocol: flow.TCP, First: 80, Last: 80}}}
}

func TestOutside(t *testing.T) {
	m := compute(t, cluster.Objects{Endpoints: []*cluster.Endpoint{pod("a", "a", cluster.Owner{})}, Policies: []*policy.Policy{
		deny(t, "p", "app=a", block("198.51.100.0/24", "198.51.100.128/25"), block("2001:db8::/32"), block("10.244.0.0/16"))}})
	if got, want := names(m), "shop/a; 198.51.100.0/24; 2001:db8::/32; world"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	for addr, want := range map[string]string{"198.51.100.7": "198.51.100.0/24", "198.51.100.200": "world", "2001:db8::1": "2001:db8::/32", "::1": "world"} {
		if i, ok := m.BoxAt(netip.MustParseAddr(addr)); !ok || m.Boxes[i].Name != want {
			t.Errorf("%s is in %s, %v; want %s", addr, m.Boxes[i].Name, ok, want)
		}
	}
	a := m.Answer(1, 0)
	if a.Text() != "80" || a.Level != reach.Some {
		t.Errorf("the block reaches %q, %s", a.Text(), a.Level)
	}
	if d := a.Declared(m.Boxes[0].Ports); len(d) != 1 || d[0].Allowed != reach.All {
		t.Errorf("declared ports: %+v", d)
	}
	if a := m.Answer(3, 0); a.Text() != "none" || a.Parts[0].Clauses[0].Decision().Rule.Place() != "p.yaml:3" {
		t.Errorf("the world reaches %+v", a)
	}
	if a := m.Answer(0, 3); a.Text() != "all" || a.Ruled {
		t.Errorf("the pod reaches %+v of the world", a)
	}
	if a := m.Answer(1, 3); a.Level != reach.Unjudged {
		t.Errorf("two parts of the outside: %+v", a)
	}
}

func TestManyBlocksThatAreAlikeAreOne(t *testing.T) {
	var rules []policy.Rule
	for i := range 200 {
		rules = append(rules, block(fmt.Sprintf("198.51.%d.0/24", i)))
	}
	rule := policy.Rule{Action: policy.Accept}
	for _, r := range rules {
		rule.Peers = append(rule.Peers, r.Peers...)
	}
	m := compute(t, cluster.Objects{Endpoints: []*cluster.Endpoint{pod("a", "a", cluster.Owner{})}, Policies: []*policy.Policy{deny(t, "p", "app=a", rule)}})
	if got, want := names(m), "shop/a; 198.51.0.0/24, 198.51.1.0/24, 198.51.2.0/24 and 197 more blocks; world"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if i, ok := m.BoxAt(netip.MustParseAddr("198.51.99.1")); !ok || i != 1 {
		t.Errorf("an address of a block that was merged is in box %d, %v", i, ok)
	}
}

func TestNodes(t *testing.T) {
	on := func(e *cluster.Endpoint, node string) *cluster.Endpoint { e.Node = node; return e }
	host := on(pod("agent", "agent", cluster.Owner{}), "n1")
	host.HostNetwork = true
	m := compute(t, cluster.Objects{Nodes: []cluster.Node{{Name: "n1"}, {Name: "n2"}}, Endpoints: []*cluster.Endpoint{
		host, on(pod("a", "a", cluster.Owner{}), "n1")}, Policies: []*policy.Policy{deny(t, "p", "app=a")}})
	if got, want := names(m), "shop/a; shop/agent; nodes n1 … n2 (2); world"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if a := m.Answer(1, 0); a.Level != reach.Unjudged || a.Note == "" {
		t.Errorf("a pod on the network of a's node: %+v", a)
	}
	if a := m.Answer(2, 0); a.Level != reach.None || !strings.Contains(a.Note, "other nodes") {
		t.Errorf("from nodes: %+v", a)
	}
}

// Large draws a map of n workloads with a policy for each; the times are the gate that the map stays usable.
func large(t testing.TB, n int) *cluster.State {
	var o cluster.Objects
	for i := range n {
		ns := fmt.Sprintf("team-%d", i/20)
		app := fmt.Sprintf("app%d", i)
		o.Endpoints = append(o.Endpoints, &cluster.Endpoint{Key: cluster.Key{Namespace: ns, Name: app}, Labels: label.MustSet(map[string]string{"app": app})})
		p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: ns, Name: app, IsolatesIngress: true,
			Subject: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=" + ns), Pods: label.MustParse("app=" + app)},
			Ingress: []policy.Rule{{Action: policy.Accept, Ports: []policy.Port{{Protocol: flow.TCP, First: 80, Last: 80}},
				Peers: []policy.Peer{{Kind: policy.PeerPods, Pods: policy.Pods{Pods: label.MustParse(fmt.Sprintf("app=app%d", (i*7+1)%n))}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		o.Policies = append(o.Policies, p)
	}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLargeMapsAreFast(t *testing.T) {
	for n, most := range map[int]time.Duration{300: time.Second, 1000: 10 * time.Second} {
		s := large(t, n)
		start := time.Now()
		m, err := reach.Compute(s, reach.Options{})
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		t.Logf("%d workloads: %v, %d answers", n, took, m.Answers())
		if took > most {
			t.Errorf("%d workloads took %v, more than %v", n, took, most)
		}
	}
}

// TestSamples: each address that nobody has is like the sample with the longest prefix around it.
func TestSamples(t *testing.T) {
	seen := 0
	rapid.Check(t, func(t *rapid.T) {
		a := clustertest.State(t)
		b := clustertest.Mutate(t, a)
		samples := reach.Samples(a, b)
		for range 10 {
			tuple := clustertest.Tuple(t, a)
			addr := tuple.Destination
			nobody := func(s *cluster.State) bool { p := s.At(addr); return p.Endpoint == nil && p.Node == nil }
			if !nobody(a) || !nobody(b) {
				continue
			}
			best := -1
			for i, s := range samples {
				if s.Prefix.Contains(addr) && (best < 0 || s.Prefix.Bits() > samples[best].Prefix.Bits()) {
					best = i
				}
			}
			if best < 0 {
				t.Fatalf("%s has no sample in %v", addr, samples)
			}
			other := tuple
			other.Destination = samples[best].Addr
			seen++
			for _, s := range []*cluster.State{a, b} {
				x, y := eval.Evaluate(s, s.Resolve(tuple)).Flow(), eval.Evaluate(s, s.Resolve(other)).Flow()
				if x != y || s.At(addr).Unknown != s.At(other.Destination).Unknown {
					t.Fatalf("%s is %+v, its sample %+v is %+v", tuple, x, samples[best], y)
				}
			}
		}
	})
	if seen == 0 {
		t.Error("nothing was compared")
	}
}
