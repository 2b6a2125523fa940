package flowlog

import (
	"fmt"
	"strconv"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

const unknownRule = "unknown rule"

// PortText is "389/tcp", or the protocol's name where there are no ports.
func PortText(p flow.Protocol, port uint16) string {
	if !p.HasPorts() {
		return p.String()
	}
	return strconv.Itoa(int(port)) + "/" + p.String()
}

// Message is a denial in one line, for an alert.
func (r *Record) Message() string {
	text := "a pod outside " + r.Rule.Policy() + " tried"
	switch {
	case r.Title != "":
		text = r.Title
	case r.Rule.Name == "":
		text = "a denied pod tried"
	case !r.Source.IsPod():
		text = "a stranger to " + r.Rule.Policy() + " tried"
	case r.Direction == flow.Egress:
		text = "a pod inside " + r.Rule.Policy() + " tried to leave"
	}
	text = fmt.Sprintf("%s: %s -> %s:%s denied by %s", text, &r.Source, &r.Destination, PortText(r.Protocol, r.Port), r.policyText())
	if place := r.Rule.Place(); place != "" {
		text += " (" + place + ")"
	}
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

func (r *Record) policyText() string {
	if !r.RuleKnown || r.Rule.IsZero() {
		return r.By()
	}
	return r.Rule.Policy()
}

// EndText is what is known of a connection's end: "1.2s, 3.4kB sent, 120B received".
func (e *Ending) EndText() string {
	if e.Unseen {
		return "end not seen"
	}
	return fmt.Sprintf("%s, %s sent, %s received", DurationText(e.Duration), BytesText(e.BytesSent), BytesText(e.BytesReceived))
}

// DurationText is a duration of about three digits.
func DurationText(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// BytesText is a number of bytes of about three digits, in powers of 1000.
func BytesText(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + "B"
	}
	f, unit := float64(n), 0
	for f >= 999.5 && unit < len("kMGTPE") {
		f /= 1000
		unit++
	}
	digits := 0
	if f < 9.95 {
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + string("kMGTPE"[unit-1]) + "B"
}
