package main

import (
	"fmt"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/query"
)

// question is FROM TO PORT as a person writes it.
type question struct{ from, to, port string }

// maxAnswers bounds what one question may expand to.
const maxAnswers = 100_000

// ask judges every connection that q stands for.
func ask(scope query.Scope, q question) ([]eval.Decision, error) {
	all, err := connections(scope, q)
	decisions := make([]eval.Decision, len(all))
	for i, c := range all {
		decisions[i] = eval.Evaluate(scope.State, c)
	}
	return decisions, err
}

// connections are all that q stands for, in the order of the names, at least one. A pod's connection to itself is left
// out where a selector names several pods.
func connections(scope query.Scope, q question) ([]cluster.Connection, error) {
	from, err := scope.Resolve(q.from)
	if err != nil {
		return nil, fmt.Errorf("FROM: %w", err)
	}
	port, err := query.ParsePort(q.port)
	if err != nil {
		return nil, fmt.Errorf("PORT: %w", err)
	}
	to, err := scope.Targets(q.to, port)
	if err != nil {
		return nil, fmt.Errorf("TO: %w", err)
	}
	if len(from)*len(to) > maxAnswers {
		return nil, fmt.Errorf("%q to %q are %d pairs of pods, more than %d: narrow the selectors", q.from, q.to, len(from)*len(to), maxAnswers)
	}
	return connect(from, to)
}

func connect(from []cluster.Party, to []query.Target) ([]cluster.Connection, error) {
	var all []cluster.Connection
	for _, f := range from {
		for _, t := range to {
			if len(from)*len(to) > 1 && f.Endpoint != nil && f.Endpoint == t.To.Endpoint && !t.Translated {
				continue
			}
			connections, err := t.Connect(f)
			if err != nil {
				return nil, err
			}
			all = append(all, connections...)
		}
	}
	if all == nil {
		return nil, fmt.Errorf("that is only a pod's connection to itself, which is always allowed")
	}
	return all, nil
}

// allAllowed is the answer to a question that stands for several connections.
func allAllowed(decisions []eval.Decision) bool {
	for _, d := range decisions {
		if d.Verdict != flow.Allow {
			return false
		}
	}
	return true
}
