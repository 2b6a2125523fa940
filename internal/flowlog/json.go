package flowlog

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// The JSON form, which programs may rely on: names in words, nothing that is empty.

type endJSON struct {
	Address   netip.Addr        `json:"address"`
	Namespace string            `json:"namespace,omitempty"`
	Pod       string            `json:"pod,omitempty"`
	Kind      string            `json:"kind,omitempty"`
	Workload  string            `json:"workload,omitempty"`
	Node      string            `json:"node,omitempty"`
	Host      string            `json:"host,omitempty"`
	Unknown   bool              `json:"unknown,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

type askedJSON struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port,omitempty"`
	Service string     `json:"service,omitempty"`
}

type ruleJSON struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Policy    string `json:"policy"`
	Direction string `json:"direction"`
	Index     *int   `json:"index,omitempty"` // absent for a NetworkPolicy's "and nothing else"
	Name      string `json:"name,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
}

type endingJSON struct {
	Time            time.Time `json:"time"`
	Seconds         float64   `json:"seconds"`
	BytesSent       uint64    `json:"bytesSent"`
	BytesReceived   uint64    `json:"bytesReceived"`
	PacketsSent     uint64    `json:"packetsSent"`
	PacketsReceived uint64    `json:"packetsReceived"`
	Outcome         string    `json:"outcome,omitempty"`
	Unseen          bool      `json:"unseen,omitempty"`
}

type besideJSON struct {
	Rollout   string    `json:"rollout"`
	Candidate bool      `json:"candidate,omitempty"` // whose verdict it is; else that of the policies before
	Verdict   string    `json:"verdict"`
	By        string    `json:"by"` // the rule in words
	Rule      *ruleJSON `json:"rule,omitempty"`
}

type recordJSON struct {
	ID          uint64      `json:"id"`
	Node        string      `json:"node,omitempty"`
	Time        time.Time   `json:"time"`
	Source      endJSON     `json:"source"`
	Destination endJSON     `json:"destination"`
	Protocol    string      `json:"protocol"`
	Port        uint16      `json:"port,omitempty"`
	Asked       *askedJSON  `json:"asked,omitempty"`
	Verdict     string      `json:"verdict"`
	Direction   string      `json:"direction,omitempty"`
	By          string      `json:"by"` // the rule in words
	Rule        *ruleJSON   `json:"rule,omitempty"`
	Beside      *besideJSON `json:"beside,omitempty"`
	Title       string      `json:"title,omitempty"`
	Reason      string      `json:"reason,omitempty"`
	Earlier     bool        `json:"earlier,omitempty"`
	Answered    bool        `json:"answered,omitempty"`
	End         *endingJSON `json:"end,omitempty"`
	Packets     int         `json:"packets,omitempty"`
	Last        time.Time   `json:"last,omitzero"`
}

// MarshalJSON writes the form that UnmarshalJSON reads.
func (r Record) MarshalJSON() ([]byte, error) {
	out := recordJSON{ID: r.ID, Node: r.Node, Time: r.Time, Source: newEndJSON(r.Source), Destination: newEndJSON(r.Destination),
		Protocol: r.Protocol.String(), Port: r.Port, Asked: (*askedJSON)(r.Asked), Verdict: r.Verdict.String(), By: r.By(),
		Rule: newRuleJSON(r.Rule), Title: r.Title, Reason: r.Reason, Earlier: r.Earlier, Answered: r.Answered, Packets: r.Packets, Last: r.Last}
	if r.Direction != 0 {
		out.Direction = r.Direction.String()
	}
	if b := r.Beside; b != nil {
		out.Beside = &besideJSON{b.Rollout, b.Candidate, b.Verdict.String(), b.Rule.String(), newRuleJSON(b.Rule)}
	}
	if e := r.End; e != nil {
		out.End = &endingJSON{Time: e.Time, Seconds: e.Duration.Seconds(), BytesSent: e.BytesSent, BytesReceived: e.BytesReceived,
			PacketsSent: e.PacketsSent, PacketsReceived: e.PacketsReceived, Unseen: e.Unseen}
		if e.Outcome != 0 {
			out.End.Outcome = e.Outcome.String()
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Record) UnmarshalJSON(data []byte) error {
	var in recordJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	out := Record{ID: in.ID, Node: in.Node, Time: in.Time, Port: in.Port, Asked: (*Asked)(in.Asked), Title: in.Title, Reason: in.Reason, Earlier: in.Earlier,
		Answered: in.Answered, Packets: in.Packets, Last: in.Last, RuleKnown: in.By != unknownRule}
	var err error
	if out.Source, err = in.Source.end(); err != nil {
		return fmt.Errorf("record %d: source: %w", in.ID, err)
	}
	if out.Destination, err = in.Destination.end(); err != nil {
		return fmt.Errorf("record %d: destination: %w", in.ID, err)
	}
	if out.Protocol, err = readProtocol(in.Protocol); err != nil {
		return fmt.Errorf("record %d: %w", in.ID, err)
	}
	if out.Verdict, err = parseVerdict(in.Verdict); err != nil {
		return fmt.Errorf("record %d: %w", in.ID, err)
	}
	out.Direction = parseDirection(in.Direction)
	if in.Rule != nil {
		out.Rule = in.Rule.rule()
	}
	if b := in.Beside; b != nil {
		out.Beside = &Beside{Rollout: b.Rollout, Candidate: b.Candidate}
		if out.Beside.Verdict, err = parseVerdict(b.Verdict); err != nil {
			return fmt.Errorf("record %d: beside: %w", in.ID, err)
		}
		if b.Rule != nil {
			out.Beside.Rule = b.Rule.rule()
		}
	}
	if e := in.End; e != nil {
		out.End = &Ending{Time: e.Time, Duration: time.Duration(math.Round(e.Seconds * float64(time.Second))), BytesSent: e.BytesSent,
			BytesReceived: e.BytesReceived, PacketsSent: e.PacketsSent, PacketsReceived: e.PacketsReceived,
			Outcome: flow.ParseOutcome(e.Outcome), Unseen: e.Unseen}
	}
	*r = out
	return nil
}

func newEndJSON(e End) endJSON {
	out := endJSON{Address: e.Address, Namespace: e.Namespace, Pod: e.Pod, Kind: e.Kind, Workload: e.Workload, Node: e.Node, Host: e.Host, Unknown: e.Unknown}
	if m := e.Labels.Map(); len(m) > 0 {
		out.Labels = m
	}
	return out
}

func (e endJSON) end() (End, error) {
	labels, err := label.NewSet(e.Labels)
	return End{Address: e.Address, Namespace: e.Namespace, Pod: e.Pod, Kind: e.Kind, Workload: e.Workload, Node: e.Node,
		Host: e.Host, Unknown: e.Unknown, Labels: labels}, err
}

func newRuleJSON(r flow.Rule) *ruleJSON {
	if r.IsZero() {
		return nil
	}
	out := &ruleJSON{Kind: r.Kind, Namespace: r.Namespace, Policy: r.Name, Direction: r.Direction.String(), Name: r.Label, File: r.File, Line: r.Line}
	if r.Index != flow.Isolation {
		out.Index = &r.Index
	}
	return out
}

func (r *ruleJSON) rule() flow.Rule {
	out := flow.Rule{Kind: r.Kind, Namespace: r.Namespace, Name: r.Policy, Direction: parseDirection(r.Direction),
		Index: flow.Isolation, Label: r.Name, File: r.File, Line: r.Line}
	if r.Index != nil {
		out.Index = *r.Index
	}
	return out
}

func parseDirection(s string) flow.Direction {
	for _, d := range flow.Directions {
		if d.String() == s {
			return d
		}
	}
	return 0
}

type pairJSON struct {
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Protocol    string    `json:"protocol"`
	Port        uint16    `json:"port,omitempty"`
	Verdict     string    `json:"verdict"`
	By          string    `json:"by"`
	Rule        *ruleJSON `json:"rule,omitempty"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Flows       uint64    `json:"flows"`
	Packets     uint64    `json:"packets,omitempty"`
	Bytes       uint64    `json:"bytes,omitempty"`
	Onward      bool      `json:"onward,omitempty"`
}

// MarshalJSON writes the form that UnmarshalJSON reads.
func (t PairTotal) MarshalJSON() ([]byte, error) {
	return json.Marshal(pairJSON{t.Source, t.Destination, t.Protocol.String(), t.Port, t.Verdict.String(), t.By(), newRuleJSON(t.Rule),
		t.First, t.Last, t.Flows, t.Packets, t.Bytes, t.Onward})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *PairTotal) UnmarshalJSON(data []byte) error {
	var in pairJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	protocol, err := readProtocol(in.Protocol)
	if err != nil {
		return err
	}
	verdict, err := parseVerdict(in.Verdict)
	if err != nil {
		return err
	}
	pair := Pair{Source: in.Source, Destination: in.Destination, Protocol: protocol, Port: in.Port, Verdict: verdict,
		RuleKnown: in.By != unknownRule, Onward: in.Onward}
	if in.Rule != nil {
		pair.Rule = in.Rule.rule()
	}
	*t = PairTotal{pair, in.First, in.Last, in.Flows, in.Packets, in.Bytes}
	return nil
}

type dropJSON struct {
	Rules   []*ruleJSON `json:"rules"`
	First   time.Time   `json:"first"`
	Last    time.Time   `json:"last"`
	Packets uint64      `json:"packets"`
}

// MarshalJSON writes the form that UnmarshalJSON reads.
func (t DropTotal) MarshalJSON() ([]byte, error) {
	out := dropJSON{Rules: []*ruleJSON{}, First: t.First, Last: t.Last, Packets: t.Packets}
	for _, r := range t.Rules {
		out.Rules = append(out.Rules, newRuleJSON(r))
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *DropTotal) UnmarshalJSON(data []byte) error {
	var in dropJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*t = DropTotal{First: in.First, Last: in.Last, Packets: in.Packets}
	for _, r := range in.Rules {
		if r != nil {
			t.Rules = append(t.Rules, r.rule())
		}
	}
	return nil
}

// readProtocol reads any protocol that a packet may say it has: unlike people, packets may say 0.
func readProtocol(s string) (flow.Protocol, error) {
	if s == "0" {
		return 0, nil
	}
	return flow.ParseProtocol(s)
}
