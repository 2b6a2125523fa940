package document

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Own is one document of one of Ringfence's own file formats, with the places of its fields.
type Own[T any] struct {
	Value T
	File  string
	Line  int
	lines map[string]int
}

// LineOf is the line of the field at a path like "tests[0].cases[2].from", or of its nearest parent that was written.
func (d Own[T]) LineOf(path string) int {
	o := Object{Line: d.Line, Lines: d.lines}
	return o.LineOf(path)
}

// ReadOwn reads a file that holds documents of one kind of ours. T is a struct with json tags, in which every field
// that a file may have is named: any other is a problem, with its place and the nearest name. The apiVersion may be
// left out. Documents with problems are not returned.
func ReadOwn[T any](file string, data []byte, apiVersion, kind string) ([]Own[T], []Problem) {
	if len(data) > MaxFile {
		return nil, []Problem{{File: file, Message: fmt.Sprintf("larger than %d MiB", MaxFile>>20)}}
	}
	var docs []Own[T]
	var problems []Problem
	types := Types{}
	for _, c := range Split(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		roots, err := ParseYAML(c)
		for _, root := range roots {
			o := New(file, root.Line, types)
			o.Kind, o.Strict = kind, true
			var value T
			readOwn(o, Target(root), reflect.ValueOf(&value).Elem(), apiVersion, kind)
			if problems = append(problems, o.Problems...); len(o.Problems) == 0 {
				docs = append(docs, Own[T]{value, file, root.Line, o.Lines})
			}
		}
		if err != nil {
			p := err.(Placed)
			problems = append(problems, Problem{File: file, Line: p.Line, Message: p.Text})
		}
	}
	return docs, problems
}

func readOwn(o *Object, root *yaml.Node, v reflect.Value, apiVersion, kind string) {
	if err := CheckBounds(root); err != nil {
		o.OutOfBounds(err)
		return
	}
	if root.Kind != yaml.MappingNode {
		o.Problem("", "", "want a %s, found %s", kind, Describe(root))
		return
	}
	o.Read(root, v, "")
	is := TextOf(Get(root, "kind"))
	if is != kind && !slices.ContainsFunc(o.Problems, func(p Problem) bool { return p.Message == UnknownField && parent(p.Field) == "" }) {
		o.Problem("kind", "write kind: "+kind, "want %s, found %q", kind, Shorten(is))
	}
	if given := TextOf(Get(root, "apiVersion")); given != "" && given != apiVersion {
		o.Problem("apiVersion", "write "+apiVersion, "unknown apiVersion %q for this kind", Shorten(given))
	}
}

// OutOfBounds notes what CheckBounds found.
func (o *Object) OutOfBounds(err error) {
	p := err.(Placed)
	o.ProblemAt(p.Line, "", "", "%s", p.Text)
}
