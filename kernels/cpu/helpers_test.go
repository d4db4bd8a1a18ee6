//go:build cgo

package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

var allTypes = []quant.Type{
	quant.F32, quant.F16, quant.BF16, quant.Q8_0, quant.Q4_0, quant.Q4_1, quant.Q5_0, quant.Q5_1,
	quant.Q2_K, quant.Q3_K, quant.Q4_K, quant.Q5_K, quant.Q6_K, quant.IQ4NL, quant.IQ4XS, quant.MXFP4,
}

// open returns a device that is closed at the end of the test; nil where the machine lacks the set.
func open(t testing.TB, isa string, threads int) *Device {
	t.Helper()
	d, err := Open(Options{Threads: threads, ISA: isa})
	if err != nil {
		t.Skipf("instruction set %s: %v", isa, err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// machine returns a device for each instruction set that the machine has.
func machine(t testing.TB, threads int) map[string]*Device {
	devices := map[string]*Device{}
	for _, isa := range ISAs() {
		d, err := Open(Options{Threads: threads, ISA: isa})
		if err != nil {
			t.Logf("without %s: %v", isa, err)
			continue
		}
		t.Cleanup(func() { _ = d.Close() })
		devices[isa] = d
	}
	return devices
}

func alloc(t testing.TB, d *Device, bytes int) kernels.Span {
	t.Helper()
	b, err := d.Alloc(int64(bytes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Free() })
	return b.All()
}

func floats(t testing.TB, d *Device, v []float32) kernels.Span {
	s := alloc(t, d, 4*len(v))
	copy(s.Float32s(), v)
	return s
}

func ints(t testing.TB, d *Device, v []int32) kernels.Span {
	s := alloc(t, d, 4*len(v))
	copy(s.Int32s(), v)
	return s
}

func normal(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

// halves are the offsets of the half-precision numbers in a block.
func halves(typ quant.Type) []int {
	switch typ {
	case quant.Q4_0, quant.Q5_0, quant.Q8_0, quant.IQ4NL, quant.IQ4XS:
		return []int{0}
	case quant.Q4_1, quant.Q5_1, quant.Q4_K, quant.Q5_K:
		return []int{0, 2}
	case quant.Q2_K:
		return []int{80, 82}
	case quant.Q3_K:
		return []int{108}
	case quant.Q6_K:
		return []int{208}
	}
	return nil
}

// weights returns random bytes of a matrix: every code occurs, and scales are of ordinary size.
func weights(rng *rand.Rand, typ quant.Type, rows, cols int) []byte {
	rowBytes, ok := typ.RowBytes(int64(cols))
	if !ok {
		panic(fmt.Sprintf("%v of %d columns", typ, cols))
	}
	b := make([]byte, int(rowBytes)*rows)
	if typ.IsFloat() {
		if err := quant.Encode(typ, b, normal(rng, rows*cols)); err != nil {
			panic(err)
		}
		return b
	}
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	size := typ.BlockBytes()
	for at := 0; at < len(b); at += size {
		for _, h := range halves(typ) {
			v := quant.F32ToF16(float32(rng.NormFloat64()) * 0.01)
			b[at+h], b[at+h+1] = byte(v), byte(v>>8)
		}
		if typ == quant.MXFP4 {
			b[at] = byte(115 + rng.IntN(8))
		}
	}
	return b
}

// place copies a matrix into device memory, shift bytes off a cache line.
func place(t testing.TB, d *Device, typ quant.Type, rows, cols int, b []byte, shift int) (
	kernels.Weight, kernels.Span) {
	s := alloc(t, d, len(b)+shift)
	copy(s.Host()[shift:], b)
	return kernels.Weight{Data: s.Slice(int64(shift), int64(len(b))), Type: typ, Rows: rows,
		Cols: cols}, s
}

func land(t testing.TB, d *Device, w kernels.Weight, memory kernels.Span) kernels.Weight {
	t.Helper()
	landed, err := d.Land(w, memory)
	if err != nil {
		t.Fatal(err)
	}
	return landed
}

func run(t testing.TB, d *Device, ops ...kernels.Op) {
	t.Helper()
	s, err := d.NewStream("test")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, op := range ops {
		s.Run(op)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
}

func decode(typ quant.Type, b []byte, n int) []float32 {
	v := make([]float32, n)
	if err := quant.Decode(typ, v, b); err != nil {
		panic(err)
	}
	return v
}

// product is x w^T in float64.
func reference(w, x []float32, rows, cols, m int) []float64 {
	out := make([]float64, m*rows)
	for t := range m {
		for r := range rows {
			var sum float64
			for k := range cols {
				sum += float64(w[r*cols+k]) * float64(x[t*cols+k])
			}
			out[t*rows+r] = sum
		}
	}
	return out
}

// normError is ||got-want|| / ||want||.
func normError(got []float32, want []float64) float64 {
	var diff, norm float64
	for i, w := range want {
		diff += (float64(got[i]) - w) * (float64(got[i]) - w)
		norm += w * w
	}
	if norm == 0 {
		return math.Sqrt(diff)
	}
	return math.Sqrt(diff / norm)
}

func sameBits(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d of %d is %v, want %v", what, i, len(want), got[i], want[i])
		}
	}
}
