// Package names answers DNS queries of pods: the names that Kubernetes gives to Services and pods (the specification
// "Kubernetes DNS-Based Service Discovery", version 1.1.0), and what pods have to be told to find them (ResolvConf).
//
// NewZone makes all names of a cluster from a service.Table: an immutable value that is built anew when the cluster
// changes and swapped into the Server, whose sockets are made by the caller in the namespace that they belong to.
//
//	web.shop.svc.cluster.local             A, AAAA   the cluster addresses; of a headless Service its ready pods'
//	web-0.web.shop.svc.cluster.local       A, AAAA   a ready pod of a headless Service, by its hostname or address
//	_http._tcp.web.shop.svc.cluster.local  SRV       a named port
//	db.shop.svc.cluster.local              CNAME     an ExternalName
//	10-0-0-7.shop.pod.cluster.local        A, AAAA   a pod that there is
//	7.0.0.10.in-addr.arpa                  PTR       a Service's address, or a pod's of a headless Service
//	dns-version.cluster.local              TXT
//
// A name that does not exist is NXDOMAIN, also that of a headless Service without ready pods; one that exists without
// the type that is asked for, or only as part of longer names, is an empty answer. Both carry the SOA.
//
// Names outside go to the upstream servers. Without these they are REFUSED: that they do not exist would be a lie, and
// a failure would be tried again.
package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/service"
)

// DefaultDomain is what clusters are called unless somebody chose otherwise.
const DefaultDomain = "cluster.local"

// ttl is short: a client that remembers a pod which has left cannot be told.
const ttl = 5

// Options are what else a zone needs. The zero value is good.
type Options struct {
	Domain    string         // "" is DefaultDomain
	Serial    uint32         // of the SOA; should grow with each zone
	Servers   []netip.Addr   // where the zone is served
	PodRanges []netip.Prefix // addresses of pods: whose name nobody else is asked for
}

// Zone is all names of a cluster at one moment. It is immutable.
type Zone struct {
	origin  string
	serial  uint32
	reverse []netip.Prefix
	nodes   map[string]node // by canonical name; one without records is only part of longer names
}

type node map[uint16][]dns.RR

// NewZone makes the zone of a table and of the pods that there are. The error names a domain that is none.
func NewZone(table *service.Table, pods []*cluster.Endpoint, o Options) (*Zone, error) {
	domain := o.Domain
	if domain == "" {
		domain = DefaultDomain
	}
	z := &Zone{origin: dns.CanonicalName(domain), serial: o.Serial, nodes: map[string]node{}}
	if _, ok := dns.IsDomainName(domain); !ok || z.origin == "." {
		return nil, fmt.Errorf("cluster domain %q is no domain name: use one like %s", domain, DefaultDomain)
	}
	for _, p := range slices.Concat(table.Ranges, o.PodRanges) {
		z.reverse = append(z.reverse, p.Masked())
	}
	z.addApex(o.Servers)
	for i := range table.Entries {
		z.addService(&table.Entries[i])
	}
	for _, p := range pods {
		for _, a := range p.Addresses {
			z.add(z.under(dashed(a), p.Namespace, "pod"), address(a))
		}
	}
	return z, nil
}

func (z *Zone) addApex(servers []netip.Addr) {
	server := z.under("ns", "dns")
	z.add(z.origin, z.soa(z.origin))
	z.add(z.origin, &dns.NS{Ns: server})
	z.add(server, nil)
	for _, a := range servers {
		z.add(server, address(a))
	}
	z.add(z.under("dns-version"), &dns.TXT{Txt: []string{"1.1.0"}})
}

// soa is the record that says that an answer is empty, for a zone of that name.
func (z *Zone) soa(name string) dns.RR {
	return &dns.SOA{Hdr: header(name, dns.TypeSOA), Ns: z.under("ns", "dns"), Mbox: z.under("hostmaster"),
		Serial: z.serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

func (z *Zone) addService(e *service.Entry) {
	s := e.Service
	name := z.under(s.Name, s.Namespace, "svc")
	switch s.Kind {
	case service.ExternalName:
		if _, ok := dns.IsDomainName(s.ExternalName); ok && s.ExternalName != "" {
			z.add(name, &dns.CNAME{Target: dns.CanonicalName(s.ExternalName)})
		}
	case service.Headless:
		z.addHeadless(e, name)
	default:
		for _, a := range e.Addresses {
			z.add(name, address(a))
			z.point(a, name)
		}
		for _, p := range s.Ports {
			if p.Name != "" && len(e.Addresses) > 0 {
				z.add(portName(p, name), &dns.SRV{Weight: 100, Port: p.Port, Target: name})
			}
		}
	}
}

// addHeadless gives each ready pod a name within the Service: its hostname, or else its address, one for each.
func (z *Zone) addHeadless(e *service.Entry, name string) {
	ready := 0
	for _, p := range e.Endpoints {
		if p.Ready {
			ready++
		}
	}
	for _, p := range e.Endpoints {
		if !p.Ready {
			continue
		}
		for _, a := range p.Addresses {
			label := p.Hostname
			if label == "" {
				label = dashed(a)
			}
			if !valid(label) {
				continue
			}
			own := strings.ToLower(label) + "." + name
			z.add(name, address(a))
			z.add(own, address(a))
			z.point(a, own)
			for i, port := range e.Service.Ports {
				if port.Name != "" && p.Ports[i] != 0 {
					weight := uint16(max(1, 100/ready))
					z.add(portName(port, name), &dns.SRV{Weight: weight, Port: p.Ports[i], Target: own})
				}
			}
		}
	}
}

func portName(p service.Port, name string) string {
	if !valid(p.Name) {
		return ""
	}
	return "_" + strings.ToLower(p.Name) + "._" + p.Protocol.String() + "." + name
}

// point adds an address's name.
func (z *Zone) point(a netip.Addr, name string) {
	if reverse, err := dns.ReverseAddr(a.String()); err == nil && name != "" {
		z.add(reverse, &dns.PTR{Ptr: name})
	}
}

// under is a name in the zone, or "" if one of the labels can be none: there is no such name then.
func (z *Zone) under(labels ...string) string {
	for _, l := range labels {
		if !valid(l) {
			return ""
		}
	}
	return strings.ToLower(strings.Join(labels, ".")) + "." + z.origin
}

// valid reports whether s is one label and needs no escapes.
func valid(s string) bool {
	for _, c := range []byte(s) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != "" && len(s) < 64
}

// add gives a name a record, once, and makes it and the names above it exist. rr may be nil.
func (z *Zone) add(name string, rr dns.RR) {
	if _, ok := dns.IsDomainName(name); !ok || name == "" || strings.HasPrefix(name, ".") {
		return
	}
	for at, end := 0, false; !end; at, end = dns.NextLabel(name, at) {
		if z.nodes[name[at:]] == nil {
			z.nodes[name[at:]] = node{}
		}
	}
	if rr == nil {
		return
	}
	kind := typeOf(rr)
	*rr.Header() = header(name, kind)
	for _, old := range z.nodes[name][kind] {
		if dns.IsDuplicate(old, rr) {
			return
		}
	}
	z.nodes[name][kind] = append(z.nodes[name][kind], rr)
}

func typeOf(rr dns.RR) uint16 {
	switch rr.(type) {
	case *dns.A:
		return dns.TypeA
	case *dns.AAAA:
		return dns.TypeAAAA
	case *dns.CNAME:
		return dns.TypeCNAME
	case *dns.SRV:
		return dns.TypeSRV
	case *dns.PTR:
		return dns.TypePTR
	case *dns.NS:
		return dns.TypeNS
	case *dns.TXT:
		return dns.TypeTXT
	case *dns.SOA:
		return dns.TypeSOA
	}
	return dns.TypeNone
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func address(a netip.Addr) dns.RR {
	if a.Unmap().Is4() {
		return &dns.A{A: a.Unmap().AsSlice()}
	}
	return &dns.AAAA{AAAA: a.AsSlice()}
}

// dashed is an address as a label: 10-0-0-7, fd00--7.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.Unmap().WithZone("").String())
}

// ResolvConf is the resolv.conf of a pod: names of its own namespace may be short.
func ResolvConf(namespace, domain string, servers ...netip.Addr) string {
	if domain == "" {
		domain = DefaultDomain
	}
	domain = strings.TrimSuffix(domain, ".")
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	fmt.Fprintf(&b, "search %s.svc.%s svc.%s %s\noptions ndots:5\n", namespace, domain, domain, domain)
	return b.String()
}

// reversed reads the name of an address, or of all addresses that begin so: 0.10.in-addr.arpa is 10.0.0.0/16.
func reversed(name string) (netip.Prefix, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		return prefixOf(labels, 10, 8, make([]byte, 4))
	}
	if labels, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		return prefixOf(labels, 16, 4, make([]byte, 16))
	}
	return netip.Prefix{}, false
}

// prefixOf reads labels of so many bits each, the last one first.
func prefixOf(labels string, base, bits int, addr []byte) (netip.Prefix, bool) {
	parts := strings.Split(labels, ".")
	if len(parts)*bits > len(addr)*8 {
		return netip.Prefix{}, false
	}
	slices.Reverse(parts)
	for i, p := range parts {
		v, err := strconv.ParseUint(p, base, bits)
		if err != nil {
			return netip.Prefix{}, false
		}
		at := i * bits
		addr[at/8] |= byte(v) << (8 - bits - at%8)
	}
	a, _ := netip.AddrFromSlice(addr)
	return netip.PrefixFrom(a, len(parts)*bits), true
}
