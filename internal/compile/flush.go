package compile

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/compile/classes"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// scratch is memory that is used again and again.
type scratch struct {
	key      []byte
	sels     []uint32
	speaking []uint32
	work     []resigning
	moves    []classes.Move
	members  []classes.Member
}

// Flush works out what the changes since the last Flush mean and returns the difference, in an order that is safe at
// every point: no connection is allowed that neither the ruleset before nor the one after allows, and none is denied
// that both allow. Where nothing changes the Delta is empty and the generation stays.
func (c *Compiler) Flush() ruleset.Delta {
	c.rematch()
	c.updatePending()
	c.updateSpeaking()
	c.updateNames()
	c.updateRegions()
	c.updateClasses()
	d := c.classes.Flush(c.members(), c.locals == 0)
	c.sweep()
	return d
}

// rematch finds the selectors of the label sets that are new or whose namespace has other labels, and the subjects
// that select those that have become ours.
func (c *Compiler) rematch() {
	for _, id := range c.pending.sets {
		s := c.sets.At(id)
		isNew := s.rematch
		if s.rematch {
			s.rematch, s.resign = false, true
			s.sels = c.matchingSelectors(s)
		}
		if s.key.space != 0 && (s.isLocal != (s.locals > 0) || isNew && s.isLocal) {
			c.matchSubjects(s)
		}
	}
}

func (c *Compiler) matchingSelectors(s *set) []uint32 {
	if s.key.space != 0 {
		return c.matching(&c.peers, s, s.sels[:0])
	}
	found := s.sels[:0]
	for _, id := range c.nodeSelectors {
		if c.selectors.At(id).labels.Matches(s.key.labels) {
			found = append(found, id)
		}
	}
	return found
}

func (c *Compiler) updateNames() {
	if !c.pending.names {
		return
	}
	for i := range c.sets.Items {
		if s := &c.sets.Items[i]; s.key.ports != 0 && s.hosts > 0 {
			c.resignSet(uint32(i))
		}
	}
}

// sweep forgets what is not needed any more, and begins a new round.
func (c *Compiler) sweep() {
	c.sweepHosts()
	for _, t := range c.pending.regions {
		c.regions.At(t.region).touched = false
	}
	c.sweepSpaces()
	p := &c.pending
	p.hosts, p.sets, p.regions = p.hosts[:0], p.sets[:0], p.regions[:0]
	p.spaces, p.edges, p.names = false, p.edges[:0], false
	c.pods.Settle()
	c.nodePool.Settle()
	c.hosts.Settle()
	c.spaces.Settle()
	c.sets.Settle()
	c.selectors.Settle()
	c.spaceSels.Settle()
	c.policies.Settle()
	c.regions.Settle()
	c.trim()
}

// trim lets go of memory that only a very large change needs, as the first one is.
func (c *Compiler) trim() {
	const large = 1 << 12
	if cap(c.pending.hosts) > large || cap(c.scratch.members) > large {
		c.pending = pending{policies: map[policyKey]*policy.Policy{}}
		c.scratch = scratch{}
	}
}

func (c *Compiler) sweepHosts() {
	for _, t := range c.pending.hosts {
		x := c.hosts.At(t.host)
		x.touched = false
		if x.local != t.local {
			if x.local {
				c.locals++
			} else {
				c.locals--
				delete(c.attached, t.host)
			}
		}
		if x.local {
			c.noteAttachment(t.host)
		}
		if x.first == 0 {
			c.hostIndex.Remove(hashAddr(x.addr), t.host)
			c.areaOf(x.addr).hosts--
			c.hosts.Drop(t.host)
		}
	}
}

func (c *Compiler) noteAttachment(h uint32) {
	if at := c.attachmentOf(h); at != (ruleset.Attachment{}) {
		c.attached[h] = at
	} else if len(c.attached) > 0 {
		delete(c.attached, h)
	}
}

// attachmentOf returns where the pod that has a host's address is plugged in.
func (c *Compiler) attachmentOf(h uint32) ruleset.Attachment {
	if len(c.attachments) == 0 {
		return ruleset.Attachment{}
	}
	w := c.winner(h)
	if w == 0 || w&ofNode != 0 {
		return ruleset.Attachment{}
	}
	return c.attachments[uint32(w)]
}

// Ruleset returns the current ruleset: a copy, whose making takes time in its size.
func (c *Compiler) Ruleset() *ruleset.Ruleset {
	r := ruleset.New()
	r.Generation = c.classes.Generation
	for i := range c.hosts.Items {
		x := &c.hosts.Items[i]
		if x.set == 0 {
			continue
		}
		if id := c.identityOf(x); id != c.identityAround(x) {
			r.Addresses[netip.PrefixFrom(x.addr, x.addr.BitLen())] = ruleset.Identity(id)
		}
		if x.local {
			r.Locals[x.addr] = c.attached[uint32(i)]
		}
	}
	for _, id := range c.regionIndex {
		x := c.regions.At(id)
		if x.prefix.IsSingleIP() && c.hostAt(x.prefix.Addr()) != 0 {
			continue
		}
		if x.identity != c.regions.At(x.parent).identity {
			r.Addresses[x.prefix] = ruleset.Identity(x.identity)
		}
	}
	c.classes.AddTo(r)
	return r
}

// Judge gives the verdict for a connection as the current ruleset does. It does not allocate.
func (c *Compiler) Judge(t flow.Tuple) ruleset.Judgement {
	allowed := ruleset.Judgement{Verdict: flow.Allow}
	if t.Source == t.Destination && !t.Translated {
		return allowed
	}
	from, to := c.hostAt(t.Source), c.hostAt(t.Destination)
	egress, ingress := c.hosts.At(from).local, c.hosts.At(to).local && !t.Local
	if !egress && !ingress {
		return allowed // as on every node but one or two
	}
	source, destination := c.identityAt(t.Source, from), c.identityAt(t.Destination, to)
	if egress {
		j := c.judgeSide(0, source, destination, t)
		if j.Verdict != flow.Allow {
			return j
		}
		allowed = j
	}
	if ingress {
		if j := c.judgeSide(1, destination, source, t); j.Verdict != flow.Allow || j.Rule != 0 {
			return j
		}
	}
	return allowed
}

// Decide is Judge with the rule itself in place of its number.
func (c *Compiler) Decide(t flow.Tuple) flow.Decision {
	j := c.Judge(t)
	return flow.Decision{Verdict: j.Verdict, Direction: j.Direction, Rule: c.rows.Rule(j.Rule)}
}

// identityAt returns the identity of an address, whose host is h; 0 if it has none.
func (c *Compiler) identityAt(a netip.Addr, h uint32) uint32 {
	if h != 0 {
		return c.identityOf(c.hosts.At(h))
	}
	return c.regions.At(c.regionOf(a)).identity
}

func (c *Compiler) judgeSide(d int, subject, peer uint32, t flow.Tuple) ruleset.Judgement {
	row, judged := c.classes.Row(subject, peer, d)
	if !judged {
		return ruleset.Judgement{Verdict: flow.Allow}
	}
	cell := row.Value.Lookup(t.Protocol, t.Port)
	j := ruleset.Judgement{Verdict: cell.Verdict, Row: row.ID, Rule: cell.Rule}
	if cell.Verdict != flow.Allow {
		j.Direction = flow.Directions[d]
	}
	return j
}
