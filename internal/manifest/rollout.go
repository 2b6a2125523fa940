package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	ringfence "github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// A rollout with a problem is not used at all: what it would change stays as it is, which is what a rollout is for. So
// there is no stand-in, unlike for a policy that is to be in force.

// ReadRollout reads a PolicyRollout of an API, as JSON. The digest is that of its spec, as it would be in a file; it is
// there also if the rollout cannot be used and the problems say why.
func ReadRollout(data []byte) (spec *rollout.Spec, digestOfSpec string, problems []Problem) {
	roots, err := document.ParseJSON(data)
	if err != nil || len(roots) != 1 {
		return nil, "", []Problem{{Object: "PolicyRollout", Message: fmt.Sprintf("want one object: %v", err)}}
	}
	b := NewBundle()
	b.decodeDocument("", roots[0], "")
	r := b.Finish(Options{})
	if len(r.Rollouts) == 1 {
		spec = r.Rollouts[0]
	}
	return spec, digest(document.Get(roots[0], "spec")), r.Problems
}

// ReadChange reads what a rollout changes, as its spec has it.
func ReadChange(name string, policies []runtime.RawExtension, remove []ringfence.PolicyReference) (rollout.Change, error) {
	data, err := json.Marshal(ringfence.PolicyRollout{TypeMeta: metav1.TypeMeta{APIVersion: ringfence.APIVersion, Kind: "PolicyRollout"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: ringfence.PolicyRolloutSpec{Policies: policies, Remove: remove}})
	if err != nil {
		return rollout.Change{}, err
	}
	spec, _, problems := ReadRollout(data)
	if spec == nil {
		return rollout.Change{}, errors.Join(asErrors(problems)...)
	}
	return spec.Change, nil
}

func asErrors(problems []Problem) []error {
	var all []error
	for _, p := range problems {
		all = append(all, p)
	}
	return all
}

// takePolicyRollout reads a PolicyRollout, its policies as strictly as if they were documents of their own.
func (b *Bundle) takePolicyRollout(o *object, root *yaml.Node) {
	var pr ringfence.PolicyRollout
	o.Read(root, reflect.ValueOf(&pr).Elem(), "")
	o.checkName()
	if err := label.CheckKey(o.Key.Name); err != nil && !o.Broken("metadata.name") {
		o.Problem("metadata.name", "", "the name of a rollout has at most 63 characters")
	}
	spec := &rollout.Spec{Name: o.Key.Name, Digest: digest(document.Get(root, "spec")), File: o.File, Line: o.Line,
		Analysis: o.rolloutAnalysis(pr.Spec.Analysis)}
	spec.Policies = o.rolloutPolicies(b, document.Get(document.Get(root, "spec"), "policies"))
	spec.Remove = o.rolloutRemoves(spec.Change, pr.Spec.Remove)
	if len(spec.Policies)+len(spec.Remove) == 0 && !o.Broken("spec") {
		o.Problem("spec", "write policies, or names of policies to remove", "the rollout changes nothing")
	}
	spec.Steps = o.rolloutSteps(pr.Spec.Steps)
	spec.Lines.Analysis = o.LineOf("spec.analysis")
	for i := range pr.Spec.Steps {
		spec.Lines.Steps = append(spec.Lines.Steps, o.LineOf(document.At("spec.steps", i)))
	}
	for i := range pr.Spec.Remove {
		spec.Lines.Remove = append(spec.Lines.Remove, o.LineOf(document.At("spec.remove", i)))
	}
	if len(o.Problems) > 0 {
		o.Effect("the rollout does not take place, and what is in force stays so")
		return
	}
	if b.once(o) {
		b.rollouts = append(b.rollouts, spec)
	}
}

// digest is the hash of what a node says, whatever way it is written.
func digest(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	text, err := json.Marshal(withoutNull(document.Plain(n))) // keys in order
	if err != nil {
		text = []byte(err.Error()) // what JSON cannot say is a problem anyway
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// withoutNull leaves out fields that are null, which is the same as absent: an API server may do so as well.
func withoutNull(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			if field == nil {
				delete(v, name)
				continue
			}
			v[name] = withoutNull(field)
		}
	case []any:
		for i := range v {
			v[i] = withoutNull(v[i])
		}
	}
	return value
}

// carried are the kinds of policies that a rollout may carry.
var carried = map[string]func(*Bundle, *object, *yaml.Node){
	"NetworkPolicy":        reading((*Bundle).takeNetworkPolicy),
	"ClusterNetworkPolicy": reading((*Bundle).takeClusterNetworkPolicy),
}

var carriedVersions = map[string]string{"NetworkPolicy": networkVersion, "ClusterNetworkPolicy": clusterVersion}

func (o *object) rolloutPolicies(b *Bundle, list *yaml.Node) []*policy.Policy {
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	inner := NewBundle()
	inner.types = b.types
	for i, n := range list.Content {
		n = document.Target(n)
		path := document.At("spec.policies", i)
		item := &object{document.Object{File: o.File, Line: n.Line, Lines: map[string]int{}, Types: o.Types, Strict: true}}
		item.readHeader(n, "")
		take := carried[item.Kind]
		switch {
		case take == nil:
			o.ProblemAt(n.Line, path+".kind", "write NetworkPolicy or ClusterNetworkPolicy", "a rollout carries no %s", cmp.Or(document.Shorten(item.Kind), "object without a kind"))
			continue
		case item.APIVersion != carriedVersions[item.Kind]:
			item.wrongVersion(carriedVersions[item.Kind])
		}
		if item.Kind == "ClusterNetworkPolicy" {
			item.Key.Namespace = ""
		} else {
			item.Key.Namespace = cmp.Or(item.Key.Namespace, "default")
		}
		take(inner, item, n)
		b.noteIgnoring(item, n)
		inner.collect(item)
	}
	for _, p := range inner.problems {
		p.Effect = "" // the stand-in is not used
		o.Problems = append(o.Problems, p)
	}
	o.Notices = append(o.Notices, inner.notices...)
	return inner.policies
}

func (o *object) rolloutRemoves(c rollout.Change, refs []ringfence.PolicyReference) []rollout.Ref {
	taken := c.Touches()
	var all []rollout.Ref
	for i, r := range refs {
		path := document.At("spec.remove", i)
		ref := rollout.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
		switch {
		case carried[r.Kind] == nil:
			o.unknownWord(path+".kind", r.Kind, []string{"ClusterNetworkPolicy", "NetworkPolicy"})
		case r.Name == "":
			o.Problem(path+".name", "", "required field is missing")
		case r.Kind == "NetworkPolicy":
			ref.Namespace = cmp.Or(ref.Namespace, "default")
		case r.Namespace != "":
			o.Problem(path+".namespace", "remove it", "a ClusterNetworkPolicy has no namespace")
		}
		if slices.Contains(taken, ref) {
			o.Problem(path, "keep one of the two", "%s is named twice in this rollout", ref)
		}
		taken = append(taken, ref)
		all = append(all, ref)
	}
	return all
}

func (o *object) rolloutSteps(steps []ringfence.RolloutStep) []rollout.Step {
	everyone := rollout.Cohort{Percent: 100}
	if len(steps) == 0 {
		return []rollout.Step{{Kind: rollout.Audit, For: rollout.DefaultAudit},
			{Kind: rollout.Enforce, For: rollout.DefaultEnforce, Cohort: rollout.Cohort{Percent: 10}},
			{Kind: rollout.Enforce, For: rollout.DefaultEnforce, Cohort: everyone}}
	}
	var all []rollout.Step
	for i, s := range steps {
		all = append(all, o.rolloutStep(document.At("spec.steps", i), s))
	}
	where := document.At("spec.steps", len(all)-1)
	if last := all[len(all)-1]; !o.Broken(where) && (last.Kind != rollout.Enforce || !last.Cohort.Everyone()) {
		o.Problem(where, "end with \"enforce: {percent: 100}\", and to stay before that write \"pause: {until: Promoted}\"",
			"the last step has to enforce for all pods, as that is what follows")
	}
	return all
}

func (o *object) rolloutStep(path string, s ringfence.RolloutStep) rollout.Step {
	var found []rollout.Step
	if s.Audit != nil {
		found = append(found, rollout.Step{Kind: rollout.Audit, For: o.duration(path+".audit.for", s.Audit.For, rollout.DefaultAudit)})
	}
	if e := s.Enforce; e != nil {
		found = append(found, rollout.Step{Kind: rollout.Enforce, For: o.duration(path+".enforce.for", e.For, rollout.DefaultEnforce),
			Cohort: o.rolloutCohort(path+".enforce", e)})
	}
	if p := s.Pause; p != nil {
		found = append(found, rollout.Step{Kind: rollout.Pause, For: o.duration(path+".pause.for", p.For, 0)})
		if p.Until != "" && p.Until != "Promoted" {
			o.unknownWord(path+".pause.until", p.Until, []string{"Promoted"})
		}
		if p.Until != "" && p.For != nil {
			o.Problem(path+".pause", "write one of the two", "waits for a time and for a person")
		}
	}
	if len(found) != 1 {
		if !o.Broken(path) {
			o.Problem(path, "", "want one of audit, enforce and pause")
		}
		return rollout.Step{}
	}
	return found[0]
}

func (o *object) duration(path string, d *metav1.Duration, otherwise time.Duration) time.Duration {
	switch {
	case d == nil:
		return otherwise
	case d.Duration <= 0:
		o.Problem(path, `write for instance "10m"`, "%s is no time to wait", d.Duration)
	}
	return d.Duration
}

func (o *object) rolloutCohort(path string, e *ringfence.EnforceStep) rollout.Cohort {
	c := rollout.Cohort{Percent: 100, Nodes: e.Nodes}
	if e.Percent != nil {
		c.Percent = int(*e.Percent)
		if c.Percent < 1 || c.Percent > 100 {
			o.Problem(path+".percent", "", "%d is not from 1 to 100", c.Percent)
		}
	}
	for _, s := range []struct {
		field string
		from  *metav1.LabelSelector
		to    **label.Selector
	}{{".selector", e.Selector, &c.Pods}, {".namespaceSelector", e.NamespaceSelector, &c.Namespaces}} {
		if s.from != nil {
			sel := o.selector(path+s.field, s.from)
			*s.to = &sel
		}
	}
	if e.Percent == nil && c.Pods == nil && c.Namespaces == nil && len(c.Nodes) == 0 && !o.Broken(path) {
		o.Problem(path, "write for instance \"percent: 10\"", "names no pods: wants percent, selector, namespaceSelector or nodes")
	}
	return c
}

func (o *object) rolloutAnalysis(a *ringfence.RolloutAnalysis) rollout.Analysis {
	out := rollout.DefaultAnalysis()
	if a == nil {
		return out
	}
	for _, l := range []struct {
		field string
		from  *ringfence.RolloutLimit
		to    *rollout.Limit
	}{{"newlyDenied", a.NewlyDenied, &out.NewlyDenied}, {"newlyAllowed", a.NewlyAllowed, &out.NewlyAllowed},
		{"failedConnects", a.FailedConnects, &out.FailedConnects}, {"resets", a.Resets, &out.Resets},
		{"notReady", a.NotReady, &out.NotReady}, {"restarts", a.Restarts, &out.Restarts}, {"probes", a.Probes, &out.Probes}} {
		if l.from != nil {
			path := "spec.analysis." + l.field
			l.to.Max = o.atLeastNone(path+".max", l.from.Max, l.to.Max)
			l.to.Then = o.rolloutAction(path+".then", l.from.Then, l.to.Then)
		}
	}
	out.Queries = o.rolloutQueries(a.Queries)
	if c := a.Coverage; c != nil {
		out.Coverage.Connections = o.atLeastNone("spec.analysis.coverage.connections", c.Connections, out.Coverage.Connections)
		if c.Workloads != nil {
			out.Coverage.Workloads = *c.Workloads
		}
		out.Coverage.Then = o.rolloutAction("spec.analysis.coverage.then", c.Then, out.Coverage.Then)
	}
	return out
}

func (o *object) atLeastNone(path string, n *int32, otherwise int) int {
	switch {
	case n == nil:
		return otherwise
	case *n < 0:
		o.Problem(path, "", "%d is less than 0", *n)
	}
	return int(*n)
}

var rolloutActions = map[ringfence.RolloutAction]rollout.Answer{
	ringfence.RollBack: rollout.Fail, ringfence.PauseIt: rollout.Inconclusive, ringfence.Ignore: rollout.Pass}

func (o *object) rolloutAction(path string, a ringfence.RolloutAction, otherwise rollout.Answer) rollout.Answer {
	if a == "" && !o.Written(path) {
		return otherwise
	}
	answer, ok := rolloutActions[a]
	if !ok {
		o.unknownWord(path, string(a), []string{"Ignore", "Pause", "RollBack"})
	}
	return answer
}

// maxQueries bounds the queries of a rollout.
const maxQueries = 20

func (o *object) rolloutQueries(queries []ringfence.RolloutQuery) []rollout.Query {
	if len(queries) > maxQueries {
		o.Problem("spec.analysis.queries", "", "%d queries are more than %d", len(queries), maxQueries)
		return nil
	}
	var all []rollout.Query
	names := map[string]bool{}
	for i, q := range queries {
		path := document.At("spec.analysis.queries", i)
		switch {
		case q.Name == "" || q.Query == "":
			o.Problem(path, "", "want a name and a query")
		case names[q.Name]:
			o.Problem(path+".name", "", "%q is the name of two queries", document.Shorten(q.Name))
		case label.CheckKey(q.Name) != nil:
			o.Problem(path+".name", "", "a name has at most 63 letters, digits, '-', '_' and '.'")
		case q.Min == nil && q.Max == nil:
			o.Problem(path, "write for instance \"max: 0.01\"", "has no limit: want min, max or both")
		case q.Min != nil && q.Max != nil && *q.Min > *q.Max:
			o.Problem(path, "", "min is more than max, so that no answer is within them")
		}
		if why := badServer(q.Server); why != "" {
			o.Problem(path+".server", `write for instance "http://prometheus.monitoring:9090"`, "%s", why)
		}
		names[q.Name] = true
		all = append(all, rollout.Query{Name: q.Name, Server: q.Server, Text: q.Query, Min: q.Min, Max: q.Max,
			Then: o.rolloutAction(path+".then", q.Then, rollout.Fail)})
	}
	return all
}

// badServer says what is wrong with the URL of a server. It does not repeat one with a password.
func badServer(server string) string {
	u, err := url.Parse(server)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "is no URL of a server"
	case u.User != nil:
		return "has a user or a password, which everybody could read who can read the rollout"
	case u.RawQuery != "" || u.Fragment != "":
		return "has a query or a fragment: want only where the API is"
	}
	return ""
}
