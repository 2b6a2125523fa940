package manifest

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence-project/ringfence/internal/cluster"
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

func fromAPI(kind string, meta metav1.Object) *object {
	return &object{kind: kind, key: cluster.Key{Namespace: meta.GetNamespace(), Name: meta.GetName()}, strict: true}
}
