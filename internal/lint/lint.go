// Package lint finds what is legal in policies and most likely not meant: a policy that selects nothing, a label with a
// typo, a rule that is never reached, an isolation that forgets DNS.
//
// Findings are about the manifests given, which may be a part of a cluster: what depends on objects that are not among
// them is left alone. Where they are a whole cluster's, read from its API, findings have no places but objects. A finding has
// to be worth looking at; where there is a doubt, there is none.
//
// Each kind of finding has a stable code, described in Rules and docs/lint.md. An object's annotation
// ringfence.dev/lint-ignore accepts findings about it, with a reason.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/report"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Finding is something worth looking at.
type Finding struct {
	report.Finding
	Object     string // "NetworkPolicy shop/web"
	objectLine int
	// carrier is the rollout with whose candidate in force it is found; nil for what is so now.
	carrier *rollout.Spec
}

// linter collects findings about one cluster.
type linter struct {
	state    *cluster.State
	services []service.Service
	oracle   *eval.Oracle
	kinds    []*cluster.Endpoint // one pod of each kind that policies cannot tell apart, templates without pods included
	hosts    []*cluster.Endpoint // pods on their node's network, which no policy selects
	podKeys  index               // of the labels of pods
	nsKeys   index               // of the labels of declared namespaces
	findings []Finding
	slips    map[string]bool // what was reported as a typo, so that its effects are not
}

// Run finds what is worth looking at in the manifests that were read. The error says that two objects have one name.
func Run(r manifest.Result) ([]Finding, error) {
	s, err := cluster.NewState(r.Objects)
	if err != nil {
		return nil, err
	}
	l := newLinter(s, r.Services)
	l.readings(r)
	l.all()
	if err := l.rollouts(r.Rollouts); err != nil {
		return nil, err
	}
	l.ignore(r.Ignoring)
	slices.SortStableFunc(l.findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line), strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message))
	})
	return l.findings, nil
}

func newLinter(s *cluster.State, services []service.Service) *linter {
	l := &linter{state: s, services: services, oracle: eval.NewOracle(s), slips: map[string]bool{}}
	l.survey()
	return l
}

// all finds what there is to say of the state.
func (l *linter) all() {
	for _, p := range l.state.Policies() {
		if p.Defect == "" {
			l.policy(p)
		}
	}
	l.ties()
	l.shadows()
	l.names()
	l.unselected()
}

func (l *linter) policy(p *policy.Policy) {
	l.subject(p)
	for _, d := range flow.Directions {
		for i := range p.Rules(d) {
			r := ruleIn{p, d, i}
			l.peers(r)
			l.items(r)
			l.blocks(r)
			l.ports(r)
			l.everything(r)
			l.halfDoor(r)
		}
		l.redundant(p, d)
	}
}

// readings are what the reader of the manifests noted.
func (l *linter) readings(r manifest.Result) {
	for _, p := range r.Problems {
		message := p.Message
		if p.Field != "" {
			message = p.Field + ": " + message
		}
		l.findings = append(l.findings, Finding{Finding: report.Finding{Code: unreadable, Level: report.Error,
			Place: report.Place{File: p.File, Line: p.Line}, Message: with(p.Object, message), Fix: p.Fix}, Object: p.Object})
	}
	for _, n := range r.Notices {
		code := noticed
		if n.NoEffect {
			code = noEffect
		}
		if !n.Running {
			l.findings = append(l.findings, Finding{Finding: report.Finding{Code: code, Level: levelOf(code),
				Place: report.Place{File: n.File, Line: n.Line}, Message: with(n.Object, n.Message)}, Object: n.Object})
		}
	}
}

func with(object, message string) string {
	if object == "" {
		return message
	}
	return object + ": " + message
}

// ruleIn is a rule in its policy.
type ruleIn struct {
	policy    *policy.Policy
	direction flow.Direction
	index     int
}

func (r ruleIn) rule() policy.Rule { return r.policy.Rules(r.direction)[r.index] }
func (r ruleIn) name() flow.Rule   { return r.policy.RuleAt(r.direction, r.index) }

// place is the rule's.
func (r ruleIn) place() report.Place {
	n := r.name()
	return report.Place{File: n.File, Line: n.Line}
}

// text is "ingress[0]", with the rule's own name.
func (r ruleIn) text() string {
	text := fmt.Sprintf("%s[%d]", r.direction, r.index)
	if n := r.rule().Name; n != "" {
		text += fmt.Sprintf(" %q", n)
	}
	return text
}

// peer is "ingress[0].from[1]".
func (r ruleIn) peer(i int) string {
	word := map[flow.Direction]string{flow.Ingress: "from", flow.Egress: "to"}[r.direction]
	return fmt.Sprintf("%s.%s[%d]", r.text(), word, i)
}

func objectOf(p *policy.Policy) string {
	return p.Kind() + " " + p.RuleAt(flow.Ingress, flow.Isolation).Policy()
}

// add notes a finding about a policy. A level that is given replaces the code's own.
func (l *linter) add(p *policy.Policy, place report.Place, code, fix, format string, args ...any) *Finding {
	object := objectOf(p)
	l.findings = append(l.findings, Finding{Finding: report.Finding{Code: code, Level: levelOf(code), Place: place,
		Message: object + ": " + fmt.Sprintf(format, args...), Fix: fix}, Object: object, objectLine: p.Line})
	return &l.findings[len(l.findings)-1]
}

func placeOf(p *policy.Policy) report.Place { return report.Place{File: p.File, Line: p.Line} }

// of reports whether the finding is about the object that accepts findings, or about what that carries.
func (f *Finding) of(i manifest.Ignoring) bool {
	if i.ObjectLine == 0 { // of an API, which has one object of a name
		return f.Object == i.Object || f.carrier != nil && "PolicyRollout "+f.carrier.Name == i.Object
	}
	own := f.Place.File == i.File && (f.objectLine == i.ObjectLine || f.objectLine == 0 && f.Object == i.Object)
	return own || f.carrier != nil && f.carrier.File == i.File && f.carrier.Line == i.ObjectLine
}

// ignore marks the findings that objects accept, and finds fault with what accepts without a reason, or nothing.
func (l *linter) ignore(all []manifest.Ignoring) {
	for _, i := range all {
		fault := func(format string, args ...any) {
			l.findings = append(l.findings, Finding{Finding: report.Finding{Code: badIgnore, Level: levelOf(badIgnore),
				Place: report.Place{File: i.File, Line: i.Line}, Message: i.Object + ": " + fmt.Sprintf(format, args...),
				Fix: fmt.Sprintf("write for instance %s: %q", manifest.LintAnnotation, "RF001: the pods come with the next release")}, Object: i.Object, objectLine: i.ObjectLine})
		}
		for _, code := range i.Codes {
			used := false
			for n := range l.findings {
				f := &l.findings[n]
				if f.Code == code && code != badIgnore && f.of(i) {
					used = true
					f.Suppressed, f.Reason = i.Reason != "", i.Reason
				}
			}
			_, known := RuleOf(code)
			switch {
			case !known:
				fault("%s accepts %q, which is no code", manifest.LintAnnotation, code)
			case i.Reason == "":
				fault("%s accepts %s without a reason", manifest.LintAnnotation, code)
			case !used:
				fault("%s accepts %s, of which nothing is found", manifest.LintAnnotation, code)
			}
		}
	}
}
