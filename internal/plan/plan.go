// Package plan says what a change of manifests does to connectivity: which connections would be newly denied or newly
// allowed, between which workloads and on which ports, by which rule before and after, and which of those that were
// recorded it would break.
//
// It compares two maps of package reach, pair by pair of what both sides treat alike (a class), so that the cost is that
// of the kinds of workloads. A connection is compared only where both ends are there before and after: what a workload
// that comes or goes may do is told apart. The tests compare the result with the reference evaluator, one connection
// after the other.
//
// The package is pure: no I/O, goroutine or clock. Compute makes a Plan, which is also the JSON form; package
// show writes it for people, and gate decides whether it may pass.
package plan

import (
	"fmt"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// Side is one of the two clusters that are compared.
type Side struct {
	Name  string // for people: "main", "k8s/"
	State *cluster.State
	// Problems are what could not be read of its manifests, in order; State has stand-ins for policies among that.
	Problems []string
}

// Options are choices for Compute. The zero value is good.
type Options struct {
	Reach reach.Options // ranges for pods and nodes without addresses
	// Flows are recorded connections to hold against the change; nil for none.
	Flows *Recorded
	// Explain is what stands between "ringfence explain" and FROM to ask about New, for instance "-f k8s"; "" for nothing.
	Explain string
}

// Plan is what a change does.
type Plan struct {
	Old string `json:"old"`
	New string `json:"new"`
	// Problems are manifests that could not be read, of either side. What they hold counts as the stand-ins that the
	// running system would put in their place.
	Problems []Problem      `json:"problems,omitempty"`
	Policies []PolicyChange `json:"policies"`
	Objects  []ObjectChange `json:"objects"`
	Flows    *Effect        `json:"flows,omitempty"` // absent without recorded connections
	Changes  []Change       `json:"changes"`         // what is newly denied, then what is newly allowed
	Radius   Radius         `json:"radius"`
	Risk     Risk           `json:"risk"`
	RiskWhy  []string       `json:"riskWhy,omitempty"`
	Notices  []string       `json:"notices,omitempty"`

	// Parties are all who can be an end of a Change, in order: what "everyone" is.
	Parties []Party `json:"-"`

	explain string
}

// Party is a workload, a node, a part of the world outside, or unknown pods.
type Party struct {
	Name      string
	Namespace string // of a workload; "" of anything else
}

// Problem is a manifest that could not be read.
type Problem struct {
	Side string `json:"side"` // "old" or "new"
	Text string `json:"text"`
}

// Change is a set of connections that fare otherwise than before, for one reason: from each of From to each of To on
// Ports.
type Change struct {
	Effect Verb     `json:"effect"`
	From   []string `json:"from"`
	To     []string `json:"to"`
	Ports  string   `json:"ports"`            // "389, 53/udp", "everything", "everything but 22"
	Family string   `json:"family,omitempty"` // "IPv4" or "IPv6" if it is only about that one
	Pairs  int      `json:"pairs"`            // of From and To, less those that are one and the same pod
	// Old and New are the verdicts with the rules that matter: of what is denied, the one that denies; of what is allowed,
	// the one on the side that denies in the other.
	Old Decided `json:"old"`
	New Decided `json:"new"`
	// Lost is, for something newly denied, why what accepted it before does so no more.
	Lost string `json:"lost,omitempty"`
	// Declared are those of Ports that a server declares: what somebody is likely to use.
	Declared string `json:"declared,omitempty"`
	// Seen is how many recorded connections are among these, and Last the newest one's time.
	Seen int       `json:"seen"`
	Last time.Time `json:"last,omitzero"`

	// Outside: one end is in the world outside.
	Outside bool `json:"outside,omitempty"`

	from, to []int // classes
	ports    []reach.Ports
}

// Verb is what a change does to a connection.
type Verb string

// The verbs.
const (
	NewlyDenied  Verb = "newly denied"
	NewlyAllowed Verb = "newly allowed"
)

// Decided is a verdict and where it comes from.
type Decided struct {
	Verdict   string        `json:"verdict"`             // "allow" or "deny"
	Direction string        `json:"direction,omitempty"` // the side that denies
	Rule      *explain.Rule `json:"rule,omitempty"`      // absent if no policy applies

	flow flow.Decision
}

func newDecided(d flow.Decision) Decided {
	out := Decided{Verdict: d.Verdict.String(), Rule: explain.RuleOf(d.Rule), flow: d}
	if d.Verdict != flow.Allow {
		out.Direction = d.Direction.String()
	}
	return out
}

// String is for instance "shop/db ingress[0] (db.yaml:12)".
func (d Decided) String() string {
	switch {
	case d.Rule == nil:
		return "no policy"
	case d.Verdict == flow.Deny.String() && d.Rule.Index == nil:
		return d.Rule.String() + ", which isolates"
	}
	return d.Rule.String()
}

// Radius is how far a change reaches.
type Radius struct {
	// Before and After count the ordered pairs of parties (workloads, nodes, parts of the world outside, unknown pods) of
	// which something can reach something.
	Before int `json:"pairsBefore"`
	After  int `json:"pairsAfter"`
	// Workloads are those at an end of a Change, and Namespaces theirs.
	Workloads  []string `json:"workloads"`
	Namespaces []string `json:"namespaces"`
}

// comparison is what Compute knows while it works.
type comparison struct {
	states  [2]*cluster.State // with addresses
	maps    [2]*reach.Map
	classes []class
	plan    *Plan
	parts   map[string]int // how many classes that stay each whole has
	index   partyIndex
	samples []reach.Sample
	diffs   map[diffKey][]portChange
	same    map[diffKey]bool // by AlikeIndex: nothing changes, whatever the rules
}

// Compute compares two clusters. The error says that there are too few addresses for the pods that have none.
func Compute(old, new Side, o Options) (*Plan, error) {
	p, _, err := compute(old, new, o)
	return p, err
}

func compute(old, new Side, o Options) (*Plan, *comparison, error) {
	p := &Plan{Old: old.Name, New: new.Name, Policies: comparePolicies(old.State, new.State), Objects: []ObjectChange{}, Changes: []Change{},
		explain: o.Explain}
	for i, s := range []Side{old, new} {
		for _, text := range s.Problems {
			p.Problems = append(p.Problems, Problem{[]string{"old", "new"}[i], text})
		}
	}
	c := &comparison{plan: p, diffs: map[diffKey][]portChange{}, same: map[diffKey]bool{}}
	var err error
	if c.states, p.Notices, err = align(old.State, new.State, o.Reach); err != nil {
		return nil, nil, fmt.Errorf("plan: %w", err)
	}
	o.Reach.Unknown = true
	for i := range c.maps {
		if c.maps[i], err = reach.Compute(c.states[i], o.Reach); err != nil {
			return nil, nil, fmt.Errorf("plan: %w", err)
		}
	}
	c.notices()
	c.findClasses()
	c.everyone()
	c.compareRest()
	c.comparePairs()
	if o.Flows != nil {
		c.hold(o.Flows)
	}
	c.giveReasons()
	p.judgeRisk()
	return p, c, nil
}

// notices are those of both maps, and what is only true of one of them with its name.
func (c *comparison) notices() {
	for i, m := range c.maps {
		for _, n := range m.Notices {
			other := c.maps[1-i].Notices
			both := false
			for _, o := range other {
				both = both || o == n
			}
			switch {
			case both && i == 0:
				c.plan.Notices = append(c.plan.Notices, n)
			case !both:
				c.plan.Notices = append(c.plan.Notices, []string{c.plan.Old, c.plan.New}[i]+": "+n)
			}
		}
	}
}

// everyone notes who can be an end of a change.
func (c *comparison) everyone() {
	c.parts = map[string]int{}
	for i := range c.classes {
		k := &c.classes[i]
		if !k.stays() {
			continue
		}
		if c.parts[k.name]++; c.parts[k.name] > 1 {
			continue
		}
		p := Party{Name: k.name}
		if k.kind == reach.Workload {
			p.Namespace = namespaceOf(k.name)
		}
		c.plan.Parties = append(c.plan.Parties, p)
	}
}
