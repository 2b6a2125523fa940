package policytest

import (
	"fmt"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// samples are connections that stand for an invariant where it is tried with packets: between a pod of each pair of
// workloads, on the ports that it names or else on those that the destination declares. They can show that it does not
// hold, and not that it does.
type samples struct {
	list  []expected
	pairs int // of which no connection can be tried, as one end is no pod or there is no port
}

// pick notes the connections of a pair of boxes that the proposition is about.
func (q *inquiry) pick(word string, p proposition, from side, i, j int) {
	if q.runner.Boot == nil || !q.runner.Invariants {
		return
	}
	want := Denied
	switch {
	case word == "only" && !from.beside[i], word != "only" && !from.in[i]:
		return
	case word == "always":
		want = Allowed
	}
	ports := q.sampled(word, p, j)
	a, b := q.pod(i, 0), q.pod(j, 0)
	if i == j {
		b = q.pod(j, 1)
	}
	if a == nil || b == nil || len(ports) == 0 {
		q.pairs++
		return
	}
	for _, port := range ports {
		found, err := query.Connect(cluster.Party{Endpoint: a}, cluster.Party{Endpoint: b}, query.Port{Protocol: port.Protocol, Number: port.Number})
		if err != nil {
			q.pairs++
			continue
		}
		for _, c := range found {
			q.list = append(q.list, expected{connection: c, arena: q.arena, want: want})
		}
	}
}

// sampled are the ports that a pair is tried on. An invariant about some port, or all ports at once, says nothing of a
// single one if it wants that allowed, or if it does not mind that one port is.
func (q *inquiry) sampled(word string, p proposition, box int) []cluster.Port {
	if word == "always" && p.ports == nil && !p.all || word == "never" && p.all {
		return nil
	}
	if p.ports == nil {
		return q.m.Boxes[box].Ports
	}
	var all []cluster.Port
	for _, port := range p.ports {
		all = append(all, q.ports(port, box)...)
	}
	return all
}

// pod is the nth pod of a box of pods with a network of their own, or nil.
func (q *inquiry) pod(box, n int) *cluster.Endpoint {
	b := q.m.Boxes[box]
	if b.Kind != reach.Workload || b.HostNetwork || n >= len(b.Pods) {
		return nil
	}
	return q.arena.state.Endpoint(cluster.Key{Namespace: b.Namespace, Name: b.Pods[n]})
}

// sample makes the samples of invariants, all in one Judge, and notes what does not come out as the invariants say.
func (r *Runner) sample(checks []Check, of []samples, a *arena) error {
	all := make([][]expected, len(of))
	for i, s := range of {
		if len(s.list) > maxConnections {
			return fmt.Errorf("invariants: %q is about %d connections, more than %d", checks[i].Text, len(s.list), maxConnections)
		}
		all[i] = s.list
	}
	judge, err := r.makeAll(all, a, a)
	if err != nil {
		return fmt.Errorf("invariants: %w", err)
	}
	for i := range checks {
		tried := Check{}
		r.check(&tried, all[i], judge)
		c := &checks[i]
		c.Failures = append(c.Failures, tried.Failures...)
		c.More += tried.More
		c.Made += tried.Made
		for _, s := range tried.Skipped {
			c.skip(s.Why, s.Connections)
		}
		if n := of[i].pairs; n > 0 {
			c.skip("no connection between two pods, on a port, stands for it", n)
		}
	}
	return nil
}
