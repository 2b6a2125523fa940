package main

import (
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/live"
	"github.com/ringfence-project/ringfence/internal/policytest"
)

// boot makes judges of what was seen, or, with a planner, such that only plan.
func (r *liveRun) boot(planner *live.Planner) func(cluster.Objects, policytest.Needs) (policytest.Judge, error) {
	return func(o cluster.Objects, needs policytest.Needs) (policytest.Judge, error) {
		s, err := cluster.NewState(o)
		return &liveJudge{run: r, planner: planner, state: s, needs: needs}, err
	}
}

// liveJudge says what became of connections that were made all together.
type liveJudge struct {
	run     *liveRun
	planner *live.Planner // nil if it is about what was made
	state   *cluster.State
	needs   policytest.Needs
}

func (j *liveJudge) State() *cluster.State { return j.state }

func (j *liveJudge) Close() error { return nil }

func (j *liveJudge) Connect(list []cluster.Connection) ([]policytest.Observed, error) {
	all := make([]policytest.Observed, len(list))
	for i, c := range list {
		switch {
		case j.elsewhere(c):
			all[i] = skipped("probe pods are only made in namespaces that the tests name, or else --namespaces or --all-namespaces")
		case j.needs.Hypothetical:
			all[i] = skipped("it is about policies that are not in force in the cluster, or without one that is")
		case j.planner != nil:
			all[i] = skipped("it is only planned")
			j.planner.Add(j.state, c)
		default:
			all[i] = j.observed(c)
		}
	}
	return all, nil
}

// elsewhere reports whether an end is in a namespace in which no probe pods are to be made.
func (j *liveJudge) elsewhere(c cluster.Connection) bool {
	for _, e := range []*cluster.Endpoint{c.From.Endpoint, c.To.Endpoint} {
		if e != nil && !j.run.everywhere && !slices.Contains(j.needs.Namespaces, e.Namespace) && !slices.Contains(j.run.namespaces, e.Namespace) {
			return true
		}
	}
	return false
}

func skipped(why string) policytest.Observed { return policytest.Observed{Skip: why} }

func (j *liveJudge) observed(c cluster.Connection) policytest.Observed {
	plan := j.run.plan
	n, obstacle := plan.Find(j.state, c)
	if obstacle != "" {
		return skipped(obstacle)
	}
	addresses := j.run.session.Addresses()
	if !plan.Address(n, addresses).IsValid() {
		return skipped("the probe pods have no addresses of the family")
	}
	if !plan.Stands(j.state, c, n, addresses) {
		return skipped("a rule about a block of addresses decides, and probe pods have addresses of their own")
	}
	outside := plan.Attempts[n].To == live.Outside
	switch r := j.run.results[n]; {
	case r.Outcome == live.Answered:
		return policytest.Observed{Verdict: policytest.Allowed}
	case r.Outcome == live.Refused && outside:
		return policytest.Observed{Trouble: "refused, by the other end or on the way: " + r.Why}
	case r.Outcome == live.Silent, r.Outcome == live.Refused:
		return policytest.Observed{Verdict: policytest.Denied}
	default:
		return policytest.Observed{Trouble: "the connection was not made: " + r.Why}
	}
}
