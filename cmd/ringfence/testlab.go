package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/lab"
	"github.com/ringfence-project/ringfence/internal/policytest"
)

// bootTestLab makes labs in which the cases of a test are made with real packets.
func bootTestLab(ctx context.Context) func(cluster.Objects, policytest.Needs) (policytest.Judge, error) {
	return func(o cluster.Objects, needs policytest.Needs) (policytest.Judge, error) {
		spec, err := (labFlags{topology: lab.Routed.String()}).spec()
		if err != nil {
			return nil, err
		}
		spec.Objects = o
		for _, c := range needs.Connections {
			if c.Protocol.HasPorts() {
				spec.Ports = append(spec.Ports, cluster.Port{Protocol: c.Protocol, Number: c.Port})
			}
			for _, p := range []cluster.Party{c.From, c.To} {
				if p.Endpoint == nil && p.Node == nil && !p.Unknown {
					spec.Outside = append(spec.Outside, p.Addr)
				}
			}
		}
		running, err := lab.Boot(ctx, spec)
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("%w; network namespaces need root: run it with sudo", err)
		}
		if err != nil {
			return nil, err
		}
		return &testLab{ctx, running}, nil
	}
}

// testLab is a lab as tests see it.
type testLab struct {
	ctx context.Context
	*lab.Lab
}

// Connect makes connections with real packets. A lab has no Services: what goes through one is sent to the pod behind it,
// which policies cannot tell apart unless a pod calls itself.
func (l *testLab) Connect(list []cluster.Connection) ([]policytest.Observed, error) {
	var tuples []flow.Tuple
	listed := map[flow.Tuple]bool{}
	for _, c := range list {
		if throughItself(c) {
			continue
		}
		if t := tupleOf(c); !listed[t] {
			listed[t], tuples = true, append(tuples, t)
		}
	}
	results := map[flow.Tuple]lab.Result{}
	if len(tuples) > 0 {
		r, err := l.Probe(l.ctx, lab.Selection{Tuples: tuples}, nil)
		if err != nil {
			return nil, err
		}
		for _, x := range r.Results {
			results[x.Tuple] = x
		}
	}
	var all []policytest.Observed
	for _, c := range list {
		all = append(all, observed(results, tupleOf(c), throughItself(c)))
	}
	return all, nil
}

// tupleOf is c as a lab probes it: that a client is local it sees for itself.
func tupleOf(c cluster.Connection) flow.Tuple {
	t := c.Tuple()
	t.Local, t.Translated = false, false
	return t
}

// throughItself reports whether a pod calls itself through a Service.
func throughItself(c cluster.Connection) bool {
	return c.Translated && c.From.Endpoint == c.To.Endpoint
}

func observed(results map[flow.Tuple]lab.Result, t flow.Tuple, throughItself bool) policytest.Observed {
	x, made := results[t]
	switch {
	case throughItself:
		return policytest.Observed{Trouble: "a lab has no Services, so no pod can call itself through one"}
	case !made:
		return policytest.Observed{Trouble: "the connection was not made: " + netip.AddrPortFrom(t.Destination, t.Port).String()}
	case x.Outcome == lab.Answered:
		return policytest.Observed{Verdict: policytest.Allowed}
	case x.Outcome == lab.Denied:
		return policytest.Observed{Verdict: policytest.Denied, Rule: x.Rule}
	}
	return policytest.Observed{Trouble: "with real packets: " + x.Mismatch}
}
