// Package manifest reads Kubernetes manifests into the values of the core: cluster.Objects and policy.Policy.
//
// It is the only decoder of Kubernetes types; every source goes through it. A Bundle takes many files and gives what
// they say together. Three promises hold for whatever is fed to it:
//
//   - It reads what the API server would read: YAML 1.1 scalars, the server's defaults, the server's validation.
//   - A typo never opens anything. What is unknown in a policy is a Problem with its place and the nearest name, and a
//     policy with a Problem is replaced as a whole by a stand-in that denies (see standin.go).
//   - It does not panic and does not run away, whatever the bytes are.
//
// A new kind of object is a line in the table of kinds.go and a file beside networkpolicy.go or workload.go.
package manifest

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
	for _, s := range []string{place(p.File, p.Line), p.Object, p.Field, p.Message} {
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

func place(file string, line int) string {
	if file == "" || line == 0 {
		return file
	}
	return file + ":" + strconv.Itoa(line)
}

// list is "a, b, c".
func list(words []string) string { return strings.Join(words, ", ") }
