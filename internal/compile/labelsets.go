package compile

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// labelSet is all of a pod that selectors and named ports can tell apart, but its address.
type labelSet struct {
	namespace string
	labels    label.Set
	names     nameKey
}

// labelSets are the distinct label sets of some pods.
type labelSets struct {
	state       *cluster.State
	byNamespace map[string][]labelSet
	selectors   map[labelSet][]selectorID // that match it, in order; filled by match
	namespaces  map[string][]string       // the names that a namespace selector matches, by its text
}

func newLabelSets(s *cluster.State) *labelSets {
	return &labelSets{state: s, byNamespace: map[string][]labelSet{}, selectors: map[labelSet][]selectorID{},
		namespaces: map[string][]string{}}
}

func (x *labelSets) add(e *cluster.Endpoint, names nameKey) {
	s := labelSet{e.Namespace, e.Labels, names}
	if _, ok := x.selectors[s]; !ok {
		x.selectors[s] = nil
		x.byNamespace[s.namespace] = append(x.byNamespace[s.namespace], s)
	}
}

// match finds out which of the selectors match which label set.
func (x *labelSets) match(all map[selectorID]policy.Pods) {
	for _, id := range sortedIDs(all) {
		for _, s := range x.selected(all[id]) {
			x.selectors[s] = append(x.selectors[s], id)
		}
	}
}

// selected returns the label sets that p selects.
func (x *labelSets) selected(p policy.Pods) []labelSet {
	var found []labelSet
	for _, name := range x.namespacesOf(p.Namespaces) {
		for _, s := range x.byNamespace[name] {
			if p.Pods.Matches(s.labels) {
				found = append(found, s)
			}
		}
	}
	return found
}

func (x *labelSets) namespacesOf(sel label.Selector) []string {
	text := sel.String()
	found, ok := x.namespaces[text]
	if !ok {
		for _, name := range x.candidates(sel) {
			if sel.Matches(x.state.Namespace(name).Labels) {
				found = append(found, name)
			}
		}
		x.namespaces[text] = found
	}
	return found
}

// candidates returns the namespaces that sel may match. Most selectors name theirs, as every NetworkPolicy does.
func (x *labelSets) candidates(sel label.Selector) []string {
	for _, r := range sel.Requirements() {
		if r.Key == cluster.NameLabel && r.Op == label.In {
			return r.Values
		}
	}
	var all []string
	for name := range x.byNamespace {
		all = append(all, name)
	}
	return all
}

// nameKey is the text of a pod's values for the port names that policies use; "" if it has none of them.
type nameKey string

// nameTable resolves names of ports.
type nameTable struct {
	used   []string // by policies, sorted
	values map[nameKey]map[string][]cluster.Port
}

func newNameTable(policies []*policy.Policy) *nameTable {
	t := &nameTable{values: map[nameKey]map[string][]cluster.Port{}}
	for _, p := range policies {
		for _, d := range flow.Directions {
			for _, r := range p.Rules(d) {
				for _, port := range r.Ports {
					if port.Name != "" {
						t.used = append(t.used, port.Name)
					}
				}
			}
		}
	}
	slices.Sort(t.used)
	t.used = slices.Compact(t.used)
	return t
}

func (t *nameTable) of(e *cluster.Endpoint) nameKey {
	var b strings.Builder
	values := map[string][]cluster.Port{}
	for _, name := range t.used {
		ports := e.PortsNamed(name, 0)
		slices.SortFunc(ports, func(a, b cluster.Port) int { return cmp.Compare(a.Protocol, b.Protocol) })
		for _, p := range ports {
			b.WriteString(strconv.Quote(name) + "=" + strconv.Itoa(int(p.Number)) + "/" + strconv.Itoa(int(p.Protocol)) + " ")
		}
		values[name] = ports
	}
	key := nameKey(b.String())
	if _, ok := t.values[key]; !ok {
		t.values[key] = values
	}
	return key
}

// resolve returns the ports of protocol p that a pod with the given values calls name: one or none.
func (t *nameTable) resolve(key nameKey, name string, p flow.Protocol) []uint16 {
	for _, port := range t.values[key][name] {
		if port.Protocol == p {
			return []uint16{port.Number}
		}
	}
	return nil
}
