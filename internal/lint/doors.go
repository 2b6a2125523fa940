package lint

import (
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/report"
)

// maxDoors bounds the connections that are tried for one rule.
const maxDoors = 400

// halfDoor reports a rule that accepts connections of which the other end denies every one.
func (l *linter) halfDoor(r ruleIn) {
	rule := r.rule()
	if rule.Action != policy.Accept {
		return
	}
	var others []*cluster.Endpoint
	for _, peer := range rule.Peers {
		if peer.Kind != policy.PeerPods {
			return // there may be somebody whom we do not see
		}
		others = append(others, l.selected(peer.Pods)...)
	}
	var stop flow.Rule
	tried := 0
	for _, subject := range l.selected(r.policy.Subject) {
		for _, other := range others {
			from, to := subject, other
			if r.direction == flow.Ingress {
				from, to = other, subject
			}
			for _, port := range doors(rule, to) {
				if tried++; tried > maxDoors || from == to {
					return
				}
				d := l.oracle.Decide(cluster.Connection{From: cluster.Party{Endpoint: from}, To: cluster.Party{Endpoint: to},
					Protocol: port.Protocol, Port: port.Number})
				far, near := d.Ingress, d.Egress
				if r.direction == flow.Ingress {
					far, near = d.Egress, d.Ingress
				}
				if far == nil || far.Verdict == flow.Allow || namesAddresses(far) || near == nil || near.Verdict != flow.Allow {
					return
				}
				stop = far.Rule
			}
		}
	}
	if tried == 0 {
		return
	}
	words := map[flow.Direction][2]string{flow.Egress: {"lets out to", "lets it in"}, flow.Ingress: {"lets in from", "lets it out"}}[r.direction]
	f := l.add(r.policy, r.place(), halfDoor, "open the other side too, or remove the rule",
		"%s %s %s, where nothing %s: %s denies it", r.text(), words[0], workloads(others), words[1], stop)
	f.Related = []report.Place{{File: stop.File, Line: stop.Line, Message: "what denies it"}}
}

// namesAddresses reports whether a rule that was looked at is about addresses, which pods in manifests have not yet.
func namesAddresses(side *eval.Side) bool {
	for _, t := range side.Tiers {
		for _, p := range t.Policies {
			for _, r := range p.Rules {
				if slices.ContainsFunc(r.Peers, func(q eval.Peer) bool { return q.Peer.Kind == policy.PeerBlock }) {
					return true
				}
			}
		}
	}
	return false
}

// doors are the ports of a pod that a rule is about: those it names, else those that the pod declares.
func doors(rule policy.Rule, to *cluster.Endpoint) []cluster.Port {
	if len(rule.Ports) == 0 {
		if len(to.Ports) == 0 {
			return []cluster.Port{{Protocol: flow.TCP, Number: 80}}
		}
		return to.Ports
	}
	var all []cluster.Port
	for _, p := range rule.Ports {
		if p.Name != "" {
			all = append(all, to.PortsNamed(p.Name, p.Protocol)...)
			continue
		}
		all = append(all, cluster.Port{Protocol: p.Protocol, Number: p.First})
	}
	return all
}

// DNS, as clusters have it.
const (
	dnsPort       = 53
	openShiftPort = 5353 // on which the pods of OpenShift's DNS listen
)

var (
	dnsLabels = label.MustParse("k8s-app=kube-dns")
	kubeDNS   = &cluster.Endpoint{Key: cluster.Key{Namespace: "kube-system", Name: "the cluster's DNS"}, Labels: label.MustSet(map[string]string{"k8s-app": "kube-dns"}),
		Ports: []cluster.Port{{Name: "dns", Protocol: flow.UDP, Number: dnsPort}, {Name: "dns-tcp", Protocol: flow.TCP, Number: dnsPort}}}
)

// names finds pods that policies leave without a way to ask DNS. Of those that may not go anywhere only a default deny
// is worth a word: for a single workload it was surely meant.
func (l *linter) names() {
	servers := l.nameServers()
	lost := map[*policy.Policy][2][]*cluster.Endpoint{} // by the policy that denies: pods that go somewhere, and those that go nowhere
	for _, e := range l.kinds {
		if slices.Contains(servers, e) {
			continue
		}
		culprit, denied := l.withoutNames(e, servers)
		if !denied {
			continue
		}
		named, goes := l.egressOf(e)
		if named {
			continue // it names the port of DNS: whoever answers there is not among the manifests
		}
		both := lost[culprit]
		at := 1
		if goes {
			at = 0
		}
		both[at] = append(both[at], e)
		lost[culprit] = both
	}
	for _, p := range l.state.Policies() {
		const fix = "accept egress to the pods k8s-app=kube-dns of namespace kube-system on 53/udp and 53/tcp"
		if both := lost[p]; len(both[0]) > 0 {
			l.add(p, placeOf(p), noDNS, fix, "%s may go out, but not ask DNS", workloads(both[0]))
		} else if len(both[1]) > 0 && p.Subject.Pods.IsEverything() {
			l.add(p, placeOf(p), noDNS, fix, "%s may not ask DNS, nor go anywhere else", workloads(both[1])).Level = report.Note
		}
	}
}

// nameServers are the pods that answer DNS; the usual one, if there is none among the manifests.
func (l *linter) nameServers() []*cluster.Endpoint {
	var found []*cluster.Endpoint
	for _, e := range l.kinds {
		answers := slices.ContainsFunc(e.Ports, func(p cluster.Port) bool { return p.Protocol == flow.UDP && p.Number == dnsPort })
		if answers || dnsLabels.Matches(e.Labels) {
			found = append(found, e)
		}
	}
	if found == nil {
		found = append(found, kubeDNS)
	}
	return found
}

// withoutNames reports whether e's own policies deny it every server, and which policy does.
func (l *linter) withoutNames(e *cluster.Endpoint, servers []*cluster.Endpoint) (*policy.Policy, bool) {
	var culprit *policy.Policy
	for _, s := range servers {
		d := eval.Evaluate(l.state, cluster.Connection{From: cluster.Party{Endpoint: e}, To: cluster.Party{Endpoint: s}, Protocol: flow.UDP, Port: dnsPort})
		if d.Egress == nil || d.Egress.Verdict == flow.Allow {
			return nil, false
		}
		rule := d.Egress.Rule
		for _, p := range l.state.Policies() {
			if p.Kind() == rule.Kind && p.Namespace == rule.Namespace && p.Name == rule.Name && culprit == nil {
				culprit = p
			}
		}
	}
	return culprit, culprit != nil
}

// egressOf says whether the rules that let e out may let it ask somebody who is not among the manifests, by the port of
// DNS or by an address, and whether they let it out to anybody by name.
func (l *linter) egressOf(e *cluster.Endpoint) (named, goes bool) {
	for _, p := range l.state.Policies() {
		if len(l.among([]*cluster.Endpoint{e}, p.Subject)) == 0 {
			continue
		}
		for _, r := range p.Egress {
			if r.Action != policy.Accept {
				continue
			}
			for _, port := range r.Ports {
				for _, n := range []uint16{dnsPort, openShiftPort} {
					named = named || port.Name == "" && port.First <= n && n <= port.Last
				}
				named = named || strings.Contains(port.Name, "dns")
			}
			named = named || len(r.Ports) == 0 && slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return p.Kind == policy.PeerBlock })
			goes = goes || slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return p.Kind == policy.PeerPods || p.Kind == policy.PeerAnyone })
		}
	}
	return named, goes
}
