package manifest

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A peer that sets nothing we know comes from a newer version of the API. The rule then fails closed as the API's
// documentation says: an Accept matches nothing, a Deny or Pass denies everybody everything.
func TestUnknownPeersOfTheAPIFailClosed(t *testing.T) {
	port := []v1alpha2.ClusterNetworkPolicyProtocol{{DestinationNamedPort: "http"}}
	cnp := &v1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha2.ClusterNetworkPolicySpec{
		Tier: v1alpha2.AdminTier, Subject: v1alpha2.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}}}
	known := v1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: &metav1.LabelSelector{}}
	for _, action := range []v1alpha2.ClusterNetworkPolicyRuleAction{"Accept", "Deny", "Pass"} {
		cnp.Spec.Ingress = append(cnp.Spec.Ingress, v1alpha2.ClusterNetworkPolicyIngressRule{Action: action, Protocols: port,
			From: []v1alpha2.ClusterNetworkPolicyIngressPeer{known, {}}})
	}
	b := NewBundle()
	b.AddClusterNetworkPolicy(cnp)
	r := b.Finish(Options{})
	if len(r.Problems) != 0 || len(r.Objects.Policies) != 1 || r.Objects.Policies[0].Defect != "" {
		t.Fatalf("want one good policy: %+v", r)
	}
	rules := r.Objects.Policies[0].Ingress
	if rules[0].Action != policy.Accept || len(rules[0].Peers) != 0 {
		t.Errorf("an Accept of an unknown peer is %+v, want no peer", rules[0])
	}
	for _, rule := range rules[1:] {
		if rule.Action != policy.Deny || len(rule.Ports) != 0 || len(rule.Peers) != 1 || rule.Peers[0].Kind != policy.PeerAnyone {
			t.Errorf("a Deny or Pass of an unknown peer is %+v, want a Deny of everybody everything", rule)
		}
	}
}

// Whatever else a server sends that we do not understand is replaced by a stand-in.
func TestUnknownPartsOfTheAPIAreStoodInFor(t *testing.T) {
	b := NewBundle()
	b.AddClusterNetworkPolicy(&v1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "subject"},
		Spec: v1alpha2.ClusterNetworkPolicySpec{Tier: "New"}})
	b.AddNetworkPolicy(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "np", Namespace: "a"},
		Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{}}}}}})
	r := b.Finish(Options{})
	for _, p := range r.Objects.Policies {
		if p.Defect == "" {
			t.Errorf("%s is no stand-in", p.Name)
		}
	}
	if len(r.Objects.Policies) != 2 || len(r.Problems) != 3 {
		t.Errorf("%d policies and problems %v", len(r.Objects.Policies), r.Problems)
	}
}

func TestDefaultsOfTheAPINeedNoPlaces(t *testing.T) {
	b := NewBundle()
	b.AddNetworkPolicy(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "np", Namespace: "a"},
		Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}, Ingress: []networkingv1.NetworkPolicyIngressRule{{}}}})
	b.AddClusterNetworkPolicy(&v1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "cnp"}, Spec: v1alpha2.ClusterNetworkPolicySpec{
		Tier: v1alpha2.BaselineTier, Subject: v1alpha2.ClusterNetworkPolicySubject{Pods: &v1alpha2.NamespacedPod{}}}})
	if r := b.Finish(Options{}); len(r.Problems) != 0 || len(r.Objects.Policies) != 2 {
		t.Errorf("want two good policies: %+v", r)
	}
}

// Of workloads only their pods are known here, and people know the pods by their workloads.
func TestOwnersAreTheMakersOfOwners(t *testing.T) {
	for _, c := range []struct {
		kind, name, hash string
		want             cluster.Owner
	}{
		{"ReplicaSet", "web-7d9f8", "7d9f8", cluster.Owner{Kind: "Deployment", Name: "web"}},
		{"ReplicaSet", "web-7d9f8", "", cluster.Owner{Kind: "ReplicaSet", Name: "web-7d9f8"}},
		{"Job", "backup-29012345", "", cluster.Owner{Kind: "CronJob", Name: "backup"}},
		{"Job", "import-2026", "", cluster.Owner{Kind: "Job", Name: "import-2026"}},
		{"StatefulSet", "db", "", cluster.Owner{Kind: "StatefulSet", Name: "db"}},
	} {
		yes := true
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", Labels: map[string]string{"pod-template-hash": c.hash},
			OwnerReferences: []metav1.OwnerReference{{Kind: c.kind, Name: c.name, Controller: &yes}}}}
		b := NewBundle()
		b.AddPod(pod)
		if got := b.Finish(Options{}).Objects.Endpoints[0].Owner; got != c.want {
			t.Errorf("a pod of %s %s has the owner %v, want %v", c.kind, c.name, got, c.want)
		}
	}
}

func TestCronJobsOfTheAPI(t *testing.T) {
	b := NewBundle()
	b.AddCronJob(&batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "backup"}, Spec: batchv1.CronJobSpec{
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "backup"}}}}}}})
	r := b.Finish(Options{})
	if w := r.Objects.Workloads; len(r.Problems) != 0 || len(w) != 1 || w[0].Name != "backup" || w[0].Template == nil || len(r.Objects.Endpoints) != 0 {
		t.Errorf("it is %+v, with problems %v", r.Objects, r.Problems)
	}
}
