// Package document reads documents of YAML and JSON into Go types, with the place of every field, and notes problems there.
//
// It reads as the API server would: YAML 1.1 scalars, JSON names of fields. It does not panic and does not run away, whatever
// the bytes are.
package document

import (
	"strconv"
	"strings"
)

// Problem is something in a manifest that cannot be used as it is.
type Problem struct {
	File    string
	Line    int    // from 1; 0 if the problem is the whole file's
	Object  string // "NetworkPolicy shop/web"; empty if the object could not be told
	Field   string // "spec.ingress[0].form"; empty if the object as a whole is meant
	Message string
	Fix     string // what to do about it; may be empty
	// Effect says what holds until the problem is fixed, for instance which pods a stand-in isolates. It stands with
	// the first problem of an object only.
	Effect string
}

// Error is one line: `net.yaml:12: NetworkPolicy shop/web: spec.ingress[0].form: unknown field; did you mean "from"?`.
func (p Problem) Error() string {
	var parts []string
	for _, s := range []string{Place(p.File, p.Line), p.Object, p.Field, p.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	text := strings.Join(parts, ": ")
	if p.Fix != "" {
		text += "; " + p.Fix
	}
	return text
}

// Text is Error and, if there is one, the effect on an indented second line.
func (p Problem) Text() string {
	if p.Effect == "" {
		return p.Error()
	}
	return p.Error() + "\n    " + p.Effect
}

// Notice is something worth knowing about an object that is used: a conversion, or a part that has no effect.
type Notice struct {
	File    string
	Line    int
	Object  string
	Message string
	// NoEffect: something of a policy that is written has no effect.
	NoEffect bool
	// Running: it only matters where the pods really run, not to what policies say.
	Running bool
}

// String is one line, formed like a Problem's.
func (n Notice) String() string {
	return Problem{File: n.File, Line: n.Line, Object: n.Object, Message: n.Message}.Error()
}

// Place is "file:line".
func Place(file string, line int) string {
	if file == "" || line == 0 {
		return file
	}
	return file + ":" + strconv.Itoa(line)
}
