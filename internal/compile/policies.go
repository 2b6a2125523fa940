package compile

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/compile/rows"
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
	rules   [2][]rows.Rule    // by direction, while it speaks; none for a direction that a NetworkPolicy does not isolate
	dirs    [2]bool           // the directions in which it counts
	denial  [2]ruleset.RuleID // number of its implicit denial
	named   [2]bool           // some rule has ports by name
}

// SetPolicy adds a policy or replaces it by a changed one.
func (c *Compiler) SetPolicy(p *policy.Policy) {
	key := keyOf(p)
	if id, ok := c.policyIndex[key]; ok && c.policies.At(id).policy == p {
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
	id := c.policies.Take()
	c.policyIndex[key] = id
	subject := c.podSelector(p.Subject)
	*c.policies.At(id) = pol{policy: p, subject: subject}
	s := c.selectors.At(subject)
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
	for _, space := range c.spaceSels.At(s.key.space).spaces {
		for _, i := range c.spaces.At(space).sets {
			if x := c.sets.At(i); x.isLocal && s.labels.Matches(x.key.labels) {
				x.subjects = append(x.subjects, id)
				s.locals++
			}
		}
	}
}

func (c *Compiler) removePolicy(id uint32) {
	p := c.policies.At(id)
	if p.speaks {
		c.hush(id)
	}
	s := c.selectors.At(p.subject)
	s.policies = pool.Without(s.policies, id)
	if len(s.policies) == 0 {
		c.subjects.remove(p.subject, s)
		if s.locals > 0 {
			c.matched(s, func(_ uint32, x *set) { x.subjects = pool.Without(x.subjects, p.subject) })
		}
		s.locals = 0
	}
	c.releaseSelector(p.subject)
	c.policies.Drop(id)
}

// speak makes a policy count: it selects a pod of ours.
func (c *Compiler) speak(id uint32) {
	p := c.policies.At(id)
	p.speaks = true
	for i, d := range flow.Directions {
		p.dirs[i] = p.policy.Tier != policy.Namespace || p.policy.Isolates(d)
		if !p.dirs[i] {
			continue
		}
		if p.policy.Tier == policy.Namespace {
			p.denial[i] = c.rows.Number(p.policy.RuleAt(d, flow.Isolation))
		}
		for j := range p.policy.Rules(d) {
			r := c.newRule(p.policy, d, j)
			p.rules[i] = append(p.rules[i], r)
			p.named[i] = p.named[i] || r.Named
		}
	}
	c.tell(p.subject)
	c.eachName(p, 1)
	c.classes.TouchSubjects(p.subject)
}

// hush is the end of speak.
func (c *Compiler) hush(id uint32) {
	p := c.policies.At(id)
	p.speaks = false
	c.eachName(p, -1)
	for i := range p.rules {
		for _, r := range p.rules[i] {
			for _, peer := range r.Peers {
				c.untell(peer)
				c.releaseSelector(peer)
			}
			c.rows.Release(r.Origin)
		}
		p.rules[i], p.named[i] = nil, false
		if p.denial[i] != 0 {
			c.rows.Release(p.denial[i])
			p.denial[i] = 0
		}
	}
	c.classes.TouchSubjects(p.subject)
	c.untell(p.subject)
}

func (c *Compiler) newRule(p *policy.Policy, d flow.Direction, index int) rows.Rule {
	r := p.Rules(d)[index]
	out := rows.Rule{Origin: c.rows.Number(p.RuleAt(d, index)), Tier: p.Tier, Action: r.Action, Ports: r.Ports}
	for _, peer := range r.Peers {
		switch peer.Kind {
		case policy.PeerNone:
		case policy.PeerAnyone:
			out.Anyone = true
		default:
			out.ByLabels = out.ByLabels || peer.Kind == policy.PeerPods
			id := c.peerSelector(peer)
			c.tell(id)
			out.Peers = append(out.Peers, id)
		}
	}
	out.Named = slices.ContainsFunc(r.Ports, func(p policy.Port) bool { return p.Name != "" })
	return out
}

// eachName counts the port names of a policy in or out.
func (c *Compiler) eachName(p *pol, by int) {
	for i := range p.rules {
		if !p.named[i] {
			continue
		}
		for _, r := range p.rules[i] {
			for _, port := range r.Ports {
				if port.Name == "" {
					continue
				}
				was := c.rows.Ports.Used[port.Name]
				if was+by == 0 {
					delete(c.rows.Ports.Used, port.Name)
				} else {
					c.rows.Ports.Used[port.Name] = was + by
				}
				c.pending.names = c.pending.names || was == 0 || was+by == 0
			}
		}
	}
}

// sideOf returns the side of subjects that selectors match; 0 if no policy has an effect.
func (c *Compiler) sideOf(sels []uint32, names uint32, d int) uint32 {
	speaking := c.scratch.speaking[:0]
	named := false
	for _, sel := range sels {
		for _, p := range c.selectors.At(sel).policies {
			if y := c.policies.At(p); y.speaks && y.dirs[d] {
				speaking = append(speaking, p)
				named = named || y.named[d]
			}
		}
	}
	c.scratch.speaking = speaking
	if len(speaking) == 0 {
		return 0
	}
	slices.SortFunc(speaking, func(a, b uint32) int {
		return policy.Compare(c.policies.At(a).policy, c.policies.At(b).policy)
	})
	if !named || flow.Directions[d] != flow.Ingress { // only of a subject that is the server it matters what it calls its ports
		names = 0
	}
	key := append(c.scratch.key[:0], byte(d))
	key = binary.AppendUvarint(key, uint64(names))
	for _, p := range speaking {
		key = binary.AppendUvarint(key, uint64(p))
	}
	c.scratch.key = key
	return c.classes.Side(key, flow.Directions[d], names, func() rows.Order { return c.order(speaking, d) })
}

// order returns the rules of policies, which are in their order already.
func (c *Compiler) order(policies []uint32, d int) (o rows.Order) {
	count := 0
	for _, p := range policies {
		count += len(c.policies.At(p).rules[d])
	}
	o.Rules = make([]rows.Rule, 0, count)
	for _, p := range policies {
		y := c.policies.At(p)
		if y.denial[d] != 0 && !o.Isolated {
			o.Isolated, o.Denial = true, y.denial[d]
		}
		o.Rules = append(o.Rules, y.rules[d]...)
	}
	return o
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
			c.selectors.At(id).locals += by
			c.pending.selected = append(c.pending.selected, id)
		}
	}
}

// updateSpeaking lets policies speak, or not any more, whose subjects select other pods of ours.
func (c *Compiler) updateSpeaking() {
	slices.Sort(c.pending.selected)
	for _, id := range slices.Compact(c.pending.selected) {
		s := c.selectors.At(id)
		for _, p := range slices.Clone(s.policies) {
			switch speaks := c.policies.At(p).speaks; {
			case speaks && s.locals == 0:
				c.hush(p)
			case !speaks && s.locals > 0:
				c.speak(p)
			}
			s = c.selectors.At(id) // the pool may have moved
		}
	}
	c.pending.selected = c.pending.selected[:0]
}
