package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ringfence-project/ringfence/internal/mapview"
	"github.com/ringfence-project/ringfence/internal/reach"
	"github.com/ringfence-project/ringfence/internal/up"
)

func newMap() *cobra.Command {
	var in input
	var flags instanceFlags
	var output string
	cmd := &cobra.Command{
		Use:   "map [DIR...]",
		Short: "Show who can reach whom on which ports, by workload",
		Long: `Show who can reach whom on which ports, by workload: of manifests, or without DIR of what "ringfence up" runs, and then
also what was really seen, allowed and denied (json, csv and html). With --kubeconfig or --context, or as kubectl's plugin,
it is of what is in a cluster.

Pods that policies treat alike are one box; so are nodes, and each part of the world outside that policies name. For every
pair the map has the ports that are allowed, and the rules that allow and deny with their places.

  text     a matrix, if it fits the terminal, else a list by source
  json     everything;  csv  a line for each pair
  dot      for Graphviz;  mermaid  for Markdown
  html     one page to look at and search, which works from disk: a graph, a matrix, a table`,
		Example: `  ringfence map examples/ldap
  kustomize build . | ringfence map - -o csv
  ringfence map examples/shop -o html > map.html
  sudo ringfence map -o html > seen.html
  ringfence map examples/shop -o dot | dot -Tsvg > map.svg`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && in.api.wanted(cmd) {
				in.manifests = []string{"cluster"}
				return showMap(cmd, in, output)
			}
			if len(args) == 0 {
				i, err := flags.instance()
				if err != nil {
					return err
				}
				return up.WriteMap(cmd.Context(), i.Run, output, cmd.OutOrStdout())
			}
			in.manifests, in.named = args, true
			return showMap(cmd, in, output)
		},
	}
	in.keepGoingFlag(cmd)
	in.api.flags(cmd)
	flags.flags(cmd)
	outputFlag(cmd, &output, mapview.Formats...)
	return cmd
}

func showMap(cmd *cobra.Command, in input, output string) error {
	loaded, err := in.load(cmd)
	if err != nil {
		return err
	}
	m, err := reach.Compute(loaded.state, reach.Options{})
	if err != nil {
		return err
	}
	if output != "text" { // of text they are a part
		for _, n := range m.Notices {
			fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
		}
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	view := mapview.View{Map: m, Title: strings.Join(in.manifests, " "), Width: widthOf(cmd.OutOrStdout())}
	if err := view.Write(out, output); err != nil {
		return err
	}
	return out.Flush()
}

// widthOf is the width of the terminal; 0 if w is none.
func widthOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}
