package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// object is one Kubernetes object while it is read: where it stands, where its fields stand, and what is wrong with it.
type object struct {
	file       string
	line       int
	apiVersion string
	kind       string
	key        cluster.Key // without a namespace for kinds that have none
	strict     bool        // unknown fields are problems
	// lines holds the place of every field that was read: "spec.ingress[0]" → 12. It is nil for an object that came
	// from the API, which has no places, and whose required fields the server has checked.
	lines    map[string]int
	types    fieldTables
	problems []Problem
	notices  []Notice
}

// name is "NetworkPolicy shop/web", "Node n1", or the kind if the object has no name.
func (o *object) name() string {
	switch {
	case o.key.Name == "":
		return o.kind
	case o.key.Namespace == "":
		return o.kind + " " + o.key.Name
	}
	return o.kind + " " + o.key.String()
}

// problem notes what is wrong at a field. The place is the field's, or its nearest parent's that has one.
func (o *object) problem(path, fix, format string, args ...any) {
	o.problemAt(o.lineOf(path), path, fix, format, args...)
}

func (o *object) problemAt(line int, path, fix, format string, args ...any) {
	o.problems = append(o.problems, Problem{File: o.file, Line: line, Object: o.name(), Field: path,
		Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (o *object) notice(path, format string, args ...any) {
	o.notices = append(o.notices, Notice{o.file, o.lineOf(path), o.name(), fmt.Sprintf(format, args...)})
}

func (o *object) lineOf(path string) int {
	for path != "" {
		if line, ok := o.lines[path]; ok {
			return line
		}
		path = parent(path)
	}
	return o.line
}

// missing reports whether a field was not written. It is false for objects of the API.
func (o *object) missing(path string) bool {
	_, ok := o.lines[path]
	return o.lines != nil && !ok
}

// written reports whether a field was written, if only as an empty list. It is false for objects of the API.
func (o *object) written(path string) bool { return o.lines != nil && !o.missing(path) }

// broken reports whether there is a problem at path or below it.
func (o *object) broken(path string) bool {
	return slices.ContainsFunc(o.problems, func(p Problem) bool { return within(p.Field, path) })
}

// brokenAt reports whether a direct field of path is unknown: then nothing is certain about what was meant there.
func (o *object) brokenAt(path string) bool {
	return slices.ContainsFunc(o.problems, func(p Problem) bool { return p.Field == path || parent(p.Field) == path })
}

func within(path, root string) bool {
	rest, ok := strings.CutPrefix(path, root)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// parent is the path without its last part: "a.b[0].c" → "a.b[0]" → "a.b" → "a" → "".
func parent(path string) string {
	if strings.HasSuffix(path, `"]`) {
		return path[:max(strings.LastIndex(path, `["`), 0)]
	}
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// join is the path of a field of path. Names that are no plain word, as many label keys, are quoted.
func join(path, name string) string {
	switch {
	case strings.ContainsAny(name, `./[]" `) || name == "":
		return fmt.Sprintf("%s[%q]", path, name)
	case path == "":
		return name
	}
	return path + "." + name
}

func at(path string, index int) string { return fmt.Sprintf("%s[%d]", path, index) }
