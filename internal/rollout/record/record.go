// Package record is a PolicyRollout as an API keeps it: its decoded spec, and a status that is all that is known of the
// rollout. Whoever moves a rollout on a cluster reads a Record, moves its Status, and writes it back; whoever enforces
// reads one and puts in force what its status says. Who writes is refused by the API if somebody else wrote meanwhile.
package record

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// Resource is where an API keeps PolicyRollouts.
var Resource = schema.GroupVersionResource{Group: "ringfence.dev", Version: "v1alpha1", Resource: "policyrollouts"}

// Record is one PolicyRollout. It is a value: what changes it returns another one.
type Record struct {
	Name            string
	UID             string
	ResourceVersion string
	Generation      int64
	// Spec is what is written; nil if that cannot be used, which Why says.
	Spec   *rollout.Spec
	Why    string
	Digest string // of the spec, also of one that cannot be used
	Status rollout.Status
	// Lost are probes that the candidate takes away, for who promotes.
	Lost []string
	// Nodes, Selected and Cohort are what was last known, for people.
	Nodes            string
	Selected, Cohort int
	// Complete is what is in force for everyone by the rollout, and Former an earlier revision that is in force beneath.
	Complete, Former *Finished

	spec   v1alpha1.PolicyRolloutSpec
	object *unstructured.Unstructured
}

// Finished is a change that is in force for everyone.
type Finished struct {
	rollout.Change
	Digest string
	At     time.Time
	raw    v1alpha1.RolloutRevision
}

// Read reads an object of the API, which the Record then owns. A spec that cannot be used is no error: what its status
// says is in force all the same. A status that cannot be read is.
func Read(u *unstructured.Unstructured) (Record, error) {
	r := Record{Name: u.GetName(), UID: string(u.GetUID()), ResourceVersion: u.GetResourceVersion(), Generation: u.GetGeneration(), object: u}
	data, err := u.MarshalJSON()
	if err != nil {
		return r, fmt.Errorf("rollout %s: %w", r.Name, err)
	}
	var problems []manifest.Problem
	r.Spec, r.Digest, problems = manifest.ReadRollout(data)
	if r.Spec == nil {
		r.Why = "it changes nothing"
		if len(problems) > 0 {
			r.Why = problems[0].Error()
		}
	}
	var object v1alpha1.PolicyRollout
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(withoutSpec(u, r.Spec == nil), &object); err != nil {
		return r, fmt.Errorf("rollout %s: its status cannot be read: %w", r.Name, err)
	}
	r.spec = object.Spec
	s := object.Status
	r.Status = statusOf(r.Name, s)
	r.Lost, r.Nodes, r.Selected, r.Cohort = s.Lost, s.Nodes, int(s.Selected), int(s.Cohort)
	if r.Complete, err = r.finished(s.Complete); err == nil {
		r.Former, err = r.finished(s.Former)
	}
	return r, err
}

// Annotations are those of the object.
func (r Record) Annotations() map[string]string {
	if r.object == nil {
		return nil
	}
	return r.object.GetAnnotations()
}

// withoutSpec leaves out a spec that may not even be decoded.
func withoutSpec(u *unstructured.Unstructured, out bool) map[string]any {
	if !out {
		return u.Object
	}
	rest := map[string]any{}
	for k, v := range u.Object {
		if k != "spec" {
			rest[k] = v
		}
	}
	return rest
}

// finished reads a revision as the rollout that it was.
func (r Record) finished(v *v1alpha1.RolloutRevision) (*Finished, error) {
	if v == nil {
		return nil, nil
	}
	change, err := manifest.ReadChange(r.Name, v.Policies, v.Remove)
	if err != nil {
		return nil, fmt.Errorf("rollout %s: what is in force of revision %s cannot be read: %w", r.Name, v.Digest, err)
	}
	return &Finished{Change: change, Digest: v.Digest, At: v.At.Time, raw: *v}, nil
}

// With returns the record with another status, and with what that means for the revisions in force.
func (r Record) With(next rollout.Status, now time.Time) Record {
	was := r.Status
	switch {
	case was.Phase == rollout.Complete && next.Digest != was.Digest:
		if r.Complete != nil {
			r.Former = r.Complete
		}
		r.Complete = nil
	case next.Phase != rollout.Complete:
		r.Complete = nil
	case r.Complete == nil && r.Spec != nil && r.Digest == next.Digest:
		r.Complete = &Finished{Change: r.Spec.Change, Digest: r.Digest, At: now,
			raw: v1alpha1.RolloutRevision{Policies: r.spec.Policies, Remove: r.spec.Remove, Digest: r.Digest, At: *micro(now)}}
		if r.returns() != nil {
			r.Former = nil // a return is whole by itself
		}
	}
	if !next.Active() {
		r.Lost = nil
	}
	if next.Phase != was.Phase || next.Step != was.Step || next.Revision != was.Revision {
		r.Nodes = "" // until somebody has looked where that is in force
	}
	r.Status = next
	return r
}

// Part says for whom the candidate is in force while the rollout is under way. Of a spec that the status is not about,
// it is nobody; and so it is of a rollout that is complete, see Finals.
func (r Record) Part(s *cluster.State) rollout.Part {
	if r.Spec == nil || !r.Status.Active() {
		return rollout.Part{Name: r.Name}
	}
	return r.Status.Part(r.Spec, s)
}

// Finals are the changes that are in force for everyone beneath those under way, the earlier ones first.
func Finals(all []Record) []rollout.Part {
	type at struct {
		*Finished
		name string
	}
	var found []at
	for _, r := range all {
		for _, f := range []*Finished{r.Former, r.Complete} {
			if f != nil {
				found = append(found, at{f, r.Name})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b at) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.name, b.name)) })
	var parts []rollout.Part
	for _, f := range found {
		parts = append(parts, rollout.Part{Name: f.name, Change: f.Change, Final: true})
	}
	return parts
}

func sortByName(all []Record) {
	slices.SortFunc(all, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
}

// WaitsFor says why r cannot begin: another rollout that is under way touches a policy that r touches too, or policies were
// returned to a generation; "" if it can.
func (r Record) WaitsFor(all []Record) string {
	if r.Spec == nil || r.Name == ReturnName {
		return ""
	}
	for _, o := range all {
		if to := o.returns(); to != nil && (o.Returned() != nil || o.Status.Active() || o.Status.Phase == "") {
			return fmt.Sprintf("policies were returned to %s; first \"ringfence rollout resume\"", to)
		}
	}
	touched := r.Spec.Touches()
	for _, o := range all {
		if o.Name != r.Name && o.Status.Active() && o.Spec != nil &&
			slices.ContainsFunc(o.Spec.Touches(), func(p rollout.Ref) bool { return slices.Contains(touched, p) }) {
			return rollout.UnderWay(o.Name)
		}
	}
	return ""
}

// Object returns the object with the record's status, as it is to be written.
func (r Record) Object() (*unstructured.Unstructured, error) {
	status := r.apiStatus()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return nil, fmt.Errorf("rollout %s: %w", r.Name, err)
	}
	u := r.object.DeepCopy()
	u.Object["status"] = fields
	return u, nil
}
