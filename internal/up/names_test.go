package up

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

func exampleState(t *testing.T, path string) *cluster.State {
	t.Helper()
	bundle, err := dir.Load([]string{path}, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	objects := bundle.Finish(manifest.Options{}).Objects
	if err := cluster.AssignAddresses(&objects, netip.MustParsePrefix("10.0.0.0/16"), netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	s, err := cluster.NewState(objects)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestUnmetReasons: every denied pair of the LDAP example has a reason, and the copy of a client lacks its label.
func TestUnmetReasons(t *testing.T) {
	s := exampleState(t, "../../examples/ldap")
	denied, labels := 0, 0
	for _, from := range s.Endpoints() {
		for _, to := range s.Endpoints() {
			tuple := flow.Tuple{Source: from.Addresses[0], Destination: to.Addresses[0], Protocol: flow.TCP, Port: 389}
			d := eval.Evaluate(s, s.Resolve(tuple)).Flow()
			why := unmet(s, tuple, d.Rule)
			if d.Verdict == flow.Allow {
				if why != "" {
					t.Errorf("%s to %s is allowed, and lacks %q", from.Key, to.Key, why)
				}
				continue
			}
			denied++
			if strings.Contains(why, "label role=ldap-client unmet") {
				labels++
			} else {
				t.Errorf("%s to %s lacks %q", from.Key, to.Key, why)
			}
			if got := unmet(s, tuple, flow.Rule{Kind: d.Rule.Kind, Namespace: "other", Name: "other"}); got != "" {
				t.Errorf("another policy's reason is %q", got)
			}
		}
	}
	if denied == 0 || labels != denied {
		t.Errorf("%d denied, %d for their label", denied, labels)
	}
}

func TestDenyingRules(t *testing.T) {
	c := compile.New(compile.Options{})
	c.Update(exampleState(t, "../../examples/ldap"), nil)
	r := c.Ruleset()
	found := 0
	for id := range r.Rows {
		for _, rule := range denyingRules(r, id) {
			found++
			if rule.Policy() != "customers/ldap-clients" || rule.Place() == "" {
				t.Errorf("row %d denies by %s (%s)", id, rule, rule.Place())
			}
		}
	}
	if found == 0 {
		t.Error("no row denies")
	}
	if rules := denyingRules(ruleset.New(), 1); rules != nil {
		t.Errorf("a row that is not there denies by %v", rules)
	}
}
