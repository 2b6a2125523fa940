package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/lab"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/query"
)

// labLogGroup is the NFLOG group of a lab. Its node is a namespace of its own, where nobody else has any.
const labLogGroup = 1

// labFlags are what `lab` is asked for.
type labFlags struct {
	topology, output string
	ports            []string
	selection        lab.Selection
}

func newLab() *cobra.Command {
	var in input
	var f labFlags
	cmd := &cobra.Command{
		Use:   "lab DIR...",
		Short: "Boot manifests in network namespaces and prove their policies with real packets",
		Long: `Boot manifests on this machine, a network namespace for each pod, put their policies in force in the kernel, make every
connection (pod to pod, node to pod, pod to node, outside to pod, ping, IPv4 and IPv6) with real packets, and compare each
with what the policies say. A connection counts as denied only if the kernel's own deny log named it, and the right rule.

Nothing is made or changed in this machine's own network, and nothing is left behind, whatever way the lab ends.

Exit codes: 0 every packet fared as the policies say; 1 one did not; 3 bad input, or the machine lacks something.`,
		Example: `  sudo ringfence lab examples/shop
  sudo ringfence lab k8s/ --pairs 'shop/web -> shop/*' --ports 80,53/udp
  kustomize build . | sudo ringfence lab - -o junit > lab.xml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.manifests = args
			return runLab(cmd, in, f)
		},
	}
	in.keepGoingFlag(cmd)
	cmd.Flags().StringVar(&f.topology, "topology", lab.Routed.String(), "how pods are plugged in: routed (ptp) or bridge")
	cmd.Flags().StringArrayVar(&f.selection.Pairs, "pairs", nil, "only these, like 'shop/web -> shop/db'; an end may also be pods, node, outside or *")
	cmd.Flags().StringSliceVar(&f.ports, "ports", nil, "these ports instead of those that the destination declares, like 80,53/udp,http")
	cmd.Flags().IntVar(&f.selection.MaxProbes, "max-probes", 0, "leave out whole pairs beyond this many probes (0: no bound)")
	outputFlag(cmd, &f.output, "text", "json", "junit")
	return cmd
}

func runLab(cmd *cobra.Command, in input, f labFlags) error {
	spec, err := f.spec()
	if err != nil {
		return err
	}
	for _, text := range f.ports {
		p, err := query.ParsePort(text)
		if err != nil {
			return fmt.Errorf("--ports: %w", err)
		}
		f.selection.Ports = append(f.selection.Ports, p)
	}
	loaded, err := in.load(cmd)
	if err != nil {
		return err
	}
	spec.Objects, spec.Ports = loaded.Objects, f.selection.Listen()
	running, err := lab.Boot(cmd.Context(), spec)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; network namespaces need root: run it with sudo", err)
	}
	if err != nil {
		return err
	}
	defer running.Close()
	progress, done := progress(cmd.ErrOrStderr(), "probing")
	report, err := running.Probe(cmd.Context(), f.selection, progress)
	done()
	if err != nil {
		return err
	}
	if err := f.write(cmd.OutOrStdout(), report); err != nil {
		return err
	}
	if !report.OK() {
		return failed{fmt.Sprintf("%d of %d probes did not fare as the policies say", len(report.Mismatches()), len(report.Results))}
	}
	return nil
}

func (f labFlags) spec() (lab.Spec, error) {
	name := f.topology
	if name == "ptp" {
		name = lab.Routed.String()
	}
	topology, err := lab.ParseTopology(name)
	if err != nil {
		return lab.Spec{}, fmt.Errorf("--topology: %w", err)
	}
	return lab.Spec{Topology: topology, Dataplane: func(node *netns.NS) (dataplane.Dataplane, error) {
		return nft.New(nft.Options{NetNS: node.FD(), LogGroup: labLogGroup})
	}}, nil
}

func (f labFlags) write(w io.Writer, r *lab.Report) error {
	switch f.output {
	case "json":
		return r.JSON(w)
	case "junit":
		return r.JUnit(w)
	}
	return r.Text(w, colours(w))
}

// progress shows a bar on a terminal and nothing elsewhere. done takes it away.
func progress(w io.Writer, what string) (step func(done, total int), done func()) {
	if !isTerminal(w) {
		return nil, func() {}
	}
	var bar *progressbar.ProgressBar
	step = func(n, total int) {
		if bar == nil {
			bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
				progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
		}
		_ = bar.Set(n)
	}
	return step, func() {
		if bar != nil {
			_ = bar.Finish()
		}
	}
}
