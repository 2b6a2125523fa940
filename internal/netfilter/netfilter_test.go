//go:build linux

package netfilter

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(Attrs(nil).Text(1, "name").U32(2, 7).Nest(3, Attrs(nil).U8(1, 9))))
	f.Add([]byte{3, 0, 1, 0})
	f.Add([]byte{255, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again Attrs
		for kind, value := range Each(b) {
			again = again.Bytes(kind, value)
		}
		got, want := Parse(again), Parse(b)
		if !maps.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%x is read as %x, and that as %x", b, want, got)
		}
		if canonical(again, nil) != canonical(b, nil) {
			t.Errorf("%x and %x are one rule with two texts", b, again)
		}
	})
}

// TestRangesAreReadAsWritten takes ranges through the elements that a batch makes of them.
func TestRangesAreReadAsWritten(t *testing.T) {
	m := Map{Ref: Ref{Inet, "ranges"}, Interval: true}
	want := map[string]string{"\x00\x00\x00\x09": "", "\x00\x0a\x00\x0a": "", "\x01\x00\x01\xff": "", "\xff\xf0\xff\xff": ""}
	b := &Batch{Table: "t"}
	for key, value := range want {
		b.Put(m, key, value)
	}
	got, edges := map[string]string{}, []rangeEdge(nil)
	for _, message := range b.Messages() {
		for _, e := range Each(Parse(message.Data[HeaderLen:])[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			element := Parse(e)
			edges = append(edges, rangeEdge{key: string(Parse(element[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE]),
				end: element[unix.NFTA_SET_ELEM_FLAGS] != nil})
		}
	}
	joinRanges(edges, got)
	if !maps.Equal(got, want) {
		t.Errorf("ranges %x are read as %x", want, got)
	}
}

func TestDifferencesAreNamed(t *testing.T) {
	want, got := NewImage(), NewImage()
	for _, i := range []*Image{want, got} {
		i.AddTable(Inet)
		i.AddChain(Chain{Ref: Ref{Inet, "both"}})
	}
	if d := Differences(want, got); len(d) != 0 {
		t.Errorf("images of the same differ: %q", d)
	}
	want.AddCounter(Ref{Inet, "one"})
	got.AddChain(Chain{Ref: Ref{Bridge, "two"}})
	got.SetRules(Ref{Inet, "both"}, []Rule{{Comment: "more"}})
	expect := []string{"chain both: it has 1 rules, not 0", "bridge chain two is not ours", "counter one is missing"}
	if d := Differences(want, got); !slices.Equal(slices.Sorted(slices.Values(d)), slices.Sorted(slices.Values(expect))) {
		t.Errorf("differences %q, want %q", d, expect)
	}
}
