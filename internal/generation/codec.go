package generation

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// The form of policies on disk. Fields may be added to it; what a field means may not change, because generations are
// returned to that an older program wrote.

type storedPolicy struct {
	Tier      string         `json:"tier"`
	Namespace string         `json:"namespace,omitempty"`
	Name      string         `json:"name"`
	Priority  int32          `json:"priority,omitempty"`
	Subject   storedPods     `json:"subject"`
	Isolates  []string       `json:"isolates,omitempty"` // directions
	Egress    []storedRule   `json:"egress,omitempty"`
	Ingress   []storedRule   `json:"ingress,omitempty"`
	Alert     string         `json:"alert,omitempty"`
	Defect    string         `json:"defect,omitempty"`
	Place     *storedPlace   `json:"place,omitempty"`
	Lines     map[string]int `json:"lines,omitempty"` // of rules: "ingress[0]"
}

type storedPlace struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
}

// storedPods holds canonical selectors; null selects nothing.
type storedPods struct {
	Namespaces *string `json:"namespaces"`
	Pods       *string `json:"pods"`
}

type storedRule struct {
	Name   string       `json:"name,omitempty"`
	Action string       `json:"action"`
	Peers  []storedPeer `json:"peers,omitempty"`
	Ports  []storedPort `json:"ports,omitempty"`
}

// storedPeer sets one field; none is PeerNone.
type storedPeer struct {
	Anyone bool          `json:"anyone,omitempty"`
	Pods   *storedPods   `json:"pods,omitempty"`
	Nodes  *storedNodes  `json:"nodes,omitempty"`
	Block  *netip.Prefix `json:"block,omitempty"`
	// Except belongs to Block.
	Except []netip.Prefix `json:"except,omitempty"`
}

type storedNodes struct {
	Selector *string `json:"selector"`
}

type storedPort struct {
	Protocol flow.Protocol `json:"protocol,omitempty"`
	First    uint16        `json:"first,omitempty"`
	Last     uint16        `json:"last,omitempty"`
	Name     string        `json:"name,omitempty"`
}

// Of returns the ID of a set of policies: the hash of all that they say, and of nothing else. The order of the policies,
// the files they are in and the lines do not count, nor does what exactly is wrong with one that could not be read.
func Of(policies []*policy.Policy) ID {
	stored := make([]storedPolicy, 0, len(policies))
	for _, p := range sorted(policies) {
		s := store(p)
		s.Place, s.Lines = nil, nil
		if s.Defect != "" {
			s.Defect = "cannot be read"
		}
		stored = append(stored, s)
	}
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(stored); err != nil { // strings and numbers can always be written
		return ""
	}
	return ID(hex.EncodeToString(h.Sum(nil)[:idBytes]))
}

// Same reports whether two policies say the same, as far as Of tells. Nil is no policy.
func Same(a, b *policy.Policy) bool {
	if a == nil || b == nil {
		return a == b
	}
	return Of([]*policy.Policy{a}) == Of([]*policy.Policy{b})
}

func sorted(policies []*policy.Policy) []*policy.Policy {
	all := slices.Clone(policies)
	slices.SortStableFunc(all, policy.Compare)
	return all
}

func store(p *policy.Policy) storedPolicy {
	s := storedPolicy{Tier: p.Tier.String(), Namespace: p.Namespace, Name: p.Name, Priority: p.Priority, Subject: storePods(p.Subject),
		Alert: p.AlertTitle, Defect: p.Defect, Lines: map[string]int{}}
	if p.File != "" {
		s.Place = &storedPlace{p.File, p.Line}
	}
	for _, d := range flow.Directions {
		if p.Isolates(d) {
			s.Isolates = append(s.Isolates, d.String())
		}
		var rules []storedRule
		for i, r := range p.Rules(d) {
			rules = append(rules, storeRule(r))
			if r.Line != 0 {
				s.Lines[lineKey(d, i)] = r.Line
			}
		}
		if d == flow.Egress {
			s.Egress = rules
		} else {
			s.Ingress = rules
		}
	}
	return s
}

func lineKey(d flow.Direction, index int) string { return fmt.Sprintf("%s[%d]", d, index) }

func storeSelector(s label.Selector) *string {
	if s.IsNothing() {
		return nil
	}
	text := s.String()
	return &text
}

func storePods(p policy.Pods) storedPods {
	return storedPods{storeSelector(p.Namespaces), storeSelector(p.Pods)}
}

func storeRule(r policy.Rule) storedRule {
	s := storedRule{Name: r.Name, Action: r.Action.String()}
	for _, p := range r.Peers {
		var peer storedPeer
		switch p.Kind {
		case policy.PeerAnyone:
			peer.Anyone = true
		case policy.PeerPods:
			pods := storePods(p.Pods)
			peer.Pods = &pods
		case policy.PeerNodes:
			peer.Nodes = &storedNodes{storeSelector(p.Nodes)}
		case policy.PeerBlock:
			peer.Block, peer.Except = &p.Block, p.Except
		}
		s.Peers = append(s.Peers, peer)
	}
	for _, p := range r.Ports {
		s.Ports = append(s.Ports, storedPort(p))
	}
	return s
}

// load is the way back from store. What it returns has passed policy.New.
func (s storedPolicy) load() (*policy.Policy, error) {
	p := policy.Policy{Namespace: s.Namespace, Name: s.Name, Priority: s.Priority, AlertTitle: s.Alert, Defect: s.Defect,
		IsolatesEgress:  slices.Contains(s.Isolates, flow.Egress.String()),
		IsolatesIngress: slices.Contains(s.Isolates, flow.Ingress.String())}
	for _, t := range policy.Tiers {
		if t.String() == s.Tier {
			p.Tier = t
		}
	}
	if s.Place != nil {
		p.File, p.Line = s.Place.File, s.Place.Line
	}
	var err error
	if p.Subject, err = s.Subject.load(); err != nil {
		return nil, err
	}
	if p.Egress, err = s.rules(flow.Egress, s.Egress); err != nil {
		return nil, err
	}
	if p.Ingress, err = s.rules(flow.Ingress, s.Ingress); err != nil {
		return nil, err
	}
	return policy.New(p)
}

func (s storedPolicy) rules(d flow.Direction, stored []storedRule) ([]policy.Rule, error) {
	var rules []policy.Rule
	for i, r := range stored {
		rule, err := r.load()
		if err != nil {
			return nil, fmt.Errorf("policy %s: %s: %w", s.Name, lineKey(d, i), err)
		}
		rule.Line = s.Lines[lineKey(d, i)]
		rules = append(rules, rule)
	}
	return rules, nil
}

func (s storedRule) load() (policy.Rule, error) {
	r := policy.Rule{Name: s.Name}
	known := false
	for _, a := range []policy.Action{policy.Deny, policy.Accept, policy.Pass} {
		if a.String() == s.Action {
			r.Action, known = a, true
		}
	}
	if !known {
		return r, fmt.Errorf("action %q is none", s.Action)
	}
	for _, p := range s.Peers {
		peer, err := p.load()
		if err != nil {
			return r, err
		}
		r.Peers = append(r.Peers, peer)
	}
	for _, p := range s.Ports {
		r.Ports = append(r.Ports, policy.Port(p))
	}
	return r, nil
}

func (s storedPeer) load() (policy.Peer, error) {
	switch {
	case s.Anyone:
		return policy.Peer{Kind: policy.PeerAnyone}, nil
	case s.Pods != nil:
		pods, err := s.Pods.load()
		return policy.Peer{Kind: policy.PeerPods, Pods: pods}, err
	case s.Nodes != nil:
		nodes, err := loadSelector(s.Nodes.Selector)
		return policy.Peer{Kind: policy.PeerNodes, Nodes: nodes}, err
	case s.Block != nil:
		return policy.Peer{Kind: policy.PeerBlock, Block: *s.Block, Except: s.Except}, nil
	}
	return policy.Peer{}, nil
}

func (s storedPods) load() (policy.Pods, error) {
	namespaces, err := loadSelector(s.Namespaces)
	if err != nil {
		return policy.Pods{}, err
	}
	pods, err := loadSelector(s.Pods)
	return policy.Pods{Namespaces: namespaces, Pods: pods}, err
}

func loadSelector(text *string) (label.Selector, error) {
	if text == nil {
		return label.Selector{}, nil
	}
	return label.Parse(*text)
}

// encodePolicies is the text of policies in the order in which they are asked.
func encodePolicies(policies []*policy.Policy) ([]byte, error) {
	var out bytes.Buffer
	for _, p := range sorted(policies) {
		line, err := json.Marshal(store(p))
		if err != nil {
			return nil, err
		}
		out.Write(line)
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

// decodePolicies reads what encodePolicies wrote, and nothing else: an unknown field is one of a newer program, whose
// policies would be read as less than they say.
func decodePolicies(text []byte) ([]*policy.Policy, error) {
	var policies []*policy.Policy
	for line := range strings.Lines(string(text)) {
		var s storedPolicy
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return nil, err
		}
		p, err := s.load()
		if err != nil {
			return nil, err
		}
		policies = append(policies, p)
	}
	return policies, nil
}
