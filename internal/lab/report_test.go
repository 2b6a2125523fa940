package lab

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/flow"
)

var (
	denyAll = flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "deny-all", Direction: flow.Ingress, Index: flow.Isolation, File: "deny.yaml", Line: 7}
	allowDB = flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "db", Direction: flow.Ingress, File: "db.yaml", Line: 12}
)

// result is a probe between two of the points of a small lab, and what became of it.
func result(from, to string, port uint16, o Outcome, by flow.Rule, want flow.Verdict, wantBy flow.Rule) Result {
	place := func(name string) Point {
		p := Point{Name: name, Group: name, Addr: netip.MustParseAddr("10.244.0.2")}
		if a, err := netip.ParseAddr(name); err == nil {
			p.Addr = a
		} else if i := strings.LastIndexByte(name, '-'); i > 0 && !strings.HasPrefix(name, "node/") {
			p.Group = name[:i]
		}
		return p
	}
	r := Result{From: place(from), To: place(to), Outcome: o, Rule: by, Want: flow.Decision{Verdict: want, Rule: wantBy}, Took: 2 * time.Millisecond}
	r.Tuple = flow.Tuple{Source: r.From.Addr, Destination: r.To.Addr, Protocol: flow.TCP, Port: port}
	if port == 0 {
		r.Tuple.Protocol = flow.ICMP
	}
	r.judge()
	return r
}

func smallReport() *Report {
	none := flow.Rule{}
	return &Report{Topology: "routed", Enforced: true, Pods: 3, OtherPort: 65000, Timings: Timings{Boot: 120 * time.Millisecond, Probe: 1500 * time.Millisecond},
		Skipped: []Skip{{"sctp", 4, "no sockets"}}, Notices: []string{"pod shop/db-1 moved"},
		Results: []Result{
			result("shop/web-1", "shop/db-1", 5432, Answered, none, flow.Allow, allowDB),
			result("shop/web-1", "shop/db-1", 65000, Denied, denyAll, flow.Deny, denyAll),
			result("shop/web-1", "shop/db-1", 0, Denied, denyAll, flow.Deny, denyAll),
			result("shop/web-2", "shop/db-1", 5432, Answered, none, flow.Allow, allowDB),
			result("shop/web-2", "shop/db-1", 65000, Denied, denyAll, flow.Deny, denyAll),
			result("shop/web-2", "shop/db-1", 0, Denied, denyAll, flow.Deny, denyAll),
			result("node/n", "shop/db-1", 5432, Answered, none, flow.Allow, none),
			result("203.0.113.10", "shop/db-1", 5432, Answered, none, flow.Deny, denyAll),
			result("192.0.2.255", "shop/db-1", 5432, Answered, none, flow.Deny, denyAll),
			result("192.0.3.0", "shop/db-1", 5432, Denied, denyAll, flow.Deny, denyAll),
		}}
}

func TestText(t *testing.T) {
	want := `
Who reaches what
                                      1   2
shop/web                              ✓   ✗
node/n                                ✓   ·
outside (203.0.113.10, 192.0.2.255)   !   ·
192.0.3.0                             ✗   ·
   1  shop/db:5432/tcp
   2  shop/db:other,icmp
✓ reached   ✗ denied   ± both, by replica, port or family   ! not what the policies say   · not probed
other: port 65000/tcp, which nobody declares

Denied by
  shop/deny-all ingress (deny.yaml:7): 5 probes
      shop/web -> shop/db:other,icmp, 192.0.3.0 -> shop/db:5432/tcp

note: pod shop/db-1 moved
skipped: 4 probes (sctp): no sockets
Not what the policies say
  203.0.113.10 -> shop/db-1 (203.0.113.10 -> 10.244.0.2:5432/tcp): it got through; the policies say deny, by shop/deny-all ingress (deny.yaml:7)
  192.0.2.255 -> shop/db-1 (192.0.2.255 -> 10.244.0.2:5432/tcp): it got through; the policies say deny, by shop/deny-all ingress (deny.yaml:7)

3 pods (routed), 10 probes in 1.5s, booted in 120ms: 5 reached, 5 denied; 2 did not do what the policies say
`
	if diff := cmp.Diff(want, "\n"+text(t, smallReport())); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}

func TestTextOfManyBoxesIsGroupedOrAList(t *testing.T) {
	r := &Report{Enforced: true}
	for _, from := range []string{"a", "b"} {
		for i := range 30 {
			for j := range 30 {
				o, want := Answered, flow.Allow
				if i == j {
					o, want = Denied, flow.Deny
				}
				r.Results = append(r.Results, result(fmt.Sprintf("%s/p%d-0", from, i), fmt.Sprintf("a/p%d-0", j), 80, o, flow.Rule{}, want, flow.Rule{}))
			}
		}
	}
	if got := text(t, r); !strings.Contains(got, "a/*   ±\nb/*   ±\n   1  a/*:80/tcp\n") {
		t.Errorf("two namespaces are not drawn as such:\n%s", got)
	}
	r.Results = r.Results[:30*30] // one namespace: a matrix of it would say nothing
	if got := text(t, r); !strings.Contains(got, "\n  a/p3:80/tcp  <-  a/p0, a/p1, a/p2, a/p4, a/p5, a/p6, a/p7, a/p8 and 21 more\n") {
		t.Errorf("no list:\n%s", got)
	}
}

func TestColorsAreOnlyThereWhenAskedFor(t *testing.T) {
	var plain, colored bytes.Buffer
	if err := smallReport().Text(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := smallReport().Text(&colored, true); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") || !strings.Contains(colored.String(), "\x1b[32m✓\x1b[0m") {
		t.Errorf("plain %q\ncolored %q", plain.String(), colored.String())
	}
}

// TestJudge: only an answer is an answer, and only a logged denial by the right rule is a denial.
func TestJudge(t *testing.T) {
	other := allowDB
	for _, c := range []struct {
		outcome Outcome
		by      flow.Rule
		want    flow.Verdict
		wantBy  flow.Rule
		says    string // part of the mismatch; "" if it is none
	}{
		{Answered, flow.Rule{}, flow.Allow, allowDB, ""},
		{Denied, denyAll, flow.Deny, denyAll, ""},
		{Answered, flow.Rule{}, flow.Deny, denyAll, "it got through; the policies say deny, by shop/deny-all ingress (deny.yaml:7)"},
		{Denied, denyAll, flow.Allow, flow.Rule{}, "it was denied by shop/deny-all ingress (deny.yaml:7); the policies say allow"},
		{Denied, other, flow.Deny, denyAll, "should have been by shop/deny-all ingress (deny.yaml:7)"},
		{Denied, flow.Rule{}, flow.Deny, denyAll, "denied by no policy's rule"},
		{Lost, flow.Rule{}, flow.Deny, denyAll, "neither an answer nor a logged denial"},
		{Lost, flow.Rule{}, flow.Allow, flow.Rule{}, "neither an answer nor a logged denial"},
		{Refused, flow.Rule{}, flow.Allow, flow.Rule{}, "nobody listened"},
		{Refused, flow.Rule{}, flow.Deny, denyAll, "nobody listened"},
		{Failed, flow.Rule{}, flow.Deny, denyAll, "the probe failed"},
	} {
		got := result("a/b-0", "a/c-0", 80, c.outcome, c.by, c.want, c.wantBy).Mismatch
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s by %s, want %s by %s: %q, want %q", c.outcome, c.by, c.want, c.wantBy, got, c.says)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := smallReport().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		OK         bool
		Mismatches int
		Outcomes   map[string]int
		Results    []struct {
			From, To, Outcome, Want, Mismatch string
			DeniedBy                          struct{ Policy, File string }
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.OK || got.Mismatches != 2 || len(got.Results) != 10 || got.Outcomes["denied"] != 5 {
		t.Errorf("got %+v", got)
	}
	if r := got.Results[1]; r.From != "shop/web-1" || r.DeniedBy.Policy != "shop/deny-all" || r.DeniedBy.File != "deny.yaml" || r.Mismatch != "" {
		t.Errorf("got %+v", r)
	}
}

func TestJUnit(t *testing.T) {
	var b bytes.Buffer
	if err := smallReport().JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Suites []struct {
			Name     string `xml:"name,attr"`
			Tests    int    `xml:"tests,attr"`
			Failures int    `xml:"failures,attr"`
			Skipped  int    `xml:"skipped,attr"`
			Cases    []struct {
				Name    string `xml:"name,attr"`
				Time    string `xml:"time,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	s := got.Suites[0]
	if s.Tests != 7 || s.Failures != 2 || s.Skipped != 1 || len(s.Cases) != 7 {
		t.Errorf("%d tests, %d failures, %d skipped, %d cases", s.Tests, s.Failures, s.Skipped, len(s.Cases))
	}
	if c := s.Cases[0]; c.Name != "shop/web-1 -> shop/db-1" || c.Time != "0.006" || c.Failure != nil {
		t.Errorf("got %+v", c)
	}
	if c := s.Cases[3]; c.Failure == nil || !strings.Contains(c.Failure.Message, "it got through") {
		t.Errorf("got %+v", c)
	}
}
