//go:build linux

// Package nodes reads the flows of all nodes of a cluster. Each node's agent keeps its own; they are asked by a command in
// the agent's container, through the API server, so that Kubernetes says who may ask and nothing listens on the network.
//
// A connection between pods of two nodes is seen on both. What is told is one record of it: see joiner.
package nodes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// What the chart calls them.
const (
	Namespace = "ringfence-system"
	Selector  = "app.kubernetes.io/name=ringfence"
	Container = "agent"
)

// DefaultLimit is how many records of all nodes are held at once.
const DefaultLimit = 200_000

// parallel is how many agents are asked at once for what they have.
const parallel = 16

// Agents are the agents of a cluster. They may be asked from several goroutines at once.
type Agents struct {
	Client kubernetes.Interface
	Exec   Exec
	// Namespace is where the agents' pods are; empty is the constant Namespace.
	Namespace string
	// Wanted says which nodes' agents are asked; nil is all.
	Wanted func(node string) bool
	// Limit is how many records are held at once; of more, the newest. 0 is DefaultLimit.
	Limit int
	// Warn is told in one line of what is missing or was lost, and may be called from several goroutines at once; nil is
	// told nothing.
	Warn func(text string)
}

// Missing is a node whose flows could not be had.
type Missing struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// agent is a pod that runs one.
type agent struct {
	pod, node string
	notReady  string // why it cannot be asked; "" if it can
}

func (a *Agents) namespace() string { return cmp.Or(a.Namespace, Namespace) }

func (a *Agents) warn(format string, args ...any) {
	if a.Warn != nil {
		a.Warn(fmt.Sprintf(format, args...))
	}
}

// find lists the agents that are wanted, by node, and the version of the list.
func (a *Agents) find(ctx context.Context) ([]agent, string, error) {
	pods, err := a.Client.CoreV1().Pods(a.namespace()).List(ctx, metav1.ListOptions{LabelSelector: Selector})
	if err != nil {
		return nil, "", fmt.Errorf("find the agents: %w", err)
	}
	var found []agent
	for i := range pods.Items {
		if g, ok := a.agentOf(&pods.Items[i]); ok {
			found = append(found, g)
		}
	}
	slices.SortFunc(found, func(x, y agent) int { return cmp.Or(strings.Compare(x.node, y.node), strings.Compare(x.pod, y.pod)) })
	return oneEach(found), pods.ResourceVersion, nil
}

// Running returns the nodes that have an agent, and of each why it cannot be asked, "" if it can.
func (a *Agents) Running(ctx context.Context) (map[string]string, error) {
	found, _, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	byNode := map[string]string{}
	for _, g := range found {
		byNode[g.node] = g.notReady
	}
	return byNode, nil
}

// oneEach keeps one agent of each node, one that can be asked if there is any: while agents are replaced there may be two.
func oneEach(found []agent) []agent {
	var one []agent
	for _, g := range found {
		last := len(one) - 1
		switch {
		case last < 0 || one[last].node != g.node:
			one = append(one, g)
		case one[last].notReady != "":
			one[last] = g
		}
	}
	return one
}

// errNoAgents says where nobody was found.
func (a *Agents) errNoAgents() error {
	which := ""
	if a.Wanted != nil {
		which = " on the nodes that were asked for"
	}
	return fmt.Errorf("there is no agent%s: no pod with the label %s and a container %q in namespace %s; if they are elsewhere, --agents-namespace says where",
		which, Selector, Container, a.namespace())
}

// agentOf makes an agent of a pod, if it is one's that is wanted.
func (a *Agents) agentOf(p *corev1.Pod) (agent, bool) {
	isAgent := slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == Container })
	if !isAgent || p.Spec.NodeName == "" || a.Wanted != nil && !a.Wanted(p.Spec.NodeName) {
		return agent{}, false
	}
	g := agent{pod: p.Name, node: p.Spec.NodeName, notReady: "its agent does not run"}
	for _, c := range p.Status.ContainerStatuses {
		if c.Name != Container {
			continue
		}
		switch {
		case c.State.Running != nil && p.DeletionTimestamp == nil:
			g.notReady = ""
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			g.notReady += ": " + c.State.Waiting.Reason
		}
	}
	return g, true
}

// isForAll reports whether there is no use in asking other agents.
func isForAll(err error) bool {
	var stop stopped
	return errors.Is(err, errForbidden) || errors.As(err, &stop)
}

// each asks the agents, some at once, and returns those whose flows could not be had, by node. If nobody could be asked,
// that is the error.
func (a *Agents) each(ctx context.Context, agents []agent, ask func(context.Context, agent) error) ([]Missing, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failures := make([]error, len(agents))
	places, done := make(chan struct{}, parallel), make(chan struct{})
	for i, g := range agents {
		go func() {
			defer func() { done <- struct{}{} }()
			places <- struct{}{}
			defer func() { <-places }()
			if g.notReady != "" {
				failures[i] = errors.New(g.notReady)
				return
			}
			if ctx.Err() == nil {
				failures[i] = ask(ctx, g)
			}
			if isForAll(failures[i]) {
				cancel(failures[i])
			}
		}()
	}
	for range agents {
		<-done
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var missing []Missing
	for i, err := range failures {
		if err != nil {
			missing = append(missing, Missing{agents[i].node, err.Error()})
			a.warn("node %s: %v", agents[i].node, err)
		}
	}
	if len(missing) == len(agents) {
		return missing, fmt.Errorf("none of %d agents could be asked; the first one: node %s: %s", len(agents), missing[0].Node, missing[0].Why)
	}
	return missing, nil
}
