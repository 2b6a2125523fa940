package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Overlay is Rewrite for a cluster whose objects come, change and go one by one, as one node needs it: it says which
// objects change by what. Rewrite of the whole state means the same for every connection with an end on the node.
//
// Objects are set as the cluster has them; then Settle says which others change along with them, and Views say what
// becomes of each. A pod costs what it takes to look at it alone, and where there are no Layers, nothing. It is for one
// caller at a time; only Has, Selects, Includes and Pod write nothing.
type Overlay struct {
	node     string
	spaces   map[string]label.Set
	pods     map[cluster.Key]*cluster.Endpoint
	policies map[cluster.Key]*policy.Policy
	finals   []Part
	layers   []*layer // by name
	touched  map[cluster.Key]bool
	gates    map[gateKey]*policy.Policy

	// that change along with what was set, since Settle
	alsoPods     map[cluster.Key]bool
	alsoPolicies map[cluster.Key]bool
	left         map[cluster.Key]bool // of policies that were touched before the last Settle
}

// Layer is a rollout that is under way.
type Layer struct {
	Name   string // a label.CheckKey name
	Change Change
	Cohort Cohort // that is judged by the candidate; the zero value is nobody
}

type layer struct {
	Layer
	versions  map[cluster.Key]*policy.Policy // of what it touches; nil if it is removed
	selection *selection
	stale     bool // the selection is of other policies
}

// gateKey names one form of a policy.
type gateKey struct {
	policy  *policy.Policy
	layer   string
	members bool
	all     bool
	under   string
}

// NewOverlay returns an overlay of nothing. Only the pods of a node change; "" is all nodes.
func NewOverlay(node string) *Overlay {
	return &Overlay{node: node, spaces: map[string]label.Set{}, pods: map[cluster.Key]*cluster.Endpoint{},
		policies: map[cluster.Key]*policy.Policy{}, touched: map[cluster.Key]bool{}, gates: map[gateKey]*policy.Policy{},
		alsoPods: map[cluster.Key]bool{}, alsoPolicies: map[cluster.Key]bool{}}
}

// SetPod takes over a pod as the cluster has it; nil: it is gone.
func (o *Overlay) SetPod(k cluster.Key, e *cluster.Endpoint) {
	if e == nil {
		delete(o.pods, k)
	} else {
		o.pods[k] = e
	}
	for _, l := range o.layers {
		l.take(o, k, e)
	}
}

func (l *layer) take(o *Overlay, k cluster.Key, e *cluster.Endpoint) {
	switch {
	case l.stale: // it looks at all pods anew anyway
	case e == nil:
		l.selection.drop(k)
	default:
		l.selection.set(e, o.space(e.Namespace))
	}
}

// SetNamespace takes over a namespace; nil: it is not declared any more.
func (o *Overlay) SetNamespace(name string, n *cluster.Namespace) {
	delete(o.spaces, name)
	if n != nil {
		if labels, err := n.Labels.With(cluster.NameLabel, name); err == nil { // else nothing can be in it
			o.spaces[name] = labels
		}
	}
	if len(o.layers) == 0 {
		return
	}
	for k, e := range o.pods {
		if k.Namespace != name {
			continue
		}
		for _, l := range o.layers {
			l.take(o, k, e)
		}
		o.also(e)
	}
}

// also notes that a pod may be judged otherwise now.
func (o *Overlay) also(e *cluster.Endpoint) {
	if e != nil && (o.node == "" || e.Node == o.node) {
		o.alsoPods[e.Key] = true
	}
}

// space returns the labels of a namespace.
func (o *Overlay) space(name string) label.Set {
	if labels, ok := o.spaces[name]; ok {
		return labels
	}
	labels, err := label.NewSet(map[string]string{cluster.NameLabel: name})
	if err != nil { // as cluster.State.Namespace
		return label.Set{}
	}
	o.spaces[name] = labels // until it is declared
	return labels
}

// SetPolicy takes over a policy by its namespace and name; nil: it is gone.
func (o *Overlay) SetPolicy(k cluster.Key, p *policy.Policy) {
	old := o.policies[k]
	if p == nil {
		delete(o.policies, k)
	} else {
		o.policies[k] = p
	}
	if !o.touched[k] {
		return
	}
	maps.DeleteFunc(o.gates, func(g gateKey, _ *policy.Policy) bool { return g.policy == old })
	for _, l := range o.layers {
		if _, ok := l.versions[k]; ok {
			l.stale = true
		}
	}
}

// SetRollouts takes over which changes are in force for everyone, the earlier ones first, and which rollouts are under
// way. Of two of these that touch the same policy the second one by name is left out, as if it were not there, and the
// error says so; so is one whose candidate cannot be said.
func (o *Overlay) SetRollouts(finals []Part, layers []Layer) error {
	o.everyTouched()
	o.finals, o.layers, o.touched = finals, nil, map[cluster.Key]bool{}
	for _, f := range finals {
		for _, ref := range f.Change.Touches() {
			o.touched[keyOf(ref)] = true
		}
	}
	var failed error
	owners := map[cluster.Key]string{}
	for _, l := range slices.SortedFunc(slices.Values(layers), func(a, b Layer) int { return strings.Compare(a.Name, b.Name) }) {
		made := &layer{Layer: l, versions: l.Change.versions(), stale: true}
		if err := made.check(owners); err != nil {
			failed = err
			continue
		}
		for k := range made.versions {
			owners[k], o.touched[k] = l.Name, true
		}
		o.layers = append(o.layers, made)
	}
	o.forget()
	o.everyTouched()
	return failed
}

// check looks whether a layer can be.
func (l *layer) check(owners map[cluster.Key]string) error {
	for _, k := range slices.SortedFunc(maps.Keys(l.versions), cluster.Key.Compare) {
		if owner := owners[k]; owner != "" {
			return fmt.Errorf("rollout %s: rollout %s is under way with the same policies", l.Name, owner)
		}
	}
	for _, p := range l.Change.Policies {
		if _, err := (Part{Name: l.Name}).gate(p, p.Name+candidateSuffix, true); err != nil {
			return fmt.Errorf("rollout %s: %w", l.Name, err)
		}
	}
	return nil
}

// everyTouched notes that all policies which rollouts touch, and all members, may change.
func (o *Overlay) everyTouched() {
	maps.Copy(o.alsoPolicies, o.touched)
	for _, l := range o.layers {
		o.alsoMembers(l)
	}
}

func (o *Overlay) alsoMembers(l *layer) {
	if l.selection == nil {
		return
	}
	for k, c := range l.selection.pods {
		if l.selection.includes(k) {
			o.also(c.pod)
		}
	}
}

// forget drops forms of policies that no rollout has any more.
func (o *Overlay) forget() {
	maps.DeleteFunc(o.gates, func(k gateKey, _ *policy.Policy) bool { return o.layer(k.layer) == nil })
}

func (o *Overlay) layer(name string) *layer {
	for _, l := range o.layers {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// Settle brings everything up to date with what was set, and returns the pods and the policies that may change along with
// it, in order. What was set itself is among them or not.
func (o *Overlay) Settle() (pods, policies []cluster.Key) {
	for _, l := range o.layers {
		o.settle(l)
	}
	o.left = nil
	if len(o.alsoPods)+len(o.alsoPolicies) == 0 {
		return nil, nil
	}
	pods = slices.SortedFunc(maps.Keys(o.alsoPods), cluster.Key.Compare)
	policies = slices.SortedFunc(maps.Keys(o.alsoPolicies), cluster.Key.Compare)
	o.left = o.alsoPolicies
	o.alsoPods, o.alsoPolicies = map[cluster.Key]bool{}, map[cluster.Key]bool{}
	return pods, policies
}

func (o *Overlay) settle(l *layer) {
	if l.stale {
		o.alsoMembers(l)
		var inForce []*policy.Policy
		for k := range l.versions {
			if p := o.bottom(k); p != nil {
				inForce = append(inForce, p)
			}
		}
		l.selection, l.stale = newSelection(l.Name, l.Change, inForce, l.Cohort), false
		for _, e := range o.pods {
			l.selection.set(e, o.space(e.Namespace))
		}
		l.selection.settle()
		o.alsoMembers(l)
		return
	}
	if was, is := l.selection.settle(); was != is {
		o.also(was)
		o.also(is)
	}
}

// bottom is a policy as it is in force for everyone beneath the rollouts that are under way.
func (o *Overlay) bottom(k cluster.Key) *policy.Policy {
	for _, f := range slices.Backward(o.finals) {
		if p, ok := f.Change.version(k); ok {
			return p
		}
	}
	return o.policies[k]
}

// Has reports whether a rollout is under way here.
func (o *Overlay) Has(rollout string) bool { return o.layer(rollout) != nil }

// Selects reports whether the change of a rollout that is under way selects a pod, as of the last Settle.
func (o *Overlay) Selects(rollout string, k cluster.Key) bool {
	l := o.layer(rollout)
	return l != nil && l.selection != nil && l.selection.selects(k)
}

// Includes reports whether a pod is in the cohort of a rollout that is under way, as of the last Settle.
func (o *Overlay) Includes(rollout string, k cluster.Key) bool {
	l := o.layer(rollout)
	return l != nil && l.selection != nil && l.selection.includes(k)
}

// Pod returns a pod as the cluster has it, or nil.
func (o *Overlay) Pod(k cluster.Key) *cluster.Endpoint { return o.pods[k] }

// Pods yields the pods as the cluster has them, in no order.
func (o *Overlay) Pods(yield func(*cluster.Endpoint) bool) {
	for _, e := range o.pods {
		if !yield(e) {
			return
		}
	}
}

// Namespaces yields the namespaces, in no order.
func (o *Overlay) Namespaces(yield func(cluster.Namespace) bool) {
	for name, labels := range o.spaces {
		if !yield(cluster.Namespace{Name: name, Labels: labels}) {
			return
		}
	}
}

// Policies yields the keys of all policies that there are or that a rollout brings, in no order.
func (o *Overlay) Policies(yield func(cluster.Key) bool) {
	for k := range o.policies {
		if !o.touched[k] && !yield(k) {
			return
		}
	}
	for k := range o.touched {
		if !yield(k) {
			return
		}
	}
}

// View is one way to look at the objects.
type View struct {
	overlay  *Overlay
	rollout  string // is left out; "" is none
	everyone bool   // its candidate is in force for everyone, in its stead
}

// InForce is with all rollouts in force for whom they are.
func (o *Overlay) InForce() View { return View{overlay: o} }

// Before is without one of the rollouts that are under way.
func (o *Overlay) Before(rollout string) View { return View{overlay: o, rollout: rollout} }

// After is with the candidate of one of the rollouts that are under way in force for everyone.
func (o *Overlay) After(rollout string) View {
	return View{overlay: o, rollout: rollout, everyone: true}
}

// Pod returns a pod of the cluster as policies are to see it, or nil if there is none.
func (v View) Pod(k cluster.Key) *cluster.Endpoint {
	e := v.overlay.pods[k]
	if e == nil || len(v.overlay.layers) == 0 || v.overlay.node != "" && e.Node != v.overlay.node {
		return e // a mark makes a difference for the subject only
	}
	for _, l := range v.overlay.layers {
		if l.Name == v.rollout || l.Cohort.Everyone() || !l.selection.includes(k) {
			continue
		}
		labels, err := e.Labels.Mark(l.Name)
		if err != nil { // the name was checked
			return e
		}
		marked := *e
		marked.Labels = labels
		e = &marked
	}
	return e
}

// Policy yields what is in force in the stead of a policy, by key: nil for what is not there.
func (v View) Policy(k cluster.Key, yield func(cluster.Key, *policy.Policy)) {
	o := v.overlay
	own := o.bottom(k)
	if !o.touched[k] && !o.left[k] {
		yield(k, own)
		return
	}
	var candidate *policy.Policy
	under := cluster.Key{Namespace: k.Namespace, Name: k.Name + candidateSuffix}
	for _, l := range o.layers {
		version, touches := l.versions[k]
		everyone := l.Cohort.Everyone()
		if l.Name == v.rollout {
			everyone = v.everyone
			touches = touches && everyone
		}
		if !touches || !everyone && l.Cohort.Percent == 0 {
			continue
		}
		candidate = o.gate(version, under.Name, l.Name, true, everyone)
		if everyone {
			own = nil
		} else {
			own = o.gate(own, k.Name, l.Name, false, false)
		}
	}
	yield(k, own)
	yield(under, candidate)
}

// gate is Part.gate, which makes the same policy of the same each time: what stays the same costs the compiler nothing.
func (o *Overlay) gate(p *policy.Policy, name, rollout string, members, everyone bool) *policy.Policy {
	if p == nil {
		return nil
	}
	key := gateKey{p, rollout, members, everyone, name}
	if made := o.gates[key]; made != nil {
		return made
	}
	made, err := Part{Name: rollout, Everyone: everyone}.gate(p, name, members)
	if err != nil { // the candidate was checked, and any other is as the mark is
		return p
	}
	o.gates[key] = made
	return made
}

// versions are what c makes of the policies that it touches; nil: it is removed.
func (c Change) versions() map[cluster.Key]*policy.Policy {
	all := map[cluster.Key]*policy.Policy{}
	for _, ref := range c.Remove {
		all[keyOf(ref)] = nil
	}
	for _, p := range c.Policies {
		all[keyOf(RefOf(p))] = p
	}
	return all
}

// version is what c makes of a policy; false if it does not touch it.
func (c Change) version(k cluster.Key) (*policy.Policy, bool) {
	for _, p := range c.Policies {
		if keyOf(RefOf(p)) == k {
			return p, true
		}
	}
	return nil, slices.ContainsFunc(c.Remove, func(r Ref) bool { return keyOf(r) == k })
}

// keyOf names a policy without its kind: only a NetworkPolicy has a namespace.
func keyOf(r Ref) cluster.Key { return cluster.Key{Namespace: r.Namespace, Name: r.Name} }
