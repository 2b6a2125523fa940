package ruleset_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

const golden = `ruleset 3
local 10.0.0.1
local 10.0.0.2 on veth1
local fd00::2 on br0 port "veth 3"
address 10.0.0.0/24 3
address 10.0.0.2/32 5
subject egress 5
  default row 2
subject ingress 5
  default row 2
  from 3 row 1
row 1
  tcp 6379 allow 4       # shop/redis ingress[0] "from cart"
  tcp 7000-7010 allow 4  # shop/redis ingress[0] "from cart"
  else deny 5            # shop/redis ingress
row 2
  else allow
rule 4 kind NetworkPolicy namespace shop name redis direction ingress index 0 label "from cart" file shop.yaml line 7
rule 5 kind NetworkPolicy namespace shop name redis direction ingress index -1 file shop.yaml line 2
`

func TestTextIsReadableAndSorted(t *testing.T) {
	if got := parse(t, golden).String(); got != golden {
		t.Errorf("got\n%s\nwant\n%s", got, golden)
	}
}

func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := draw(t, "ruleset")
		r.Generation = rapid.Uint64().Draw(t, "generation")
		r.Rules[9] = flow.Rule{Kind: rapid.String().Draw(t, "kind"), Name: rapid.String().Draw(t, "name"), Namespace: "a b",
			Label: rapid.String().Draw(t, "label"), File: "#\n", Line: -3, Index: rapid.Int().Draw(t, "index")}
		back, err := ruleset.Parse(r.String())
		if err != nil {
			t.Fatalf("%v in\n%s", err, r)
		}
		if !back.Equal(r) || back.Generation != r.Generation {
			t.Fatalf("got\n%swant\n%s", back, r)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense":                           "line 1: unknown word",
		"ruleset 1\nruleset 1":               "line 2",
		"ruleset x":                          "is no number",
		"local 10.0.0.300":                   "is no address",
		"local 10.0.0.1\nlocal 10.0.0.1":     "is there twice",
		"local 10.0.0.1 at veth1":            "want on or port",
		"address 10.0.0.1/24 1":              "masked",
		"address 10.0.0.0/24 -1":             "is no number",
		"address 10.0.0.0/24 4000000000":     "not below",
		"subject sideways 1":                 "unknown direction",
		"default row 1":                      "below a subject",
		"subject ingress 1\nto 2 row 1":      "below a subject",
		"subject ingress 1\nfrom 2 row 1":    "no default",
		"subject ingress 1\ndefault row 1":   "row 1 does not exist",
		"row 1":                              "no \"else\"",
		"row 0\nelse deny":                   "row 0 is no row",
		"tcp 80 allow":                       "below a row",
		"row 1\ntcp 90-80 allow\nelse deny":  "want PORT or FIRST-LAST",
		"row 1\ntcp 65536 allow\nelse deny":  "want PORT or FIRST-LAST",
		"row 1\nelse maybe":                  "unknown verdict",
		"row 1\nelse deny 7":                 "rule 7 does not exist",
		"row 1\nelse deny\nrow 1\nelse deny": "is there twice",
		"rule 0 name x":                      "no policy",
		"rule 1 colour red":                  "unknown key",
		"rule 1 name \"x":                    "does not end",
	} {
		if _, err := ruleset.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(golden)
	f.Add(one)
	f.Add("row 1\n tcp 0-65535 allow\n tcp 1 deny # x\n else deny\nrule 1 name \"\\x00\"")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ruleset.Parse(text)
		if err != nil {
			return
		}
		back, err := ruleset.Parse(r.String())
		if err != nil || !back.Equal(r) || back.String() != r.String() {
			t.Fatalf("%v\n%s\n%s", err, r, back)
		}
	})
}
