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

import "github.com/ringfence-project/ringfence/internal/manifest/document"

// Problem is something in a manifest that cannot be used as it is.
type Problem = document.Problem

// Notice is something worth knowing about an object that is used.
type Notice = document.Notice

// MaxFile is how many bytes of one file are read.
const MaxFile = document.MaxFile

// object is one Kubernetes object while it is read.
type object struct{ document.Object }
