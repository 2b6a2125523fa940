package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// pluginName is how kubectl finds its plugin "ringfence": this program under that name takes the cluster where it would
// else take the folder or the instance that it is called in.
const pluginName = "kubectl-ringfence"

// isPlugin reports whether the program runs as kubectl's plugin.
func isPlugin(cmd *cobra.Command) bool {
	return cmd.Root().Annotations[cobra.CommandDisplayNameAnnotation] != ""
}

// apiFlags say which cluster is meant, as kubectl's do.
type apiFlags struct{ kubeconfig, context string }

func (f *apiFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "ask the cluster of this file (default, if --context is given: as kubectl)")
	cmd.Flags().StringVar(&f.context, "context", "", "ask the cluster of this context")
}

// wanted reports whether a command that can do without a cluster is to ask one.
func (f *apiFlags) wanted(cmd *cobra.Command) bool {
	return cmd.Flags().Lookup("kubeconfig") != nil && (isPlugin(cmd) || cmd.Flags().Changed("kubeconfig") || cmd.Flags().Changed("context"))
}

// api is a cluster that can be asked.
type api struct {
	config    *rest.Config
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	namespace string // of the context
}

// connect makes clients; nothing is asked yet.
func (f *apiFlags) connect() (*api, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.context})
	config, err := loaded.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	config.UserAgent, config.QPS, config.Burst = "ringfence", 50, 100
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	wide, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	typed := rest.CopyConfig(config)
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(typed)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	return &api{config: config, client: client, dynamic: wide, namespace: namespace}, nil
}

func (a *api) options() kube.Options { return kube.Options{Client: a.client, Dynamic: a.dynamic} }

func versionsOf(all []kube.Listed) []inforce.Version {
	versions := make([]inforce.Version, len(all))
	for i, p := range all {
		versions[i] = versionOf(p)
	}
	return versions
}

// versionOf is a policy of the API as reports are judged by.
func versionOf(p kube.Listed) inforce.Version {
	return inforce.Version{Policy: inforce.Policy{Kind: p.Kind, Namespace: p.Key.Namespace, Name: p.Key.Name, UID: p.UID, Generation: p.Generation},
		ResourceVersion: p.ResourceVersion}
}
