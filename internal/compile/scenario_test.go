package compile_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// pod makes a pod "name" or "namespace/name" with labels in the form of a selector, in namespace a if none is said.
func pod(name, address, labels string, ports ...cluster.Port) *cluster.Endpoint {
	namespace, short, ok := strings.Cut(name, "/")
	if !ok {
		namespace, short = "a", name
	}
	m := map[string]string{}
	for _, r := range label.MustParse(labels).Requirements() {
		m[r.Key] = r.Values[0]
	}
	return &cluster.Endpoint{Key: cluster.Key{Namespace: namespace, Name: short}, Labels: label.MustSet(m), Ports: ports,
		Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr(address)}}
}

func pods(labels string) policy.Peer {
	return policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: label.Everything(), Pods: label.MustParse(labels)}}
}

func block(text string, except ...string) policy.Peer {
	p := policy.Peer{Kind: policy.PeerBlock, Block: netip.MustParsePrefix(text)}
	for _, e := range except {
		p.Except = append(p.Except, netip.MustParsePrefix(e))
	}
	return p
}

var anyone = policy.Peer{Kind: policy.PeerAnyone}

func rule(a policy.Action, peer policy.Peer, ports ...policy.Port) policy.Rule {
	return policy.Rule{Action: a, Peers: []policy.Peer{peer}, Ports: ports}
}

func tcp(first, last uint16) policy.Port {
	return policy.Port{Protocol: flow.TCP, First: first, Last: last}
}

func named(name string) policy.Port { return policy.Port{Name: name} }

// clusterPolicy is a policy of tier Admin or Baseline about pods with the given labels.
func clusterPolicy(t policy.Tier, name, subject string) policy.Policy {
	return policy.Policy{Tier: t, Name: name, Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.MustParse(subject)}}
}

func networkPolicy(name, subject string, directions ...flow.Direction) policy.Policy {
	p := policy.Policy{Tier: policy.Namespace, Namespace: "a", Name: name,
		Subject: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=a"), Pods: label.MustParse(subject)}}
	for _, d := range directions {
		p.IsolatesEgress = p.IsolatesEgress || d == flow.Egress
		p.IsolatesIngress = p.IsolatesIngress || d == flow.Ingress
	}
	return p
}

func with(p policy.Policy, d flow.Direction, rules ...policy.Rule) policy.Policy {
	if d == flow.Egress {
		p.Egress = rules
	} else {
		p.Ingress = rules
	}
	return p
}

// state makes a cluster whose pods come from 10.0.0.0/24.
func state(t *testing.T, endpoints []*cluster.Endpoint, policies ...policy.Policy) *cluster.State {
	t.Helper()
	o := cluster.Objects{Endpoints: endpoints, PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		Nodes: []cluster.Node{{Name: "n1", Labels: label.MustSet(map[string]string{"zone": "x"}), Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}}}
	for _, p := range policies {
		made, err := policy.New(p)
		if err != nil {
			t.Fatal(err)
		}
		o.Policies = append(o.Policies, made)
	}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// decide asks for a connection in the form "10.0.0.1 10.0.0.2 80" (tcp) and returns "allow" or "deny", the
// direction of a denial, and the rule. The reference must agree.
func decide(t *testing.T, s *cluster.State, connection string) string {
	t.Helper()
	var c flow.Tuple
	f := strings.Fields(connection)
	c.Source, c.Destination = netip.MustParseAddr(f[0]), netip.MustParseAddr(f[1])
	c.Protocol = flow.ICMP
	if len(f) > 2 {
		port := netip.MustParseAddrPort("0.0.0.0:" + f[2])
		c.Protocol, c.Port = flow.TCP, port.Port()
	}
	got := compiled(t, s, "").Decide(c)
	if want := eval.Evaluate(s, s.Resolve(c)).Flow(); got != want {
		t.Errorf("%s: compiled %+v, reference %+v", connection, got, want)
	}
	if got.Verdict == flow.Deny {
		return "deny by " + got.Rule.String()
	}
	return "allow by " + got.Rule.String()
}

// What an unknown pod may do is what every pod that may be there may do. 10.0.0.9 is the unknown pod.
func TestUnknownPods(t *testing.T) {
	subject := []*cluster.Endpoint{pod("one", "10.0.0.1", "app=one")}
	in := func(rules ...policy.Rule) policy.Policy {
		return with(clusterPolicy(policy.Admin, "admin", ""), flow.Ingress, rules...)
	}
	out := func(rules ...policy.Rule) policy.Policy {
		return with(clusterPolicy(policy.Admin, "admin", ""), flow.Egress, rules...)
	}
	baseline := with(clusterPolicy(policy.Baseline, "base", ""), flow.Ingress, rule(policy.Deny, anyone))
	isolated := networkPolicy("np", "", flow.Ingress)
	for _, c := range []struct {
		name       string
		policies   []policy.Policy
		connection string
		want       string
	}{
		{"an Accept by labels does not match", []policy.Policy{in(rule(policy.Accept, pods("app=x")), rule(policy.Deny, anyone))},
			"10.0.0.9 10.0.0.1 80", "deny by admin ingress[1]"},
		{"a Deny by labels does", []policy.Policy{in(rule(policy.Deny, pods("app=x")), rule(policy.Accept, anyone))},
			"10.0.0.9 10.0.0.1 80", "deny by admin ingress[0]"},
		{"a Deny after a sure Accept does not", []policy.Policy{in(rule(policy.Accept, anyone), rule(policy.Deny, pods("app=x")))},
			"10.0.0.9 10.0.0.1 80", "allow by admin ingress[0]"},
		{"a Pass by labels asks the later tiers, which deny", []policy.Policy{in(rule(policy.Pass, pods("app=x")), rule(policy.Accept, anyone)), baseline},
			"10.0.0.9 10.0.0.1 80", "deny by base ingress[0]"},
		{"a Pass by labels, and a NetworkPolicy denies", []policy.Policy{in(rule(policy.Pass, pods("app=x")), rule(policy.Accept, anyone)), isolated},
			"10.0.0.9 10.0.0.1 80", "deny by a/np ingress"},
		{"a Pass by labels, and the later tiers agree", []policy.Policy{in(rule(policy.Pass, pods("app=x")), rule(policy.Accept, anyone)),
			with(isolated, flow.Ingress, rule(policy.Accept, anyone))}, "10.0.0.9 10.0.0.1 80", "allow by admin ingress[1]"},
		{"a Pass by labels, then a Deny for all", []policy.Policy{in(rule(policy.Pass, pods("app=x")), rule(policy.Deny, anyone))},
			"10.0.0.9 10.0.0.1 80", "deny by admin ingress[1]"},
		{"a NetworkPolicy's peer by labels does not match", []policy.Policy{with(isolated, flow.Ingress, rule(policy.Accept, pods("")))},
			"10.0.0.9 10.0.0.1 80", "deny by a/np ingress"},
		{"its peer by address does", []policy.Policy{with(isolated, flow.Ingress, rule(policy.Accept, block("10.0.0.8/29")))},
			"10.0.0.9 10.0.0.1 80", "allow by a/np ingress[0]"},
		{"an address that is no pod's is not unknown", []policy.Policy{in(rule(policy.Deny, pods("app=x")))},
			"192.0.2.1 10.0.0.1 80", "allow by no policy"},
		{"a named port does not match an Accept", []policy.Policy{out(rule(policy.Accept, anyone, named("http")), rule(policy.Deny, anyone))},
			"10.0.0.1 10.0.0.9 80", "deny by admin egress[1]"},
		{"a named port matches a Deny", []policy.Policy{out(rule(policy.Deny, anyone, named("http")))},
			"10.0.0.1 10.0.0.9 80", "deny by admin egress[0]"},
		{"but not without ports", []policy.Policy{out(rule(policy.Deny, anyone, named("http")))},
			"10.0.0.1 10.0.0.9", "allow by no policy"},
		{"a named port matches no server outside", []policy.Policy{out(rule(policy.Deny, anyone, named("http")))},
			"10.0.0.1 192.0.2.1 80", "allow by no policy"},
		{"of a name and a number the number is sure", []policy.Policy{out(rule(policy.Pass, anyone, named("http"), tcp(80, 80)), rule(policy.Deny, anyone))},
			"10.0.0.1 10.0.0.9 80", "allow by no policy"},
		{"of a name and a number, another number is not", []policy.Policy{out(rule(policy.Pass, anyone, named("http"), tcp(80, 80)), rule(policy.Deny, anyone))},
			"10.0.0.1 10.0.0.9 81", "deny by admin egress[1]"},
	} {
		if got := decide(t, state(t, subject, c.policies...), c.connection); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// An Accept for an unknown pod stands until a later tier denies. The tier that comes next may have one that stands,
// too: the first is the rule that decides.
func TestTheFirstAcceptThatStandsDecides(t *testing.T) {
	maybePass, accept := rule(policy.Pass, pods("app=x")), rule(policy.Accept, anyone)
	s := state(t, []*cluster.Endpoint{pod("one", "10.0.0.1", "")},
		with(clusterPolicy(policy.Admin, "first", ""), flow.Ingress, maybePass, accept),
		with(clusterPolicy(policy.Baseline, "second", ""), flow.Ingress, maybePass, accept))
	c := flow.Tuple{Source: netip.MustParseAddr("10.0.0.9"), Destination: netip.MustParseAddr("10.0.0.1"), Protocol: flow.ICMP}
	if d := compiled(t, s, "").Decide(c); d.Verdict != flow.Allow || d.Rule.Name != "first" {
		t.Errorf("%+v", d)
	}
}

func TestNamedPortsResolveOnTheServer(t *testing.T) {
	http := func(n uint16) cluster.Port { return cluster.Port{Name: "http", Protocol: flow.TCP, Number: n} }
	endpoints := []*cluster.Endpoint{pod("one", "10.0.0.1", "app=x", http(80)), pod("two", "10.0.0.2", "app=x", http(8080)), pod("three", "10.0.0.3", "app=y", http(80))}
	ingress := with(networkPolicy("in", "app=x", flow.Ingress), flow.Ingress, rule(policy.Accept, anyone, named("http")))
	egress := with(networkPolicy("out", "app=y", flow.Egress), flow.Egress, rule(policy.Accept, pods("app=x"), named("http")))
	toAnyone := with(networkPolicy("any", "app=y", flow.Egress), flow.Egress, rule(policy.Accept, anyone, named("http")))
	if got := decide(t, state(t, endpoints, toAnyone), "10.0.0.3 10.0.0.2 8080"); got != "allow by a/any egress[0]" {
		t.Errorf("to anyone's http: %s", got)
	}
	s := state(t, endpoints, ingress, egress)
	for connection, want := range map[string]string{
		"10.0.0.3 10.0.0.1 80":   "allow by a/in ingress[0]",
		"10.0.0.3 10.0.0.2 80":   "deny by a/out egress",
		"10.0.0.3 10.0.0.2 8080": "allow by a/in ingress[0]",
		"192.0.2.1 10.0.0.2 80":  "deny by a/in ingress",
		"192.0.2.1 10.0.0.1 80":  "allow by a/in ingress[0]",
	} {
		if got := decide(t, s, connection); got != want {
			t.Errorf("%s: %s, want %s", connection, got, want)
		}
	}
}

// A selector that says which namespaces it does not mean is not read as one that names some.
func TestNamespaceSelectors(t *testing.T) {
	endpoints := []*cluster.Endpoint{pod("a/one", "10.0.0.1", ""), pod("b/two", "10.0.0.2", ""), pod("c/three", "10.0.0.3", "")}
	for selector, want := range map[string]string{
		cluster.NameLabel + "!=b":         "allow by admin ingress[0]",
		cluster.NameLabel + "=b":          "deny by admin ingress[1]",
		cluster.NameLabel + " in (b,c,d)": "allow by admin ingress[0]",
		cluster.NameLabel:                 "allow by admin ingress[0]",
		"!" + cluster.NameLabel:           "deny by admin ingress[1]",
	} {
		peer := policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: label.MustParse(selector), Pods: label.Everything()}}
		s := state(t, endpoints, with(clusterPolicy(policy.Admin, "admin", ""), flow.Ingress, rule(policy.Accept, peer), rule(policy.Deny, anyone)))
		if got := decide(t, s, "10.0.0.3 10.0.0.1 80"); got != want {
			t.Errorf("%s: %s, want %s", selector, got, want)
		}
	}
}

// The text of a small ruleset, for people to see what becomes of a policy: labels that no policy mentions make no
// identity, the commonest row is the default, and a pod's address is left out where its block says the same.
func TestSmallRulesetAsText(t *testing.T) {
	endpoints := []*cluster.Endpoint{pod("ldap", "10.0.0.1", "role=server,hash=1"), pod("client", "10.0.0.2", "role=client,hash=2"),
		pod("client2", "10.0.0.3", "role=client,hash=3"), pod("other", "192.0.2.9", "role=other")}
	ldap := with(networkPolicy("ldap", "role=server", flow.Ingress), flow.Ingress,
		rule(policy.Accept, pods("role=client"), tcp(389, 389), tcp(636, 636)), rule(policy.Accept, block("198.51.100.0/24", "198.51.100.7/32")))
	c := compile.New(compile.Options{})
	c.Update(state(t, endpoints, ldap), map[cluster.Key]ruleset.Attachment{{Namespace: "a", Name: "ldap"}: {Interface: "veth1"}})
	const want = `ruleset 1
local 10.0.0.1 on veth1
local 10.0.0.2
local 10.0.0.3
local 192.0.2.9
address 10.0.0.0/24 3
address 10.0.0.1/32 2
address 10.0.0.2/32 1
address 10.0.0.3/32 1
address 198.51.100.0/24 4
address 198.51.100.7/32 0
subject ingress 2
  default row 1
  from 1 row 2
  from 4 row 3
row 1
  else deny 1            # a/ldap ingress
row 2
  tcp 389 allow 2        # a/ldap ingress[0]
  tcp 636 allow 2        # a/ldap ingress[0]
  else deny 1            # a/ldap ingress
row 3
  else allow 3           # a/ldap ingress[1]
rule 1 kind NetworkPolicy namespace a name ldap direction ingress index -1
rule 2 kind NetworkPolicy namespace a name ldap direction ingress index 0
rule 3 kind NetworkPolicy namespace a name ldap direction ingress index 1
`
	if got := c.Ruleset().String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What a change costs the dataplane, op by op.
func TestDeltasAreSmall(t *testing.T) {
	endpoints := []*cluster.Endpoint{pod("ldap", "10.0.0.1", "role=server"), pod("client", "10.0.0.2", "role=client")}
	ldap := with(networkPolicy("ldap", "role=server", flow.Ingress), flow.Ingress, rule(policy.Accept, pods("role=client"), tcp(389, 389)))
	web := with(networkPolicy("web", "role=client", flow.Ingress), flow.Ingress, rule(policy.Accept, anyone, tcp(80, 80)))
	wider := with(ldap, flow.Ingress, rule(policy.Accept, pods("role=client"), tcp(389, 389), tcp(636, 636)))
	c := compile.New(compile.Options{})
	for _, step := range []struct {
		name     string
		state    *cluster.State
		want     string
		tightens bool
	}{
		{"start", state(t, endpoints, ldap), "*", true},
		{"a client more", state(t, append(endpoints, pod("client2", "10.0.0.3", "role=client,hash=7")), ldap),
			"set local 10.0.0.3; set address 10.0.0.3/32 identity 1", false},
		{"a client less", state(t, endpoints, ldap), "delete address 10.0.0.3/32; delete local 10.0.0.3", true},
		{"a server more", state(t, append(endpoints, pod("ldap2", "10.0.0.4", "role=server")), ldap),
			"set local 10.0.0.4; set address 10.0.0.4/32 identity 2", true},
		{"a server less", state(t, endpoints, ldap), "delete address 10.0.0.4/32; delete local 10.0.0.4", false},
		{"a port more", state(t, endpoints, wider),
			"add row 3: tcp 389 allow 2, tcp 636 allow 2, else deny 1; set pair ingress 2 from 1 row 3; delete row 2", false},
		{"a port less", state(t, endpoints, ldap), // an old number would be wrong where it was logged
			"add row 4: tcp 389 allow 2, else deny 1; set pair ingress 2 from 1 row 4; delete row 3", true},
		{"a policy more", state(t, endpoints, ldap, web), "add rule 3: a/web ingress; add rule 4: a/web ingress[0]; " +
			"add row 5: tcp 80 allow 4, else deny 3; " +
			"set default ingress 1 row 5", true},
		{"the policies go", state(t, endpoints), "*", false},
	} {
		d := c.Update(step.state, nil)
		var ops []string
		for _, op := range d.Ops {
			ops = append(ops, op.String())
		}
		if got := strings.Join(ops, "; "); step.want != "*" && got != step.want {
			t.Errorf("%s: %s\nwant %s", step.name, got, step.want)
		}
		if d.Tightens != step.tightens {
			t.Errorf("%s: Tightens is %v", step.name, d.Tightens)
		}
	}
	if r := c.Ruleset(); len(r.Addresses)+len(r.Defaults)+len(r.Rows)+len(r.Rules) != 0 || len(r.Locals) != 2 {
		t.Errorf("without policies there is left\n%s", r)
	}
}

// A node's ruleset knows nothing of what its own pods' policies do not ask for.
func TestNodeIgnoresOthersPolicies(t *testing.T) {
	far := pod("far", "10.0.0.2", "app=far")
	far.Node = "n2"
	endpoints := []*cluster.Endpoint{pod("near", "10.0.0.1", "app=near"), far}
	theirs := with(networkPolicy("theirs", "app=far", flow.Ingress), flow.Ingress, rule(policy.Accept, pods("app=near")))
	r := compiled(t, state(t, endpoints, theirs), "n1")
	if len(r.Locals) != 1 || len(r.Addresses) != 0 || len(r.Defaults) != 0 {
		t.Errorf("the node has\n%s", r)
	}
}
