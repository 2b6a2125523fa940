package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
)

// Snapshot is what an API said once.
type Snapshot struct {
	Bundle   *manifest.Bundle
	Policies []Listed // in no order
}

// Listed is a policy as the API has it.
type Listed struct {
	Kind            string
	Key             PolicyKey
	UID             string
	Generation      int64
	ResourceVersion string
}

// Read lists everything that policies speak of, and Services, once. It is for questions, and not for enforcing: the lists
// are of moments a little apart.
func Read(ctx context.Context, o Options) (*Snapshot, error) {
	r := reader{ctx: ctx, into: &Snapshot{Bundle: manifest.NewBundle()}}
	c, b := o.Client, r.into.Bundle
	list(&r, "namespaces", c.CoreV1().Namespaces(), func(n *corev1.Namespace) { b.AddNamespace(n) })
	list(&r, "nodes", c.CoreV1().Nodes(), func(n *corev1.Node) { b.AddNode(n) })
	list(&r, "pods", c.CoreV1().Pods(""), func(p *corev1.Pod) { b.AddPod(trimPod(p)) })
	list(&r, "services", c.CoreV1().Services(""), func(s *corev1.Service) { b.AddService(s) })
	list(&r, "networkpolicies", c.NetworkingV1().NetworkPolicies(""), func(p *networkingv1.NetworkPolicy) {
		b.AddNetworkPolicy(p)
		r.note("NetworkPolicy", p)
	})
	list(&r, ClusterPolicies.Resource, o.Dynamic.Resource(ClusterPolicies), func(u *unstructured.Unstructured) {
		addClusterPolicy(b, u)
		r.note("ClusterNetworkPolicy", u)
	})
	return r.into, r.err
}

// ReadClusterPolicies lists the ClusterNetworkPolicies alone, once.
func ReadClusterPolicies(ctx context.Context, o Options) ([]Listed, error) {
	r := reader{ctx: ctx, into: &Snapshot{}}
	list(&r, ClusterPolicies.Resource, o.Dynamic.Resource(ClusterPolicies), func(u *unstructured.Unstructured) { r.note("ClusterNetworkPolicy", u) })
	return r.into.Policies, r.err
}

// ReadPolicies lists the policies of both kinds alone, once.
func ReadPolicies(ctx context.Context, o Options) ([]Listed, error) {
	r := reader{ctx: ctx, into: &Snapshot{}}
	list(&r, "networkpolicies", o.Client.NetworkingV1().NetworkPolicies(""), func(p *networkingv1.NetworkPolicy) { r.note("NetworkPolicy", p) })
	list(&r, ClusterPolicies.Resource, o.Dynamic.Resource(ClusterPolicies), func(u *unstructured.Unstructured) { r.note("ClusterNetworkPolicy", u) })
	return r.into.Policies, r.err
}

// reader keeps the first error.
type reader struct {
	ctx  context.Context
	into *Snapshot
	err  error
}

func (r *reader) note(kind string, m metav1.Object) {
	r.into.Policies = append(r.into.Policies, ListedOf(kind, m))
}

// ListedOf is a policy of a kind as the API has it.
func ListedOf(kind string, m metav1.Object) Listed {
	return Listed{Kind: kind, Key: cluster.Key{Namespace: m.GetNamespace(), Name: m.GetName()},
		UID: string(m.GetUID()), Generation: m.GetGeneration(), ResourceVersion: m.GetResourceVersion()}
}

// list passes on all objects of a kind, page by page. One that the API does not know has none.
func list[L runtime.Object, O runtime.Object](r *reader, name string, lw listWatcher[L], add func(O)) {
	if r.err != nil {
		return
	}
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return lw.List(ctx, o) })
	err := pages.EachListItem(r.ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		object, ok := o.(O)
		if !ok {
			return fmt.Errorf("%T is none", o)
		}
		add(object)
		return nil
	})
	if err != nil && !(name == ClusterPolicies.Resource && apierrors.IsNotFound(err)) {
		r.err = fmt.Errorf("list %s: %w", name, err)
	}
}
