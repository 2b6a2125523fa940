// Command agent measures a node's agent against an API with many objects and no kubelets: its memory and CPU, how long it
// takes to start, and how long a policy takes from its creation to its enforcement. hack/kube/scale brings up the API, and
// a node with the interfaces of its pods.
//
//	agent -kubeconfig F fill      makes the objects
//	agent -kubeconfig F measure -ringfence bin/ringfence
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// The shape of the cluster: pods are spread over namespaces and nodes, and so are policies.
const (
	namespaces = 100
	nodes      = 100
	apps       = 10 // kinds of pods in a namespace
	teams      = 10 // kinds of namespaces
	node       = "node0"
	listen     = "127.0.0.1:9470"
)

type bench struct {
	client    kubernetes.Interface
	config    string
	pods      int
	policies  int
	rounds    int
	ringfence string
}

func main() {
	b := &bench{}
	flag.StringVar(&b.config, "kubeconfig", "", "the API")
	flag.IntVar(&b.pods, "pods", 10000, "how many pods; every hundredth is on the agent's node")
	flag.IntVar(&b.policies, "policies", 1000, "how many NetworkPolicies")
	flag.IntVar(&b.rounds, "rounds", 100, "how many policies are created to be measured")
	flag.StringVar(&b.ringfence, "ringfence", "bin/ringfence", "the program")
	flag.Parse()
	if err := b.run(context.Background(), flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, what string) error {
	config, err := clientcmd.BuildConfigFromFlags("", b.config)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 2000, 4000
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	switch what {
	case "fill":
		start := time.Now()
		err := b.fill(ctx)
		fmt.Printf("%d pods, %d policies, made in %v\n", b.pods, b.policies, time.Since(start).Round(time.Second))
		return err
	case "measure":
		return b.measure(ctx)
	}
	return errors.New("usage: agent -kubeconfig F fill|measure")
}
