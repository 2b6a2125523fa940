package rows

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Ports number lists of named ports, and what they say of the names that policies use. Both are few, and kept.
type Ports struct {
	lists  []portList // by number; 0 is none
	byText map[string]uint32
	Used   map[string]int // names in policies' rules, and in how many
	values []portList     // by number: of the used names only
	byUsed map[string]uint32
}

type portList []cluster.Port

func newPorts() Ports {
	return Ports{lists: make([]portList, 1), values: make([]portList, 1), byText: map[string]uint32{"": 0},
		byUsed: map[string]uint32{"": 0}, Used: map[string]int{}}
}

// List returns the number of e's named ports. Of a name and protocol that are there twice the first counts.
func (t *Ports) List(e *cluster.Endpoint) uint32 {
	var all portList
	for _, p := range e.Ports {
		same := func(o cluster.Port) bool { return o.Name == p.Name && o.Protocol == p.Protocol }
		if p.Name != "" && !slices.ContainsFunc(all, same) {
			all = append(all, p)
		}
	}
	if all == nil {
		return 0
	}
	slices.SortFunc(all, func(a, b cluster.Port) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol))
	})
	return number(all, &t.lists, t.byText)
}

// Named returns the number of what a list says of the names that policies use.
func (t *Ports) Named(list uint32) uint32 {
	if list == 0 || len(t.Used) == 0 {
		return 0
	}
	var all portList
	for _, p := range t.lists[list] {
		if t.Used[p.Name] > 0 {
			all = append(all, p)
		}
	}
	return number(all, &t.values, t.byUsed)
}

func number(l portList, lists *[]portList, byText map[string]uint32) uint32 {
	var text []byte
	for _, p := range l {
		text = strconv.AppendQuote(text, p.Name)
		text = strconv.AppendUint(append(text, '='), uint64(p.Number), 10)
		text = strconv.AppendUint(append(text, '/'), uint64(p.Protocol), 10)
	}
	n, ok := byText[string(text)]
	if !ok {
		n = uint32(len(*lists))
		*lists = append(*lists, l)
		byText[string(text)] = n
	}
	return n
}

// resolve returns the port of protocol p that a pod with the given values calls name.
func (t *Ports) resolve(values uint32, name string, p flow.Protocol) (uint16, bool) {
	for _, port := range t.values[values] {
		if port.Name == name && port.Protocol == p {
			return port.Number, true
		}
	}
	return 0, false
}
