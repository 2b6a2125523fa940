package mapview

import (
	"encoding/json"
	"io"
	"strconv"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// document is the JSON form. Answers and rules are named by their place in their lists, as pairs share them.
type document struct {
	Title   string       `json:"title,omitempty"`
	Boxes   []jsonBox    `json:"boxes"`
	Rules   []jsonRule   `json:"rules"`
	Answers []jsonAnswer `json:"answers"`
	Pairs   []jsonPair   `json:"pairs,omitempty"` // all that policies are asked about, and those that were seen
	Notices []string     `json:"notices,omitempty"`
}

type jsonBox struct {
	Name        string            `json:"name"`
	Kind        string            `json:"kind"`
	Namespace   string            `json:"namespace,omitempty"`
	Owner       string            `json:"owner,omitempty"` // the workload's kind; "Pod" for a bare pod
	Pods        []string          `json:"pods,omitempty"`  // names of the pods or nodes
	Labels      map[string]string `json:"labels,omitempty"`
	Ports       []jsonPort        `json:"ports,omitempty"` // as declared
	HostNetwork bool              `json:"hostNetwork,omitempty"`
	Part        bool              `json:"part,omitempty"` // the workload's other pods are treated differently
	FencedIn    bool              `json:"fencedIngress"`
	FencedOut   bool              `json:"fencedEgress"`
	Prefixes    []string          `json:"prefixes,omitempty"`
	Place       string            `json:"place,omitempty"`
}

type jsonPort struct {
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

type jsonRule struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Policy    string `json:"policy"`
	Direction string `json:"direction"`
	Index     *int   `json:"index,omitempty"` // absent for a NetworkPolicy's "and nothing else"
	Name      string `json:"name,omitempty"`
	Place     string `json:"place,omitempty"`
	Text      string `json:"text"`
}

type jsonAnswer struct {
	Level string     `json:"level"`
	Text  string     `json:"text"`
	Note  string     `json:"note,omitempty"`
	Ruled bool       `json:"ruled,omitempty"`
	Parts []jsonPart `json:"parts,omitempty"`
}

type jsonPart struct {
	Family  string       `json:"family,omitempty"`
	Clauses []jsonClause `json:"clauses"`
}

type jsonClause struct {
	Verdict string      `json:"verdict"`
	Text    string      `json:"text"`
	Ranges  []jsonRange `json:"ranges"`
	Egress  *jsonHalf   `json:"egress,omitempty"` // absent: policies are not asked about this end
	Ingress *jsonHalf   `json:"ingress,omitempty"`
}

type jsonRange struct {
	Protocol string `json:"protocol"` // "other": protocols without ports
	First    uint16 `json:"first,omitempty"`
	Last     uint16 `json:"last,omitempty"`
}

type jsonHalf struct {
	Verdict string `json:"verdict"`
	Rule    *int   `json:"rule,omitempty"` // absent: no policy applies
}

type jsonPair struct {
	From     string    `json:"from"`
	To       string    `json:"to"`
	Answer   int       `json:"answer"`
	Declared []string  `json:"declared,omitempty"` // the declared ports that are allowed
	Seen     *pairSeen `json:"seen,omitempty"`
}

// writeJSON writes the whole document, a pair on a line.
func (v View) writeJSON(w io.Writer) error {
	d := v.document()
	seen := v.seenByPair()
	m := v.Map
	for from := range m.Boxes {
		for to := range m.Boxes {
			a, s := m.Answer(from, to), seen[pair{from, to}]
			if a.Level == reach.Unjudged && s == nil {
				continue
			}
			d.Pairs = append(d.Pairs, jsonPair{From: m.Boxes[from].Name, To: m.Boxes[to].Name, Answer: m.AnswerIndex(from, to),
				Declared: declaredNames(a, m.Boxes[to].Ports), Seen: s})
		}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	return enc.Encode(d)
}

// document is everything but the pairs.
func (v View) document() document {
	d := document{Title: v.Title, Notices: v.Map.Notices, Rules: []jsonRule{}}
	for _, b := range v.Map.Boxes {
		d.Boxes = append(d.Boxes, newJSONBox(b))
	}
	rules := map[flow.Rule]int{}
	for i := range v.Map.Answers() {
		d.Answers = append(d.Answers, d.answer(v.Map.AnswerAt(i), rules))
	}
	return d
}

func newJSONBox(b reach.Box) jsonBox {
	j := jsonBox{Name: b.Name, Kind: b.Kind.String(), Namespace: b.Namespace, Pods: b.Pods, HostNetwork: b.HostNetwork,
		Part: b.Part, FencedIn: b.FencedIngress, FencedOut: b.FencedEgress, Labels: b.Labels.Map(), Place: flow.Rule{File: b.File, Line: b.Line}.Place()}
	if b.Kind == reach.Workload {
		if j.Owner = b.Owner.Kind; b.Owner.Name == "" {
			j.Owner = "Pod"
		}
	}
	for _, p := range b.Ports {
		j.Ports = append(j.Ports, jsonPort{p.Name, p.Protocol.String(), p.Number})
	}
	for _, p := range b.Prefixes {
		j.Prefixes = append(j.Prefixes, p.String())
	}
	return j
}

func (d *document) answer(a *reach.Answer, rules map[flow.Rule]int) jsonAnswer {
	out := jsonAnswer{Level: a.Level.String(), Text: a.Text(), Note: a.Note, Ruled: a.Ruled}
	for _, p := range a.Parts {
		part := jsonPart{Family: p.Family}
		for i := range p.Clauses {
			c := &p.Clauses[i]
			j := jsonClause{Verdict: c.Verdict.String(), Text: c.PortsText(i == len(p.Clauses)-1, len(p.Clauses) == 1),
				Egress: d.half(c.Egress, rules), Ingress: d.half(c.Ingress, rules)}
			for _, r := range c.Ports {
				j.Ranges = append(j.Ranges, newJSONRange(r))
			}
			part.Clauses = append(part.Clauses, j)
		}
		out.Parts = append(out.Parts, part)
	}
	return out
}

func newJSONRange(r reach.Ports) jsonRange {
	if r.Protocol == 0 {
		return jsonRange{Protocol: "other"}
	}
	return jsonRange{r.Protocol.String(), r.First, r.Last}
}

func (d *document) half(h reach.Half, rules map[flow.Rule]int) *jsonHalf {
	if !h.Judged {
		return nil
	}
	out := &jsonHalf{Verdict: h.Verdict.String()}
	if h.Rule.IsZero() {
		return out
	}
	i, ok := rules[h.Rule]
	if !ok {
		i = len(d.Rules)
		rules[h.Rule] = i
		d.Rules = append(d.Rules, newJSONRule(h.Rule))
	}
	out.Rule = &i
	return out
}

func newJSONRule(r flow.Rule) jsonRule {
	j := jsonRule{Kind: r.Kind, Namespace: r.Namespace, Policy: r.Name, Direction: r.Direction.String(), Name: r.Label, Place: r.Place(), Text: r.String()}
	if r.Index != flow.Isolation {
		j.Index = &r.Index
	}
	return j
}

// declaredNames are the declared ports that an answer allows, in at least one family.
func declaredNames(a *reach.Answer, ports []cluster.Port) []string {
	var all []string
	for _, d := range a.Declared(ports) {
		if d.Allowed == reach.All || d.Allowed == reach.Some {
			all = append(all, portName(d.Port))
		}
	}
	return all
}

// portName is "ldap 389" or "53/udp".
func portName(p cluster.Port) string {
	text := strconv.Itoa(int(p.Number))
	if p.Protocol != flow.TCP {
		text += "/" + p.Protocol.String()
	}
	if p.Name != "" {
		text = p.Name + " " + text
	}
	return text
}
