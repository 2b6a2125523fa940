package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func pod(name string, addrs ...string) *Endpoint {
	e := &Endpoint{Key: Key{"ns", name}}
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
	}
	return e
}

var (
	assign4 = netip.MustParsePrefix("10.244.0.0/29")
	assign6 = netip.MustParsePrefix("fd00:10:244::/64")
)

func assigned(t *testing.T, o *Objects) string {
	t.Helper()
	if err := AssignAddresses(o, assign4, assign6); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range o.Endpoints {
		lines = append(lines, fmt.Sprint(e.Name, e.Addresses))
	}
	return strings.Join(lines, " ")
}

func TestAssignAddressesKeepsWhatIsThereAndFillsTheRest(t *testing.T) {
	host := pod("host")
	host.HostNetwork = true
	o := &Objects{
		Nodes:     []Node{{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.3")}}},
		Endpoints: []*Endpoint{pod("c"), pod("b", "10.244.0.2"), host, pod("a")},
	}
	before := o.Endpoints[0]
	got := assigned(t, o)
	want := "a[10.244.0.4 fd00:10:244::2] b[10.244.0.2 fd00:10:244::3] c[10.244.0.5 fd00:10:244::4] host[]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(before.Addresses) != 0 {
		t.Error("an endpoint of the caller was changed")
	}
	if want := []netip.Prefix{assign4, assign6}; !slices.Equal(o.PodRanges, want) {
		t.Errorf("pod ranges %v, want %v", o.PodRanges, want)
	}
	if again := assigned(t, o); again != got {
		t.Errorf("a second time changed %s to %s", got, again)
	}
}

func TestAssignAddressesDoesNotDependOnOrder(t *testing.T) {
	a := assigned(t, &Objects{Endpoints: []*Endpoint{pod("a"), pod("b"), pod("c")}})
	b := assigned(t, &Objects{Endpoints: []*Endpoint{pod("c"), pod("a"), pod("b")}})
	if a != b {
		t.Errorf("%s\n%s", a, b)
	}
}

func TestAssignAddressesSaysWhenARangeIsFull(t *testing.T) {
	o := &Objects{}
	for i := range 6 { // 8 addresses less network, gateway and broadcast
		o.Endpoints = append(o.Endpoints, pod(fmt.Sprint("p", i)))
	}
	err := AssignAddresses(o, assign4, netip.Prefix{})
	if err == nil || !strings.Contains(err.Error(), "pod ns/p5: no address left in 10.244.0.0/29") {
		t.Errorf("got %v", err)
	}
}
