package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/near"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// index is which labels there are: key → value → there.
type index map[string]map[string]bool

func (x index) add(s label.Set) {
	for k, v := range s.All() {
		if x[k] == nil {
			x[k] = map[string]bool{}
		}
		x[k][v] = true
	}
}

func keysOf[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// survey lists who is there.
func (l *linter) survey() {
	l.podKeys, l.nsKeys = index{}, index{}
	for _, n := range l.state.Namespaces() {
		l.nsKeys.add(n.Labels)
	}
	seen := map[string]bool{}
	add := func(e *cluster.Endpoint) {
		kind := fmt.Sprintf("%s %t %s %v", e.Namespace, e.HostNetwork, e.Labels, e.Ports)
		if seen[kind] || e.Ended {
			return
		}
		seen[kind] = true
		l.podKeys.add(e.Labels)
		if e.HostNetwork {
			l.hosts = append(l.hosts, e)
		} else {
			l.kinds = append(l.kinds, e)
		}
	}
	owners := map[string]bool{}
	for _, e := range l.state.Endpoints() {
		owners[e.Namespace+"/"+e.Owner.Kind+"/"+e.Owner.Name] = true
		add(e)
	}
	for _, w := range l.state.Workloads() {
		if !owners[w.Namespace+"/"+w.Kind+"/"+w.Name] {
			add(w.Template)
		}
	}
}

// selected are the kinds of pods that want selects.
func (l *linter) selected(want policy.Pods) []*cluster.Endpoint { return l.among(l.kinds, want) }

func (l *linter) among(kinds []*cluster.Endpoint, want policy.Pods) []*cluster.Endpoint {
	var found []*cluster.Endpoint
	for _, e := range kinds {
		if want.Namespaces.Matches(l.state.Namespace(e.Namespace).Labels) && want.Pods.Matches(e.Labels) {
			found = append(found, e)
		}
	}
	return found
}

// populated are the kinds of pods in the namespaces that want is about, whatever their labels are.
func (l *linter) populated(want policy.Pods) []*cluster.Endpoint {
	return l.selected(policy.Pods{Namespaces: want.Namespaces, Pods: label.Everything()})
}

// workloads names pods by their workloads, a few of them.
func workloads(pods []*cluster.Endpoint) string {
	var names []string
	for _, e := range pods {
		if n := e.Namespace + "/" + cmp.Or(e.Owner.Name, e.Name); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	if n := len(names); n > 4 {
		names = append(names[:3], fmt.Sprintf("%d more", n-3))
	}
	return strings.Join(names, ", ")
}

// slip looks for a label of sel that nobody has, among labels, but that is near one that somebody has. elsewhere are
// the labels that somebody anywhere has: what is there is no typo.
func slip(sel label.Selector, labels, elsewhere index) (what, meant string) {
	for _, r := range sel.Requirements() {
		if elsewhere[r.Key] == nil {
			if key := near.Of(r.Key, keysOf(labels)); key != "" && alike(r.Key, key) {
				return fmt.Sprintf("label key %q", r.Key), key
			}
			continue
		}
		for _, v := range r.Values {
			if elsewhere[r.Key][v] {
				continue
			}
			if value := near.Of(v, keysOf(labels[r.Key])); value != "" && alike(v, value) {
				return fmt.Sprintf("label %s=%s", r.Key, v), r.Key + "=" + value
			}
		}
	}
	return "", ""
}

// alike leaves out words that are too short to be typos of each other, and those that differ in a number or in a short
// part only: web-1 is no typo of web-2, nor a-app of b-app.
func alike(a, b string) bool {
	digits := func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}
	if strings.EqualFold(a, b) {
		return true
	}
	isSeparator := func(r rune) bool { return strings.ContainsRune("-_./", r) }
	x, y := strings.FieldsFunc(a, isSeparator), strings.FieldsFunc(b, isSeparator)
	long := len(x) != len(y)
	for i := 0; i < len(x) && !long; i++ {
		long = x[i] != y[i] && min(len(x[i]), len(y[i])) >= 4
	}
	return long && min(len(a), len(b)) >= 4 && strings.Map(digits, a) != strings.Map(digits, b)
}

// namespaceOf is the one namespace that sel names, or "".
func namespaceOf(sel label.Selector) string {
	for _, r := range sel.Requirements() {
		if r.Key == cluster.NameLabel && r.Op == label.In && len(r.Values) == 1 {
			return r.Values[0]
		}
	}
	return ""
}

// own reports whether a peer is of the policy's own namespace without having to say so.
func own(p *policy.Policy, sel label.Selector) bool {
	return p.Tier == policy.Namespace && sel.Equal(p.Subject.Namespaces)
}

// describe is a selector of pods in words.
func describe(p *policy.Policy, want policy.Pods) string {
	text := "pods " + want.Pods.String()
	if want.Pods.IsEverything() {
		text = "pods"
	}
	switch name := namespaceOf(want.Namespaces); {
	case want.Namespaces.IsEverything():
		return text + " in any namespace"
	case name != "" && len(want.Namespaces.Requirements()) == 1:
		return text + " in namespace " + name
	}
	return text + " in namespaces " + want.Namespaces.String()
}
