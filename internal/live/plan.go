// Package live plans how connections between workloads are made in a real cluster without touching the workloads: by probe
// pods, which stand for them.
//
// Policies look at a pod's namespace, at some of its labels, at the names of its ports and, in address blocks, at its
// address. So a probe pod is made in the namespace of the workload, with those labels that any policy speaks of and no
// others, and with the ports whose names policies use. What policies do not look at is left out on purpose: Services,
// PodDisruptionBudgets, autoscalers and anti-affinity select by labels too, and each label less is one thing less in the
// cluster that a probe pod can be mistaken for a part of. Workloads that are alike in all this share a probe pod, and
// connections among them need a second one.
//
// What cannot be made says so: see Planner.Add. A Plan is inert; package live/pods makes it come true.
package live

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Probe is a pod to be made.
type Probe struct {
	Namespace string
	Labels    label.Set      // of the workload's those that policies speak of
	Named     []cluster.Port // declared under names that policies use
	Listen    []cluster.Port // ports that are connected to, in order
	Stands    []string       // for these workloads, "shop/web", in order
	Second    bool           // for the far end of connections among pods that are alike
}

// Attempt is a connection to be made. It is comparable.
type Attempt struct {
	From, To int        // indexes of probes; To is Outside for an address that is nobody's here
	Addr     netip.Addr // of Outside
	IPv6     bool
	Protocol flow.Protocol // TCP or UDP
	Port     uint16
}

// Outside stands for the far end of an Attempt that leaves the cluster.
const Outside = -1

// Plan is what is to be made.
type Plan struct {
	Probes []Probe
	// Attempts are those asked for, and then controls: connections that policies allow, of probes for which nothing that they
	// allow was asked for. Once one works, the rules for its ends are known to be in force.
	Attempts []Attempt
	Allowed  []bool // by attempt: what policies say
	Controls int    // how many of the attempts are controls
	// Blind are the probes that no attempt can tell the enforcement of: policies allow them nothing among all that is here.
	Blind []int

	planner *Planner
	classes map[class]int
	index   map[Attempt]int
}

// Published is a Service that sends connections also to pods that are not ready.
type Published struct {
	Namespace, Name string
	Selector        label.Selector
}

// Options say what may be done in a cluster.
type Options struct {
	Outside   bool // connections to addresses outside of the cluster may be made
	Published []Published
}

// Planner collects connections. Make one with NewPlanner.
type Planner struct {
	there    *cluster.State
	options  Options
	declared map[string]bool // namespaces
	keys     map[string]bool // of labels that policies speak of
	names    map[string]bool // of ports that policies speak of
	blocks   bool            // policies speak of blocks of addresses
	probes   map[class]*member
	asked    map[ask]bool // whether it is allowed
}

// class is what makes probes alike.
type class struct {
	namespace string
	labels    label.Set
	named     string
	second    bool
}

// member is a class with those who are in it.
type member struct {
	like   *cluster.Endpoint
	stands map[string]bool
	listen map[cluster.Port]bool
}

type ask struct {
	from, to class // to is the zero class for outside
	addr     netip.Addr
	ipv6     bool
	protocol flow.Protocol
	port     uint16
}

// NewPlanner returns a planner for a cluster as it is: what has to be judged is what is in force there.
func NewPlanner(there *cluster.State, o Options) *Planner {
	p := &Planner{there: there, options: o, declared: map[string]bool{}, keys: map[string]bool{}, names: map[string]bool{},
		probes: map[class]*member{}, asked: map[ask]bool{}, blocks: len(eval.Blocks(there.Policies())) > 0}
	for _, n := range there.Namespaces() {
		p.declared[n.Name] = true
	}
	for _, q := range there.Policies() {
		p.learn(q)
	}
	return p
}

// learn notes what of pods a policy speaks of.
func (p *Planner) learn(q *policy.Policy) {
	selector := func(s label.Selector) {
		for _, r := range s.Requirements() {
			p.keys[r.Key] = true
		}
	}
	selector(q.Subject.Pods)
	for _, d := range flow.Directions {
		for _, r := range q.Rules(d) {
			for _, peer := range r.Peers {
				selector(peer.Pods.Pods)
			}
			for _, port := range r.Ports {
				if port.Name != "" {
					p.names[port.Name] = true
				}
			}
		}
	}
}

// Add plans a connection of s, which is the cluster, perhaps with other pods and labels of pods. It returns why the
// connection cannot be made, in words that follow "because", or "".
func (p *Planner) Add(s *cluster.State, c cluster.Connection) (obstacle string) {
	if obstacle := p.obstacle(s, c); obstacle != "" {
		return obstacle
	}
	a := p.ask(c)
	if _, known := p.asked[a]; known {
		p.stand(a.from, c.From.Endpoint)
		p.stand(a.to, c.To.Endpoint)
		return ""
	}
	p.asked[a] = eval.Evaluate(s, c).Verdict == flow.Allow
	p.stand(a.from, c.From.Endpoint)
	if m := p.stand(a.to, c.To.Endpoint); m != nil {
		m.listen[cluster.Port{Protocol: c.Protocol, Number: c.Port}] = true
	}
	return ""
}

func (p *Planner) obstacle(s *cluster.State, c cluster.Connection) string {
	outside := c.To.Endpoint == nil && c.To.Node == nil && !c.To.Unknown
	switch {
	case c.Protocol != flow.TCP && c.Protocol != flow.UDP:
		return fmt.Sprintf("probe pods speak TCP and UDP, and not %s", c.Protocol)
	case c.From.Endpoint == nil && c.From.Node != nil, c.To.Node != nil:
		return "no probe pod can stand for a node, or for a pod on its node's network"
	case c.From.Endpoint == nil && c.From.Unknown, c.To.Unknown:
		return "nobody has the address"
	case c.From.Endpoint == nil:
		return "nobody can be asked to connect from outside of the cluster"
	case outside && !p.options.Outside:
		return "nothing is sent to addresses outside of the cluster without --live-outside"
	case outside && c.Protocol != flow.TCP:
		return "nobody outside of the cluster can be expected to answer datagrams"
	case c.From.Endpoint == c.To.Endpoint:
		return "a probe pod is not called through Services, so it cannot call itself through one"
	}
	for _, e := range []*cluster.Endpoint{c.From.Endpoint, c.To.Endpoint} {
		if e == nil {
			continue
		}
		if obstacle := p.place(s, e); obstacle != "" {
			return obstacle
		}
	}
	return ""
}

// place says why no probe pod can stand for e.
func (p *Planner) place(s *cluster.State, e *cluster.Endpoint) string {
	if !p.declared[e.Namespace] {
		return fmt.Sprintf("the cluster has no namespace %s", e.Namespace)
	}
	if s.Namespace(e.Namespace).Labels != p.there.Namespace(e.Namespace).Labels {
		return fmt.Sprintf("namespace %s has other labels in the cluster, and they are left as they are", e.Namespace)
	}
	if name := twice(p.named(e)); name != "" {
		return fmt.Sprintf("%s declares port %s for two protocols, which the one container of a probe pod cannot", e.Key, name)
	}
	labels := p.cut(e.Labels)
	for _, service := range p.options.Published {
		if service.Namespace == e.Namespace && service.Selector.Matches(labels) {
			return fmt.Sprintf("Service %s/%s sends connections also to pods that are not ready, so a probe pod would get real ones",
				service.Namespace, service.Name)
		}
	}
	return ""
}

// cut leaves of labels those that policies speak of.
func (p *Planner) cut(labels label.Set) label.Set {
	kept := map[string]string{}
	for k, v := range labels.All() {
		if p.keys[k] {
			kept[k] = v
		}
	}
	set, _ := label.NewSet(kept) // a part of a set is one
	return set
}

// named are the ports of e whose names policies use, in order and each once.
func (p *Planner) named(e *cluster.Endpoint) []cluster.Port {
	var all []cluster.Port
	for _, port := range e.Ports {
		of := e.PortsNamed(port.Name, port.Protocol)
		if p.names[port.Name] && len(of) > 0 && of[0] == port && !slices.Contains(all, port) {
			all = append(all, port)
		}
	}
	slices.SortFunc(all, comparePorts)
	return all
}

// twice returns a name that two ports have, or "".
func twice(ports []cluster.Port) string {
	seen := map[string]bool{}
	for _, p := range ports {
		if seen[p.Name] {
			return p.Name
		}
		seen[p.Name] = true
	}
	return ""
}

func comparePorts(a, b cluster.Port) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number), strings.Compare(a.Name, b.Name))
}

func (p *Planner) class(e *cluster.Endpoint) class {
	return class{namespace: e.Namespace, labels: p.cut(e.Labels), named: fmt.Sprint(p.named(e))}
}

func (p *Planner) ask(c cluster.Connection) ask {
	a := ask{from: p.class(c.From.Endpoint), ipv6: c.From.Addr.Is6(), protocol: c.Protocol, port: c.Port}
	if c.To.Endpoint == nil {
		a.addr = c.To.Addr
		return a
	}
	a.to = p.class(c.To.Endpoint)
	a.to.second = a.to == a.from
	return a
}

// stand has the probe of a class stand for e, whose place is nil for outside.
func (p *Planner) stand(c class, e *cluster.Endpoint) *member {
	if e == nil {
		return nil
	}
	m := p.probes[c]
	if m == nil {
		m = &member{like: e, stands: map[string]bool{}, listen: map[cluster.Port]bool{}}
		p.probes[c] = m
	}
	m.stands[e.Namespace+"/"+cmp.Or(e.Owner.Name, e.Name)] = true
	return m
}

// Plan returns what is to be made for all that was added.
func (p *Planner) Plan() *Plan {
	plan := &Plan{planner: p, classes: map[class]int{}, index: map[Attempt]int{}}
	order := slices.SortedFunc(maps.Keys(p.probes), compareClasses)
	for i, c := range order {
		m := p.probes[c]
		plan.classes[c] = i
		plan.Probes = append(plan.Probes, Probe{Namespace: c.namespace, Labels: c.labels, Named: p.named(m.like), Second: c.second,
			Listen: slices.SortedFunc(maps.Keys(m.listen), comparePorts), Stands: slices.Sorted(maps.Keys(m.stands))})
	}
	var attempts []Attempt
	allowed := map[Attempt]bool{}
	for a, allow := range p.asked {
		x := plan.attempt(a)
		attempts = append(attempts, x)
		allowed[x] = allow
	}
	slices.SortFunc(attempts, compareAttempts)
	for _, a := range attempts {
		plan.add(a, allowed[a])
	}
	plan.control(order)
	return plan
}

func (plan *Plan) add(a Attempt, allow bool) {
	plan.index[a] = len(plan.Attempts)
	plan.Attempts, plan.Allowed = append(plan.Attempts, a), append(plan.Allowed, allow)
}

func (plan *Plan) attempt(a ask) Attempt {
	to := Outside
	if a.to != (class{}) {
		to = plan.classes[a.to]
	}
	return Attempt{From: plan.classes[a.from], To: to, Addr: a.addr, IPv6: a.ipv6, Protocol: a.protocol, Port: a.port}
}

// control adds a control for each probe that needs one, where there is any.
func (plan *Plan) control(order []class) {
	known := map[int]bool{}
	for i, a := range plan.Attempts {
		if plan.Allowed[i] && a.To != Outside {
			known[a.From], known[a.To] = true, true
		}
	}
	for i := range plan.Probes {
		if known[i] {
			continue
		}
		if a, found := plan.controlOf(i, order); found {
			known[a.From], known[a.To] = true, true
			plan.add(a, true)
			plan.Controls++
		} else {
			plan.Blind = append(plan.Blind, i)
		}
	}
}

// controlPort is listened on for controls where no port that was asked for makes one.
var controlPort = cluster.Port{Protocol: flow.TCP, Number: 8080}

// controlOf finds a connection of a probe with another one that policies allow and that was not asked for, on a port that
// is listened on anyway if there is one.
func (plan *Plan) controlOf(i int, order []class) (Attempt, bool) {
	for _, extra := range []bool{false, true} {
		for j := range plan.Probes {
			if j == i {
				continue
			}
			for _, pair := range [][2]int{{i, j}, {j, i}} {
				to := &plan.Probes[pair[1]]
				ports := to.Listen
				if extra {
					ports = []cluster.Port{controlPort}
				}
				for _, port := range ports {
					a := Attempt{From: pair[0], To: pair[1], Protocol: port.Protocol, Port: port.Number}
					if !plan.allows(&a, order) {
						continue
					}
					if !slices.Contains(to.Listen, port) {
						to.Listen = slices.SortedFunc(slices.Values(append(to.Listen, port)), comparePorts)
					}
					return a, true
				}
			}
		}
	}
	return Attempt{}, false
}

// allows reports whether policies allow a, in the family that both of its ends have.
func (plan *Plan) allows(a *Attempt, order []class) bool {
	from, to := plan.planner.probes[order[a.From]].like, plan.planner.probes[order[a.To]].like
	for _, ipv6 := range []bool{false, true} {
		c := cluster.Connection{Protocol: a.Protocol, Port: a.Port,
			From: cluster.Party{Endpoint: from, Addr: addressOf(from.Addresses, ipv6)}, To: cluster.Party{Endpoint: to, Addr: addressOf(to.Addresses, ipv6)}}
		if from == to {
			other := *to // alike, and another pod
			c.To.Endpoint = &other
		}
		if c.From.Addr.IsValid() && c.To.Addr.IsValid() && eval.Evaluate(plan.planner.there, c).Verdict == flow.Allow {
			a.IPv6 = ipv6
			return true
		}
	}
	return false
}

func addressOf(all []netip.Addr, ipv6 bool) netip.Addr {
	for _, a := range all {
		if a.Is6() == ipv6 {
			return a
		}
	}
	return netip.Addr{}
}

func compareClasses(a, b class) int {
	second := func(c class) int {
		if c.second {
			return 1
		}
		return 0
	}
	return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.labels.String(), b.labels.String()),
		strings.Compare(a.named, b.named), cmp.Compare(second(a), second(b)))
}

func compareAttempts(a, b Attempt) int {
	return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Port, b.Port), cmp.Compare(fmt.Sprint(a.IPv6), fmt.Sprint(b.IPv6)))
}
