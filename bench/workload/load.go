// Package workload is what the benches measure with: a cluster, its updates and connections, read from the files of the
// common workload or made by a generator of the same kinds of objects.
package workload

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// LocalNode is the node that is looked at where one node is.
const LocalNode = "node-0"

// Workload is a decoded cluster with updates and connections.
type Workload struct {
	Namespaces  []cluster.Namespace
	Pods        []*cluster.Endpoint
	Policies    []*policy.Policy
	Updates     []Update
	Connections []flow.Tuple
}

// Update is one change. Those of one kind come one after another.
type Update struct {
	Kind  string
	Apply func(*compile.Compiler)
	// Again decodes the update once more, so that its object is as near as one that has just come in; nil if it was made
	// and not decoded.
	Again func() (Update, error)
}

// Feed gives everything to c, which has to be flushed then.
func (w *Workload) Feed(c *compile.Compiler) {
	for _, n := range w.Namespaces {
		c.SetNamespace(n)
	}
	for _, e := range w.Pods {
		c.SetPod(e, ruleset.Attachment{})
	}
	for _, p := range w.Policies {
		c.SetPolicy(p)
	}
}

// The parts of Kubernetes objects that the workload has.
type (
	meta struct {
		Name, Namespace string
		Labels          map[string]string
		OwnerReferences []struct{ Kind, Name string }
	}
	jsonNamespace struct{ Metadata meta }
	jsonPod       struct {
		Metadata meta
		Spec     struct{ NodeName string }
		Status   struct{ PodIPs []struct{ IP string } }
	}
	jsonSelector struct {
		MatchLabels      map[string]string
		MatchExpressions []struct {
			Key, Operator string
			Values        []string
		}
	}
	jsonPeer struct {
		PodSelector, NamespaceSelector *jsonSelector
		IPBlock                        *struct {
			CIDR   string
			Except []string
		}
	}
	jsonPort struct {
		Protocol      string
		Port, EndPort int
	}
	jsonRule struct {
		From, To []jsonPeer
		Ports    []jsonPort
	}
	jsonPolicy struct {
		Metadata meta
		Spec     struct {
			PodSelector     jsonSelector
			PolicyTypes     []string
			Ingress, Egress []jsonRule
		}
	}
	jsonOp struct {
		Op        string
		Pod       *jsonPod
		Policy    *jsonPolicy
		Namespace *jsonNamespace
	}
	jsonConn struct {
		Src, Dst, Proto string
		DstPort         uint16
	}
)

// Load reads the folder data/size: namespaces, pods and policies as Kubernetes JSON, an object a line; ops.jsonl with
// updates; conns.jsonl. Without data it generates the size.
func Load(data, size string) (*Workload, error) {
	if data == "" {
		return generate(size)
	}
	w, dir := &Workload{}, filepath.Join(data, size)
	err := errors.Join(
		lines(dir, "namespaces.jsonl", func(o jsonNamespace) error { return add(&w.Namespaces, o.decode) }),
		lines(dir, "pods.jsonl", func(o jsonPod) error { return add(&w.Pods, o.decode) }),
		lines(dir, "policies.jsonl", func(o jsonPolicy) error { return add(&w.Policies, o.decode) }),
		lines(dir, "ops.jsonl", func(line json.RawMessage) error {
			return add(&w.Updates, func() (Update, error) { return decodeUpdate(line) })
		}),
		lines(dir, "conns.jsonl", func(o jsonConn) error { return add(&w.Connections, o.decode) }))
	if err != nil {
		return nil, fmt.Errorf("read workload %s: %w", size, err)
	}
	return w, nil
}

// add appends the decoded form of an object.
func add[T any](list *[]T, decode func() (T, error)) error {
	v, err := decode()
	*list = append(*list, v)
	return err
}

func lines[T any](dir, name string, each func(T) error) error {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: generate the workload, or leave out -data", name)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := each(v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return s.Err()
}

func (o jsonNamespace) decode() (cluster.Namespace, error) {
	labels, err := label.NewSet(o.Metadata.Labels)
	return cluster.Namespace{Name: o.Metadata.Name, Labels: labels}, err
}

func (o jsonPod) decode() (*cluster.Endpoint, error) {
	labels, err := label.NewSet(o.Metadata.Labels)
	e := &cluster.Endpoint{Key: cluster.Key{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}, Labels: labels, Node: o.Spec.NodeName}
	for _, owner := range o.Metadata.OwnerReferences {
		e.Owner = cluster.Owner{Kind: owner.Kind, Name: owner.Name}
	}
	for _, ip := range o.Status.PodIPs {
		a, parseErr := netip.ParseAddr(ip.IP)
		e.Addresses, err = append(e.Addresses, a), errors.Join(err, parseErr)
	}
	return e, err
}

func (s *jsonSelector) decode() (label.Selector, error) {
	if s == nil {
		return label.Everything(), nil
	}
	var reqs []label.Requirement
	for k, v := range s.MatchLabels {
		reqs = append(reqs, label.Requirement{Key: k, Op: label.In, Values: []string{v}})
	}
	ops := map[string]label.Op{"In": label.In, "NotIn": label.NotIn, "Exists": label.Exists, "DoesNotExist": label.DoesNotExist}
	for _, e := range s.MatchExpressions {
		reqs = append(reqs, label.Requirement{Key: e.Key, Op: ops[e.Operator], Values: e.Values})
	}
	return label.NewSelector(reqs...)
}

func (o *jsonPolicy) decode() (*policy.Policy, error) {
	own, err := label.MatchLabels(map[string]string{cluster.NameLabel: o.Metadata.Namespace})
	pods, podsErr := o.Spec.PodSelector.decode()
	p := policy.Policy{Tier: policy.Namespace, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name,
		Subject: policy.Pods{Namespaces: own, Pods: pods}}
	for _, t := range o.Spec.PolicyTypes {
		p.IsolatesIngress = p.IsolatesIngress || t == "Ingress"
		p.IsolatesEgress = p.IsolatesEgress || t == "Egress"
	}
	var inErr, outErr error
	p.Ingress, inErr = rules(o.Spec.Ingress, own)
	p.Egress, outErr = rules(o.Spec.Egress, own)
	if err := errors.Join(err, podsErr, inErr, outErr); err != nil {
		return nil, err
	}
	return policy.New(p)
}

func rules(all []jsonRule, own label.Selector) (out []policy.Rule, err error) {
	for _, r := range all {
		rule := policy.Rule{Action: policy.Accept}
		for _, x := range append(r.From, r.To...) {
			p, peerErr := x.decode(own)
			rule.Peers, err = append(rule.Peers, p), errors.Join(err, peerErr)
		}
		if len(rule.Peers) == 0 {
			rule.Peers = []policy.Peer{{Kind: policy.PeerAnyone}}
		}
		for _, x := range r.Ports {
			proto, protoErr := flow.ParseProtocol(strings.ToLower(x.Protocol))
			rule.Ports = append(rule.Ports, policy.Port{Protocol: proto, First: uint16(x.Port), Last: uint16(max(x.Port, x.EndPort))})
			err = errors.Join(err, protoErr)
		}
		out = append(out, rule)
	}
	return out, err
}

func (x jsonPeer) decode(own label.Selector) (policy.Peer, error) {
	if x.IPBlock != nil {
		p := policy.Peer{Kind: policy.PeerBlock}
		var err error
		p.Block, err = netip.ParsePrefix(x.IPBlock.CIDR)
		for _, e := range x.IPBlock.Except {
			prefix, parseErr := netip.ParsePrefix(e)
			p.Except, err = append(p.Except, prefix), errors.Join(err, parseErr)
		}
		return p, err
	}
	spaces := own
	var err error
	if x.NamespaceSelector != nil {
		spaces, err = x.NamespaceSelector.decode()
	}
	pods, podsErr := x.PodSelector.decode()
	return policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: spaces, Pods: pods}}, errors.Join(err, podsErr)
}

func (o jsonConn) decode() (flow.Tuple, error) {
	from, err := netip.ParseAddr(o.Src)
	to, toErr := netip.ParseAddr(o.Dst)
	proto, protoErr := flow.ParseProtocol(strings.ToLower(o.Proto))
	// A pod always reaches itself, unless it asks by a Service; the workload means to have every connection judged.
	return flow.Tuple{Source: from, Destination: to, Protocol: proto, Port: o.DstPort, Translated: from == to}, errors.Join(err, toErr, protoErr)
}

func decodeUpdate(line []byte) (Update, error) {
	var o jsonOp
	if err := json.Unmarshal(line, &o); err != nil {
		return Update{}, err
	}
	apply, err := o.decode()
	return Update{o.Op, apply, func() (Update, error) { return decodeUpdate(line) }}, err
}

func (o jsonOp) decode() (func(*compile.Compiler), error) {
	switch {
	case o.Pod != nil:
		e, err := o.Pod.decode()
		if strings.HasPrefix(o.Op, "pod-remove") {
			return func(c *compile.Compiler) { c.DeletePod(e.Key) }, err
		}
		return func(c *compile.Compiler) { c.SetPod(e, ruleset.Attachment{}) }, err
	case o.Policy != nil:
		p, err := o.Policy.decode()
		if o.Op == "policy-remove" {
			return func(c *compile.Compiler) { c.DeletePolicy(p.Namespace, p.Name) }, err
		}
		return func(c *compile.Compiler) { c.SetPolicy(p) }, err
	case o.Namespace != nil:
		n, err := o.Namespace.decode()
		return func(c *compile.Compiler) { c.SetNamespace(n) }, err
	}
	return nil, fmt.Errorf("update %q without an object", o.Op)
}
