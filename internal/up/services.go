package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/names"
	"github.com/ringfence-project/ringfence/internal/podspec"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/service"
	servicenft "github.com/ringfence-project/ringfence/internal/service/nft"
)

// Where Services have their addresses, and where DNS is asked: the Service kube-dns has the tenth address, as clusters
// made by kubeadm have it.
var (
	serviceRanges = [2]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	dnsAddresses  = [2]netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}
)

// dnsPod answers DNS queries. It is a pod with the usual labels, behind the usual Service, so that policies which allow
// DNS in a cluster allow it here.
var (
	dnsPod     = cluster.Key{Namespace: "kube-system", Name: "dns"}
	dnsService = cluster.Key{Namespace: "kube-system", Name: "kube-dns"}
)

const dnsPort = 53

var (
	dnsLabels   = must(label.NewSet(map[string]string{"k8s-app": "kube-dns"}))
	dnsSelector = must(label.Parse("k8s-app=kube-dns"))
)

// must is for constants that cannot be written as such.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// services keeps Services and names in step with the pods that are ready.
type services struct {
	zoneFile, keptFile string
	say                func(format string, args ...any)

	mu     sync.Mutex
	kernel *servicenft.Kernel
	kept   service.Allocation
	table  *service.Table
	state  *cluster.State // as in force
	said   []string       // problems that were reported
}

func newServices(i runtime.Instance, say func(string, ...any)) (*services, error) {
	empty, err := cluster.NewState(cluster.Objects{})
	if err != nil {
		return nil, err
	}
	s := &services{state: empty, zoneFile: filepath.Join(i.Run, "zone.json"), keptFile: filepath.Join(i.State, "services.json"), say: say}
	data, err := os.ReadFile(s.keptFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	var kept keptFile
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil {
		return nil, fmt.Errorf("addresses of Services: %w; remove %s to have new ones given out", err, s.keptFile)
	}
	s.kept = service.Allocation{Addresses: map[cluster.Key][]netip.Addr{}, NodePorts: kept.NodePorts}
	for _, g := range kept.Addresses {
		s.kept.Addresses[g.Service] = g.Addresses
	}
	return s, nil
}

// keptFile is a service.Allocation as JSON, which has no maps with such keys.
type keptFile struct {
	Addresses []givenAddresses    `json:"addresses"`
	NodePorts []service.GivenPort `json:"nodePorts"`
}

type givenAddresses struct {
	Service   cluster.Key  `json:"service"`
	Addresses []netip.Addr `json:"addresses"`
}

func newKeptFile(a service.Allocation) keptFile {
	k := keptFile{NodePorts: a.NodePorts}
	for _, key := range slices.SortedFunc(maps.Keys(a.Addresses), cluster.Key.Compare) {
		k.Addresses = append(k.Addresses, givenAddresses{key, a.Addresses[key]})
	}
	return k
}

// resolv is a pod's /etc/resolv.conf.
func (s *services) resolv(pod cluster.Key) string {
	return names.ResolvConf(pod.Namespace, "", dnsAddresses[:]...)
}

// addDNS adds the DNS server, unless the manifests bring their own.
func (s *services) addDNS(d *runtime.Desired, executable string) {
	all, _ := d.Extra.([]service.Service)
	for _, own := range all {
		if own.Key == dnsService {
			return
		}
	}
	if slices.ContainsFunc(d.Objects.Endpoints, func(e *cluster.Endpoint) bool { return e.Key == dnsPod }) {
		return
	}
	d.Objects.Endpoints = append(slices.Clone(d.Objects.Endpoints), &cluster.Endpoint{Key: dnsPod, Labels: dnsLabels,
		Ports: []cluster.Port{{Name: "dns", Protocol: flow.UDP, Number: dnsPort}, {Name: "dns-tcp", Protocol: flow.TCP, Number: dnsPort}}})
	d.Workloads[dnsPod] = podspec.Spec{Command: fmt.Sprintf("exec %q dns --zone %q", executable, s.zoneFile),
		Readiness: []podspec.Probe{{TCP: dnsPort, Period: probePeriod, Timeout: probePeriod, Success: 1, Failure: 3}}}
	d.Extra = append(slices.Clone(all), service.Service{Key: dnsService, ClusterIPs: dnsAddresses[:], Selector: dnsSelector,
		Ports: []service.Port{{Name: "dns", Protocol: flow.UDP, Port: dnsPort, TargetName: "dns"},
			{Name: "dns-tcp", Protocol: flow.TCP, Port: dnsPort, TargetName: "dns-tcp"}}})
}

// extend is runtime.Options.Extend.
func (s *services) extend(_ context.Context, v runtime.View) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		if err := v.Net.SendOwn(v.Node, serviceRanges[:]...); err != nil {
			return fmt.Errorf("services: %w", err)
		}
		s.kernel = servicenft.New(v.Node)
	}
	all, _ := v.Extra.([]service.Service)
	table := service.Compute(all, v.State.Endpoints(), v.Ready, service.Options{
		Range4: serviceRanges[0], Range6: serviceRanges[1], Kept: s.kept})
	s.report(table.Problems)
	change, err := s.kernel.Apply(table)
	if err != nil {
		return fmt.Errorf("services: %w", err)
	}
	if !change.Zero() && reflect.DeepEqual(table, s.table) {
		s.say("somebody changed the Services in the kernel; they are put right")
	}
	s.table, s.state = table, v.State
	if kept := table.Allocation(); !reflect.DeepEqual(kept, s.kept) {
		if err := writeFile(s.keptFile, newKeptFile(kept)); err != nil {
			return err
		}
		s.kept = kept
	}
	named := *table
	named.Problems = nil // no name depends on them
	return writeFile(s.zoneFile, zoneData{Table: &named, Pods: v.State.Endpoints(), PodRanges: v.State.PodRanges()})
}

func (s *services) report(problems []service.Problem) {
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.String())
		if !slices.Contains(s.said, p.String()) {
			s.say("%s", p)
		}
	}
	s.said = texts
}

// current is the state of the cluster that is in force; an empty one before there is any.
func (s *services) current() *cluster.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// name is the Service that has an address and port, "" if none has.
func (s *services) name(at netip.AddrPort, p flow.Protocol) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table == nil {
		return ""
	}
	for _, f := range s.table.Frontends {
		if f.Address == at.Addr() && f.Port == at.Port() && f.Protocol == p {
			return f.Service.String()
		}
	}
	return ""
}

// writeFile replaces a file as a whole, so that a reader never sees half of it.
func writeFile(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
