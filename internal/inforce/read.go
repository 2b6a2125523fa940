package inforce

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
)

// ErrNotInstalled says that the API does not know reports.
var ErrNotInstalled = errors.New("the API does not know NodeEnforcements: install the chart of Ringfence, or its definition in deploy/")

// Reports are the reports of all nodes, at one moment.
type Reports struct {
	ByNode  map[string]v1alpha1.NodeEnforcementStatus
	version string
}

// List reads all reports.
func List(ctx context.Context, c dynamic.Interface) (*Reports, error) {
	list, err := c.Resource(Resource).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, ErrNotInstalled
	}
	if err != nil {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	r := &Reports{ByNode: map[string]v1alpha1.NodeEnforcementStatus{}, version: list.GetResourceVersion()}
	for i := range list.Items {
		if err := r.set(&list.Items[i]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Get reads the report of one node; nil if there is none.
func Get(ctx context.Context, c dynamic.Interface, node string) (*v1alpha1.NodeEnforcementStatus, error) {
	u, err := c.Resource(Resource).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the report of node %s: %w", node, err)
	}
	r := Reports{ByNode: map[string]v1alpha1.NodeEnforcementStatus{}}
	if err := r.set(u); err != nil {
		return nil, err
	}
	report := r.ByNode[node]
	return &report, nil
}

func (r *Reports) set(u *unstructured.Unstructured) error {
	var report v1alpha1.NodeEnforcement
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &report); err != nil {
		return fmt.Errorf("report of node %s: %w", u.GetName(), err)
	}
	r.ByNode[report.Name] = report.Status
	return nil
}

// Follow calls changed after each change of r, until changed returns false, which is no error, ctx ends or the API
// ends the watch. Then the caller lists anew.
func (r *Reports) Follow(ctx context.Context, c dynamic.Interface, changed func() bool) error {
	w, err := c.Resource(Resource).Watch(ctx, metav1.ListOptions{ResourceVersion: r.version})
	if err != nil {
		return fmt.Errorf("watch reports: %w", err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, open := <-w.ResultChan():
			if !open {
				return nil
			}
			if err := r.take(event); err != nil {
				return err
			}
			if !changed() {
				return nil
			}
		}
	}
}

func (r *Reports) take(e watch.Event) error {
	switch e.Type {
	case watch.Error:
		return fmt.Errorf("watch reports: %w", apierrors.FromObject(e.Object))
	case watch.Bookmark:
		return nil
	}
	u, ok := e.Object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("watch reports: %T is none", e.Object)
	}
	if e.Type == watch.Deleted {
		delete(r.ByNode, u.GetName())
		return nil
	}
	return r.set(u)
}
