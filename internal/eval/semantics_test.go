package eval

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A test is one connection in the cluster of testObjects under some policies.
type judgement struct {
	name     string
	policies []policy.Policy
	from, to string // "namespace/pod" (its IPv4 address), "node/name", or an address
	port     uint16
	proto    flow.Protocol // zero: TCP
	service  bool          // through a Service
	want     string        // "allow" or "deny", ": ", and the rule as flow.Rule prints it
}

func check(t *testing.T, tests []judgement) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := state(t, test.policies...)
			if test.proto == 0 {
				test.proto = flow.TCP
			}
			d := Evaluate(s, cluster.Connection{From: party(t, s, test.from), To: party(t, s, test.to),
				Protocol: test.proto, Port: test.port, Translated: test.service}).Flow()
			if got := d.Verdict.String() + ": " + d.Rule.String(); got != test.want {
				t.Errorf("%s -> %s:%d/%s: got %q, want %q", test.from, test.to, test.port, test.proto, got, test.want)
			}
			if d.Verdict == flow.Deny && d.Direction != d.Rule.Direction || d.Verdict == flow.Allow && d.Direction != 0 {
				t.Errorf("direction is %s for %s by %s", d.Direction, d.Verdict, d.Rule)
			}
		})
	}
}

func party(t *testing.T, s *cluster.State, text string) cluster.Party {
	t.Helper()
	namespace, name, ok := strings.Cut(text, "/")
	if !ok {
		return s.At(netip.MustParseAddr(text))
	}
	if namespace == "node" {
		for _, n := range s.Nodes() {
			if n.Name == name {
				return s.At(n.Addresses[0])
			}
		}
	}
	e := s.Endpoint(cluster.Key{Namespace: namespace, Name: name})
	if e == nil {
		t.Fatalf("no %s in the test cluster", text)
	}
	if len(e.Addresses) == 0 {
		return s.PartyOf(e, netip.Addr{})
	}
	return s.PartyOf(e, e.Addresses[0])
}

// np is a NetworkPolicy of namespace shop for the pods that the selector matches; it isolates for ingress.
func np(name, subject string, ingress ...policy.Rule) policy.Policy {
	return policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: name, IsolatesIngress: true, Ingress: ingress,
		Subject: pods(cluster.NameLabel+"=shop", subject)}
}

func npEgress(name, subject string, egress ...policy.Rule) policy.Policy {
	p := np(name, subject)
	p.IsolatesIngress, p.IsolatesEgress, p.Egress = false, true, egress
	return p
}

func cnp(tier policy.Tier, name string, priority int32, subject policy.Pods, ingress ...policy.Rule) policy.Policy {
	return policy.Policy{Tier: tier, Name: name, Priority: priority, Subject: subject, Ingress: ingress}
}

func cnpEgress(tier policy.Tier, name string, priority int32, subject policy.Pods, egress ...policy.Rule) policy.Policy {
	return policy.Policy{Tier: tier, Name: name, Priority: priority, Subject: subject, Egress: egress}
}

func many(p ...policy.Policy) []policy.Policy { return p }

func accept(peer policy.Peer, ports ...policy.Port) policy.Rule {
	return rule(policy.Accept, peer, ports...)
}

func deny(peer policy.Peer, ports ...policy.Port) policy.Rule {
	return rule(policy.Deny, peer, ports...)
}

func pass(peer policy.Peer, ports ...policy.Port) policy.Rule {
	return rule(policy.Pass, peer, ports...)
}

func TestNetworkPolicy(t *testing.T) {
	web := podPeer(cluster.NameLabel+"=shop", "app=web")
	both := np("both", "app=db")
	both.IsolatesEgress = true
	idle := np("idle", "app=db", accept(web))
	idle.IsolatesIngress, idle.IsolatesEgress = false, true
	check(t, []judgement{
		{name: "isolates what it selects", policies: many(np("p", "app=db")), from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/p ingress"},
		{name: "leaves others alone", policies: many(np("p", "app=db")), from: "shop/db", to: "shop/web", port: 1, want: "allow: no policy"},
		{name: "isolates for ingress only", policies: many(np("p", "app=db")), from: "shop/db", to: "lab/test", port: 1, want: "allow: no policy"},
		{name: "isolates for egress only", policies: many(npEgress("p", "app=db")), from: "shop/web", to: "shop/db", port: 1, want: "allow: no policy"},
		{name: "isolates for both", policies: many(both), from: "shop/db", to: "shop/web", port: 1, want: "deny: shop/both egress"},
		{name: "empty pod selector is the whole namespace", policies: many(np("p", "")), from: "lab/test", to: "shop/web", port: 1, want: "deny: shop/p ingress"},
		{name: "and only that namespace", policies: many(np("p", "")), from: "shop/web", to: "lab/test", port: 1, want: "allow: no policy"},
		{name: "accepts by labels", policies: many(np("p", "app=db", accept(web))), from: "shop/web", to: "shop/db", port: 1, want: "allow: shop/p ingress[0]"},
		{name: "not by those of another namespace", policies: many(np("p", "app=db", accept(podPeer(cluster.NameLabel+"=shop", "")))),
			from: "lab/test", to: "shop/db", port: 1, want: "deny: shop/p ingress"},
		{name: "accepts by namespace labels", policies: many(np("p", "app=db", accept(podPeer("env=dev", "")))), from: "lab/test", to: "shop/db", port: 1,
			want: "allow: shop/p ingress[0]"},
		{name: "accepts anyone, also from outside", policies: many(np("p", "app=db", accept(anyone))), from: "203.0.113.9", to: "shop/db", port: 1,
			want: "allow: shop/p ingress[0]"},
		{name: "policies add up; the first that accepts is named", policies: many(np("a", ""), np("b", "app=db", accept(web)), np("c", "", accept(anyone))),
			from: "shop/web", to: "shop/db", port: 1, want: "allow: shop/b ingress[0]"},
		{name: "the first that isolates is named", policies: many(np("b", "app=db"), np("a", "", accept(web, tcp(80, 80)))),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/a ingress"},
		{name: "rules of a direction that is not isolated have no effect", policies: many(idle, np("z", "app=db")),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/z ingress"},
		{name: "both ends must agree: egress is told first", policies: many(npEgress("out", "app=web"), np("in", "app=db")),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/out egress"},
		{name: "both ends must agree: ingress denies too", policies: many(npEgress("out", "app=web", accept(anyone)), np("in", "app=db")),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/in ingress"},
		{name: "allowed by both: ingress is told", policies: many(npEgress("out", "app=web", accept(anyone)), np("in", "app=db", accept(web))),
			from: "shop/web", to: "shop/db", port: 1, want: "allow: shop/in ingress[0]"},
		{name: "allowed by egress, ingress has no policy", policies: many(npEgress("out", "app=web", accept(anyone))),
			from: "shop/web", to: "shop/db", port: 1, want: "allow: shop/out egress[0]"},
		{name: "allowed by egress, ingress is not judged", policies: many(npEgress("out", "app=web", accept(anyone))),
			from: "shop/web", to: "203.0.113.9", port: 1, want: "allow: shop/out egress[0]"},
		{name: "a rule without peers matches nobody", policies: many(np("p", "app=db", policy.Rule{Action: policy.Accept})),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/p ingress"},
		{name: "peers of no known kind match nobody", policies: many(np("p", "app=db", accept(policy.Peer{}))),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/p ingress"},
		{name: "selectors that select nothing match nobody", policies: many(np("p", "app=db", accept(policy.Peer{Kind: policy.PeerPods}))),
			from: "shop/web", to: "shop/db", port: 1, want: "deny: shop/p ingress"},
	})
}

func TestBlocks(t *testing.T) {
	to := func(p policy.Peer) []policy.Policy { return many(npEgress("p", "app=web", accept(p))) }
	check(t, []judgement{
		{name: "matches pods by address", policies: to(block("10.0.0.0/24")), from: "shop/web", to: "shop/db", port: 1, want: "allow: shop/p egress[0]"},
		{name: "first address", policies: to(block("203.0.113.8/30")), from: "shop/web", to: "203.0.113.8", port: 1, want: "allow: shop/p egress[0]"},
		{name: "last address", policies: to(block("203.0.113.8/30")), from: "shop/web", to: "203.0.113.11", port: 1, want: "allow: shop/p egress[0]"},
		{name: "just before", policies: to(block("203.0.113.8/30")), from: "shop/web", to: "203.0.113.7", port: 1, want: "deny: shop/p egress"},
		{name: "just after", policies: to(block("203.0.113.8/30")), from: "shop/web", to: "203.0.113.12", port: 1, want: "deny: shop/p egress"},
		{name: "exception", policies: to(block("203.0.113.0/24", "203.0.113.8/30")), from: "shop/web", to: "203.0.113.9", port: 1, want: "deny: shop/p egress"},
		{name: "beside the exception", policies: to(block("203.0.113.0/24", "203.0.113.8/30")), from: "shop/web", to: "203.0.113.12", port: 1,
			want: "allow: shop/p egress[0]"},
		{name: "all of IPv4 is none of IPv6", policies: to(block("0.0.0.0/0")), from: "shop/web", to: "2001:db8::1", port: 1, want: "deny: shop/p egress"},
		{name: "IPv6", policies: to(block("2001:db8::/32", "2001:db8:1::/48")), from: "fd00::1", to: "2001:db8::1", port: 1, want: "allow: shop/p egress[0]"},
		{name: "IPv6 exception", policies: to(block("2001:db8::/32", "2001:db8:1::/48")), from: "fd00::1", to: "2001:db8:1::1", port: 1,
			want: "deny: shop/p egress"},
		{name: "nodes by address", policies: to(block("192.0.2.2/32")), from: "shop/web", to: "node/n2", port: 1, want: "allow: shop/p egress[0]"},
		{name: "an unknown pod by address", policies: to(block("10.0.0.0/8")), from: "shop/web", to: "10.0.9.9", port: 1, want: "allow: shop/p egress[0]"},
	})
	t.Run("no address is in no block", func(t *testing.T) {
		s := state(t, npEgress("p", "app=web", accept(block("0.0.0.0/0")), accept(block("::/0"))))
		to := s.PartyOf(s.Endpoint(cluster.Key{Namespace: "shop", Name: "db"}), netip.Addr{})
		if d := Evaluate(s, cluster.Connection{From: party(t, s, "shop/web"), To: to, Protocol: flow.TCP}); d.Verdict != flow.Deny {
			t.Error("a pod without an address is in a block")
		}
	})
}

func TestPorts(t *testing.T) {
	on := func(p ...policy.Port) []policy.Policy { return many(np("p", "", accept(anyone, p...))) }
	named := func(proto flow.Protocol) policy.Port { return policy.Port{Name: "http", Protocol: proto} }
	const yes, no = "allow: shop/p ingress[0]", "deny: shop/p ingress"
	check(t, []judgement{
		{name: "one port", policies: on(tcp(80, 80)), from: "shop/web", to: "shop/db", port: 80, want: yes},
		{name: "another port", policies: on(tcp(80, 80)), from: "shop/web", to: "shop/db", port: 81, want: no},
		{name: "another protocol", policies: on(tcp(80, 80)), from: "shop/web", to: "shop/db", port: 80, proto: flow.UDP, want: no},
		{name: "first of a range", policies: on(tcp(80, 90)), from: "shop/web", to: "shop/db", port: 80, want: yes},
		{name: "last of a range", policies: on(tcp(80, 90)), from: "shop/web", to: "shop/db", port: 90, want: yes},
		{name: "before a range", policies: on(tcp(80, 90)), from: "shop/web", to: "shop/db", port: 79, want: no},
		{name: "after a range", policies: on(tcp(80, 90)), from: "shop/web", to: "shop/db", port: 91, want: no},
		{name: "one of two", policies: on(tcp(1, 1), tcp(80, 80)), from: "shop/web", to: "shop/db", port: 80, want: yes},
		{name: "every port of a protocol", policies: on(tcp(0, 65535)), from: "shop/web", to: "shop/db", port: 65535, want: yes},
		{name: "and of that protocol only", policies: on(tcp(0, 65535)), from: "shop/web", to: "shop/db", port: 1, proto: flow.SCTP, want: no},
		{name: "sctp", policies: on(policy.Port{Protocol: flow.SCTP, First: 9, Last: 9}), from: "shop/web", to: "shop/db", port: 9, proto: flow.SCTP, want: yes},
		{name: "no ports are everything", policies: on(), from: "shop/web", to: "shop/db", proto: flow.ICMP, want: yes},
		{name: "ports are no ICMP", policies: on(tcp(0, 65535)), from: "shop/web", to: "shop/db", proto: flow.ICMP, want: no},
		{name: "a name is the destination's port", policies: on(named(flow.TCP)), from: "shop/web", to: "shop/db", port: 80, want: yes},
		{name: "and differs from pod to pod", policies: on(named(flow.TCP)), from: "shop/db", to: "shop/web", port: 8080, want: yes},
		{name: "so that the other's is wrong", policies: on(named(flow.TCP)), from: "shop/db", to: "shop/web", port: 80, want: no},
		{name: "a name of another protocol", policies: on(named(flow.TCP)), from: "shop/web", to: "shop/db", port: 81, proto: flow.UDP, want: no},
		{name: "a name of the declared protocol", policies: on(named(0)), from: "shop/web", to: "shop/db", port: 81, proto: flow.UDP, want: yes},
		{name: "a name is no ICMP", policies: on(named(0)), from: "shop/web", to: "shop/db", proto: flow.ICMP, want: no},
		{name: "egress resolves on the destination, not on the subject",
			policies: many(npEgress("p", "app=web", accept(anyone, named(flow.TCP)))), from: "shop/web", to: "shop/db", port: 8080, want: "deny: shop/p egress"},
		{name: "egress to the destination's port",
			policies: many(npEgress("p", "app=web", accept(anyone, named(flow.TCP)))), from: "shop/web", to: "shop/db", port: 80, want: "allow: shop/p egress[0]"},
		{name: "egress to a pod that does not declare it",
			policies: many(npEgress("p", "app=web", accept(anyone, named(flow.TCP)))), from: "shop/web", to: "lab/test", port: 80, want: "deny: shop/p egress"},
		{name: "the world outside has no names",
			policies: many(npEgress("p", "app=web", accept(anyone, named(flow.TCP)))), from: "shop/web", to: "203.0.113.9", port: 80, want: "deny: shop/p egress"},
	})
}

func TestTiers(t *testing.T) {
	db := pods("", "app=db")
	acceptAll, denyAll, passAll := accept(anyone), deny(anyone), pass(anyone)
	case_ := func(name, want string, p ...policy.Policy) judgement {
		return judgement{name: name, policies: p, from: "shop/web", to: "shop/db", port: 80, want: want}
	}
	check(t, []judgement{
		case_("Admin before NetworkPolicy", "allow: a ingress[0]", cnp(policy.Admin, "a", 5, db, acceptAll), np("p", "")),
		case_("Admin denies what NetworkPolicy accepts", "deny: a ingress[0]", cnp(policy.Admin, "a", 5, db, denyAll), np("p", "", acceptAll)),
		case_("lower priority first", "deny: z ingress[0]", cnp(policy.Admin, "a", 5, db, acceptAll), cnp(policy.Admin, "z", 4, db, denyAll)),
		case_("equal priorities by name", "allow: a ingress[0]", cnp(policy.Admin, "z", 5, db, denyAll), cnp(policy.Admin, "a", 5, db, acceptAll)),
		case_("rules in order", "deny: a ingress[1]", cnp(policy.Admin, "a", 5, db, accept(anyone, tcp(81, 81)), denyAll, acceptAll)),
		case_("Pass skips the rest of the tier", "deny: shop/p ingress",
			cnp(policy.Admin, "a", 5, db, passAll, acceptAll), cnp(policy.Admin, "b", 6, db, acceptAll), np("p", "")),
		case_("Pass with nothing after it", "allow: no policy", cnp(policy.Admin, "a", 5, db, passAll)),
		case_("Pass to Baseline", "deny: b ingress[0]", cnp(policy.Admin, "a", 5, db, passAll), cnp(policy.Baseline, "b", 5, db, denyAll)),
		case_("no rule that matches is no isolation", "allow: no policy", cnp(policy.Admin, "a", 5, db, accept(anyone, tcp(81, 81)))),
		case_("no rule in a direction is no effect", "allow: no policy", cnp(policy.Admin, "a", 5, db)),
		case_("NetworkPolicy's denial is final", "deny: shop/p ingress", np("p", ""), cnp(policy.Baseline, "b", 5, db, acceptAll)),
		case_("NetworkPolicy's acceptance is final", "allow: shop/p ingress[0]", np("p", "", acceptAll), cnp(policy.Baseline, "b", 5, db, denyAll)),
		case_("but not for pods that it does not isolate", "deny: b ingress[0]", np("p", "app=web", acceptAll), cnp(policy.Baseline, "b", 5, db, denyAll)),
		case_("nor for a direction", "deny: b ingress[0]", npEgress("p", ""), cnp(policy.Baseline, "b", 5, db, denyAll),
			cnpEgress(policy.Admin, "a", 1, everyPod(), acceptAll)),
		case_("Baseline accepts", "allow: b ingress[0]", cnp(policy.Baseline, "b", 5, db, acceptAll, denyAll)),
		case_("subject by namespace labels", "deny: a ingress[0]", cnp(policy.Admin, "a", 5, pods("env=prod", ""), denyAll)),
		case_("other namespaces", "allow: no policy", cnp(policy.Admin, "a", 5, pods("env=dev", ""), denyAll)),
		case_("the zero subject selects none", "allow: no policy", cnp(policy.Admin, "a", 5, policy.Pods{}, denyAll)),
		case_("a Deny by labels", "deny: a ingress[0]", cnp(policy.Admin, "a", 5, db, deny(podPeer("env=prod", "app=web")))),
		case_("a Deny of others", "allow: no policy", cnp(policy.Admin, "a", 5, db, deny(podPeer("env=prod", "app=test")))),
		case_("egress at the source", "deny: a egress[0]", cnpEgress(policy.Admin, "a", 5, pods("", "app=web"), denyAll)),
		case_("egress Accept does not open ingress", "deny: shop/p ingress", cnpEgress(policy.Admin, "a", 5, pods("", "app=web"), acceptAll), np("p", "")),
	})
}

func TestNodes(t *testing.T) {
	nodes := func(sel string) policy.Peer { return policy.Peer{Kind: policy.PeerNodes, Nodes: label.MustParse(sel)} }
	denyAll := cnp(policy.Admin, "a", 1, everyPod(), deny(anyone))
	check(t, []judgement{
		{name: "a node reaches its own pods", policies: many(denyAll, np("p", "")), from: "node/n1", to: "shop/db", port: 1, want: "allow: no policy"},
		{name: "but not those of others", policies: many(denyAll), from: "node/n2", to: "shop/db", port: 1, want: "deny: a ingress[0]"},
		{name: "a host-network pod is its node", policies: many(denyAll), from: "shop/agent", to: "lab/test", port: 1, want: "allow: no policy"},
		{name: "and other nodes' pods may refuse it", policies: many(np("p", "app=db", accept(podPeer("", "app=web")))), from: "shop/agent", to: "shop/db", port: 1,
			want: "deny: shop/p ingress"},
		{name: "a host-network pod is never a subject", policies: many(denyAll, np("p", "")), from: "lab/test", to: "shop/agent", port: 1, want: "allow: no policy"},
		{name: "nor a pod peer", policies: many(npEgress("p", "app=web", accept(podPeer("", "")))), from: "shop/web", to: "shop/agent", port: 1,
			want: "deny: shop/p egress"},
		{name: "a pod to its own node is subject to egress", policies: many(npEgress("p", "")), from: "shop/web", to: "node/n1", port: 1,
			want: "deny: shop/p egress"},
		{name: "nodes by label", policies: many(cnpEgress(policy.Admin, "a", 1, everyPod(), deny(nodes("zone=b")))), from: "shop/web", to: "node/n2", port: 1,
			want: "deny: a egress[0]"},
		{name: "other nodes", policies: many(cnpEgress(policy.Admin, "a", 1, everyPod(), deny(nodes("zone=b")))), from: "shop/web", to: "node/n1", port: 1,
			want: "allow: no policy"},
		{name: "a host-network pod by its node's labels", policies: many(cnpEgress(policy.Admin, "a", 1, everyPod(), deny(nodes("zone=b")))),
			from: "shop/web", to: "shop/agent", port: 1, want: "deny: a egress[0]"},
		{name: "nodes are no pods", policies: many(cnpEgress(policy.Admin, "a", 1, everyPod(), deny(nodes("")))), from: "shop/web", to: "shop/db", port: 1,
			want: "allow: no policy"},
		{name: "anyone is nodes too", policies: many(cnpEgress(policy.Admin, "a", 1, everyPod(), deny(anyone))), from: "shop/web", to: "node/n2", port: 1,
			want: "deny: a egress[0]"},
		{name: "from outside to a node is not ours", policies: many(denyAll), from: "203.0.113.9", to: "node/n1", port: 1, want: "allow: no policy"},
	})
}

func TestItself(t *testing.T) {
	denyAll := many(np("p", ""), npEgress("q", ""), cnp(policy.Admin, "a", 1, everyPod(), deny(anyone)))
	check(t, []judgement{
		{name: "by its own address", policies: denyAll, from: "shop/web", to: "shop/web", port: 1, want: "allow: no policy"},
		{name: "by its other family's", policies: denyAll, from: "fd00::1", to: "fd00::1", port: 1, want: "allow: no policy"},
		{name: "through a Service it is judged", policies: denyAll, from: "shop/web", to: "shop/web", port: 1, service: true, want: "deny: shop/q egress"},
		{name: "through a Service, ingress", policies: denyAll[2:], from: "shop/web", to: "shop/web", port: 1, service: true, want: "deny: a ingress[0]"},
	})
}

func TestFamiliesAlike(t *testing.T) {
	web := many(np("p", "app=db", accept(podPeer("", "app=web"), tcp(80, 80))))
	check(t, []judgement{
		{name: "4 allowed", policies: web, from: "10.0.0.1", to: "10.0.0.2", port: 80, want: "allow: shop/p ingress[0]"},
		{name: "6 allowed", policies: web, from: "fd00::1", to: "fd00::2", port: 80, want: "allow: shop/p ingress[0]"},
		{name: "4 denied", policies: web, from: "10.0.1.1", to: "10.0.0.2", port: 80, want: "deny: shop/p ingress"},
		{name: "6 denied", policies: web, from: "fd00::1:1", to: "fd00::2", port: 80, want: "deny: shop/p ingress"},
	})
}
