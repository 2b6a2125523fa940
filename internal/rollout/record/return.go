package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/manifest/write"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// ReturnName is the name of the one rollout that is a return to a generation: it brings, for everyone and over all other
// rollouts, the policies by which that generation differs from what is in force without it.
const ReturnName = "ringfence-return"

// What a return says of the generation.
const (
	idAnnotation    = "ringfence.dev/generation"
	entryAnnotation = "ringfence.dev/generation-entry"
)

// maxReturn bounds what a return carries, in bytes: the object holds it twice, in its spec and its status, and an API takes
// a megabyte and a half.
const maxReturn = 600 << 10

// maxCarried is how many policies a rollout carries, and how many it removes, at most; the kind's definition says the same.
const maxCarried = 1000

// ErrNotReturned is returned where nobody has returned to a generation.
var ErrNotReturned = errors.New("nobody returned to a generation: what policies and rollouts say is in force already")

// Returned says which generation a rollout has in force that is a return; nil of any other.
func (r Record) Returned() *generation.Return {
	if r.Complete == nil && r.Former == nil {
		return nil
	}
	to := r.returns()
	if to != nil && r.Complete != nil {
		to.Time = r.Complete.At
	}
	return to
}

// returns says which generation a rollout is to return to, also if it has not yet.
func (r Record) returns() *generation.Return {
	if r.Name != ReturnName || r.object == nil {
		return nil
	}
	notes := r.object.GetAnnotations()
	number, err := strconv.ParseUint(notes[entryAnnotation], 10, 64)
	if err != nil || notes[idAnnotation] == "" {
		return nil
	}
	return &generation.Return{Number: number, ID: generation.ID(notes[idAnnotation]), Time: r.Status.Began}
}

// ReturnedTo is what all rollouts have returned to; nil if they have not.
func ReturnedTo(all []Record) *generation.Return {
	for _, r := range all {
		if to := r.Returned(); to != nil {
			return to
		}
	}
	return nil
}

// Difference is what has to change so that exactly the policies wanted are in force, where those of now are. The error names
// the policies of which no manifest can be written.
func Difference(now, wanted []*policy.Policy) (rollout.Change, error) {
	var c rollout.Change
	byRef := map[rollout.Ref]*policy.Policy{}
	for _, p := range wanted {
		byRef[rollout.RefOf(p)] = p
	}
	var errs []error
	for _, d := range generation.Changes(now, wanted) {
		ref := rollout.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name}
		p := byRef[ref]
		if p == nil {
			c.Remove = append(c.Remove, ref)
			continue
		}
		if _, err := write.YAML(p); err != nil {
			errs = append(errs, err)
			continue
		}
		c.Policies = append(c.Policies, p)
	}
	return c, errors.Join(errs...)
}

// NewReturn is the object that returns to a generation by a change. The error says why there can be none.
func NewReturn(to generation.Return, c rollout.Change) (*unstructured.Unstructured, error) {
	if len(c.Policies) > maxCarried || len(c.Remove) > maxCarried {
		return nil, fmt.Errorf("%d policies differ and %d have to go; a rollout carries %d of each at most", len(c.Policies), len(c.Remove), maxCarried)
	}
	ignored := &v1alpha1.RolloutLimit{Then: v1alpha1.Ignore}
	all := int32(100)
	spec := v1alpha1.PolicyRolloutSpec{
		Steps: []v1alpha1.RolloutStep{{Enforce: &v1alpha1.EnforceStep{Percent: &all, For: &metav1.Duration{Duration: time.Second}}}},
		Analysis: &v1alpha1.RolloutAnalysis{NewlyDenied: ignored, NewlyAllowed: ignored, FailedConnects: ignored, Resets: ignored, NotReady: ignored, Restarts: ignored,
			Probes: ignored, Coverage: &v1alpha1.RolloutCoverage{Then: v1alpha1.Ignore}}}
	for _, p := range c.Policies {
		text, err := write.YAML(p)
		if err != nil {
			return nil, err
		}
		object, err := yaml.YAMLToJSON(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rollout.RefOf(p), err)
		}
		spec.Policies = append(spec.Policies, runtime.RawExtension{Raw: object})
	}
	for _, r := range c.Remove {
		spec.Remove = append(spec.Remove, v1alpha1.PolicyReference{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name})
	}
	data, err := json.Marshal(v1alpha1.PolicyRollout{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "PolicyRollout"},
		ObjectMeta: metav1.ObjectMeta{Name: ReturnName, Annotations: map[string]string{idAnnotation: string(to.ID), entryAnnotation: strconv.FormatUint(to.Number, 10)}},
		Spec:       spec})
	if err != nil {
		return nil, err
	}
	if len(data) > maxReturn {
		return nil, fmt.Errorf("the %d policies that differ are %d kB, and an object takes %d kB of them", len(c.Policies), len(data)>>10, maxReturn>>10)
	}
	u := new(unstructured.Unstructured)
	if err := u.UnmarshalJSON(data); err != nil {
		return nil, err
	}
	delete(u.Object, "status")
	if s, _, problems := manifest.ReadRollout(data); s == nil { // the API would have it, and nobody could use it
		return nil, fmt.Errorf("the policies cannot be read back: %v", problems)
	}
	return u, nil
}

// Return writes a return, over one that is there, and has it in force for everyone at once. Who may not write statuses leaves
// that to a controller. All other rollouts that are under way end.
func Return(ctx context.Context, c dynamic.Interface, u *unstructured.Unstructured) (Record, error) {
	if _, err := endOthers(ctx, c); err != nil {
		return Record{}, err
	}
	if err := put(ctx, c, u); err != nil {
		return Record{}, err
	}
	all, err := endOthers(ctx, c) // that began meanwhile
	if err != nil {
		return Record{}, err
	}
	for try := 1; ; try++ {
		r, err := Get(ctx, c, ReturnName)
		if err != nil {
			return r, err
		}
		next, done := r.returnNow(all, time.Now())
		if done {
			return r, nil
		}
		written, err := next.Write(ctx, c, "ringfence")
		switch {
		case err == nil:
			return written, nil
		case apierrors.IsForbidden(err):
			return r, nil
		case !apierrors.IsConflict(err) || try == tries:
			return r, err
		}
	}
}

// endOthers ends all rollouts but the return that are under way, or are to begin, and returns all there are.
func endOthers(ctx context.Context, c dynamic.Interface) ([]Record, error) {
	all, err := List(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Name == ReturnName {
			if r.returns() == nil {
				return nil, fmt.Errorf("there is a rollout %s that is no return to a generation: remove it first", ReturnName)
			}
			continue
		}
		isOver := r.Status.Phase != "" && r.Status.Over() && r.Digest == r.Status.Digest
		if isOver || r.Spec == nil {
			continue
		}
		if _, err := Do(ctx, c, r.Name, rollout.Abort); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// put creates an object, or writes its spec and annotations over one that is there.
func put(ctx context.Context, c dynamic.Interface, u *unstructured.Unstructured) error {
	for try := 1; ; try++ {
		there, err := c.Resource(Resource).Get(ctx, ReturnName, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, err = c.Resource(Resource).Create(ctx, u, metav1.CreateOptions{FieldManager: "ringfence"})
		case err == nil:
			there.SetAnnotations(u.GetAnnotations())
			there.Object["spec"] = u.Object["spec"]
			_, err = c.Resource(Resource).Update(ctx, there, metav1.UpdateOptions{FieldManager: "ringfence"})
		}
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) || try == tries {
			return fmt.Errorf("write rollout %s: %w", ReturnName, err)
		}
	}
}

// returnNow is r in force for everyone, later than whatever else is; done if it is so already.
func (r Record) returnNow(all []Record, now time.Time) (next Record, done bool) {
	if r.Spec == nil || r.Status.Phase == rollout.Complete && r.Status.Digest == r.Digest {
		return r, true
	}
	for _, o := range all { // by another clock
		for _, f := range []*Finished{o.Former, o.Complete} {
			if f != nil && !now.After(f.At) {
				now = f.At.Add(time.Microsecond)
			}
		}
	}
	r = r.With(r.Status.Follow(r.Spec, "", now), now)
	status := r.Status
	if !status.Active() { // a person ended it
		status, _ = status.Do(r.Spec, rollout.Retry, rollout.Health{}, now)
	}
	for status.Active() {
		status, _ = status.Do(r.Spec, rollout.Promote, rollout.Health{}, now) // which goes on, if it is active
	}
	return r.With(status, now), false
}

// Resume removes the return, and says what it was to.
func Resume(ctx context.Context, c dynamic.Interface) (generation.Return, error) {
	r, err := Get(ctx, c, ReturnName)
	switch {
	case errors.Is(err, ErrUnknown):
		return generation.Return{}, ErrNotReturned
	case err != nil:
		return generation.Return{}, err
	}
	to := r.returns()
	if to == nil {
		return generation.Return{}, fmt.Errorf("rollout %s is no return to a generation", ReturnName)
	}
	err = c.Resource(Resource).Delete(ctx, ReturnName, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return *to, err
}
