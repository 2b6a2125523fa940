package query

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Target is what a destination and a port stand for.
type Target struct {
	To         cluster.Party
	Port       Port
	Translated bool // it is reached through a Service's address
}

// Targets resolves a destination with its port. For "ns/service/name" these are the pods behind the Service, on the
// ports that it leads to.
func (s Scope) Targets(ref string, port Port) ([]Target, error) {
	if svc, ok, err := s.service(ref); ok || err != nil {
		return s.behind(svc, port, err)
	}
	parties, err := s.Resolve(ref)
	if err != nil {
		return nil, err
	}
	var targets []Target
	for _, p := range parties {
		targets = append(targets, Target{To: p, Port: port})
	}
	return targets, nil
}

// service finds the Service that ref names; ok says that it names one at all.
func (s Scope) service(ref string) (found *service.Service, ok bool, err error) {
	parts := strings.Split(ref, "/")
	if len(parts) != 3 || canonicalKind(parts[1]) != "service" {
		return nil, false, nil
	}
	key := cluster.Key{Namespace: parts[0], Name: parts[2]}
	for i := range s.Services {
		if s.Services[i].Key == key {
			return &s.Services[i], true, nil
		}
	}
	return nil, true, fmt.Errorf("no Service is called %s", key)
}

func (s Scope) behind(svc *service.Service, port Port, err error) ([]Target, error) {
	if err != nil {
		return nil, err
	}
	target, err := targetOf(svc, port)
	if err != nil {
		return nil, err
	}
	var targets []Target
	for _, e := range s.State.Endpoints() {
		if e.Namespace == svc.Namespace && svc.Selector.Matches(e.Labels) {
			targets = append(targets, Target{s.State.PartyOf(e, netip.Addr{}), target, svc.Kind != service.Headless})
		}
	}
	if targets == nil {
		return nil, fmt.Errorf("no pod is behind Service %s, which selects %s", svc.Key, svc.Selector)
	}
	return targets, nil
}

// targetOf is the port of the pods that a port of the Service, by number or name, leads to. The pods of a headless
// Service are reached on their own ports.
func targetOf(svc *service.Service, port Port) (Port, error) {
	if svc.Kind == service.Headless {
		return port, nil
	}
	var known []string
	for _, p := range svc.Ports {
		same := p.Port == port.Number && port.Name == "" || p.Name == port.Name && port.Name != ""
		if same && (port.Protocol == p.Protocol || port.Protocol == 0) {
			return Port{Protocol: p.Protocol, Number: p.Target, Name: p.TargetName}, nil
		}
		known = append(known, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return Port{}, fmt.Errorf("Service %s has no such port; it has %s", svc.Key, strings.Join(known, ", "))
}

// Connect returns the connections from a party to the target; see Connect.
func (t Target) Connect(from cluster.Party) ([]cluster.Connection, error) {
	all, err := Connect(from, t.To, t.Port)
	for i := range all {
		all[i].Translated = t.Translated
	}
	return all, err
}
