package policytest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/query"
)

// Failure is an expectation that was not met.
type Failure struct {
	Message string `json:"message"` // what came instead, in a line
	// Rule decided, at Place; both empty if no policy did.
	Rule  string `json:"rule,omitempty"`
	Place string `json:"place,omitempty"`
	// Nearest is the rule that came nearest to deciding otherwise, and what it lacked.
	Nearest     string               `json:"nearest,omitempty"`
	Like        int                  `json:"connectionsLikeIt,omitempty"` // how many others failed the same way
	Explanation *explain.Explanation `json:"explanation,omitempty"`
}

// Bounds of what one case may stand for, and of the kinds of failures that are listed of it.
const (
	maxConnections = 200_000
	maxFailures    = 5
)

// expected is what one connection of a case is expected to do.
type expected struct {
	connection cluster.Connection
	arena      *arena
	what       string // "" for what is in force, "with the candidate" for the other
	want       Verdict
	by         string
}

// cases runs the cases of a test. With a Boot, all are made in one Judge, and a second one for the candidate.
func (r *Runner) cases(d Doc, t namedTest, now, later *arena) []Check {
	var checks []Check
	var all [][]expected
	for i, spec := range t.Cases {
		path := at(t.path+".cases", i)
		c := Check{Text: spec.String(), File: d.File, Line: d.spec.LineOf(path)}
		list, err := expectations(spec, now, later)
		if err != nil {
			c.Error = err.Error()
		}
		checks, all = append(checks, c), append(all, list)
	}
	judge := evaluated
	if r.Boot != nil {
		made, err := r.makeAll(all, now, later)
		if err != nil {
			return append(checks, Check{Text: "real packets", File: d.File, Line: d.spec.LineOf(t.path), Error: err.Error()})
		}
		judge = made
	}
	for i := range checks {
		r.check(&checks[i], all[i], judge)
	}
	return checks
}

// evaluated is what the evaluator says.
func evaluated(e expected) (Observed, error) {
	return Observed{Verdict: verdict(e.arena.oracle.Decide(e.connection))}, nil
}

// String is the case in a line.
func (c caseSpec) String() string {
	text := strings.Join(c.From, ", ") + " -> " + strings.Join(c.To, ", ")
	if len(c.Ports) > 0 {
		text += ":" + strings.Join(c.Ports, ",")
	}
	if c.Via != "" {
		text += " via " + c.Via
	}
	text += " " + c.Want
	if c.By != "" {
		text += " by " + c.By
	}
	if c.Candidate != "" {
		text += ", candidate " + c.Candidate
	}
	if c.Name != "" {
		text = c.Name + ": " + text
	}
	return text
}

// expectations are all connections that a case stands for, with what is expected of each.
func expectations(c caseSpec, now, later *arena) ([]expected, error) {
	var all []expected
	for _, a := range []struct {
		*arena
		what, want, by string
	}{{now, "", c.Want, c.By}, {later, "with the candidate", c.Candidate, ""}} {
		if a.want == "" {
			continue
		}
		if err := a.knows(a.by); err != nil {
			return nil, err
		}
		connections, err := a.connections(c)
		if err != nil {
			return nil, err
		}
		for _, x := range connections {
			all = append(all, expected{x, a.arena, a.what, verdictOf(a.want), a.by})
		}
	}
	return all, nil
}

// knows returns an error if no policy can be what a case expects to decide.
func (a *arena) knows(by string) error {
	name, _, _ := strings.Cut(by, " ")
	if by == "" || by == (flow.Rule{}).String() {
		return nil
	}
	for _, p := range a.state.Policies() {
		if p.RuleAt(flow.Ingress, flow.Isolation).Policy() == name {
			return nil
		}
	}
	text := fmt.Sprintf("by: no policy is called %q", name)
	if fix := nearestPolicy(name, a.state.Policies()); fix != "" {
		text += "; " + fix
	}
	return errors.New(text)
}

// connections are what a case stands for in a. A pod's connection to itself is left out where there are others.
func (a *arena) connections(c caseSpec) ([]cluster.Connection, error) {
	from, to, err := a.ends(c)
	if err != nil {
		return nil, err
	}
	if len(from)*len(to) > maxConnections {
		return nil, fmt.Errorf("these are %d connections, more than %d: narrow them down, or write an invariant", len(from)*len(to), maxConnections)
	}
	var all []cluster.Connection
	for _, f := range from {
		for _, t := range to {
			self := f.Endpoint != nil && f.Endpoint == t.To.Endpoint && !t.Translated
			if self && len(from)*len(to) > 1 {
				continue
			}
			if self {
				return nil, fmt.Errorf("%s is a pod's connection to itself, which is always allowed", c)
			}
			found, err := t.Connect(f)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("these are only pods' connections to themselves, which are always allowed")
	}
	return all, nil
}

func (a *arena) ends(c caseSpec) (from []cluster.Party, to []query.Target, err error) {
	scope := a.scope(a.state)
	for _, ref := range c.From {
		found, err := scope.Resolve(ref)
		if err != nil {
			return nil, nil, fmt.Errorf("from: %w", err)
		}
		from = append(from, found...)
	}
	for _, text := range c.To {
		ref, list, err := query.SplitPort(text)
		if err != nil {
			return nil, nil, fmt.Errorf("to: %w", err)
		}
		lists := []string{list}
		if list == "" {
			lists = c.Ports
		}
		for _, list := range lists {
			ports, err := query.ParsePorts(list)
			if err != nil {
				return nil, nil, fmt.Errorf("to: %w", err)
			}
			for _, p := range ports {
				targets, err := scope.Targets(ref, p)
				if err != nil {
					return nil, nil, fmt.Errorf("to: %w", err)
				}
				to = append(to, targets...)
			}
		}
	}
	for i := range to {
		to[i].Translated = to[i].Translated || c.Via == "service"
	}
	return from, to, nil
}

// check judges what is expected of a case and notes each kind of failure once.
func (r *Runner) check(c *Check, all []expected, judge func(expected) (Observed, error)) {
	type kind struct {
		what, message string
		rule          flow.Rule
	}
	kinds := map[kind]int{}
	for _, e := range all {
		c.Judged++
		d := e.arena.oracle.Decide(e.connection)
		r.coverage.decided(d)
		got, err := judge(e)
		if err != nil {
			c.Error = err.Error()
			return
		}
		if got.Skip != "" {
			c.skip(got.Skip, 1)
			got.Verdict = verdict(d)
		} else if r.Boot != nil {
			c.Made++
		}
		message := e.wrong(d, got)
		if message == "" {
			continue
		}
		k := kind{e.what, message, d.Flow().Rule}
		if i, again := kinds[k]; again {
			if i >= 0 {
				c.Failures[i].Like++
			}
			continue
		}
		if len(c.Failures) == maxFailures {
			kinds[k] = -1
			c.More++
			continue
		}
		kinds[k] = len(c.Failures)
		c.Failures = append(c.Failures, e.failure(message))
	}
}

// wrong says what is not as expected; "" if all is.
func (e expected) wrong(d eval.Decision, got Observed) string {
	switch {
	case got.Trouble != "":
		return got.Trouble
	case got.Verdict == Allowed && verdict(d) == Denied:
		return fmt.Sprintf("want %s, got allow; the policies deny it, so they are not enforced", e.want)
	case got.Verdict == Denied && verdict(d) == Allowed:
		return fmt.Sprintf("want %s, got deny; the policies allow it, so something else is in the way, or they are not in force yet", e.want)
	case got.Verdict != e.want && got.Verdict == Unknown:
		return fmt.Sprintf("want %s, got unknown: it depends on the labels of a pod that nobody knows", e.want)
	case got.Verdict != e.want:
		return fmt.Sprintf("want %s, got %s", e.want, got.Verdict)
	case e.by != "" && !d.Flow().Rule.Is(e.by):
		return fmt.Sprintf("want it by %s, got %s by %s", e.by, got.Verdict, d.Flow().Rule)
	case !got.Rule.IsZero() && got.Rule != d.Flow().Rule:
		return fmt.Sprintf("denied by %s, where the evaluator says %s", got.Rule, d.Flow().Rule)
	}
	return ""
}

// failure is all there is to say about one connection that fared otherwise.
func (e expected) failure(message string) Failure {
	d := eval.Evaluate(e.arena.state, e.connection)
	if e.what != "" {
		message = e.what + ": " + message
	}
	x := explain.Explain(e.arena.state, d)
	rule := d.Flow().Rule
	f := Failure{Message: e.name() + e.family() + ": " + message, Place: rule.Place(), Nearest: nearest(d, e.want), Explanation: &x}
	if !rule.IsZero() {
		f.Rule = rule.String()
	}
	return f
}

// family is " over IPv6" or " over IPv4" where the other family fares as it should.
func (e expected) family() string {
	c := e.connection
	pairs, err := query.Connect(bare(c.From), bare(c.To), query.Port{Protocol: c.Protocol, Number: c.Port})
	if err != nil || len(pairs) != 2 {
		return ""
	}
	for _, other := range pairs {
		other.Translated = c.Translated
		if other.To.Addr != c.To.Addr && verdict(e.arena.oracle.Decide(other)) == e.want {
			return map[bool]string{true: " over IPv6", false: " over IPv4"}[c.To.Addr.Is6()]
		}
	}
	return ""
}

// bare is a pod or a node without the address in use.
func bare(p cluster.Party) cluster.Party {
	if p.Endpoint != nil || p.Node != nil {
		p.Addr = netip.Addr{}
	}
	return p
}

// name is the connection in short.
func (e expected) name() string {
	c := e.connection
	text := fmt.Sprintf("%s -> %s %s", c.From, c.To, query.Port{Protocol: c.Protocol, Number: c.Port})
	if c.Protocol.HasPorts() {
		text = fmt.Sprintf("%s -> %s:%s", c.From, c.To, query.Port{Protocol: c.Protocol, Number: c.Port})
	}
	return text
}
