package follow

import (
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// Edits are what a compiler is told. Pods and policies are not those of the batch, but what became of them.
type Edits struct {
	Batch    kube.Batch
	Pods     []PodEdit
	Policies []PolicyEdit
}

// PodEdit is what a compiler is told of one pod.
type PodEdit struct {
	Key cluster.Key
	Pod *cluster.Endpoint // nil if it is gone
	At  ruleset.Attachment
}

// PolicyEdit is what a compiler is told of one policy.
type PolicyEdit struct {
	Key    cluster.Key
	Policy *policy.Policy // nil if it is gone
}

// Apply tells c.
func (x Edits) Apply(c *compile.Compiler) {
	b := x.Batch
	for name, n := range b.Namespaces {
		if n == nil {
			c.DeleteNamespace(name)
		} else {
			c.SetNamespace(*n)
		}
	}
	for name, n := range b.Nodes {
		if n == nil {
			c.DeleteNode(name)
		} else {
			c.SetNode(*n)
		}
	}
	if b.RangesChanged {
		c.SetPodRanges(b.Ranges)
	}
	for _, p := range x.Policies {
		if p.Policy == nil {
			c.DeletePolicy(p.Key.Namespace, p.Key.Name)
		} else {
			c.SetPolicy(p.Policy)
		}
	}
	for _, p := range x.Pods {
		if p.Pod == nil {
			c.DeletePod(p.Key)
		} else {
			c.SetPod(p.Pod, p.At)
		}
	}
}
