package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/report"
)

// The codes. A code never changes its meaning, and is never used again.
const (
	unreadable         = "RF000"
	selectsNothing     = "RF001"
	peerMatchesNothing = "RF002"
	typo               = "RF003"
	unreachable        = "RF004"
	redundantRule      = "RF005"
	equalPriorities    = "RF006"
	noDNS              = "RF007"
	noEffect           = "RF008"
	twoItems           = "RF009"
	blockOverPods      = "RF010"
	namedPort          = "RF011"
	undeclaredPort     = "RF012"
	allowsAll          = "RF013"
	notSelected        = "RF014"
	namespaceLabel     = "RF015"
	hostNetwork        = "RF016"
	halfDoor           = "RF017"
	noticed            = "RF018"
	badIgnore          = "RF019"
	noAudit            = "RF020"
	denialsIgnored     = "RF021"
	cohortOfAll        = "RF022"
	cohortOfNone       = "RF023"
	removesNothing     = "RF024"
	changesNothing     = "RF025"
	shrinks            = "RF026"
	takeTurns          = "RF027"
)

// rules describe the codes, in their order.
var rules = []report.Rule{
	{Code: unreadable, Name: "cannot-be-read", Level: report.Error, Short: "An object cannot be used as it is.",
		Help: "A policy that cannot be read is replaced by one that isolates what it was over, until it is mended: a typo never opens anything. Other objects are left out."},
	{Code: selectsNothing, Name: "policy-selects-nothing", Level: report.Warning, Short: "A policy selects no pod.",
		Help: "There are pods in the namespaces that it is about, but none has the labels of its selector, so it protects nobody. Often the namespace is missing or another one, or the pods were renamed. A selector of all pods of a namespace is no finding, nor is a policy for namespaces of which no pod is among the manifests."},
	{Code: peerMatchesNothing, Name: "peer-matches-nothing", Level: report.Warning, Short: "A peer of a rule matches no pod.",
		Help: "There are pods in the namespaces that the peer names, but none has its labels, so this part of the rule accepts, or denies, nobody. Without a namespaceSelector a peer is of the policy's own namespace. If the peer is of any namespace this is a note only, as the pods may be elsewhere."},
	{Code: typo, Name: "label-typo", Level: report.Error, Short: "A selector asks for a label that nobody has, and that is nearly one that somebody has.",
		Help: "Selectors are not checked by the API server: one with a typo matches nothing, or, behind a \"not\", everything."},
	{Code: unreachable, Name: "rule-unreachable", Level: report.Warning, Short: "A rule is never reached, as one that is asked earlier decides.",
		Help: "The rules of a tier of ClusterNetworkPolicies are asked in the order of priority and then of the list, and the first that matches decides. Here an earlier rule is about everything that the later one is about, as far as pods are known. If both say the same, and are of different policies, this is a note."},
	{Code: redundantRule, Name: "rule-redundant", Level: report.Note, Short: "A rule of a NetworkPolicy says nothing that another one of it does not say.",
		Help: "The rules of NetworkPolicies add up, so a rule cannot take back a part of what another one accepts. Who writes a narrow rule beside a wide one may believe that the narrow one counts."},
	{Code: equalPriorities, Name: "priorities-equal", Level: report.Warning, Short: "Two ClusterNetworkPolicies of equal priority contradict each other about the same pods.",
		Help: "The standard leaves open which of them counts. Ringfence asks them in the order of their names; other implementations may do otherwise."},
	{Code: noDNS, Name: "no-dns", Level: report.Warning, Short: "Pods may go out, but not ask DNS.",
		Help: "Whoever restricts egress has to accept DNS too, or names do not resolve and everything fails with timeouts. Pods that may not go anywhere are a note: they may need no names."},
	{Code: noEffect, Name: "no-effect", Level: report.Error, Short: "Something in a policy has no effect.",
		Help: "Rules of a direction that policyTypes does not name are ignored by every implementation; write the direction in policyTypes, or leave policyTypes out. domainNames are not enforced by Ringfence yet, and match nothing."},
	{Code: twoItems, Name: "two-items-for-one", Level: report.Warning, Short: "A namespaceSelector and a podSelector are two items of a list, where one was surely meant.",
		Help: "Two items are \"or\": all pods of those namespaces, and besides the pods with those labels in the policy's own namespace. One item with both selectors is \"and\". It is reported where the second item matches nobody in the own namespace but somebody in the others, or where the first is every namespace already."},
	{Code: blockOverPods, Name: "block-over-pods", Level: report.Warning, Short: "An address block is about pods, or is the address of a Service.",
		Help: "Addresses of pods change with every restart: select pods by their labels. Policies see connections to a Service behind its translation, so the Service's address matches nothing. That a wide block holds all pods too is a note."},
	{Code: namedPort, Name: "named-port-unknown", Level: report.Error, Short: "A rule names a port that no pod it is about declares.",
		Help: "Names of ports resolve on the destination pod: of an ingress rule those that the policy selects, of an egress rule the peers. A name that none of them declares, with that protocol, matches nothing."},
	{Code: undeclaredPort, Name: "port-undeclared", Level: report.Warning, Short: "A rule is about a port on which no pod listens as far as it declares.",
		Help: "It is a warning where the number is the port of a Service, which leads to another one, or is declared with another protocol; policies see the port of the pod. Otherwise it is a note: a container may listen on what it does not declare."},
	{Code: allowsAll, Name: "allows-everything", Level: report.Note, Short: "A rule accepts everything, to or from everybody.",
		Help: "It opens its pods in this direction, whatever other NetworkPolicies say, also to what is outside of the cluster."},
	{Code: notSelected, Name: "workload-not-selected", Level: report.Note, Short: "No policy selects a workload.",
		Help: "It takes connections from everybody and makes them to everybody. A default deny for its namespace would select it."},
	{Code: namespaceLabel, Name: "namespace-label-missing", Level: report.Warning, Short: "A selector means a namespace by a label that it does not have.",
		Help: "Namespaces have no label name of their own accord. Every namespace has kubernetes.io/metadata.name."},
	{Code: hostNetwork, Name: "host-network", Level: report.Warning, Short: "A selector matches only pods on their node's network.",
		Help: "Such pods have their node's address. No policy selects them, and as peers they count as their node, which selectors of pods do not match."},
	{Code: halfDoor, Name: "half-a-door", Level: report.Warning, Short: "A rule accepts connections of which the other end denies every one.",
		Help: "Both ends have to agree: egress at the source and ingress at the destination. Here all connections that the rule is about are denied by the other end."},
	{Code: noticed, Name: "notice", Level: report.Note, Short: "Something is read otherwise than it may look.",
		Help: "A conversion from an older kind, a value that the API server would refuse, a policy of another system."},
	{Code: badIgnore, Name: "ignore-without-reason", Level: report.Warning, Short: "An annotation ringfence.dev/lint-ignore has no reason, or ignores nothing.",
		Help: "Findings are accepted with a reason, so that others can judge it, and only as long as they are there."},
	{Code: noAudit, Name: "no-audit", Level: report.Warning, Short: "A rollout enforces before it audits.",
		Help: "An audit shows what the change would deny and allow before it does so to anybody, on connections that are open already too. Without one, the first pods find out."},
	{Code: denialsIgnored, Name: "denials-ignored", Level: report.Warning, Short: "A rollout goes on whatever it denies.",
		Help: "The analysis ignores newly denied connections, so that nothing that the change breaks rolls it back or pauses it. To let some pass, raise max, or promote when it has paused."},
	{Code: cohortOfAll, Name: "cohort-of-all", Level: report.Note, Short: "A step of a rollout that is to enforce for some pods enforces for all that the change selects.",
		Help: "At least one pod is chosen, so a percentage of one pod is that pod; and a selector may match everybody that the change is about. There is nobody then to compare the cohort with. Pods that are not among the manifests may make it less."},
	{Code: cohortOfNone, Name: "cohort-of-none", Level: report.Warning, Short: "A step of a rollout chooses none of the pods that the change selects.",
		Help: "Its selectors or nodes match nobody whom the change is about. The step shows nothing, and pauses at its end."},
	{Code: removesNothing, Name: "removes-nothing", Level: report.Warning, Short: "A rollout removes a policy that is not there.",
		Help: "There are other policies of that kind and namespace among the manifests. A name with a typo leaves the policy in force."},
	{Code: changesNothing, Name: "changes-nothing", Level: report.Note, Short: "A rollout carries a policy that says what is in force already.",
		Help: "After a rollout is complete and the same is written in the manifests, it can be removed."},
	{Code: shrinks, Name: "cohort-shrinks", Level: report.Warning, Short: "A step of a rollout enforces for fewer pods than one before it.",
		Help: "Pods that were judged by the new policies go back to the old ones. Audits after a step that enforced do the same."},
	{Code: takeTurns, Name: "rollouts-take-turns", Level: report.Note, Short: "Two rollouts touch the same policy.",
		Help: "The second waits until the first is over. Once both are complete, the later one's version is in force."},
}

// Rules describe the codes of findings, in their order.
func Rules() []report.Rule { return rules }

// RuleOf describes a code; false if there is no such code.
func RuleOf(code string) (report.Rule, bool) {
	i := slices.IndexFunc(rules, func(r report.Rule) bool { return r.Code == code })
	if i < 0 {
		return report.Rule{}, false
	}
	return rules[i], true
}

func levelOf(code string) report.Level {
	r, _ := RuleOf(code)
	return r.Level
}

// Doc is docs/lint.md.
func Doc() string {
	var b strings.Builder
	b.WriteString(`<!-- generated from internal/lint/codes.go: go test ./internal/lint -update -->
# The linter's findings

` + "`ringfence lint`" + ` finds what is legal in policies and most likely not meant. It looks at the manifests that it is given,
which may be a part of a cluster: what depends on objects that are not among them is left alone.

With ` + "`--kubeconfig` or `--context`, or as `kubectl ringfence lint`" + `, and without manifests, it looks at what a cluster has: pods that
run, Services, policies, and rollouts that are not over. Findings then name the object instead of a line, and ` + "`-n shop`" + ` shows those about
objects of that namespace. A workload that runs no pod is not seen there, and objects accept findings about policies and rollouts only.

The policies that a PolicyRollout carries are looked at as if they were in force for everyone: what is found then and is not
so now has the rollout's name in front.

A finding that is meant to be is accepted by an annotation of the object, with a reason, a line for each:

` + "```yaml" + `
metadata:
  annotations:
    ringfence.dev/lint-ignore: |
      RF001: the pods come with the next release
      RF007, RF017: the batch is closed for the time being
` + "```" + `

A PolicyRollout's annotation accepts findings about what it carries, too. Accepted findings are not shown in text; they are
in ` + "`-o json`" + ` and, marked as suppressed, in ` + "`-o sarif`" + `.

| code | level | |
| --- | --- | --- |
`)
	for _, r := range rules {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", r.Code, strings.ToLower(r.Code), r.Level, r.Short)
	}
	for _, r := range rules {
		fmt.Fprintf(&b, "\n## %s\n\n%s (%s, %s)\n\n%s\n", r.Code, r.Short, r.Name, r.Level, r.Help)
	}
	return b.String()
}
