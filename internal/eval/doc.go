// Package eval is the reference: it judges one connection by reading the policies as a person would, one by one,
// and writes down all that it saw. It is slow and obvious on purpose, and shares nothing with the compiler but the
// meaning of the values, so that comparing the two has a meaning. What follows is that meaning, exactly.
//
// # Sides
//
// A connection has two sides: egress, whose subject is the client and whose peer is the server, and ingress, whose
// subject is the server and whose peer is the client. Both sides that are judged must allow. A side is judged if its
// subject is a known pod (Party.Endpoint) with two exceptions: neither side of a connection from a pod to itself
// (the same Endpoint on both ends, whatever the addresses) is judged unless it is Translated, and ingress is not
// judged if Connection.FromOwnNode. Nodes (host-network pods are their node), the world outside and unknown pods
// are never subjects; an unknown pod's own side is closed by its own node. What has no judged side is allowed.
//
// # Rules
//
// A policy applies to a side if its Subject selects the subject's labels and those of its namespace. Only its rules
// for the side's direction count; having none has no effect. A NetworkPolicy that does not isolate in a direction
// has no effect in that direction, whatever rules it holds.
//
// A rule matches no, maybe or yes: the lesser of the best answer of its Peers and the best answer of its Ports.
// No peers are "no"; no ports are "yes", for every protocol. A peer by kind:
//
//   - PeerNone: no.
//   - PeerAnyone: yes.
//   - PeerPods: a known pod by labels, yes or no. An unknown pod maybe, whatever the selectors. Others no.
//   - PeerNodes: a node by labels, yes or no. Others no, unknown pods among them.
//   - PeerBlock: Peer.Contains(Party.Addr), yes or no, whoever the party is; no for an invalid address.
//
// A port is "no" for protocols without ports. A range is "yes" if protocol and number are in it. A named port is
// resolved on the server (Connection.To), in both directions: "yes" if one of Endpoint.PortsNamed has the
// connection's protocol and number. If the server is an unknown pod, it is "maybe" provided that the port's
// protocol is the connection's or 0; other servers than pods declare no ports: "no".
//
// # Tiers
//
// Tiers are asked in the order Admin, NetworkPolicy, Baseline, policies in the order of policy.Compare, rules in
// the order of their index.
//
// Admin and Baseline: the first rule that matches (yes) decides: Accept allows and Deny denies for good, Pass ends
// the tier. No match, or a Pass: the next tier is asked.
//
// NetworkPolicy: if no policy that applies isolates in the direction, the next tier is asked. Otherwise the tier's
// verdict is final: allowed by the first rule that matches (yes) of the first policy that has one, else denied
// by the first policy that isolates, with index flow.Isolation.
//
// After the last tier: allowed by no rule, the zero flow.Rule.
//
// # Unknown pods as peers
//
// An unknown pod is allowed only what every pod that may be there would be allowed. While the rules of a tier are
// walked as above, a "maybe" does this:
//
//   - Accept: nothing, as if it were "no". In the NetworkPolicy tier too.
//   - Deny: denies for good, as if it were "yes", and is the deciding rule.
//   - Pass: is remembered, and the walk goes on. If the same tier then accepts (yes), the Accept only stands: the
//     later tiers are asked as well and may deny. If none does, the connection is allowed, and the deciding rule is
//     the Accept that stands, not the later tier's.
//
// # Attribution of the whole
//
// Decision.Flow: if egress denies, the direction is Egress and the rule is egress's; else if ingress denies, Ingress
// and ingress's rule; else Allow, no direction, and the rule that accepted at ingress, else the one that
// accepted at egress, else (no policy said anything at either end) the zero Rule.
package eval
