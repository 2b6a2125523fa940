//go:build linux

package nft

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var (
	generationText = regexp.MustCompile(`"generation (\d+)"`)
	bornText       = regexp.MustCompile(`"rf:(\d+):\d+:[or]"`)
	editionText    = regexp.MustCompile(`\[immediate 1=00000001 2\( 1=([0-9a-f]{8})\)\](\[meta [^]]*\])+\[lookup 1="edition"`)
	madeText       = regexp.MustCompile(`^(blocks[46]|closed[46]|ports_\d+_[a-z]+)_(\d+)$`)
	lookedAtText   = regexp.MustCompile(`\[lookup 1="((?:blocks[46]|closed[46]|ports_\d+_[a-z]+)_\d+)"`)
	defaultText    = regexp.MustCompile(`\[immediate 1=00000001 2\( 1=([0-9a-f]{8})\)\]`) // what subjectRules put in the scratch
)

// decode says what an image means. It leaves out what means nothing: whoever wants to know encodes the result again
// and compares.
func decode(i *netfilter.Image) (r *ruleset.Ruleset, s *state) {
	r, s = ruleset.New(), newState(edition(i))
	s.closed = madeBy(i.Chains[named(unknownSource)].Rules, versioned("closed", 0).Name)
	for v := range 2 {
		s.blocks[v] = madeBy(i.Chains[named("client")].Rules, versioned("blocks", v).Name)
	}
	for _, text := range i.Chains[named("state")].Rules {
		r.Generation = find(generationText, text)
	}
	for _, e := range epochs(i) {
		s.epoch = e
	}
	decodeAddresses(i, r)
	for key := range i.Maps[rowsMap.Ref].Elements {
		if id := ruleset.RowID(readNumber(key) - ruleset.RowBase); readNumber(key) > ruleset.RowBase {
			s.ports[id] = madeBy(i.Chains[named(rowChain(id))].Rules, fmt.Sprintf("ports_%d_", id))
			r.Rows[id], s.born[id] = decodeRow(i, id, s.ports[id])
		}
	}
	for _, d := range flow.Directions {
		for key := range i.Maps[subjectsMap(d).Ref].Elements {
			s := ruleset.Subject{Direction: d, Identity: ruleset.Identity(readNumber(key))}
			if rules := i.Chains[named(subjectChain(s))].Rules; len(rules) > 0 {
				r.Defaults[s] = defaultOf(rules[len(rules)-1])
			}
			for peer, row := range i.Maps[peersMap(s).Ref].Elements {
				r.Pairs[ruleset.Pair{Subject: s, Peer: ruleset.Identity(readNumber(peer))}] = ruleset.RowID(readNumber(row) - ruleset.RowBase)
			}
		}
	}
	return r, s
}

// defaultOf reads the default row from the last rule of a subject's chain; 0 if it is not as we write it.
func defaultOf(rule string) ruleset.RowID {
	m := defaultText.FindStringSubmatch(rule)
	if m == nil {
		return 0
	}
	b, err := hex.DecodeString(m[1])
	if n := readNumber(string(b)); err == nil && n > ruleset.RowBase {
		return ruleset.RowID(n - ruleset.RowBase)
	}
	return 0
}

// find returns the number that the pattern picks out of s, or 0.
func find(pattern *regexp.Regexp, s string) uint64 {
	m := pattern.FindStringSubmatch(s)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// edition returns the edition that a rule names, or 0.
func edition(i *netfilter.Image) uint32 {
	for _, text := range i.Chains[allowedChain(0, 0).Ref].Rules {
		if m := editionText.FindStringSubmatch(text); m != nil {
			b, err := hex.DecodeString(m[1])
			if err == nil {
				return readNumber(string(b))
			}
		}
	}
	return 0
}

// lastEdition returns the highest edition that a rule names or that a map was made in, or 0.
func lastEdition(i *netfilter.Image) uint32 {
	last := edition(i)
	for r := range i.Maps {
		if _, made := whenMade(r.Name); r.Family == netfilter.Inet {
			last = max(last, made)
		}
	}
	return last
}

// whenMade splits the name of a map with intervals; the edition is 0 for others.
func whenMade(name string) (of string, edition uint32) {
	m := madeText.FindStringSubmatch(name)
	if m == nil {
		return name, 0
	}
	n, err := strconv.ParseUint(m[2], 10, 32)
	if err != nil {
		return name, 0
	}
	return m[1], uint32(n)
}

// madeBy returns the edition of the first map that rules look at whose name begins so, or 0.
func madeBy(rules []string, begin string) uint32 {
	for _, text := range rules {
		for _, m := range lookedAtText.FindAllStringSubmatch(text, -1) {
			if of, made := whenMade(m[1]); strings.HasPrefix(of, begin) {
				return made
			}
		}
	}
	return 0
}

// epochs returns the epochs that rules name; in order, and one unless somebody edited them.
func epochs(i *netfilter.Image) []int {
	var found []int
	for e := firstEpoch; e <= lastEpoch; e++ {
		bit := fmt.Sprintf("=%x", labelBit(e))
		for _, c := range i.Chains {
			if slices.ContainsFunc(c.Rules, func(s string) bool { return strings.Contains(s, bit) }) {
				found = append(found, e)
				break
			}
		}
	}
	return found
}

func decodeAddresses(i *netfilter.Image, r *ruleset.Ruleset) {
	for v := range 2 {
		for key, value := range i.Maps[identityMap(v).Ref].Elements {
			if a, ok := netip.AddrFromSlice([]byte(key)); ok {
				r.Addresses[netip.PrefixFrom(a, a.BitLen())] = ruleset.Identity(readNumber(value))
			}
		}
		for key, value := range i.Maps[prefixMap(v).Ref].Elements {
			a, bits := splitKey(key, v)
			r.Addresses[netip.PrefixFrom(a, int(readNumber(bits)))] = ruleset.Identity(readNumber(value))
		}
		for key := range i.Maps[localMap(v).Ref].Elements {
			if a, ok := netip.AddrFromSlice([]byte(key)); ok {
				r.Locals[a] = ruleset.Attachment{}
			}
		}
		for _, family := range []byte{netfilter.Inet, netfilter.Bridge} {
			for key := range i.Maps[bindingSet(family, v).Ref].Elements {
				a, name := splitKey(key, v)
				at, ok := r.Locals[a]
				if !ok {
					continue
				}
				if family == netfilter.Inet {
					at.Interface = netfilter.Text([]byte(name))
				} else {
					at.Port = netfilter.Text([]byte(name))
				}
				r.Locals[a] = at
			}
		}
	}
}

// splitKey splits a key that starts with an address of a version.
func splitKey(key string, v int) (netip.Addr, string) {
	n := min(len(key), []int{4, 16}[v])
	a, _ := netip.AddrFromSlice([]byte(key[:n]))
	return a, key[n:]
}

func decodeRow(i *netfilter.Image, id ruleset.RowID, made uint32) (ruleset.Row, uint64) {
	rules := i.Chains[named(rowChain(id))].Rules
	has := func(r netfilter.Rule) bool { return slices.Contains(rules, r.Canonical()) }
	if len(rules) == 1 && has(does(back())) {
		return ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow}), 0
	}
	row, allow := ruleset.Uniform(ruleset.Cell{}), ruleset.Cell{Verdict: flow.Allow}
	for _, p := range flow.PortProtocols {
		if has(does(loadMeta(expr.MetaKeyL4PROTO), is(byte(p)), back())) {
			row = row.With(p, 0, 65535, allow)
		}
		for key := range i.Maps[portsSet(id, p, made).Ref].Elements {
			if len(key) == len(portRange{}) {
				b := []byte(key)
				row = row.With(p, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), allow)
			}
		}
	}
	if has(does(loadMeta(expr.MetaKeyL4PROTO), notIn(portedSet.Name), back())) {
		row.Other = allow
	}
	born := uint64(0)
	for _, text := range rules {
		born = max(born, find(bornText, text))
	}
	return row, born
}
