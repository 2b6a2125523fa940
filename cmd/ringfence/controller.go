package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/ringfence-project/ringfence/internal/controller"
	"github.com/ringfence-project/ringfence/internal/label"
)

// inClusterNamespace is where a pod finds the name of its namespace.
const inClusterNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func newController() *cobra.Command {
	var s processFlags
	var namespace, listen, nodes string
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Drive the PolicyRollouts of a Kubernetes cluster",
		Long: `Drive the PolicyRollouts of a Kubernetes cluster: sum up what the agents report, let time pass, and write into the objects'
statuses what follows. Of several controllers one leads, by the Lease ringfence-controller. While none does, every
rollout stays as it is; people's commands work all the same. The one that leads keeps every set of policies that is in force for
everyone, in ConfigMaps of its namespace ("ringfence generations" lists them).

It also says on policies and namespaces how far they are in force, which is on all nodes. --nodes says which nodes are
meant to run an agent, if not all are: neither that nor a rollout waits for others, nor do pods there count.

Metrics (/metrics) and health (/healthz, /readyz) are served on a loopback address only.`,
		Example: "  ringfence controller --kubeconfig ~/.kube/config --namespace ringfence-system",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			meant, err := label.Parse(nodes)
			if err != nil {
				return fmt.Errorf("--nodes: %w", err)
			}
			log, err := s.logger(cmd)
			if err != nil {
				return err
			}
			client, objects, err := s.clients("ringfence-controller")
			if err != nil {
				return err
			}
			return controller.Run(cmd.Context(), controller.Options{Client: client, Dynamic: objects, Namespace: leaseNamespace(namespace),
				Identity: identity(), Listen: listen, Log: log, Nodes: &meant})
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the Lease and the generations (default: the pod's own, else ringfence-system)")
	cmd.Flags().StringVar(&nodes, "nodes", "", "nodes that are meant to run an agent, by labels like role=worker (default: all)")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:9471", "loopback address for metrics and health")
	return cmd
}

func leaseNamespace(given string) string {
	own, _ := os.ReadFile(inClusterNamespace) // there is none outside of a pod
	return cmp.Or(given, strings.TrimSpace(string(own)), "ringfence-system")
}

// identity tells this process from all other controllers.
func identity() string {
	name, _ := os.Hostname() // without it the rest is still one of a kind
	return name + "-" + rand.String(10)
}
