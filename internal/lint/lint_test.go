package lint

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
)

var update = flag.Bool("update", false, "rewrite docs/lint.md")

// shop is who is there in every test: frontend and cart in shop, ledger in pay, an agent on its node's network.
const shop = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: alpha}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: pay, labels: {team: beta}}}
---
apiVersion: v1
kind: Pod
metadata: {name: frontend, namespace: shop, labels: {app: frontend, role: client}}
spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}, {name: gossip, containerPort: 7000, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cartservice}}
spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: ledger, namespace: pay, labels: {app: ledger}}
spec: {containers: [{name: c, image: i, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop, labels: {app: agent}}
spec: {hostNetwork: true, containers: [{name: c, image: i}]}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.7, selector: {app: cartservice}, ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.1.0.0/16]}}
`

// np is a NetworkPolicy of namespace shop with a spec.
func np(spec string) string {
	return "\n---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {" + spec + "}}"
}

// cnp is a ClusterNetworkPolicy of tier Admin.
func cnp(name string, priority int, rest string) string {
	return fmt.Sprintf("\n---\n{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: %s}, spec: {tier: Admin, priority: %d, %s}}", name, priority, rest)
}

func lint(t *testing.T, text string) []Finding {
	t.Helper()
	b := manifest.NewBundle()
	b.Decode("x.yaml", []byte(text))
	findings, err := Run(b.Finish(manifest.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

// told is the findings in lines, without the workloads that no policy selects, which is nearly always one.
func told(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		if f.Code != notSelected {
			fmt.Fprintf(&b, "%s %s %s; %s\n", f.Level, f.Code, f.Message, f.Fix)
		}
	}
	return b.String()
}

func TestFindings(t *testing.T) {
	const all = `namespaces: {}`
	for _, test := range []struct{ text, want string }{
		{np("podSelector: {matchLabels: {app: frontend}}, ingres: []"), `error RF000 NetworkPolicy shop/p: spec.ingres: unknown field; did you mean "ingress"?`},
		{np("podSelector: {matchLabels: {app: ledger}}"), "warning RF001 NetworkPolicy shop/p: selects no pod of its namespace shop; pods with these labels are pay/ledger; look at metadata.namespace"},
		{np("podSelector: {matchLabels: {app: elsewhere}}"), "warning RF001 NetworkPolicy shop/p: selects no pod: none of the pods app=elsewhere in namespace shop"},
		{cnp("c", 1, "subject: {pods: {namespaceSelector: {matchLabels: {team: alpha}}, podSelector: {matchLabels: {app: zzz}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]"), "warning RF001 ClusterNetworkPolicy c: selects no pod"},
		{np("podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]"), "warning RF002 NetworkPolicy shop/p: ingress[0].from[0] matches nobody: none of the pods app=nobody in namespace shop"},
		{np("podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: ledger}}}]}]"), "add a namespaceSelector: pods with these labels are pay/ledger"},
		{np("podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: nobody}}}]}]"), "note RF002"},
		{np("podSelector: {matchLabels: {app: frontent}}"), "error RF003 NetworkPolicy shop/p: the subject: nobody has label app=frontent; did you mean app=frontend?"},
		{np("podSelector: {matchLabels: {rolle: client}}"), `error RF003 NetworkPolicy shop/p: the subject: nobody has label key "rolle"; did you mean role?`},
		{np("podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: betta}}}]}]"), "error RF003 NetworkPolicy shop/p: ingress[0].from[0]: nobody has the namespaces' label team=betta; did you mean team=beta?"},
		{np("podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [cartservise]}]}"), "error RF003"},
		{cnp("c", 1, "subject: {"+all+"}, ingress: [{action: Deny, from: [{namespaces: {}}]}, {name: late, action: Accept, from: [{namespaces: {matchLabels: {team: alpha}}}]}]"), `warning RF004 ClusterNetworkPolicy c: ingress[1] "late" is never reached: c ingress[0], which is asked before it, decides Deny for all that it is about`},
		{cnp("a", 1, "subject: {"+all+"}, egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}]}]") + cnp("b", 2, "subject: {namespaces: {matchLabels: {team: beta}}}, egress: [{action: Deny, to: [{networks: [10.2.0.0/16]}]}]"), "warning RF004 ClusterNetworkPolicy b: egress[0] is never reached"},
		{np("podSelector: {}, ingress: [{from: [{podSelector: {}}]}, {from: [{podSelector: {matchLabels: {app: frontend}}}], ports: [{port: 8080}]}]"), "note RF005 NetworkPolicy shop/p: ingress[1] says nothing that ingress[0] does not say"},
		{cnp("a", 5, "subject: {"+all+"}, ingress: [{action: Deny, from: [{namespaces: {}}]}]") + cnp("b", 5, "subject: {namespaces: {matchLabels: {team: alpha}}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: beta}}}]}]"), "warning RF006 ClusterNetworkPolicy b: ingress[0] and ingress[0] of ClusterNetworkPolicy a contradict each other"},
		{np("podSelector: {matchLabels: {app: frontend}}, egress: [{to: [{podSelector: {matchLabels: {app: cartservice}}}], ports: [{port: http}]}]"), "warning RF007 NetworkPolicy shop/p: shop/frontend may go out, but not ask DNS; accept egress"},
		{np("podSelector: {}, policyTypes: [Egress]"), "note RF007 NetworkPolicy shop/p: shop/cart, shop/frontend may not ask DNS, nor go anywhere else"},
		{np("podSelector: {}, policyTypes: [Ingress], egress: [{}]"), "error RF008 NetworkPolicy shop/p: the egress rules have no effect, as policyTypes does not name Egress"},
		{np("podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: beta}}}, {podSelector: {matchLabels: {app: ledger}}}]}]"), "warning RF009 NetworkPolicy shop/p: ingress[0].from[0] and ingress[0].from[1] are two items, so each counts alone: every pod of the namespaces team=beta, and besides app=ledger of namespace shop; join them"},
		{np("podSelector: {}, ingress: [{from: [{namespaceSelector: {}}, {podSelector: {matchLabels: {app: frontend}}}]}]"), "warning RF009 NetworkPolicy shop/p: ingress[0].from[0] and ingress[0].from[1] are two items, so each counts alone: every pod of the cluster"},
		{np("podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.0/24}}]}]"), "warning RF010 NetworkPolicy shop/p: ingress[0].from[0]: 10.1.2.0/24 is inside of 10.1.0.0/16, where pods get their addresses"},
		{np("podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.9/32}}]}]"), "warning RF010 NetworkPolicy shop/p: ingress[0].from[0]: 10.1.0.9/32 is the address of pod shop/cart"},
		{np("podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.96.0.7/32}}]}]"), "warning RF010 NetworkPolicy shop/p: egress[0].to[0]: 10.96.0.7/32 is the address of Service shop/cart"},
		{np("podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]"), "note RF010 NetworkPolicy shop/p: ingress[0].from[0]: 10.0.0.0/8 holds all pods too"},
		{np("podSelector: {matchLabels: {app: cartservice}}, ingress: [{from: [{podSelector: {}}], ports: [{port: htp}]}]"), `error RF011 NetworkPolicy shop/p: ingress[0]: no pod that it is about (shop/cart) declares a port htp/tcp, so it matches nothing; did you mean "http"?`},
		{np("podSelector: {matchLabels: {app: frontend}}, ingress: [{from: [{podSelector: {}}], ports: [{port: gossip}]}]"), "add protocol: UDP: they declare gossip/udp"},
		{np("podSelector: {matchLabels: {app: cartservice}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]"), "warning RF012 NetworkPolicy shop/p: ingress[0]: port 80/tcp is one of Service shop/cart, which leads to port http of the pods"},
		{np("podSelector: {matchLabels: {app: frontend}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 7000}]}]"), "warning RF012 NetworkPolicy shop/p: ingress[0]: the pods that it is about (shop/frontend) declare port 7000 with udp, not tcp; write protocol: UDP"},
		{np("podSelector: {matchLabels: {app: frontend}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 9}]}]"), "note RF012"},
		{np("podSelector: {}, ingress: [{}]"), "note RF013 NetworkPolicy shop/p: ingress[0] accepts everything from everybody"},
		{np("podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: pay}}}]}]"), "warning RF015 NetworkPolicy shop/p: ingress[0].from[0]: no namespace has the label name=pay, namespace pay neither; write kubernetes.io/metadata.name: pay"},
		{np("podSelector: {matchLabels: {app: agent}}"), "warning RF016 NetworkPolicy shop/p: selects only pods on their node's network (shop/agent)"},
		{np("podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: agent}}}]}]"), "warning RF016 NetworkPolicy shop/p: ingress[0].from[0] matches only pods on their node's network"},
		{np("podSelector: {matchLabels: {app: frontend}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: cartservice}}}]}, {ports: [{port: 53, protocol: UDP}]}]") +
			strings.Replace(np("podSelector: {matchLabels: {app: cartservice}}, ingress: []"), "name: p,", "name: q,", 1),
			"warning RF017 NetworkPolicy shop/p: egress[0] lets out to shop/cart, where nothing lets it in: shop/q ingress denies it"},
		{"\n---\n{apiVersion: policy.networking.k8s.io/v1alpha1, kind: BaselineAdminNetworkPolicy, metadata: {name: default}, spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}", "note RF018"},
	} {
		if got := told(lint(t, shop+test.text)); !strings.Contains(got, test.want) {
			t.Errorf("%s\ngot\n%swant\n%s", test.text, got, test.want)
		}
	}
}

// What people write on purpose, or what depends on objects that are not among the manifests, is no finding.
func TestNoFindings(t *testing.T) {
	for _, text := range []string{
		np("podSelector: {}"),
		np("podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}]"),
		np("podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}, podSelector: {matchLabels: {app: prometheus}}}]}]"),
		np("podSelector: {matchLabels: {app: cartservice}}, ingress: [{from: [{podSelector: {matchLabels: {app: frontend}}}], ports: [{port: http}, {port: 8080}]}]"),
		np("podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: beta}}}, {podSelector: {matchLabels: {app: frontend}}}]}]"), // "or", and meant
		np("podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [cartservice]}]}"),
		np("podSelector: {matchLabels: {app: frontend}}, policyTypes: [Egress]"), // it goes nowhere, on purpose
		np("podSelector: {matchLabels: {app: frontend}}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]"),
		np("podSelector: {matchLabels: {app: frontend}}, egress: [{to: [{podSelector: {matchLabels: {app: cartservice}}}], ports: [{port: 8080}]}, {to: [{namespaceSelector: {}}], ports: [{port: 5353, protocol: UDP}]}]"),
		strings.Replace(np("podSelector: {matchLabels: {app: x}}"), "namespace: shop", "namespace: later", 1),
		cnp("a", 5, "subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: beta}}}]}, {action: Deny, from: [{namespaces: {}}]}]") +
			cnp("b", 6, "subject: {namespaces: {matchLabels: {team: alpha}}}, egress: [{action: Pass, to: [{namespaces: {}}]}]"),
		cnp("a", 5, "subject: {namespaces: {matchLabels: {team: alpha}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]") +
			cnp("b", 5, "subject: {namespaces: {matchLabels: {team: beta}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]"),
	} {
		if got := told(lint(t, shop+text)); got != "" {
			t.Errorf("%s\n%s", text, got)
		}
	}
}

// Policies alone, without a single pod, are not found to select nothing.
func TestPoliciesAlone(t *testing.T) {
	if got := told(lint(t, np("podSelector: {matchLabels: {app: x}}, ingress: [{from: [{podSelector: {matchLabels: {app: other}}}], ports: [{port: http}]}]"))); got != "" {
		t.Error(got)
	}
}

func TestUnselected(t *testing.T) {
	var names []string
	for _, f := range lint(t, shop+np("podSelector: {matchLabels: {app: cartservice}}")) {
		if f.Code == notSelected {
			names = append(names, fmt.Sprintf("%s:%d %s", f.Place, f.objectLine, f.Object))
		}
	}
	if got := strings.Join(names, ", "); got != "x.yaml:6:6 Pod shop/frontend, x.yaml:17:17 Pod pay/ledger" {
		t.Errorf("got %s", got)
	}
}

func TestIgnore(t *testing.T) {
	policy := func(annotation string) string {
		return shop + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: shop\n  annotations:\n    ringfence.dev/lint-ignore: " +
			annotation + "\nspec: {podSelector: {matchLabels: {app: elsewhere}}, ingress: [{}]}\n"
	}
	accepted := lint(t, policy(`"RF001, RF013: they come next week"`))
	n := 0
	for _, f := range accepted {
		if f.Suppressed && f.Reason == "they come next week" {
			n++
		}
	}
	if n != 2 || strings.Contains(told(accepted), badIgnore) {
		t.Errorf("%d accepted:\n%s", n, told(accepted))
	}
	for annotation, want := range map[string]string{
		`RF001`:                   "accepts RF001 without a reason",
		`"RF002: x"`:              "accepts RF002, of which nothing is found",
		`"RF777: x"`:              `accepts "RF777", which is no code`,
		`"RF019: x"`:              "accepts RF019, of which nothing is found",
		`"RF001, : x"`:            `accepts "", which is no code`,
		"\"RF001: x\\nRF002: y\"": "accepts RF002, of which nothing is found",
	} {
		if got := told(lint(t, policy(annotation))); !strings.Contains(got, "warning RF019 NetworkPolicy shop/p: ringfence.dev/lint-ignore "+want) {
			t.Errorf("%s: got\n%s", annotation, got)
		}
	}
}

// A rule that is said to be never reached never decides, and one that is said to be redundant can go, in any cluster.
func TestWhatIsSaidOfRulesIsTrue(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		l := &linter{state: s, oracle: eval.NewOracle(s)}
		l.shadows()
		dead := map[flow.Rule]bool{}
		for _, f := range l.findings {
			for _, p := range s.Policies() {
				for _, d := range flow.Directions {
					for i := range p.Rules(d) {
						r := ruleIn{p, d, i}
						if strings.HasPrefix(f.Message, objectOf(p)+": "+r.text()+" is never") {
							dead[r.name()] = true
						}
					}
				}
			}
		}
		for range 20 {
			c := clustertest.Connection(t, s)
			if c.From.Unknown || c.To.Unknown {
				continue // they are denied what anybody there might be denied, until they are known
			}
			d := eval.Evaluate(s, c)
			for _, side := range []*eval.Side{d.Egress, d.Ingress} {
				for i := 0; side != nil && i < len(side.Tiers); i++ {
					if dead[side.Tiers[i].Rule] {
						t.Fatalf("%s decides %v", side.Tiers[i].Rule, c)
					}
				}
			}
		}
		seen["dead"] += len(dead)
		seen["redundant"] += withoutRedundant(t, s)
	})
	if seen["dead"] == 0 || seen["redundant"] == 0 {
		t.Errorf("nothing was found to be judged: %v", seen)
	}
}

// withoutRedundant removes one redundant rule at a time and says how many there were.
func withoutRedundant(t *rapid.T, s *cluster.State) int {
	n := 0
	for at, p := range s.Policies() {
		for _, d := range flow.Directions {
			l := &linter{state: s}
			l.redundant(p, d)
			if len(l.findings) == 0 {
				continue
			}
			n++
			var index int
			fmt.Sscanf(strings.TrimPrefix(l.findings[0].Message, objectOf(p)+": "+d.String()), "[%d]", &index)
			rules := append(append([]policy.Rule{}, p.Rules(d)[:index]...), p.Rules(d)[index+1:]...)
			shorter := *p
			if d == flow.Egress {
				shorter.Egress = rules
			} else {
				shorter.Ingress = rules
			}
			o := s.Objects()
			o.Policies[at] = &shorter
			changed, err := cluster.NewState(o)
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				c := clustertest.Connection(t, s)
				if a, b := eval.Evaluate(s, c).Verdict, eval.Evaluate(changed, c).Verdict; a != b {
					t.Fatalf("without %s[%d] of %s, which says nothing new, %v is %s, not %s", d, index, p.Name, c, b, a)
				}
			}
		}
	}
	return n
}

func TestDocIsFresh(t *testing.T) {
	const file = "../../docs/lint.md"
	if *update {
		if err := os.WriteFile(file, []byte(Doc()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil || string(have) != Doc() {
		t.Errorf("%s is not what the codes say (%v): go test ./internal/lint -update", file, err)
	}
}

// Every code is found in some test above, in its order, and has all its texts.
func TestCodes(t *testing.T) {
	var source []byte
	for _, file := range []string{"lint_test.go", "rollouts_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	for i, r := range Rules() {
		if r.Code != fmt.Sprintf("RF%03d", i) || r.Name == "" || r.Short == "" || r.Help == "" {
			t.Errorf("code %d is %+v", i, r)
		}
		if r.Code != notSelected && !strings.Contains(string(source), r.Level.String()+" "+r.Code) {
			t.Errorf("no test finds a %s %s", r.Level, r.Code)
		}
	}
}
