package compile

import (
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// active is a policy that speaks of pods of ours, with its selectors as numbers.
type active struct {
	policy  *policy.Policy
	subject selectorID
	rules   map[flow.Direction][]rule // not there for a direction that a NetworkPolicy does not isolate
}

// rule is a policy's rule with its selectors as numbers.
type rule struct {
	policy   *policy.Policy
	index    int
	action   policy.Action
	anyone   bool         // matches every peer
	byLabels bool         // has peers by labels, so that it may match an unknown pod
	peers    []selectorID // in order
	ports    []policy.Port
	named    bool // has ports by name
}

func (w *compilation) activate(p *policy.Policy) active {
	a := active{p, w.selectors.addPods(p.Subject), map[flow.Direction][]rule{}}
	for _, d := range flow.Directions {
		if p.Tier == policy.Namespace && !p.Isolates(d) {
			continue
		}
		a.rules[d] = []rule{}
		for i, r := range p.Rules(d) {
			a.rules[d] = append(a.rules[d], w.newRule(p, i, r))
		}
	}
	return a
}

func (w *compilation) newRule(p *policy.Policy, index int, r policy.Rule) rule {
	out := rule{policy: p, index: index, action: r.Action, ports: r.Ports}
	for _, peer := range r.Peers {
		switch peer.Kind {
		case policy.PeerAnyone:
			out.anyone = true
		case policy.PeerPods:
			out.byLabels = true
			out.peers = append(out.peers, w.selectors.addPods(peer.Pods))
		case policy.PeerNodes:
			out.peers = append(out.peers, w.selectors.addNodes(peer.Nodes))
		case policy.PeerBlock:
			out.peers = append(out.peers, w.selectors.addBlock(peer))
		}
	}
	slices.Sort(out.peers)
	out.peers = slices.Compact(out.peers)
	out.named = slices.ContainsFunc(r.Ports, func(p policy.Port) bool { return p.Name != "" })
	return out
}

// memoKey is all that the rows of a subject depend on: subjects for which the same policies speak share them.
type memoKey struct {
	dir      flow.Direction
	policies string
	names    nameKey // of the subject, if they matter
}

// peerRows are the rows of one subject: one for most peers, and the exceptions.
type peerRows struct {
	usual  ruleset.RowID
	others map[ruleset.Identity]ruleset.RowID
}

// subjects fills in the rows of every identity of ours.
func (w *compilation) subjects() {
	ours := map[ruleset.Identity]bool{}
	for a := range w.out.Locals {
		ours[w.out.IdentityOf(a)] = true
	}
	speakers := map[selectorID][]int{} // the policies by their subject, as indices of w.policies
	for i, a := range w.policies {
		speakers[a.subject] = append(speakers[a.subject], i)
	}
	w.matched, w.unknown = w.classes.bySelector()
	for _, id := range sortedIDs(ours) {
		var policies []int
		for _, s := range w.classes.byID[id].selectors {
			policies = append(policies, speakers[s]...)
		}
		slices.Sort(policies) // the order in which they are asked
		for _, d := range flow.Directions {
			if r, ok := w.rowsFor(id, d, policies); ok {
				w.put(ruleset.Subject{Direction: d, Identity: id}, r)
			}
		}
	}
}

// rowsFor returns the rows of a subject for which the given policies speak; false if none has an effect.
func (w *compilation) rowsFor(id ruleset.Identity, d flow.Direction, policies []int) (peerRows, bool) {
	q := side{w: w, dir: d, memo: map[rowKey]ruleset.RowID{}}
	var speaking []byte
	for _, i := range policies {
		if rules, speaks := w.policies[i].rules[d]; speaks {
			q.add(w.policies[i].policy, rules)
			speaking = binary.AppendUvarint(speaking, uint64(i))
		}
	}
	if len(speaking) == 0 {
		return peerRows{}, false
	}
	if d == flow.Ingress && q.named { // the subject is the server: what it calls its ports matters
		q.names = w.classes.byID[id].names
	}
	key := memoKey{d, string(speaking), q.names}
	r, known := w.memo[key]
	if !known {
		r = q.peerRows()
		w.memo[key] = r
	}
	return r, true
}

// put takes the rows of s into the ruleset, with the rules that they come from.
func (w *compilation) put(s ruleset.Subject, r peerRows) {
	open := ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow})
	if len(r.others) == 0 && w.rows[r.usual].Equal(open) {
		return // policies that say nothing
	}
	w.out.Defaults[s] = r.usual
	w.use(r.usual)
	for peer, row := range r.others {
		w.out.Pairs[ruleset.Pair{Subject: s, Peer: peer}] = row
		w.use(row)
	}
}

func (w *compilation) use(id ruleset.RowID) {
	if _, ok := w.out.Rows[id]; ok {
		return
	}
	row := w.rows[id]
	w.out.Rows[id] = row
	take := func(c ruleset.Cell) {
		if c.Rule != 0 {
			w.out.Rules[c.Rule] = w.rules[c.Rule]
		}
	}
	take(row.Other)
	for _, p := range flow.PortProtocols {
		for _, segment := range row.Segments(p) {
			take(segment.Cell)
		}
	}
}
