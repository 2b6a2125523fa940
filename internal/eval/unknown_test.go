package eval

import (
	"testing"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Each test has an unknown pod as the peer of shop/db, which is 10.0.0.2.
func TestUnknownPods(t *testing.T) {
	db := pods("", "app=db")
	some := podPeer("", "app=web") // maybe
	const unknown = "10.0.9.9"
	from := func(name, want string, p ...policy.Policy) judgement {
		return judgement{name: name, policies: p, from: unknown, to: "shop/db", port: 80, want: want}
	}
	admin := func(rules ...policy.Rule) policy.Policy { return cnp(policy.Admin, "a", 1, db, rules...) }
	base := func(rules ...policy.Rule) policy.Policy { return cnp(policy.Baseline, "b", 1, db, rules...) }
	check(t, []judgement{
		from("no policy allows", "allow: no policy"),
		from("an Accept by label is not for it", "deny: a ingress[1]", admin(accept(some), deny(anyone))),
		from("even one that selects every pod", "deny: a ingress[1]", admin(accept(podPeer("", "")), deny(anyone))),
		from("an Accept of anyone is", "allow: a ingress[0]", admin(accept(anyone), deny(anyone))),
		from("an Accept by address is", "allow: a ingress[0]", admin(accept(block("10.0.0.0/8")), deny(anyone))),
		from("a Deny by label denies", "deny: a ingress[0]", admin(deny(some), accept(anyone))),
		from("a Deny by label on another port does not", "allow: a ingress[1]", admin(deny(some, tcp(81, 81)), accept(anyone))),
		from("a Deny after a definite Accept does not", "allow: a ingress[0]", admin(accept(anyone), deny(some))),
		from("a Deny after a possible Pass", "deny: a ingress[1]", admin(pass(some), deny(some), accept(anyone))),
		from("a Deny after a definite Pass is not reached", "allow: no policy", admin(pass(anyone), deny(anyone))),
		from("a Deny of nodes is not for it", "allow: no policy", admin(deny(policy.Peer{}), deny(block("192.0.2.0/24")))),
		from("NetworkPolicy by label", "deny: shop/p ingress", np("p", "app=db", accept(some))),
		from("NetworkPolicy by address", "allow: shop/p ingress[1]", np("p", "app=db", accept(some), accept(block("10.0.0.0/8")))),
		from("a possible Pass, then an Accept that stands", "allow: a ingress[1]", admin(pass(some), accept(anyone))),
		from("a possible Pass, an Accept, and a NetworkPolicy denies", "deny: shop/p ingress", admin(pass(some), accept(anyone)), np("p", "")),
		from("a possible Pass, an Accept, and a NetworkPolicy accepts", "allow: a ingress[1]", admin(pass(some), accept(anyone)), np("p", "", accept(anyone)),
			base(deny(anyone))),
		from("a possible Pass, an Accept, and Baseline denies", "deny: b ingress[0]", admin(pass(some), accept(anyone)), base(deny(some))),
		from("a possible Pass, an Accept, and Baseline accepts", "allow: a ingress[1]", admin(pass(some), accept(anyone)), base(accept(anyone))),
		from("the first of two Accepts that stand", "allow: a ingress[1]", admin(pass(some), accept(anyone)), base(pass(some), accept(anyone))),
		from("a possible Pass in one policy, an Accept in the next", "deny: shop/p ingress", admin(pass(some)), cnp(policy.Admin, "c", 2, db, accept(anyone)), np("p", "")),
		from("a possible Pass and no more: Baseline decides", "allow: b ingress[0]", admin(pass(some)), base(accept(anyone))),
		from("a possible Pass and no more: nothing decides", "allow: no policy", admin(pass(some))),
		from("a possible and then a definite Pass", "deny: b ingress[0]", admin(pass(some), pass(anyone), accept(anyone)), base(deny(anyone))),
		from("Baseline: an Accept by label is not for it", "deny: b ingress[1]", base(accept(some), deny(anyone))),
	})
}

func TestUnknownServers(t *testing.T) {
	db := pods("", "app=db")
	http := policy.Port{Name: "http", Protocol: flow.TCP}
	to := func(name, want string, proto flow.Protocol, rules ...policy.Rule) judgement {
		return judgement{name: name, policies: many(cnpEgress(policy.Admin, "a", 1, db, rules...)), from: "shop/db", to: "10.0.9.9", port: 80, proto: proto, want: want}
	}
	nodes := policy.Peer{Kind: policy.PeerNodes, Nodes: label.Everything()}
	check(t, []judgement{
		to("its own ingress is not judged here", "allow: a egress[0]", flow.TCP, accept(anyone)),
		to("it is no node", "allow: no policy", flow.TCP, deny(nodes)),
		to("a named port is not accepted", "deny: a egress[1]", flow.TCP, accept(anyone, http), deny(anyone)),
		to("a named port is denied", "deny: a egress[0]", flow.TCP, deny(anyone, http), accept(anyone)),
		to("a named port of another protocol is not", "allow: a egress[1]", flow.UDP, deny(anyone, http), accept(anyone)),
		to("a named port of any protocol is", "deny: a egress[0]", flow.UDP, deny(anyone, policy.Port{Name: "http"}), accept(anyone)),
		to("a named port is no ICMP", "allow: a egress[1]", flow.ICMP, deny(anyone, policy.Port{Name: "http"}), accept(anyone)),
		to("a named port may be passed", "allow: a egress[1]", flow.TCP, pass(anyone, http), accept(anyone)),
		{name: "a named port of a known server is known", policies: many(cnp(policy.Admin, "a", 1, db, accept(anyone, http), deny(anyone))),
			from: "10.0.9.9", to: "shop/db", port: 80, want: "allow: a ingress[0]"},
		{name: "in a NetworkPolicy it is not accepted", policies: many(npEgress("p", "", accept(anyone, http))),
			from: "shop/db", to: "10.0.9.9", port: 80, want: "deny: shop/p egress"},
		{name: "as a subject it is not judged", policies: many(cnp(policy.Admin, "a", 1, everyPod(), deny(anyone))),
			from: "shop/db", to: "10.0.9.9", port: 80, want: "allow: no policy"},
	})
}
