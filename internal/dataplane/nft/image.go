//go:build linux

package nft

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An image is a picture of our tables: what the kernel has, or what it should have.
type image struct {
	tables map[byte]uint32 // family → flags
	chains map[ref]chainImage
	maps   map[ref]mapImage
	// counters are there or not: what they count is no part of the picture.
	counters map[ref]bool
}

type chainImage struct {
	hook  string   // "" for a chain that is only entered from others
	rules []string // see canonical
}

type mapImage struct {
	shape    string
	elements map[string]string
}

func newImage() *image {
	return &image{tables: map[byte]uint32{}, chains: map[ref]chainImage{}, maps: map[ref]mapImage{},
		counters: map[ref]bool{}}
}

func (i *image) addTable(family byte)  { i.tables[family] = 0 }
func (i *image) dropTable(family byte) { delete(i.tables, family) }
func (i *image) dropChain(r ref)       { delete(i.chains, r) }
func (i *image) dropMap(d mapDef)      { delete(i.maps, d.ref) }
func (i *image) addCounter(r ref)      { i.counters[r] = true }
func (i *image) dropCounter(r ref)     { delete(i.counters, r) }

func (i *image) addChain(c chainDef) {
	hook := ""
	if c.hook != nil {
		hook = hookText(c.hook.number, c.hook.priority, "filter", nfAccept)
	}
	i.chains[c.ref] = chainImage{hook: hook}
	i.setRules(c.ref, c.rules)
}

func (i *image) setRules(r ref, rules []rule) {
	c := i.chains[r]
	c.rules = nil
	for _, rule := range rules {
		c.rules = append(c.rules, rule.canonical())
	}
	i.chains[r] = c
}

func (i *image) addMap(d mapDef) {
	i.maps[d.ref] = mapImage{shape: d.shape(), elements: map[string]string{}}
}

func (i *image) put(d mapDef, key, value string) { i.maps[d.ref].elements[key] = value }
func (i *image) del(d mapDef, key string)        { delete(i.maps[d.ref].elements, key) }

func hookText(number uint32, priority int32, kind string, policy uint32) string {
	return fmt.Sprintf("%s hook %d priority %d policy %d", kind, number, priority, policy)
}

// canonical is a text that two rules share if they do the same. What the kernel adds when it is asked for a rule, and
// what it leaves out, is left out here: zeros, which stand for "not said", the state of counters and limits, and
// numbers that mean something within a transaction only.
func canonical(steps, userdata []byte) string {
	var b strings.Builder
	for _, step := range each(steps) {
		e := parse(step)
		name := text(e[unix.NFTA_EXPR_NAME])
		fmt.Fprintf(&b, "[%s", name)
		if name != "counter" {
			writeAttrs(&b, name, e[unix.NFTA_EXPR_DATA], 0)
		}
		b.WriteString("]")
	}
	if len(userdata) > 0 {
		fmt.Fprintf(&b, " %q", strings.Trim(string(userdata[min(2, len(userdata)):]), "\x00"))
	}
	return b.String()
}

func writeAttrs(b *strings.Builder, name string, data []byte, depth int) {
	found := parse(data)
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		value := found[kind]
		switch {
		case name == "lookup" && kind == unix.NFTA_LOOKUP_SET_ID:
		case len(strings.Trim(string(value), "\x00")) == 0:
		case holdsAttrs(name, kind, depth):
			fmt.Fprintf(b, " %d(", kind)
			writeAttrs(b, name, value, depth+1)
			b.WriteString(")")
		case isText(value):
			fmt.Fprintf(b, " %d=%q", kind, text(value))
		default:
			fmt.Fprintf(b, " %d=%x", kind, value)
		}
	}
}

// holdsAttrs says which attributes of an expression have others inside.
func holdsAttrs(name string, kind uint16, depth int) bool {
	switch name {
	case "cmp":
		return depth == 0 && kind == unix.NFTA_CMP_DATA
	case "immediate":
		return depth == 0 && kind == unix.NFTA_IMMEDIATE_DATA || depth == 1 && kind == unix.NFTA_DATA_VERDICT
	case "bitwise":
		return depth == 0 && (kind == unix.NFTA_BITWISE_MASK || kind == unix.NFTA_BITWISE_XOR)
	}
	return false
}

func isText(b []byte) bool {
	s := text(b)
	return len(s) > 1 && len(s) < len(b) && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// differences says, in order, what of want is not in got, and the other way round.
func differences(want, got *image) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, f := range []byte{inet, bridge} {
		w, wanted := want.tables[f]
		g, there := got.tables[f]
		if wanted != there {
			say("%stable is %s", familyText(f), missing(wanted))
		} else if w != g {
			say("%stable has flags %#x", familyText(f), g)
		}
	}
	for _, r := range union(want.chains, got.chains) {
		w, wanted := want.chains[r]
		g, there := got.chains[r]
		switch {
		case wanted != there:
			say("%schain %s is %s", familyText(r.family), r.name, missing(wanted))
		case w.hook != g.hook:
			say("%schain %s is at %q, not at %q", familyText(r.family), r.name, g.hook, w.hook)
		case !slices.Equal(w.rules, g.rules):
			say("%schain %s: %s", familyText(r.family), r.name, differentRule(w.rules, g.rules))
		}
	}
	for _, r := range union(want.maps, got.maps) {
		w, wanted := want.maps[r]
		g, there := got.maps[r]
		switch {
		case wanted != there:
			say("%smap %s is %s", familyText(r.family), r.name, missing(wanted))
		case w.shape != g.shape:
			say("%smap %s is of another type", familyText(r.family), r.name)
		case !maps.Equal(w.elements, g.elements):
			say("%smap %s: %s", familyText(r.family), r.name, differentElements(w.elements, g.elements))
		}
	}
	for _, r := range union(want.counters, got.counters) {
		if want.counters[r] != got.counters[r] {
			say("%scounter %s is %s", familyText(r.family), r.name, missing(want.counters[r]))
		}
	}
	return out
}

func familyText(f byte) string {
	if f == bridge {
		return "bridge "
	}
	return ""
}

func missing(wanted bool) string {
	if wanted {
		return "missing"
	}
	return "not ours"
}

func union[V any](a, b map[ref]V) []ref {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.SortedFunc(maps.Keys(all), func(x, y ref) int {
		return strings.Compare(fmt.Sprint(x.family, x.name), fmt.Sprint(y.family, y.name))
	})
}

func differentRule(want, got []string) string {
	for i, w := range want {
		if i >= len(got) {
			return fmt.Sprintf("it has %d rules, not %d", len(got), len(want))
		}
		if w != got[i] {
			return fmt.Sprintf("rule %d is another", i+1)
		}
	}
	return fmt.Sprintf("it has %d rules, not %d", len(got), len(want))
}

func differentElements(want, got map[string]string) string {
	lost, changed, added := 0, 0, 0
	for k, w := range want {
		if g, ok := got[k]; !ok {
			lost++
		} else if g != w {
			changed++
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			added++
		}
	}
	return fmt.Sprintf("%d elements are missing, %d changed, %d added", lost, changed, added)
}
