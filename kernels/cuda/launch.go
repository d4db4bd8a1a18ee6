//go:build cgo

package cuda

/*
#include "args.h"
#include "cublas.h"
*/
import "C"

import (
	"embed"
	"fmt"
	"math"
	"strings"
	"unsafe"

	"github.com/moering/moering/kernels"
)

// kernelID names a kernel.
type kernelID int

const (
	kernelAttention kernelID = iota
	kernelAttentionSplit
	kernelAttentionMerge
	kernelCombine
	kernelEmbed
	kernelGate
	kernelGatherRows
	kernelJoin
	kernelKVAppend
	kernelPrepare
	kernelRMSNorm
	kernelRoPE
	kernelRoute
	kernelSplit
	kernelProduct // the first of three a format: one, few, tile; few is not there for every format

	kernelCount = kernelProduct + 3*kernelID(len(productFormats))
)

var kernelNames = [kernelProduct]string{"mr_attention", "mr_attention_split", "mr_attention_merge",
	"mr_combine", "mr_embed", "mr_gate", "mr_gather_rows", "mr_join", "mr_kv_append", "mr_prepare",
	"mr_rms_norm", "mr_rope", "mr_route", "mr_split"}

var kernelModules = [kernelProduct]string{"attention", "attention", "attention", "combine", "embed",
	"expert_ffn", "gather_rows", "dense", "kv_append", "matmul", "rms_norm", "rope", "route", "dense"}

// name returns the kernel's entry in its module; "" for a number that no kernel has.
func (k kernelID) name() string {
	if k < kernelProduct {
		return kernelNames[k]
	}
	f, variant := k.product()
	if variant == variantFew && !productFormats[f].few {
		return ""
	}
	return "mr_product_" + productFormats[f].name + "_" + variantNames[variant]
}

// module returns the name of the module that holds the kernel.
func (k kernelID) module() string {
	if k < kernelProduct {
		return kernelModules[k]
	}
	f, _ := k.product()
	return "product_" + productFormats[f].name
}

func (k kernelID) product() (format, variant int) {
	return int(k-kernelProduct) / 3, int(k-kernelProduct) % 3
}

//go:embed ptx/*.ptx
var ptxFiles embed.FS

// modulePTX returns the text of a module, as cuModuleLoadData wants it but for the final zero.
func modulePTX(module string) (string, error) {
	text, err := ptxFiles.ReadFile("ptx/" + module + ".ptx")
	if err != nil {
		return "", fmt.Errorf("%w: module %s: %w", kernels.ErrDevice, module, err)
	}
	return strings.TrimRight(string(text), "\x00"), nil
}

// launch is one kernel launch.
type launch struct {
	kernel      kernelID
	grid, block [3]uint32
	shared      uint32 // dynamic shared memory, bytes; at most sharedBytesMax
	args        []byte // the kernel's argument structure of args.h; memory of the planner
	// plan makes it a product of cuBLASLt, whose arguments are a cublas_args; nil: a kernel.
	plan *C.cublas_plan
	// reads and writes are the memory that the kernel touches, scratch and uploads included, where
	// the planner declares them. Weights are read in units of 16 bytes, so up to 15 bytes before a
	// span may be read, and never used; and the rest of its last four bytes.
	reads, writes []kernels.Span
}

// sharedBytesMax is the dynamic shared memory that every GPU gives a block without being asked.
const sharedBytesMax = 48 << 10

// demand is what the planner needs to plan an op.
type demand struct {
	scratch int64 // bytes of device memory
	upload  int64 // bytes of the upload area
}

// planner turns ops into launches for one stream. It keeps the launches' arguments and spans in
// memory of its own, which reset takes back; in steady state it allocates nothing. The zero value
// works once scratch and upload are set. Not for concurrent use.
type planner struct {
	// scratch is device memory that the launches of one op hand values through; at least
	// demand.scratch bytes, aligned to 64. Ops of one stream share it, for they run one after
	// another.
	scratch kernels.Span
	// upload is host memory whose first used bytes the stream copies to uploaded before the
	// launches run. Both are of equal size and aligned to 64. Who resets used has seen the launches
	// end.
	upload   []byte
	uploaded kernels.Span
	used     int64
	// declare fills in the reads and writes of launches.
	declare bool
	// halves rounds the activations of products with 16-bit weights to bfloat16, unless Exact is
	// set.
	halves bool
	// dense are the shapes of which cuBLASLt has the products, with their plans; workspace is the
	// memory that it wants, 0 where there is none of it.
	dense     map[denseShape]*C.cublas_plan
	workspace int64

	words    []uint64 // arguments
	spans    []kernels.Span
	products []product
	marks    [2]int // where the spans of the launch under way begin: reads, writes
}

// reset takes back the memory of the launches planned so far.
func (p *planner) reset() { p.words, p.spans = p.words[:0], p.spans[:0] }

// need returns what plan will need for an op, or an error that wraps kernels.ErrDevice for an op
// that this device does not run. The op has passed kernels.Validate.
func (p *planner) need(op kernels.Op) (demand, error) {
	switch o := op.(type) {
	case *kernels.MatMul:
		return p.needMatMul(o)
	case *kernels.ExpertFFN:
		return p.needExpertFFN(o)
	case *kernels.Attention:
		return needAttention(o)
	case *kernels.KVAppend:
		return demand{}, checkKV(&o.KV)
	case *kernels.Combine:
		if o.TopK > sharedBytesMax/4 {
			return demand{}, fmt.Errorf("%w: Combine: TopK is %d, at most %d", kernels.ErrDevice,
				o.TopK, sharedBytesMax/4)
		}
	}
	return demand{}, nil
}

// plan appends the launches of an op, for which need has returned no error and scratch and upload
// have room.
func (p *planner) plan(op kernels.Op, out []launch) []launch {
	switch o := op.(type) {
	case *kernels.Embed:
		return p.embed(o, out)
	case *kernels.RMSNorm:
		return p.rmsNorm(o, out)
	case *kernels.MatMul:
		return p.matMul(o, out)
	case *kernels.RoPE:
		return p.rope(o, out)
	case *kernels.KVAppend:
		return p.kvAppend(o, out)
	case *kernels.Attention:
		return p.attention(o, out)
	case *kernels.Route:
		return p.route(o, out)
	case *kernels.ExpertFFN:
		return p.expertFFN(o, out)
	case *kernels.Combine:
		return p.combine(o, out)
	case *kernels.GatherRows:
		return p.gatherRows(o, out)
	}
	return out
}

// argsOf returns a zeroed argument structure of the planner's memory, and its bytes.
func argsOf[T any](p *planner) (*T, []byte) {
	var t T
	n := (int(unsafe.Sizeof(t)) + 7) / 8
	if len(p.words)+n > cap(p.words) { // launches planned before keep the old memory
		p.words = make([]uint64, 0, max(2*cap(p.words), n, 4096))
	}
	from := len(p.words)
	p.words = p.words[:from+n]
	clear(p.words[from:])
	at := unsafe.Pointer(&p.words[from])
	return (*T)(at), unsafe.Slice((*byte)(at), unsafe.Sizeof(t))
}

func deviceAddress(s kernels.Span) C.uint64_t { return C.uint64_t(s.Addr()) }

// reads and writes note the spans of the launch that follows; reads come first.
func (p *planner) reads(spans ...kernels.Span) {
	if p.declare {
		p.marks[0] = len(p.spans)
		p.note(spans...)
		p.marks[1] = len(p.spans)
	}
}

func (p *planner) writes(spans ...kernels.Span) {
	if p.declare {
		p.marks[1] = len(p.spans)
		p.note(spans...)
	}
}

func (p *planner) note(spans ...kernels.Span) {
	for _, s := range spans {
		if p.declare && s.Buffer != nil && s.Bytes > 0 {
			p.spans = append(p.spans, s)
		}
	}
}

// emit appends a launch of a one-dimensional grid with the spans noted.
func (p *planner) emit(out []launch, k kernelID, args []byte, blocks int64, threads uint32,
	shared int) []launch {
	l := launch{kernel: k, grid: [3]uint32{uint32(blocks), 1, 1}, block: [3]uint32{threads, 1, 1},
		shared: uint32(shared), args: args}
	if p.declare {
		from, middle, to := p.marks[0], p.marks[1], len(p.spans)
		l.reads, l.writes = p.spans[from:middle:middle], p.spans[middle:to:to]
	}
	return append(out, l)
}

func ceil(n, d int64) int64 { return (n + d - 1) / d }

// of returns the first n*m four-byte values of a span, which are what an op touches of it; the zero
// span stays as it is.
func of(s kernels.Span, n, m int) kernels.Span {
	if s.IsZero() {
		return s
	}
	return s.Slice(0, 4*int64(n)*int64(m))
}

// matrix returns the bytes of a weight that are read.
func matrix(w *kernels.Weight) kernels.Span {
	row, _ := w.Type.RowBytes(int64(w.Cols))
	return w.Data.Slice(0, row*int64(w.Rows))
}

func (p *planner) embed(o *kernels.Embed, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_embed_args](p)
	row, _ := o.Table.Type.RowBytes(int64(o.Table.Cols))
	a.table, a.ids, a.out = deviceAddress(o.Table.Data), deviceAddress(o.IDs), deviceAddress(o.Out)
	a.row_bytes, a._type = C.uint64_t(row), C.int32_t(o.Table.Type)
	a.vocabulary, a.dim = C.int32_t(o.Table.Rows), C.int32_t(o.Table.Cols)
	a.rows = C.int32_t(o.Rows)
	p.reads(matrix(&o.Table), of(o.IDs, o.Rows, 1))
	p.writes(of(o.Out, o.Rows, o.Table.Cols))
	const threads = 128
	blocks := ceil(int64(o.Rows)*ceil(int64(o.Table.Cols), 8), threads)
	return p.emit(out, kernelEmbed, args, blocks, threads, 0)
}

func (p *planner) rmsNorm(o *kernels.RMSNorm, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_rms_norm_args](p)
	a.x, a.gain, a.out = deviceAddress(o.X), deviceAddress(o.Gain), deviceAddress(o.Out)
	a.rows, a.dim, a.eps = C.int32_t(o.Rows), C.int32_t(o.Dim), C.float(o.Eps)
	p.reads(of(o.X, o.Rows, o.Dim), of(o.Gain, o.Dim, 1))
	p.writes(of(o.Out, o.Rows, o.Dim))
	return p.emit(out, kernelRMSNorm, args, int64(o.Rows), 256, 0)
}

// threadsMost is the block of the kernels that have an element a thread.
const threadsMost = 256

func (p *planner) rope(o *kernels.RoPE, out []launch) []launch {
	if o.Rows == 0 || o.Rotated == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_rope_args](p)
	a.x, a.cos, a.sin = deviceAddress(o.X), deviceAddress(o.Cos), deviceAddress(o.Sin)
	a.rows, a.heads = C.int32_t(o.Rows), C.int32_t(o.Heads)
	a.head_dim, a.rotated = C.int32_t(o.HeadDim), C.int32_t(o.Rotated)
	if o.Interleaved {
		a.interleaved = 1
	}
	x := of(o.X, o.Rows, o.Heads*o.HeadDim)
	p.reads(x, of(o.Cos, o.Rows, o.Rotated/2), of(o.Sin, o.Rows, o.Rotated/2))
	p.writes(x)
	pairs := int64(o.Rows) * int64(o.Heads) * int64(o.Rotated/2)
	return p.emit(out, kernelRoPE, args, ceil(pairs, threadsMost), threadsMost, 0)
}

func (p *planner) route(o *kernels.Route, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_route_args](p)
	a.logits, a.ids = deviceAddress(o.Logits), deviceAddress(o.IDs)
	a.weights = deviceAddress(o.Weights)
	a.rows, a.experts, a.top_k = C.int32_t(o.Rows), C.int32_t(o.Experts), C.int32_t(o.TopK)
	if o.Normalize {
		a.normalize = 1
	}
	p.reads(of(o.Logits, o.Rows, o.Experts))
	p.writes(of(o.IDs, o.Rows, o.TopK), of(o.Weights, o.Rows, o.TopK))
	return p.emit(out, kernelRoute, args, int64(o.Rows), 32, 0)
}

func (p *planner) combine(o *kernels.Combine, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_combine_args](p)
	a.x, a.shared = deviceAddress(o.X), deviceAddress(o.Shared)
	a.shared_gate = deviceAddress(o.SharedGate)
	a.rows, a.dim, a.top_k = C.int32_t(o.Rows), C.int32_t(o.Dim), C.int32_t(o.TopK)
	x := of(o.X, o.Rows, o.Dim)
	p.reads(x, of(o.Shared, o.Rows, o.Dim), of(o.SharedGate, o.Rows, 1))
	if o.TopK > 0 {
		a.y, a.ids, a.weights = deviceAddress(o.Y), deviceAddress(o.IDs), deviceAddress(o.Weights)
		p.note(of(o.Y, o.Rows*o.TopK, o.Dim), of(o.IDs, o.Rows, o.TopK),
			of(o.Weights, o.Rows, o.TopK))
	}
	p.writes(x)
	blocks := int64(o.Rows) * ceil(int64(o.Dim), threadsMost)
	return p.emit(out, kernelCombine, args, blocks, threadsMost, 4*o.TopK)
}

func (p *planner) gatherRows(o *kernels.GatherRows, out []launch) []launch {
	if o.Rows == 0 {
		return out
	}
	a, args := argsOf[C.struct_mr_cuda_gather_rows_args](p)
	from := min(o.X.Bytes/4/int64(o.Dim), math.MaxInt32)
	a.x, a.index, a.out = deviceAddress(o.X), deviceAddress(o.Index), deviceAddress(o.Out)
	a.from, a.rows, a.dim = C.int32_t(from), C.int32_t(o.Rows), C.int32_t(o.Dim)
	p.reads(of(o.X, int(from), o.Dim), of(o.Index, o.Rows, 1))
	p.writes(of(o.Out, o.Rows, o.Dim))
	blocks := ceil(int64(o.Rows)*int64(o.Dim), threadsMost)
	return p.emit(out, kernelGatherRows, args, blocks, threadsMost, 0)
}
