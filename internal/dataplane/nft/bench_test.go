//go:build linux

package nft

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// BenchmarkReplace puts a whole ruleset in force.
func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{100, 1000, 10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d, _ := bare(b)
			r := many(n)
			for b.Loop() {
				replace(b, d, r)
			}
		})
	}
}

// BenchmarkPod adds one pod of a known kind and takes it away again.
func BenchmarkPod(b *testing.B) {
	for _, n := range []int{100, 1000, 10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d, _ := bare(b)
			r := many(n)
			replace(b, d, r)
			pod := netip.MustParsePrefix("10.255.0.1/32")
			on := []ruleset.Op{{Kind: ruleset.SetAddress, Prefix: pod, Identity: 5},
				{Kind: ruleset.SetLocal, Prefix: pod, Attachment: ruleset.Attachment{Interface: "veth-new"}}}
			off := []ruleset.Op{{Kind: ruleset.DeleteLocal, Prefix: pod}, {Kind: ruleset.DeleteAddress, Prefix: pod}}
			for generation := uint64(1); b.Loop(); generation += 2 {
				for i, ops := range [][]ruleset.Op{on, off} {
					from := generation + uint64(i)
					if err := d.Apply(b.Context(), ruleset.Delta{From: from, To: from + 1, Ops: ops}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkRealized reads everything back and checks it.
func BenchmarkRealized(b *testing.B) {
	for _, n := range []int{1000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d, _ := bare(b)
			replace(b, d, many(n))
			for b.Loop() {
				if _, err := d.Realized(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRowDrops reads the counters of rows.
func BenchmarkRowDrops(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d, _ := bare(b)
			r := ruleset.New()
			r.Generation = 1
			for i := range n {
				r.Rows[ruleset.RowID(i+1)] = ruleset.Uniform(ruleset.Cell{}).With(flow.TCP, uint16(i), uint16(i), ruleset.Cell{Verdict: flow.Allow})
			}
			replace(b, d, r)
			for b.Loop() {
				if rows, err := d.RowDrops(b.Context()); err != nil || len(rows) != n {
					b.Fatal(len(rows), err)
				}
			}
		})
	}
}
