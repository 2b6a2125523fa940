package manifest

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
	maxDepth  = 200      // levels of nesting in one document
	maxValues = 2 << 20  // values in one document, aliases counted as often as they are used
)

// chunk is one document's text and the number of lines before it.
type chunk struct {
	text   []byte
	before int
}

// split cuts a file where a line starts a new document, so that one that cannot be parsed does not take the others
// with it. Directives and comments stay with the document that follows them.
func split(data []byte) []chunk {
	var chunks []chunk
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
			chunks = append(chunks, chunk{data[start:pos], startLine})
			start, startLine = pos, line
		}
		body := bytes.TrimSpace(text)
		hasContent = hasContent || marker || len(body) > 0 && body[0] != '#' && text[0] != '%'
		pos = end
	}
	return append(chunks, chunk{data[start:], startLine})
}

func isDocumentStart(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// parseYAML returns the documents in c, with line numbers of the whole file; empty documents are left out.
func parseYAML(c chunk) ([]*yaml.Node, error) {
	var roots []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(c.text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return roots, syntaxError(err, c.before)
		}
		if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
			shiftLines(&doc, c.before)
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

// placed is an error with its line.
type placed struct {
	line int
	text string
}

func (p placed) Error() string { return fmt.Sprintf("line %d: %s", p.line, p.text) }

var yamlPlace = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

func syntaxError(err error, before int) placed {
	text := err.Error()
	m := yamlPlace.FindStringSubmatch(text)
	line, _ := strconv.Atoi(m[1]) // no number is line 0: then the document's first line is as near as we know
	return placed{max(line, 1) + before, "not valid YAML: " + text[len(m[0]):]}
}

// measure walks a document as it will be read, aliases followed, and refuses what is too deep, too large or endless.
type measure struct {
	sizes map[*yaml.Node]int
	open  map[*yaml.Node]bool
}

func checkBounds(root *yaml.Node) error {
	m := measure{map[*yaml.Node]int{}, map[*yaml.Node]bool{}}
	_, err := m.size(root, 0)
	return err
}

func (m measure) size(n *yaml.Node, depth int) (int, error) {
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil || m.open[n.Alias] {
			return 0, placed{n.Line, "the alias *" + n.Value + " contains itself"}
		}
		n = n.Alias
	}
	if depth > maxDepth {
		return 0, placed{n.Line, fmt.Sprintf("nested deeper than %d levels", maxDepth)}
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
		if total += size; total > maxValues {
			return 0, placed{n.Line, fmt.Sprintf("holds more than %d values, aliases counted as often as they are used", maxValues)}
		}
	}
	if n.Anchor != "" {
		delete(m.open, n)
		m.sizes[n] = total
	}
	return total, nil
}
