package compile

import (
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// policyKey names a policy in its cluster.
type policyKey struct{ namespace, name string }

func keyOf(p *policy.Policy) policyKey { return policyKey{p.Namespace, p.Name} }

// pol is a policy. Most speak for no pod of ours, and nothing but their subject is looked at.
type pol struct {
	policy  *policy.Policy
	subject uint32
	speaks  bool
	rules   [2][]rule // by direction, while it speaks; none for a direction that a NetworkPolicy does not isolate
	dirs    [2]bool   // the directions in which it counts
	denial  [2]uint32 // number of its implicit denial
	named   [2]bool   // some rule has ports by name
}

// rule is a policy's rule with its selectors as numbers.
type rule struct {
	origin   ruleset.RuleID
	tier     policy.Tier
	action   policy.Action
	anyone   bool     // matches every peer
	byLabels bool     // has peers by labels, so that it may match an unknown pod
	named    bool     // has ports by name
	peers    []uint32 // selectors
	ports    []policy.Port
}

// SetPolicy adds a policy or replaces it by a changed one.
func (c *Compiler) SetPolicy(p *policy.Policy) {
	key := keyOf(p)
	if id, ok := c.policyIndex[key]; ok && c.policies.at(id).policy == p {
		delete(c.pending.policies, key)
		return
	}
	c.pending.policies[key] = p
}

// DeletePolicy removes the policy of that name, which for a policy of a whole cluster has no namespace. One that is not
// there is no error.
func (c *Compiler) DeletePolicy(namespace, name string) {
	key := policyKey{namespace, name}
	delete(c.pending.policies, key)
	if _, ok := c.policyIndex[key]; ok {
		c.pending.policies[key] = nil
	}
}

// updatePending brings policies up to date: first the new ones, so that what both old and new use is kept.
func (c *Compiler) updatePending() {
	if len(c.pending.policies) == 0 {
		return
	}
	keys := make([]policyKey, 0, len(c.pending.policies))
	for key := range c.pending.policies {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b policyKey) int {
		if n := strings.Compare(a.namespace, b.namespace); n != 0 {
			return n
		}
		return strings.Compare(a.name, b.name)
	})
	var old []uint32
	for _, key := range keys {
		if id, ok := c.policyIndex[key]; ok {
			old = append(old, id)
			delete(c.policyIndex, key)
		}
		if p := c.pending.policies[key]; p != nil {
			c.addPolicy(key, p)
		}
	}
	for _, id := range old {
		c.removePolicy(id)
	}
	clear(c.pending.policies)
}

func (c *Compiler) addPolicy(key policyKey, p *policy.Policy) {
	id := c.policies.take()
	c.policyIndex[key] = id
	subject := c.podSelector(p.Subject)
	*c.policies.at(id) = pol{policy: p, subject: subject}
	s := c.selectors.at(subject)
	s.policies = append(s.policies, id)
	if len(s.policies) == 1 {
		c.subjects.add(subject, s)
		c.matchedLocals(subject, s)
	}
	if s.locals > 0 {
		c.speak(id)
	}
}

// matchedLocals finds the label sets of ours that a new subject selects.
func (c *Compiler) matchedLocals(id uint32, s *selector) {
	for _, space := range c.spaceSels.at(s.key.space).spaces {
		for _, i := range c.spaces.at(space).sets {
			if x := c.sets.at(i); x.isLocal && s.labels.Matches(x.key.labels) {
				x.subjects = append(x.subjects, id)
				s.locals++
			}
		}
	}
}

func (c *Compiler) removePolicy(id uint32) {
	p := c.policies.at(id)
	if p.speaks {
		c.hush(id)
	}
	s := c.selectors.at(p.subject)
	s.policies = without(s.policies, id)
	if len(s.policies) == 0 {
		c.subjects.remove(p.subject, s)
		if s.locals > 0 {
			c.matched(s, func(_ uint32, x *set) { x.subjects = without(x.subjects, p.subject) })
		}
		s.locals = 0
	}
	c.releaseSelector(p.subject)
	c.policies.drop(id)
}

// speak makes a policy count: it selects a pod of ours.
func (c *Compiler) speak(id uint32) {
	p := c.policies.at(id)
	p.speaks = true
	for i, d := range flow.Directions {
		p.dirs[i] = p.policy.Tier != policy.Namespace || p.policy.Isolates(d)
		if !p.dirs[i] {
			continue
		}
		if p.policy.Tier == policy.Namespace {
			p.denial[i] = uint32(c.origin(p.policy.RuleAt(d, flow.Isolation)))
		}
		for j := range p.policy.Rules(d) {
			r := c.newRule(p.policy, d, j)
			p.rules[i] = append(p.rules[i], r)
			p.named[i] = p.named[i] || r.named
		}
	}
	c.tell(p.subject)
	c.eachName(p, 1)
	c.touchSubjects(p.subject)
}

// hush is the end of speak.
func (c *Compiler) hush(id uint32) {
	p := c.policies.at(id)
	p.speaks = false
	c.eachName(p, -1)
	for i := range p.rules {
		for _, r := range p.rules[i] {
			for _, peer := range r.peers {
				c.untell(peer)
				c.releaseSelector(peer)
			}
			c.release(r.origin)
		}
		p.rules[i], p.named[i] = nil, false
		if p.denial[i] != 0 {
			c.release(ruleset.RuleID(p.denial[i]))
			p.denial[i] = 0
		}
	}
	c.touchSubjects(p.subject)
	c.untell(p.subject)
}

func (c *Compiler) newRule(p *policy.Policy, d flow.Direction, index int) rule {
	r := p.Rules(d)[index]
	out := rule{origin: c.origin(p.RuleAt(d, index)), tier: p.Tier, action: r.Action, ports: r.Ports}
	for _, peer := range r.Peers {
		switch peer.Kind {
		case policy.PeerNone:
		case policy.PeerAnyone:
			out.anyone = true
		default:
			out.byLabels = out.byLabels || peer.Kind == policy.PeerPods
			id := c.peerSelector(peer)
			c.tell(id)
			out.peers = append(out.peers, id)
		}
	}
	out.named = slices.ContainsFunc(r.Ports, func(p policy.Port) bool { return p.Name != "" })
	return out
}

// eachName counts the port names of a policy in or out.
func (c *Compiler) eachName(p *pol, by int) {
	for i := range p.rules {
		if !p.named[i] {
			continue
		}
		for _, r := range p.rules[i] {
			for _, port := range r.ports {
				if port.Name == "" {
					continue
				}
				was := c.ports.used[port.Name]
				if was+by == 0 {
					delete(c.ports.used, port.Name)
				} else {
					c.ports.used[port.Name] = was + by
				}
				c.pending.names = c.pending.names || was == 0 || was+by == 0
			}
		}
	}
}

// touchSubjects has the sides of the classes of ours that a subject selects looked up again. A class that comes only
// now is looked up anyway.
func (c *Compiler) touchSubjects(selector uint32) {
	for _, id := range c.selectors.at(selector).classes {
		c.touchSubject(id)
	}
}

// matchSubjects finds out again which subjects select a label set, and which policies so begin or cease to speak.
func (c *Compiler) matchSubjects(s *set) {
	old := s.subjects
	s.subjects, s.isLocal = nil, s.locals > 0
	if s.isLocal {
		s.subjects = c.matching(&c.subjects, s, nil)
	}
	for by, list := range map[int][]uint32{1: s.subjects, -1: old} {
		for _, id := range list {
			c.selectors.at(id).locals += by
			c.pending.selected = append(c.pending.selected, id)
		}
	}
}

// updateSpeaking lets policies speak, or not any more, whose subjects select other pods of ours.
func (c *Compiler) updateSpeaking() {
	slices.Sort(c.pending.selected)
	for _, id := range slices.Compact(c.pending.selected) {
		s := c.selectors.at(id)
		for _, p := range slices.Clone(s.policies) {
			switch speaks := c.policies.at(p).speaks; {
			case speaks && s.locals == 0:
				c.hush(p)
			case !speaks && s.locals > 0:
				c.speak(p)
			}
			s = c.selectors.at(id) // the pool may have moved
		}
	}
	c.pending.selected = c.pending.selected[:0]
}

// An origin is a rule that verdicts can come from.
type origin struct {
	id   ruleset.RuleID
	rule flow.Rule
	refs int // policies and rows that name it
	rows int // rows in the ruleset that name it
}

// origin returns the number of r, with one more reference.
func (c *Compiler) origin(r flow.Rule) ruleset.RuleID {
	o := c.rules[r]
	if o == nil {
		c.lastRule++
		o = &origin{id: c.lastRule, rule: r}
		c.rules[r], c.origins[o.id] = o, o
	}
	o.refs++
	return o.id
}

func (c *Compiler) release(id ruleset.RuleID) {
	o := c.origins[id]
	if o.refs--; o.refs == 0 {
		delete(c.rules, o.rule)
		delete(c.origins, id)
	}
}
