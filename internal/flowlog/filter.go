package flowlog

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// Filter chooses records. All of its parts have to hold; the zero value wants every record. Make one with
// Options.Query.
type Filter struct {
	namespaces       []string // of either end
	either, from, to *endFilter
	selector         *label.Selector // of either end
	verdict          *flow.Verdict
	ports            []portFilter
	policy           string
	wouldDeny        bool
	wouldAllow       bool
	rollout          string
}

// Matches reports whether f wants r.
func (f *Filter) Matches(r *Record) bool {
	src, dst := &r.Source, &r.Destination
	return (f.verdict == nil || *f.verdict == r.Verdict) &&
		(f.namespaces == nil || inNamespace(f.namespaces, src) || inNamespace(f.namespaces, dst)) &&
		(f.selector == nil || labelled(f.selector, src) || labelled(f.selector, dst)) &&
		(f.either == nil || f.either.matches(src) || f.either.matches(dst)) &&
		(f.from == nil || f.from.matches(src)) &&
		(f.to == nil || f.to.matches(dst)) &&
		(f.ports == nil || slices.ContainsFunc(f.ports, func(p portFilter) bool { return p.matches(r) })) &&
		(f.policy == "" || f.ofPolicy(r)) &&
		(!f.wouldDeny && !f.wouldAllow || f.wouldDeny && r.WouldDeny() || f.wouldAllow && r.WouldAllow()) &&
		(f.rollout == "" || r.Beside != nil && r.Beside.Rollout == f.rollout)
}

func inNamespace(names []string, e *End) bool {
	return e.Namespace != "" && slices.Contains(names, e.Namespace)
}

// labelled: only what is known can have labels, so that "!key" does not select the world outside.
func labelled(s *label.Selector, e *End) bool {
	return (e.Pod != "" || e.Node != "") && s.Matches(e.Labels)
}

func (f *Filter) ofPolicy(r *Record) bool {
	rule := r.Rule
	rule.Name, _, _ = strings.Cut(rule.Name, " (") // a rollout's candidate is the same policy
	return !r.Rule.IsZero() && (rule.Policy() == f.policy || rule.Name == f.policy)
}

type portFilter struct {
	protocol flow.Protocol // 0: any that has ports
	port     uint16
}

func (p portFilter) matches(r *Record) bool {
	if p.protocol != 0 && !p.protocol.HasPorts() {
		return r.Protocol == p.protocol
	}
	return r.Protocol.HasPorts() && r.Port == p.port && (p.protocol == 0 || p.protocol == r.Protocol)
}

func parsePort(text string) (portFilter, error) {
	number, proto, given := strings.Cut(text, "/")
	var p portFilter
	var err error
	if given {
		if p.protocol, err = flow.ParseProtocol(proto); err == nil && !p.protocol.HasPorts() {
			return p, fmt.Errorf("port %q: %s has no ports; write %q", text, p.protocol, p.protocol)
		}
	}
	n, bad := strconv.ParseUint(number, 10, 16)
	if bad == nil && err == nil {
		p.port = uint16(n)
		return p, nil
	}
	if q, err := flow.ParseProtocol(text); err == nil && bad != nil && !q.HasPorts() {
		return portFilter{protocol: q}, nil
	}
	return p, fmt.Errorf("port %q: want a number from 0 to 65535, 53/udp, or icmp", text)
}

// EndForms says what an end may be written as, for help texts and errors.
const EndForms = "namespace/pod, namespace/workload, namespace/kind/name, a bare name, namespace/*, selector, " +
	"namespace/selector, node/name, an address or a block of them"

// endFilter chooses one end. Unlike a reference of a query it also finds pods that are gone.
type endFilter struct {
	namespace, kind, name string
	node                  string
	selector              *label.Selector
	block                 netip.Prefix
}

func (f *endFilter) matches(e *End) bool {
	switch {
	case f.block.IsValid():
		return f.block.Contains(e.Address)
	case f.node != "":
		return e.Node == f.node
	}
	if e.Pod == "" || f.namespace != "" && e.Namespace != f.namespace {
		return false
	}
	if f.selector != nil {
		return f.selector.Matches(e.Labels)
	}
	switch {
	case f.name == "":
		return true
	case f.kind == "":
		return e.Pod == f.name || e.Workload == f.name
	case strings.EqualFold(f.kind, "pod"):
		return e.Pod == f.name
	}
	return strings.EqualFold(e.Kind, f.kind) && e.Workload == f.name
}

func parseEnd(text string) (*endFilter, error) {
	if block, ok := parseBlock(text); ok {
		return &endFilter{block: block}, nil
	}
	if namespace, selector, ok := splitSelector(text); ok {
		sel, err := label.Parse(selector)
		if err != nil {
			return nil, err
		}
		return &endFilter{namespace: namespace, selector: &sel}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) > 3 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("%q: want %s", text, EndForms)
	}
	last := parts[len(parts)-1]
	switch {
	case last == "*" && len(parts) == 1:
		return &endFilter{}, nil
	case last == "*" && len(parts) == 2:
		return &endFilter{namespace: parts[0]}, nil
	case len(parts) == 1:
		return &endFilter{name: last}, nil
	case len(parts) == 2 && parts[0] == "node":
		return &endFilter{node: last}, nil
	case len(parts) == 2:
		return &endFilter{namespace: parts[0], name: last}, nil
	}
	return &endFilter{namespace: parts[0], kind: parts[1], name: last}, nil
}

func parseBlock(text string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err == nil
}

// splitSelector takes "namespace/selector" and "selector" apart. A first part with a dot is a label key's prefix, as
// no namespace's name has one.
func splitSelector(text string) (namespace, selector string, ok bool) {
	if first, rest, found := strings.Cut(text, "/"); found && !strings.ContainsAny(first, ".=!( ") {
		return first, rest, strings.ContainsAny(rest, "=!(")
	}
	return "", text, strings.ContainsAny(text, "=!(")
}

// Options are a Query as people and programs write it. All that are set have to hold.
type Options struct {
	Since      time.Time `json:"since,omitzero"`
	Last       int       `json:"last,omitempty"`
	Namespaces []string  `json:"namespaces,omitempty"` // one of them at either end
	Pod        string    `json:"pod,omitempty"`        // either end; see EndForms
	From       string    `json:"from,omitempty"`       // see EndForms
	To         string    `json:"to,omitempty"`         // see EndForms
	Selector   string    `json:"selector,omitempty"`   // the labels of either end
	Verdict    string    `json:"verdict,omitempty"`    // "allow" or "deny"
	Ports      []string  `json:"ports,omitempty"`      // one of them: "389", "53/udp", "icmp"
	Policy     string    `json:"policy,omitempty"`     // "namespace/name" or "name"
	// Flows on which a rollout's candidate and the policies before differ: those that it denies or would deny, and those
	// that it allows or would allow. Both are either.
	WouldDeny  bool   `json:"wouldDeny,omitempty"`
	WouldAllow bool   `json:"wouldAllow,omitempty"`
	Rollout    string `json:"rollout,omitempty"` // such flows of this one only
}

// Query reads the options. The error names the first one that cannot be read.
func (o Options) Query() (Query, error) {
	q := Query{Since: o.Since, Last: o.Last, Filter: Filter{policy: o.Policy,
		wouldDeny: o.WouldDeny, wouldAllow: o.WouldAllow, rollout: o.Rollout}}
	if o.Last < 0 {
		return Query{}, fmt.Errorf("last: want a number of records, not %d", o.Last)
	}
	f := &q.Filter
	f.namespaces = append(f.namespaces, o.Namespaces...)
	for _, e := range []struct {
		name, text string
		filter     **endFilter
	}{{"pod", o.Pod, &f.either}, {"from", o.From, &f.from}, {"to", o.To, &f.to}} {
		if e.text == "" {
			continue
		}
		var err error
		if *e.filter, err = parseEnd(e.text); err != nil {
			return Query{}, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	if o.Selector != "" {
		s, err := label.Parse(o.Selector)
		if err != nil {
			return Query{}, err
		}
		f.selector = &s
	}
	if o.Verdict != "" {
		v, err := parseVerdict(o.Verdict)
		if err != nil {
			return Query{}, err
		}
		f.verdict = &v
	}
	for _, text := range o.Ports {
		p, err := parsePort(text)
		if err != nil {
			return Query{}, err
		}
		f.ports = append(f.ports, p)
	}
	return q, nil
}

func parseVerdict(s string) (flow.Verdict, error) {
	for _, v := range []flow.Verdict{flow.Deny, flow.Allow} {
		if s == v.String() {
			return v, nil
		}
	}
	return flow.Deny, fmt.Errorf("verdict %q: want allow or deny", s)
}
