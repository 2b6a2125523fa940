package flowlog_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// filled is a log with one record of each kind that filters tell apart.
func filled(t *testing.T) *flowlog.Log {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	l.Opened(conn(1, tcp(clientAddr, serverAddr, 389)), t0)                                                                         // 1
	l.Denied(denial(t0.Add(time.Minute), tcp(copyAddr, serverAddr, 389)))                                                           // 2
	l.Opened(conn(2, tcp(outsideAddr, serverAddr, 636)), t0.Add(2*time.Minute))                                                     // 3
	l.Opened(conn(3, flow.Tuple{Source: clientAddr, Destination: serverAddr, Protocol: flow.UDP, Port: 53}), t0.Add(3*time.Minute)) // 4
	l.Denied(denial(t0.Add(4*time.Minute), flow.Tuple{Source: nodeAddr, Destination: unknownAddr, Protocol: flow.ICMP}))            // 5
	return l
}

// ids writes which records were chosen: "125".
func ids(records []*flowlog.Record) string {
	var b strings.Builder
	for _, r := range records {
		b.WriteByte('0' + byte(r.ID))
	}
	return b.String()
}

func TestFilter(t *testing.T) {
	l := filled(t)
	for _, c := range []struct {
		o    flowlog.Options
		want string
	}{
		{flowlog.Options{}, "12345"},
		{flowlog.Options{Last: 2}, "45"},
		{flowlog.Options{Since: t0.Add(2 * time.Minute)}, "345"},
		{flowlog.Options{Since: t0.Add(2 * time.Minute), Last: 9}, "345"},
		{flowlog.Options{Namespaces: []string{"orders"}}, "124"},
		{flowlog.Options{Namespaces: []string{"customers", "orders"}}, "1234"},
		{flowlog.Options{Namespaces: []string{"nowhere"}}, ""},
		{flowlog.Options{Verdict: "deny"}, "25"},
		{flowlog.Options{Verdict: "allow", Last: 1}, "4"},
		{flowlog.Options{Selector: "role=ldap-client"}, "14"},
		{flowlog.Options{Selector: "!app"}, "12345"}, // the server has none, nor has the node
		{flowlog.Options{Selector: "app,!role"}, "2"},
		{flowlog.Options{Ports: []string{"389"}}, "12"},
		{flowlog.Options{Ports: []string{"53/tcp"}}, ""},
		{flowlog.Options{Ports: []string{"53", "icmp"}}, "45"},
		{flowlog.Options{From: "orders/credit-check"}, "14"},
		{flowlog.Options{From: "orders/credit-check-copy"}, "2"},
		{flowlog.Options{From: "orders/deployment/credit-check"}, "14"},
		{flowlog.Options{From: "orders/pod/credit-check"}, ""},
		{flowlog.Options{From: "orders/pod/credit-check-7d"}, "14"},
		{flowlog.Options{From: "credit-check-copy"}, "2"},
		{flowlog.Options{From: "orders/*"}, "124"},
		{flowlog.Options{From: "*"}, "124"},
		{flowlog.Options{From: "orders/app=credit,!role"}, "2"},
		{flowlog.Options{From: "customers/app=credit"}, ""},
		{flowlog.Options{From: "node/worker"}, "5"},
		{flowlog.Options{From: "203.0.113.0/24"}, "3"},
		{flowlog.Options{From: "::ffff:203.0.113.9"}, "3"},
		{flowlog.Options{To: "10.0.0.99"}, "5"},
		{flowlog.Options{To: "customers/ldap", Verdict: "deny"}, "2"},
		{flowlog.Options{From: "customers/ldap"}, ""},
		{flowlog.Options{Pod: "customers/ldap"}, "1234"},
		{flowlog.Options{Policy: "customers/ldap-clients", Verdict: "deny"}, "25"},
		{flowlog.Options{Policy: "ldap-clients", Ports: []string{"636"}}, "3"},
		{flowlog.Options{Policy: "other"}, ""},
	} {
		q, err := c.o.Query()
		if err != nil {
			t.Errorf("%+v: %v", c.o, err)
			continue
		}
		if got := ids(l.Records(q)); got != c.want {
			t.Errorf("%+v chooses %q, want %q", c.o, got, c.want)
		}
	}
}

func TestOptionsRefuse(t *testing.T) {
	for _, c := range []struct {
		o    flowlog.Options
		want string
	}{
		{flowlog.Options{Last: -1}, "last"},
		{flowlog.Options{Verdict: "maybe"}, "want allow or deny"},
		{flowlog.Options{Ports: []string{"70000"}}, "port"},
		{flowlog.Options{Ports: []string{"80/icmp"}}, "has no ports"},
		{flowlog.Options{Ports: []string{"http"}}, "want a number"},
		{flowlog.Options{Ports: []string{"80/xyz"}}, "want a number"},
		{flowlog.Options{Ports: []string{""}}, "want a number"},
		{flowlog.Options{From: "a/b/c/d"}, "from"},
		{flowlog.Options{To: "a//b"}, "to"},
		{flowlog.Options{Selector: "app in web"}, "label key"},
	} {
		if _, err := c.o.Query(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want an error with %q", c.o, err, c.want)
		}
	}
}

// TestQueriesAreTheConjunctionOfTheirParts: what two filters choose together is what each chooses of the other's.
func TestQueriesAreTheConjunctionOfTheirParts(t *testing.T) {
	l := filled(t)
	parts := []func(*flowlog.Options){
		func(o *flowlog.Options) { o.Namespaces = []string{"orders"} },
		func(o *flowlog.Options) { o.Verdict = "allow" },
		func(o *flowlog.Options) { o.Ports = []string{"389", "icmp"} },
		func(o *flowlog.Options) { o.From = "orders/credit-check" },
		func(o *flowlog.Options) { o.To = "customers/*" },
		func(o *flowlog.Options) { o.Selector = "role" },
		func(o *flowlog.Options) { o.Policy = "ldap-clients" },
		func(o *flowlog.Options) { o.Since = t0.Add(time.Minute) },
		func(o *flowlog.Options) { o.Pod = "orders/*" },
	}
	chosen := func(t *rapid.T, set ...int) map[uint64]bool {
		var o flowlog.Options
		for _, i := range set {
			parts[i](&o)
		}
		q, err := o.Query()
		if err != nil {
			t.Fatal(err)
		}
		found := map[uint64]bool{}
		for _, r := range l.Records(q) {
			found[r.ID] = true
		}
		return found
	}
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.SliceOfDistinct(rapid.IntRange(0, len(parts)-1), rapid.ID).Draw(t, "parts")
		all := chosen(t, set...)
		for id := uint64(1); id <= 5; id++ {
			want := true
			for _, i := range set {
				want = want && chosen(t, i)[id]
			}
			if all[id] != want {
				t.Fatalf("record %d: %v together, %v one by one", id, all[id], want)
			}
		}
	})
}

func FuzzOptions(f *testing.F) {
	f.Add("orders/app=x", "53/udp", "a in (b)")
	f.Add("[::1]", "icmp", "")
	f.Fuzz(func(t *testing.T, end, port, selector string) {
		q, err := flowlog.Options{From: end, To: end, Ports: []string{port}, Selector: selector}.Query()
		if err == nil {
			q.Filter.Matches(&flowlog.Record{})
		}
	})
}
