package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fatih/color"
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/lint"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/report"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/source/dir"
	"github.com/ringfence-project/ringfence/internal/words"
)

// lintFlags are what `lint` is asked for.
type lintFlags struct {
	output, failOn, level, explain, namespace string
	list                                      bool
	api                                       apiFlags
}

func newLint() *cobra.Command {
	f := lintFlags{failOn: report.Error.String(), level: report.Note.String()}
	cmd := &cobra.Command{
		Use:   "lint [DIR...]",
		Short: "Find what is legal in policies and most likely not meant",
		Long: `Find what is legal in policies and most likely not meant: a policy that selects nothing, a label with a typo, a rule that
is never reached, an isolation that forgets DNS, two list items that were meant as one. Without DIR it looks at the
current folder; "-" is stdin. With --kubeconfig or --context, or as kubectl's plugin, and without DIR, it looks at a cluster.

Each kind of finding has a stable code (--list, --explain CODE, docs/lint.md). An object accepts a finding about it by
an annotation with the reason:

  ringfence.dev/lint-ignore: "RF001: the pods come with the next release"

Exit codes: 0 nothing as bad as --fail-on; 1 something is; 3 wrong usage.`,
		Example: `  ringfence lint k8s/
  kustomize build . | ringfence lint - -o sarif > lint.sarif
  ringfence lint --fail-on warning
  kubectl ringfence lint -n shop
  ringfence lint --explain RF009`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.list:
				return listCodes(cmd.OutOrStdout())
			case f.explain != "":
				return explainCode(cmd.OutOrStdout(), f.explain)
			}
			return runLint(cmd, args, f)
		},
	}
	cmd.Flags().Var(formatFlag{&f.failOn, []string{"error", "warning", "note", "never"}}, "fail-on", "exit with 1 if there is a finding as bad as this: error, warning, note, never")
	cmd.Flags().Var(formatFlag{&f.level, []string{"error", "warning", "note"}}, "level", "show findings that are at least as bad as this")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "show only findings about objects of this namespace (default: all)")
	f.api.flags(cmd)
	cmd.Flags().BoolVar(&f.list, "list", false, "list the codes")
	cmd.Flags().StringVar(&f.explain, "explain", "", "say what a code is about")
	outputFlag(cmd, &f.output, "text", "json", "yaml", "sarif", "github")
	return cmd
}

func runLint(cmd *cobra.Command, args []string, f lintFlags) error {
	read := f.readFiles
	if f.api.wanted(cmd) && len(args) == 0 {
		read = f.readCluster
	}
	result, err := read(cmd, args)
	if err != nil {
		return err
	}
	findings, err := lint.Run(result)
	if err != nil {
		return err
	}
	findings = f.of(findings)
	if err := f.write(cmd.OutOrStdout(), findings); err != nil {
		return err
	}
	for _, x := range findings {
		if !x.Suppressed && f.failOn != "never" && x.Level >= levelNamed(f.failOn) {
			return failed{}
		}
	}
	return nil
}

func (f lintFlags) readFiles(cmd *cobra.Command, args []string) (manifest.Result, error) {
	if len(args) == 0 {
		args = []string{"."}
	}
	bundle, err := unlessInterrupted(cmd.Context(), func() (*manifest.Bundle, error) { return dir.Load(args, cmd.InOrStdin()) })
	if err != nil {
		return manifest.Result{}, err
	}
	return bundle.Finish(manifest.Options{}), nil
}

func (f lintFlags) readCluster(cmd *cobra.Command, _ []string) (manifest.Result, error) {
	a, err := f.api.connect()
	if err != nil {
		return manifest.Result{}, err
	}
	c, err := a.readCluster(cmd.Context())
	if err != nil {
		return manifest.Result{}, err
	}
	if c.unread != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "note: rollouts are not looked at:", c.unread)
	}
	return c.withRollouts(), nil
}

// withRollouts is what there is to look at: the cluster's objects, and the rollouts that are not over.
func (c *inCluster) withRollouts() manifest.Result {
	r := c.Result
	for _, x := range c.rollouts {
		object := "PolicyRollout " + x.Name
		switch {
		case x.Spec == nil:
			r.Problems = append(r.Problems, manifest.Problem{Object: object, Message: strings.TrimPrefix(x.Why, object+": ")})
		case x.Status.Phase == rollout.Complete || !x.Status.Over():
			r.Rollouts = append(r.Rollouts, x.Spec)
			r.Ignoring = append(r.Ignoring, manifest.IgnoringOf(object, x.Annotations()[manifest.LintAnnotation])...)
		}
	}
	return r
}

// of leaves out what is about objects of other namespaces than the one asked for.
func (f lintFlags) of(findings []lint.Finding) []lint.Finding {
	return slices.DeleteFunc(findings, func(x lint.Finding) bool { return f.namespace != "" && namespaceOf(x.Object) != f.namespace })
}

// namespaceOf is the namespace of an object such as "NetworkPolicy shop/web"; "" if it has none.
func namespaceOf(object string) string {
	_, name, _ := strings.Cut(object, " ")
	namespace, _, ok := strings.Cut(name, "/")
	if !ok {
		return ""
	}
	return namespace
}

func levelNamed(name string) report.Level {
	for _, l := range []report.Level{report.Note, report.Warning} {
		if name == l.String() {
			return l
		}
	}
	return report.Error
}

// lintFinding is a finding as programs read it.
type lintFinding struct {
	Code       string   `json:"code"`
	Level      string   `json:"level"`
	File       string   `json:"file,omitempty"`
	Line       int      `json:"line,omitempty"`
	Object     string   `json:"object,omitempty"`
	Message    string   `json:"message"`
	Fix        string   `json:"fix,omitempty"`
	Related    []string `json:"related,omitempty"` // file:line
	Suppressed bool     `json:"suppressed,omitempty"`
	Reason     string   `json:"reason,omitempty"` // of the suppression
}

func (f lintFlags) write(w io.Writer, findings []lint.Finding) error {
	plain := []report.Finding{}
	out := []lintFinding{}
	for _, x := range findings {
		if x.Level < levelNamed(f.level) {
			continue
		}
		if x.Place.File == "" {
			x.Place.Line = 0 // what an API says has no lines
		}
		plain = append(plain, x.Finding)
		j := lintFinding{Code: x.Code, Level: x.Level.String(), File: x.Place.File, Line: x.Place.Line, Object: x.Object,
			Message: x.Message, Fix: x.Fix, Suppressed: x.Suppressed, Reason: x.Reason}
		for _, p := range x.Related {
			if p.File != "" {
				j.Related = append(j.Related, p.String())
			}
		}
		out = append(out, j)
	}
	switch f.output {
	case "json", "yaml":
		return encode(w, f.output, out)
	case "sarif":
		return report.SARIF(w, sarifTool(), lint.Rules(), plain)
	case "github":
		return report.GitHub(w, plain)
	}
	if err := writeFindings(w, plain); err != nil {
		return err
	}
	return annotate(w, plain)
}

// writeFindings writes findings for people: file:line: level CODE: message, and the fix below it.
func writeFindings(w io.Writer, findings []report.Finding) error {
	out := bufio.NewWriter(w)
	counts := map[report.Level]int{}
	suppressed := 0
	for _, f := range findings {
		if f.Suppressed {
			suppressed++
			continue
		}
		counts[f.Level]++
		place := f.Place.String()
		if place != "" {
			place += ": "
		}
		fmt.Fprintf(out, "%s%s %s: %s\n", place, levelWord(w, f.Level), f.Code, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(out, "    %s\n", f.Fix)
		}
		for _, p := range f.Related {
			if p.File == "" {
				continue // the message names it
			}
			fmt.Fprintf(out, "    %s: %s\n", p, p.Message)
		}
	}
	var parts []string
	for _, l := range []report.Level{report.Error, report.Warning, report.Note} {
		if n := counts[l]; n > 0 {
			parts = append(parts, words.Counted(n, l.String()))
		}
	}
	if suppressed > 0 {
		parts = append(parts, fmt.Sprintf("%d accepted", suppressed))
	}
	if parts == nil {
		parts = []string{"nothing found"}
	}
	fmt.Fprintln(out, strings.Join(parts, ", "))
	return out.Flush()
}

func levelWord(w io.Writer, l report.Level) string {
	c := color.New(map[report.Level]color.Attribute{report.Error: color.FgRed, report.Warning: color.FgYellow, report.Note: color.Faint}[l])
	if !colours(w) {
		return l.String()
	}
	c.EnableColor()
	return c.Sprint(l)
}

func listCodes(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range lint.Rules() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Code, r.Level, r.Name, r.Short)
	}
	return t.Flush()
}

func explainCode(w io.Writer, code string) error {
	r, ok := lint.RuleOf(strings.ToUpper(code))
	if !ok {
		return fmt.Errorf("--explain: no finding has the code %q; see --list", code)
	}
	_, err := fmt.Fprintf(w, "%s %s (%s)\n%s\n\n%s\n", r.Code, r.Name, r.Level, r.Short, r.Help)
	return err
}
