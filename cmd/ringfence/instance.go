package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/runtime"
)

// instanceFlags say which running Ringfence is meant.
type instanceFlags struct{ name, run, state string }

func (f *instanceFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "name", "default", "name of the instance; several can run beside each other")
	cmd.Flags().StringVar(&f.run, "run", "/run/ringfence", "folder for what runs")
	cmd.Flags().StringVar(&f.state, "state", "/var/lib/ringfence", "folder for what is kept")
}

func (f *instanceFlags) instance() (runtime.Instance, error) {
	return runtime.NewInstance(f.name, f.run, f.state)
}

// runningPod finds a pod by its name, or by the start of it if only one begins so.
func runningPod(i runtime.Instance, namespace, text string) (cluster.Key, error) {
	k := cluster.Key{Namespace: namespace, Name: text}
	if ns, name, ok := strings.Cut(text, "/"); ok {
		k = cluster.Key{Namespace: ns, Name: name}
	}
	record, there, err := i.Read()
	if err != nil {
		return k, err
	}
	if !there {
		return k, fmt.Errorf("instance %s does not run; start it with \"ringfence up\"", i.Name)
	}
	var like []string
	for _, p := range record.Pods {
		if p.Key == k {
			return k, nil
		}
		if p.Key.Namespace == k.Namespace && strings.HasPrefix(p.Key.Name, k.Name) {
			like = append(like, p.Key.String())
		}
	}
	switch {
	case len(like) == 1:
		ns, name, _ := strings.Cut(like[0], "/")
		return cluster.Key{Namespace: ns, Name: name}, nil
	case len(like) > 1:
		return k, fmt.Errorf("%s is not one pod but could be %s", k, strings.Join(like, ", "))
	}
	return k, fmt.Errorf("there is no pod %s; \"ringfence status\" lists all", k)
}
