// Package query is how people name the ends of a connection and its port, on the command line and in test files,
// and what those names stand for in a given cluster.
package query

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Forms says which references Resolve reads, for help texts and errors.
const Forms = "ns/pod, ns/kind/name, ns/selector, selector, {selector}/pod, node/name, or an address"

// Scope is what references are resolved in.
type Scope struct {
	State *cluster.State
	// Services can be destinations, "ns/service/name".
	Services []service.Service
	// Namespace is where a bare name is looked for; "default" if empty.
	Namespace string
}

// Resolve returns all parties that ref stands for, at least one, in the order of their names. A pod is returned once,
// without an address: a connection picks the address of the family that it uses. What stands behind " !" is left out:
// "orders/* !orders/credit-check".
func (s Scope) Resolve(ref string) ([]cluster.Party, error) {
	terms := splitExceptions(ref)
	found, err := s.resolveTerm(terms[0])
	if err != nil {
		return nil, err
	}
	for _, t := range terms[1:] {
		except, err := s.resolveTerm(t)
		if err != nil {
			return nil, err
		}
		found = slices.DeleteFunc(found, func(p cluster.Party) bool { return slices.ContainsFunc(except, p.Same) })
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("nothing is left of %q", ref)
	}
	return found, nil
}

// splitExceptions takes "a !b !c" apart. A "!" behind a comma is a selector's.
func splitExceptions(ref string) []string {
	var terms []string
	for part := range strings.SplitSeq(ref, " !") {
		if n := len(terms); n > 0 && strings.HasSuffix(strings.TrimSpace(terms[n-1]), ",") {
			terms[n-1] += " !" + part
			continue
		}
		terms = append(terms, part)
	}
	return terms
}

func (s Scope) resolveTerm(ref string) ([]cluster.Party, error) {
	ref = strings.TrimSpace(ref)
	if ref == "" {
		return nil, fmt.Errorf("empty reference: want %s", Forms)
	}
	if a, err := netip.ParseAddr(strings.Trim(ref, "[]")); err == nil {
		if a.Zone() != "" {
			return nil, fmt.Errorf("address %q: leave out the zone %%%s, policies know none", ref, a.Zone())
		}
		return []cluster.Party{s.State.At(a.Unmap())}, nil
	}
	if strings.HasPrefix(ref, "{") {
		return s.inSelected(ref)
	}
	if ns, sel, ok := splitSelector(ref); ok {
		return s.selected(ref, func(name string) bool { return ns == "" || matches(ns, name) }, sel)
	}
	switch parts := strings.Split(ref, "/"); len(parts) {
	case 1:
		return s.named(ref, s.namespace(), "", parts[0])
	case 2:
		if p, ok := s.node(parts); ok {
			return []cluster.Party{p}, nil
		}
		if strings.ContainsAny(ref, "*?[") {
			return s.like(ref, func(name string) bool { return matches(parts[0], name) }, parts[1])
		}
		return s.named(ref, parts[0], "", parts[1])
	case 3:
		return s.named(ref, parts[0], parts[1], parts[2])
	}
	return nil, fmt.Errorf("reference %q: want %s", ref, Forms)
}

// inSelected resolves "{env=prod}/..." : what is in the namespaces that a selector matches.
func (s Scope) inSelected(ref string) ([]cluster.Party, error) {
	text, rest, ok := strings.Cut(ref[1:], "}/")
	if !ok {
		return nil, fmt.Errorf("reference %q: want {selector of namespaces}/pods, like {env=prod}/app=db", ref)
	}
	sel, err := label.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w", ref, err)
	}
	in := func(name string) bool { return sel.Matches(s.State.Namespace(name).Labels) }
	if isSelector(rest) {
		return s.selected(ref, in, rest)
	}
	return s.like(ref, in, rest)
}

// matches reports whether a name matches a pattern with * and ?. A bad pattern matches nothing.
func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// like finds pods by a pattern of their names or their workloads'.
func (s Scope) like(ref string, in func(namespace string) bool, pattern string) ([]cluster.Party, error) {
	var found []cluster.Party
	for _, e := range s.State.Endpoints() {
		if in(e.Namespace) && (matches(pattern, e.Name) || matches(pattern, e.Owner.Name)) {
			found = append(found, s.State.PartyOf(e, netip.Addr{}))
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no pod or workload matches %q", ref)
	}
	return found, nil
}

func (s Scope) namespace() string {
	if s.Namespace == "" {
		return "default"
	}
	return s.Namespace
}

// splitSelector takes "ns/selector" and "selector" apart; ns is "" for all namespaces. A first part with a dot is a
// label key's prefix, as no namespace's name has one.
func splitSelector(ref string) (ns, sel string, ok bool) {
	if first, rest, found := strings.Cut(ref, "/"); found && !strings.ContainsAny(first, ".=!( ") {
		if rest == "*" {
			return first, "", true
		}
		return first, rest, isSelector(rest)
	}
	if ref == "*" {
		return "", "", true
	}
	return "", ref, isSelector(ref)
}

func isSelector(s string) bool {
	return strings.ContainsAny(s, "=!(")
}

func (s Scope) selected(ref string, in func(namespace string) bool, text string) ([]cluster.Party, error) {
	sel, err := label.Parse(text)
	if err != nil {
		return nil, err
	}
	var found []cluster.Party
	for _, e := range s.State.Endpoints() {
		if in(e.Namespace) && sel.Matches(e.Labels) {
			found = append(found, s.State.PartyOf(e, netip.Addr{}))
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no pod matches %q", ref)
	}
	return found, nil
}

func (s Scope) node(parts []string) (cluster.Party, bool) {
	nodes := s.State.Nodes()
	for i := range nodes {
		if parts[0] == "node" && nodes[i].Name == parts[1] {
			return cluster.Party{Node: &nodes[i]}, true
		}
	}
	return cluster.Party{}, false
}

// named finds a pod, or the pods of a workload; a workload without pods answers with its template.
func (s Scope) named(ref, ns, kind, name string) ([]cluster.Party, error) {
	kind = canonicalKind(kind)
	if e := s.State.Endpoint(cluster.Key{Namespace: ns, Name: name}); e != nil && (kind == "" || kind == "pod") {
		return []cluster.Party{s.State.PartyOf(e, netip.Addr{})}, nil
	}
	owners := s.owners(ns, kind, name)
	if len(owners) > 1 {
		return nil, fmt.Errorf("%q is ambiguous: write one of %s", ref, strings.Join(s.spellings(ns, name, owners), ", "))
	}
	if len(owners) == 1 {
		return s.podsOf(ns, owners[0]), nil
	}
	return nil, s.notFound(ref)
}

// owners lists the workloads of that name that are declared or that pods say they belong to.
func (s Scope) owners(ns, kind, name string) []cluster.Owner {
	var found []cluster.Owner
	add := func(o cluster.Owner) {
		if o.Name == name && (kind == "" || strings.EqualFold(kind, o.Kind)) && !slices.Contains(found, o) {
			found = append(found, o)
		}
	}
	for _, w := range s.State.Workloads() {
		if w.Namespace == ns {
			add(cluster.Owner{Kind: w.Kind, Name: w.Name})
		}
	}
	for _, e := range s.State.Endpoints() {
		if e.Namespace == ns {
			add(e.Owner)
		}
	}
	slices.SortFunc(found, func(a, b cluster.Owner) int { return strings.Compare(a.Kind, b.Kind) })
	return found
}

func (s Scope) podsOf(ns string, o cluster.Owner) []cluster.Party {
	var found []cluster.Party
	for _, e := range s.State.Endpoints() {
		if e.Namespace == ns && e.Owner == o {
			found = append(found, s.State.PartyOf(e, netip.Addr{}))
		}
	}
	for _, w := range s.State.Workloads() {
		if found == nil && w.Namespace == ns && w.Kind == o.Kind && w.Name == o.Name {
			found = append(found, s.State.PartyOf(w.Template, netip.Addr{}))
		}
	}
	return found
}

func (s Scope) spellings(ns, name string, owners []cluster.Owner) []string {
	var all []string
	for _, o := range owners {
		all = append(all, ns+"/"+strings.ToLower(o.Kind)+"/"+name)
	}
	return all
}

// notFound says so and names what comes nearest.
func (s Scope) notFound(ref string) error {
	best, distance := "", len(ref)/2+1
	consider := func(name string) {
		if d := levenshtein.ComputeDistance(ref, name); d < distance {
			best, distance = name, d
		}
	}
	for _, e := range s.State.Endpoints() {
		consider(e.Key.String())
	}
	for _, w := range s.State.Workloads() {
		consider(w.Key.String())
		consider(w.Namespace + "/" + strings.ToLower(w.Kind) + "/" + w.Name)
		if w.Name == ref {
			best, distance = w.Key.String(), 0
		}
	}
	if best != "" {
		return fmt.Errorf("no pod, workload or node is called %q; did you mean %s?", ref, best)
	}
	return fmt.Errorf("no pod, workload or node is called %q: want %s", ref, Forms)
}

var shortKinds = map[string]string{"po": "pod", "pods": "pod", "deploy": "deployment", "sts": "statefulset", "ds": "daemonset",
	"rs": "replicaset", "rc": "replicationcontroller", "cj": "cronjob", "svc": "service"}

func canonicalKind(kind string) string {
	kind = strings.ToLower(kind)
	if long, ok := shortKinds[kind]; ok {
		return long
	}
	return kind
}
