package flow_test

import (
	"net/netip"
	"testing"

	"github.com/ringfence-project/ringfence/internal/flow"
)

func TestZeroVerdictDenies(t *testing.T) {
	var v flow.Verdict
	if v != flow.Deny || v.String() != "deny" {
		t.Errorf("the zero verdict is %v", v)
	}
}

func TestProtocolText(t *testing.T) {
	for _, p := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP, flow.ICMP, flow.ICMPv6, 47} {
		if got, err := flow.ParseProtocol(p.String()); err != nil || got != p {
			t.Errorf("%v reads back as %v, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "0", "256", "tcpp"} {
		if _, err := flow.ParseProtocol(s); err == nil {
			t.Errorf("ParseProtocol(%q) took it", s)
		}
	}
}

func TestOutcomeText(t *testing.T) {
	for o, failed := range map[flow.Outcome]bool{0: false, flow.Well: false, flow.Unanswered: true, flow.Refused: true, flow.Reset: false} {
		if got := flow.ParseOutcome(o.String()); got != o || o.Failed() != failed {
			t.Errorf("%v reads back as %v; failed: %v", o, got, o.Failed())
		}
	}
	if o := flow.ParseOutcome("evaporated"); o != 0 || flow.Outcome(99).String() != "unknown" {
		t.Errorf("an outcome that nobody knows is %v", o)
	}
}

func TestTexts(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::2")
	rule := flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "db", Direction: flow.Ingress, Index: 2, File: "db.yaml", Line: 7}
	isolation := rule
	isolation.Index = flow.Isolation
	for _, c := range []struct{ got, want string }{
		{flow.Tuple{Source: a, Destination: a, Protocol: flow.TCP, Port: 80}.String(), "10.0.0.1 -> 10.0.0.1:80/tcp"},
		{flow.Tuple{Source: b, Destination: b, Protocol: flow.UDP, Port: 53, Local: true, Translated: true}.String(),
			"fd00::2 -> [fd00::2]:53/udp (local) (translated)"},
		{flow.Tuple{Source: a, Destination: a, Protocol: flow.ICMP}.String(), "10.0.0.1 -> 10.0.0.1 icmp"},
		{rule.String(), "shop/db ingress[2]"},
		{isolation.String(), "shop/db ingress"},
		{rule.Place(), "db.yaml:7"},
		{flow.Rule{Name: "wall", Direction: flow.Egress, Label: "no way"}.String(), `wall egress[0] "no way"`},
		{flow.Rule{}.String(), "no policy"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
