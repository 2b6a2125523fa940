package manifest

import (
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/near"
)

// pair is one entry of a mapping.
type pair struct {
	name       string
	key, value *yaml.Node
}

// pairs returns the entries of a mapping with merge keys (<<) resolved. Keys that are there twice, or that YAML does
// not read as text, are problems.
func (o *object) pairs(n *yaml.Node, path string) []pair {
	var own, merged []pair
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
			o.problemAt(key.Line, join(path, name), "remove one of the two", "is there twice, first on line %d", first)
			continue
		}
		seen[name] = key.Line
		own = append(own, pair{name, key, value})
	}
	for _, p := range merged { // what is written here goes before what is merged, and the first merged before the next
		if _, hidden := seen[p.name]; !hidden {
			seen[p.name] = p.key.Line
			own = append(own, p)
		}
	}
	return own
}

func (o *object) mergedPairs(n *yaml.Node, path string) []pair {
	n = target(n)
	switch n.Kind {
	case yaml.MappingNode:
		return o.pairs(n, path)
	case yaml.SequenceNode:
		var all []pair
		for _, c := range n.Content {
			all = append(all, o.mergedPairs(c, path)...)
		}
		return all
	}
	o.problemAt(n.Line, path, "", "the merge key << wants an object or a list of objects, found %s", describe(n))
	return nil
}

// keyName is the key as text. A number is its digits, as in JSON; a boolean would silently become "true" or "false".
func (o *object) keyName(key *yaml.Node, path string) (string, bool) {
	key = target(key)
	if key.Kind != yaml.ScalarNode {
		o.problemAt(key.Line, path, "", "a key must be text, found %s", describe(key))
		return "", false
	}
	switch v := scalar(key).(type) {
	case string:
		return v, true
	case int64, float64:
		return fmt.Sprint(v), true
	}
	o.problemAt(key.Line, join(path, key.Value), fmt.Sprintf("quote it: %q", key.Value), "YAML reads this key as %s", describe(key))
	return "", false
}

// get returns the value of one key, for looking at a document before its type is known; nil if it is not there.
func get(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	quiet := object{lines: map[string]int{}}
	for _, p := range quiet.pairs(n, "") {
		if p.name == name {
			return target(p.value)
		}
	}
	return nil
}

// target is the node that an alias stands for; any other node stands for itself.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// textOf is the text of a scalar as it is written, whatever its type is; "" for anything else.
func textOf(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || scalar(n) == nil {
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

const unknownFieldMessage = "unknown field"

func (o *object) unknownField(key *yaml.Node, t reflect.Type, fields map[string][]int, path string) {
	strict := o.strict || t == nil || slices.Contains(alwaysStrict, t.Name())
	var names []string
	for name := range fields {
		if strict || slices.Contains(mattering, name) {
			names = append(names, name)
		}
	}
	closest := near.Of(key.Value, names)
	switch {
	case closest != "":
		o.problemAt(key.Line, path, fmt.Sprintf("did you mean %q?", closest), unknownFieldMessage)
	case strict:
		fix := ""
		if len(names) <= 8 {
			slices.Sort(names)
			fix = "known here: " + list(names)
		}
		o.problemAt(key.Line, path, fix, unknownFieldMessage)
	}
}
