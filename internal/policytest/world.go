package policytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/service"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

type number = json.Number

func unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// world is the cluster that a document is about, before any test changes it.
type world struct {
	objects  cluster.Objects // with addresses
	services []service.Service
	notes    []string
	inForce  []*policy.Policy // in Runner.Cluster
	named    []string         // namespaces that the document is about, of Runner.Cluster
}

// scope is a cluster to resolve names in.
func (w world) scope(s *cluster.State) query.Scope {
	return query.Scope{State: s, Services: w.services}
}

// loadWorld reads the manifests of a document. Problems are the manifests', err is the document's.
func (r *Runner) loadWorld(d Doc) (world, []manifest.Problem, error) {
	paths, err := r.paths(d)
	if err != nil {
		return world{}, nil, err
	}
	stdin := io.Reader(bytes.NewReader(r.Stdin))
	bundle, err := dir.Load(paths, stdin)
	if err != nil {
		return world{}, nil, err
	}
	result := bundle.Finish(manifest.Options{})
	if len(result.Problems) > 0 {
		return world{}, result.Problems, nil
	}
	w := world{objects: result.Objects, services: result.Services}
	families := d.spec.Value.Families
	if r.Cluster != nil {
		named := d.named(w)
		w = r.Cluster.within(w)
		w.named = named
		w.inForce = w.objects.Policies
		if len(families) == 0 {
			families = r.Cluster.families()
		}
	}
	if len(w.objects.Policies) == 0 && !hasCandidate(d.spec.Value) {
		where := strings.Join(paths, ", ")
		if r.Cluster != nil {
			where = "the cluster"
		}
		return world{}, nil, fmt.Errorf("there is no policy to test in %s", where)
	}
	for _, n := range result.Notices {
		if !n.Running {
			w.notes = append(w.notes, n.String())
		}
	}
	return w, nil, w.address(families)
}

func hasCandidate(d document) bool {
	return slices.ContainsFunc(d.Tests, func(t testSpec) bool { return len(t.Candidate) > 0 })
}

// paths are the manifests of a document: what it names, else its folder. Given manifests stand in for its policies.
func (r *Runner) paths(d Doc) ([]string, error) {
	policies, err := expand(d, "policies", d.spec.Value.Policies)
	if err != nil {
		return nil, err
	}
	fixtures, err := expand(d, "fixtures", d.spec.Value.Fixtures)
	if err != nil {
		return nil, err
	}
	switch {
	case len(r.Manifests) > 0:
		return append(slices.Clone(r.Manifests), fixtures...), nil
	case len(policies)+len(fixtures) == 0:
		return []string{filepath.Dir(d.File)}, nil
	}
	return append(policies, fixtures...), nil
}

// expand resolves patterns relative to the document's file. One that matches nothing is an error.
func expand(d Doc, field string, patterns []string) ([]string, error) {
	var paths []string
	for i, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(d.File), filepath.FromSlash(pattern)))
		if err != nil || len(found) == 0 {
			return nil, manifest.Problem{File: d.File, Line: d.spec.LineOf(at(field, i)), Field: at(field, i),
				Message: fmt.Sprintf("%q matches no file", pattern), Fix: "paths are relative to the test file"}
		}
		paths = append(paths, found...)
	}
	return paths, nil
}

// The ranges that pods without an address get one from, where the nodes name none.
var defaultRanges = [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")}

// address gives pods without an address one of each family, so that address blocks can be compared with them.
func (w *world) address(families []string) error {
	had := map[cluster.Key]*cluster.Endpoint{}
	for _, e := range w.objects.Endpoints {
		if len(e.Addresses) > 0 {
			had[e.Key] = e
		}
	}
	ranges := defaultRanges
	for _, p := range slices.Backward(w.objects.PodRanges) {
		ranges[familyOf(p.Addr())] = p
	}
	for i, name := range []string{"IPv4", "IPv6"} {
		if len(families) > 0 && !slices.Contains(families, name) {
			ranges[i] = netip.Prefix{}
		}
	}
	if err := cluster.AssignAddresses(&w.objects, ranges[0], ranges[1]); err != nil {
		return fmt.Errorf("give pods addresses: %w", err)
	}
	invented := 0
	for i, e := range w.objects.Endpoints {
		if old := had[e.Key]; old != nil {
			w.objects.Endpoints[i] = old // what has an address of one family has no other
		} else if len(e.Addresses) > 0 {
			invented++
		}
	}
	if invented > 0 && namesBlocks(w.objects.Policies) {
		w.notes = append(w.notes, fmt.Sprintf("pods without an address (%d) are taken to be in %s where policies name address blocks",
			invented, joinRanges(ranges)))
	}
	return nil
}

func joinRanges(ranges [2]netip.Prefix) string {
	var texts []string
	for _, r := range ranges {
		if r.IsValid() {
			texts = append(texts, r.String())
		}
	}
	return strings.Join(texts, " and ")
}

func namesBlocks(policies []*policy.Policy) bool {
	return slices.ContainsFunc(policies, func(p *policy.Policy) bool {
		return slices.ContainsFunc(slices.Concat(p.Ingress, p.Egress), func(r policy.Rule) bool {
			return slices.ContainsFunc(r.Peers, func(q policy.Peer) bool { return q.Kind == policy.PeerBlock })
		})
	})
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// patched is the world with a test's patches.
func (w world) patched(d Doc, path string, patches []patchSpec) (world, error) {
	for i, p := range patches {
		where := at(path+".patch", i)
		fail := func(field string, err error) (world, error) {
			return world{}, manifest.Problem{File: d.File, Line: d.spec.LineOf(where + field), Field: where + field, Message: err.Error()}
		}
		s, err := cluster.NewState(w.clone())
		if err != nil {
			return world{}, err
		}
		if p.Namespace != "" {
			err = w.patchNamespace(s, p)
		} else {
			err = w.patchPods(s, p)
		}
		if err != nil {
			return fail("", err)
		}
	}
	return w, nil
}

// clone is a copy of the objects whose lists a State may keep.
func (w world) clone() cluster.Objects {
	o := w.objects
	o.Namespaces, o.Nodes, o.Endpoints = slices.Clone(o.Namespaces), slices.Clone(o.Nodes), slices.Clone(o.Endpoints)
	o.Workloads, o.Policies = slices.Clone(o.Workloads), slices.Clone(o.Policies)
	return o
}

func (w *world) patchNamespace(s *cluster.State, p patchSpec) error {
	known := slices.ContainsFunc(s.Namespaces(), func(n cluster.Namespace) bool { return n.Name == p.Namespace }) ||
		slices.ContainsFunc(s.Endpoints(), func(e *cluster.Endpoint) bool { return e.Namespace == p.Namespace })
	if !known {
		return fmt.Errorf("no namespace is called %q", p.Namespace)
	}
	labels, err := relabel(s.Namespace(p.Namespace).Labels, p.Labels, "namespace "+p.Namespace)
	if err != nil {
		return err
	}
	w.objects.Namespaces = slices.DeleteFunc(slices.Clone(w.objects.Namespaces), func(n cluster.Namespace) bool { return n.Name == p.Namespace })
	w.objects.Namespaces = append(w.objects.Namespaces, cluster.Namespace{Name: p.Namespace, Labels: labels})
	return nil
}

func (w *world) patchPods(s *cluster.State, p patchSpec) error {
	parties, err := w.scope(s).Resolve(p.Pod)
	if err != nil {
		return err
	}
	changed := map[cluster.Key]*cluster.Endpoint{}
	for _, party := range parties {
		if party.Endpoint == nil {
			return fmt.Errorf("%s is no pod with labels of its own", party)
		}
		pod := *party.Endpoint
		if pod.Labels, err = relabel(pod.Labels, p.Labels, "pod "+pod.Key.String()); err != nil {
			return err
		}
		changed[pod.Key] = &pod
	}
	w.objects.Endpoints = slices.Clone(w.objects.Endpoints)
	for i, e := range w.objects.Endpoints {
		if c := changed[e.Key]; c != nil {
			w.objects.Endpoints[i] = c
		}
	}
	w.objects.Workloads = slices.Clone(w.objects.Workloads)
	for i, t := range w.objects.Workloads {
		if c := changed[t.Template.Key]; c != nil {
			w.objects.Workloads[i].Template = c
		}
	}
	return nil
}

// relabel applies changes to labels. A change that changes nothing is an error: the test would test nothing.
func relabel(old label.Set, changes map[string]*string, what string) (label.Set, error) {
	labels := old.Map()
	for k, v := range changes {
		if v == nil {
			if _, had := labels[k]; !had {
				return label.Set{}, fmt.Errorf("%s has no label %s to take away", what, k)
			}
			delete(labels, k)
			continue
		}
		labels[k] = *v
	}
	set, err := label.NewSet(labels)
	if err == nil && set == old {
		err = fmt.Errorf("%s has these labels already", what)
	}
	return set, err
}

// candidate splits the world in what is in force and what would be: the policies named are the candidate's, "!name" is
// to be removed, and files hold new versions.
func (r *Runner) candidate(w world, d Doc, path string, entries []string) (inForce, would world, problems []manifest.Problem, err error) {
	inForce, would = w, w
	for i, entry := range entries {
		where := at(path+".candidate", i)
		name, removed := strings.CutPrefix(entry, "!")
		if !removed && isFile(entry) {
			files, err := expand(d, where, []string{entry})
			if err != nil {
				return w, w, nil, err
			}
			bundle, err := dir.Load(files, nil)
			if err != nil {
				return w, w, nil, err
			}
			result := bundle.Finish(manifest.Options{})
			if len(result.Problems) > 0 {
				return w, w, result.Problems, nil
			}
			if err := would.change(w, result); err != nil {
				return w, w, nil, manifest.Problem{File: d.File, Line: d.spec.LineOf(where), Field: where, Message: err.Error()}
			}
			continue
		}
		named := func(p *policy.Policy) bool { return p.RuleAt(1, -1).Policy() == name }
		if !slices.ContainsFunc(w.objects.Policies, named) {
			return w, w, nil, manifest.Problem{File: d.File, Line: d.spec.LineOf(where), Field: where,
				Message: fmt.Sprintf("no policy is called %q", name), Fix: nearestPolicy(name, w.objects.Policies)}
		}
		if removed {
			would.objects.Policies = without(would.objects.Policies, named)
		} else {
			inForce.objects.Policies = without(inForce.objects.Policies, named)
		}
	}
	return inForce, would, nil, nil
}

// change makes what a file says of policies, and of rollouts, come true for everyone.
func (w *world) change(inForce world, r manifest.Result) error {
	parts := []rollout.Part{{Change: rollout.Change{Policies: r.Objects.Policies}, Final: true}}
	for _, c := range r.Rollouts {
		for _, ref := range c.Remove {
			if !slices.ContainsFunc(inForce.objects.Policies, func(p *policy.Policy) bool { return rollout.RefOf(p) == ref }) {
				return fmt.Errorf("rollout %s removes %s, which is not there", c.Name, ref)
			}
		}
		parts = append(parts, c.InForce())
	}
	if len(r.Objects.Policies)+len(r.Rollouts) == 0 {
		return fmt.Errorf("the file holds no policy")
	}
	state, err := cluster.NewState(w.clone())
	if err != nil {
		return err
	}
	changed, err := rollout.Rewrite(state, parts...)
	if err != nil {
		return err
	}
	w.objects.Policies = changed.Policies()
	return nil
}

func isFile(entry string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(entry))
}

func without(policies []*policy.Policy, out func(*policy.Policy) bool) []*policy.Policy {
	return slices.DeleteFunc(slices.Clone(policies), out)
}
