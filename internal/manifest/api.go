package manifest

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
	b.ignoring = append(b.ignoring, IgnoringOf(o.Name(), np.Annotations[LintAnnotation])...)
	b.collect(o)
}

// AddClusterNetworkPolicy adds an object of the API. A peer that sets no field we know is one of a newer version of the
// API, and closes its rule as the API's documentation asks for.
func (b *Bundle) AddClusterNetworkPolicy(cnp *v1alpha2.ClusterNetworkPolicy) {
	o := fromAPI("ClusterNetworkPolicy", cnp)
	b.takeClusterNetworkPolicy(o, cnp)
	b.ignoring = append(b.ignoring, IgnoringOf(o.Name(), cnp.Annotations[LintAnnotation])...)
	b.collect(o)
}

// AddPod adds an object of the API. What runs in it is left out. Its owner is the workload that made its ReplicaSet or Job,
// as far as that one's name tells.
func (b *Bundle) AddPod(pod *corev1.Pod) {
	o := fromAPI("Pod", pod)
	if b.addPod(o, pod) {
		e := b.pods[len(b.pods)-1]
		e.Owner = maker(e.Owner, pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey])
	}
	b.collect(o)
}

// maker is who made a pod's owner: a Deployment's ReplicaSets end in the hash of their template, which is a label of their
// pods, and a CronJob's Jobs in the minute for which they were made.
func maker(owner cluster.Owner, templateHash string) cluster.Owner {
	if name, ok := strings.CutSuffix(owner.Name, "-"+templateHash); ok && owner.Kind == "ReplicaSet" && templateHash != "" {
		return cluster.Owner{Kind: "Deployment", Name: name}
	}
	if at := strings.LastIndexByte(owner.Name, '-'); at > 0 && owner.Kind == "Job" {
		if minute, err := strconv.ParseUint(owner.Name[at+1:], 10, 32); err == nil && minute > aMinute {
			return cluster.Owner{Kind: "CronJob", Name: owner.Name[:at]}
		}
	}
	return owner
}

// aMinute since 1970 that is before there were CronJobs.
const aMinute = 20_000_000

// AddCronJob adds an object of the API, as a workload without pods: those that it has are objects of their own. What runs in
// it is left out.
func (b *Bundle) AddCronJob(c *batchv1.CronJob) {
	o := fromAPI("CronJob", c)
	before := len(b.workloads)
	b.takeCronJob(o, c)
	for i := before; i < len(b.workloads); i++ {
		b.workloads[i].Replicas = 0
	}
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

// AddEndpointSlice adds an object of the API, if it says where that is served.
func (b *Bundle) AddEndpointSlice(s *discoveryv1.EndpointSlice) {
	o := fromAPI("EndpointSlice", s)
	if ofAPIServer(o, s.Labels[discoveryv1.LabelServiceName]) {
		b.takeEndpointSlice(o, s)
	}
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
