package document

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/near"
)

// Types remembers the fields of struct types while many objects are read.
type Types map[reflect.Type]map[string][]int

// Object is one object while it is read: where it stands, where its fields stand, and what is wrong with it.
type Object struct {
	File       string
	Line       int
	APIVersion string
	Kind       string
	Key        cluster.Key // without a namespace for kinds that have none
	Strict     bool        // unknown fields are problems
	// Lines holds the place of every field that was read: "spec.ingress[0]" → 12. It is nil for an object that came
	// from the API, which has no places, and whose required fields the server has checked.
	Lines map[string]int
	// Types may be shared by objects that are read one after the other.
	Types    Types
	Problems []Problem
	Notices  []Notice
	full     bool // there were more problems than are kept
}

// New returns an object that begins at a line of a file.
func New(file string, line int, types Types) *Object {
	return &Object{File: file, Line: line, Lines: map[string]int{}, Types: types}
}

// MaxProblems are kept of one object. Beyond, nobody reads them, and looking them up would take its time.
const MaxProblems = 50

// Name is "NetworkPolicy shop/web", "Node n1", or the kind alone if the object has no name.
func (o *Object) Name() string {
	kind := cmp.Or(o.Kind, "object")
	switch {
	case o.Key.Name == "" && o.Kind == "":
		return ""
	case o.Key.Name == "":
		return kind
	case o.Key.Namespace == "":
		return kind + " " + o.Key.Name
	}
	return kind + " " + o.Key.String()
}

// Problem notes what is wrong at a field. The place is the field's, or its nearest parent's that has one.
func (o *Object) Problem(path, fix, format string, args ...any) {
	o.ProblemAt(o.LineOf(path), path, fix, format, args...)
}

// ProblemAt is Problem with another line. One problem a field is enough: what follows from it is not said.
func (o *Object) ProblemAt(line int, path, fix, format string, args ...any) {
	if path != "" && slices.ContainsFunc(o.Problems, func(p Problem) bool { return p.Field == path }) {
		return
	}
	if o.full = o.full || len(o.Problems) == MaxProblems; o.full {
		return
	}
	o.Problems = append(o.Problems, Problem{File: o.File, Line: line, Object: o.Name(), Field: path,
		Message: fmt.Sprintf(format, args...), Fix: fix})
}

// Effect says what holds until the problems are fixed, and puts them into the order of lines, so that it is read first.
func (o *Object) Effect(format string, args ...any) {
	if len(o.Problems) > 0 {
		slices.SortStableFunc(o.Problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		o.Problems[0].Effect = "until this is fixed, " + fmt.Sprintf(format, args...)
	}
}

// Notice notes something worth knowing at a field.
func (o *Object) Notice(path, format string, args ...any) {
	o.Notices = append(o.Notices, Notice{File: o.File, Line: o.LineOf(path), Object: o.Name(), Message: fmt.Sprintf(format, args...)})
}

// NoticeOfNothing is for what has no effect.
func (o *Object) NoticeOfNothing(path, format string, args ...any) {
	o.Notice(path, format, args...)
	o.Notices[len(o.Notices)-1].NoEffect = true
}

// NoticeOfRunning is for what only matters where the pod really runs.
func (o *Object) NoticeOfRunning(path, format string, args ...any) {
	o.Notice(path, format, args...)
	o.Notices[len(o.Notices)-1].Running = true
}

// LineOf is the line of a field, or of its nearest parent that was written.
func (o *Object) LineOf(path string) int {
	for path != "" {
		if line, ok := o.Lines[path]; ok {
			return line
		}
		path = parent(path)
	}
	return o.Line
}

// Missing reports whether a field was not written. It is false for objects of the API.
func (o *Object) Missing(path string) bool {
	_, ok := o.Lines[path]
	return o.Lines != nil && !ok
}

// Written reports whether a field was written, if only as an empty list. It is false for objects of the API.
func (o *Object) Written(path string) bool { return o.Lines != nil && !o.Missing(path) }

// Broken reports whether there is a problem at path or below it. With more problems than are kept, there may be.
func (o *Object) Broken(path string) bool {
	return o.full || slices.ContainsFunc(o.Problems, func(p Problem) bool { return within(p.Field, path) })
}

// BrokenAbove reports whether something that holds path could not be read, for instance because it is a list.
func (o *Object) BrokenAbove(path string) bool {
	return o.full || slices.ContainsFunc(o.Problems, func(p Problem) bool {
		return p.Field != "" && p.Field != path && within(path, p.Field)
	})
}

// Misnamed reports whether a field of the spec, or of the object itself, is unknown: it may have been meant as any
// other field there.
func (o *Object) Misnamed() bool {
	return o.full || slices.ContainsFunc(o.Problems, func(p Problem) bool {
		return p.Message == UnknownField && (parent(p.Field) == "spec" || parent(p.Field) == "")
	})
}

// MayHaveMeant reports whether an unknown field may be a mistyped parent.name, or a mistyped parent.
func (o *Object) MayHaveMeant(parentPath, name string) bool {
	return o.full || slices.ContainsFunc(o.Problems, func(p Problem) bool {
		field := strings.TrimPrefix(p.Field, parentPath+".")
		meant := parent(p.Field) == parentPath && near.Of(field, []string{name}) != "" ||
			parent(p.Field) == "" && near.Of(p.Field, []string{parentPath}) != ""
		return p.Message == UnknownField && meant
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

// Join is the path of a field of path. Names that are no plain word, as many label keys, are quoted.
func Join(path, name string) string {
	switch {
	case strings.ContainsAny(name, `./[]" `) || name == "":
		return fmt.Sprintf("%s[%q]", path, name)
	case path == "":
		return name
	}
	return path + "." + name
}

// At is the path of an item of a list.
func At(path string, index int) string { return fmt.Sprintf("%s[%d]", path, index) }
