package generation

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/policy"
)

// Change is a policy that is in one set of policies otherwise than in another.
type Change struct {
	Sign            string // "+" it came, "~" it says something else, "-" it went
	Kind            string
	Namespace, Name string // of the policy; no namespace of a ClusterNetworkPolicy
}

// String is for instance "+NetworkPolicy shop/web".
func (c Change) String() string { return c.Sign + c.Kind + " " + c.name() }

// Short is for instance "+shop/web".
func (c Change) Short() string { return c.Sign + c.name() }

func (c Change) name() string { return strings.TrimPrefix(c.Namespace+"/"+c.Name, "/") }

// Changes says how one set of policies became another, by kind and name.
func Changes(before, after []*policy.Policy) []Change {
	of := func(p *policy.Policy) Change { return Change{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name} }
	old := map[Change]*policy.Policy{}
	for _, p := range before {
		old[of(p)] = p
	}
	var all []Change
	for _, p := range after {
		c := of(p)
		was := old[c]
		delete(old, c)
		switch {
		case was == nil:
			c.Sign = "+"
		case was != p && !Same(was, p):
			c.Sign = "~"
		default:
			continue
		}
		all = append(all, c)
	}
	for c := range old {
		c.Sign = "-"
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}
