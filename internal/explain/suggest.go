package explain

import (
	"fmt"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/write"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Suggestion is the smallest change of policy that would allow a connection: one change for each side that denies.
type Suggestion struct {
	Changes []Change `json:"changes,omitempty"`
	Reason  string   `json:"reason,omitempty"` // why there are no changes to suggest
}

// Change is a rule to add, in a policy that is there or in one that is to be made for it.
type Change struct {
	Obstacle  Rule     `json:"obstacle"` // the rule that denies, and stands in the way
	Create    bool     `json:"create"`   // the policy is new; otherwise the rule is to be added to it
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	Place     string   `json:"place,omitempty"` // of the policy that is there
	Direction string   `json:"direction"`
	Index     int      `json:"index"` // the new rule's place in the policy's list for the direction
	Subject   string   `json:"subject"`
	Peer      string   `json:"peer"`
	Port      string   `json:"port,omitempty"` // empty: all traffic
	Notes     []string `json:"notes,omitempty"`
	YAML      string   `json:"yaml"` // the new policy, or the rule as an item of the policy's list

	policy *policy.Policy // as it is to be
}

// maxChanges is more than two sides and three tiers ever need.
const maxChanges = 8

// Suggest looks for the smallest change that lets s allow c. It changes a copy side by side until the reference
// evaluator allows the connection, so that what it returns has been tried.
func Suggest(s *cluster.State, c cluster.Connection) Suggestion {
	var out Suggestion
	for len(out.Changes) <= maxChanges {
		d := eval.Evaluate(s, c)
		if d.Verdict == flow.Allow {
			if len(out.Changes) == 0 {
				out.Reason = "it is allowed already"
			}
			return out
		}
		side := d.Egress
		if side == nil || side.Verdict == flow.Allow {
			side = d.Ingress
		}
		change, reason := changeFor(s, c, side)
		if reason != "" {
			return Suggestion{Reason: reason}
		}
		next, err := change.Apply(s)
		if err != nil {
			return Suggestion{Reason: err.Error()}
		}
		out.Changes, s = append(out.Changes, change), next
	}
	return Suggestion{Reason: "too many rules stand in the way: " + out.Changes[0].Obstacle.String() + " is the first"}
}

// Apply returns s with the change made.
func (c Change) Apply(s *cluster.State) (*cluster.State, error) {
	o := s.Objects()
	o.Policies = slices.DeleteFunc(o.Policies, func(p *policy.Policy) bool { return sameName(p, c.policy) })
	o.Policies = append(o.Policies, c.policy)
	return cluster.NewState(o)
}

func sameName(a, b *policy.Policy) bool {
	return a.Kind() == b.Kind() && a.Namespace == b.Namespace && a.Name == b.Name
}

// Summary says in a line what to do.
func (c Change) Summary() string {
	name := c.Kind + " " + c.Name
	if c.Namespace != "" {
		name = c.Kind + " " + c.Namespace + "/" + c.Name
	}
	if c.Place != "" {
		name += " (" + c.Place + ")"
	}
	switch {
	case c.Create && c.Kind == "NetworkPolicy":
		return fmt.Sprintf("a new %s beside %s:", name, c.Obstacle)
	case c.Create:
		return fmt.Sprintf("%s stands in the way; a new %s is asked before it:", c.Obstacle, name)
	case c.Kind == "NetworkPolicy":
		return fmt.Sprintf("one more %s rule in %s:", c.Direction, name)
	}
	return fmt.Sprintf("%s stands in the way; one more %s rule before it, in %s:", c.Obstacle, c.Direction, name)
}

// changeFor finds the change that opens one side, or says why there is none.
func changeFor(s *cluster.State, c cluster.Connection, side *eval.Side) (Change, string) {
	culprit := find(s, side.Rule)
	if culprit.Defect != "" {
		return Change{}, fmt.Sprintf("%s could not be read and isolates until it can: %s", RuleOf(side.Rule), culprit.Defect)
	}
	rule := policy.Rule{Action: policy.Accept, Ports: portOf(c)}
	peer, reason := peerFor(s, culprit.Tier, side)
	if reason != "" {
		return Change{}, fmt.Sprintf("%s stands in the way, and %s", RuleOf(side.Rule), reason)
	}
	rule.Peers = []policy.Peer{peer}
	change := openCluster
	if culprit.Tier == policy.Namespace {
		change = openNamespace
	}
	p, index, create := change(s, c, side, culprit, rule)
	made, err := policy.New(p)
	if err != nil {
		return Change{}, err.Error()
	}
	out := Change{Obstacle: *RuleOf(side.Rule), Create: create, Kind: made.Kind(), Namespace: made.Namespace, Name: made.Name,
		Direction: side.Direction.String(), Index: index, Subject: PodsText(made.Subject), Peer: PeerText(peer), policy: made,
		Notes: notes(c, culprit.Tier, peer, made)}
	if len(rule.Ports) > 0 {
		out.Port = rule.Ports[0].String()
	}
	var text []byte
	if create {
		text, err = write.YAML(made)
	} else {
		text, err = write.Rule(made, side.Direction, rule)
		out.Place = made.RuleAt(side.Direction, flow.Isolation).Place()
	}
	if err != nil {
		return Change{}, err.Error()
	}
	out.YAML = string(text)
	return out, ""
}

// find returns the policy of a rule that decided in s.
func find(s *cluster.State, r flow.Rule) *policy.Policy {
	for _, p := range s.Policies() {
		if p.Kind() == r.Kind && p.Namespace == r.Namespace && p.Name == r.Name {
			return p
		}
	}
	return &policy.Policy{Defect: "it is not there"}
}

// portOf is the connection's port alone; nil where no policy could name it.
func portOf(c cluster.Connection) []policy.Port {
	if !c.Protocol.HasPorts() || c.Port == 0 {
		return nil
	}
	return []policy.Port{{Protocol: c.Protocol, First: c.Port, Last: c.Port}}
}

// peerFor names the other end as narrowly as the kind of policy can, by labels wherever it has any.
func peerFor(s *cluster.State, t policy.Tier, side *eval.Side) (policy.Peer, string) {
	other := side.Peer
	clusterWide := t != policy.Namespace
	switch {
	case other.Endpoint != nil:
		return policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: inNamespace(other.Endpoint.Namespace), Pods: telling(s, other.Endpoint)}}, ""
	case other.Unknown:
		return policy.Peer{}, other.String() + " is not known yet: once it is, its labels decide"
	case clusterWide && side.Direction == flow.Ingress:
		return policy.Peer{}, "ingress rules of a ClusterNetworkPolicy can name pods only, so that the rule itself has to change"
	case clusterWide && other.Node != nil:
		return policy.Peer{Kind: policy.PeerNodes, Nodes: tellingNode(other.Node)}, ""
	case !other.Addr.IsValid():
		return policy.Peer{}, "the other end has neither labels that a NetworkPolicy can name nor a known address"
	}
	return oneAddress(other.Addr), ""
}

// openNamespace opens a side that NetworkPolicies isolate: by a rule in the one that selects the fewest pods, or by a
// new policy if that would select fewer. A new one selects only pods that are isolated already, so that it isolates none.
func openNamespace(s *cluster.State, c cluster.Connection, side *eval.Side, culprit *policy.Policy, rule policy.Rule) (policy.Policy, int, bool) {
	best := culprit
	for _, t := range side.Tiers {
		for _, p := range t.Policies {
			if p.Applies && p.Policy.Tier == policy.Namespace && p.Policy.Defect == "" && selected(s, p.Policy.Subject) < selected(s, best.Subject) {
				best = p.Policy
			}
		}
	}
	narrow := policy.Pods{Namespaces: best.Subject.Namespaces, Pods: both(best.Subject.Pods, telling(s, side.Subject))}
	if selected(s, best.Subject) <= selected(s, narrow) {
		return insert(best, side.Direction, len(best.Rules(side.Direction)), rule)
	}
	p := policy.Policy{Tier: policy.Namespace, Namespace: best.Namespace, Subject: narrow, Name: freshName(s, c, side, best)}
	p.IsolatesEgress, p.IsolatesIngress = side.Direction == flow.Egress, side.Direction == flow.Ingress
	setRules(&p, side.Direction, []policy.Rule{rule})
	return p, 0, true
}

// openCluster puts an Accept before the rule that denies: in a policy of its own, for the subject only, if there is a
// priority left before the denying policy's, and the denying policy is about more than the subject.
func openCluster(s *cluster.State, c cluster.Connection, side *eval.Side, culprit *policy.Policy, rule policy.Rule) (policy.Policy, int, bool) {
	narrow := policy.Pods{Namespaces: inNamespace(side.Subject.Namespace), Pods: telling(s, side.Subject)}
	if culprit.Priority == 0 || selected(s, culprit.Subject) <= selected(s, narrow) {
		return insert(culprit, side.Direction, side.Rule.Index, rule)
	}
	p := policy.Policy{Tier: culprit.Tier, Priority: culprit.Priority - 1, Subject: narrow, Name: freshName(s, c, side, culprit)}
	setRules(&p, side.Direction, []policy.Rule{rule})
	return p, 0, true
}

func insert(p *policy.Policy, d flow.Direction, index int, rule policy.Rule) (policy.Policy, int, bool) {
	changed := *p
	setRules(&changed, d, slices.Insert(slices.Clone(p.Rules(d)), index, rule))
	return changed, index, false
}

func setRules(p *policy.Policy, d flow.Direction, rules []policy.Rule) {
	if d == flow.Egress {
		p.Egress = rules
	} else {
		p.Ingress = rules
	}
}

// selected counts the pods that want selects.
func selected(s *cluster.State, want policy.Pods) int {
	n := 0
	for _, e := range s.Endpoints() {
		if !e.HostNetwork && want.Namespaces.Matches(s.Namespace(e.Namespace).Labels) && want.Pods.Matches(e.Labels) {
			n++
		}
	}
	return n
}

func both(a, b label.Selector) label.Selector {
	sel, err := label.NewSelector(slices.Concat(a.Requirements(), b.Requirements())...)
	if err != nil || a.IsNothing() || b.IsNothing() {
		return label.Selector{}
	}
	return sel
}

// freshName is "allow-web-to-db", with the direction for egress, and a number if that is taken.
func freshName(s *cluster.State, c cluster.Connection, side *eval.Side, beside *policy.Policy) string {
	base := "allow-" + shortName(s, c.From) + "-to-" + shortName(s, c.To)
	if side.Direction == flow.Egress {
		base += "-egress"
	}
	for i, name := 2, base; ; i++ {
		taken := slices.ContainsFunc(s.Policies(), func(p *policy.Policy) bool {
			return p.Kind() == beside.Kind() && p.Namespace == beside.Namespace && p.Name == name
		})
		if !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, i)
	}
}

// notes says what people should know before they make the change.
func notes(c cluster.Connection, t policy.Tier, peer policy.Peer, p *policy.Policy) []string {
	var all []string
	switch t {
	case policy.Admin:
		all = append(all, "an Accept in tier Admin is final: the namespace's own NetworkPolicies are not asked any more")
	case policy.Baseline:
		all = append(all, "a NetworkPolicy that accepts it would do as well, but isolates the pod from all else that nothing accepts")
	}
	if peer.Kind == policy.PeerPods && peer.Pods.Pods.IsEverything() {
		all = append(all, "the pod has no label that tells it apart, so the rule is for its whole namespace: better label it")
	}
	if p.Subject.Pods.IsEverything() {
		all = append(all, "it is about "+PodsText(p.Subject))
	}
	if portOf(c) == nil {
		what := c.Protocol.String()
		if c.Protocol.HasPorts() {
			what = "port 0"
		}
		all = append(all, fmt.Sprintf("policies cannot name %s, so the rule is for all traffic", what))
	}
	return all
}
