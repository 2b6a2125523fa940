package record

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/ringfence-project/ringfence/internal/rollout"
)

// ErrUnknown is returned for a rollout that is not there, and ErrNotInstalled where the API does not know rollouts.
var (
	ErrUnknown      = errors.New("no such rollout")
	ErrNotInstalled = errors.New("the API does not know PolicyRollouts: install the chart of Ringfence, or its definition in deploy/")
)

// List reads all rollouts, by name.
func List(ctx context.Context, c dynamic.Interface) ([]Record, error) {
	list, err := c.Resource(Resource).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, ErrNotInstalled
	}
	if err != nil {
		return nil, fmt.Errorf("list rollouts: %w", err)
	}
	var all []Record
	for i := range list.Items {
		r, err := Read(&list.Items[i])
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	sortByName(all)
	return all, nil
}

// Get reads a rollout.
func Get(ctx context.Context, c dynamic.Interface, name string) (Record, error) {
	u, err := c.Resource(Resource).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Record{}, fmt.Errorf("rollout %s: %w", name, ErrUnknown)
	}
	if err != nil {
		return Record{}, fmt.Errorf("get rollout %s: %w", name, err)
	}
	return Read(u)
}

// Write writes the record's status, and returns it as the API has it then. The API refuses it as a conflict if somebody
// wrote since the record was read.
func (r Record) Write(ctx context.Context, c dynamic.Interface, manager string) (Record, error) {
	u, err := r.Object()
	if err != nil {
		return r, err
	}
	if u, err = c.Resource(Resource).UpdateStatus(ctx, u, metav1.UpdateOptions{FieldManager: manager}); err != nil {
		return r, fmt.Errorf("write the status of rollout %s: %w", r.Name, err)
	}
	return Read(u)
}

// tries is how often a command is tried that somebody else comes before.
const tries = 10

// Do does what a person wants of a rollout, whether a controller runs or not. Where somebody writes meanwhile, it looks at
// what is then, and tries again.
func Do(ctx context.Context, c dynamic.Interface, name string, command rollout.Command) (Record, error) {
	for try := 1; ; try++ {
		r, err := Get(ctx, c, name)
		if err != nil {
			return r, err
		}
		next, err := r.do(ctx, c, command, time.Now())
		if err != nil {
			return r, fmt.Errorf("rollout %s: %w", name, err)
		}
		written, err := next.Write(ctx, c, "ringfence")
		if !apierrors.IsConflict(err) || try == tries {
			return written, err
		}
	}
}

func (r Record) do(ctx context.Context, c dynamic.Interface, command rollout.Command, now time.Time) (Record, error) {
	switch {
	case r.Spec == nil:
		return r, fmt.Errorf("it has an error, and nothing of it is in force: %s", r.Why)
	case command == rollout.Abort && r.Status.Digest != r.Digest: // what is written is to end, also before anybody began it
		r = r.With(r.Status.Follow(r.Spec, "", now), now)
	case r.Status.Phase == "":
		return r, errors.New("no controller has begun it yet")
	}
	if command == rollout.Retry || command == rollout.Undo && r.Name != ReturnName {
		all, err := List(ctx, c)
		if err != nil {
			return r, err
		}
		if why := r.WaitsFor(all); why != "" && (command == rollout.Retry || ReturnedTo(all) != nil) {
			return r, errors.New(why)
		}
	}
	status, err := r.Status.Do(r.Spec, command, rollout.Health{Lost: r.Lost}, now)
	if err != nil {
		return r, err
	}
	return r.With(status, now), nil
}
