package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// oracle asks the reference evaluator, once for all connections that no policy can tell apart: replicas make most of
// a large lab's probes, and the reference takes its time.
type oracle struct {
	state   *cluster.State
	blocks  []policy.Peer
	kinds   map[netip.Addr]string
	answers map[question]flow.Decision
}

// question is all that the reference looks at.
type question struct {
	from, to string // what policies see of the parties
	same     bool   // both are one pod
	protocol flow.Protocol
	port     uint16
}

func newOracle(s *cluster.State) *oracle {
	o := s.Objects()
	return &oracle{state: s, blocks: policyBlocks(&o), kinds: map[netip.Addr]string{}, answers: map[question]flow.Decision{}}
}

// decide is what the reference says about t.
func (o *oracle) decide(t flow.Tuple) flow.Decision {
	c := o.state.Resolve(t)
	q := question{from: o.kind(c.From), to: o.kind(c.To), same: c.From.Endpoint != nil && c.From.Endpoint == c.To.Endpoint,
		protocol: t.Protocol, port: t.Port}
	d, known := o.answers[q]
	if !known {
		d = eval.Evaluate(o.state, c).Flow()
		o.answers[q] = d
	}
	return d
}

// kind is the same text for parties that no policy can tell apart.
func (o *oracle) kind(p cluster.Party) string {
	if k, known := o.kinds[p.Addr]; known {
		return k
	}
	var b strings.Builder
	switch e := p.Endpoint; {
	case e != nil:
		fmt.Fprintf(&b, "pod of %s on %s with %s and %v", e.Namespace, e.Node, e.Labels, e.Ports)
	case p.Node != nil:
		fmt.Fprintf(&b, "node %s", p.Node.Name)
	case p.Unknown:
		b.WriteString("unknown")
	}
	b.WriteString(" in blocks")
	for i, block := range o.blocks {
		if block.Contains(p.Addr) {
			fmt.Fprintf(&b, " %d", i)
		}
	}
	o.kinds[p.Addr] = b.String()
	return b.String()
}
