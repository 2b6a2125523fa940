package ruleset

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Parse reads the text that String makes. Spaces and the order of lines do not matter, except that a line that
// belongs to a subject or a row follows it. The result has passed Check.
func Parse(text string) (*Ruleset, error) {
	p := parser{Ruleset: New()}
	number := 0
	for line := range strings.Lines(text) {
		number++
		words, err := split(line)
		if err == nil && len(words) > 0 {
			err = p.line(words)
		}
		if err != nil {
			return nil, fmt.Errorf("ruleset: line %d: %w", number, err)
		}
	}
	if err := p.finishRow(); err != nil {
		return nil, fmt.Errorf("ruleset: %w", err)
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("ruleset: %w", err)
	}
	return p.Ruleset, nil
}

// A parser remembers the subject or the row that the next lines may belong to.
type parser struct {
	*Ruleset
	seen    bool // the "ruleset" line
	subject Subject
	rowID   RowID // 0: not in a row
	ports   []portCell
}

// portCell is one line of a row. It can be put in place only when the row's "else" is known.
type portCell struct {
	protocol    flow.Protocol
	first, last uint16
	cell        Cell
}

func (p *parser) line(w []string) error {
	switch w[0] {
	case "default", "from", "to":
		return p.exception(w)
	case "tcp", "udp", "sctp", "else":
		return p.cell(w)
	}
	p.subject = Subject{}
	if err := p.finishRow(); err != nil {
		return err
	}
	switch w[0] {
	case "ruleset":
		return p.header(w)
	case "local":
		return p.local(w)
	case "address":
		return p.address(w)
	case "subject":
		return p.startSubject(w)
	case "row":
		return p.startRow(w)
	case "rule":
		return p.rule(w)
	}
	return fmt.Errorf("unknown word %q: want ruleset, local, address, subject, row or rule", w[0])
}

func (p *parser) header(w []string) error {
	if len(w) != 2 || p.seen {
		return fmt.Errorf("want one line \"ruleset GENERATION\"")
	}
	g, err := strconv.ParseUint(w[1], 10, 64)
	if err != nil {
		return fmt.Errorf("generation %q is no number", w[1])
	}
	p.Generation, p.seen = g, true
	return nil
}

func (p *parser) local(w []string) error {
	if len(w)%2 != 0 {
		return fmt.Errorf("want \"local ADDRESS [on INTERFACE] [port PORT]\"")
	}
	a, err := netip.ParseAddr(w[1])
	if err != nil {
		return fmt.Errorf("local address %q is no address", w[1])
	}
	var at Attachment
	for i := 2; i < len(w); i += 2 {
		switch w[i] {
		case "on":
			at.Interface = w[i+1]
		case "port":
			at.Port = w[i+1]
		default:
			return fmt.Errorf("unknown word %q: want on or port", w[i])
		}
	}
	return put(p.Locals, a, at, "local address")
}

func (p *parser) address(w []string) error {
	if len(w) != 3 {
		return fmt.Errorf("want \"address PREFIX IDENTITY\"")
	}
	prefix, err := netip.ParsePrefix(w[1])
	if err != nil {
		return fmt.Errorf("address %q is no prefix", w[1])
	}
	id, err := number[Identity](w[2], "identity")
	if err != nil {
		return err
	}
	return put(p.Addresses, prefix, id, "address")
}

func (p *parser) startSubject(w []string) error {
	if len(w) != 3 {
		return fmt.Errorf("want \"subject DIRECTION IDENTITY\"")
	}
	d, err := parseDirection(w[1])
	if err != nil {
		return err
	}
	id, err := number[Identity](w[2], "identity")
	p.subject = Subject{d, id}
	return err
}

func (p *parser) exception(w []string) error {
	s := p.subject
	isDefault := w[0] == "default"
	if s.Direction == 0 || !isDefault && w[0] != preposition(s.Direction) {
		return fmt.Errorf("%q belongs below a subject: \"from\" for ingress, \"to\" for egress", w[0])
	}
	if isDefault {
		if len(w) != 3 || w[1] != "row" {
			return fmt.Errorf("want \"default row ROW\"")
		}
		row, err := number[RowID](w[2], "row")
		if err != nil {
			return err
		}
		return put(p.Defaults, s, row, "default of subject")
	}
	if len(w) != 4 || w[2] != "row" {
		return fmt.Errorf("want \"%s IDENTITY row ROW\"", w[0])
	}
	peer, err := number[Identity](w[1], "identity")
	if err != nil {
		return err
	}
	row, err := number[RowID](w[3], "row")
	if err != nil {
		return err
	}
	return put(p.Pairs, Pair{s, peer}, row, "pair")
}

func (p *parser) startRow(w []string) error {
	if len(w) != 2 {
		return fmt.Errorf("want \"row NUMBER\"")
	}
	id, err := number[RowID](w[1], "row")
	if err == nil && id == 0 {
		err = fmt.Errorf("row 0 is no row")
	}
	p.rowID, p.ports = id, nil
	return err
}

func (p *parser) cell(w []string) error {
	if p.rowID == 0 {
		return fmt.Errorf("%q belongs below a row, and \"else\" ends the row", w[0])
	}
	if w[0] == "else" {
		c, err := parseCell(w[1:])
		if err != nil {
			return err
		}
		row := Uniform(c)
		for _, pc := range p.ports {
			row = row.With(pc.protocol, pc.first, pc.last, pc.cell)
		}
		id := p.rowID
		p.rowID = 0
		return put(p.Rows, id, row, "row")
	}
	if len(w) < 3 {
		return fmt.Errorf("want \"%s PORT[-PORT] VERDICT [RULE]\"", w[0])
	}
	protocol, err := flow.ParseProtocol(w[0])
	if err != nil {
		return err
	}
	c, err := parseCell(w[2:])
	if err != nil {
		return err
	}
	first, last, err := parsePorts(w[1])
	p.ports = append(p.ports, portCell{protocol, first, last, c})
	return err
}

func (p *parser) finishRow() error {
	if p.rowID != 0 {
		return fmt.Errorf("row %d has no \"else\"", p.rowID)
	}
	return nil
}

func (p *parser) rule(w []string) error {
	if len(w)%2 != 0 {
		return fmt.Errorf("want \"rule NUMBER [KEY VALUE]...\"")
	}
	id, err := number[RuleID](w[1], "rule")
	if err != nil {
		return err
	}
	var r flow.Rule
	for i := 2; i < len(w); i += 2 {
		if err := setRule(&r, w[i], w[i+1]); err != nil {
			return err
		}
	}
	return put(p.Rules, id, r, "rule")
}

func setRule(r *flow.Rule, key, value string) (err error) {
	switch key {
	case "kind":
		r.Kind = value
	case "namespace":
		r.Namespace = value
	case "name":
		r.Name = value
	case "direction":
		r.Direction, err = parseDirection(value)
	case "index":
		r.Index, err = strconv.Atoi(value)
	case "label":
		r.Label = value
	case "file":
		r.File = value
	case "line":
		r.Line, err = strconv.Atoi(value)
	default:
		return fmt.Errorf("unknown key %q of a rule", key)
	}
	return err
}

func parseDirection(s string) (flow.Direction, error) {
	for _, d := range flow.Directions {
		if s == d.String() {
			return d, nil
		}
	}
	return 0, fmt.Errorf("unknown direction %q: want egress or ingress", s)
}

func parseCell(w []string) (Cell, error) {
	if len(w) != 1 && len(w) != 2 {
		return Cell{}, fmt.Errorf("want \"VERDICT [RULE]\"")
	}
	var c Cell
	switch w[0] {
	case "allow":
		c.Verdict = flow.Allow
	case "deny":
	default:
		return Cell{}, fmt.Errorf("unknown verdict %q: want allow or deny", w[0])
	}
	if len(w) == 1 {
		return c, nil
	}
	var err error
	c.Rule, err = number[RuleID](w[1], "rule")
	return c, err
}

func parsePorts(s string) (first, last uint16, err error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	f, err1 := strconv.ParseUint(low, 10, 16)
	l, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || f > l {
		return 0, 0, fmt.Errorf("ports %q: want PORT or FIRST-LAST", s)
	}
	return uint16(f), uint16(l), nil
}

func number[N ~uint32](s, what string) (N, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s %q is no number", what, s)
	}
	return N(n), nil
}

func put[K comparable, V any](m map[K]V, k K, v V, what string) error {
	if _, twice := m[k]; twice {
		return fmt.Errorf("%s %v is there twice", what, k)
	}
	m[k] = v
	return nil
}

// split returns the words of a line; some may be quoted as Go strings are, and "#" starts a comment.
func split(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			return words, nil
		}
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("a quoted word does not end")
			}
			w, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, fmt.Errorf("word %s: %w", quoted, err)
			}
			words, line = append(words, w), line[len(quoted):]
			continue
		}
		end := strings.IndexAny(line, " \t\r\n#\"")
		if end < 0 {
			end = len(line)
		}
		words, line = append(words, line[:end]), line[end:]
	}
}
