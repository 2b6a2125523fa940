// Package compile turns a cluster into a ruleset: every selector, tier and precedence is resolved here, when the
// cluster changes, so that no packet has to.
//
// The steps, each in its file:
//
//   - selectors: equal selectors of all policies that select a pod of ours become one, with a number.
//   - label sets: pods with the same namespace, labels and named ports become one.
//   - blocks: the prefixes at whose edges the answer for an address can change, and what holds in each.
//   - identities: label sets, nodes and blocks that the same selectors match become one identity.
//   - subjects, rows: for each identity of ours and direction, the row for each identity at the other end.
//
// A Compiler keeps the numbers of what stays, so that a small change of the cluster is a small Delta. Everything
// else is computed anew with each Update: the result depends on the state only, never on the way to it.
package compile

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Options say what a Compiler compiles for.
type Options struct {
	// Node is the node whose pods the rulesets judge; "" is all pods of the cluster.
	Node string
}

// Compiler turns successive states of one cluster into rulesets. Make one with New. It is for one caller at a time.
type Compiler struct {
	options Options
	current *ruleset.Ruleset
	numbers numbers
}

// numbers are those given out: each kind has its own.
type numbers struct {
	selectors  interner[selectorKey, selectorID]
	identities interner[string, ruleset.Identity]
	rows       interner[string, ruleset.RowID]
	rules      interner[flow.Rule, ruleset.RuleID]
}

func (n *numbers) sweep() {
	n.selectors.sweep()
	n.identities.sweep()
	n.rows.sweep()
	n.rules.sweep()
}

// New returns a compiler whose current ruleset is empty.
func New(o Options) *Compiler {
	return &Compiler{options: o, current: ruleset.New()}
}

// Ruleset returns the current ruleset, which the caller must not change and which stays as it is.
func (c *Compiler) Ruleset() *ruleset.Ruleset { return c.current }

// Update makes the ruleset of s the current one and returns the difference from the one before; at says where pods
// are plugged in. Where nothing changes the Delta is empty and the generation stays.
func (c *Compiler) Update(s *cluster.State, at map[cluster.Key]ruleset.Attachment) ruleset.Delta {
	next := c.compile(s, at)
	next.Generation = c.current.Generation + 1
	d := ruleset.Diff(c.current, next)
	if len(d.Ops) == 0 {
		return ruleset.Delta{From: c.current.Generation, To: c.current.Generation}
	}
	c.current = next
	return d
}

// A compilation is the work of one Update.
type compilation struct {
	numbers   *numbers
	state     *cluster.State
	out       *ruleset.Ruleset
	pods      []owned // every address that a pod owns
	policies  []active
	selectors *selectorTable
	names     *nameTable
	sets      *labelSets
	blocks    *blockIndex
	classes   *classes
	matched   map[selectorID][]ruleset.Identity // the identities that a selector matches, in order
	unknown   []ruleset.Identity                // those of unknown pods
	memo      map[memoKey]peerRows
	rows      map[ruleset.RowID]ruleset.Row // all that were made, also those that turn out not to be needed
	rules     map[ruleset.RuleID]flow.Rule
}

// owned is an address with the pod that it belongs to.
type owned struct {
	addr  netip.Addr
	pod   *cluster.Endpoint
	local bool
}

func (c *Compiler) compile(s *cluster.State, at map[cluster.Key]ruleset.Attachment) *ruleset.Ruleset {
	w := &compilation{numbers: &c.numbers, state: s, out: ruleset.New(), memo: map[memoKey]peerRows{},
		rows: map[ruleset.RowID]ruleset.Row{}, rules: map[ruleset.RuleID]flow.Rule{}}
	w.pods = ownedAddresses(s, c.options.Node)
	for _, o := range w.pods {
		if o.local {
			w.out.Locals[o.addr] = at[o.pod.Key]
		}
	}
	policies := w.speaking()
	w.selectors = newSelectorTable(&c.numbers.selectors)
	w.names = newNameTable(policies)
	for _, p := range policies {
		w.policies = append(w.policies, w.activate(p))
	}
	w.sets = newLabelSets(s)
	for _, o := range w.pods {
		w.sets.add(o.pod, w.names.of(o.pod))
	}
	w.sets.match(w.selectors.pods)
	w.blocks = newBlockIndex(w.selectors.blocks, s.PodRanges())
	w.classes = newClasses(&c.numbers.identities)
	w.addresses()
	w.subjects()
	c.numbers.sweep()
	return w.out
}

// ownedAddresses returns the addresses of pods by who owns them now: one that was given out twice is its newest pod's.
func ownedAddresses(s *cluster.State, node string) []owned {
	var all []owned
	for _, e := range s.Endpoints() {
		if e.HostNetwork {
			continue
		}
		for _, a := range e.Addresses {
			if s.At(a).Endpoint == e {
				all = append(all, owned{a, e, node == "" || e.Node == node})
			}
		}
	}
	return all
}

// speaking returns the policies that select a pod of ours, in the order in which they are asked. Only their
// selectors may tell identities apart.
func (w *compilation) speaking() []*policy.Policy {
	ours := newLabelSets(w.state)
	for _, o := range w.pods {
		if o.local {
			ours.add(o.pod, "")
		}
	}
	known := map[selectorKey]bool{}
	var found []*policy.Policy
	for _, p := range w.state.Policies() {
		key := podsKey(p.Subject)
		selects, ok := known[key]
		if !ok {
			selects = len(ours.selected(p.Subject)) > 0
			known[key] = selects
		}
		if selects {
			found = append(found, p)
		}
	}
	return found
}
