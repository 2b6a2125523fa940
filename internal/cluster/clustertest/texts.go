package clustertest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Texts draws policies as manifests, for tests of what reads them. Each is a line of YAML.
type Texts struct {
	*rand.Rand
	Namespace string   // of NetworkPolicies
	Apps      []string // values of the label "app" that selectors ask for; two at least
}

func (r Texts) one(of ...string) string { return of[r.IntN(len(of))] }

// Policies draws two to four policies, named by prefix and number.
func (r Texts) Policies(prefix string) []string {
	var all []string
	for i := range 2 + r.IntN(3) {
		name := fmt.Sprintf("%s%d", prefix, i)
		if r.IntN(3) == 0 {
			all = append(all, r.clusterPolicy(name))
		} else {
			all = append(all, r.networkPolicy(name))
		}
	}
	return all
}

func (r Texts) selector() string {
	app := r.one(r.Apps...)
	return r.one("{}", "{matchLabels: {app: "+app+"}}", "{matchLabels: {app: "+app+"}}", "{matchExpressions: [{key: app, operator: NotIn, values: ["+app+"]}]}")
}

func (r Texts) networkPolicy(name string) string {
	direction, peers := "Ingress", "from"
	if r.IntN(2) == 0 {
		direction, peers = "Egress", "to"
	}
	peer := r.one("{podSelector: "+r.selector()+"}", "{namespaceSelector: {}, podSelector: "+r.selector()+"}", "{ipBlock: {cidr: 10.244.0.0/17}}")
	ports := r.one("", ", ports: [{port: 80}]", ", ports: [{port: 80, endPort: 81}]")
	return fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: %s}, spec: {podSelector: %s, "+
		"policyTypes: [%s], %s: [{%s: [%s]%s}]}}\n", name, r.Namespace, r.selector(), direction, strings.ToLower(direction), peers, peer, ports)
}

func (r Texts) clusterPolicy(name string) string {
	direction, peers := "ingress", "from"
	if r.IntN(2) == 0 {
		direction, peers = "egress", "to"
	}
	ports := r.one("", ", protocols: [{tcp: {destinationPort: {number: 81}}}]")
	return fmt.Sprintf("{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: %s}, spec: {tier: %s, priority: %d, "+
		"subject: {pods: {namespaceSelector: {}, podSelector: %s}}, %s: [{action: %s, %s: [{pods: {namespaceSelector: {}, podSelector: %s}}]%s}]}}\n",
		name, r.one("Admin", "Baseline"), r.IntN(3), r.selector(), direction, r.one("Accept", "Deny", "Pass"), peers, r.selector(), ports)
}
