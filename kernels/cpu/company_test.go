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

// A row's bits may not depend on its company: the rows beside it, in whatever split of the batch,
// the number of threads, the instruction set, the layout of the weights. These tests compute
// random batches once, by portable C on one thread, then in random parts on every instruction set
// with 1 to companyThreads threads, and compare bits.

// companyThreads is more than any part has tiles to go round, for some shapes.
const companyThreads = 5

// batchOp is an op with inputs for some rows.
type batchOp struct {
	name string
	rows int
	// run computes the picked rows, ascending, and returns outputs, each row-major over the picked
	// rows.
	run func(d *Device, pick []int) [][]float32
}

// parts splits rows at random; each part is a set, not a range.
func parts(rng *rand.Rand, rows int) [][]int {
	sets := make([][]int, 1+rng.IntN(4))
	for r := range rows {
		i := rng.IntN(len(sets))
		sets[i] = append(sets[i], r)
	}
	var some [][]int
	for _, s := range sets {
		if len(s) > 0 {
			some = append(some, s)
		}
	}
	return some
}

func all(rows int) []int {
	v := make([]int, rows)
	for i := range v {
		v[i] = i
	}
	return v
}

func pickRows[T any](v []T, dim int, pick []int) []T {
	var out []T
	for _, r := range pick {
		out = append(out, v[r*dim:(r+1)*dim]...)
	}
	return out
}

// company is a device for each instruction set and number of threads; plain is portable C on one.
type company struct {
	plain   *Device
	devices []*Device
}

func newCompany(t *testing.T) company {
	c := company{plain: open(t, "portable", 1)}
	for _, isa := range ISAs() {
		for threads := 1; threads <= companyThreads; threads++ {
			if d, err := Open(Options{Threads: threads, ISA: isa}); err == nil {
				t.Cleanup(func() { _ = d.Close() })
				c.devices = append(c.devices, d)
			}
		}
	}
	return c
}

// check computes an op in parts on every device.
func (c *company) check(t *testing.T, rng *rand.Rand, op batchOp) {
	t.Helper()
	want := op.run(c.plain, all(op.rows))
	for _, d := range c.devices {
		for _, pick := range parts(rng, op.rows) {
			for k, got := range op.run(d, pick) {
				sameBits(t, fmt.Sprintf("%s, %s, rows %v of %d, output %d", op.name, d.Info().Detail,
					pick, op.rows, k), got, pickRows(want[k], len(want[k])/op.rows, pick))
			}
		}
	}
}

// placed puts a matrix on a device at some address, and lands it or not.
func placed(t *testing.T, d *Device, rng *rand.Rand, typ quant.Type, rows, cols int,
	b []byte) kernels.Weight {
	w, memory := place(t, d, typ, rows, cols, b, [...]int{0, 64, 1, 34}[rng.IntN(4)])
	if rng.IntN(2) == 0 {
		w = land(t, d, w, memory)
	}
	return w
}

func TestProductsAreTheSameInAnyCompany(t *testing.T) {
	c := newCompany(t)
	for _, typ := range allTypes {
		t.Run(typ.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(50, uint64(typ)))
			// One shape of whole tiles with more rows than a block of them, one of odd ones.
			block := max(typ.BlockSize(), 16)
			for i, s := range []shape{{96, 2 * block, 9 + rng.IntN(80)},
				{17 + rng.IntN(30), block * (1 + 2*rng.IntN(2)), 1 + rng.IntN(21)}} {
				b, x := weights(rng, typ, s.rows, s.cols), normal(rng, s.m*s.cols)
				for _, exact := range []bool{false, true} {
					if typ.IsFloat() && !exact {
						continue // the same
					}
					c.check(t, rng, batchOp{fmt.Sprintf("shape %d %+v, exact %v", i, s, exact), s.m,
						func(d *Device, pick []int) [][]float32 {
							w := placed(t, d, rng, typ, s.rows, s.cols, b)
							return [][]float32{multiply(t, d, w, pickRows(x, s.cols, pick), len(pick), exact)}
						}})
				}
			}
		})
	}
}

func TestExpertsAreTheSameInAnyCompany(t *testing.T) {
	c := newCompany(t)
	for _, typ := range allTypes {
		t.Run(typ.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(51, uint64(typ)))
			const experts, topK = 5, 2
			block := max(typ.BlockSize(), 32)
			rows, dim, width := 6+rng.IntN(30), block, block*(1+rng.IntN(2))
			var b [experts][3][]byte
			for e := range b {
				for i := range b[e] {
					b[e][i] = weights(rng, typ, dim*width/block, block)
				}
			}
			x, chosen := normal(rng, rows*dim), make([]int, 0, rows*topK)
			for range rows {
				chosen = append(chosen, rng.Perm(experts - 1)[:topK]...) // the last one stays empty
			}
			for _, exact := range []bool{false, true} {
				c.check(t, rng, batchOp{fmt.Sprintf("%d rows, exact %v", rows, exact), rows,
					func(d *Device, pick []int) [][]float32 {
						op := &kernels.ExpertFFN{X: floats(t, d, pickRows(x, dim, pick)), Dim: dim,
							Out: alloc(t, d, 4*len(pick)*topK*dim), Width: width, Exact: exact}
						for e := range b {
							ex := kernels.Expert{Gate: placed(t, d, rng, typ, width, dim, b[e][0]),
								Up:   placed(t, d, rng, typ, width, dim, b[e][1]),
								Down: placed(t, d, rng, typ, dim, width, b[e][2])}
							for i, row := range pick {
								for j, k := range chosen[row*topK : (row+1)*topK] {
									if k == e {
										ex.Rows, ex.Slots = append(ex.Rows, int32(i)),
											append(ex.Slots, int32(i*topK+j))
									}
								}
							}
							op.Experts = append(op.Experts, ex)
						}
						run(t, d, op)
						return [][]float32{append([]float32(nil), op.Out.Float32s()...)}
					}})
			}
		})
	}
}

// Contexts reach over several segments, which threads share out where there are few rows.
func TestAttentionIsTheSameInAnyCompany(t *testing.T) {
	c := newCompany(t)
	for i, kind := range []quant.Type{quant.F32, quant.F16, quant.Q8_0, quant.F16} {
		rng := rand.New(rand.NewPCG(52, uint64(i)))
		const sequences, kvHeads, heads, dim, length = 2, 2, 6, 32, 1100
		kv := kernels.KV{Type: kind, PageTokens: [...]int{48, 16, 64, 7}[i], KVHeads: kvHeads, HeadDim: dim}
		kv.PagesMax = (length + kv.PageTokens - 1) / kv.PageTokens
		kv.PageBytes = kv.LayerBytes()
		pages := sequences * kv.PagesMax
		tables := make([]int32, pages)
		for at, page := range rng.Perm(pages) {
			tables[at] = int32(page)
		}
		pool := make([]byte, int64(pages)*kv.PageBytes)
		if err := quant.Encode(kind, pool, normal(rng,
			len(pool)/kind.BlockBytes()*kind.BlockSize())); err != nil {
			t.Fatal(err)
		}
		var seqs, pos []int32
		for s := range int32(sequences) {
			for at := rng.IntN(90); at < length; at += 1 + rng.IntN(160) {
				seqs, pos = append(seqs, s), append(pos, int32(at))
			}
			seqs, pos = append(seqs, s), append(pos, length-1)
		}
		q := normal(rng, len(pos)*heads*dim)
		for _, window := range []int{0, 700} {
			c.check(t, rng, batchOp{fmt.Sprintf("%v, pages of %d, window %d", kind, kv.PageTokens, window),
				len(pos), func(d *Device, pick []int) [][]float32 {
					own := kv
					own.Pool, own.Tables = alloc(t, d, len(pool)), ints(t, d, tables)
					copy(own.Pool.Host(), pool)
					out := alloc(t, d, 4*len(pick)*heads*dim)
					run(t, d, &kernels.Attention{KV: own, Q: floats(t, d, pickRows(q, heads*dim, pick)),
						Out: out, Seqs: ints(t, d, pickRows(seqs, 1, pick)),
						Pos: ints(t, d, pickRows(pos, 1, pick)), Rows: len(pick), Heads: heads,
						Scale: float32(2 / math.Sqrt(dim)), Window: window})
					return [][]float32{append([]float32(nil), out.Float32s()...)}
				}})
		}
	}
}

// The ops between the products: norm, rotation, routing, the sum of the experts.
func TestOtherOpsAreTheSameInAnyCompany(t *testing.T) {
	c := newCompany(t)
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(53, seed))
		rows, heads, headDim := 5+rng.IntN(40), 1+rng.IntN(4), 2*(1+rng.IntN(60))
		dim, experts := heads*headDim, 3+rng.IntN(130)
		topK, half := 1+rng.IntN(min(experts, 8)), 1+rng.IntN(headDim/2)
		x, gain := normal(rng, rows*dim), normal(rng, dim)
		cos, sin := normal(rng, rows*half), normal(rng, rows*half)
		logits, y := normal(rng, rows*experts), normal(rng, rows*topK*dim)
		shared, gate := normal(rng, rows*dim), normal(rng, rows)
		c.check(t, rng, batchOp{fmt.Sprintf("seed %d", seed), rows,
			func(d *Device, pick []int) [][]float32 {
				n := len(pick)
				in := func(v []float32, dim int) kernels.Span { return floats(t, d, pickRows(v, dim, pick)) }
				normed, turned, summed := alloc(t, d, 4*n*dim), in(x, dim), in(x, dim)
				ids, w := alloc(t, d, 4*n*topK), alloc(t, d, 4*n*topK)
				run(t, d, &kernels.RMSNorm{X: in(x, dim), Out: normed, Gain: floats(t, d, gain), Rows: n,
					Dim: dim, Eps: 1e-6},
					&kernels.RoPE{X: turned, Cos: in(cos, half), Sin: in(sin, half), Rows: n, Heads: heads,
						HeadDim: headDim, Rotated: 2 * half, Interleaved: seed%2 == 1},
					&kernels.Route{Logits: in(logits, experts), IDs: ids, Weights: w, Rows: n,
						Experts: experts, TopK: topK, Normalize: seed%2 == 0},
					&kernels.Combine{X: summed, Y: in(y, topK*dim), IDs: ids, Weights: w, Rows: n, Dim: dim,
						TopK: topK, Shared: in(shared, dim), SharedGate: in(gate, 1)})
				return [][]float32{normed.Float32s(), turned.Float32s(), w.Float32s(), summed.Float32s()}
			}})
	}
}
