// Package inforce answers "is it in force?" for a whole cluster: agents report what their kernels enforce, each in one small
// object of its own, and readers put the reports together.
//
// A report says up to which resource version of the API all policies are in force, not which ones: its size does not depend
// on how many there are, and a reader can tell of any one policy. It needs no heartbeat. An agent that dies leaves its
// kernel enforcing, so that its last report stays true; a policy that is newer is not covered by it; and what a machine
// enforced before it was started anew is told by the start's id.
package inforce

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
)

// Resource is where the API keeps reports.
var Resource = schema.GroupVersionResource{Group: "ringfence.dev", Version: "v1alpha1", Resource: "nodeenforcements"}

// MaxList bounds each list of a report, and maxMessage each text, in runes.
const (
	MaxList    = 20
	maxMessage = 512
)

// All nodes together write about perSecond reports a second at most, and one node at most one each least.
const (
	perSecond = 100
	least     = time.Second
)

// retry is how long a failed write waits for the next one at first; it grows to slowest.
const (
	retry   = 2 * time.Second
	slowest = 2 * time.Minute
)

// Spread is the time over which so many nodes spread the reports of a change that came to all of them at once.
func Spread(nodes int) time.Duration { return time.Duration(max(nodes, 1)) * time.Second / perSecond }

// Reporter writes one node's report.
type Reporter struct {
	Client dynamic.Interface
	Node   string
	// UID returns the UID of the node's object, with which the report goes, "" if it is not known yet.
	UID func() string
	// Nodes returns how many nodes the cluster has.
	Nodes func() int
	// Now returns the report as it should be; its field Updated does not count.
	Now func() v1alpha1.NodeEnforcementStatus
	Log *slog.Logger
	// Wrote is told of each report that the API has; may be nil.
	Wrote func(v1alpha1.NodeEnforcementStatus)

	written *v1alpha1.NodeEnforcementStatus
	told    bool // that writing fails
}

// Run writes the report each time that changed says it may have changed and it did, until ctx ends. Changes that come while
// it waits are written as one.
func (r *Reporter) Run(ctx context.Context, changed <-chan struct{}) error {
	wait := retry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		spread := Spread(r.Nodes())
		if !sleep(ctx, rand.N(spread)) {
			return nil
		}
		for !r.write(ctx) {
			if !sleep(ctx, wait/2+rand.N(wait)) {
				return nil
			}
			wait = min(2*wait, slowest)
		}
		wait = retry
		if !sleep(ctx, max(least, spread)) {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// write writes the report if it differs from what was written last, and reports whether there is nothing left to write.
func (r *Reporter) write(ctx context.Context) bool {
	now := r.Now()
	now.Updated = metav1.Time{}
	trim(&now)
	if r.written != nil && reflect.DeepEqual(*r.written, now) {
		return true
	}
	stamped := now
	stamped.Updated = metav1.Now()
	err := r.put(ctx, stamped)
	if ctx.Err() != nil {
		return true
	}
	if err != nil {
		if !r.told {
			r.Log.Warn("what is in force could not be reported; it is tried again", "error", err)
		}
		r.told = true
		return false
	}
	r.written, r.told = &now, false
	if r.Wrote != nil {
		r.Wrote(now)
	}
	return true
}

// put writes with one request, and with three the first time.
func (r *Reporter) put(ctx context.Context, s v1alpha1.NodeEnforcementStatus) error {
	object := v1alpha1.NodeEnforcement{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "NodeEnforcement"},
		ObjectMeta: metav1.ObjectMeta{Name: r.Node}, Status: s}
	if uid := r.UID(); uid != "" {
		object.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.Node, UID: types.UID(uid)}}
	}
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("report what is in force: %w", err)
	}
	reports := r.Client.Resource(Resource)
	_, err = reports.Patch(ctx, r.Node, types.MergePatchType, data, metav1.PatchOptions{FieldManager: "ringfence-agent"})
	if !apierrors.IsNotFound(err) {
		return err
	}
	u := new(unstructured.Unstructured)
	if err := u.UnmarshalJSON(data); err != nil {
		return fmt.Errorf("report what is in force: %w", err)
	}
	_, err = reports.Create(ctx, u, metav1.CreateOptions{FieldManager: "ringfence-agent"})
	return err
}

// trim keeps a report within its bounds, and its lists from being null, which a patch would take for "remove".
func trim(s *v1alpha1.NodeEnforcementStatus) {
	s.Message = cut(s.Message)
	s.Defective = first(s.Defective)
	s.Closed = first(s.Closed)
	s.Rollouts = first(s.Rollouts)
	s.Conditions = append([]v1alpha1.NodeCondition{}, first(s.Conditions)...)
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.Message, c.Since = cut(c.Message), c.Since.Rfc3339Copy()
	}
}

func first[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list[:min(len(list), MaxList)]
}

func cut(text string) string {
	if runes := []rune(text); len(runes) > maxMessage {
		return string(runes[:maxMessage-1]) + "…"
	}
	return text
}
