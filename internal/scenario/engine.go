package scenario

import (
	"context"
	"fmt"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Engine is something that judges connections. One is used by one caller at a time, for one scenario.
type Engine interface {
	Name() string
	// Load replaces the cluster.
	Load(*cluster.State) error
	// Judge judges c in the loaded cluster. Without addresses only the reference can, see Options.Engines.
	Judge(c cluster.Connection) (flow.Decision, error)
}

// Engines returns one of each engine that needs nothing but memory, the reference first.
func Engines() []Engine { return []Engine{&reference{}, &interpreter{}, newNode()} }

// reference is package eval.
type reference struct{ state *cluster.State }

func (*reference) Name() string { return "reference" }

func (r *reference) Load(s *cluster.State) error {
	r.state = s
	return nil
}

func (r *reference) Judge(c cluster.Connection) (flow.Decision, error) {
	return eval.Evaluate(r.state, c).Flow(), nil
}

// interpreter is the compiler and the interpreter of rulesets. It gets from load to load by deltas, as a node does,
// and looks at every load whether a compiler that starts anew comes to the same.
type interpreter struct {
	compiler *compile.Compiler
	current  *ruleset.Ruleset
}

func (*interpreter) Name() string { return "ruleset" }

func (i *interpreter) Load(s *cluster.State) error {
	if i.compiler == nil {
		i.compiler, i.current = compile.New(compile.Options{}), ruleset.New()
	}
	if err := ruleset.Apply(i.current, i.compiler.Update(s, nil)); err != nil {
		return fmt.Errorf("apply the difference: %w", err)
	}
	if err := i.current.Check(); err != nil {
		return fmt.Errorf("the ruleset does not hold together: %w", err)
	}
	anew := compile.New(compile.Options{})
	anew.Update(s, nil)
	if err := ruleset.CheckEquivalent(anew.Ruleset(), i.current); err != nil {
		return fmt.Errorf("the ruleset depends on what was loaded before: %w", err)
	}
	return nil
}

func (i *interpreter) Judge(c cluster.Connection) (flow.Decision, error) {
	return i.current.Decide(c.Tuple()), nil
}

// node is the whole way to the packets, with a fake for the kernel: the engine and its dataplane, a tenth of whose
// operations fail, so that every scenario tries again too.
type node struct {
	kernel *dataplane.FakeKernel
	engine *engine.Engine
}

const (
	faultChance = 0.1
	faultSeed   = 1
	maxAttempts = 50 // 0.1^50 is never
)

func newNode() *node {
	k := dataplane.NewFakeKernel()
	k.Fail(faultChance, faultSeed)
	return &node{k, engine.New(k.Open(), compile.Options{})}
}

func (*node) Name() string { return "node" }

func (n *node) Load(s *cluster.State) error {
	var err error
	for range maxAttempts {
		if err = n.engine.Sync(context.Background(), engine.Input{State: s}); err == nil {
			return nil
		}
	}
	return err
}

// Judge sends a packet. Which rule let it through no packet tells, so that is what the ruleset says, if it says the
// same of the packet.
func (n *node) Judge(c cluster.Connection) (flow.Decision, error) {
	d := n.engine.Ruleset().Decide(c.Tuple())
	if arrives := n.kernel.Connect(c.Tuple()).Send(); arrives != (d.Verdict == flow.Allow) {
		return flow.Decision{Verdict: map[bool]flow.Verdict{true: flow.Allow}[arrives]}, nil
	}
	return d, nil
}
