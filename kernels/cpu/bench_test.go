//go:build cgo

package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

var benchTypes = []quant.Type{quant.Q4_0, quant.Q8_0, quant.Q4_K, quant.Q6_K, quant.F16}

// BenchmarkDecode multiplies one row with 512 MiB of matrices, each of which is read once a round.
func BenchmarkDecode(b *testing.B) {
	for _, typ := range benchTypes {
		for _, landed := range []bool{true, false} {
			b.Run(fmt.Sprintf("%v/landed=%v", typ, landed), func(b *testing.B) {
				benchProducts(b, typ, landed, 1, 512<<20, 768)
			})
		}
	}
}

// BenchmarkBatch multiplies batches; it reports GOP/s, a multiply-add being two.
func BenchmarkBatch(b *testing.B) {
	for _, typ := range benchTypes {
		for _, m := range []int{2, 8, 64} {
			b.Run(fmt.Sprintf("%v/m=%d", typ, m), func(b *testing.B) {
				benchProducts(b, typ, true, m, 64<<20, 768)
			})
		}
	}
}

func benchProducts(b *testing.B, typ quant.Type, landed bool, m, bytes, rows int) {
	const cols = 2048
	d := open(b, "", 0)
	rng := rand.New(rand.NewPCG(1, 1))
	one := weights(rng, typ, rows, cols)
	n := bytes / len(one)
	memory := alloc(b, d, n*len(one))
	var ops []kernels.Op
	x, out := floats(b, d, normal(rng, m*cols)), alloc(b, d, 4*m*rows)
	for i := range n {
		s := memory.Slice(int64(i*len(one)), int64(len(one)))
		copy(s.Host(), one)
		w := kernels.Weight{Data: s, Type: typ, Rows: rows, Cols: cols}
		if landed {
			w = land(b, d, w, s)
		}
		ops = append(ops, &kernels.MatMul{X: x, Rows: m, Terms: []kernels.Term{{W: w, Out: out}}})
	}
	stream, err := d.NewStream("bench")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	b.SetBytes(int64(n * len(one)))
	for b.Loop() {
		for _, op := range ops {
			stream.Run(op)
		}
		if err := stream.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	flops := 2 * float64(n) * float64(m) * float64(rows) * cols * float64(b.N)
	b.ReportMetric(flops/b.Elapsed().Seconds()/1e9, "GOP/s")
}

// BenchmarkLand rearranges a matrix; it reports the bytes of one direction.
func BenchmarkLand(b *testing.B) {
	d := open(b, "", 1)
	rng := rand.New(rand.NewPCG(1, 1))
	const rows, cols = 4096, 2048
	for _, typ := range []quant.Type{quant.Q4_0, quant.Q8_0, quant.Q4_K, quant.Q6_K} {
		b.Run(typ.String(), func(b *testing.B) {
			bytes := weights(rng, typ, rows, cols)
			w, memory := place(b, d, typ, rows, cols, bytes, 0)
			b.SetBytes(int64(len(bytes)))
			for b.Loop() {
				land(b, d, w, memory) // the content does not matter
			}
		})
	}
}
