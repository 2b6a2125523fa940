//go:build linux

package netfilter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An Image is a picture of tables: what the kernel has, or what it should have.
type Image struct {
	Tables map[byte]uint32 // family → flags
	Chains map[Ref]chainImage
	Maps   map[Ref]mapImage
	// Counters are there or not: what they count is no part of the picture.
	Counters map[Ref]bool
}

type chainImage struct {
	Hook  string   // "" for a chain that is only entered from others
	Rules []string // see canonical
}

type mapImage struct {
	shape    string
	Elements map[string]string
}

// NewImage returns a picture of no table.
func NewImage() *Image {
	return &Image{Tables: map[byte]uint32{}, Chains: map[Ref]chainImage{}, Maps: map[Ref]mapImage{},
		Counters: map[Ref]bool{}}
}

// AddTable implements Sink.
func (i *Image) AddTable(family byte) { i.Tables[family] = 0 }

// DropTable implements Sink.
func (i *Image) DropTable(family byte) { delete(i.Tables, family) }

// DropChain implements Sink.
func (i *Image) DropChain(r Ref) { delete(i.Chains, r) }

// DropMap implements Sink.
func (i *Image) DropMap(d Map) { delete(i.Maps, d.Ref) }

// AddCounter implements Sink.
func (i *Image) AddCounter(r Ref) { i.Counters[r] = true }

// DropCounter implements Sink.
func (i *Image) DropCounter(r Ref) { delete(i.Counters, r) }

// AddChain implements Sink.
func (i *Image) AddChain(c Chain) {
	hook := ""
	if c.Hook != nil {
		hook = hookText(c.Hook.Number, c.Hook.Priority, "filter", nfAccept)
	}
	i.Chains[c.Ref] = chainImage{Hook: hook}
	i.SetRules(c.Ref, c.Rules)
}

// SetRules implements Sink.
func (i *Image) SetRules(r Ref, rules []Rule) {
	c := i.Chains[r]
	c.Rules = nil
	for _, rule := range rules {
		c.Rules = append(c.Rules, rule.Canonical())
	}
	i.Chains[r] = c
}

// AddMap implements Sink.
func (i *Image) AddMap(d Map) {
	i.Maps[d.Ref] = mapImage{shape: d.shape(), Elements: map[string]string{}}
}

// Put implements Sink.
func (i *Image) Put(d Map, key, value string) { i.Maps[d.Ref].Elements[key] = value }

// Del implements Sink.
func (i *Image) Del(d Map, key string) { delete(i.Maps[d.Ref].Elements, key) }

func hookText(number uint32, priority int32, kind string, policy uint32) string {
	return fmt.Sprintf("%s hook %d priority %d policy %d", kind, number, priority, policy)
}

// canonical is a text that two rules share if they do the same. What the kernel adds when it is asked for a rule, and
// what it leaves out, is left out here: zeros, which stand for "not said", the state of counters and limits, and
// numbers that mean something within a transaction only.
func canonical(steps, userdata []byte) string {
	var b strings.Builder
	for _, step := range Each(steps) {
		e := Parse(step)
		name := Text(e[unix.NFTA_EXPR_NAME])
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
	found := Parse(data)
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
			fmt.Fprintf(b, " %d=%q", kind, Text(value))
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
	s := Text(b)
	return len(s) > 1 && len(s) < len(b) && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// Differences says, in order, what of want is not in got, and the other way round.
func Differences(want, got *Image) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, f := range []byte{Inet, Bridge} {
		w, wanted := want.Tables[f]
		g, there := got.Tables[f]
		if wanted != there {
			say("%stable is %s", familyText(f), missing(wanted))
		} else if w != g {
			say("%stable has flags %#x", familyText(f), g)
		}
	}
	for _, r := range Union(want.Chains, got.Chains) {
		w, wanted := want.Chains[r]
		g, there := got.Chains[r]
		switch {
		case wanted != there:
			say("%schain %s is %s", familyText(r.Family), r.Name, missing(wanted))
		case w.Hook != g.Hook:
			say("%schain %s is at %q, not at %q", familyText(r.Family), r.Name, g.Hook, w.Hook)
		case !slices.Equal(w.Rules, g.Rules):
			say("%schain %s: %s", familyText(r.Family), r.Name, differentRule(w.Rules, g.Rules))
		}
	}
	for _, r := range Union(want.Maps, got.Maps) {
		w, wanted := want.Maps[r]
		g, there := got.Maps[r]
		switch {
		case wanted != there:
			say("%smap %s is %s", familyText(r.Family), r.Name, missing(wanted))
		case w.shape != g.shape:
			say("%smap %s is of another type", familyText(r.Family), r.Name)
		case !maps.Equal(w.Elements, g.Elements):
			say("%smap %s: %s", familyText(r.Family), r.Name, differentElements(w.Elements, g.Elements))
		}
	}
	for _, r := range Union(want.Counters, got.Counters) {
		if want.Counters[r] != got.Counters[r] {
			say("%scounter %s is %s", familyText(r.Family), r.Name, missing(want.Counters[r]))
		}
	}
	return out
}

func familyText(f byte) string {
	if f == Bridge {
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

// Has reports whether a map is there, and of this type.
func (i *Image) Has(d Map) bool {
	m, there := i.Maps[d.Ref]
	return there && m.shape == d.shape()
}

// Union returns the names in either map, in order.
func Union[V any](a, b map[Ref]V) []Ref {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.SortedFunc(maps.Keys(all), func(x, y Ref) int {
		return strings.Compare(fmt.Sprint(x.Family, x.Name), fmt.Sprint(y.Family, y.Name))
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
