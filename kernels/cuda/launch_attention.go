//go:build cgo

package cuda

// #include "args.h"
import "C"

import (
	"fmt"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

const (
	attentionThreads = 128
	attentionQueries = 16 // of a block, at most
	attentionWarp    = 4  // of a warp
	segmentPositions = C.MR_SEGMENT
	// A context is split over blocks where its rows alone make fewer than this, and the parts take
	// no more than attentionPartsMax bytes.
	attentionBlocksFew = 128
	attentionPartsMax  = 32 << 20
)

func checkKV(kv *kernels.KV) error {
	if kv.Type != quant.F32 && kv.Type != quant.F16 {
		return fmt.Errorf("%w: a key-value cache of %v: this device has F32 and F16",
			kernels.ErrDevice, kv.Type)
	}
	return nil
}

// attentionShared returns the shared memory of a block: a tile of 32 positions, and the state of
// each query; mr_state in attention.cu, in numbers.
func attentionShared(queries, headDim int) int {
	return 4*32*65 + queries*4*(3*headDim+32+4+3)
}

// attentionShape says how an op is cut.
type attentionShape struct {
	queries, segments int
	blocks            int64 // of queries, for each key-value head
	split             bool
	parts             int64 // bytes
}

func shapeOfAttention(o *kernels.Attention) (attentionShape, bool) {
	group := o.Heads / o.KV.KVHeads
	s := attentionShape{queries: attentionQueries}
	if int64(o.Rows)*int64(group) < attentionQueries {
		s.queries = int(ceil(int64(o.Rows*group), attentionWarp)) * attentionWarp
	}
	for s.queries > 0 && attentionShared(s.queries, o.KV.HeadDim) > sharedBytesMax {
		s.queries -= attentionWarp
	}
	if s.queries == 0 {
		return s, o.Rows == 0
	}
	positions := int64(o.KV.PagesMax) * int64(o.KV.PageTokens)
	s.segments = int(ceil(positions, segmentPositions))
	s.blocks = ceil(int64(o.Rows)*int64(group), int64(s.queries))
	s.parts = int64(o.Rows) * int64(o.Heads) * int64(s.segments) * int64(o.KV.HeadDim+2) * 4
	s.split = s.segments > 1 && s.segments <= gridMax && s.parts <= attentionPartsMax &&
		s.blocks*int64(o.KV.KVHeads) < attentionBlocksFew
	return s, true
}

// gridMax is the largest second or third dimension of a grid.
const gridMax = 65535

func needAttention(o *kernels.Attention) (demand, error) {
	if err := checkKV(&o.KV); err != nil {
		return demand{}, err
	}
	s, ok := shapeOfAttention(o)
	if !ok || o.KV.KVHeads > gridMax {
		return demand{}, fmt.Errorf("%w: Attention: %d key-value heads of %d values are too large",
			kernels.ErrDevice, o.KV.KVHeads, o.KV.HeadDim)
	}
	if s.split {
		return demand{scratch: s.parts}, nil
	}
	return demand{}, nil
}

func cache(kv *kernels.KV) C.struct_mr_cuda_kv {
	layer := kv.LayerBytes()
	c := C.struct_mr_cuda_kv{pool: deviceAddress(kv.Pool), tables: deviceAddress(kv.Tables),
		page_bytes: C.uint64_t(kv.PageBytes), layer_offset: C.uint64_t(int64(kv.Layer) * layer),
		side_bytes: C.uint64_t(layer / 2), pages: C.int32_t(kv.Pool.Bytes / kv.PageBytes),
		sequences: C.int32_t(kv.Tables.Bytes / 4 / int64(kv.PagesMax)),
		pages_max: C.int32_t(kv.PagesMax), page_tokens: C.int32_t(kv.PageTokens),
		kv_heads: C.int32_t(kv.KVHeads), head_dim: C.int32_t(kv.HeadDim)}
	if kv.Type == quant.F16 {
		c.half = 1
	}
	return c
}

func (p *planner) kvAppend(o *kernels.KVAppend, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_kv_append_args](p)
	dim := o.KV.KVHeads * o.KV.HeadDim
	a.kv, a.k, a.v = cache(&o.KV), deviceAddress(o.K), deviceAddress(o.V)
	a.seqs, a.pos, a.rows = deviceAddress(o.Seqs), deviceAddress(o.Pos), C.int32_t(o.Rows)
	p.reads(o.KV.Tables, of(o.K, o.Rows, dim), of(o.V, o.Rows, dim), of(o.Seqs, o.Rows, 1),
		of(o.Pos, o.Rows, 1))
	p.writes(o.KV.Pool)
	blocks := ceil(int64(o.Rows)*int64(dim), threadsMost)
	return p.emit(out, kernelKVAppend, args, blocks, threadsMost, 0)
}

func (p *planner) attention(o *kernels.Attention, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	s, _ := shapeOfAttention(o)
	a, args := argsOf[C.struct_mr_cuda_attention_args](p)
	a.kv, a.q, a.out = cache(&o.KV), deviceAddress(o.Q), deviceAddress(o.Out)
	a.seqs, a.pos = deviceAddress(o.Seqs), deviceAddress(o.Pos)
	a.rows, a.heads, a.window = C.int32_t(o.Rows), C.int32_t(o.Heads), C.int32_t(o.Window)
	a.segments, a.queries, a.scale = C.int32_t(s.segments), C.int32_t(s.queries), C.float(o.Scale)
	dim := o.Heads * o.KV.HeadDim
	result, pos := of(o.Out, o.Rows, dim), of(o.Pos, o.Rows, 1)
	shared := attentionShared(s.queries, o.KV.HeadDim)
	p.reads(o.KV.Pool, o.KV.Tables, of(o.Q, o.Rows, dim), of(o.Seqs, o.Rows, 1), pos)
	if !s.split {
		p.writes(result)
		out = p.emit(out, kernelAttention, args, s.blocks, attentionThreads, shared)
		out[len(out)-1].grid[1] = uint32(o.KV.KVHeads)
		return out
	}
	parts := p.scratch.Slice(0, s.parts)
	a.parts = deviceAddress(parts)
	p.writes(parts)
	out = p.emit(out, kernelAttentionSplit, args, s.blocks, attentionThreads, shared)
	out[len(out)-1].grid[1] = uint32(o.KV.KVHeads)
	out[len(out)-1].grid[2] = uint32(s.segments)
	p.reads(parts, pos)
	p.writes(result)
	blocks := int64(o.Rows) * int64(o.Heads)
	return p.emit(out, kernelAttentionMerge, args, blocks, attentionThreads, 0)
}
