package flowlog_test

import (
	"encoding/json"
	"testing"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// A pod can send packets of any protocol; one that could not be read back would hide all others.
func TestEveryProtocolIsReadBack(t *testing.T) {
	for p := range 256 {
		in := flowlog.Record{Protocol: flow.Protocol(p)}
		var out flowlog.Record
		readBack(t, in, &out)
		var total flowlog.PairTotal
		readBack(t, flowlog.PairTotal{Pair: flowlog.Pair{Protocol: flow.Protocol(p)}}, &total)
		if out.Protocol != in.Protocol || total.Protocol != in.Protocol {
			t.Errorf("protocol %d is read back as %d and %d", p, out.Protocol, total.Protocol)
		}
	}
}

func TestOutcomeIsReadBack(t *testing.T) {
	for how := range flow.Reset + 1 {
		var out flowlog.Record
		readBack(t, flowlog.Record{Protocol: flow.TCP, End: &flowlog.Ending{Outcome: how}}, &out)
		if out.End.Outcome != how {
			t.Errorf("%s is read back as %s", how, out.End.Outcome)
		}
	}
}

func readBack(t *testing.T, in, out any) {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}
