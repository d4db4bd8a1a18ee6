package ref

import (
	"fmt"
	"math"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// pages is a paged key-value cache, with one layer chosen.
type pages struct {
	kv       *kernels.KV
	pool     []byte
	tables   []int32
	rowBytes int
}

func (v *view) pages(kv *kernels.KV) pages {
	size, _ := kernels.CacheBytes(kv.Type, int64(kv.HeadDim)) // validated
	return pages{kv, v.bytes(kv.Pool), v.ints(kv.Tables, int(kv.Tables.Bytes/4)), int(size)}
}

// at returns where the pool has the key of head 0 at a position of a sequence, or an error for a
// position without a page. The key of head h lies h*PageTokens rows further on.
func (p *pages) at(seq, pos int32) (int, error) {
	kv := p.kv
	page := int(pos) / kv.PageTokens
	entry := int(seq)*kv.PagesMax + page
	if seq < 0 || pos < 0 || page >= kv.PagesMax || entry >= len(p.tables) {
		return 0, fmt.Errorf("%w: sequence %d, position %d: outside the page table",
			kernels.ErrDevice, seq, pos)
	}
	id, size := int(p.tables[entry]), int(kv.PageBytes)
	if id < 0 || id >= len(p.pool)/size {
		return 0, fmt.Errorf("%w: sequence %d, position %d: page %d of %d", kernels.ErrDevice, seq,
			pos, id, len(p.pool)/size)
	}
	return id*size + kv.Layer*2*p.side() + int(pos)%kv.PageTokens*p.rowBytes, nil
}

// side returns the bytes of one layer's keys in a page, which are also those of its values.
func (p *pages) side() int { return int(p.kv.LayerBytes() / 2) }

// store encodes a row of a head.
func (p *pages) store(at int, row []float32) {
	to := p.pool[at:][:p.rowBytes]
	size, elements := p.kv.Type.BlockBytes(), p.kv.Type.BlockSize()
	for ; len(row) > 0; to, row = to[size:], row[elements:] {
		if quant.Encode(p.kv.Type, to[:size], row[:elements]) != nil {
			clear(to[:size])
			to[1] = 0x7E // a scale that is NaN
		}
	}
}

// load decodes a row of a head into out.
func (p *pages) load(at int, out []float32) {
	_ = quant.Decode(p.kv.Type, out, p.pool[at:][:p.rowBytes]) // of validated lengths
}

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
			to, from := at+h*o.KV.PageTokens*p.rowBytes, (t*heads+h)*dim
			p.store(to, keys[from:from+dim])
			p.store(to+p.side(), values[from:from+dim])
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
	skip := kvHead * p.kv.PageTokens * p.rowBytes
	scores, top := make([]float64, len(where)), math.Inf(-1)
	row := make([]float32, dim)
	for i, at := range where {
		p.load(at+skip, row)
		scores[i] = scale * dot(row, q)
		top = max(top, scores[i])
	}
	sum, acc := 0.0, make([]float64, dim)
	for i, at := range where {
		e := math.Exp(scores[i] - top)
		sum += e
		p.load(at+skip+p.side(), row)
		for j, value := range row {
			acc[j] += e * float64(value)
		}
	}
	for j := range out {
		out[j] = float32(acc[j] / sum)
	}
}
