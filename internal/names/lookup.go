package names

import (
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// maxChain bounds how many CNAMEs are followed: ExternalNames may point at each other.
const maxChain = 8

// Answer is what a zone says to a question.
type Answer struct {
	Ours      bool // the name is in the zone; if not, somebody else has to be asked
	Rcode     int
	Records   []dns.RR
	Authority []dns.RR
	Extra     []dns.RR
	Elsewhere string // if not "": the records end in a CNAME to this name, which is not ours
}

// Lookup answers a question of class IN. The records are the caller's own.
func (z *Zone) Lookup(name string, kind uint16) Answer {
	owner, name := name, dns.CanonicalName(name)
	a := Answer{Ours: z.owns(name)}
	if !a.Ours {
		return a
	}
	for range maxChain {
		here, exists := z.nodes[name]
		if !exists {
			a.Rcode = dns.RcodeNameError
			a.Authority = []dns.RR{z.soa(z.zoneOf(name))}
			return a
		}
		if alias := here[dns.TypeCNAME]; len(alias) > 0 && kind != dns.TypeCNAME && kind != dns.TypeANY {
			a.Records = append(a.Records, owned(alias, owner)...)
			name = alias[0].(*dns.CNAME).Target
			owner = name
			if !z.owns(name) {
				a.Elsewhere = name
				return a
			}
			continue
		}
		found := z.records(here, kind, owner)
		if len(found) == 0 {
			a.Authority = []dns.RR{z.soa(z.zoneOf(name))}
		}
		a.Records = append(a.Records, found...)
		a.Extra = z.targets(found)
		return a
	}
	return Answer{Ours: true, Rcode: dns.RcodeServerFailure} // aliases in a circle
}

func (z *Zone) records(n node, kind uint16, owner string) []dns.RR {
	if kind != dns.TypeANY {
		return owned(n[kind], owner)
	}
	var kinds []uint16
	for k := range n {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	var all []dns.RR
	for _, k := range kinds {
		all = append(all, owned(n[k], owner)...)
	}
	return all
}

// owned copies records, and gives them the name in the letters in which it was asked for: some resolvers compare.
func owned(records []dns.RR, owner string) []dns.RR {
	var out []dns.RR
	for _, rr := range records {
		rr = dns.Copy(rr)
		rr.Header().Name = owner
		out = append(out, rr)
	}
	return out
}

// targets are the addresses of what SRV records point to.
func (z *Zone) targets(records []dns.RR) []dns.RR {
	var out []dns.RR
	seen := map[string]bool{}
	for _, rr := range records {
		if srv, ok := rr.(*dns.SRV); ok && !seen[srv.Target] {
			seen[srv.Target] = true
			n := z.nodes[srv.Target]
			out = append(out, owned(n[dns.TypeA], srv.Target)...)
			out = append(out, owned(n[dns.TypeAAAA], srv.Target)...)
		}
	}
	return out
}

// owns reports whether a canonical name is the zone's: below its domain, or that of an address in the cluster.
func (z *Zone) owns(name string) bool {
	if dns.IsSubDomain(z.origin, name) {
		return true
	}
	p, ok := reversed(name)
	if !ok {
		return false
	}
	return len(z.nodes[name]) > 0 || z.rangeOf(p).IsValid()
}

// rangeOf is the cluster's range that has all of p.
func (z *Zone) rangeOf(p netip.Prefix) netip.Prefix {
	for _, r := range z.reverse {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return r
		}
	}
	return netip.Prefix{}
}

// zoneOf is the name above name that the SOA is for: the domain, or the reverse name of the range, cut to whole labels.
func (z *Zone) zoneOf(name string) string {
	p, ok := reversed(name)
	if !ok {
		return z.origin
	}
	bits := 8
	if p.Addr().Is6() {
		bits = 4
	}
	r := z.rangeOf(p)
	if !r.IsValid() { // an address outside the ranges that has a name all the same
		return name
	}
	at := 0
	for range p.Bits()/bits - r.Bits()/bits {
		at, _ = dns.NextLabel(name, at)
	}
	return name[at:]
}
