//go:build cgo

package cpu

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/bits.txt anew")

// grid draws values without floating-point functions, whose last bit depends on the processor: Go
// fuses products and sums on some.
func grid(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.IntN(4001)-2000) / 1024
	}
	return v
}

// gridWeights are random codes with scales of a grid.
func gridWeights(rng *rand.Rand, typ quant.Type, rows, cols int) []byte {
	size, _ := typ.RowBytes(int64(cols))
	b := make([]byte, int(size)*rows)
	if typ.IsFloat() {
		_ = quant.Encode(typ, b, grid(rng, rows*cols))
		return b
	}
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	for at := 0; at < len(b); at += typ.BlockBytes() {
		for _, h := range halves(typ) {
			v := quant.F32ToF16(float32(rng.IntN(2001)-1000) / (1 << 16))
			b[at+h], b[at+h+1] = byte(v), byte(v>>8)
		}
		if typ == quant.MXFP4 {
			b[at] = byte(115 + rng.IntN(8))
		}
	}
	return b
}

// digests computes ops with fixed inputs and returns a line for each: its name and a hash of its bits.
func digests(t *testing.T, d *Device) []string {
	var lines []string
	note := func(name string, v []float32) {
		h := fnv.New64a()
		for _, f := range v {
			fmt.Fprintf(h, "%x ", f)
		}
		lines = append(lines, fmt.Sprintf("%s %016x", name, h.Sum64()))
	}
	for _, typ := range allTypes {
		rng := rand.New(rand.NewPCG(40, uint64(typ)))
		const rows, cols, m = 48, 512, 13
		b := gridWeights(rng, typ, rows, cols)
		w, memory := place(t, d, typ, rows, cols, b, 0)
		x := grid(rng, m*cols)
		for i := range cols {
			x[i] *= 1e-38 // scales and sums among subnormal numbers
		}
		w = land(t, d, w, memory)
		note("product "+typ.String(), multiply(t, d, w, x, m, false))
		note("exact product "+typ.String(), multiply(t, d, w, x, m, true))
	}
	rng := rand.New(rand.NewPCG(41, 1))
	const rows, dim = 7, 96
	x, out := grid(rng, rows*dim), alloc(t, d, 4*rows*dim)
	run(t, d, &kernels.RMSNorm{X: floats(t, d, x), Out: out, Gain: floats(t, d, grid(rng, dim)),
		Rows: rows, Dim: dim, Eps: 1e-6})
	note("norm", out.Float32s())
	in := floats(t, d, x)
	run(t, d, &kernels.RoPE{X: in, Cos: floats(t, d, grid(rng, rows*16)),
		Sin: floats(t, d, grid(rng, rows*16)), Rows: rows, Heads: 2, HeadDim: 48, Rotated: 32})
	note("rope", in.Float32s())
	note("experts", expertBits(t, d, rng))
	for _, kind := range []quant.Type{quant.F32, quant.F16, quant.Q8_0} {
		note("attention "+kind.String(), attentionBits(t, d, rng, kind))
	}
	return lines
}

func expertBits(t *testing.T, d *Device, rng *rand.Rand) []float32 {
	const rows, dim, width = 5, 256, 512
	op := &kernels.ExpertFFN{X: floats(t, d, grid(rng, rows*dim)), Out: alloc(t, d, 4*rows*dim), Dim: dim,
		Width: width}
	var e kernels.Expert
	for i, to := range []*kernels.Weight{&e.Gate, &e.Up, &e.Down} {
		r, c := width, dim
		if i == 2 {
			r, c = c, r
		}
		w, memory := place(t, d, quant.Q4_K, r, c, gridWeights(rng, quant.Q4_K, r, c), 0)
		*to = land(t, d, w, memory)
	}
	for r := range int32(rows) {
		e.Rows, e.Slots = append(e.Rows, r), append(e.Slots, rows-1-r)
	}
	op.Experts = []kernels.Expert{e}
	run(t, d, op)
	return op.Out.Float32s()
}

func attentionBits(t *testing.T, d *Device, rng *rand.Rand, kind quant.Type) []float32 {
	const positions, heads, dim = 600, 6, 64
	kv := kernels.KV{Type: kind, PagesMax: 20, PageTokens: 32, KVHeads: 2, HeadDim: dim}
	kv.PageBytes = kv.LayerBytes()
	kv.Pool = alloc(t, d, 20*int(kv.PageBytes))
	tables, all := make([]int32, 20), make([]int32, positions)
	for i := range tables {
		tables[i] = int32(19 - i)
	}
	for i := range all {
		all[i] = int32(i)
	}
	kv.Tables = ints(t, d, tables)
	run(t, d, &kernels.KVAppend{KV: kv, K: floats(t, d, grid(rng, positions*2*dim)),
		V: floats(t, d, grid(rng, positions*2*dim)), Seqs: ints(t, d, make([]int32, positions)),
		Pos: ints(t, d, all), Rows: positions})
	pos := []int32{0, 1, 31, 32, 500, 511, 512, 513, 599}
	out := alloc(t, d, 4*len(pos)*heads*dim)
	run(t, d, &kernels.Attention{KV: kv, Q: floats(t, d, grid(rng, len(pos)*heads*dim)), Out: out,
		Seqs: ints(t, d, make([]int32, len(pos))), Pos: ints(t, d, pos), Rows: len(pos), Heads: heads,
		Scale: 0.125})
	return out.Float32s()
}

// Every instruction set, on whatever processor, computes the bits that are written down.
func TestBitsAreTheSameOnEveryMachine(t *testing.T) {
	const file = "testdata/bits.txt"
	if *rewrite {
		text := strings.Join(digests(t, open(t, "portable", 2)), "\n") + "\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	for isa, d := range machine(t, 2) {
		got := digests(t, d)
		if len(got) != len(want) {
			t.Fatalf("%d results, %d are written down", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: %s, want %s", isa, got[i], want[i])
			}
		}
	}
}
