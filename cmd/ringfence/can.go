package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// answer is one connection's verdict, as programs read it.
type answer struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
	Family   string `json:"family,omitempty"` // set where the two families differ
	Allow    bool   `json:"allow"`
	Verdict  string `json:"verdict"`
	// Direction is the side that denied; empty for an allowed connection.
	Direction string `json:"direction,omitempty"`
	By        string `json:"by"`
	Place     string `json:"place,omitempty"` // file:line
}

func newCan() *cobra.Command {
	var in input
	var queries, output string
	cmd := &cobra.Command{
		Use:   "can FROM TO PORT",
		Short: "Say whether a connection would be allowed, and by which rule",
		Long: `Say whether a connection would be allowed, and by which rule.

` + referenceHelp + `

Exit code 0 if every connection asked for is allowed, 1 if one is denied. With --queries it is 0 if all were answered,
whatever the verdicts; bad manifests are told on stderr and answered as with --keep-going.`,
		Example: `  ringfence can -f examples/ldap orders/credit-check customers/ldap 389
  ringfence can -f examples/ldap 'role=ldap-client' customers/statefulset/ldap ldaps
  ringfence can -f examples/webservice 203.0.113.9 web/version1 https
  ringfence can --manifests k8s/ --queries questions.json -o jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if queries != "" {
				return answerQueries(cmd, in, queries, output)
			}
			return can(cmd, in, args, output)
		},
		Args: func(cmd *cobra.Command, args []string) error {
			if queries != "" {
				return cobra.NoArgs(cmd, args)
			}
			return threeArgs(cmd, args)
		},
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&queries, "queries", "", "answer a JSON list of {id, from, to, protocol, port[, from_kind, to_kind]} (- for stdin)")
	outputFlag(cmd, &output, "text", "json", "yaml", "jsonl")
	return cmd
}

func threeArgs(_ *cobra.Command, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want FROM TO PORT, got %d arguments; for instance: ringfence can shop/web shop/db 5432", len(args))
	}
	return nil
}

func can(cmd *cobra.Command, in input, args []string, output string) error {
	loaded, err := in.load(cmd)
	if err != nil {
		return err
	}
	decisions, err := ask(loaded.scope(in), question{args[0], args[1], args[2]})
	if err != nil {
		return err
	}
	if err := printAnswers(cmd.OutOrStdout(), answers(decisions), output); err != nil {
		return err
	}
	if !allAllowed(decisions) {
		return failed{}
	}
	return nil
}

// answers turns decisions into lines. The two families of a pair are one line where they say the same.
func answers(decisions []eval.Decision) []answer {
	var all []answer
	for _, d := range decisions {
		a := newAnswer(d.Connection, d.Flow())
		if n := len(all); n > 0 && all[n-1] == a {
			continue
		}
		all = append(all, a)
	}
	for i := 1; i < len(all); i++ { // neighbours that differ in nothing but the verdict differ by family
		a, b := &all[i-1], &all[i]
		if a.From == b.From && a.To == b.To && a.Port == b.Port && a.Protocol == b.Protocol {
			a.Family, b.Family = "IPv4", "IPv6"
		}
	}
	return all
}

func newAnswer(c cluster.Connection, f flow.Decision) answer {
	a := answer{From: c.From.String(), To: c.To.String(), Protocol: c.Protocol.String(), Port: c.Port,
		Allow: f.Verdict == flow.Allow, Verdict: f.Verdict.String(), By: f.Rule.String(), Place: f.Rule.Place()}
	if c.Protocol == flow.ICMPv6 {
		a.Protocol = flow.ICMP.String()
	}
	if f.Verdict == flow.Deny {
		a.Direction = f.Direction.String()
	}
	return a
}

func printAnswers(w io.Writer, all []answer, output string) error {
	switch output {
	case "json", "yaml":
		return encode(w, output, all)
	case "jsonl":
		enc := json.NewEncoder(w)
		for _, a := range all {
			if err := enc.Encode(a); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, a := range all {
		port := a.Protocol
		if a.Port != 0 {
			port = fmt.Sprintf("%d/%s", a.Port, a.Protocol)
		}
		fmt.Fprintf(t, "%s\t%s -> %s\t%s %s\tby %s\t%s\n", verdictWord(w, a.Allow), a.From, a.To, port, a.Family, a.By, a.Place)
	}
	return t.Flush()
}
