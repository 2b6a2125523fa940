package eval

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Oracle asks Evaluate once for all connections that no policy can tell apart: replicas make most of the connections of
// a large cluster, and Evaluate takes its time. It is used by one caller at a time.
type Oracle struct {
	state   *cluster.State
	blocks  []policy.Peer
	kinds   map[cluster.Party]string
	answers map[likeness]Decision
}

// likeness is all that Evaluate looks at.
type likeness struct {
	from, to   string // what policies see of the parties
	same       bool   // both are one pod
	protocol   flow.Protocol
	port       uint16
	translated bool
}

// NewOracle returns an oracle about s.
func NewOracle(s *cluster.State) *Oracle {
	return &Oracle{state: s, blocks: Blocks(s.Policies()), kinds: map[cluster.Party]string{}, answers: map[likeness]Decision{}}
}

// Decide is what Evaluate says about c, or about a connection that no policy can tell from c: verdict and rules are
// those of c, the names in reasons may be the other's.
func (o *Oracle) Decide(c cluster.Connection) Decision {
	q := likeness{from: o.kind(c.From), to: o.kind(c.To), same: c.From.Endpoint != nil && c.From.Endpoint == c.To.Endpoint,
		protocol: c.Protocol, port: c.Port, translated: c.Translated}
	d, known := o.answers[q]
	if !known {
		d = Evaluate(o.state, c)
		o.answers[q] = d
	}
	return d
}

// kind is the same text for parties that no policy can tell apart.
func (o *Oracle) kind(p cluster.Party) string {
	if k, known := o.kinds[p]; known {
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
	o.kinds[p] = b.String()
	return b.String()
}

// Blocks are all address blocks that rules of the policies name, once each, sorted.
func Blocks(policies []*policy.Policy) []policy.Peer {
	byText := map[string]policy.Peer{}
	for _, p := range policies {
		for _, d := range flow.Directions {
			for _, r := range p.Rules(d) {
				for _, peer := range r.Peers {
					if peer.Kind == policy.PeerBlock {
						byText[peer.String()] = peer
					}
				}
			}
		}
	}
	var texts []string
	for t := range byText {
		texts = append(texts, t)
	}
	slices.Sort(texts)
	var blocks []policy.Peer
	for _, t := range texts {
		blocks = append(blocks, byText[t])
	}
	return blocks
}
