//go:build linux

// Package cni closes the gap between the start of a pod and the moment at which the agent knows it.
//
// A container runtime calls CNI plugins, one after the other, before the first process of a pod starts. Ours is the last
// in the chain. It changes nothing about the pod's network: it makes sure that the closed table is in the kernel, so that
// a pod which the agent has not seen yet can neither send nor be reached, and writes down which addresses were given out
// on which interface, for the agent (Record). If the table cannot be loaded the pod does not start. This holds on a fresh
// node, while the agent is down, and after a reboot, as the runtime knows the plugin from a file of the node's own.
//
// Install puts the plugin there: a copy of the running binary, and an entry at the end of the node's configuration
// list, whose other plugins stay as they are.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// PluginType is the plugin's type in network configurations, and so the name of its binary.
const PluginType = "ringfence"

// patience is how long a pod's start may wait for the kernel. Loading the table takes milliseconds.
const patience = 20 * time.Second

// Guard is what keeps unknown pods closed. Its functions are called from several processes at once.
type Guard interface {
	// Close makes sure that the addresses of a pod that is about to start are closed until somebody who knows the pod
	// opens them, and with them, as far as they are told, the ranges that the node's pods get theirs from. What an
	// earlier pod at one of the addresses was allowed is not allowed any more.
	Close(ctx context.Context, r Record, ranges []netip.Prefix) error
	// Check returns an error if the kernel does not keep the ranges closed.
	Check(ctx context.Context, ranges []netip.Prefix) error
}

// config is the plugin's entry in a configuration list, as the runtime hands it over.
type config struct {
	types.PluginConf
	Entry
}

// Entry is what the plugin's entry in a configuration list says.
type Entry struct {
	Records  string         `json:"records,omitempty"`  // folder of the records; DefaultRecords if empty
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"` // ranges of this node's pods, where they are known
}

// podArgs are what Kubernetes runtimes say about a pod in CNI_ARGS.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the names are the runtimes'
	K8S_POD_NAME      types.UnmarshallableString
	K8S_POD_UID       types.UnmarshallableString
}

// Versions are the versions of the CNI specification that the plugin speaks: all with chained plugins' results.
func Versions() version.PluginInfo { return version.VersionsStartingFrom("0.3.0") }

// Plugin returns the plugin's commands.
func Plugin(g Guard) skel.CNIFuncs {
	p := plugin{g}
	return skel.CNIFuncs{Add: p.add, Check: p.check, Del: p.del, GC: p.gc, Status: p.status}
}

type plugin struct{ guard Guard }

func (p plugin) add(args *skel.CmdArgs) error {
	c, record, err := attachment(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.guard.Close(ctx, record, c.PodCIDRs); err != nil {
		return fmt.Errorf("ringfence: the pod does not start, as its addresses cannot be closed until the agent knows it: %w", err)
	}
	if err := record.write(c.Records); err != nil {
		return types.NewError(types.ErrIOFailure, "ringfence: cannot write down the pod's addresses", err.Error())
	}
	return types.PrintResult(c.PrevResult, c.CNIVersion)
}

// check finds out whether what add did is still so.
func (p plugin) check(args *skel.CmdArgs) error {
	c, want, err := attachment(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.guard.Check(ctx, append(slices.Clone(c.PodCIDRs), want.prefixes()...)); err != nil {
		return fmt.Errorf("ringfence: unknown pods are not closed: %w", err)
	}
	have, err := ReadRecords(c.Records)
	if slices.ContainsFunc(have, want.equal) {
		return nil
	}
	return errors.Join(fmt.Errorf("ringfence: no record of %s %s at %s", args.ContainerID, args.IfName, want.Interface), err)
}

// del forgets the pod. The table stays: it is the node's.
func (p plugin) del(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	return remove(c.Records, args.ContainerID, args.IfName)
}

// gc forgets the pods of this network that the runtime does not know any more.
func (p plugin) gc(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	records, err := ReadRecords(c.Records)
	errs := []error{err}
	for _, r := range records {
		valid := slices.Contains(c.ValidAttachments, types.GCAttachment{ContainerID: r.ContainerID, IfName: r.IfName})
		if r.Network == c.Name && !valid {
			errs = append(errs, remove(c.Records, r.ContainerID, r.IfName))
		}
	}
	return errors.Join(errs...)
}

// status reports whether pods could be closed now.
func (p plugin) status(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.guard.Close(ctx, Record{}, c.PodCIDRs); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "ringfence: unknown pods cannot be closed", err.Error())
	}
	return nil
}

func parse(args *skel.CmdArgs) (config, error) {
	var c config
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "ringfence: cannot read the network configuration", err.Error())
	}
	if c.Records == "" {
		c.Records = DefaultRecords
	}
	return c, nil
}

// attachment is what the plugins before ours plugged in.
func attachment(args *skel.CmdArgs) (config, Record, error) {
	var r Record
	c, err := parse(args)
	if err != nil {
		return c, r, err
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return c, r, types.NewError(types.ErrDecodingFailure, "ringfence: cannot read the result of the plugin before", err.Error())
	}
	if c.PrevResult == nil {
		return c, r, types.NewError(types.ErrInvalidNetworkConfig,
			"ringfence: has to come after a plugin that makes the interface, in a list", "there is no prevResult")
	}
	result, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return c, r, types.NewError(types.ErrDecodingFailure, "ringfence: cannot read the result of the plugin before", err.Error())
	}
	r = Record{Network: c.Name, ContainerID: args.ContainerID, IfName: args.IfName}
	if r.Addresses, err = addresses(result, args.IfName); err != nil {
		return c, r, err
	}
	if r.Interface, err = nodeEnd(args.Netns, args.IfName); err != nil {
		return c, r, err
	}
	var pod podArgs
	if err := types.LoadArgs(args.Args, &pod); err == nil { // whoever calls without Kubernetes' names has other ones
		r.Namespace, r.Pod, r.UID = string(pod.K8S_POD_NAMESPACE), string(pod.K8S_POD_NAME), string(pod.K8S_POD_UID)
	}
	return c, r, nil
}

// addresses are those that the result gives to the interface, or to none in particular.
func addresses(result *types100.Result, ifName string) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) && result.Interfaces[*i].Name != ifName {
			continue
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, types.NewError(types.ErrDecodingFailure, "ringfence: wrong address in the result of the plugin before", ip.Address.String())
		}
		all = append(all, a.Unmap())
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), nil
}

// nodeEnd finds the other end of the pod's veth. It asks the kernel, as not every plugin names it in its result.
func nodeEnd(sandbox, ifName string) (string, error) {
	pod, err := netns.Open(sandbox)
	if err != nil {
		return "", types.NewError(types.ErrInvalidNetNS, "ringfence: cannot enter the pod's network namespace", err.Error())
	}
	defer pod.Close()
	var link netlink.Link
	err = pod.Do(func() error {
		link, err = netlink.LinkByName(ifName)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ringfence: interface %s of the pod: %w", ifName, err)
	}
	if link.Type() != "veth" {
		return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("ringfence: %s of the pod is a %s", ifName, link.Type()),
			"its packets do not pass this node's netfilter, so nothing could fence it; only veth does")
	}
	peer, err := netlink.LinkByIndex(link.Attrs().ParentIndex)
	if err != nil {
		return "", fmt.Errorf("ringfence: the node's end of %s: %w", ifName, err)
	}
	if peer.Type() != "veth" || peer.Attrs().ParentIndex != link.Attrs().Index {
		return "", fmt.Errorf("ringfence: the other end of %s is not in the node's network namespace", ifName)
	}
	return peer.Attrs().Name, nil
}

// prefixes are the record's addresses as ranges of one.
func (r Record) prefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range r.Addresses {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

func (r Record) equal(o Record) bool {
	return r.Network == o.Network && r.ContainerID == o.ContainerID && r.IfName == o.IfName &&
		r.Namespace == o.Namespace && r.Pod == o.Pod && r.UID == o.UID &&
		r.Interface == o.Interface && slices.Equal(r.Addresses, o.Addresses)
}
