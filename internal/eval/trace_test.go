package eval

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A trace as lines, for comparing: what was looked at, and the reason.
func lines(d Decision) []string {
	var all []string
	for _, s := range []*Side{d.Egress, d.Ingress} {
		if s == nil {
			continue
		}
		all = append(all, s.Direction.String()+" of "+s.Subject.Key.String()+": "+s.Verdict.String())
		for _, t := range s.Tiers {
			all = append(all, t.Tier.String()+": "+t.Outcome.String())
			for _, p := range t.Policies {
				all = append(all, "policy "+p.Policy.Name+": "+p.Reason)
				for _, r := range p.Rules {
					all = append(all, "rule "+r.Action.String()+": "+r.Match.String())
					for _, e := range r.Peers {
						all = append(all, "peer "+e.Match.String()+": "+e.Reason)
					}
					for _, e := range r.Ports {
						all = append(all, "port "+e.Match.String()+": "+e.Reason)
					}
				}
			}
		}
	}
	return append(all, d.EgressUnjudged, d.IngressUnjudged)
}

func TestTraceSaysWhy(t *testing.T) {
	http := policy.Port{Name: "http", Protocol: flow.TCP}
	s := state(t,
		cnp(policy.Admin, "a", 1, pods("env=dev", ""), deny(anyone)),
		cnp(policy.Admin, "b", 2, pods("", "app in (db,web)"), pass(podPeer("env!=dev", "app=db,tier")), accept(block("10.0.0.0/16", "10.0.1.0/24"))),
		cnpEgress(policy.Admin, "c", 3, everyPod(), deny(anyone)),
		np("p", "app", accept(podPeer("", ""), tcp(80, 90), http)),
		np("q", ""),
	)
	got := lines(Evaluate(s, cluster.Connection{From: party(t, s, "shop/db"), To: party(t, s, "shop/web"), Protocol: flow.TCP, Port: 8080}))
	want := []string{
		"egress of shop/db: deny",
		"Admin: denied",
		"policy a: label env=dev unmet: namespace shop has env=prod",
		"policy b: it has no egress rules",
		"policy c: the labels of pod shop/db match",
		"rule Deny: yes",
		"peer yes: it is everyone",
		"NetworkPolicy: not asked",
		"Baseline: not asked",
		"ingress of shop/web: allow",
		"Admin: accepted",
		"policy a: label env=dev unmet: namespace shop has env=prod",
		"policy b: the labels of pod shop/web match",
		"rule Pass: no",
		"peer no: label tier unmet: pod shop/db has no label tier",
		"rule Accept: yes",
		"peer yes: address 10.0.0.2 is in 10.0.0.0/16",
		"NetworkPolicy: not asked",
		"Baseline: not asked",
		"", "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = lines(Evaluate(s, cluster.Connection{From: party(t, s, "10.0.1.9"), To: party(t, s, "shop/web"), Protocol: flow.TCP, Port: 8080}))
	want = []string{
		"ingress of shop/web: deny",
		"Admin: passed",
		"policy a: label env=dev unmet: namespace shop has env=prod",
		"policy b: the labels of pod shop/web match",
		"rule Pass: maybe",
		"peer maybe: 10.0.1.9 is a pod that is not known yet: it may have these labels or not",
		"rule Accept: no",
		"peer no: address 10.0.1.9 is in the exception 10.0.1.0/24",
		"policy c: it has no ingress rules",
		"NetworkPolicy: denied",
		"policy p: the labels of pod shop/web match",
		"rule Accept: maybe",
		"peer maybe: 10.0.1.9 is a pod that is not known yet: it may have these labels or not",
		"port no: port 8080 is not 80-90/tcp",
		"port yes: shop/web calls port 8080/tcp \"http\"",
		"policy q: the labels of pod shop/web match",
		"Baseline: not asked",
		"the source is a pod that is not known yet: its own node decides", "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnjudgedSidesSayWhy(t *testing.T) {
	s := state(t)
	for _, test := range []struct{ from, to, egress, ingress string }{
		{"node/n1", "shop/db", "the source is a node (or a pod on its network), and policies select pods only", "a node always reaches its own pods"},
		{"203.0.113.9", "10.0.9.9", "the source is outside the cluster, and policies select pods only",
			"the destination is a pod that is not known yet: its own node decides"},
		{"shop/db", "shop/db", "a pod always reaches itself by its own address", "a pod always reaches itself by its own address"},
		{"shop/db", "node/n1", "", "the destination is a node (or a pod on its network), and policies select pods only"},
		{"shop/db", "shop/web", "", ""},
	} {
		d := Evaluate(s, cluster.Connection{From: party(t, s, test.from), To: party(t, s, test.to), Protocol: flow.ICMP})
		if d.EgressUnjudged != test.egress || d.IngressUnjudged != test.ingress {
			t.Errorf("%s -> %s: got %q and %q", test.from, test.to, d.EgressUnjudged, d.IngressUnjudged)
		}
	}
}
