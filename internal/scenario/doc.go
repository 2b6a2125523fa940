// Package scenario is the test language: a txtar file with commands on top, and manifests and expected outputs below.
// We test with it, and users write the same files.
//
//	# Only LDAP clients reach LDAP servers.
//	allow orders/app=credit-check -> customers/ldap:389 by customers/ldap-clients
//	! allow orders/legacy -> customers/ldap:389
//	explain orders/legacy -> customers/ldap:389 > why.txt
//
//	-- policies.yaml --
//	...
//	-- why.txt --
//	...
//
// Commands says what there is. Every verdict line runs on every Engine, and all engines must agree on the whole
// decision: verdict, direction, rule and place.
//
// Pods that have no address get one of each family out of the pod ranges of the nodes, or else of 10.244.0.0/16 and
// fd00:10:244::/64, because packets have addresses; the command `offline` leaves them without.
package scenario

// Commands is the language, for help texts.
const Commands = `load FILE...              the cluster is what these files say, of the archive or from beside the scenario
                          (at the start: all *.yaml and *.json of the archive)
offline                   before load: pods have the addresses that their manifests say, and no others
[!] allow A -> B:PORT     every such connection is allowed; with ! every one is denied
    [via service]         ... that reaches B through a Service's address, with PORT that of B itself
    [by RULE]             ... by this policy, "ns/name" or "name", or by this rule, "ns/name ingress[0]"; "by no policy"
explain A -> B:PORT       compare the explanation with a file of the archive
    > FILE
matrix PORT [REF...]      compare the table of who reaches whom (of all pods, or of these) with a file of the archive
    > FILE
problems > FILE           compare what is wrong with the manifests, and notes; without this command nothing may be wrong

A and B are ns/pod, ns/kind/name, ns/selector, selector, node/name or an address ([...] around IPv6 before a port).
B may be ns/service/name: the pods behind a Service, reached through its address on PORT of the Service.
PORT is 80, 53/udp, the name of a port of B, or icmp. Lines that begin with # are comments.`
