//go:build cgo

package cpu

/*
#include "cpu.h"
*/
import "C"

import (
	"unsafe"

	"github.com/moering/moering/kernels"
)

// chunkBytes is the least memory traffic worth handing to another thread: a few microseconds.
const chunkBytes = 16 << 10

// perChunk divides rows into chunks, several a thread so that a late one costs little.
func (s *stream) perChunk(rows, rowBytes int) (per, chunks int) {
	least := max(1, chunkBytes/max(rowBytes, 1))
	per = max(least, (rows+4*s.dev.info.Threads-1)/(4*s.dev.info.Threads))
	return per, (rows + per - 1) / per
}

// translate appends the tasks of a validated op.
func (s *stream) translate(op kernels.Op) error {
	switch o := op.(type) {
	case *kernels.Embed:
		s.embed(o)
	case *kernels.RMSNorm:
		s.rmsNorm(o)
	case *kernels.MatMul:
		return s.matMul(o)
	case *kernels.RoPE:
		s.rope(o)
	case *kernels.KVAppend:
		s.kvAppend(o)
	case *kernels.Attention:
		s.attention(o)
	case *kernels.Route:
		s.route(o)
	case *kernels.ExpertFFN:
		return s.expertFFN(o)
	case *kernels.Combine:
		s.combine(o)
	case *kernels.GatherRows:
		s.gatherRows(o)
	}
	return nil
}

func at(s kernels.Span) C.uintptr_t { return C.uintptr_t(s.Addr()) }

func n32(n int) C.int32_t { return C.int32_t(n) }

func (s *stream) embed(o *kernels.Embed) {
	if o.Rows == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 4*o.Table.Cols)
	table, _ := matrix(&o.Table)
	*add[C.embed_args](s.batch, C.K_EMBED, chunks) = C.embed_args{
		table: table, ids: at(o.IDs), out: at(o.Out), rows: n32(o.Rows), per_chunk: n32(per),
	}
}

func (s *stream) rmsNorm(o *kernels.RMSNorm) {
	if o.Rows == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 4*o.Dim)
	*add[C.norm_args](s.batch, C.K_NORM, chunks) = C.norm_args{
		x: at(o.X), out: at(o.Out), gain: at(o.Gain), rows: n32(o.Rows), dim: n32(o.Dim),
		per_chunk: n32(per), eps: C.float(o.Eps),
	}
}

func (s *stream) rope(o *kernels.RoPE) {
	if o.Rows == 0 || o.Rotated == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 4*o.Heads*o.HeadDim)
	a := add[C.rope_args](s.batch, C.K_ROPE, chunks)
	*a = C.rope_args{
		x: at(o.X), cos: at(o.Cos), sin: at(o.Sin), rows: n32(o.Rows), heads: n32(o.Heads),
		head_dim: n32(o.HeadDim), rotated: n32(o.Rotated), per_chunk: n32(per),
	}
	if o.Interleaved {
		a.interleaved = 1
	}
}

func cache(k *kernels.KV) C.kv_args {
	row, _ := kernels.CacheBytes(k.Type, int64(k.HeadDim)) // validated
	return C.kv_args{
		pool: at(k.Pool), tables: at(k.Tables),
		pages:      C.int64_t(k.Pool.Bytes / k.PageBytes),
		table_rows: C.int64_t(k.Tables.Bytes / 4 / int64(k.PagesMax)),
		page_bytes: C.int64_t(k.PageBytes),
		layer_at:   C.int64_t(int64(k.Layer) * k.LayerBytes()),
		row_bytes:  C.int64_t(row), _type: C.int32_t(k.Type),
		pages_max: n32(k.PagesMax), page_tokens: n32(k.PageTokens),
		kv_heads: n32(k.KVHeads), head_dim: n32(k.HeadDim),
	}
}

func (s *stream) kvAppend(o *kernels.KVAppend) {
	if o.Rows == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 8*o.KV.KVHeads*o.KV.HeadDim)
	*add[C.append_args](s.batch, C.K_APPEND, chunks) = C.append_args{
		kv: cache(&o.KV), k: at(o.K), v: at(o.V), seqs: at(o.Seqs), pos: at(o.Pos),
		rows: n32(o.Rows), per_chunk: n32(per),
	}
}

const (
	// attentionRows is how many rows of a prompt share the reads of keys and values.
	attentionRows = 16
	// attentionChunks a thread let threads end together, as the lengths of contexts, which are in
	// device memory, differ.
	attentionChunks = 8
)

// attention cuts the rows so finely that all threads have something to do; where there are too few
// rows and heads, the segments of a row's positions are shared out and merged by a second task.
func (s *stream) attention(o *kernels.Attention) {
	if o.Rows == 0 {
		return
	}
	threads, heads := s.dev.info.Threads, o.KV.KVHeads
	per := min(max(1, o.Rows*heads/(attentionChunks*threads)), attentionRows)
	chunks := (o.Rows + per - 1) / per * heads
	segments := (o.KV.PagesMax*o.KV.PageTokens-1)/C.ATTENTION_SEGMENT + 1
	parts := min(segments, (4*threads-1)/chunks+1)
	if threads == 1 {
		parts = 1
	}
	args := C.attention_args{
		kv: cache(&o.KV), q: at(o.Q), out: at(o.Out), seqs: at(o.Seqs), pos: at(o.Pos),
		rows: n32(o.Rows), heads: n32(o.Heads), window: n32(o.Window), per_chunk: n32(per),
		parts: n32(parts), segments: n32(segments), scale: C.float(o.Scale),
	}
	*add[C.attention_args](s.batch, C.K_ATTENTION, chunks*parts) = args
	if parts > 1 {
		s.needScratch(int64(o.Rows) * int64(o.Heads) * int64(segments) * 4 * int64(2+o.KV.HeadDim))
		*add[C.attention_args](s.batch, C.K_ATTENTION_MERGE, o.Rows) = args
	}
}

func (s *stream) route(o *kernels.Route) {
	if o.Rows == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 4*o.Experts*o.TopK)
	a := add[C.route_args](s.batch, C.K_ROUTE, chunks)
	*a = C.route_args{
		logits: at(o.Logits), ids: at(o.IDs), weights: at(o.Weights), rows: n32(o.Rows),
		experts: n32(o.Experts), top_k: n32(o.TopK), per_chunk: n32(per),
	}
	if o.Normalize {
		a.normalize = 1
	}
}

func (s *stream) combine(o *kernels.Combine) {
	if o.Rows == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 4*o.Dim*(o.TopK+1))
	*add[C.combine_args](s.batch, C.K_COMBINE, chunks) = C.combine_args{
		x: at(o.X), y: at(o.Y), ids: at(o.IDs), weights: at(o.Weights), shared: at(o.Shared),
		gate: at(o.SharedGate), rows: n32(o.Rows), dim: n32(o.Dim), top_k: n32(o.TopK),
		per_chunk: n32(per),
	}
}

func (s *stream) gatherRows(o *kernels.GatherRows) {
	if o.Rows == 0 {
		return
	}
	per, chunks := s.perChunk(o.Rows, 4*o.Dim)
	*add[C.gather_args](s.batch, C.K_GATHER, chunks) = C.gather_args{
		x: at(o.X), index: at(o.Index), out: at(o.Out),
		x_rows: C.int64_t(o.X.Bytes / 4 / int64(o.Dim)), rows: n32(o.Rows), dim: n32(o.Dim),
		per_chunk: n32(per),
	}
}

// copy splits long copies; spans that overlap are moved as one.
func (s *stream) copy(dst, src kernels.Span) {
	if dst.Bytes == 0 {
		return
	}
	const copyBytes = 256 << 10
	per := int64(copyBytes)
	d, f := dst.Addr(), src.Addr()
	if d < f+uintptr(src.Bytes) && f < d+uintptr(dst.Bytes) {
		per = dst.Bytes
	}
	const chunksMax = 1 << 30
	per = max(per, dst.Bytes/chunksMax)
	*add[C.copy_args](s.batch, C.K_COPY, int((dst.Bytes+per-1)/per)) = C.copy_args{
		dst: at(dst), src: at(src), bytes: C.int64_t(dst.Bytes), per_chunk: C.int64_t(per),
	}
}

// addressOf returns the address of a list in command memory.
func addressOf[T any](l []T) C.uintptr_t {
	return C.uintptr_t(uintptr(unsafe.Pointer(unsafe.SliceData(l))))
}
