package manifest

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/manifest/document"
)

// LintAnnotation is the annotation of any object that says which findings of the linter about it are accepted, and why:
// a line each, like "RF001: the pods come next week" or "RF002, RF007: ...".
const LintAnnotation = "ringfence.dev/lint-ignore"

// Ignoring is one line of a LintAnnotation.
type Ignoring struct {
	File       string
	Line       int // of the annotation
	ObjectLine int // of the object that carries it; 0 if it has no place
	Object     string
	Codes      []string
	Reason     string // may be empty, which is itself worth a finding
}

// noteIgnoring collects what an object's LintAnnotation says.
func (b *Bundle) noteIgnoring(o *object, root *yaml.Node) {
	annotations := document.Get(document.Get(root, "metadata"), "annotations")
	value := document.Get(annotations, LintAnnotation)
	if value == nil || o.Key.Name == "" {
		return
	}
	for _, i := range IgnoringOf(o.Name(), document.TextOf(value)) {
		i.File, i.Line, i.ObjectLine = o.File, value.Line, o.Line
		b.ignoring = append(b.ignoring, i)
	}
}

// IgnoringOf reads what the LintAnnotation of an object says, without places, as of an object of an API.
func IgnoringOf(object, annotation string) []Ignoring {
	var all []Ignoring
	for line := range strings.Lines(annotation) {
		codes, reason, _ := strings.Cut(line, ":")
		if strings.TrimSpace(line) == "" {
			continue
		}
		i := Ignoring{Object: object, Reason: strings.TrimSpace(reason)}
		for code := range strings.SplitSeq(codes, ",") {
			i.Codes = append(i.Codes, strings.TrimSpace(code))
		}
		all = append(all, i)
	}
	return all
}
