package main

import (
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// few is how many connections the reference is asked about before it is worth to compile the whole cluster: that takes
// as long as some 200 to 800 questions, on clusters of 10,000 to 100,000 pods.
const few = 300

// judge decides many connections of one state. After the first few, those whose ends have addresses are looked up in the
// compiled state, which takes the same time however many policies there are. The others are asked of the reference, once
// for all that are alike.
type judge struct {
	state    *cluster.State
	left     int               // how many connections the reference is asked about in any case; below 0 when they are done
	compiled *compile.Compiler // nil until it is needed
	oracle   *eval.Oracle
}

func newJudge(s *cluster.State) *judge { return &judge{state: s, left: few, oracle: eval.NewOracle(s)} }

func (j *judge) decide(c cluster.Connection) flow.Decision {
	if j.left--; j.left >= 0 || !j.resolved(c) {
		return j.oracle.Decide(c).Flow()
	}
	if j.compiled == nil {
		j.compiled = compile.New(compile.Options{})
		j.compiled.Update(j.state, nil)
	}
	return j.compiled.Decide(c.Tuple())
}

// resolved reports whether the addresses of c say who its ends are.
func (j *judge) resolved(c cluster.Connection) bool {
	t := c.Tuple()
	return t.Source.IsValid() && t.Destination.IsValid() && j.state.Resolve(t) == c
}
