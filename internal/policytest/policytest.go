// Package policytest runs test files for policies: PolicyTest, which users write beside their manifests.
//
//	kind: PolicyTest
//	policies: [ldap.yaml]                  # default: the manifests of the file's folder
//	fixtures: [fixtures/*.yaml]            # who else is there
//	tests:
//	- name: only LDAP clients reach LDAP
//	  cases:
//	  - {from: orders/credit-check, to: "customers/ldap:389,636", want: allow, by: customers/ldap-clients}
//	  - {from: "orders/* !orders/credit-check", to: "customers/ldap:389", want: deny}
//	invariants:
//	- {only: "role=ldap-client -> role=ldap-server:389,636"}
//
// Cases are judged by package eval, the reference; invariants, which are about everybody, by package reach. A Judge in
// the stead of eval makes the cases with real packets.
//
// A test that cannot fail is none: what matches nothing, a case without an expectation and a name that is not there are
// errors in the file. An answer that depends on a pod that nobody knows is neither allow nor deny; see Verdict.
package policytest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/manifest"
	docs "github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/query"
)

// The kind of test files. The apiVersion may be left out.
const (
	APIVersion = "ringfence.dev/v1alpha1"
	Kind       = "PolicyTest"
)

// document is a test file as it is written.
type document struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Policies   []string `json:"policies"`
	Fixtures   []string `json:"fixtures"`
	// Families are those that the cluster has; pods without an address are given one of each.
	Families   []string        `json:"families"`
	Tests      []testSpec      `json:"tests"`
	Invariants []invariantSpec `json:"invariants"`
}

// metadata is what Kubernetes wants of every object; nothing in it matters here.
type metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type testSpec struct {
	Name       string          `json:"name"`
	Patch      []patchSpec     `json:"patch"`
	Candidate  []string        `json:"candidate"`
	Cases      []caseSpec      `json:"cases"`
	Invariants []invariantSpec `json:"invariants"`
}

// patchSpec changes labels before the cases are judged; null removes one.
type patchSpec struct {
	Pod       string             `json:"pod"`
	Namespace string             `json:"namespace"`
	Labels    map[string]*string `json:"labels"`
}

type caseSpec struct {
	Name      string  `json:"name"`
	From      oneMany `json:"from"`
	To        oneMany `json:"to"`
	Ports     oneMany `json:"ports"`
	Via       string  `json:"via"`
	Want      string  `json:"want"`
	By        string  `json:"by"`
	Candidate string  `json:"candidate"`
}

type invariantSpec struct {
	Name   string `json:"name"`
	Never  string `json:"never"`
	Only   string `json:"only"`
	Always string `json:"always"`
}

// oneMany is a text or number, or a list of them.
type oneMany []string

// UnmarshalJSON reads either form.
func (o *oneMany) UnmarshalJSON(data []byte) error {
	var one any
	if err := unmarshal(data, &one); err != nil {
		return err
	}
	list, many := one.([]any)
	if !many {
		list = []any{one}
	}
	for _, item := range list {
		switch x := item.(type) {
		case string:
			*o = append(*o, x)
		case number:
			*o = append(*o, x.String())
		default:
			return fmt.Errorf("want a text or a list of texts")
		}
	}
	return nil
}

// Doc is one PolicyTest, read and checked. It holds nothing of any cluster yet.
type Doc struct {
	File string
	Line int
	spec docs.Own[document]
}

// Read reads a test file. The problems have their places; a document with problems is not returned.
func Read(file string, data []byte) ([]Doc, []manifest.Problem) {
	own, problems := docs.ReadOwn[document](file, data, APIVersion, Kind)
	var docs []Doc
	for _, o := range own {
		c := checker{doc: o}
		c.document()
		if problems = append(problems, c.problems...); len(c.problems) == 0 {
			docs = append(docs, Doc{file, o.Line, o})
		}
	}
	if len(own) == 0 && len(problems) == 0 {
		problems = append(problems, manifest.Problem{File: file, Message: "holds no " + Kind})
	}
	slices.SortStableFunc(problems, func(a, b manifest.Problem) int { return cmp.Compare(a.Line, b.Line) })
	return docs, problems
}

// checker notes what of a document makes no sense, whatever the cluster is.
type checker struct {
	doc      docs.Own[document]
	problems []manifest.Problem
}

func (c *checker) problem(path, fix, format string, args ...any) {
	c.problems = append(c.problems, manifest.Problem{File: c.doc.File, Line: c.doc.LineOf(path), Field: path,
		Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (c *checker) document() {
	d := c.doc.Value
	for i, f := range d.Families {
		if f != "IPv4" && f != "IPv6" {
			c.problem(at("families", i), "write IPv4 or IPv6", "%q is no family of addresses", f)
		}
	}
	if len(d.Tests) == 0 && len(d.Invariants) == 0 {
		c.problem("", "add tests or invariants", "expects nothing")
	}
	for i, t := range d.Tests {
		c.test(at("tests", i), t)
	}
	for i, v := range d.Invariants {
		c.invariant(at("invariants", i), v)
	}
}

func (c *checker) test(path string, t testSpec) {
	if t.Name == "" {
		c.problem(path+".name", "say what the test is about", "required field is missing")
	}
	if len(t.Cases) == 0 && len(t.Invariants) == 0 {
		c.problem(path, "add cases or invariants", "the test expects nothing")
	}
	for i, p := range t.Patch {
		where := at(path+".patch", i)
		if (p.Pod == "") == (p.Namespace == "") {
			c.problem(where, "write pod: or namespace:", "names neither or both of a pod and a namespace")
		}
		if len(p.Labels) == 0 {
			c.problem(where+".labels", "write for instance labels: {role: null}", "changes nothing")
		}
	}
	asked := false
	for i, x := range t.Cases {
		c.caseSpec(at(path+".cases", i), x, len(t.Candidate) > 0)
		asked = asked || x.Candidate != ""
	}
	for i, v := range t.Invariants {
		c.invariant(at(path+".invariants", i), v)
	}
	if len(t.Candidate) > 0 && !asked {
		c.problem(path+".candidate", "add candidate: allow or deny to a case", "no case says what the candidate would do")
	}
}

func (c *checker) caseSpec(path string, x caseSpec, candidate bool) {
	if len(x.From) == 0 {
		c.problem(path+".from", "write for instance from: shop/web", "required field is missing")
	}
	if len(x.To) == 0 {
		c.problem(path+".to", `write for instance to: "shop/db:5432"`, "required field is missing")
	}
	c.verdict(path+".want", x.Want, true)
	c.verdict(path+".candidate", x.Candidate, false)
	if x.Candidate != "" && !candidate {
		c.problem(path+".candidate", "list the candidate's policies in the test's field candidate", "the test has no candidate")
	}
	if x.Via != "" && x.Via != "service" {
		c.problem(path+".via", "write via: service, or name the Service in to", "unknown way %q", x.Via)
	}
	for _, to := range x.To {
		ref, port, err := query.SplitPort(to)
		switch {
		case err != nil:
			c.problem(path+".to", "", "%s", err)
		case port != "" && len(x.Ports) > 0:
			c.problem(path+".ports", "write the ports in one place", "%q names ports too", to)
		case port == "" && len(x.Ports) == 0:
			c.problem(path+".to", fmt.Sprintf("write for instance to: \"%s:80\"", ref), "names no port")
		}
		c.ports(path+".to", port)
	}
	for i, p := range x.Ports {
		c.ports(at(path+".ports", i), p)
	}
}

func (c *checker) verdict(path, word string, required bool) {
	switch {
	case word == "" && required:
		c.problem(path, "write want: allow or want: deny", "required field is missing")
	case word != "" && verdictOf(word) == 0:
		c.problem(path, "write allow, deny or unknown", "unknown verdict %q", word)
	}
}

func (c *checker) ports(path, text string) {
	if text == "" {
		return
	}
	if _, err := query.ParsePorts(text); err != nil {
		c.problem(path, "", "%s", err)
	}
}

func (c *checker) invariant(path string, v invariantSpec) {
	var given []string
	for _, f := range v.forms() {
		if f.text != "" {
			given = append(given, f.name)
		}
	}
	if len(given) != 1 {
		c.problem(path, `write for instance never: "env=dev -> env=prod"`, "sets %s of never, only and always, of which exactly one must be set",
			cmp.Or(strings.Join(given, " and "), "none"))
		return
	}
	if _, err := parseProposition(v.text()); err != nil {
		c.problem(path+"."+given[0], "", "%s", err)
	}
}

// form is one way to write an invariant.
type form struct{ name, text string }

func (v invariantSpec) forms() []form {
	return []form{{"never", v.Never}, {"only", v.Only}, {"always", v.Always}}
}

// word is "never", "only" or "always".
func (v invariantSpec) word() string {
	i := slices.IndexFunc(v.forms(), func(f form) bool { return f.text != "" })
	return v.forms()[max(i, 0)].name
}

func (v invariantSpec) text() string { return cmp.Or(v.Never, v.Only, v.Always) }

func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
