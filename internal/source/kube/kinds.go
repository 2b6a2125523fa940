package kube

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/service"
)

// definitions are where the API keeps the definitions of kinds.
var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	// ClusterPolicies is where the API keeps ClusterNetworkPolicies.
	ClusterPolicies = schema.GroupVersionResource{Group: v1alpha2.GroupName, Version: "v1alpha2", Resource: "clusternetworkpolicies"}
)

// listWatcher is what all clients of client-go are.
type listWatcher[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func newKind[L runtime.Object](s *Source, name string, client any, lw listWatcher[L]) *kind {
	return &kind{name: name, source: s, client: client, watch: lw.Watch,
		listFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return lw.List(ctx, o) }}
}

func (s *Source) allKinds() []*kind {
	c := s.options.Client
	pods := newKind(s, "pods", c, c.CoreV1().Pods(""))
	pods.trim, pods.set, pods.drop = s.trimPod, s.setPod, s.dropPod
	namespaces := newKind(s, "namespaces", c, c.CoreV1().Namespaces())
	namespaces.trim, namespaces.set, namespaces.drop = trimNamespace, s.setNamespace, s.dropNamespace
	nodes := newKind(s, "nodes", c, c.CoreV1().Nodes())
	nodes.trim, nodes.set, nodes.drop = trimNode, s.setNode, s.dropNode
	policies := newKind(s, "networkpolicies", c, c.NetworkingV1().NetworkPolicies(""))
	policies.trim, policies.set, policies.drop, policies.seen = trimPolicy, s.setPolicy, s.dropPolicy, s.sawUpTo(policies.name)
	wide := s.definedKind(ClusterPolicies)
	wide.set, wide.drop, wide.seen = s.setClusterPolicy, s.dropPolicy, s.sawUpTo(wide.name)
	rollouts := s.definedKind(record.Resource)
	rollouts.set, rollouts.drop = s.setRollout, s.dropRollout
	all := []*kind{pods, namespaces, nodes, policies, wide, rollouts}
	if s.options.Health {
		jobs := newKind(s, "cronjobs", c, c.BatchV1().CronJobs(""))
		jobs.trim, jobs.set, jobs.drop = trimCronJob, s.setCronJob, s.dropCronJob
		servers := newKind(s, "endpointslices", c, ofAPIServers{c.DiscoveryV1().EndpointSlices(service.APIServer.Namespace)})
		servers.trim, servers.set, servers.drop = trimEndpointSlice, s.setEndpointSlice, s.dropEndpointSlice
		all = append(all, jobs, servers)
	}
	return all
}

// ofAPIServers lists and watches those EndpointSlices which say where the API is served.
type ofAPIServers struct {
	listWatcher[*discoveryv1.EndpointSliceList]
}

var apiServerLabel = labels.Set{discoveryv1.LabelServiceName: service.APIServer.Name}.String()

func (s ofAPIServers) List(ctx context.Context, o metav1.ListOptions) (*discoveryv1.EndpointSliceList, error) {
	o.LabelSelector = apiServerLabel
	return s.listWatcher.List(ctx, o)
}

func (s ofAPIServers) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.LabelSelector = apiServerLabel
	return s.listWatcher.Watch(ctx, o)
}

// definedKind is a kind whose definition may come and go.
func (s *Source) definedKind(r schema.GroupVersionResource) *kind {
	k := newKind(s, r.Resource, s.options.Dynamic, s.options.Dynamic.Resource(r))
	k.trim, k.optional = trimDefined, true
	k.kept = func(ctx context.Context) string { return s.definitionGoes(ctx, r.Resource+"."+r.Group) }
	k.comes = func(ctx context.Context) { s.awaitDefinition(ctx, r.Resource+"."+r.Group) }
	k.memory = newMemory(s.options.Memory, r.Resource)
	return k
}

// sawUpTo returns what notes up to which resource version a kind is passed on.
func (s *Source) sawUpTo(kind string) func(version string) {
	return func(version string) { s.change(func(b *Batch) { b.Observed[kind] = version }) }
}

// definitionGoes says why an object that is deleted stays in force: nobody deleted it, but the definition of its kind, and
// the objects go with that. Then it would be an opening that nobody asked for.
func (s *Source) definitionGoes(ctx context.Context, definition string) string {
	d, err := s.options.Dynamic.Resource(definitions).Get(ctx, definition, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "their definition was deleted: those known last stay in force"
	case err == nil && d.GetDeletionTimestamp() != nil:
		return "their definition is being deleted: those known last stay in force"
	}
	return "" // also if we may not look: then it is taken as what it seems to be
}

// awaitDefinition waits until a definition is in effect, or ctx ends. If we may not watch it we ask now and again.
func (s *Source) awaitDefinition(ctx context.Context, definition string) {
	name := fields.OneTermEqualSelector("metadata.name", definition).String()
	w, err := s.options.Dynamic.Resource(definitions).Watch(ctx, metav1.ListOptions{FieldSelector: name})
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * s.options.Retry):
		}
		return
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-w.ResultChan():
			if u, ok := e.Object.(*unstructured.Unstructured); !open || ok && e.Type != watch.Deleted && isEstablished(u) {
				return
			}
		}
	}
}

// isEstablished reports whether a definition is in effect.
func isEstablished(definition *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
	return definition.GetDeletionTimestamp() == nil && slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == "Established" && m["status"] == "True"
	})
}

// metaOf keeps what is needed of any object.
func metaOf(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		Generation: m.Generation, CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		Labels: m.Labels, OwnerReferences: m.OwnerReferences}
}

func (s *Source) trimPod(o any) any {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o
	}
	t := trimPod(p)
	if s.options.Health {
		t.Status.Conditions, t.Status.ContainerStatuses = p.Status.Conditions, p.Status.ContainerStatuses
		t.Status.InitContainerStatuses = p.Status.InitContainerStatuses
		t.Spec.ServiceAccountName = p.Spec.ServiceAccountName
		t.Spec.Volumes = slices.DeleteFunc(slices.Clone(p.Spec.Volumes), func(v corev1.Volume) bool { return !manifest.IsAPIToken(v) })
	}
	return t
}

func trimPod(p *corev1.Pod) *corev1.Pod {
	t := &corev1.Pod{ObjectMeta: metaOf(&p.ObjectMeta), Spec: corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs,
			ContainerStatuses: trimStatuses(p.Status.ContainerStatuses)}}
	t.Spec.Containers = trimContainers(p.Spec.Containers)
	t.Spec.InitContainers = trimContainers(p.Spec.InitContainers)
	return t
}

// trimContainers keeps ports, and by which name a problem would speak of them: their place.
func trimContainers(list []corev1.Container) []corev1.Container {
	if !slices.ContainsFunc(list, func(c corev1.Container) bool { return len(c.Ports) > 0 }) {
		return nil
	}
	trimmed := make([]corev1.Container, len(list))
	for i, c := range list {
		trimmed[i] = corev1.Container{Ports: c.Ports, RestartPolicy: c.RestartPolicy}
	}
	return trimmed
}

// trimStatuses keeps when containers were started.
func trimStatuses(list []corev1.ContainerStatus) []corev1.ContainerStatus {
	var trimmed []corev1.ContainerStatus
	for _, c := range list {
		if r := c.State.Running; r != nil {
			trimmed = append(trimmed, corev1.ContainerStatus{State: corev1.ContainerState{Running: r}})
		}
	}
	return trimmed
}

func started(p *corev1.Pod) time.Time {
	var last time.Time
	for _, c := range p.Status.ContainerStatuses {
		if r := c.State.Running; r != nil && r.StartedAt.After(last) {
			last = r.StartedAt.Time
		}
	}
	return last
}

func trimNamespace(o any) any {
	if n, ok := o.(*corev1.Namespace); ok {
		return &corev1.Namespace{ObjectMeta: metaOf(&n.ObjectMeta)}
	}
	return o
}

func trimEndpointSlice(o any) any {
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		s.ManagedFields = nil
	}
	return o
}

func trimNode(o any) any {
	if n, ok := o.(*corev1.Node); ok {
		return &corev1.Node{ObjectMeta: metaOf(&n.ObjectMeta), Spec: corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
			Status: corev1.NodeStatus{Addresses: n.Status.Addresses, NodeInfo: corev1.NodeSystemInfo{BootID: n.Status.NodeInfo.BootID}}}
	}
	return o
}

func trimPolicy(o any) any {
	if p, ok := o.(*networkingv1.NetworkPolicy); ok {
		p.ManagedFields = nil
	}
	return o
}

func trimDefined(o any) any {
	if u, ok := o.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
	}
	return o
}

func (s *Source) setPod(o any) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	key := cluster.Key{Namespace: p.Namespace, Name: p.Name}
	r := s.read("Pod "+key.String(), func(b *manifest.Bundle) { b.AddPod(p) })
	var pod *Pod
	if len(r.Objects.Endpoints) > 0 {
		pod = &Pod{Endpoint: r.Objects.Endpoints[0], UID: string(p.UID), Terminating: p.DeletionTimestamp != nil,
			Started: started(p), Seen: time.Now()}
		if s.options.Health {
			pod.Health = healthOf(p)
		}
	}
	if old, known := s.pods[key]; known && old.same(pod) {
		return
	}
	s.pods[key] = pod
	s.change(func(b *Batch) {
		b.Pods[key] = pod
		s.setRanges("pod "+key.String(), r.Objects.PodRanges)
	})
}

// same reports whether nothing changed that matters to anybody.
func (p *Pod) same(o *Pod) bool {
	if p == nil || o == nil {
		return p == nil && o == nil
	}
	a, b := p.Endpoint, o.Endpoint
	return p.UID == o.UID && p.Terminating == o.Terminating && p.Health == o.Health && p.Started.Equal(o.Started) && a.Labels == b.Labels && a.Node == b.Node &&
		a.HostNetwork == b.HostNetwork && a.Ended == b.Ended && a.UsesAPI == b.UsesAPI && a.Owner == b.Owner && a.Created.Equal(b.Created) &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Ports, b.Ports)
}

func (s *Source) dropPod(key string) {
	namespace, name, _ := strings.Cut(key, "/")
	k := cluster.Key{Namespace: namespace, Name: name}
	delete(s.pods, k)
	s.tell("Pod "+key, nil)
	s.change(func(b *Batch) {
		b.Pods[k] = nil
		s.setRanges("pod "+key, nil)
	})
}

func (s *Source) setNamespace(o any) {
	n, ok := o.(*corev1.Namespace)
	if !ok {
		return
	}
	r := s.read("Namespace "+n.Name, func(b *manifest.Bundle) { b.AddNamespace(n) })
	if len(r.Objects.Namespaces) == 0 {
		s.forgetNamespace(n.Name)
		return
	}
	now := r.Objects.Namespaces[0]
	s.change(func(b *Batch) { b.Namespaces[n.Name] = &now })
}

func (s *Source) dropNamespace(name string) {
	s.tell("Namespace "+name, nil)
	s.forgetNamespace(name)
}

func (s *Source) forgetNamespace(name string) {
	s.change(func(b *Batch) { b.Namespaces[name] = nil })
}

func (s *Source) setNode(o any) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return
	}
	r := s.read("Node "+n.Name, func(b *manifest.Bundle) { b.AddNode(n) })
	if len(r.Objects.Nodes) == 0 {
		s.forgetNode(n.Name)
		return
	}
	now := r.Objects.Nodes[0]
	s.setNodeBoot(n.Name, n.Status.NodeInfo.BootID)
	if old, known := s.nodes[n.Name]; known && old.Labels == now.Labels && slices.Equal(old.Addresses, now.Addresses) &&
		slices.Equal(s.NodeRanges(n.Name), r.Objects.PodRanges) && s.NodeUID(n.Name) == string(n.UID) {
		return
	}
	s.nodes[n.Name] = &now
	s.change(func(b *Batch) {
		b.Nodes[n.Name] = &now
		s.nodeUIDs[n.Name] = string(n.UID)
		s.setNodeRanges(n.Name, r.Objects.PodRanges)
	})
}

func (s *Source) dropNode(name string) {
	s.tell("Node "+name, nil)
	s.forgetNode(name)
}

func (s *Source) forgetNode(name string) {
	delete(s.nodes, name)
	s.change(func(b *Batch) {
		b.Nodes[name] = nil
		delete(s.nodeUIDs, name)
		delete(s.nodeBoots, name)
		s.setNodeRanges(name, nil)
	})
}

func (s *Source) setEndpointSlice(o any) {
	slice, ok := o.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	key := slice.Namespace + "/" + slice.Name
	r := s.read("EndpointSlice "+key, func(b *manifest.Bundle) { b.AddEndpointSlice(slice) })
	s.setServers(key, r.Objects.APIServers)
}

func (s *Source) dropEndpointSlice(key string) {
	s.tell("EndpointSlice "+key, nil)
	s.setServers(key, nil)
}

func (s *Source) setServers(object string, servers []netip.AddrPort) {
	s.change(func(b *Batch) {
		s.servers[object] = servers
		b.APIServersChanged = true
	})
}

func (s *Source) setNodeBoot(node, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodeBoots[node] = id
}

func (s *Source) setNodeRanges(node string, ranges []netip.Prefix) {
	s.setRanges("node "+node, ranges)
	if len(ranges) == 0 {
		delete(s.nodeRanges, node)
	} else {
		s.nodeRanges[node] = ranges
	}
}

func (s *Source) setPolicy(o any) {
	np, ok := o.(*networkingv1.NetworkPolicy)
	if !ok {
		return
	}
	s.passPolicy("NetworkPolicy", np, func(b *manifest.Bundle) { b.AddNetworkPolicy(np) })
}

func (s *Source) setClusterPolicy(o any) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	s.passPolicy("ClusterNetworkPolicy", u, func(b *manifest.Bundle) { addClusterPolicy(b, u) })
}

func addClusterPolicy(b *manifest.Bundle, u *unstructured.Unstructured) {
	var cnp v1alpha2.ClusterNetworkPolicy
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &cnp); err != nil {
		b.AddUnreadable("ClusterNetworkPolicy", cluster.Key{Name: u.GetName()}, err)
		return
	}
	b.AddClusterNetworkPolicy(&cnp)
}

func (s *Source) passPolicy(kind string, m metav1.Object, add func(*manifest.Bundle)) {
	key := PolicyKey{Namespace: m.GetNamespace(), Name: m.GetName()}
	r := s.read(strings.TrimSuffix(kind+" "+strings.TrimPrefix(key.String(), "/"), " "), add)
	if len(r.Objects.Policies) == 0 {
		delete(s.policies[kind], key)
		s.change(func(b *Batch) { b.Policies[key] = nil })
		return
	}
	p := &Policy{Policy: r.Objects.Policies[0], UID: string(m.GetUID()), Generation: m.GetGeneration(),
		ResourceVersion: m.GetResourceVersion(), Seen: time.Now()}
	if old := s.policies[kind][key]; old != nil && p.same(old) {
		return
	}
	s.policies[kind][key] = p
	s.change(func(b *Batch) { b.Policies[key] = p })
}

func (s *Source) dropPolicy(key string) {
	namespace, name, ok := strings.Cut(key, "/")
	if !ok {
		namespace, name = "", key
	}
	kind := "NetworkPolicy"
	if namespace == "" {
		kind = "ClusterNetworkPolicy"
	}
	s.tell(kind+" "+key, nil)
	delete(s.policies[kind], PolicyKey{Namespace: namespace, Name: name})
	s.change(func(b *Batch) { b.Policies[PolicyKey{Namespace: namespace, Name: name}] = nil })
}

// same reports whether only what matters to nobody changed, like the object's status: its generation stayed.
func (p *Policy) same(o *Policy) bool {
	return p.UID == o.UID && p.Generation != 0 && p.Generation == o.Generation && p.AlertTitle == o.AlertTitle && p.Defect == o.Defect
}

// read reads one object, and says what is wrong with it.
func (s *Source) read(object string, add func(*manifest.Bundle)) manifest.Result {
	b := manifest.NewBundle()
	add(b)
	r := b.Finish(manifest.Options{})
	s.tell(object, r.Problems)
	return r
}

// tell makes an object's problems a condition, or ends it.
func (s *Source) tell(object string, problems []manifest.Problem) {
	message := ""
	if len(problems) > 0 {
		message = problems[0].Text()
	}
	s.conditions.set(Malformed, object, message)
}
