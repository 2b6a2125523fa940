package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read. They are far above what people write, and low enough to stay quick and small.
const (
	MaxFile   = 64 << 20 // bytes of one file
	MaxDepth  = 200      // levels of nesting in one document
	MaxValues = 2 << 20  // values in one document, aliases counted as often as they are used
)

// Chunk is one document's text and the number of lines before it.
type Chunk struct {
	Text   []byte
	Before int
}

// Split cuts a file where a line starts a new document, so that one that cannot be parsed does not take the others
// with it. Directives and comments stay with the document that follows them.
func Split(data []byte) []Chunk {
	var chunks []Chunk
	start, startLine, line := 0, 0, 0
	hasContent := false
	for pos := 0; pos < len(data); line++ {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		text := data[pos:end]
		marker := isDocumentStart(text)
		if marker && hasContent {
			chunks = append(chunks, Chunk{data[start:pos], startLine})
			start, startLine = pos, line
		}
		body := bytes.TrimSpace(text)
		hasContent = hasContent || marker || len(body) > 0 && body[0] != '#' && text[0] != '%'
		pos = end
	}
	return append(chunks, Chunk{data[start:], startLine})
}

func isDocumentStart(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// ParseYAML returns the documents in c, with line numbers of the whole file; empty documents are left out.
func ParseYAML(c Chunk) ([]*yaml.Node, error) {
	var roots []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(c.Text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return roots, syntaxError(err, c.Before)
		}
		if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
			shiftLines(&doc, c.Before)
			roots = append(roots, doc.Content[0])
		}
	}
}

func shiftLines(n *yaml.Node, by int) {
	n.Line += by
	for _, c := range n.Content {
		shiftLines(c, by)
	}
}

// Placed is an error with its line.
type Placed struct {
	Line int
	Text string
}

// Error implements error.
func (p Placed) Error() string { return fmt.Sprintf("line %d: %s", p.Line, p.Text) }

var yamlPlace = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

func syntaxError(err error, before int) Placed {
	text := err.Error()
	m := yamlPlace.FindStringSubmatch(text)
	line, _ := strconv.Atoi(m[1]) // no number is line 0: then the document's first line is as near as we know
	return Placed{max(line, 1) + before, "not valid YAML: " + text[len(m[0]):]}
}

// measure walks a document as it will be read, aliases followed, and refuses what is too deep, too large or endless.
type measure struct {
	sizes map[*yaml.Node]int
	open  map[*yaml.Node]bool
}

// CheckBounds refuses documents that are too deep, too large or endless, with a Placed.
func CheckBounds(root *yaml.Node) error {
	m := measure{map[*yaml.Node]int{}, map[*yaml.Node]bool{}}
	_, err := m.size(root, 0)
	return err
}

func (m measure) size(n *yaml.Node, depth int) (int, error) {
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil || m.open[n.Alias] {
			return 0, Placed{n.Line, "the alias *" + n.Value + " contains itself"}
		}
		n = n.Alias
	}
	if depth > MaxDepth {
		return 0, Placed{n.Line, fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	if size, ok := m.sizes[n]; ok {
		return size, nil
	}
	if n.Anchor != "" {
		m.open[n] = true
	}
	total := 1
	for _, c := range n.Content {
		size, err := m.size(c, depth+1)
		if err != nil {
			return 0, err
		}
		if total += size; total > MaxValues {
			return 0, Placed{n.Line, fmt.Sprintf("holds more than %d values, aliases counted as often as they are used", MaxValues)}
		}
	}
	if n.Anchor != "" {
		delete(m.open, n)
		m.sizes[n] = total
	}
	return total, nil
}
