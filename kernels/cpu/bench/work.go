//go:build cgo

package bench

import (
	"fmt"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/cpu"
	"github.com/moering/moering/kernels/quant"
)

// matrices fills memory with n landed matrices. Bytes are such that every scale is a normal number:
// a pair of them is a half between 2^-11 and 2^-10.
func (w *work) matrices(d *cpu.Device, kind quant.Type, n, rows, cols int) ([]kernels.Weight, error) {
	size, ok := kind.RowBytes(int64(cols))
	if !ok {
		return nil, fmt.Errorf("%v has no rows of %d", kind, cols)
	}
	size *= int64(rows)
	all, err := w.alloc(d, int64(n)*size)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(2, uint64(rows)))
	first := all.Slice(0, size).Host()
	for i := range first {
		first[i] = 0x10 | byte(rng.Uint32()&15)
	}
	weights := make([]kernels.Weight, n)
	for i := range weights {
		s := all.Slice(int64(i)*size, size)
		if i > 0 {
			copy(s.Host(), first)
		}
	}
	for i := range weights {
		s := all.Slice(int64(i)*size, size)
		weights[i], err = d.Land(kernels.Weight{Data: s, Type: kind, Rows: rows, Cols: cols}, s)
		if err != nil {
			return nil, err
		}
	}
	w.memory, w.float = all, kind.IsFloat()
	return weights, nil
}

func (w *work) decode(d *cpu.Device, kind quant.Type, bytes int64) error {
	size, _ := kind.RowBytes(dim)
	n := max(1, int(bytes/(size*dim)))
	weights, err := w.matrices(d, kind, n, dim, dim)
	if err != nil {
		return err
	}
	x, err := w.values(d, dim)
	if err != nil {
		return err
	}
	out, err := w.values(d, dim)
	for _, m := range weights {
		w.ops = append(w.ops, &kernels.MatMul{X: x, Rows: 1, Terms: []kernels.Term{{W: m, Out: out}}})
	}
	w.shape = fmt.Sprintf("%d x (%d, %d)", n, dim, dim)
	w.bytes, w.operations = w.memory.Bytes, 2*float64(n)*dim*dim
	return err
}

// experts computes layers of 64 experts, with so many rows each; a row goes to 8 of them, and is
// quantised once.
func (w *work) experts(d *cpu.Device, kind quant.Type, rows int, bytes int64) error {
	const together, topK = 64, 8
	size, _ := kind.RowBytes(dim)
	n := max(together, min(expertsMax, int(bytes/(3*size*width)))/together*together)
	if rows >= 16 { // these compute for longer than they read
		n = max(together, n*8/rows/together*together)
	}
	weights, err := w.matrices(d, kind, 2*n, width, dim)
	if err != nil {
		return err
	}
	memory := w.memory
	down := kind
	if width%kind.BlockSize() != 0 {
		return fmt.Errorf("%v has no rows of %d", kind, width)
	}
	downs, err := w.matrices(d, down, n, dim, width)
	if err != nil {
		return err
	}
	x, err := w.values(d, together/topK*rows*dim)
	if err != nil {
		return err
	}
	out, err := w.values(d, together*rows*dim)
	if err != nil {
		return err
	}
	for i := 0; i < n; i += together {
		op := &kernels.ExpertFFN{X: x, Out: out, Dim: dim, Width: width}
		for e := range together {
			ex := kernels.Expert{Gate: weights[2*(i+e)], Up: weights[2*(i+e)+1], Down: downs[i+e]}
			for r := range rows {
				ex.Rows = append(ex.Rows, int32(r*together/topK+e/topK))
				ex.Slots = append(ex.Slots, int32(e*rows+r))
			}
			op.Experts = append(op.Experts, ex)
		}
		w.ops = append(w.ops, op)
	}
	w.shape = fmt.Sprintf("%d x (%d, %d)", n, width, dim)
	w.bytes = memory.Bytes + w.memory.Bytes
	w.memory = memory
	w.operations = 2 * float64(n) * 3 * width * dim * float64(rows)
	return nil
}

// cache allocates a key-value cache of so many positions for each sequence.
func (w *work) cache(d *cpu.Device, kind quant.Type, sequences, positions int) (kernels.KV, error) {
	const pageTokens = 32
	kv := kernels.KV{Type: kind, PageTokens: pageTokens, PagesMax: positions / pageTokens,
		KVHeads: kvHeads, HeadDim: headDim}
	kv.PageBytes = kv.LayerBytes()
	pages := sequences * kv.PagesMax
	pool, err := w.alloc(d, int64(pages)*kv.PageBytes)
	if err != nil {
		return kv, err
	}
	rng := rand.New(rand.NewPCG(3, 3))
	one := pool.Slice(0, kv.PageBytes)
	values := make([]float32, int(kv.PageBytes)/kind.BlockBytes()*kind.BlockSize())
	for i := range values {
		values[i] = float32(rng.NormFloat64())
	}
	if err := quant.Encode(kind, one.Host(), values); err != nil {
		return kv, err
	}
	for p := 1; p < pages; p++ {
		copy(pool.Slice(int64(p)*kv.PageBytes, kv.PageBytes).Host(), one.Host())
	}
	tables, err := w.alloc(d, int64(4*pages))
	if err != nil {
		return kv, err
	}
	for i, p := range rng.Perm(pages) {
		tables.Int32s()[i] = int32(p)
	}
	kv.Pool, kv.Tables = pool, tables
	w.memory, w.float = pool, true
	return kv, nil
}

// attention is an op over rows of sequences at positions.
func (w *work) attention(d *cpu.Device, kv kernels.KV, seqs, pos []int32) error {
	rows := len(seqs)
	q, err := w.values(d, rows*heads*headDim)
	if err != nil {
		return err
	}
	out, err := w.values(d, rows*heads*headDim)
	if err != nil {
		return err
	}
	lists, err := w.alloc(d, int64(8*rows))
	if err != nil {
		return err
	}
	copy(lists.Int32s(), seqs)
	copy(lists.Int32s()[rows:], pos)
	n := int64(4 * rows)
	w.ops = append(w.ops, &kernels.Attention{KV: kv, Q: q, Out: out, Seqs: lists.Slice(0, n),
		Pos: lists.Slice(n, n), Rows: rows, Heads: heads, Scale: 0.09})
	for _, p := range pos {
		w.operations += 4 * heads * headDim * float64(p+1)
	}
	return nil
}

// attend is one row of each sequence at the end of a long context.
func (w *work) attend(d *cpu.Device, kind quant.Type, sequences int, bytes int64) error {
	size, _ := kernels.CacheBytes(kind, 2*kvHeads*headDim)
	positions := int(min(bytes, 128<<20)/size/int64(sequences)) / 32 * 32
	kv, err := w.cache(d, kind, sequences, positions)
	if err != nil {
		return err
	}
	var seqs, pos []int32
	for s := range sequences {
		seqs, pos = append(seqs, int32(s)), append(pos, int32(positions-1))
	}
	w.shape = fmt.Sprintf("%d heads on %d of %d, %d sequences of %d", heads, kvHeads, headDim, sequences,
		positions)
	w.bytes = kv.Pool.Bytes
	return w.attention(d, kv, seqs, pos)
}

// prefill is a prompt of so many rows, causal.
func (w *work) prefill(d *cpu.Device, kind quant.Type, rows int) error {
	kv, err := w.cache(d, kind, 1, rows)
	if err != nil {
		return err
	}
	var pos []int32
	for p := range rows {
		pos = append(pos, int32(p))
	}
	w.shape = fmt.Sprintf("%d heads on %d of %d, %d positions", heads, kvHeads, headDim, rows)
	w.bytes = kv.Pool.Bytes
	return w.attention(d, kv, make([]int32, rows), pos)
}
