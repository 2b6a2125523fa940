package manifest

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
	o := object{line: d.Line, lines: d.lines}
	return o.lineOf(path)
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
	types := fieldTables{}
	for _, c := range split(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		roots, err := parseYAML(c)
		for _, root := range roots {
			o := &object{file: file, line: root.Line, kind: kind, lines: map[string]int{}, types: types, strict: true}
			var value T
			readOwn(o, target(root), reflect.ValueOf(&value).Elem(), apiVersion, kind)
			if problems = append(problems, o.problems...); len(o.problems) == 0 {
				docs = append(docs, Own[T]{value, file, root.Line, o.lines})
			}
		}
		if err != nil {
			p := err.(placed)
			problems = append(problems, Problem{File: file, Line: p.line, Message: p.text})
		}
	}
	return docs, problems
}

func readOwn(o *object, root *yaml.Node, v reflect.Value, apiVersion, kind string) {
	if err := checkBounds(root); err != nil {
		o.boundsProblem(err)
		return
	}
	if root.Kind != yaml.MappingNode {
		o.problem("", "", "want a %s, found %s", kind, describe(root))
		return
	}
	o.read(root, v, "")
	is := textOf(get(root, "kind"))
	if is != kind && !slices.ContainsFunc(o.problems, func(p Problem) bool { return p.Message == unknownFieldMessage && parent(p.Field) == "" }) {
		o.problem("kind", "write kind: "+kind, "want %s, found %q", kind, shorten(is))
	}
	if given := textOf(get(root, "apiVersion")); given != "" && given != apiVersion {
		o.problem("apiVersion", "write "+apiVersion, "unknown apiVersion %q for this kind", shorten(given))
	}
}
