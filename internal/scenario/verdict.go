package scenario

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/query"
)

// expect runs an allow line: every connection on every engine.
func (r *runner) expect(text string, allow bool) error {
	e, err := parseExpectation(text, allow)
	if err != nil {
		return err
	}
	all, err := r.connections(e.target)
	if err != nil {
		return err
	}
	for _, c := range all {
		c.Translated = c.Translated || e.service
		decisions, err := r.judge(c)
		if err != nil {
			return err
		}
		for i, d := range decisions {
			if wrong := e.wrong(d); wrong != "" {
				r.fail(r.line, fmt.Sprintf("%s: %s is %s, %s", r.engines[i].Name(), describe(c), says(d), wrong))
			}
		}
	}
	return nil
}

// judge asks every engine that can judge c, and fails the scenario if they do not agree. The decisions are in the
// order of the engines.
func (r *runner) judge(c cluster.Connection) ([]flow.Decision, error) {
	engines := r.engines
	if !c.From.Addr.IsValid() || !c.To.Addr.IsValid() {
		if !r.offline {
			return nil, fmt.Errorf("%s has an end without an address, which only `offline` allows; nodes get theirs from status.addresses", describe(c))
		}
		engines = engines[:1]
	}
	r.result.Judged++
	var all []flow.Decision
	for _, e := range engines {
		d, err := e.Judge(c)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %s: %w", e.Name(), describe(c), err)
		}
		if all = append(all, d); d != all[0] {
			r.fail(r.line, fmt.Sprintf("engines differ on %s\n%s: %s\n%s: %s", describe(c), engines[0].Name(), says(all[0]), e.Name(), says(d)))
		}
	}
	return all, nil
}

// wrong says what of d is not as expected; "" if all is.
func (e expectation) wrong(d flow.Decision) string {
	want := map[bool]flow.Verdict{true: flow.Allow, false: flow.Deny}[e.allow]
	if d.Verdict != want {
		return "want " + want.String()
	}
	rule := d.Rule
	rule.Label = ""
	if e.by != "" && e.by != rule.String() && (d.Rule.IsZero() || e.by != rule.Policy()) {
		return "want it by " + e.by
	}
	return ""
}

func describe(c cluster.Connection) string {
	text := c.From.String() + " -> " + c.To.String()
	if c.From.Addr.IsValid() && c.To.Addr.IsValid() {
		text += " (" + c.Tuple().String() + ")"
	}
	return text
}

// says is for instance "deny by shop/default-deny ingress (policies.yaml:3)".
func says(d flow.Decision) string {
	text := d.Verdict.String() + " by " + d.Rule.String()
	if d.Verdict == flow.Deny && d.Direction != d.Rule.Direction {
		text += " on " + d.Direction.String()
	}
	if place := d.Rule.Place(); place != "" {
		text += " (" + place + ")"
	}
	return text
}

// explain explains each pair of pods once, by its first address family.
func (r *runner) explain(text string) error {
	args, file, err := cutGolden(text)
	if err != nil {
		return err
	}
	t, err := parseTarget(args)
	if err != nil {
		return err
	}
	all, err := r.connections(t)
	if err != nil {
		return err
	}
	var b strings.Builder
	pair := ""
	for _, c := range all {
		if p := c.From.String() + " " + c.To.String(); p != pair {
			if pair != "" {
				b.WriteString("\n")
			}
			if err := explain.Explain(r.state, eval.Evaluate(r.state, c)).Write(&b, explain.Options{}); err != nil {
				return err
			}
			pair = p
		}
	}
	return r.compare(file, b.String())
}

// matrix draws who reaches whom: a row for each source, a column for each destination.
func (r *runner) matrix(text string) error {
	args, file, err := cutGolden(text)
	if err != nil {
		return err
	}
	fields := strings.Fields(args)
	if len(fields) == 0 {
		return fmt.Errorf("want matrix PORT [REF...] > FILE")
	}
	port, err := query.ParsePort(fields[0])
	if err != nil {
		return err
	}
	parties, err := r.matrixParties(fields[1:])
	if err != nil {
		return err
	}
	var b strings.Builder
	width := 0
	for i, p := range parties {
		fmt.Fprintf(&b, "%d = %s\n", i+1, p)
		width = max(width, len(p.String()))
	}
	fmt.Fprintf(&b, "\n%*s", width, "")
	for i := range parties {
		fmt.Fprintf(&b, " %3d", i+1)
	}
	b.WriteString("\n")
	for _, from := range parties {
		fmt.Fprintf(&b, "%-*s", width, from)
		for _, to := range parties {
			cell, err := r.cell(from, to, port)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %3s", cell)
		}
		b.WriteString("\n")
	}
	return r.compare(file, b.String())
}

func (r *runner) matrixParties(refs []string) ([]cluster.Party, error) {
	var all []cluster.Party
	for _, ref := range refs {
		found, err := r.resolve(ref)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(refs) == 0 {
		for _, e := range r.state.Endpoints() {
			all = append(all, r.state.PartyOf(e, netip.Addr{}))
		}
	}
	return sortedParties(all), nil
}

// cell is "yes", "no", or the one family that is allowed; "-" for a pod and itself, or if there is no such connection.
func (r *runner) cell(from, to cluster.Party, port query.Port) (string, error) {
	all, err := query.Connect(from, to, port)
	if err != nil || from.String() == to.String() {
		return "-", nil
	}
	allowed, denied := "", false
	for _, c := range all {
		decisions, err := r.judge(c)
		if err != nil {
			return "", err
		}
		if decisions[0].Verdict != flow.Allow {
			denied = true
			continue
		}
		allowed = "v4"
		if c.To.Addr.Is6() {
			allowed = "v6"
		}
	}
	switch {
	case !denied:
		return "yes", nil
	case allowed == "":
		return "no", nil
	}
	return allowed, nil
}
