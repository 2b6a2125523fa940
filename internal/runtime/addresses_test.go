//go:build linux

package runtime

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

func keys(names ...string) []cluster.Key {
	var all []cluster.Key
	for _, n := range names {
		all = append(all, cluster.Key{Namespace: "ns", Name: n})
	}
	return all
}

func anyNumber(int) bool { return true }

func mustOpen(t *testing.T, path string) *leases {
	t.Helper()
	l, err := openLeases(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustAssign(t *testing.T, l *leases, limit int, names ...string) map[string]int {
	t.Helper()
	if err := l.assign(keys(names...), limit, anyNumber); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	seen := map[int]string{}
	for _, k := range keys(names...) {
		n := l.number(k)
		if n < firstNumber || n >= limit || seen[n] != "" {
			t.Errorf("%s has number %d, which %q has, below %d", k, n, seen[n], limit)
		}
		got[k.Name], seen[n] = n, k.Name
	}
	return got
}

func TestNumbersDoNotDependOnThePath(t *testing.T) {
	one := mustOpen(t, filepath.Join(t.TempDir(), "a"))
	mustAssign(t, one, 65535, "a")
	mustAssign(t, one, 65535, "b", "x", "y")
	got := mustAssign(t, one, 65535, "c", "b", "a")
	two := mustOpen(t, filepath.Join(t.TempDir(), "a"))
	if diff := cmp.Diff(mustAssign(t, two, 65535, "a", "b", "c"), got); diff != "" {
		t.Error(diff)
	}
}

// TestNumbersAreKept crowds a small range, so that numbers are not all those that the names hash to.
func TestNumbersAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	l := mustOpen(t, path)
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprint("p", i))
	}
	first := mustAssign(t, l, firstNumber+12, names...)
	if diff := cmp.Diff(first, mustAssign(t, mustOpen(t, path), firstNumber+12, names...)); diff != "" {
		t.Errorf("the next process gives out others:\n%s", diff)
	}
	if err := l.assign(keys(append(names, "more")...), firstNumber+12, anyNumber); err == nil || !strings.Contains(err.Error(), "no address left") {
		t.Errorf("a full range: %v", err)
	}
}

func TestNumbersAreNotReusedAtOnce(t *testing.T) {
	l := mustOpen(t, filepath.Join(t.TempDir(), "a"))
	now := time.Unix(0, 0)
	l.now = func() time.Time { return now }
	const limit = firstNumber + 2
	gone := mustAssign(t, l, limit, "gone")["gone"]
	mustAssign(t, l, limit)
	if n := mustAssign(t, l, limit, "next")["next"]; n == gone {
		t.Error("the next pod has the number of one that is just gone, though another is free")
	}
	mustAssign(t, l, limit, "next", "third") // there is nothing better
	now = now.Add(reuseAfter + time.Second)
	mustAssign(t, l, limit, "fourth", "third")
}

func TestNumbersLeaveOthersAlone(t *testing.T) {
	l := mustOpen(t, filepath.Join(t.TempDir(), "a"))
	taken := mustAssign(t, l, 65535, "a")["a"]
	if err := l.assign(keys("a"), 65535, func(n int) bool { return n != taken }); err != nil || l.number(keys("a")[0]) == taken {
		t.Errorf("number %d, which somebody else has; %v", taken, err)
	}
}

func TestNumbered(t *testing.T) {
	for want, got := range map[string]netip.Addr{
		"10.244.1.2":          numbered(PodRanges[0], 258),
		"fd00:10:244::102":    numbered(PodRanges[1], 258),
		"192.0.2.130":         numbered(netip.MustParsePrefix("192.0.2.128/25"), 2),
		"2001:db8::1:0:0:102": numbered(netip.MustParsePrefix("2001:db8:0:0:1::/112"), 258),
	} {
		if got.String() != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestLastLines(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\nb\n", 5, "a\nb\n"}, {"a\nb\n", -1, "a\nb\n"},
		{"a\nb\n", 0, ""}, {"", 3, ""}, {"a", 1, "a"}, {"a\n\n", 1, "\n"},
	} {
		if got := string(lastLines([]byte(c.text), c.n)); got != c.want {
			t.Errorf("the last %d lines of %q are %q, want %q", c.n, c.text, got, c.want)
		}
	}
}
