package flowlog_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// TestDifferencesAreSeenAndFound: what a rollout says otherwise is in the record of a connection and of a denial, survives
// the socket, and is found by the side that the candidate is on.
func TestDifferencesAreSeenAndFound(t *testing.T) {
	world := newState(t, pod("shop", "web", cluster.Owner{}, clientAddr, nil), pod("shop", "db", cluster.Owner{}, serverAddr, nil))
	rule := flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "db (candidate)", Direction: flow.Ingress, Index: 0, File: "r.yaml", Line: 7}
	for what, c := range map[string]struct {
		fared  flow.Verdict
		beside *flowlog.Beside
		denies bool
		text   string
	}{
		"would deny":  {flow.Allow, &flowlog.Beside{Rollout: "r", Candidate: true, Verdict: flow.Deny, Rule: rule}, true, "rollout r would deny it by shop/db (candidate) ingress[0] (r.yaml:7)"},
		"denied":      {flow.Deny, &flowlog.Beside{Rollout: "r", Verdict: flow.Allow}, true, "before rollout r it was allowed by no policy"},
		"would allow": {flow.Deny, &flowlog.Beside{Rollout: "r", Candidate: true, Verdict: flow.Allow, Rule: rule}, false, "rollout r would allow it by shop/db (candidate) ingress[0] (r.yaml:7)"},
		"allowed":     {flow.Allow, &flowlog.Beside{Rollout: "r", Verdict: flow.Deny, Rule: rule}, false, "before rollout r it was denied by shop/db (candidate) ingress[0] (r.yaml:7)"},
	} {
		asked := 0
		log := flowlog.New(flowlog.Names{Resolve: world.Resolve,
			Beside: func(_ flow.Tuple, fared flow.Verdict, _ bool, _ time.Time) *flowlog.Beside {
				if asked++; fared != c.fared {
					t.Errorf("%s: asked about what fared %s", what, fared)
				}
				return c.beside
			}}, flowlog.Limits{})
		tuple := flow.Tuple{Source: clientAddr, Destination: serverAddr, Protocol: flow.TCP, Port: 5432}
		if c.fared == flow.Allow {
			log.Opened(flowlog.Connection{Key: flowlog.Key{ID: 1}, Tuple: tuple}, t0)
			log.Forgotten(flowlog.Connection{Key: flowlog.Key{ID: 1}, Tuple: tuple}, t0)
		} else {
			log.Denied(flowlog.Denial{Time: t0, Tuple: tuple})
			log.Denied(flowlog.Denial{Time: t0, Tuple: tuple})
		}
		all := log.Records(flowlog.Query{})
		if len(all) != 1 || asked != 1 || !reflect.DeepEqual(all[0].Beside, c.beside) || all[0].Beside.String() != c.text {
			t.Fatalf("%s: asked %d times, %d records, %v", what, asked, len(all), all[0].Beside)
		}
		var back flowlog.Record
		readBack(t, *all[0], &back)
		if !reflect.DeepEqual(back.Beside, c.beside) {
			t.Errorf("%s: read back as %+v", what, back.Beside)
		}
		for _, f := range []struct {
			o    flowlog.Options
			want bool
		}{{flowlog.Options{WouldDeny: true}, c.denies}, {flowlog.Options{WouldAllow: true}, !c.denies},
			{flowlog.Options{WouldDeny: true, WouldAllow: true}, true}, {flowlog.Options{Rollout: "r"}, true}, {flowlog.Options{Rollout: "q"}, false}} {
			q, err := f.o.Query()
			if err != nil || q.Filter.Matches(all[0]) != f.want || f.o.Rollout == "" && q.Filter.Matches(&flowlog.Record{}) {
				t.Errorf("%s: %+v is wrong, %v", what, f.o, err)
			}
		}
	}
}

// A denial that goes on is judged anew once what judges it has changed.
func TestDenialsAreJudgedAnewAfterPart(t *testing.T) {
	world := newState(t, pod("shop", "web", cluster.Owner{}, clientAddr, nil), pod("shop", "db", cluster.Owner{}, serverAddr, nil))
	var now *flowlog.Beside
	log := flowlog.New(flowlog.Names{Resolve: world.Resolve,
		Beside: func(flow.Tuple, flow.Verdict, bool, time.Time) *flowlog.Beside { return now }}, flowlog.Limits{})
	denial := flowlog.Denial{Time: t0, Tuple: flow.Tuple{Source: clientAddr, Destination: serverAddr, Protocol: flow.TCP, Port: 5432}}
	log.Denied(denial)
	log.Denied(denial)
	now = &flowlog.Beside{Rollout: "r", Candidate: true, Verdict: flow.Allow}
	log.Part(t0)
	log.Denied(denial)
	all := log.Records(flowlog.Query{})
	if len(all) != 2 || all[0].Packets != 2 || all[0].Beside != nil || all[1].Beside == nil {
		t.Errorf("recorded %+v", all)
	}
}

func TestCandidateIsFoundByItsPolicy(t *testing.T) {
	r := &flowlog.Record{Rule: flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "db (candidate)"}}
	for policy, want := range map[string]bool{"shop/db": true, "db": true, "shop/d": false} {
		if q, err := (flowlog.Options{Policy: policy}).Query(); err != nil || q.Filter.Matches(r) != want {
			t.Errorf("%s: want %v, %v", policy, want, err)
		}
	}
}

// TestWhatWasOverIsNoEvidence: the kernel remembers connections for minutes after their end. Those that were over when
// somebody began to look are recorded as they are forgotten, and no rollout is judged by them.
func TestWhatWasOverIsNoEvidence(t *testing.T) {
	world := newState(t, pod("shop", "web", cluster.Owner{}, clientAddr, nil), pod("shop", "db", cluster.Owner{}, serverAddr, nil))
	tuple := flow.Tuple{Source: clientAddr, Destination: serverAddr, Protocol: flow.TCP, Port: 5432}
	asked := 0
	log := flowlog.New(flowlog.Names{Resolve: world.Resolve,
		Beside: func(flow.Tuple, flow.Verdict, bool, time.Time) *flowlog.Beside { asked++; return nil }}, flowlog.Limits{})
	over := flowlog.Connection{Key: flowlog.Key{ID: 1}, Tuple: tuple, Over: true}
	missed := flowlog.Connection{Key: flowlog.Key{ID: 2}, Tuple: tuple, Over: true}
	log.Reconcile([]flowlog.Connection{over}, t0)
	log.Reconcile([]flowlog.Connection{over, missed}, t0.Add(20*time.Second))
	log.Forgotten(over, t0.Add(time.Minute))
	if all := log.Records(flowlog.Query{}); len(all) != 1 || !all[0].Earlier || asked != 0 {
		t.Errorf("of one from before: %d records, a rollout was asked %d times", len(all), asked)
	}
	log.Forgotten(missed, t0.Add(time.Minute))
	if all := log.Records(flowlog.Query{}); len(all) != 2 || all[1].Earlier || asked != 1 {
		t.Errorf("of one that was missed as it came: %d records, a rollout was asked %d times", len(all), asked)
	}
}
