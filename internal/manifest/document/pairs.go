package document

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/near"
)

// Pair is one entry of a mapping.
type Pair struct {
	Name       string
	Key, Value *yaml.Node
}

// Pairs returns the entries of a mapping with merge keys (<<) resolved. Keys that are there twice, or that YAML does
// not read as text, are problems.
func (o *Object) Pairs(n *yaml.Node, path string) []Pair {
	var own, merged []Pair
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merged = append(merged, o.mergedPairs(value, path)...)
			continue
		}
		name, ok := o.keyName(key, path)
		if !ok {
			continue
		}
		if first, twice := seen[name]; twice {
			o.ProblemAt(key.Line, Join(path, name), "remove one of the two", "is there twice, first on line %d", first)
			continue
		}
		seen[name] = key.Line
		own = append(own, Pair{name, key, value})
	}
	for _, p := range merged { // what is written here goes before what is merged, and the first merged before the next
		if _, hidden := seen[p.Name]; !hidden {
			seen[p.Name] = p.Key.Line
			own = append(own, p)
		}
	}
	return own
}

func (o *Object) mergedPairs(n *yaml.Node, path string) []Pair {
	n = Target(n)
	switch n.Kind {
	case yaml.MappingNode:
		return o.Pairs(n, path)
	case yaml.SequenceNode:
		var all []Pair
		for _, c := range n.Content {
			all = append(all, o.mergedPairs(c, path)...)
		}
		return all
	}
	o.ProblemAt(n.Line, path, "", "the merge key << wants an object or a list of objects, found %s", Describe(n))
	return nil
}

// keyName is the key as text. A number is its digits, as in JSON; a boolean would silently become "true" or "false".
func (o *Object) keyName(key *yaml.Node, path string) (string, bool) {
	key = Target(key)
	if key.Kind != yaml.ScalarNode {
		o.ProblemAt(key.Line, path, "", "a key must be text, found %s", Describe(key))
		return "", false
	}
	switch v := Scalar(key).(type) {
	case string:
		return v, true
	case int64, float64:
		return fmt.Sprint(v), true
	}
	o.ProblemAt(key.Line, Join(path, key.Value), fmt.Sprintf("quote it: %q", key.Value), "YAML reads this key as %s", Describe(key))
	return "", false
}

// Get returns the value of one key, for looking at a document before its type is known; nil if it is not there.
func Get(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	quiet := Object{Lines: map[string]int{}}
	for _, p := range quiet.Pairs(n, "") {
		if p.Name == name {
			return Target(p.Value)
		}
	}
	return nil
}

// Target is the node that an alias stands for; any other node stands for itself.
func Target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// TextOf is the text of a scalar as it is written, whatever its type is; "" for anything else.
func TextOf(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || Scalar(n) == nil {
		return ""
	}
	return n.Value
}

// mattering are the fields of workloads, pods, namespaces, nodes and services that can change a verdict. In those kinds
// an unknown field is a problem only if it looks like one of these: they come from many versions of the API, and
// fields that we never look at may be newer than our types.
var mattering = []string{"metadata", "spec", "status", "name", "namespace", "labels", "ownerReferences",
	"template", "jobTemplate", "selector", "matchLabels", "matchExpressions", "replicas", "parallelism", "completions",
	"containers", "initContainers", "ports", "hostNetwork", "nodeName", "podIP", "podIPs", "phase",
	"podCIDR", "podCIDRs", "addresses", "clusterIP", "clusterIPs"}

// small types in which every field matters.
var alwaysStrict = []string{"ContainerPort", "ServicePort", "LabelSelector", "LabelSelectorRequirement"}

// UnknownField is the message of a problem with a field that its type does not have.
const UnknownField = "unknown field"

// UnknownField notes a field that type t does not have, if that can matter: of a kind that is not strict, only one that looks
// like a field that can change a verdict.
func (o *Object) UnknownField(key *yaml.Node, t reflect.Type, fields map[string][]int, path string) {
	strict := o.Strict || t == nil || slices.Contains(alwaysStrict, t.Name())
	var names []string
	for name := range fields {
		if strict || slices.Contains(mattering, name) {
			names = append(names, name)
		}
	}
	closest := near.Of(key.Value, names)
	switch {
	case closest != "":
		o.ProblemAt(key.Line, path, fmt.Sprintf("did you mean %q?", closest), UnknownField)
	case strict:
		fix := ""
		if len(names) <= 8 {
			slices.Sort(names)
			fix = "known here: " + strings.Join(names, ", ")
		}
		o.ProblemAt(key.Line, path, fix, UnknownField)
	}
}
