// Package ringfence_test holds the rules of the repository itself: who may import whom, and that what is written
// for people is there and true.
package ringfence_test

import (
	"crypto/sha256"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ringfence-project/ringfence/"

// mayImport is the architecture: each package of ours, and those of ours that its code (tests aside) may import.
// docs/architecture.md draws the same picture.
var mayImport = map[string]string{
	// the core: values in, values out
	"internal/label":           "",
	"internal/flow":            "",
	"internal/policy":          "label flow",
	"internal/cluster":         "label flow policy",
	"internal/eval":            "label flow policy cluster",
	"internal/ruleset":         "flow",
	"internal/compile":         "label flow policy cluster ruleset compile/pool compile/rows compile/classes",
	"internal/compile/pool":    "",
	"internal/compile/classes": "flow ruleset compile/pool compile/rows",
	"internal/compile/rows":    "flow policy cluster ruleset compile/pool",
	"internal/service":         "label flow cluster",
	"internal/rollout":         "label flow policy cluster words",
	// the edges: each meets the core, and another edge only through that edge's interface
	"internal/explain":                 "label flow policy cluster eval manifest/write",
	"internal/manifest":                "label flow policy cluster podspec service rollout near manifest/document",
	"internal/manifest/document":       "cluster near",
	"internal/source/dir":              "label flow policy cluster manifest wholefile",
	"internal/wholefile":               "",
	"internal/generation":              "label flow policy wholefile",
	"internal/generation/configmaps":   "generation",
	"internal/generation/mapstest":     "",
	"internal/source/kube":             "cluster policy manifest service wholefile rollout/record",
	"internal/inforce":                 "cluster policy",
	"internal/controller/enforcement":  "cluster inforce source/kube",
	"internal/agent":                   "flow cluster ruleset compile dataplane dataplane/nft engine source/kube inforce flowlog flowlog/socket flowlog/watch conntrack rollout/follow netns cni loopback",
	"internal/loopback":                "",
	"internal/controller":              "label policy cluster generation generation/configmaps compile rollout rollout/judge rollout/measure rollout/record source/kube inforce loopback controller/enforcement words",
	"internal/source/git":              "manifest source/dir",
	"internal/dataplane":               "flow ruleset",
	"internal/dataplane/dataplanetest": "flow ruleset dataplane netns",
	"internal/dataplane/nft":           "flow ruleset dataplane netfilter netns",
	"internal/netfilter":               "",
	"internal/service/nft":             "flow cluster service netns",
	"internal/names":                   "flow cluster service",
	"internal/netns":                   "",
	"internal/cni":                     "netns wholefile",
	"internal/conntrack":               "flow netns",
	"internal/conntrack/tracktest":     "netns netns/netnstest",
	"internal/rollout/measure":         "rollout",
	"internal/rollout/driver":          "flow policy cluster compile rollout rollout/judge generation wholefile",
	"internal/rollout/judge":           "flow cluster compile rollout",
	"internal/rollout/record":          "cluster policy rollout manifest manifest/write generation",
	"internal/rollout/follow":          "flow policy cluster ruleset compile rollout rollout/judge rollout/record source/kube",
	"internal/netns/netnstest":         "netns",
	"internal/flowlog":                 "label flow cluster ruleset",
	"internal/flowlog/watch":           "flow flowlog conntrack netns",
	"internal/flowlog/socket":          "flowlog",
	"internal/flowlog/nodes":           "flow flowlog",
	"internal/flowlog/alert":           "flow flowlog",
	"internal/engine":                  "flow cluster ruleset compile dataplane",
	"internal/reach":                   "label flow policy cluster ruleset compile words",
	"internal/plan":                    "flow policy cluster eval explain reach flowlog words",
	"internal/plan/show":               "plan words",
	"internal/plan/gate":               "plan words",
	"internal/words":                   "",
	"internal/mapview":                 "flow cluster reach words",
	"internal/lab":                     "label flow policy cluster eval ruleset compile query dataplane engine netns podnet echo report words",
	"internal/cluster/clustertest":     "label flow policy cluster",
	"internal/query":                   "label flow policy cluster service",
	"internal/near":                    "",
	"internal/report":                  "",
	"internal/manifest/write":          "label flow policy",
	"internal/guard":                   "label flow policy cluster words",
	"internal/lint":                    "label flow policy cluster eval service rollout manifest near report",
	"internal/policytest":              "label flow policy cluster eval service rollout manifest manifest/document manifest/write source/dir query explain reach near report words",
	"internal/live":                    "label flow policy cluster eval query words",
	"internal/live/pods":               "label flow cluster live live/wire flowlog/nodes",
	"internal/live/wire":               "flow cluster echo",
	"internal/podspec":                 "",
	"internal/echo":                    "flow cluster",
	"internal/podnet":                  "dataplane netns",
	"internal/shim":                    "flow cluster podspec echo netns",
	"internal/runtime":                 "flow policy cluster ruleset compile dataplane dataplane/nft engine netns podspec podnet shim echo",
	"internal/scenario":                "*",
	"internal/up":                      "*",
	"api/v1alpha1":                     "",
	"cmd/ringfence":                    "*",
	"bench/edits":                      "",
	"bench/labmanifests":               "",
	"hack/testsummary":                 "",
	"hack/tools/agnhost":               "",
	"hack/tools/chart":                 "",
	"hack/tools/crd":                   "",
	"hack/tools/image":                 "",
	"hack/tools/conformance":           "",
	"bench/engine":                     "flow ruleset compile",
	"bench/workload":                   "label flow policy cluster ruleset compile",
	"bench/reach":                      "flow cluster reach",
	"bench/kernel":                     "label flow policy cluster ruleset compile dataplane/nft netfilter netns podnet",
	"bench/churn":                      "",
	"bench/agent":                      "",
	"bench/measure":                    "",
}

// core packages are pure: no I/O, goroutine, clock or logger, so of the standard library only these.
var core = strings.Fields("words label flow policy cluster eval ruleset compile compile/pool compile/rows compile/classes service rollout")

var pure = strings.Fields("bufio bytes cmp encoding/binary errors fmt hash/fnv hash/maphash iter maps math math/bits net/netip slices sort strconv strings unicode unicode/utf8 unsafe time")

type goFile struct {
	path string // slash-separated, from the root
	ast  *ast.File
}

func parseAll(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		files = append(files, goFile{filepath.ToSlash(path), f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (f goFile) dir() string  { return f.path[:max(0, strings.LastIndex(f.path, "/"))] }
func (f goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f goFile) imports() []string {
	var paths []string
	for _, i := range f.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

func TestImportGraph(t *testing.T) {
	for _, f := range parseAll(t) {
		if f.isTest() {
			continue
		}
		allowed, known := mayImport[f.dir()]
		if !known {
			t.Errorf("%s: its package has no place in the architecture yet; give it one in mayImport and docs/architecture.md", f.path)
			continue
		}
		for _, p := range f.imports() {
			short, ours := strings.CutPrefix(p, module+"internal/")
			if ours && allowed != "*" && !slices.Contains(strings.Fields(allowed), short) {
				t.Errorf("%s may not import %s", f.path, short)
			}
		}
	}
}

func TestCoreIsPure(t *testing.T) {
	for _, f := range parseAll(t) {
		if name, ok := strings.CutPrefix(f.dir(), "internal/"); !ok || !slices.Contains(core, name) || f.isTest() {
			continue
		}
		for _, p := range f.imports() {
			if !strings.HasPrefix(p, module) && !slices.Contains(pure, p) {
				t.Errorf("%s imports %s, which is not known to be pure", f.path, p)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s starts a goroutine", f.path)
			}
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Now" {
				t.Errorf("%s reads a clock", f.path)
			}
			return true
		})
	}
}

// TestEvalIsIndependent: comparing the reference with the compiled form means something only if they share no code.
func TestEvalIsIndependent(t *testing.T) {
	for _, f := range parseAll(t) {
		for _, p := range f.imports() {
			if f.dir() == "internal/eval" && (strings.HasSuffix(p, "/compile") || strings.HasSuffix(p, "/ruleset")) {
				t.Errorf("%s imports %s", f.path, p)
			}
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range parseAll(t) {
		if !f.isTest() {
			documented[f.dir()] = documented[f.dir()] || f.ast.Doc != nil
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestExportedIsDocumented(t *testing.T) {
	for _, f := range parseAll(t) {
		if f.isTest() {
			continue
		}
		for _, d := range f.ast.Decls {
			if name := undocumented(d); name != "" {
				t.Errorf("%s: %s has no doc comment", f.path, name)
			}
		}
	}
}

func undocumented(d ast.Decl) string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) {
			return d.Name.Name
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			if s, ok := s.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
				return s.Name.Name
			}
		}
	}
	return ""
}

func exportedReceiver(r *ast.FieldList) bool {
	e := r.List[0].Type
	if s, ok := e.(*ast.StarExpr); ok {
		e = s.X
	}
	id, ok := e.(*ast.Ident)
	return ok && id.IsExported()
}

// TestDefinitionsAreFresh compares the digest of the kinds that the definitions of the chart were made from. The same test
// in hack/tools/crd generates, and needs the generator's modules for it.
func TestDefinitionsAreFresh(t *testing.T) {
	sources, err := filepath.Glob("api/v1alpha1/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("%d sources of kinds: %v", len(sources), err)
	}
	h := sha256.New()
	for _, path := range sources {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %d\n%s", filepath.Base(path), len(content), content)
	}
	definitions, err := filepath.Glob("deploy/chart/ringfence/templates/crd-*.yaml")
	if err != nil || len(definitions) != 3 {
		t.Fatalf("%d definitions of kinds: %v", len(definitions), err)
	}
	for _, path := range definitions {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("\n# api: sha256:%x\n", h.Sum(nil)); !strings.Contains(string(text), want) {
			t.Errorf("api/v1alpha1 has changed since %s was generated from it: run make manifests", path)
		}
	}
}

// TestManifestIsFresh compares the digest of the chart that deploy/ringfence.yaml was rendered from. The same test in
// hack/tools/chart renders, and needs Helm's modules for it.
func TestManifestIsFresh(t *testing.T) {
	h := sha256.New()
	err := fs.WalkDir(os.DirFS("deploy/chart/ringfence"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join("deploy/chart/ringfence", path))
		fmt.Fprintf(h, "%s %d\n%s", path, len(content), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("deploy/ringfence.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("\n# chart: sha256:%x\n", h.Sum(nil)); !strings.Contains(string(text), want) {
		t.Error("the chart has changed since deploy/ringfence.yaml was rendered: run make manifests")
	}
}

// TestArchitectureNamesEveryPackage keeps docs/architecture.md complete.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	doc, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for dir := range mayImport {
		if _, err := os.Stat(dir); err == nil && !strings.Contains(string(doc), "`"+strings.TrimPrefix(dir, "internal/")+"`") {
			t.Errorf("docs/architecture.md does not name `%s`", strings.TrimPrefix(dir, "internal/"))
		}
	}
}
