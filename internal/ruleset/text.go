package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// String is the whole ruleset, sorted, in the form that Parse reads and people can:
//
//	ruleset 3
//	local 10.0.0.2 on veth1
//	address 10.0.0.2/32 5
//	subject ingress 5
//	  default row 2
//	  from 3 row 1
//	row 1
//	  tcp 6379 allow 4      # shop/redis ingress[0]
//	  else deny 5           # shop/redis ingress
//	rule 4 kind NetworkPolicy namespace shop name redis direction ingress index 0 file shop.yaml line 7
//
// The number after "ruleset" is the generation, the one after an address its identity, the one after a verdict its
// rule. What follows "#" is for people.
func (r *Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ruleset %d\n", r.Generation)
	for _, a := range sortedKeys(r.Locals, netip.Addr.Compare) {
		fmt.Fprintf(&b, "local %s%s\n", a, r.Locals[a].text())
	}
	for _, p := range sortedKeys(r.Addresses, netip.Prefix.Compare) {
		fmt.Fprintf(&b, "address %s %d\n", p, r.Addresses[p])
	}
	r.writeSubjects(&b)
	for _, id := range sortedKeys(r.Rows, cmp.Compare[RowID]) {
		fmt.Fprintf(&b, "row %d\n", id)
		row := r.Rows[id]
		for _, line := range row.lines() {
			if line.rule == 0 {
				fmt.Fprintf(&b, "  %s\n", line.text)
			} else {
				fmt.Fprintf(&b, "  %-22s # %s\n", line.text, oneLine(r.Rules[line.rule].String()))
			}
		}
	}
	for _, id := range sortedKeys(r.Rules, cmp.Compare[RuleID]) {
		fmt.Fprintf(&b, "rule %d%s\n", id, ruleText(r.Rules[id]))
	}
	return b.String()
}

func (r *Ruleset) writeSubjects(b *strings.Builder) {
	exceptions := map[Subject][]Pair{}
	for _, p := range sortedKeys(r.Pairs, comparePairs) {
		exceptions[p.Subject] = append(exceptions[p.Subject], p)
	}
	for _, s := range sortedKeys(r.Defaults, compareSubjects) {
		fmt.Fprintf(b, "subject %s\n  default row %d\n", s, r.Defaults[s])
		for _, p := range exceptions[s] {
			fmt.Fprintf(b, "  %s %d row %d\n", preposition(p.Direction), p.Peer, r.Pairs[p])
		}
	}
}

// text is " on veth1", " on br0 port veth3" or "".
func (at Attachment) text() string {
	var s string
	if at.Interface != "" {
		s += " on " + word(at.Interface)
	}
	if at.Port != "" {
		s += " port " + word(at.Port)
	}
	return s
}

func ruleText(r flow.Rule) string {
	var b strings.Builder
	add := func(key, value string, there bool) {
		if there {
			b.WriteString(" " + key + " " + word(value))
		}
	}
	add("kind", r.Kind, r.Kind != "")
	add("namespace", r.Namespace, r.Namespace != "")
	add("name", r.Name, r.Name != "")
	add("direction", r.Direction.String(), r.Direction != 0)
	add("index", strconv.Itoa(r.Index), r.Index != 0 || r.Direction != 0)
	add("label", r.Label, r.Label != "")
	add("file", r.File, r.File != "")
	add("line", strconv.Itoa(r.Line), r.Line != 0)
	return b.String()
}

// word is s as Parse reads one word: quoted, unless it is plain.
func word(s string) string {
	if s == "" || strings.ContainsFunc(s, isSpecial) {
		return strconv.Quote(s)
	}
	return s
}

// isSpecial reports whether r makes a word need quotes.
func isSpecial(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'`#\\", r) }

// oneLine keeps a comment a comment.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
