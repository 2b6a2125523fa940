package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/agent"
	"github.com/ringfence-project/ringfence/internal/cni"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
)

// cniCommand is how a container runtime calls plugins: by this variable, without arguments.
const cniCommand = "CNI_COMMAND"

func newCNI() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "Be the CNI plugin that closes pods until the agent knows them",
		Long: `Be the CNI plugin that closes pods until the agent knows them. A container runtime calls it, with CNI_COMMAND set, as the
last of the plugins that make a pod's network: before the pod's first process starts, it makes sure that the closed table
is in the kernel, and writes down which addresses the pod got on which interface. Where the table cannot be loaded, the
pod does not start.

The DaemonSet puts it on a node with install, and takes it off with uninstall.`,
		Example: `  ringfence cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d
  echo '{"cniVersion": "1.1.0", "name": "pods"}' | CNI_COMMAND=VERSION ringfence cni`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getenv(cniCommand) == "" {
				return cmd.Help()
			}
			if e := skel.PluginMainFuncsWithError(cni.Plugin(agent.Guard{}), cni.Versions(), version()); e != nil {
				return errors.Join(e.Print(), failed{}) // on standard output, where runtimes read it
			}
			return nil
		},
	}
	cmd.AddCommand(newCNIInstall(), newCNIUninstall())
	return cmd
}

// cniFlags say where the node's container runtime looks.
type cniFlags struct{ cni.Place }

func (f *cniFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.Binaries, "bin-dir", "/opt/cni/bin", "where the container runtime looks for plugins")
	cmd.Flags().StringVar(&f.Configs, "conf-dir", "/etc/cni/net.d", "where the container runtime looks for networks")
}

func newCNIInstall() *cobra.Command {
	var f cniFlags
	var cidrs []string
	var entry cni.Entry
	var patience time.Duration
	var watch bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put the plugin on this node, as the last of its pod network",
		Long: `Put the plugin on this node: a copy of this binary, and an entry at the end of the configuration list that the container
runtime takes. All else in the list stays as it is. Doing it again changes nothing.`,
		Example: `  ringfence cni install --wait 5m
  ringfence cni install --conf-file 10-pods.conflist --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if entry.PodCIDRs, err = prefixes(cidrs); err != nil {
				return fmt.Errorf("--pod-cidrs: %w", err)
			}
			return f.install(cmd, entry, patience, watch)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.Config, "conf-file", "", "the configuration list to be in (default: the one that the runtime takes, the first by name)")
	cmd.Flags().StringVar(&entry.Records, "records", cni.DefaultRecords, "where the plugin writes down pods' addresses for the agent")
	cmd.Flags().StringSliceVar(&cidrs, "pod-cidrs", nil, "prefixes to close as a whole, beside each pod's own addresses")
	cmd.Flags().DurationVar(&patience, "wait", 0, "how long to wait for the node's pod network, where there is none yet")
	cmd.Flags().BoolVar(&watch, "watch", false, "stay, and put the plugin back when somebody writes the list anew")
	return cmd
}

func (f *cniFlags) install(cmd *cobra.Command, e cni.Entry, patience time.Duration, watch bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if !watch {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		ctx = limited
	}
	var last error
	told := ""
	err = cni.Keep(ctx, f.Place, self, e, func(c cni.Changes, err error) bool {
		last = err
		if err != nil {
			if watch || errors.Is(err, cni.ErrNoNetwork) && patience > 0 {
				if text := err.Error(); text != told { // not with every look
					fmt.Fprintln(cmd.ErrOrStderr(), "waiting:", text)
					told = text
				}
				return false
			}
			return true
		}
		told = ""
		f.tell(cmd, c, "put", "chained to")
		return !watch
	})
	if last != nil {
		return last
	}
	if watch && cmd.Context().Err() != nil {
		return nil // told to end
	}
	return err
}

// tell says what was changed.
func (f *cniFlags) tell(cmd *cobra.Command, c cni.Changes, binary, config string) {
	if c.Binary {
		fmt.Fprintln(cmd.OutOrStdout(), binary, filepath.Join(f.Binaries, cni.PluginType))
	}
	if c.Config != "" {
		fmt.Fprintln(cmd.OutOrStdout(), config, c.Config)
	}
}

func newCNIUninstall() *cobra.Command {
	var f cniFlags
	var tables, stay bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take the plugin off this node",
		Long: `Take the plugin off this node: out of all configuration lists, and then its binary. What is in the kernel stays in force,
unless --tables is given: then nothing is fenced any more.`,
		Example: "  ringfence cni uninstall --tables",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cni.Uninstall(f.Place)
			f.tell(cmd, c, "removed", "unchained from")
			if err == nil && tables {
				err = removeTables(cmd.Context())
			}
			if err != nil || !stay {
				return err
			}
			<-cmd.Context().Done() // a DaemonSet starts what ends again
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&tables, "tables", false, "remove the kernel's tables too")
	cmd.Flags().BoolVar(&stay, "stay", false, "do nothing more, but do not end either")
	return cmd
}

func removeTables(ctx context.Context) error {
	dp, err := nft.New(nft.Options{})
	if err != nil {
		return err
	}
	return errors.Join(dp.Remove(ctx), dp.Close())
}
