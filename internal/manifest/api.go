package manifest

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Objects that come from an API server have no places and were validated and defaulted by it. They go through the same
// translation as those of files, which checks again, as a server may be older or newer than this program.

// AddNetworkPolicy adds an object of the API.
func (b *Bundle) AddNetworkPolicy(np *networkingv1.NetworkPolicy) {
	o := fromAPI("NetworkPolicy", np)
	b.takeNetworkPolicy(o, np)
	b.collect(o)
}

// AddClusterNetworkPolicy adds an object of the API. A peer that sets no field we know is one of a newer version of the
// API, and closes its rule as the API's documentation asks for.
func (b *Bundle) AddClusterNetworkPolicy(cnp *v1alpha2.ClusterNetworkPolicy) {
	o := fromAPI("ClusterNetworkPolicy", cnp)
	b.takeClusterNetworkPolicy(o, cnp)
	b.collect(o)
}

// AddPod adds an object of the API. What runs in it is left out.
func (b *Bundle) AddPod(pod *corev1.Pod) {
	o := fromAPI("Pod", pod)
	b.addPod(o, pod)
	b.collect(o)
}

// AddNamespace adds an object of the API.
func (b *Bundle) AddNamespace(n *corev1.Namespace) {
	o := fromAPI("Namespace", n)
	b.takeNamespace(o, n)
	b.collect(o)
}

// AddNode adds an object of the API.
func (b *Bundle) AddNode(n *corev1.Node) {
	o := fromAPI("Node", n)
	b.takeNode(o, n)
	b.collect(o)
}

// AddService adds an object of the API.
func (b *Bundle) AddService(s *corev1.Service) {
	o := fromAPI("Service", s)
	b.takeService(o, s)
	b.collect(o)
}

// AddUnreadable adds a policy of the API, of one of the two policy kinds, that could not even be decoded. Its stand-in
// denies all that a policy of this kind and namespace can be about.
func (b *Bundle) AddUnreadable(kind string, key cluster.Key, why error) {
	o := &object{document.Object{Kind: kind, Key: key, Strict: true}}
	o.Problem("", "", "cannot be decoded: %s", why)
	b.addPolicy(o, nil, policy.Policy{}, func() policy.Policy { return o.blindStandIn(nil) })
	b.collect(o)
}

func fromAPI(kind string, meta metav1.Object) *object {
	return &object{document.Object{Kind: kind, Key: cluster.Key{Namespace: meta.GetNamespace(), Name: meta.GetName()}, Strict: true}}
}
