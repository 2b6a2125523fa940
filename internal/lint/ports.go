package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/near"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/report"
)

// servers are the kinds of pods on whose ports a rule is, and whether these are all that it is about.
func (l *linter) servers(r ruleIn) (pods []*cluster.Endpoint, all bool) {
	if r.direction == flow.Ingress {
		return l.selected(r.policy.Subject), true
	}
	all = true
	for _, peer := range r.rule().Peers {
		if peer.Kind != policy.PeerPods || peer.Pods.Namespaces.IsEverything() { // some may not be among the manifests
			all = false
			continue
		}
		found := l.selected(peer.Pods)
		all = all && len(found) > 0
		pods = append(pods, found...)
	}
	return pods, all
}

// ports compares the ports of a rule with what the pods declare.
func (l *linter) ports(r ruleIn) {
	pods, all := l.servers(r)
	if len(pods) == 0 || !all {
		return
	}
	for _, port := range r.rule().Ports {
		if port.Name != "" {
			l.namedPort(r, port, pods)
		} else if port.First == port.Last {
			l.number(r, port, pods)
		}
	}
}

func (l *linter) namedPort(r ruleIn, port policy.Port, pods []*cluster.Endpoint) {
	var names, other []string
	for _, e := range pods {
		if len(e.PortsNamed(port.Name, port.Protocol)) > 0 {
			return
		}
		for _, c := range e.PortsNamed(port.Name, 0) {
			other = append(other, c.Protocol.String())
		}
		for _, c := range e.Ports {
			if c.Name != "" && !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	slices.Sort(names)
	fix := ""
	switch found := near.Of(port.Name, names); {
	case len(other) > 0:
		fix = fmt.Sprintf("add protocol: %s: they declare %s/%s", strings.ToUpper(other[0]), port.Name, other[0])
	case found != "":
		fix = fmt.Sprintf("did you mean %q?", found)
	case len(names) > 0:
		fix = "they declare " + strings.Join(names, ", ")
	}
	l.add(r.policy, r.place(), namedPort, fix, "%s: no pod that it is about (%s) declares a %s, so it matches nothing", r.text(), workloads(pods), portText(port))
}

// number reports a port that no pod declares, if all of them declare some. A declaration is not binding, so it takes
// more to be a warning: the number is a Service's, or is declared with another protocol.
func (l *linter) number(r ruleIn, port policy.Port, pods []*cluster.Endpoint) {
	var protocols []flow.Protocol
	for _, e := range pods {
		if len(e.Ports) == 0 {
			return
		}
		for _, c := range e.Ports {
			if c.Number == port.First && c.Protocol == port.Protocol {
				return
			}
			if c.Number == port.First && !slices.Contains(protocols, c.Protocol) {
				protocols = append(protocols, c.Protocol)
			}
		}
	}
	switch service, target := l.behind(port, pods); {
	case target != "":
		l.add(r.policy, r.place(), undeclaredPort, fmt.Sprintf("write %s: policies see the pod's port", target),
			"%s: %s is one of Service %s, which leads to %s of the pods", r.text(), portText(port), service, target)
	case len(protocols) > 0 && !accepted(r, protocols[0], port.First):
		l.add(r.policy, r.place(), undeclaredPort, fmt.Sprintf("write protocol: %s", strings.ToUpper(protocols[0].String())),
			"%s: the pods that it is about (%s) declare port %d with %s, not %s", r.text(), workloads(pods), port.First, protocols[0], port.Protocol)
	case len(protocols) == 0:
		f := l.add(r.policy, r.place(), undeclaredPort, "", "%s: no container of %s declares %s", r.text(), workloads(pods), portText(port))
		f.Level = report.Note
	}
}

// accepted reports whether the rule names the number with the protocol too.
func accepted(r ruleIn, p flow.Protocol, n uint16) bool {
	return slices.ContainsFunc(r.rule().Ports, func(q policy.Port) bool {
		return q.Name == "" && q.Protocol == p && q.First <= n && n <= q.Last
	})
}

// behind finds a Service in front of the pods that has the port and leads to another one.
func (l *linter) behind(port policy.Port, pods []*cluster.Endpoint) (service, target string) {
	for _, s := range l.services {
		for _, e := range pods {
			if e.Namespace != s.Namespace || s.Selector.IsNothing() || !s.Selector.Matches(e.Labels) {
				continue
			}
			for _, p := range s.Ports {
				if p.Protocol != port.Protocol || p.Port != port.First {
					continue
				}
				if p.TargetName != "" {
					return s.Key.String(), "port " + p.TargetName
				}
				if p.Target != 0 && p.Target != p.Port {
					return s.Key.String(), fmt.Sprintf("port %d", p.Target)
				}
			}
		}
	}
	return "", ""
}
