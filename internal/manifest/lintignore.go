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
	ObjectLine int // of the object that carries it
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
	for line := range strings.Lines(document.TextOf(value)) {
		codes, reason, _ := strings.Cut(line, ":")
		if strings.TrimSpace(line) == "" {
			continue
		}
		i := Ignoring{File: o.File, Line: value.Line, ObjectLine: o.Line, Object: o.Name(), Reason: strings.TrimSpace(reason)}
		for code := range strings.SplitSeq(codes, ",") {
			i.Codes = append(i.Codes, strings.TrimSpace(code))
		}
		b.ignoring = append(b.ignoring, i)
	}
}
