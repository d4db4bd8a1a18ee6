//go:build cgo

package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

func TestEmbedDecodesRows(t *testing.T) {
	d := open(t, "", 2)
	for _, typ := range allTypes {
		rng := rand.New(rand.NewPCG(10, uint64(typ)))
		rows, cols := 19, 2*typ.BlockSize()
		b := weights(rng, typ, rows, cols)
		table, _ := place(t, d, typ, rows, cols, b, 3)
		if typ == quant.F32 {
			table, _ = place(t, d, typ, rows, cols, b, 0)
		}
		ids := []int32{18, 0, 7, 7}
		out := alloc(t, d, 4*len(ids)*cols)
		run(t, d, &kernels.Embed{Table: table, IDs: ints(t, d, ids), Out: out, Rows: len(ids)})
		all := decode(typ, b, rows*cols)
		for i, id := range ids {
			sameBits(t, fmt.Sprintf("%v, id %d", typ, id), out.Float32s()[i*cols:(i+1)*cols],
				all[int(id)*cols:(int(id)+1)*cols])
		}
	}
}

func TestRMSNorm(t *testing.T) {
	for isa, d := range machine(t, 2) {
		rng := rand.New(rand.NewPCG(11, 1))
		for _, dim := range []int{1, 7, 16, 128, 1000, 2048} {
			const rows, eps = 9, 1e-5
			x, gain := normal(rng, rows*dim), normal(rng, dim)
			want := make([]float64, rows*dim)
			for r := range rows {
				var sum float64
				for _, v := range x[r*dim : (r+1)*dim] {
					sum += float64(v) * float64(v)
				}
				for i := range dim {
					want[r*dim+i] = float64(x[r*dim+i]) / math.Sqrt(sum/float64(dim)+eps) *
						float64(gain[i])
				}
			}
			in := floats(t, d, x)
			run(t, d, &kernels.RMSNorm{X: in, Out: in, Gain: floats(t, d, gain), Rows: rows, Dim: dim,
				Eps: eps})
			if e := normError(in.Float32s(), want); !(e < 1e-6) {
				t.Errorf("%s, dim %d: error %g", isa, dim, e)
			}
		}
	}
}

func TestRoPE(t *testing.T) {
	for isa, d := range machine(t, 2) {
		for _, interleaved := range []bool{false, true} {
			rng := rand.New(rand.NewPCG(12, 1))
			const rows, heads, dim, rotated = 5, 3, 20, 12
			x := normal(rng, rows*heads*dim)
			cos, sin := normal(rng, rows*rotated/2), normal(rng, rows*rotated/2)
			want := make([]float64, len(x))
			for i := range x {
				want[i] = float64(x[i])
			}
			for h := range rows * heads {
				for i := range rotated / 2 {
					a, b := h*dim+i, h*dim+i+rotated/2
					if interleaved {
						a, b = h*dim+2*i, h*dim+2*i+1
					}
					c, s := float64(cos[h/heads*rotated/2+i]), float64(sin[h/heads*rotated/2+i])
					u, v := float64(x[a]), float64(x[b])
					want[a], want[b] = u*c-v*s, u*s+v*c
				}
			}
			in := floats(t, d, x)
			run(t, d, &kernels.RoPE{X: in, Cos: floats(t, d, cos), Sin: floats(t, d, sin), Rows: rows,
				Heads: heads, HeadDim: dim, Rotated: rotated, Interleaved: interleaved})
			if e := normError(in.Float32s(), want); !(e < 3e-7) {
				t.Errorf("%s, interleaved %v: error %g", isa, interleaved, e)
			}
		}
	}
}

// cacheCase is a paged cache of two sequences with all positions filled by KVAppend.
type cacheCase struct {
	kv        kernels.KV
	k, v      []float32 // (seqs, length, kvHeads, headDim)
	seqs, len int
}

func newCache(t *testing.T, d *Device, rng *rand.Rand, pageTokens, kvHeads, dim, length int) cacheCase {
	const seqs, layers, layer = 2, 3, 1
	pages := (length + pageTokens - 1) / pageTokens
	c := cacheCase{seqs: seqs, len: length}
	tables := make([]int32, 0, seqs*(pages+1))
	order := rng.Perm(seqs * pages)
	for s := range seqs {
		for p := range pages {
			tables = append(tables, int32(order[s*pages+p]))
		}
		tables = append(tables, -1)
	}
	pageBytes := layers * 2 * kvHeads * pageTokens * dim * 4
	pool := alloc(t, d, seqs*pages*pageBytes)
	for i := range pool.Float32s() {
		pool.Float32s()[i] = float32(math.NaN()) // what is not written must not be read
	}
	c.kv = kernels.KV{Pool: pool, Tables: ints(t, d, tables), PagesMax: pages + 1,
		PageTokens: pageTokens, PageBytes: int64(pageBytes), Layer: layer, KVHeads: kvHeads,
		HeadDim: dim}
	n := seqs * length
	c.k, c.v = normal(rng, n*kvHeads*dim), normal(rng, n*kvHeads*dim)
	sq, pos := make([]int32, n), make([]int32, n)
	for i := range n {
		sq[i], pos[i] = int32(i/length), int32(i%length)
	}
	run(t, d, &kernels.KVAppend{KV: c.kv, K: floats(t, d, c.k), V: floats(t, d, c.v),
		Seqs: ints(t, d, sq), Pos: ints(t, d, pos), Rows: n})
	return c
}

func (c *cacheCase) attend(q []float32, seq, pos, heads, head, window int, scale float64) []float64 {
	dim, kvHeads := c.kv.HeadDim, c.kv.KVHeads
	first := 0
	if window > 0 {
		first = max(0, pos-window+1)
	}
	at := func(p int) int { return ((seq*c.len+p)*kvHeads + head*kvHeads/heads) * dim }
	scores, top, sum := make([]float64, pos+1), math.Inf(-1), 0.0
	for p := first; p <= pos; p++ {
		for i := range dim {
			scores[p] += float64(q[i]) * float64(c.k[at(p)+i])
		}
		scores[p] *= scale
		top = max(top, scores[p])
	}
	out := make([]float64, dim)
	for p := first; p <= pos; p++ {
		w := math.Exp(scores[p] - top)
		sum += w
		for i := range dim {
			out[i] += w * float64(c.v[at(p)+i])
		}
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

func TestAttention(t *testing.T) {
	cases := []struct{ page, kvHeads, group, dim, length, window int }{
		{16, 2, 4, 64, 70, 0}, {5, 1, 3, 20, 33, 0}, {32, 3, 1, 128, 100, 17}, {64, 2, 8, 16, 40, 64},
		{7, 1, 1, 3, 9, 1}, {24, 2, 2, 80, 130, 50},
		{32, 1, 2, 32, 1300, 0}, {20, 1, 3, 16, 1300, 700}, // several segments
	}
	for isa, d := range machine(t, 2) {
		for i, c := range cases {
			rng := rand.New(rand.NewPCG(13, uint64(i)))
			kc := newCache(t, d, rng, c.page, c.kvHeads, c.dim, c.length)
			heads := c.kvHeads * c.group
			var seqs, pos []int32
			for s := range kc.seqs {
				for p := s; p < c.length; p += 1 + p%3 + c.length/50 {
					seqs, pos = append(seqs, int32(s)), append(pos, int32(p))
				}
			}
			rows, row := len(seqs), heads*c.dim
			q := normal(rng, rows*row)
			scale := 3 / math.Sqrt(float64(c.dim)) // peaked, so that the maximum moves
			want := make([]float64, 0, len(q))
			for r := range rows {
				for h := range heads {
					want = append(want, kc.attend(q[r*row+h*c.dim:], int(seqs[r]), int(pos[r]), heads, h,
						c.window, float64(float32(scale)))...)
				}
			}
			op := &kernels.Attention{KV: kc.kv, Q: floats(t, d, q), Out: alloc(t, d, 4*len(q)),
				Seqs: ints(t, d, seqs), Pos: ints(t, d, pos), Rows: rows, Heads: heads,
				Scale: float32(scale), Window: c.window}
			run(t, d, op)
			if e := normError(op.Out.Float32s(), want); !(e < 2e-6) {
				t.Errorf("%s, %+v: error %g", isa, c, e)
			}
			r := rows / 2
			copied := *op
			one := &copied
			one.Rows, one.Q = 1, floats(t, d, q[r*row:(r+1)*row])
			one.Seqs, one.Pos = ints(t, d, seqs[r:r+1]), ints(t, d, pos[r:r+1])
			one.Out = alloc(t, d, 4*row)
			run(t, d, one)
			sameBits(t, fmt.Sprintf("%s, %+v, one row", isa, c), one.Out.Float32s(),
				op.Out.Float32s()[r*row:(r+1)*row])
		}
	}
}

func TestRoute(t *testing.T) {
	for isa, d := range machine(t, 2) {
		for _, c := range []struct{ experts, topK int }{{8, 2}, {128, 8}, {17, 17}, {1, 1}} {
			for _, normalize := range []bool{false, true} {
				rng := rand.New(rand.NewPCG(14, uint64(c.experts)))
				const rows = 21
				logits := normal(rng, rows*c.experts)
				for i := range c.experts { // ties, and a large value
					logits[i] = float32(i % 3)
				}
				logits[c.experts] = 500
				op := &kernels.Route{Logits: floats(t, d, logits), IDs: alloc(t, d, 4*rows*c.topK),
					Weights: alloc(t, d, 4*rows*c.topK), Rows: rows, Experts: c.experts, TopK: c.topK,
					Normalize: normalize}
				run(t, d, op)
				for r := range rows {
					ids, w := route64(logits[r*c.experts:(r+1)*c.experts], c.topK, normalize)
					if got := op.IDs.Int32s()[r*c.topK : (r+1)*c.topK]; !slices.Equal(got, ids) {
						t.Fatalf("%s, %+v, row %d: ids %v, want %v", isa, c, r, got, ids)
					}
					if e := normError(op.Weights.Float32s()[r*c.topK:(r+1)*c.topK], w); !(e < 5e-7) {
						t.Errorf("%s, %+v, row %d: error %g", isa, c, r, e)
					}
				}
			}
		}
	}
}

func route64(logits []float32, topK int, normalize bool) (ids []int32, weights []float64) {
	order := make([]int32, len(logits))
	var sum, chosen float64
	top := float64(slices.Max(logits))
	for i := range order {
		order[i] = int32(i)
		sum += math.Exp(float64(logits[i]) - top)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		return int(math.Copysign(1, float64(logits[b]-logits[a]))) * btoi(logits[a] != logits[b])
	})
	ids = order[:topK]
	for _, id := range ids {
		weights = append(weights, math.Exp(float64(logits[id])-top)/sum)
		chosen += weights[len(weights)-1]
	}
	for i := range weights {
		if normalize {
			weights[i] /= chosen
		}
	}
	return ids, weights
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestCombineFollowsTheOrderOfExperts(t *testing.T) {
	for isa, d := range machine(t, 2) {
		for _, dim := range []int{1, 33, 300, 2048} {
			for _, topK := range []int{0, 1, 3, 8} {
				rng := rand.New(rand.NewPCG(15, uint64(dim*10+topK)))
				const rows = 4
				x, y := normal(rng, rows*dim), normal(rng, rows*max(topK, 1)*dim)
				shared, gate := normal(rng, rows*dim), normal(rng, rows)
				w, ids := normal(rng, rows*topK), make([]int32, 0, rows*topK)
				for range rows {
					for _, id := range rng.Perm(16)[:topK] {
						ids = append(ids, int32(id))
					}
				}
				op := &kernels.Combine{X: floats(t, d, x), Y: floats(t, d, y), Rows: rows, Dim: dim,
					TopK: topK, Shared: floats(t, d, shared)}
				if topK != 1 {
					op.IDs, op.Weights = ints(t, d, ids), floats(t, d, w)
				}
				gated := topK == 3
				if gated {
					op.SharedGate = floats(t, d, gate)
				}
				run(t, d, op)
				for r := range rows {
					slots := make([]int, topK)
					for j := range slots {
						slots[j] = j
					}
					slices.SortFunc(slots, func(a, b int) int {
						return int(ids[r*topK+a] - ids[r*topK+b])
					})
					for i := range dim {
						var sum float32
						for _, j := range slots {
							v := float32(1)
							if topK != 1 {
								v = w[r*topK+j]
							}
							product := v * y[(r*topK+j)*dim+i]
							sum += product
						}
						g := float32(1)
						if gated {
							g = float32(1 / (1 + math.Exp(-float64(gate[r]))))
						}
						product := g * shared[r*dim+i]
						want := x[r*dim+i] + (sum + product)
						// The gate's exponential is within 2 ulp; without it, to the bit.
						got := op.X.Float32s()[r*dim+i]
						if got != want && (!gated || math.Abs(float64(got-want)) > 2e-6) {
							t.Fatalf("%s, dim %d, top %d: %v, want %v", isa, dim, topK, got, want)
						}
					}
				}
			}
		}
	}
}

func TestGatherRowsAndCopy(t *testing.T) {
	d := open(t, "", 2)
	rng := rand.New(rand.NewPCG(16, 1))
	const dim = 5
	x, index := normal(rng, 7*dim), []int32{6, 6, 0}
	out := alloc(t, d, 4*len(index)*dim)
	run(t, d, &kernels.GatherRows{X: floats(t, d, x), Index: ints(t, d, index), Out: out,
		Rows: len(index), Dim: dim})
	for i, r := range index {
		sameBits(t, "row", out.Float32s()[i*dim:(i+1)*dim], x[int(r)*dim:(int(r)+1)*dim])
	}
	big := normal(rng, 300_000)
	src, dst := floats(t, d, big), alloc(t, d, 4*len(big))
	s, _ := d.NewStream("copy")
	defer func() { _ = s.Close() }()
	s.Copy(dst, src)
	s.Copy(dst.Slice(4, 4*int64(len(big)-1)), dst.Slice(0, 4*int64(len(big)-1))) // overlapping
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	sameBits(t, "moved up by one", dst.Float32s()[1:], big[:len(big)-1])
}
