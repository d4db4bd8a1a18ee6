package ref

import (
	"fmt"
	"math"

	"github.com/moering/moering/kernels"
)

// pages is a paged key-value cache, with one layer chosen.
type pages struct {
	kv     *kernels.KV
	pool   []float32
	tables []int32
}

func (v *view) pages(kv *kernels.KV) pages {
	return pages{kv, v.floats(kv.Pool, int(kv.Pool.Bytes/4)),
		v.ints(kv.Tables, int(kv.Tables.Bytes/4))}
}

// at returns the index in the pool of the key of head 0 at a position of a sequence, or an error
// for a position without a page. The key of head h lies h*PageTokens*HeadDim further on.
func (p *pages) at(seq, pos int32) (int, error) {
	kv := p.kv
	page := int(pos) / kv.PageTokens
	entry := int(seq)*kv.PagesMax + page
	if seq < 0 || pos < 0 || page >= kv.PagesMax || entry >= len(p.tables) {
		return 0, fmt.Errorf("%w: sequence %d, position %d: outside the page table",
			kernels.ErrDevice, seq, pos)
	}
	id := int(p.tables[entry])
	pageFloats := int(kv.PageBytes / 4)
	if id < 0 || id >= len(p.pool)/pageFloats {
		return 0, fmt.Errorf("%w: sequence %d, position %d: page %d of %d", kernels.ErrDevice, seq,
			pos, id, len(p.pool)/pageFloats)
	}
	return id*pageFloats + kv.Layer*2*p.side() + int(pos)%kv.PageTokens*kv.HeadDim, nil
}

// side returns the floats of one layer's keys in a page, which are also those of its values.
func (p *pages) side() int { return p.kv.KVHeads * p.kv.PageTokens * p.kv.HeadDim }

func (x *executor) kvAppend(v *view, o *kernels.KVAppend) error {
	p := v.pages(&o.KV)
	heads, dim := o.KV.KVHeads, o.KV.HeadDim
	keys, values := v.floats(o.K, o.Rows*heads*dim), v.floats(o.V, o.Rows*heads*dim)
	seqs, pos := v.ints(o.Seqs, o.Rows), v.ints(o.Pos, o.Rows)
	if v.err != nil {
		return v.err
	}
	for t := range o.Rows {
		at, err := p.at(seqs[t], pos[t])
		if err != nil {
			return err
		}
		for h := range heads {
			to := at + h*o.KV.PageTokens*dim
			copy(p.pool[to:to+dim], keys[(t*heads+h)*dim:])
			copy(p.pool[to+p.side():][:dim], values[(t*heads+h)*dim:])
		}
	}
	return nil
}

func (x *executor) attention(v *view, o *kernels.Attention) error {
	p := v.pages(&o.KV)
	heads, dim := o.Heads, o.KV.HeadDim
	q, out := v.floats(o.Q, o.Rows*heads*dim), v.floats(o.Out, o.Rows*heads*dim)
	seqs, pos := v.ints(o.Seqs, o.Rows), v.ints(o.Pos, o.Rows)
	if v.err != nil {
		return v.err
	}
	group := heads / o.KV.KVHeads
	var where []int // of each position in reach of the row
	for t := range o.Rows {
		if pos[t] < 0 {
			return fmt.Errorf("%w: row %d: position %d", kernels.ErrDevice, t, pos[t])
		}
		first := int32(0)
		if o.Window > 0 {
			first = max(0, pos[t]-int32(o.Window)+1)
		}
		where = where[:0]
		for at := first; at <= pos[t]; at++ {
			w, err := p.at(seqs[t], at)
			if err != nil {
				return err
			}
			where = append(where, w)
		}
		x.parallel(heads, 2*dim*len(where), func(from, to int) {
			for h := from; h < to; h++ {
				n := (t*heads + h) * dim
				p.attend(q[n:n+dim], out[n:n+dim], where, h/group, float64(o.Scale))
			}
		})
	}
	return nil
}

// attend is one head of one row.
func (p *pages) attend(q, out []float32, where []int, kvHead int, scale float64) {
	dim := len(q)
	skip := kvHead * p.kv.PageTokens * dim
	scores, top := make([]float64, len(where)), math.Inf(-1)
	for i, at := range where {
		scores[i] = scale * dot(p.pool[at+skip:][:dim], q)
		top = max(top, scores[i])
	}
	sum, acc := 0.0, make([]float64, dim)
	for i, at := range where {
		e := math.Exp(scores[i] - top)
		sum += e
		for j, value := range p.pool[at+skip+p.side():][:dim] {
			acc[j] += e * float64(value)
		}
	}
	for j := range out {
		out[j] = float32(acc[j] / sum)
	}
}
