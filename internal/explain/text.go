package explain

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/fatih/color"
)

// Options says how an explanation is written.
type Options struct {
	Color bool // for a terminal
	// All lists every policy that was looked at. Otherwise the NetworkPolicies of other namespaces, which are most in a
	// large cluster and never apply, are counted only.
	All bool
}

// Write writes e for people: the verdict first, then each side, tier, policy and rule, and what would allow a denial.
func (e Explanation) Write(w io.Writer, o Options) error {
	p := printer{Writer: bufio.NewWriter(w), options: o}
	p.headline(e)
	p.side(e.Egress)
	p.side(e.Ingress)
	if e.Suggestion != nil {
		p.suggestion(*e.Suggestion)
	}
	return p.Flush() // a bufio.Writer keeps its first error
}

// Headline is the first two lines of the text, without colour: the verdict and the rule that decides.
func (e Explanation) Headline() string {
	return strings.ToUpper(e.Verdict) + "  " + e.connection() + "\n" + strings.Repeat(" ", len(e.Verdict)+2) + e.why()
}

func (e Explanation) connection() string {
	text := e.From + " -> " + e.To
	if e.Port != 0 || e.Protocol == "tcp" || e.Protocol == "udp" || e.Protocol == "sctp" {
		text += fmt.Sprintf(":%d/%s", e.Port, e.Protocol)
	} else {
		text += " " + e.Protocol
	}
	if e.FromAddress != "" && e.ToAddress != "" && (e.FromAddress != e.From || e.ToAddress != e.To) {
		text += " (" + e.FromAddress + " -> " + e.ToAddress + ")"
	}
	if e.Translated {
		text += ", through a Service"
	}
	return text
}

func (e Explanation) why() string {
	switch {
	case e.Rule == nil && e.Egress.Unjudged != "" && e.Ingress.Unjudged != "":
		return "no policy is asked about it"
	case e.Rule == nil:
		return "no policy says anything about it"
	case e.Verdict == "deny" && e.Rule.Index == nil:
		return "by " + e.Rule.String() + ", which isolates the pod: no rule accepts it"
	case e.Verdict == "deny":
		return "by " + e.Rule.String() + ", which denies it"
	}
	return "by " + e.Rule.String()
}

// String is for instance "customers/ldap-clients ingress[0] (ldap.yaml:14)".
func (r Rule) String() string {
	if r.Place == "" {
		return r.text
	}
	return r.text + " (" + r.Place + ")"
}

// printer writes to a bufio.Writer, which keeps the first error until Flush.
type printer struct {
	*bufio.Writer
	options Options
}

func (p printer) line(indent int, format string, args ...any) {
	fmt.Fprintf(p, strings.Repeat(" ", indent)+format+"\n", args...)
}

// paint colours text by an answer: good, bad, or in between.
func (p printer) paint(text, answer string) string {
	shade := map[string]color.Attribute{"allow": color.FgGreen, "yes": color.FgGreen, "accepted": color.FgGreen,
		"deny": color.FgRed, "denied": color.FgRed, "no": color.Faint, "not asked": color.Faint, "no effect": color.Faint}
	a, ok := shade[answer]
	if !ok {
		a = color.FgYellow
	}
	c := color.New(a)
	c.DisableColor()
	if p.options.Color {
		c.EnableColor()
	}
	return c.Sprint(text)
}

func (p printer) headline(e Explanation) {
	first, second, _ := strings.Cut(e.Headline(), "\n")
	verdict := strings.ToUpper(e.Verdict)
	p.line(0, "%s%s", p.paint(verdict, e.Verdict), strings.TrimPrefix(first, verdict))
	p.line(0, "%s", second)
}

func (p printer) side(s Side) {
	p.line(0, "")
	if s.Unjudged != "" {
		p.line(0, "%s: not judged, as %s", s.Direction, s.Unjudged)
		return
	}
	by := ", no policy says anything"
	if s.Rule != nil {
		by = " by " + s.Rule.String()
	}
	p.line(0, "%s of %s: %s%s", s.Direction, s.Subject, p.paint(s.Verdict, s.Verdict), by)
	for _, t := range s.Tiers {
		p.tier(t, s.Direction)
	}
}

func (p printer) tier(t Tier, direction string) {
	p.line(2, "%-13s  %s", t.Tier, p.paint(t.Outcome, t.Outcome))
	foreign := 0
	for _, pol := range t.Policies {
		if pol.foreign && !p.options.All {
			foreign++
			continue
		}
		p.policy(pol, direction)
	}
	if foreign > 0 {
		p.line(4, "%s of other namespaces: not about this pod", plural(foreign, "NetworkPolicy", "NetworkPolicies"))
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (p printer) policy(pol Policy, direction string) {
	name := pol.Name
	if pol.Namespace != "" {
		name = pol.Namespace + "/" + name
	}
	if pol.Place != "" {
		name += " (" + pol.Place + ")"
	}
	applies := "applies"
	if !pol.Applies {
		applies = "does not apply"
	}
	p.line(4, "%s %s: %s", name, applies, pol.Reason)
	if pol.Defect != "" {
		p.line(6, "it could not be read, and isolates until it can: %s", pol.Defect)
	}
	for _, r := range pol.Rules {
		p.rule(r)
	}
	if pol.Applies && len(pol.Rules) == 0 {
		p.line(6, "it has no %s rule: it accepts nothing", direction)
	}
}

func (p printer) rule(r RuleLookedAt) {
	label := ""
	if r.Rule.Index != nil {
		label = fmt.Sprintf("%s[%d]", r.Rule.Direction, *r.Rule.Index)
	}
	if r.Rule.Name != "" {
		label += fmt.Sprintf(" %q", r.Rule.Name)
	}
	if r.Rule.Place != "" {
		label += " (" + r.Rule.Place + ")"
	}
	p.line(6, "%s %s %s", p.mark(r.Matches), r.Action, label)
	word := map[string]string{"egress": "to", "ingress": "from"}[r.Rule.Direction]
	for _, q := range r.Peers {
		p.line(8, "%s %s %s: %s", p.mark(q.Matches), word, q.What, q.Reason)
	}
	if len(r.Peers) == 0 {
		p.line(8, "%s %s nobody: the rule names no peer", p.mark("no"), word)
	}
	for _, q := range r.Ports {
		p.line(8, "%s port %s: %s", p.mark(q.Matches), q.What, q.Reason)
	}
}

func (p printer) mark(answer string) string {
	switch answer {
	case "yes":
		return p.paint("✓", answer)
	case "no":
		return p.paint("✗", answer)
	}
	return p.paint("?", answer)
}

func (p printer) suggestion(s Suggestion) {
	p.line(0, "")
	if len(s.Changes) == 0 {
		p.line(0, "no rule to suggest: %s", s.Reason)
		return
	}
	p.line(0, "what would allow it:")
	for _, c := range s.Changes {
		p.line(2, "%s", c.Summary())
		for _, n := range c.Notes {
			p.line(2, "(%s)", n)
		}
		for l := range strings.Lines(c.YAML) {
			p.line(4, "%s", strings.TrimSuffix(l, "\n"))
		}
	}
}
