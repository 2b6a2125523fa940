package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/near"
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
	full     bool // there were more problems than are kept
}

// maxProblems are kept of one object. Beyond, nobody reads them, and looking them up would take its time.
const maxProblems = 50

// name is "NetworkPolicy shop/web", "Node n1", or the kind alone if the object has no name.
func (o *object) name() string {
	kind := cmp.Or(o.kind, "object")
	switch {
	case o.key.Name == "" && o.kind == "":
		return ""
	case o.key.Name == "":
		return kind
	case o.key.Namespace == "":
		return kind + " " + o.key.Name
	}
	return kind + " " + o.key.String()
}

// problem notes what is wrong at a field. The place is the field's, or its nearest parent's that has one.
func (o *object) problem(path, fix, format string, args ...any) {
	o.problemAt(o.lineOf(path), path, fix, format, args...)
}

// problemAt is problem with another line. One problem a field is enough: what follows from it is not said.
func (o *object) problemAt(line int, path, fix, format string, args ...any) {
	if path != "" && slices.ContainsFunc(o.problems, func(p Problem) bool { return p.Field == path }) {
		return
	}
	if o.full = o.full || len(o.problems) == maxProblems; o.full {
		return
	}
	o.problems = append(o.problems, Problem{File: o.file, Line: line, Object: o.name(), Field: path,
		Message: fmt.Sprintf(format, args...), Fix: fix})
}

// effect says what holds until the problems are fixed, and puts them into the order of lines, so that it is read first.
func (o *object) effect(format string, args ...any) {
	if len(o.problems) > 0 {
		slices.SortStableFunc(o.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		o.problems[0].Effect = "until this is fixed, " + fmt.Sprintf(format, args...)
	}
}

func (o *object) notice(path, format string, args ...any) {
	o.notices = append(o.notices, Notice{File: o.file, Line: o.lineOf(path), Object: o.name(), Message: fmt.Sprintf(format, args...)})
}

// noticeOfNothing is for what has no effect.
func (o *object) noticeOfNothing(path, format string, args ...any) {
	o.notice(path, format, args...)
	o.notices[len(o.notices)-1].NoEffect = true
}

// noticeOfRunning is for what only matters where the pod really runs.
func (o *object) noticeOfRunning(path, format string, args ...any) {
	o.notice(path, format, args...)
	o.notices[len(o.notices)-1].Running = true
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

// broken reports whether there is a problem at path or below it. With more problems than are kept, there may be.
func (o *object) broken(path string) bool {
	return o.full || slices.ContainsFunc(o.problems, func(p Problem) bool { return within(p.Field, path) })
}

// brokenAbove reports whether something that holds path could not be read, for instance because it is a list.
func (o *object) brokenAbove(path string) bool {
	return o.full || slices.ContainsFunc(o.problems, func(p Problem) bool {
		return p.Field != "" && p.Field != path && within(path, p.Field)
	})
}

// misnamed reports whether a field of the spec, or of the object itself, is unknown: it may have been meant as any
// other field there.
func (o *object) misnamed() bool {
	return o.full || slices.ContainsFunc(o.problems, func(p Problem) bool {
		return p.Message == unknownFieldMessage && (parent(p.Field) == "spec" || parent(p.Field) == "")
	})
}

// mayHaveMeant reports whether an unknown field may be a mistyped parent.name, or a mistyped parent.
func (o *object) mayHaveMeant(parentPath, name string) bool {
	return o.full || slices.ContainsFunc(o.problems, func(p Problem) bool {
		field := strings.TrimPrefix(p.Field, parentPath+".")
		meant := parent(p.Field) == parentPath && near.Of(field, []string{name}) != "" ||
			parent(p.Field) == "" && near.Of(p.Field, []string{parentPath}) != ""
		return p.Message == unknownFieldMessage && meant
	})
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
