package live

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/words"
)

// Find returns the attempt that a connection is made by, or the obstacle that Planner.Add named.
func (plan *Plan) Find(s *cluster.State, c cluster.Connection) (attempt int, obstacle string) {
	if obstacle := plan.planner.obstacle(s, c); obstacle != "" {
		return 0, obstacle
	}
	i, known := plan.index[plan.attempt(plan.planner.ask(c))]
	if !known {
		return 0, "it was not planned"
	}
	return i, ""
}

// Stands reports whether the probe pods of an attempt, which have these addresses, are judged as the ends of c are. They
// are not where a rule about a block of addresses makes the difference.
func (plan *Plan) Stands(s *cluster.State, c cluster.Connection, attempt int, addresses [][]netip.Addr) bool {
	if !plan.planner.blocks {
		return true
	}
	a := plan.Attempts[attempt]
	moved := c
	moved.From.Addr = addressOf(addresses[a.From], a.IPv6)
	if a.To != Outside {
		moved.To.Addr = addressOf(addresses[a.To], a.IPv6)
	}
	return eval.Evaluate(s, moved).Verdict == eval.Evaluate(s, c).Verdict
}

// Address is where an attempt goes to when the probe pods have these addresses. It is invalid where one end has none of
// the attempt's family.
func (plan *Plan) Address(attempt int, addresses [][]netip.Addr) netip.AddrPort {
	a := plan.Attempts[attempt]
	to := a.Addr
	if a.To != Outside {
		to = addressOf(addresses[a.To], a.IPv6)
	}
	if !addressOf(addresses[a.From], a.IPv6).IsValid() || !to.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(to, a.Port)
}

// Namespaces are those that probe pods are made in, in order.
func (plan *Plan) Namespaces() []string {
	var all []string
	for _, p := range plan.Probes {
		if !slices.Contains(all, p.Namespace) {
			all = append(all, p.Namespace)
		}
	}
	return all
}

// String is for people: "shop/web, shop/api", and the labels where policies look at any.
func (p Probe) String() string {
	const most = 4
	text := words.Some(p.Stands, most, ", ")
	if p.Second {
		text += " (a second one)"
	}
	return text
}

// Describe is an attempt for people: "shop/web -> shop/db 5432".
func (plan *Plan) Describe(attempt int) string {
	a := plan.Attempts[attempt]
	to := a.Addr.String()
	if a.To != Outside {
		to = plan.Probes[a.To].String()
	}
	return fmt.Sprintf("%s -> %s %s", plan.Probes[a.From], to, query.Port{Protocol: a.Protocol, Number: a.Port})
}
