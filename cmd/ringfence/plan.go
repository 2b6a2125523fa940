package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/plan/gate"
	"github.com/ringfence-project/ringfence/internal/plan/show"
	"github.com/ringfence-project/ringfence/internal/source/dir"
	"github.com/ringfence-project/ringfence/internal/source/git"
)

// planOptions are the flags of `ringfence plan`.
type planOptions struct {
	folder   string
	recorded recordedFlags
	failOn   []string
	detailed bool
	output   string
	rollout  string // whose candidate NEW has in force
	prune    bool   // policies of the cluster go that NEW does not have
}

func newPlan() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan OLD NEW | plan REVISION | plan OLD..NEW | plan DIR --rollout NAME | plan DIR --context NAME",
		Short: "Say which connections a change of manifests would deny or allow, and which of those really seen it would break",
		Long: `Say what a change of manifests does to connections, not to YAML: what is newly denied and newly allowed between which
workloads, nodes, unknown pods and parts of the world outside, on which ports, by which rule before and now; how far that
reaches; and with --flows or --live which connections that were really seen it would break.

OLD and NEW are files or folders, or generation:REF for the policies that were in force in a running instance or a cluster
("ringfence generations" lists them), over the workloads of the other side or else of the instance's manifests. One argument is a git revision that is compared with the files of the folder --dir as
they are now, or two revisions: main..HEAD, or main...HEAD for what HEAD changed since it left main. Revisions are read
from the repository's objects: nothing is checked out, and nothing in the repository is run.

With --kubeconfig or --context, or as kubectl's plugin, one DIR is compared with the cluster: OLD is what the cluster has,
NEW what it has once DIR is applied. What DIR does not speak of stays as it is; with --prune, policies go that DIR does not
have, of the kinds and namespaces of which it has some. --live then asks the agents of the nodes. generation:REF is one of the
cluster's then: two are compared over its workloads, one alone with what is in force there now, and one with DIR with what
it has once DIR is applied.

Manifests that cannot be read are told, and count as in the running system: a policy that cannot be read isolates.

--flows is what "ringfence flows -o json" or "-o jsonl" wrote, or the socket of a running instance; --live asks the running
instance itself. --flows 7d is --live with --since 7d.

` + plan.RiskHelp + `.

--fail-on makes the exit code 1 where one of these holds:
` + gateHelp(),
		Example: `  ringfence plan main..HEAD --dir k8s
  ringfence plan main --dir k8s --live --since 7d
  ringfence plan old/ new/ --flows flows.json --fail-on newly-denied-seen,newly-allowed-outside
  ringfence plan generation:good k8s/
  ringfence plan k8s/ --rollout lockdown
  ringfence plan k8s/ --context prod --flows 7d
  ringfence plan generation:current generation:good --context prod --flows 7d
  ringfence plan main...HEAD --dir k8s -o markdown > comment.md`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return fmt.Errorf("want OLD NEW, or a revision; got %d arguments; for instance: ringfence plan main..HEAD", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runPlan(cmd, o, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.folder, "dir", "C", ".", "with revisions: the folder of manifests, in its repository")
	f.StringSliceVar(&o.failOn, "fail-on", nil, "exit with 1 on any of these, see above")
	f.BoolVar(&o.detailed, "detailed-exitcode", false, "exit with 2 if there are changes")
	f.StringVar(&o.rollout, "rollout", "", "NEW with the candidate of that PolicyRollout in force for everyone; with one DIR alone, OLD is the same without")
	f.BoolVar(&o.prune, "prune", false, "of a cluster: policies go that DIR does not have, of the kinds and namespaces of which it has some")
	o.recorded.flags(cmd)
	outputFlag(cmd, &o.output, "text", "json", "yaml", "markdown")
	return cmd
}

func gateHelp() string {
	var b strings.Builder
	for _, g := range gate.All {
		fmt.Fprintf(&b, "  %-22s %s\n", g.Name, g.Means)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func runPlan(cmd *cobra.Command, o planOptions, args []string) error {
	if err := errors.Join(o.check(), o.checkCluster(cmd, args)); err != nil {
		return err
	}
	ctx := cmd.Context()
	sides, explainWith, err := o.allSides(cmd, args)
	if err != nil {
		return err
	}
	now := time.Now()
	recorded, err := o.recorded.read(ctx, cmd, now)
	if err != nil {
		return err
	}
	p, err := plan.Compute(sides[0], sides[1], plan.Options{Flows: recorded, Explain: explainWith})
	if err != nil {
		return err
	}
	if err := writePlan(cmd, p, o.output, now); err != nil {
		return err
	}
	found, err := gate.Fails(p, o.failOn)
	switch {
	case err != nil:
		return err
	case len(found) > 0:
		return failed{"failed on " + strings.Join(found, "; ")}
	case o.detailed && !p.Empty():
		return exitStatus(exitChanges)
	}
	return nil
}

// check refuses what cannot be meant before anything is read.
func (o *planOptions) check() error {
	if _, err := gate.Fails(&plan.Plan{}, o.failOn); err != nil {
		return fmt.Errorf("--fail-on: %w", err)
	}
	for _, g := range o.failOn {
		if (strings.HasSuffix(g, "-seen") || g == "uncertain") && !o.recorded.given() {
			return fmt.Errorf("--fail-on %s is about recorded connections: give --flows or --live", g)
		}
	}
	return nil
}

func writePlan(cmd *cobra.Command, p *plan.Plan, output string, now time.Time) error {
	w := cmd.OutOrStdout()
	switch output {
	case "json", "yaml":
		return encode(w, output, p)
	case "markdown":
		return show.Markdown(w, p, show.Options{Now: now})
	}
	return show.Text(w, p, show.Options{Color: colours(w), Now: now})
}

// allSides is sides, or those of a cluster, which "ringfence explain" cannot be asked about beforehand.
func (o *planOptions) allSides(cmd *cobra.Command, args []string) (sides [2]plan.Side, explainWith string, err error) {
	if o.ofClusterGenerations(cmd, args) {
		sides, err = o.generationSides(cmd, args)
		return sides, "", err
	}
	if o.againstCluster(cmd, args) {
		sides, err = o.clusterSides(cmd, args[0])
		return sides, "", err
	}
	return o.sides(cmd, args)
}

// sides reads both sides, and says how `ringfence explain` finds the new one.
func (o *planOptions) sides(cmd *cobra.Command, args []string) (sides [2]plan.Side, explainWith string, err error) {
	sources, err := o.sourcesOf(cmd, args)
	if err != nil {
		return sides, "", err
	}
	if sources[0].path == dir.Stdin && sources[1].path == dir.Stdin {
		return sides, "", errors.New("only one of the two sides can be read from stdin")
	}
	for i, s := range sources {
		if s.policies != nil {
			continue
		}
		bundle, err := s.load(cmd, i == 0)
		if err != nil {
			return sides, "", err
		}
		if sides[i], err = newSide(s.name, bundle, s.rollout); err != nil {
			return sides, "", err
		}
	}
	for i, s := range sources {
		if s.policies == nil {
			continue
		}
		if sides[i], err = o.generationSide(cmd, s, sides[1-i].State); err != nil {
			return sides, "", err
		}
	}
	if p := sources[1].path; p != "" && p != dir.Stdin {
		explainWith = "-f " + shellWord(p)
		if o.rollout != "" {
			explainWith += " --rollout " + shellWord(o.rollout)
		}
	}
	return sides, explainWith, nil
}

// shellWord is text as one word of a shell.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func newSide(name string, bundle *manifest.Bundle, rollout string) (plan.Side, error) {
	result := bundle.Finish(manifest.Options{})
	state, err := stateWith(result, rollout)
	if err != nil {
		return plan.Side{}, fmt.Errorf("%s: %w", name, err)
	}
	return plan.Side{Name: name, State: state, Problems: texts(result.Problems)}, nil
}

// planSource is where one side is read from: a path, or a commit of a folder's repository.
type planSource struct {
	name   string
	path   string
	folder *git.Folder
	commit string
	// rollout is the one whose candidate is in force; "" for none.
	rollout string
	// policies are those of a generation; then there is nothing else.
	policies *generation.Generation
}

// generationPrefix begins the name of a generation.
const generationPrefix = "generation:"

// generation finds a generation of the instance.
func (o *planOptions) generation(cmd *cobra.Command, name string) (planSource, error) {
	i, err := o.recorded.instance.instance()
	if err != nil {
		return planSource{}, err
	}
	k, err := keptByInstance(i)
	if err != nil {
		return planSource{}, err
	}
	entry, g, err := k.find(cmd.Context(), strings.TrimPrefix(name, generationPrefix))
	return planSource{name: fmt.Sprintf("generation %d", entry.Number), policies: &g}, err
}

// generationSide is a generation's policies over the workloads of the other side, or of what the instance watches if that
// is a generation too.
func (o *planOptions) generationSide(cmd *cobra.Command, s planSource, other *cluster.State) (plan.Side, error) {
	if other == nil {
		paths := []string{o.folder}
		if !cmd.Flags().Changed("dir") {
			i, err := o.recorded.instance.instance()
			if err != nil {
				return plan.Side{}, err
			}
			record, _, err := i.Read()
			if err != nil {
				return plan.Side{}, err
			}
			if len(record.Paths) > 0 {
				paths = record.Paths
			}
		}
		bundle, err := dir.Load(paths, cmd.InOrStdin())
		if err != nil {
			return plan.Side{}, err
		}
		side, err := newSide("", bundle, "")
		if err != nil {
			return side, err
		}
		other = side.State
	}
	objects := other.Objects()
	objects.Policies = s.policies.Policies
	state, err := cluster.NewState(objects)
	if err != nil {
		return plan.Side{}, fmt.Errorf("%s: %w", s.name, err)
	}
	return plan.Side{Name: s.name, State: state}, nil
}

// sourcesOf is sources, with the rollout in force on the new side. One path with a rollout is both sides.
func (o *planOptions) sourcesOf(cmd *cobra.Command, args []string) (out [2]planSource, err error) {
	_, notThere := os.Stat(args[0])
	if o.rollout != "" && len(args) == 1 && notThere == nil {
		out = [2]planSource{{name: args[0], path: args[0]}, {name: args[0], path: args[0]}}
	} else if out, err = o.sources(cmd, args); err != nil {
		return out, err
	}
	if o.rollout == "" {
		return out, nil
	}
	if out[1].policies != nil {
		return out, fmt.Errorf("--rollout %s: a generation holds no rollouts", o.rollout)
	}
	out[1].rollout = o.rollout
	out[1].name += " with rollout " + o.rollout
	return out, nil
}

// sources says where both sides are. A path that exists is a path; else it is a revision.
func (o *planOptions) sources(cmd *cobra.Command, args []string) (out [2]planSource, err error) {
	ctx := cmd.Context()
	if len(args) == 2 {
		for i, a := range args {
			if out[i], err = o.pathOrRevision(cmd, a); err != nil {
				return out, err
			}
		}
		return out, nil
	}
	old, new, isRange := strings.Cut(args[0], "..")
	if !isRange || strings.HasPrefix(args[0], generationPrefix) {
		if _, err := os.Stat(args[0]); err == nil || args[0] == dir.Stdin {
			return out, fmt.Errorf("want OLD NEW, or a revision; got only %s; for what changed there since a revision: ringfence plan main --dir %s", args[0], args[0])
		}
		if out[0], err = o.pathOrRevision(cmd, args[0]); err != nil {
			return out, err
		}
		out[1] = planSource{name: "the files of " + o.folder, path: o.folder}
		return out, nil
	}
	since := strings.HasPrefix(new, ".")
	new = strings.TrimPrefix(new, ".")
	for i, name := range []string{old, new} {
		if name == "" {
			name = "HEAD"
		}
		if out[i], err = o.revision(ctx, name); err != nil {
			return out, err
		}
	}
	if since {
		if out[0].commit, err = out[0].folder.MergeBase(ctx, out[0].commit, out[1].commit); err != nil {
			return out, err
		}
		out[0].name = out[0].commit[:min(12, len(out[0].commit))]
	}
	return out, nil
}

func (o *planOptions) pathOrRevision(cmd *cobra.Command, text string) (planSource, error) {
	_, err := os.Stat(text)
	if err == nil || text == dir.Stdin {
		return planSource{name: text, path: text}, nil
	}
	if strings.HasPrefix(text, generationPrefix) {
		return o.generation(cmd, text)
	}
	s, notOne := o.revision(cmd.Context(), text)
	if notOne != nil {
		return s, fmt.Errorf("%s is neither a file or folder nor a revision: %w", text, notOne)
	}
	return s, nil
}

func (o *planOptions) revision(ctx context.Context, name string) (planSource, error) {
	folder, err := git.Open(ctx, o.folder)
	if err != nil {
		return planSource{}, err
	}
	commit, err := folder.Resolve(ctx, name)
	return planSource{name: name, folder: folder, commit: commit}, err
}

// load reads the manifests. Places in the old side's revision are told from those of the new one.
func (s planSource) load(cmd *cobra.Command, old bool) (*manifest.Bundle, error) {
	if s.folder == nil {
		return dir.Load([]string{s.path}, cmd.InOrStdin())
	}
	prefix := ""
	if old {
		prefix = s.name + ":"
	}
	bundle, files, err := s.folder.Load(cmd.Context(), s.commit, prefix)
	if err == nil && files == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s has no manifests in that folder\n", s.name)
	}
	return bundle, err
}

// daysAndWeeks are the units that people use for what was recorded and Go does not know.
var daysAndWeeks = map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour}

// parseSpan reads 90s, 4h, 7d, 2w.
func parseSpan(s string) (time.Duration, error) {
	for unit, length := range daysAndWeeks {
		var n float64
		if number, ok := strings.CutSuffix(s, unit); ok {
			if _, err := fmt.Sscanf(number+"|", "%g|", &n); err == nil && n > 0 && n < 1e5 {
				return time.Duration(n * float64(length)), nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no span of time: want for instance 90m, 4h, 7d or 2w", s)
	}
	return d, nil
}

// isSpan reports whether s looks like a span of time and is no file.
func isSpan(s string) bool {
	_, err := parseSpan(s)
	_, no := os.Stat(s)
	return err == nil && no != nil && slices.Contains([]byte("0123456789"), s[0])
}
