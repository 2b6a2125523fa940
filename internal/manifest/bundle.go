package manifest

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/near"
	"github.com/ringfence-project/ringfence/internal/podspec"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Bundle collects the objects of many files. Make one with NewBundle; feed it in a stable order, because of an object
// that is there twice the first one counts.
type Bundle struct {
	types      document.Types
	seen       map[string]string // "NetworkPolicy shop/web" → its place
	namespaces []cluster.Namespace
	nodes      []cluster.Node
	pods       []*cluster.Endpoint
	workloads  []workload
	policies   []*policy.Policy
	rollouts   []*rollout.Spec
	services   []service.Service
	podRanges  []netip.Prefix
	apiServers []netip.AddrPort
	problems   []Problem
	notices    []Notice
	ignoring   []Ignoring
	ignored    map[string]int
	owners     map[ownerKey]cluster.Owner // of pods and workloads: who controls them
	specs      map[specKey]podspec.Spec   // of pods and workloads: what runs in them
}

// NewBundle returns an empty bundle.
func NewBundle() *Bundle {
	return &Bundle{types: document.Types{}, seen: map[string]string{}, ignored: map[string]int{},
		owners: map[ownerKey]cluster.Owner{}, specs: map[specKey]podspec.Spec{}}
}

// Report adds a problem that a source met outside of the manifests, such as a file that cannot be read.
func (b *Bundle) Report(p Problem) { b.problems = append(b.problems, p) }

// Ignore counts something that is not looked at, under its kind or the name of its file.
func (b *Bundle) Ignore(what string) { b.ignored[what]++ }

// Decode reads one file: YAML of one or many documents, or one or many JSON values. What it cannot use it notes as
// problems; see Finish.
func (b *Bundle) Decode(file string, data []byte) {
	if len(data) > MaxFile {
		b.Report(Problem{File: file, Message: fmt.Sprintf("larger than %d MiB", MaxFile>>20), Fix: "split it"})
		return
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var notJSON error
	if body := bytes.TrimSpace(data); len(body) > 0 && (body[0] == '{' || body[0] == '[') {
		roots, err := document.ParseJSON(data)
		if err == nil {
			b.decodeAll(file, roots)
			return
		}
		notJSON = err // flow style YAML begins like JSON too
	}
	for _, c := range document.Split(data) {
		before := len(b.problems)
		roots, err := document.ParseYAML(c)
		b.decodeAll(file, roots)
		if err != nil {
			b.takeUnreadable(file, c, cmp.Or(notJSON, err))
			notJSON = nil
		}
		adviseOnTemplates(b.problems[before:], c)
	}
}

const renderFirst = `it looks like a template: render it first, for instance with "helm template"`

// adviseOnTemplates replaces the advice of problems on lines with template actions, which YAML may read as objects.
func adviseOnTemplates(problems []Problem, c document.Chunk) {
	if len(problems) == 0 || !bytes.Contains(c.Text, []byte("{{")) {
		return
	}
	lines := bytes.Split(c.Text, []byte("\n"))
	for i := range problems {
		n := problems[i].Line - c.Before - 1
		if n >= 0 && n < len(lines) && bytes.Contains(lines[n], []byte("{{")) {
			problems[i].Fix = renderFirst
		}
	}
}

func (b *Bundle) decodeAll(file string, roots []*yaml.Node) {
	for _, root := range roots {
		b.decodeDocument(file, root, "")
	}
}

// decodeDocument reads one object, or the items of a list. The kind is that of a typed list, for items that have none.
func (b *Bundle) decodeDocument(file string, root *yaml.Node, listKind string) {
	root = document.Target(root)
	o := &object{document.Object{File: file, Line: root.Line, Lines: map[string]int{}, Types: b.types}}
	if listKind == "" { // the items of a list were measured with it
		if err := document.CheckBounds(root); err != nil {
			o.OutOfBounds(err)
			b.collect(o)
			return
		}
	}
	o.readHeader(root, listKind)
	switch {
	case root.Kind != yaml.MappingNode:
		o.Problem("", "", "want a Kubernetes object, found %s", document.Describe(root))
	case isList(o.Kind, root):
		for _, item := range o.items(root) {
			b.decodeDocument(file, item, o.itemKind())
		}
	case o.Kind == "" && o.APIVersion == "" && !looksLikeObject(root):
		b.Ignore("not a Kubernetes object")
	default:
		b.take(o, root)
		b.noteIgnoring(o, root)
	}
	b.collect(o)
}

// collect takes over what was noted while o was read. Notices are about objects that are used as they are.
func (b *Bundle) collect(o *object) {
	b.problems = append(b.problems, o.Problems...)
	if len(o.Problems) == 0 {
		b.notices = append(b.notices, o.Notices...)
	}
	o.Problems, o.Notices = nil, nil
}

// readHeader finds out what kind of object this is and how it is called, before its type is known.
func (o *object) readHeader(root *yaml.Node, listKind string) {
	o.Kind, o.APIVersion = document.TextOf(document.Get(root, "kind")), document.TextOf(document.Get(root, "apiVersion"))
	if listKind != "" && o.Kind == "" && o.APIVersion == "" {
		o.APIVersion, o.Kind, _ = strings.Cut(listKind, " ")
	}
	meta := document.Get(root, "metadata")
	o.Key = cluster.Key{Namespace: document.TextOf(document.Get(meta, "namespace")), Name: document.TextOf(document.Get(meta, "name"))}
}

// isList tells the lists of the API from kinds that are only called so.
func isList(kind string, root *yaml.Node) bool {
	of, ok := strings.CutSuffix(kind, "List")
	_, ours := kinds[of]
	items := document.Get(root, "items")
	return ok && (of == "" || ours || items != nil && items.Kind == yaml.SequenceNode)
}

// items returns what is in a list. One without the field items would silently be empty.
func (o *object) items(root *yaml.Node) []*yaml.Node {
	switch items := document.Get(root, "items"); {
	case items == nil:
		fields := map[string][]int{"apiVersion": nil, "kind": nil, "metadata": nil, "items": nil}
		for _, p := range o.Pairs(root, "") {
			if _, known := fields[p.Name]; !known {
				o.UnknownField(p.Key, nil, fields, p.Name)
			}
		}
		o.Problem("items", "", "required field is missing")
	case items.Kind == yaml.SequenceNode:
		return items.Content
	case items.Kind != yaml.ScalarNode || document.Scalar(items) != nil:
		o.WrongType(items, "items", "a list")
	}
	return nil
}

// itemKind is "networking.k8s.io/v1 NetworkPolicy" for a NetworkPolicyList, and " " (nothing known) for a List.
func (o *object) itemKind() string {
	if kind := strings.TrimSuffix(o.Kind, "List"); kind != "" {
		return o.APIVersion + " " + kind
	}
	return " "
}

// looksLikeObject reports whether a document without kind and apiVersion seems to be meant as an object: then a
// mistyped "kind" must not hide it.
func looksLikeObject(root *yaml.Node) bool {
	for i := 0; i+1 < len(root.Content); i += 2 {
		word := root.Content[i].Value
		if word == "metadata" || word == "spec" || slices.Contains([]string{"kind", "apiVersion"}, near.Of(word, []string{"kind", "apiVersion"})) && len(word) > 3 {
			return true
		}
	}
	return false
}

// once reports whether o is the first object of its kind and name; for another one it notes the problem.
func (b *Bundle) once(o *object) bool {
	if o.Key.Name == "" {
		return false // that it has none is noted
	}
	name := o.Kind + " " + cluster.Key{Namespace: o.Key.Namespace, Name: o.policyName()}.String()
	if strings.HasSuffix(o.Kind, "AdminNetworkPolicy") { // which share their names with what they are read as
		name = "ClusterNetworkPolicy /" + o.policyName()
	}
	here := document.Place(o.File, o.Line)
	if first, twice := b.seen[name]; twice {
		o.Problem("", "keep one of the two", "is defined twice, first at %s; this one is not used", first)
		return false
	}
	b.seen[name] = here
	return true
}
