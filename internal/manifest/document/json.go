package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// ParseJSON reads a stream of JSON values into the nodes that the YAML parser would make, because YAML's own reading
// of JSON fails on surrogate pairs and knows one value a file only.
func ParseJSON(data []byte) ([]*yaml.Node, error) {
	p := &jsonParser{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	p.dec.UseNumber()
	var roots []*yaml.Node
	for {
		n, err := p.value(0)
		if errors.Is(err, io.EOF) && len(roots) > 0 {
			return roots, nil
		}
		if err != nil {
			return roots, Placed{p.line, "not valid JSON: " + err.Error()}
		}
		roots = append(roots, n)
	}
}

type jsonParser struct {
	dec       *json.Decoder
	data      []byte
	pos, line int
}

// token returns the next token and moves line to where it ends, which is where it starts: no token has a line break.
func (p *jsonParser) token() (json.Token, error) {
	t, err := p.dec.Token()
	end := int(p.dec.InputOffset())
	p.line += bytes.Count(p.data[p.pos:end], []byte("\n"))
	p.pos = end
	return t, err
}

func (p *jsonParser) value(depth int) (*yaml.Node, error) {
	t, err := p.token()
	if err != nil {
		return nil, err
	}
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", MaxDepth)
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: p.line}
	switch v := t.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if v == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		return n, p.fill(n, depth)
	case string:
		n.Tag, n.Value, n.Style = "!!str", v, yaml.DoubleQuotedStyle
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(v)
	case json.Number:
		n.Value = v.String()
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}

func (p *jsonParser) fill(n *yaml.Node, depth int) error {
	for p.dec.More() {
		c, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		n.Content = append(n.Content, c)
	}
	_, err := p.token()
	return err
}
