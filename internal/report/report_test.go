package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
	"time"
)

func suites() []Suite {
	return []Suite{{Name: "a_test.yaml", Took: 1500 * time.Millisecond, Cases: []Case{
		{Class: "t", Name: "good #1", File: "a_test.yaml", Line: 3, Took: time.Millisecond},
		{Class: "t", Name: "bad", File: "a_test.yaml", Line: 4, Failure: &Failure{"want \"allow\", got deny\x00", "line 1\n\n  line <2>\n"}},
		{Class: "t", Name: "broken", Error: &Failure{Message: "cannot"}},
		{Name: "left out", Skipped: "no # root"},
	}}}
}

func TestTAP(t *testing.T) {
	var b bytes.Buffer
	if err := TAP(&b, suites()); err != nil {
		t.Fatal(err)
	}
	want := `TAP version 14
1..4
ok 1 - t: good \#1
not ok 2 - t: bad
  ---
  at: "a_test.yaml:4"
  message: "want \"allow\", got deny\x00"
  why: |2
    line 1

      line <2>
  ...
not ok 3 - t: broken
  ---
  message: "cannot"
  ...
ok 4 - left out # SKIP no \# root
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestJUnit(t *testing.T) {
	var b bytes.Buffer
	if err := JUnit(&b, suites()); err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="a_test.yaml" tests="4" failures="1" errors="1" skipped="1" time="1.500">
    <testcase classname="t" name="good #1" file="a_test.yaml" line="3" time="0.001"></testcase>
    <testcase classname="t" name="bad" file="a_test.yaml" line="4" time="0.000">
      <failure message="want &#34;allow&#34;, got deny ">line 1&#xA;&#xA;  line &lt;2&gt;&#xA;</failure>
    </testcase>
    <testcase classname="t" name="broken" time="0.000">
      <error message="cannot"></error>
    </testcase>
    <testcase classname="" name="left out" time="0.000">
      <skipped message="no # root"></skipped>
    </testcase>
  </testsuite>
</testsuites>
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if err := xml.Unmarshal(b.Bytes(), new(junitSuites)); err != nil {
		t.Error(err)
	}
}

var testRules = []Rule{{Code: "X1", Name: "x-one", Short: "An X.", Help: "Help.", Level: Warning}, {Code: "X2", Name: "x-two", Short: "A Y.", Help: "Help.", Level: Error}}

func findings() []Finding {
	return []Finding{
		{Code: "X2", Level: Error, Place: Place{File: "dir a/x,y:z.yaml", Line: 7}, Message: "100% wrong\nhere", Fix: "mend it",
			Related: []Place{{File: "b.yaml", Line: 2, Message: "the other"}, {}}},
		{Code: "X1", Level: Note, Place: Place{File: "/abs/x.yaml"}, Message: "m"},
		{Code: "X1", Level: Warning, Message: "nowhere", Suppressed: true, Reason: "known"},
	}
}

func TestGitHub(t *testing.T) {
	var b bytes.Buffer
	if err := GitHub(&b, findings()); err != nil {
		t.Fatal(err)
	}
	want := "::error file=dir a/x%2Cy%3Az.yaml,line=7,title=X2::100%25 wrong%0Ahere; mend it\n::notice file=/abs/x.yaml,title=X1::m\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// What the SARIF 2.1.0 schema requires of the parts that we write, and what GitHub's code scanning wants beyond.
func TestSARIF(t *testing.T) {
	var b bytes.Buffer
	if err := SARIF(&b, Tool{Name: "ringfence", URL: "https://example.invalid"}, testRules, findings()); err != nil {
		t.Fatal(err)
	}
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID               string
						ShortDescription struct{ Text string }
					}
				}
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           *struct{ StartLine int }
					}
				}
				RelatedLocations    []json.RawMessage
				PartialFingerprints map[string]string
				Suppressions        []struct{ Kind, Justification string }
			}
		}
	}
	d := json.NewDecoder(&b)
	if err := d.Decode(&log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || !strings.HasPrefix(log.Schema, "https://") || len(log.Runs) != 1 || log.Runs[0].Tool.Driver.Name == "" {
		t.Fatalf("got %+v", log)
	}
	run := log.Runs[0]
	for _, r := range run.Results {
		if run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID || r.Message.Text == "" || len(r.PartialFingerprints) != 1 {
			t.Errorf("got %+v", r)
		}
		for _, l := range r.Locations {
			if l.PhysicalLocation.Region != nil && l.PhysicalLocation.Region.StartLine < 1 {
				t.Errorf("lines begin with 1: %+v", r)
			}
		}
	}
	first, second, third := run.Results[0], run.Results[1], run.Results[2]
	if first.Level != "error" || first.Locations[0].PhysicalLocation.ArtifactLocation.URI != "dir%20a/x,y:z.yaml" || len(first.RelatedLocations) != 1 {
		t.Errorf("got %+v", first)
	}
	if second.Level != "note" || second.Locations[0].PhysicalLocation.ArtifactLocation.URI != "file:///abs/x.yaml" || second.Suppressions != nil {
		t.Errorf("got %+v", second)
	}
	if len(third.Suppressions) != 1 || third.Suppressions[0].Kind != "inSource" || third.Suppressions[0].Justification != "known" || third.Locations != nil {
		t.Errorf("got %+v", third)
	}
	if err := SARIF(&b, Tool{}, nil, findings()); err == nil {
		t.Error("a code without a rule was written")
	}
}
