package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
)

func newExplain() *cobra.Command {
	var in input
	var output string
	var all bool
	cmd := &cobra.Command{
		Use:   "explain FROM TO PORT",
		Short: "Say why a connection would be allowed or denied, and what would allow it",
		Long: `Say why a connection would be allowed or denied: both directions, every tier, each policy and rule that was looked at,
matched or not and for which reason, with file and line; and for a denial the smallest rule that would allow it.

` + referenceHelp + `

Where FROM and TO stand for many connections, one of each kind of answer is explained.`,
		Example: `  ringfence explain -f examples/ldap orders/credit-check-copy customers/ldap-1 389
  ringfence explain -f examples/shop shop/checkout payments/ledger postgres
  ringfence explain -f k8s/ 'app=web' 'app=db' 5432 -o json`,
		Args: threeArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			loaded, err := in.load(cmd)
			if err != nil {
				return err
			}
			decisions, err := ask(loaded.scope(in), question{args[0], args[1], args[2]})
			if err != nil {
				return err
			}
			kinds := kindsOf(decisions)
			for i := range kinds {
				kinds[i].Explanation = explain.Explain(loaded.state, kinds[i].decision)
			}
			if output != "text" {
				return encode(cmd.OutOrStdout(), output, kinds)
			}
			return writeKinds(cmd.OutOrStdout(), kinds, all)
		},
	}
	in.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also list the NetworkPolicies of other namespaces, which never apply")
	outputFlag(cmd, &output, "text", "json", "yaml")
	return cmd
}

// kind is one kind of answer, explained by its first connection.
type kind struct {
	explain.Explanation
	Like     int `json:"connectionsLikeIt"` // how many others have the same verdict by the same rule
	decision eval.Decision
}

func kindsOf(decisions []eval.Decision) []kind {
	var kinds []kind
	index := map[flow.Decision]int{}
	for _, d := range decisions {
		if i, ok := index[d.Flow()]; ok {
			kinds[i].Like++
			continue
		}
		index[d.Flow()] = len(kinds)
		kinds = append(kinds, kind{decision: d})
	}
	return kinds
}

func writeKinds(w io.Writer, kinds []kind, all bool) error {
	for i, k := range kinds {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := k.Write(w, explain.Options{Color: colours(w), All: all}); err != nil {
			return err
		}
		if k.Like > 0 {
			fmt.Fprintf(w, "\n%d more of the connections asked for: the same verdict by the same rule.\n", k.Like)
		}
	}
	return nil
}
