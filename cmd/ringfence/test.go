package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policytest"
	"github.com/ringfence-project/ringfence/internal/report"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// testFlags are what `test` is asked for.
type testFlags struct {
	run, output string
	manifests   []string
	coverage    bool
	threshold   float64
	lab         bool
	live        liveFlags
}

func newTest() *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{
		Use:   "test [DIR|FILE|-]...",
		Short: "Run test files: who must reach whom, and who must not",
		Long: `Run test files, *_test.yaml of kind PolicyTest, which lie beside the policies that they test:

  kind: PolicyTest
  policies: [ldap.yaml]               # globs, relative to this file; without policies and fixtures, this folder
  fixtures: [fixtures/*.yaml]         # who else is there: namespaces, workloads, Services
  tests:
  - name: only LDAP clients reach LDAP
    cases:
    - {from: orders/credit-check, to: "customers/ldap:389,636", want: allow, by: customers/ldap-clients}
    - {from: "orders/* !orders/credit-check", to: "customers/ldap:389", want: deny}
  - name: losing the label loses the door
    patch: [{pod: orders/credit-check, labels: {role: null}}]
    cases: [{from: orders/credit-check, to: "customers/ldap:389", want: deny}]
  invariants:
  - {only: "role=ldap-client -> role=ldap-server:389,636"}
  - {never: "* -> world:all"}         # no pod has unrestricted egress

docs/testing.md says what else there is. "-" is manifests on stdin, for instance from kustomize or helm, which stand in for
what test files name as policies.

With --live the same files test a cluster: its policies, namespaces and workloads, and those workloads of the files that it
has not. Connections are made between probe pods, which stand for workloads: in their namespaces, with the labels that
policies look at, never ready, so that no Service sends them anything, and removed in the end. Workloads themselves get no
test connection. What fares otherwise than the policies say fails. It takes rights in the namespaces of the workloads:
docs/testing.md has them.

Exit codes: 0 every test holds; 1 one does not, or coverage is below --threshold; 3 a test file or manifest could not be read.`,
		Example: `  ringfence test
  ringfence test examples/ldap --coverage
  kustomize build overlays/prod | ringfence test - tests/ -o junit > tests.xml
  sudo ringfence test --lab examples/ldap
  ringfence test --live --context staging --dry-run tests/`,
		RunE: func(cmd *cobra.Command, args []string) error { return runTests(cmd, args, f) },
	}
	cmd.Flags().StringVar(&f.run, "run", "", "only tests whose \"file: name\" matches this regular expression")
	cmd.Flags().StringSliceVarP(&f.manifests, "manifests", "f", nil, "manifests in the stead of those that test files name as policies; - for stdin")
	cmd.Flags().BoolVar(&f.coverage, "coverage", false, "list the rules that no test exercises, and the workloads that no policy selects")
	cmd.Flags().Float64Var(&f.threshold, "threshold", 0, "fail if less than this percentage of the rules is exercised")
	cmd.Flags().BoolVar(&f.lab, "lab", false, "make the cases with real packets between network namespaces (needs root)")
	f.live.flags(cmd)
	outputFlag(cmd, &f.output, "text", "json", "yaml", "junit", "tap", "sarif", "github")
	return cmd
}

func runTests(cmd *cobra.Command, args []string, f testFlags) error {
	if err := f.live.check(cmd, f.lab, f.output); err != nil {
		return err
	}
	runner, paths, err := f.runner(cmd, args)
	if err != nil {
		return err
	}
	docs, problems, err := readTests(paths)
	if err != nil {
		return err
	}
	step, done := progress(cmd.ErrOrStderr(), "testing")
	runner.Progress = step
	run := func() *policytest.Report { return runner.Docs(docs, problems) }
	var result *policytest.Report
	if f.live.live {
		result, err = f.live.report(cmd, runner, run)
	} else {
		result = run()
	}
	done()
	if result == nil {
		return err
	}
	if tests, _, _, _ := result.Count(); tests == 0 && !result.Broken() {
		return fmt.Errorf("--run %q matches no test", f.run)
	}
	if err := f.write(cmd.OutOrStdout(), result); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return f.judge(result)
}

// runner is what runs the tests, offline or in a lab, and which files and folders hold them.
func (f testFlags) runner(cmd *cobra.Command, args []string) (runner *policytest.Runner, paths []string, err error) {
	runner = &policytest.Runner{Manifests: f.manifests}
	for _, a := range args {
		if a == dir.Stdin {
			runner.Manifests = append(runner.Manifests, dir.Stdin)
			continue
		}
		paths = append(paths, a)
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	if f.run != "" {
		if runner.Run, err = regexp.Compile(f.run); err != nil {
			return nil, nil, fmt.Errorf("--run: %w", err)
		}
	}
	if slices.Contains(runner.Manifests, dir.Stdin) {
		read := func() ([]byte, error) { return io.ReadAll(io.LimitReader(cmd.InOrStdin(), manifest.MaxFile+1)) }
		if runner.Stdin, err = unlessInterrupted(cmd.Context(), read); err != nil {
			return nil, nil, fmt.Errorf("stdin: %w", err)
		}
	}
	if f.lab {
		runner.Boot = bootTestLab(cmd.Context())
	}
	return runner, paths, nil
}

// judge turns a result into the exit code.
func (f testFlags) judge(r *policytest.Report) error {
	tests, ok, _, _ := r.Count()
	made, _ := r.Made()
	switch {
	case r.Broken():
		return fmt.Errorf("not every test file could be run")
	case ok < tests:
		return failed{}
	case f.live.live && made == 0:
		return failed{"nothing could be tried in the cluster: no connection was made"}
	case r.Coverage.Percent < f.threshold:
		return failed{fmt.Sprintf("coverage is %.1f %%, less than --threshold %g", r.Coverage.Percent, f.threshold)}
	}
	return nil
}

func (f testFlags) write(w io.Writer, r *policytest.Report) error {
	switch f.output {
	case "json", "yaml":
		return encode(w, f.output, r)
	case "junit":
		return report.JUnit(w, r.Suites())
	case "tap":
		return report.TAP(w, r.Suites())
	case "sarif":
		return report.SARIF(w, sarifTool(), policytest.Rules(), r.Findings())
	case "github":
		return report.GitHub(w, r.Findings())
	}
	if err := r.Text(w, policytest.Options{Color: colours(w), Coverage: f.coverage || f.threshold > 0}); err != nil {
		return err
	}
	return annotate(w, r.Findings())
}

// annotate adds annotations for GitHub to a text that a workflow prints.
func annotate(w io.Writer, findings []report.Finding) error {
	if os.Getenv("GITHUB_ACTIONS") != "true" {
		return nil
	}
	return report.GitHub(w, findings)
}

// sarifTool is this program as SARIF names it.
func sarifTool() report.Tool {
	return report.Tool{Name: "ringfence", URL: "https://github.com/ringfence-project/ringfence"}
}

// readTests reads the test files named and those below the folders named.
func readTests(paths []string) ([]policytest.Doc, []manifest.Problem, error) {
	files, err := testFiles(paths)
	if err != nil {
		return nil, nil, err
	}
	var docs []policytest.Doc
	var problems []manifest.Problem
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, fmt.Errorf("test file: %w", err)
		}
		found, bad := policytest.Read(filepath.ToSlash(file), data)
		docs, problems = append(docs, found...), append(problems, bad...)
	}
	if len(docs)+len(problems) == 0 {
		return nil, nil, fmt.Errorf("no test files (*_test.yaml) in %s; ringfence test --help shows one", strings.Join(paths, ", "))
	}
	return docs, problems, nil
}

// testFiles lists test files, sorted inside of a folder; hidden ones are left out.
func testFiles(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && name != path && strings.HasPrefix(e.Name(), "."):
				return filepath.SkipDir
			case e.IsDir() || slices.Contains(files, name):
			case name == path || isTestFile(e.Name()):
				files = append(files, name)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("test files: %w", err)
		}
	}
	return files, nil
}

func isTestFile(name string) bool {
	stem, isYAML := strings.CutSuffix(name, ".yaml")
	if !isYAML {
		stem, isYAML = strings.CutSuffix(name, ".yml")
	}
	return isYAML && strings.HasSuffix(stem, "_test") && !strings.HasPrefix(name, ".")
}
