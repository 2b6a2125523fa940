package lint

import (
	"fmt"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/report"
)

// subject looks at whom a policy selects.
func (l *linter) subject(p *policy.Policy) {
	if len(l.kinds)+len(l.hosts) == 0 || l.typo(p, placeOf(p), "the subject", p.Subject) || len(l.selected(p.Subject)) > 0 {
		return
	}
	if hosts := l.among(l.hosts, p.Subject); len(hosts) > 0 && !p.Subject.Pods.IsEverything() {
		l.add(p, placeOf(p), hostNetwork, "", "selects only pods on their node's network (%s), which no policy is about", workloads(hosts))
		return
	}
	if p.Subject.Pods.IsEverything() {
		return // it may be there before the pods are
	}
	elsewhere := l.selected(policy.Pods{Namespaces: label.Everything(), Pods: p.Subject.Pods})
	switch {
	case p.Tier == policy.Namespace && len(elsewhere) > 0:
		l.add(p, placeOf(p), selectsNothing, "look at metadata.namespace",
			"selects no pod of its namespace %s; pods with these labels are %s", p.Namespace, workloads(elsewhere))
	case len(l.populated(p.Subject)) > 0:
		l.add(p, placeOf(p), selectsNothing, "look at the labels of the pods that are meant", "selects no pod: none of the %s", describe(p, p.Subject))
	}
}

// typo reports a label that nobody has but nearly somebody; true if there is one. Selectors of pods are compared with
// those of the namespaces that they are about.
func (l *linter) typo(p *policy.Policy, place report.Place, where string, want policy.Pods) bool {
	labels := index{}
	for _, e := range slices.Concat(l.kinds, l.hosts) {
		if want.Namespaces.Matches(l.state.Namespace(e.Namespace).Labels) {
			labels.add(e.Labels)
		}
	}
	what, meant := slip(want.Pods, labels, l.podKeys)
	if what == "" {
		ns := index{}
		for k, v := range l.nsKeys {
			if k != cluster.NameLabel { // namespaces that are not declared have names too
				ns[k] = v
			}
		}
		what, meant = slip(want.Namespaces, ns, l.nsKeys)
		if what != "" {
			what = "the namespaces' " + what
		}
	}
	if what == "" {
		return false
	}
	l.add(p, place, typo, fmt.Sprintf("did you mean %s?", meant), "%s: nobody has %s", where, what)
	return true
}

// peers looks at whom a rule is about.
func (l *linter) peers(r ruleIn) {
	for i, peer := range r.rule().Peers {
		if peer.Kind != policy.PeerPods || len(l.kinds)+len(l.hosts) == 0 {
			continue
		}
		if l.namespaces(r, i, peer.Pods) || l.typo(r.policy, r.place(), r.peer(i), peer.Pods) || len(l.selected(peer.Pods)) > 0 {
			continue
		}
		if hosts := l.among(l.hosts, peer.Pods); len(hosts) > 0 {
			l.add(r.policy, r.place(), hostNetwork, "name their nodes or addresses",
				"%s matches only pods on their node's network (%s), which count as their node", r.peer(i), workloads(hosts))
			continue
		}
		if len(l.populated(peer.Pods)) == 0 || peer.Pods.Pods.IsEverything() || peer.Pods.Pods.Matches(kubeDNS.Labels) {
			continue // these namespaces are not among the manifests, or empty yet; DNS rarely is among them
		}
		f := l.add(r.policy, r.place(), peerMatchesNothing, "look at the labels of the pods that are meant", "%s matches nobody: none of the %s", r.peer(i), describe(r.policy, peer.Pods))
		if elsewhere := l.selected(policy.Pods{Namespaces: label.Everything(), Pods: peer.Pods.Pods}); own(r.policy, peer.Pods.Namespaces) && len(elsewhere) > 0 {
			f.Fix = fmt.Sprintf("add a namespaceSelector: pods with these labels are %s", workloads(elsewhere))
		}
		if peer.Pods.Namespaces.IsEverything() {
			f.Level = report.Note // they may be anywhere, also where the manifests do not reach
		}
	}
}

// namespaces reports a selector of namespaces that means one by its name, but with a label that the namespace lacks.
func (l *linter) namespaces(r ruleIn, i int, want policy.Pods) bool {
	for _, n := range l.state.Namespaces() {
		if want.Namespaces.Matches(n.Labels) {
			return false
		}
	}
	for _, q := range want.Namespaces.Requirements() {
		if q.Key == cluster.NameLabel || q.Op != label.In || len(q.Values) != 1 {
			continue
		}
		for _, n := range l.state.Namespaces() {
			if _, has := n.Labels.Get(q.Key); n.Name == q.Values[0] && !has {
				l.add(r.policy, r.place(), namespaceLabel, fmt.Sprintf("write %s: %s, which every namespace has, or give it the label", cluster.NameLabel, n.Name),
					"%s: no namespace has the label %s, namespace %s neither", r.peer(i), q, n.Name)
				return true
			}
		}
	}
	return false
}

// items reports two items of a list, a namespaceSelector and then a podSelector, that were surely meant as one: the
// second is already said by the first, or matches nobody here but somebody there.
func (l *linter) items(r ruleIn) {
	peers := r.rule().Peers
	for i := 0; i+1 < len(peers) && r.policy.Tier == policy.Namespace; i++ {
		a, b := peers[i], peers[i+1]
		shape := a.Kind == policy.PeerPods && b.Kind == policy.PeerPods && a.Pods.Pods.IsEverything() && !own(r.policy, a.Pods.Namespaces) &&
			own(r.policy, b.Pods.Namespaces) && !b.Pods.Pods.IsEverything()
		if !shape {
			continue
		}
		there := l.selected(policy.Pods{Namespaces: a.Pods.Namespaces, Pods: b.Pods.Pods})
		if a.Pods.Namespaces.IsEverything() || len(there) > 0 && len(l.selected(b.Pods)) == 0 {
			l.findings = slices.DeleteFunc(l.findings, func(f Finding) bool { // what follows from it
				return f.Code == peerMatchesNothing && f.Place == r.place() && f.objectLine == r.policy.Line
			})
			l.add(r.policy, r.place(), twoItems, "join them: put podSelector under the namespaceSelector's item, without a dash",
				"%s and %s are two items, so each counts alone: every pod %s, and besides %s of namespace %s", r.peer(i), r.peer(i+1),
				namespacesText(a.Pods.Namespaces), b.Pods.Pods, r.policy.Namespace)
		}
	}
}

func namespacesText(sel label.Selector) string {
	if sel.IsEverything() {
		return "of the cluster"
	}
	return "of the namespaces " + sel.String()
}

// blocks looks at addresses that are pods' or Services'.
func (l *linter) blocks(r ruleIn) {
	for i, peer := range r.rule().Peers {
		if peer.Kind != policy.PeerBlock {
			continue
		}
		if s := l.serviceAt(peer); s != "" {
			l.add(r.policy, r.place(), blockOverPods, "select the pods behind it by their labels",
				"%s: %s is the address of Service %s; policies see the pods behind it", r.peer(i), peer.Block, s)
			continue
		}
		for _, e := range l.kinds {
			if slices.ContainsFunc(e.Addresses, peer.Contains) && peer.Block.IsSingleIP() {
				l.add(r.policy, r.place(), blockOverPods, "select it by its labels: addresses of pods change",
					"%s: %s is the address of pod %s", r.peer(i), peer.Block, e.Key)
			}
		}
		for _, pods := range l.state.PodRanges() {
			switch {
			case pods.Contains(peer.Block.Addr()) && pods.Bits() <= peer.Block.Bits() && !peer.Block.IsSingleIP():
				l.add(r.policy, r.place(), blockOverPods, "select pods by their labels: their addresses change",
					"%s: %s is inside of %s, where pods get their addresses", r.peer(i), peer.Block, pods)
			case peer.Block.Bits() < pods.Bits() && peer.Contains(pods.Addr()):
				f := l.add(r.policy, r.place(), blockOverPods, fmt.Sprintf("add %s to except if pods are not meant", pods),
					"%s: %s holds all pods too, which get their addresses from %s", r.peer(i), peer, pods)
				f.Level = report.Note
			}
		}
	}
}

// serviceAt names a Service of which a block is exactly the address.
func (l *linter) serviceAt(peer policy.Peer) string {
	for _, s := range l.services {
		for _, a := range s.ClusterIPs {
			if peer.Block.IsSingleIP() && peer.Contains(a) {
				return s.Key.String()
			}
		}
	}
	return ""
}

// everything reports a rule that accepts everybody on every port.
func (l *linter) everything(r ruleIn) {
	rule := r.rule()
	if rule.Action != policy.Accept || len(rule.Ports) > 0 {
		return
	}
	if slices.ContainsFunc(rule.Peers, func(p policy.Peer) bool { return p.Kind == policy.PeerAnyone }) {
		word := map[flow.Direction]string{flow.Ingress: "from everybody", flow.Egress: "to everybody"}[r.direction]
		l.add(r.policy, r.place(), allowsAll, "", "%s accepts everything %s, inside and outside of the cluster", r.text(), word)
	}
}

// unselected lists the workloads that no policy selects.
func (l *linter) unselected() {
	told := map[string]bool{}
	for _, e := range l.kinds {
		chosen := func(p *policy.Policy) bool { return slices.Contains(l.among([]*cluster.Endpoint{e}, p.Subject), e) }
		if len(l.state.Policies()) == 0 || slices.ContainsFunc(l.state.Policies(), chosen) {
			continue
		}
		name := workloads([]*cluster.Endpoint{e})
		object := "Pod " + e.Key.String()
		if e.Owner.Name != "" {
			object = e.Owner.Kind + " " + name
		}
		if told[object] {
			continue
		}
		told[object] = true
		l.findings = append(l.findings, Finding{Finding: report.Finding{Code: notSelected, Level: levelOf(notSelected),
			Place: report.Place{File: e.File, Line: e.Line}, Message: object + ": no policy selects it: it takes from everybody and sends to everybody"}, Object: object, objectLine: e.Line})
	}
}
